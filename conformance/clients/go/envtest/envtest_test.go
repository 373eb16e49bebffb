// Package envtest_test is an operator as people write them, under the test environment of controller-runtime. KUBEBUILDER_ASSETS names a
// folder with kube-apiserver, etcd and kubectl; the same tests pass with upstream's.
package envtest_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

var (
	config      *rest.Config
	environment *envtest.Environment
	kind        = schema.GroupVersionKind{Group: "test.coracle.example", Version: "v1", Kind: "Gadget"}
)

const (
	finalizer = "test.coracle.example/tidy"
	patience  = 30 * time.Second
)

func TestMain(m *testing.M) {
	log.SetLogger(zap.New())
	environment = &envtest.Environment{CRDDirectoryPaths: []string{"crd.yaml"}, ErrorIfCRDPathMissing: true}
	started := time.Now()
	var err error
	if config, err = environment.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "the environment does not start:", err)
		os.Exit(1)
	}
	fmt.Printf("environment ready with its CRD after %v\n", time.Since(started))
	code := m.Run()
	stopping := time.Now()
	if err := environment.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "the environment does not stop:", err)
		code = 1
	}
	fmt.Printf("environment stopped after %v\n", time.Since(stopping))
	os.Exit(code)
}

// gadget is a custom object of the CRD.
func gadget(namespace, name string, size int64) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"size": size}}}
	object.SetGroupVersionKind(kind)
	object.SetNamespace(namespace)
	object.SetName(name)
	return object
}

// reconciler makes as many config maps as a gadget's size says and tells so in its status.
type reconciler struct{ client.Client }

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	if err := r.Get(ctx, request.NamespacedName, object); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !object.GetDeletionTimestamp().IsZero() {
		if err := r.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(object.GetNamespace()),
			client.MatchingLabels{"gadget": object.GetName()}); err != nil {
			return ctrl.Result{}, err
		}
		controllerutil.RemoveFinalizer(object, finalizer)
		return ctrl.Result{}, r.Update(ctx, object)
	}
	if controllerutil.AddFinalizer(object, finalizer) {
		return ctrl.Result{}, r.Update(ctx, object)
	}
	size, _, _ := unstructured.NestedInt64(object.Object, "spec", "size")
	for n := range size {
		owner := metav1apply.OwnerReference().WithAPIVersion(kind.GroupVersion().String()).WithKind(kind.Kind).
			WithName(object.GetName()).WithUID(object.GetUID()).WithController(true)
		part := corev1apply.ConfigMap(fmt.Sprintf("%s-%d", object.GetName(), n), object.GetNamespace()).
			WithLabels(map[string]string{"gadget": object.GetName()}).WithData(map[string]string{"n": fmt.Sprint(n)}).WithOwnerReferences(owner)
		if err := r.Apply(ctx, part, client.FieldOwner("gadgets"), client.ForceOwnership); err != nil {
			return ctrl.Result{}, err
		}
	}
	before := object.DeepCopy()
	conditions := []any{map[string]any{"type": "Ready", "status": "True", "reason": "Made", "observedGeneration": object.GetGeneration()}}
	_ = unstructured.SetNestedField(object.Object, size, "status", "made")
	_ = unstructured.SetNestedSlice(object.Object, conditions, "status", "conditions")
	return ctrl.Result{}, r.Status().Patch(ctx, object, client.MergeFrom(before))
}

// eventually waits until a condition holds; the last reason it did not is told.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	var why error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if why = condition(); why == nil {
			return
		}
	}
	t.Fatalf("not within %v: %s: %v", patience, what, why)
}

func newNamespace(t *testing.T, direct client.Client) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "gadgets-"}}
	if err := direct.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}

func newClient(t *testing.T, of *rest.Config) client.Client {
	t.Helper()
	direct, err := client.New(of, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return direct
}

func TestACustomResourceIsServedOnceItsDefinitionIsInstalled(t *testing.T) {
	list, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerResourcesForGroupVersion(kind.GroupVersion().String())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, resource := range list.APIResources {
		names[resource.Name] = true
	}
	if !names["gadgets"] || !names["gadgets/status"] {
		t.Fatalf("served: %v", names)
	}
	direct := newClient(t, config)
	namespace := newNamespace(t, direct)
	object := gadget(namespace, "plain", 2)
	if err := direct.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	if color, _, _ := unstructured.NestedString(object.Object, "spec", "color"); color != "grey" {
		t.Errorf("default of color: %q", color)
	}
	err = direct.Create(t.Context(), gadget(namespace, "small", 0))
	if !apierrors.IsInvalid(err) {
		t.Errorf("a size below the minimum must be invalid: %v", err)
	}
	if _, err := newClient(t, config).RESTMapper().RESTMapping(kind.GroupKind()); err != nil {
		t.Error(err)
	}
}

func TestAControllerReconcilesFinalizesAndTellsItsStatus(t *testing.T) {
	manager, err := ctrl.NewManager(config, ctrl.Options{Metrics: server.Options{BindAddress: "0"}, LeaderElection: true,
		LeaderElectionID: "gadgets", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true})
	if err != nil {
		t.Fatal(err)
	}
	watched := &unstructured.Unstructured{}
	watched.SetGroupVersionKind(kind)
	if err := ctrl.NewControllerManagedBy(manager).For(watched).Owns(&corev1.ConfigMap{}).Complete(&reconciler{manager.GetClient()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	}()
	direct := newClient(t, config)
	namespace := newNamespace(t, direct)
	object := gadget(namespace, "g", 2)
	if err := direct.Create(ctx, object); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(object)
	eventually(t, "the status tells two parts", func() error {
		if err := direct.Get(ctx, key, object); err != nil {
			return err
		}
		if made, _, _ := unstructured.NestedInt64(object.Object, "status", "made"); made != 2 {
			return fmt.Errorf("made %d", made)
		}
		return nil
	})
	if object.GetGeneration() != 1 {
		t.Errorf("neither status nor finalizers count as a generation: %d", object.GetGeneration())
	}
	_ = unstructured.SetNestedField(object.Object, int64(3), "spec", "size")
	if err := direct.Update(ctx, object); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a part that somebody deleted is made again", func() error {
		part := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "g-1"}}
		return direct.Delete(ctx, part)
	})
	eventually(t, "three parts", func() error {
		list := &corev1.ConfigMapList{}
		if err := direct.List(ctx, list, client.InNamespace(namespace), client.MatchingLabels{"gadget": "g"}); err != nil {
			return err
		}
		if len(list.Items) != 3 {
			return fmt.Errorf("%d parts", len(list.Items))
		}
		return nil
	})
	if err := direct.Delete(ctx, object); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the finalizer is taken away and the object is gone", func() error {
		if err := direct.Get(ctx, key, object); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}

