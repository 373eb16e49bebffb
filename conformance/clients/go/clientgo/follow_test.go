package clientgo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/features"
	featuretesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	toolswatch "k8s.io/client-go/tools/watch"
)

// exchange is one request and the code it was answered with.
type exchange struct {
	method, query, body, accepts string
	code                         int
}

// recorder keeps what a client asked.
type recorder struct {
	next http.RoundTripper
	lock sync.Mutex
	all  []exchange
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(request)
	if err == nil {
		r.lock.Lock()
		defer r.lock.Unlock()
		r.all = append(r.all, exchange{request.Method, request.URL.RawQuery, request.Header.Get("Content-Type"), request.Header.Get("Accept"), response.StatusCode})
	}
	return response, err
}

func (r *recorder) seen() []exchange {
	r.lock.Lock()
	defer r.lock.Unlock()
	return slices.Clone(r.all)
}

// recorded is a configuration whose requests are kept.
func recorded() (*rest.Config, *recorder) {
	of, kept := rest.CopyConfig(config), &recorder{}
	of.Wrap(func(next http.RoundTripper) http.RoundTripper { kept.next = next; return kept })
	return of, kept
}

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

func TestInformersOfEveryClientBeginWithAStreamedList(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	for n := range 3 {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s-", n)}}
		if _, err := client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, informer := range map[string]func(*rest.Config) cache.SharedIndexInformer{
		"typed": func(of *rest.Config) cache.SharedIndexInformer {
			of.ContentType, of.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
			return informers.NewSharedInformerFactoryWithOptions(kubernetes.NewForConfigOrDie(of), 0, informers.WithNamespace(ns)).Core().V1().Secrets().Informer()
		},
		"dynamic": func(of *rest.Config) cache.SharedIndexInformer {
			return dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamic.NewForConfigOrDie(of), 0, ns, nil).ForResource(secrets).Informer()
		},
		"metadata": func(of *rest.Config) cache.SharedIndexInformer {
			return metadatainformer.NewFilteredSharedInformerFactory(metadata.NewForConfigOrDie(of), 0, ns, nil).ForResource(secrets).Informer()
		},
	} {
		t.Run(name, func(t *testing.T) {
			of, kept := recorded()
			informer := informer(of)
			go informer.Run(t.Context().Done())
			if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) || len(informer.GetStore().List()) != 3 {
				t.Fatalf("synced with %v", informer.GetStore().ListKeys())
			}
			for _, one := range kept.seen() {
				if !strings.Contains(one.query, "sendInitialEvents=true") {
					t.Errorf("a plain list or watch: %+v", one)
				}
			}
		})
	}
}

func TestAWatchGoesOnWhereTheServerEndedIt(t *testing.T) {
	client := typed("application/json")
	ns := namespace(t, client)
	maps := client.CoreV1().ConfigMaps(ns)
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var opened sync.Map
	short := int64(1)
	watcher, err := toolswatch.NewRetryWatcherWithContext(t.Context(), list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			opened.Store(time.Now(), options.ResourceVersion)
			options.TimeoutSeconds = &short
			return maps.Watch(ctx, options)
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	times := func() (n int) { opened.Range(func(any, any) bool { n++; return true }); return }
	for n := 0; times() < 3; n++ {
		name := fmt.Sprint("m-", n)
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		select {
		case event := <-watcher.ResultChan():
			if got, is := event.Object.(*corev1.ConfigMap); !is || event.Type != watch.Added && got.Name != name {
				t.Fatalf("%s %+v, expected %s", event.Type, event.Object, name)
			}
		case <-time.After(patience):
			t.Fatalf("%s does not come", name)
		}
	}
}

func TestOneLeaderFollowsAnother(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	elected := make(chan string, 10)
	run := func(name string) (context.CancelFunc, chan struct{}) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, ns, "lead", client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(ended)
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{Lock: lock, ReleaseOnCancel: true,
				LeaseDuration: 10 * time.Second, RenewDeadline: 5 * time.Second, RetryPeriod: 100 * time.Millisecond,
				Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { elected <- name }, OnStoppedLeading: func() {}}})
		}()
		return cancel, ended
	}
	next := func() string {
		select {
		case name := <-elected:
			return name
		case <-time.After(patience):
			t.Fatal("nobody leads")
			return ""
		}
	}
	stop, ended := run("first")
	if leads := next(); leads != "first" {
		t.Fatal(leads)
	}
	stopSecond, endedSecond := run("second")
	stop()
	<-ended
	if leads := next(); leads != "second" {
		t.Errorf("after the first: %s", leads)
	}
	lease, err := client.CoordinationV1().Leases(ns).Get(t.Context(), "lead", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "second" || *lease.Spec.LeaseTransitions < 1 {
		t.Errorf("lease: %v %+v", err, lease)
	}
	stopSecond()
	<-endedSecond
}

