package clientgo_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1apply "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
)

// web is a deployment as its owner wants it.
func web(image string) *appsv1apply.DeploymentApplyConfiguration {
	app := map[string]string{"app": "web"}
	container := corev1apply.Container().WithName("c").WithImage(image).
		WithPorts(corev1apply.ContainerPort().WithName("http").WithContainerPort(80)).
		WithEnv(corev1apply.EnvVar().WithName("A").WithValue("1"), corev1apply.EnvVar().WithName("B").WithValue("2"))
	return appsv1apply.Deployment("web", "").WithSpec(appsv1apply.DeploymentSpec().WithReplicas(2).
		WithSelector(metav1apply.LabelSelector().WithMatchLabels(app)).
		WithTemplate(corev1apply.PodTemplateSpec().WithLabels(app).WithSpec(corev1apply.PodSpec().WithContainers(container))))
}

func TestTypedConfigurationsAreAppliedOwnedAndTakenBack(t *testing.T) {
	client := typed("application/vnd.kubernetes.protobuf")
	ns := namespace(t, client)
	deployments := client.AppsV1().Deployments(ns)
	apply := func(of *appsv1apply.DeploymentApplyConfiguration, owner string, force bool) (*appsv1.Deployment, error) {
		return deployments.Apply(t.Context(), of.WithNamespace(ns), metav1.ApplyOptions{FieldManager: owner, Force: force})
	}
	made, err := apply(web("registry.example/web:1"), "owner", false)
	if err != nil {
		t.Fatal(err)
	}
	owned, err := appsv1apply.ExtractDeployment(made, "owner")
	if err != nil || *owned.Spec.Replicas != 2 || len(owned.Spec.Template.Spec.Containers[0].Env) != 2 || owned.Spec.Strategy != nil {
		t.Fatalf("what was applied is what is owned, defaults are not: %v %+v", err, owned)
	}
	scaler := appsv1apply.Deployment("web", "").WithSpec(appsv1apply.DeploymentSpec().WithReplicas(5))
	_, err = apply(scaler, "scaler", false)
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) ||
		!strings.Contains(err.Error(), `conflict with "owner": .spec.replicas`) {
		t.Errorf("a conflict names owner and field: %v", err)
	}
	if taken, err := apply(scaler, "scaler", true); err != nil || *taken.Spec.Replicas != 5 {
		t.Errorf("by force: %v", err)
	}
	// The owner gives up what it no longer names: one variable goes, the replicas stay with who took them.
	rest := web("registry.example/web:2")
	rest.Spec.Replicas = nil
	rest.Spec.Template.Spec.Containers[0].Env = rest.Spec.Template.Spec.Containers[0].Env[:1]
	left, err := apply(rest, "owner", false)
	if err != nil {
		t.Fatal(err)
	}
	container := left.Spec.Template.Spec.Containers[0]
	if *left.Spec.Replicas != 5 || container.Image != "registry.example/web:2" || len(container.Env) != 1 || len(container.Ports) != 1 {
		t.Errorf("left: %+v", left.Spec)
	}
	same, err := apply(rest, "owner", false)
	if err != nil || same.ResourceVersion != left.ResourceVersion {
		t.Errorf("the same again changes nothing: %v", err)
	}
	status := appsv1apply.Deployment("web", ns).WithStatus(appsv1apply.DeploymentStatus().WithConditions(appsv1apply.DeploymentCondition().
		WithType(appsv1.DeploymentAvailable).WithStatus(corev1.ConditionTrue).WithReason("Tested")))
	told, err := deployments.ApplyStatus(t.Context(), status, metav1.ApplyOptions{FieldManager: "teller"})
	if err != nil || len(told.Status.Conditions) != 1 || told.Generation != left.Generation {
		t.Fatalf("status: %v %+v", err, told)
	}
	fields, err := appsv1apply.ExtractDeploymentStatus(told, "teller")
	if err != nil || len(fields.Status.Conditions) != 1 || fields.Spec != nil {
		t.Errorf("owned of the status: %v %+v", err, fields)
	}
}

func TestListsOfServicesAndPodsMergeByTheirKeys(t *testing.T) {
	client := typed("application/json")
	ns := namespace(t, client)
	services := client.CoreV1().Services(ns)
	port := func(name string, number int32) *corev1apply.ServicePortApplyConfiguration {
		return corev1apply.ServicePort().WithName(name).WithPort(number).WithTargetPort(intstr.FromString(name)).WithProtocol(corev1.ProtocolTCP)
	}
	for owner, of := range map[string]*corev1apply.ServicePortApplyConfiguration{"one": port("http", 80), "two": port("https", 443)} {
		config := corev1apply.Service("s", ns).WithSpec(corev1apply.ServiceSpec().WithPorts(of))
		if _, err := services.Apply(t.Context(), config, metav1.ApplyOptions{FieldManager: owner}); err != nil {
			t.Fatal(err)
		}
	}
	both, err := services.Get(t.Context(), "s", metav1.GetOptions{})
	if err != nil || len(both.Spec.Ports) != 2 || both.Spec.ClusterIP == "" {
		t.Fatalf("both ports: %v %+v", err, both.Spec)
	}
	one, err := services.Apply(t.Context(), corev1apply.Service("s", ns).WithLabels(map[string]string{"a": "b"}), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil || len(one.Spec.Ports) != 1 || one.Spec.Ports[0].Name != "https" {
		t.Errorf("one port is given up: %v %+v", err, one.Spec.Ports)
	}
	update := one.DeepCopy()
	update.Spec.Ports[0].Port = 8443
	if update, err = services.Update(t.Context(), update, metav1.UpdateOptions{FieldManager: "editor"}); err != nil {
		t.Fatal(err)
	}
	_, err = services.Apply(t.Context(), corev1apply.Service("s", ns).WithSpec(corev1apply.ServiceSpec().WithPorts(port("http", 8443))),
		metav1.ApplyOptions{FieldManager: "three"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `.spec.ports[port=8443,protocol="TCP"].name`) {
		t.Errorf("an updater's item is owned, too: %v", err)
	}
}