func TestAppliedFieldsHaveOwnersAndNothingNewIsNoChange(t *testing.T) {
	direct := newClient(t, config)
	namespace := newNamespace(t, direct)
	apply := func(owner, value string, options ...client.ApplyOption) error {
		object := corev1apply.ConfigMap("shared", namespace).WithData(map[string]string{"key": value})
		return direct.Apply(t.Context(), object, append(options, client.FieldOwner(owner))...)
	}
	if err := apply("one", "a"); err != nil {
		t.Fatal(err)
	}
	object := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: namespace, Name: "shared"}
	version := func() string {
		if err := direct.Get(t.Context(), key, object); err != nil {
			t.Fatal(err)
		}
		return object.ResourceVersion
	}
	before := version()
	if err := apply("one", "a"); err != nil || version() != before {
		t.Errorf("applying the same again must not change the object: %v", err)
	}
	if err := apply("two", "b"); !apierrors.IsConflict(err) {
		t.Errorf("another owner's field must be a conflict: %v", err)
	}
	if err := apply("two", "b", client.ForceOwnership); err != nil || version() == before || object.Data["key"] != "b" {
		t.Errorf("force takes it: %v %v", err, object.Data)
	}
	stale := object.DeepCopy()
	stale.ResourceVersion = before
	if err := direct.Update(t.Context(), stale); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version must be a conflict: %v", err)
	}
}

func TestUsersHaveTheRightsTheyAreGiven(t *testing.T) {
	user, err := environment.AddUser(envtest.User{Name: "reader", Groups: []string{"readers"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reader := newClient(t, user.Config())
	if err := reader.List(t.Context(), &corev1.SecretList{}); !apierrors.IsForbidden(err) {
		t.Errorf("nobody allowed it: %v", err)
	}
	who := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}}
	if err := reader.Create(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	if name, _, _ := unstructured.NestedString(who.Object, "status", "userInfo", "username"); name != "reader" {
		t.Errorf("who am I: %q", name)
	}
}

func TestKnownKindsOfTheEnvironmentWorkWithoutControllers(t *testing.T) {
	direct := newClient(t, config)
	namespace := newNamespace(t, direct)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/c"}}}}
	if err := direct.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	if err := direct.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	partial := &metav1.PartialObjectMetadata{}
	partial.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	if err := direct.Get(t.Context(), client.ObjectKeyFromObject(pod), partial); err != nil || partial.Name != "p" {
		t.Errorf("metadata alone: %v", err)
	}
	if err := direct.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if err := direct.Create(t.Context(), service); err != nil || service.Spec.ClusterIP == "" {
		t.Errorf("a service without an address: %v", err)
	}
	var _ runtime.Object = service
	if !meta.IsNoMatchError(direct.Create(t.Context(), unknownKind(namespace))) {
		t.Error("a kind nobody serves must not match")
	}
}

func unknownKind(namespace string) client.Object {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "nobody.example", Version: "v1", Kind: "Nothing"})
	object.SetNamespace(namespace)
	object.SetName("n")
	return object
}

// With --controllers, what no other test environment does: namespaces go away, owned objects are collected, deployments make pods.
func TestControllersRunWhenAskedFor(t *testing.T) {
	if os.Getenv("CORACLE_TEST") == "" {
		t.Skip("only this kube-apiserver runs controllers")
	}
	with := &envtest.Environment{}
	with.ControlPlane.GetAPIServer().Configure().Append("controllers", "*").Append("hollow-nodes", "1").Set("disable-admission-plugins")
	of, err := with.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := with.Stop(); err != nil {
			t.Error(err)
		}
	}()
	direct := newClient(t, of)
	namespace := newNamespace(t, direct)
	eventually(t, "the default account", func() error {
		return direct.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "default"}, &corev1.ServiceAccount{})
	})
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owner"}}
	if err := direct.Create(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owned",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}}}}
	if err := direct.Create(t.Context(), owned); err != nil {
		t.Fatal(err)
	}
	if err := direct.Delete(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the owned object is collected", func() error {
		if err := direct.Get(t.Context(), client.ObjectKeyFromObject(owned), owned); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/c"}}}}
	if err := direct.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod runs on the hollow node", func() error {
		if err := direct.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("%s", pod.Status.Phase)
		}
		return nil
	})
	gone := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := direct.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace goes away", func() error {
		if err := direct.Get(t.Context(), client.ObjectKeyFromObject(gone), gone); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}