// Whatever discovery shows can be listed by the clients that know no types.
func TestEveryResourceOfDiscoveryIsListedByEveryClient(t *testing.T) {
	aggregated := discovery.NewDiscoveryClientForConfigOrDie(config)
	plain := discovery.NewDiscoveryClientForConfigOrDie(config)
	plain.UseLegacyDiscovery = true
	served := map[string][]metav1.APIResource{}
	for name, client := range map[string]*discovery.DiscoveryClient{"aggregated": aggregated, "plain": plain} {
		_, lists, err := client.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range lists {
			served[name+" "+list.GroupVersion] = list.APIResources
		}
	}
	objects, metas := dynamic.NewForConfigOrDie(config), metadata.NewForConfigOrDie(config)
	tables, listed := 0, 0
	for name, resources := range served {
		version, is := strings.CutPrefix(name, "plain ")
		if !is {
			continue
		}
		of, err := schema.ParseGroupVersion(version)
		if err != nil {
			t.Fatal(err)
		}
		if twin := served["aggregated "+version]; !same(twin, resources) {
			t.Errorf("%s differs between the two forms of discovery: %v %v", version, names(resources), names(twin))
		}
		for _, resource := range resources {
			if !slices.Contains(resource.Verbs, "list") {
				continue
			}
			listed++
			list, err := objects.Resource(of.WithResource(resource.Name)).List(t.Context(), metav1.ListOptions{Limit: 2})
			if err != nil || list.GetKind() != resource.Kind+"List" {
				t.Errorf("%s %s: %v %v", version, resource.Name, err, list)
				continue
			}
			if resource.Name == "componentstatuses" {
				continue
			}
			if _, err := metas.Resource(of.WithResource(resource.Name)).List(t.Context(), metav1.ListOptions{Limit: 2}); err != nil {
				t.Errorf("metadata of %s %s: %v", version, resource.Name, err)
			}
			table, err := rowsOf(t.Context(), of, resource.Name)
			if err != nil || table.Kind != "Table" || len(table.ColumnDefinitions) == 0 {
				t.Errorf("table of %s %s: %v", version, resource.Name, err)
				continue
			}
			tables++
		}
	}
	if listed < 50 || tables < 50 {
		t.Errorf("%d listed, %d tables", listed, tables)
	}
}

func names(resources []metav1.APIResource) (all []string) {
	for _, resource := range resources {
		all = append(all, resource.Name)
	}
	slices.Sort(all)
	return
}

func same(a, b []metav1.APIResource) bool { return slices.Equal(names(a), names(b)) }

func rowsOf(ctx context.Context, of schema.GroupVersion, resource string) (*metav1.Table, error) {
	root := "/apis/" + of.String()
	if of.Group == "" {
		root = "/api/" + of.Version
	}
	table := &metav1.Table{}
	client := typed("application/json").Discovery().RESTClient()
	body, err := client.Get().AbsPath(root, resource).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	return table, json.Unmarshal(body, table)
}

// The server's gate of CBOR is alpha and off, as upstream's: clients that prefer it are told 415 once and go on in JSON.
func TestClientsThatPreferCBORGoOnInJSON(t *testing.T) {
	featuretesting.SetFeatureDuringTest(t, features.ClientsAllowCBOR, true)
	featuretesting.SetFeatureDuringTest(t, features.ClientsPreferCBOR, true)
	ns := namespace(t, typed("application/json"))
	of, kept := recorded()
	maps := dynamic.NewForConfigOrDie(of).Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(ns)
	object := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}}}
	}
	create := func() error {
		_, err := maps.Create(t.Context(), object("made"), metav1.CreateOptions{})
		return err
	}
	if err := create(); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("the first is refused: %v", err)
	}
	if err := create(); err != nil {
		t.Errorf("the second is not: %v", err)
	}
	// Of applied objects client-go learns nothing.
	if _, err := maps.Apply(t.Context(), "applied", object("applied"), metav1.ApplyOptions{FieldManager: "cbor"}); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("applied: %v", err)
	}
	if list, err := maps.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("listed: %v", err)
	}
	all := kept.seen()
	refused := func(one exchange) bool {
		return strings.HasSuffix(one.body, "cbor") && one.code == http.StatusUnsupportedMediaType
	}
	if len(all) != 4 || !refused(all[0]) || refused(all[1]) || !refused(all[2]) || !strings.Contains(all[3].accepts, "application/cbor") {
		t.Errorf("asked: %+v", all)
	}
}
