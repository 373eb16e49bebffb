//! Workloads on nodes without containers: what controllers, scheduler and agent do together, told by kubectl.

use crate::cluster::Cluster;

const WEB: &str = "--image=registry.example/web:1";

#[test]
fn a_deployment_rolls_out_scales_updates_undoes_and_goes() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=2", "--store=memory"]);
    cluster.ok(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
    cluster.ok(&["create", "namespace", "shop"]);
    cluster.ok(&["-n", "shop", "create", "deployment", "web", WEB, "--replicas=3"]);
    cluster.ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.ok(&["-n", "shop", "scale", "deployment/web", "--replicas=5"]);
    cluster.ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.ok(&["-n", "shop", "set", "image", "deployment/web", "web=registry.example/web:2"]);
    cluster.ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
    let images = ["-n", "shop", "get", "deployment/web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"];
    assert_eq!(cluster.ok(&images), "registry.example/web:2");
    cluster.ok(&["-n", "shop", "rollout", "undo", "deployment/web"]);
    cluster.ok(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(cluster.ok(&images), "registry.example/web:1");
    let wide = cluster.ok(&["-n", "shop", "get", "pods", "-o", "wide", "--no-headers"]);
    assert_eq!(wide.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count(), 5, "{wide}");
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"] {
        cluster.until(reason, |cluster| cluster.ok(&["-n", "shop", "get", "events"]).contains(reason));
    }
    cluster.ok(&["delete", "namespace", "shop", "--timeout=60s"]);
    cluster.until("the namespace is gone", |cluster| cluster.kubectl(&["get", "namespace", "shop"]).is_err());
}

#[test]
fn a_service_has_the_addresses_of_ready_pods() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=1", "--store=memory"]);
    cluster.ok(&["create", "deployment", "web", WEB, "--replicas=2"]);
    cluster.ok(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]);
    let addresses =
        ["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={.items[*].endpoints[*].addresses[0]}"];
    cluster.until("two addresses", |cluster| cluster.ok(&addresses).split_whitespace().count() == 2);
    cluster.ok(&["scale", "deployment/web", "--replicas=1"]);
    cluster.until("one address", |cluster| cluster.ok(&addresses).split_whitespace().count() == 1);
    let ip = cluster.ok(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    assert!(ip.starts_with("10.43."), "{ip}");
}

#[test]
fn dependents_go_with_their_owner_unless_orphaned() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=1", "--store=memory"]);
    for (name, how) in [("a", "background"), ("b", "foreground"), ("c", "orphan")] {
        cluster.ok(&["create", "deployment", name, WEB]);
        cluster.ok(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]);
        cluster.ok(&["delete", "deployment", name, &format!("--cascade={how}")]);
    }
    let pods = ["get", "pods", "-o", "name"];
    cluster.until("only the orphan is left", |cluster| cluster.ok(&pods).lines().count() == 1);
    assert!(cluster.ok(&pods).starts_with("pod/c-"));
    assert!(cluster.ok(&["get", "replicasets", "-o", "name"]).starts_with("replicaset.apps/c-"));
}

#[test]
fn a_job_completes_and_its_pods_stay() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=1", "--store=memory"]);
    cluster.ok(&["create", "job", "once", "--image=registry.example/job:1"]);
    cluster
        .until("the job has a pod", |cluster| cluster.ok(&["get", "pods", "-l", "job-name=once", "-o", "name"]).starts_with("pod/once-"));
    let active = ["get", "job", "once", "-o", "jsonpath={.status.active}"];
    cluster.until("the job counts it", |cluster| cluster.ok(&active) == "1");
}

#[test]
fn a_pod_that_fits_nowhere_says_why_and_runs_when_it_can() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=1", "--store=memory"]);
    cluster.ok(&["run", "picky", WEB, "--overrides={\"spec\":{\"nodeSelector\":{\"disk\":\"ssd\"}}}"]);
    let why = ["get", "pod", "picky", "-o", "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}"];
    cluster.until("the condition says why", |cluster| cluster.ok(&why).contains("didn't match Pod's node affinity/selector"));
    cluster.ok(&["label", "node", "--all", "disk=ssd"]);
    cluster.ok(&["wait", "--for=condition=Ready", "pod/picky", "--timeout=60s"]);
}

#[test]
fn controllers_go_on_after_kill_9() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=2"]);
    cluster.ok(&["create", "deployment", "web", WEB, "--replicas=20"]);
    cluster.kill();
    cluster.run();
    cluster.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.ok(&["scale", "deployment/web", "--replicas=2"]);
    cluster.until("two pods", |cluster| cluster.ok(&["get", "pods", "-o", "name"]).lines().count() == 2);
}
