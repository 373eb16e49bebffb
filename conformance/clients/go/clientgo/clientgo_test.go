// Package clientgo_test drives an API server with the clients of client-go: typed over protobuf, dynamic, metadata-only, discovery, scale.
package clientgo_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	appsv1apply "k8s.io/client-go/applyconfigurations/apps/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

var config *rest.Config

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	environment := &envtest.Environment{}
	var err error
	if config, err = environment.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "the environment does not start:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := environment.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "the environment does not stop:", err)
		code = 1
	}
	os.Exit(code)
}

// typed is a client that speaks a media type in both directions.
func typed(mediaType string) kubernetes.Interface {
	of := rest.CopyConfig(config)
	of.ContentType = mediaType
	of.AcceptContentTypes = mediaType + ",application/json"
	return kubernetes.NewForConfigOrDie(of)
}

func namespace(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	made, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "client-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Name
}

func deployment(name string) *appsv1.Deployment {
	app := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: app}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/c:1"}}}}}}
}

func TestTypedClientsWriteReadAndWatchInEveryEncoding(t *testing.T) {
	for _, mediaType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(strings.ReplaceAll(mediaType, "/", "-"), func(t *testing.T) {
			client := typed(mediaType)
			ns := namespace(t, client)
			deployments := client.AppsV1().Deployments(ns)
			watcher, err := deployments.Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
			if err != nil {
				t.Fatal(err)
			}
			defer watcher.Stop()
			made, err := deployments.Create(t.Context(), deployment("web"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if *made.Spec.Replicas != 1 || made.Spec.Template.Spec.DNSPolicy != corev1.DNSClusterFirst {
				t.Errorf("defaults are missing: %+v", made.Spec)
			}
			if _, err := deployments.Create(t.Context(), deployment("other"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"registry.example/c:2"}]}}}}`)
			patched, err := deployments.Patch(t.Context(), "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			if err != nil || patched.Generation != 2 || patched.Spec.Template.Spec.Containers[0].Image != "registry.example/c:2" {
				t.Fatalf("patched: %v %+v", err, patched)
			}
			err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
				now, err := deployments.Get(t.Context(), "web", metav1.GetOptions{})
				if err != nil {
					return err
				}
				now.Status.Replicas = 1
				_, err = deployments.UpdateStatus(t.Context(), now, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := deployments.Delete(t.Context(), "web", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &made.UID}}); err != nil {
				t.Fatal(err)
			}
			for n, expected := range []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Deleted} {
				select {
				case event := <-watcher.ResultChan():
					object, is := event.Object.(*appsv1.Deployment)
					if event.Type != expected || !is || object.Name != "web" {
						t.Fatalf("event %d: %s %T", n, event.Type, event.Object)
					}
				case <-time.After(patience):
					t.Fatalf("event %d does not come", n)
				}
			}
		})
	}
}

func TestErrorsAreWhatClientsTellApart(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	maps := client.CoreV1().ConfigMaps(ns)
	made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, exists := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	_, missing := maps.Get(t.Context(), "b", metav1.GetOptions{})
	_, invalid := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Not A Name"}}, metav1.CreateOptions{})
	made.ResourceVersion = "1"
	_, conflict := maps.Update(t.Context(), made, metav1.UpdateOptions{})
	_, old := maps.List(t.Context(), metav1.ListOptions{Continue: "nonsense"})
	for name, right := range map[string]bool{
		"AlreadyExists": apierrors.IsAlreadyExists(exists), "NotFound": apierrors.IsNotFound(missing), "Invalid": apierrors.IsInvalid(invalid),
		"Conflict": apierrors.IsConflict(conflict), "BadRequest": apierrors.IsBadRequest(old),
	} {
		if !right {
			t.Errorf("%s is not told: %v %v %v %v %v", name, exists, missing, invalid, conflict, old)
		}
	}
}

func TestListsComeInPagesThatBelongTogether(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	for n := range 7 {
		if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m-", n)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	first, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{Limit: 3})
	if err != nil || len(first.Items) != 3 || first.Continue == "" || *first.RemainingItemCount < 4 {
		t.Fatalf("first page: %v %+v", err, first.ListMeta)
	}
	if err := client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "m-6", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rest, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{Continue: first.Continue})
	if err != nil || len(rest.Items) != 4 || rest.ResourceVersion != first.ResourceVersion {
		t.Errorf("the rest is of the same moment: %v %d %s %s", err, len(rest.Items), rest.ResourceVersion, first.ResourceVersion)
	}
	seen := 0
	pages := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (object runtime.Object, err error) {
		return client.CoreV1().ConfigMaps(ns).List(t.Context(), options)
	}))
	pages.PageSize = 2
	if err := pages.EachListItem(t.Context(), metav1.ListOptions{}, func(runtime.Object) error { seen++; return nil }); err != nil || seen != 6 {
		t.Errorf("by pages: %v %d", err, seen)
	}
}

func TestInformersSeeEverythingOnceAndFollow(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
	informer := factory.Core().V1().Secrets()
	seen := make(chan string, 100)
	if _, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { seen <- "add " + object.(*corev1.Secret).Name },
		UpdateFunc: func(_, object any) { seen <- "update " + object.(*corev1.Secret).Name },
		DeleteFunc: func(object any) { seen <- "delete " + object.(metav1.Object).GetName() },
	}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "before"}, StringData: map[string]string{"a": "b"}}
	if _, err := client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	if !cache.WaitForCacheSync(t.Context().Done(), informer.Informer().HasSynced) {
		t.Fatal("the informer does not sync")
	}
	secret.Name = "after"
	made, err := client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Labels = map[string]string{"x": "y"}
	if _, err := client.CoreV1().Secrets(ns).Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Secrets(ns).Delete(t.Context(), "after", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, expected := range []string{"add before", "add after", "update after", "delete after"} {
		select {
		case got := <-seen:
			if got != expected {
				t.Fatalf("%q, expected %q", got, expected)
			}
		case <-time.After(patience):
			t.Fatalf("%q does not come", expected)
		}
	}
	if found, err := informer.Lister().Secrets(ns).List(labels.Everything()); err != nil || len(found) != 1 || string(found[0].Data["a"]) != "b" {
		t.Errorf("in the cache: %v %v", err, found)
	}
}

func TestSubresourcesAreWhatTheClientsExpect(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	if _, err := client.AppsV1().Deployments(ns).Create(t.Context(), deployment("web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}
	scaled, err := client.AppsV1().Deployments(ns).UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{})
	if err != nil || scaled.Spec.Replicas != 4 || scaled.Status.Selector != "app=web" {
		t.Errorf("scale: %v %+v", err, scaled)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "p"}}, Spec: deployment("p").Spec.Template.Spec}
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := client.CoreV1().Pods(ns).Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Errorf("binding: %v", err)
	}
	found, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", "n").String()})
	if err != nil || len(found.Items) != 1 {
		t.Errorf("by node: %v %d", err, len(found.Items))
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}}
	if err := client.CoreV1().Pods(ns).EvictV1(t.Context(), eviction); err != nil {
		t.Errorf("eviction: %v", err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}
	if _, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:"+ns+":robot" {
		t.Errorf("token review: %v %+v", err, review.Status)
	}
	access, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "delete", Resource: "nodes"}}}, metav1.CreateOptions{})
	if err != nil || !access.Status.Allowed {
		t.Errorf("access review: %v", err)
	}
}

func TestApplyConfigurationsAndDynamicClientsShareAnObject(t *testing.T) {
	client := typed("application/json")
	ns := namespace(t, client)
	of := deployment("web")
	apply, err := appsv1apply.ExtractDeployment(of, "test")
	if err != nil {
		t.Fatal(err)
	}
	if apply.Spec != nil {
		t.Fatal("nothing is owned before it is applied")
	}
	if _, err := client.AppsV1().Deployments(ns).Create(t.Context(), of, metav1.CreateOptions{FieldManager: "test"}); err != nil {
		t.Fatal(err)
	}
	gvr := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	objects := dynamic.NewForConfigOrDie(config).Resource(gvr).Namespace(ns)
	body := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "web"}, "spec": map[string]any{"replicas": int64(3)}}}
	applied, err := objects.Apply(t.Context(), "web", body, metav1.ApplyOptions{FieldManager: "dynamic", Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if replicas, _, _ := unstructured.NestedInt64(applied.Object, "spec", "replicas"); replicas != 3 || len(applied.GetManagedFields()) != 2 {
		t.Errorf("applied: %v", applied.Object)
	}
	metas := metadata.NewForConfigOrDie(config).Resource(gvr).Namespace(ns)
	list, err := metas.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "web" {
		t.Errorf("metadata: %v", err)
	}
	if err := objects.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=web"}); err != nil {
		t.Error(err)
	}
}

func TestDiscoveryAndOpenAPIAreReadByTheirClients(t *testing.T) {
	client := discovery.NewDiscoveryClientForConfigOrDie(config)
	groups, resources, failed, err := client.GroupsAndMaybeResources()
	if err != nil || len(failed) != 0 || len(groups.Groups) < 20 || resources[schema.GroupVersion{Version: "v1"}] == nil {
		t.Fatalf("aggregated discovery: %v %v", err, failed)
	}
	plain := discovery.NewDiscoveryClientForConfigOrDie(config)
	plain.UseLegacyDiscovery = true
	if _, lists, err := plain.ServerGroupsAndResources(); err != nil || len(lists) < 20 {
		t.Errorf("plain discovery: %v", err)
	}
	version, err := client.ServerVersion()
	if err != nil || version.Major != "1" || !strings.HasPrefix(version.GitVersion, "v1.") {
		t.Errorf("version: %v %v", err, version)
	}
	document, err := client.OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, definition := range document.Definitions.AdditionalProperties {
		found[definition.Name] = true
	}
	if !found["io.k8s.api.core.v1.Pod"] || !found["io.k8s.api.apps.v1.Deployment"] || len(document.Paths.Path) < 200 {
		t.Errorf("version 2 as protobuf: %d definitions, %d paths", len(found), len(document.Paths.Path))
	}
	root := openapi3.NewRoot(client.OpenAPIV3())
	spec, err := root.GVSpec(schema.GroupVersion{Group: "apps", Version: "v1"})
	if err != nil || spec.Components.Schemas["io.k8s.api.apps.v1.Deployment"] == nil {
		t.Errorf("version 3: %v", err)
	}
}
