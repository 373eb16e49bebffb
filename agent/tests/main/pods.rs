//! Pods on hollow nodes, from binding to removal.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_agent::clock::Clock;
use coracle_agent::hollow::Hollow;
use coracle_agent::pods::qos::Amounts;
use coracle_agent::runtime::Runtime;
use coracle_agent::{Agent, Fleet, Options, Reserve, Shared};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api_server::ApiServer;

fn options(name: &str) -> Options {
    let mut options = Options::new(name, IpAddr::from([192, 168, 0, 7]), "/nonexistent".into());
    options.clock = Clock::starting_at(Timestamp::from_second(1_800_000_000).unwrap());
    options.pod_cidrs = vec!["10.9.0.0/24".to_owned()];
    options.capacity = Some(Amounts { cpu_milli: 4000, memory: 8 << 30, ephemeral_storage: 100 << 30 });
    options.materialize = false;
    options.reserve = Reserve::NONE;
    options
}

struct Node {
    api: ApiServer,
    runtime: Arc<Hollow>,
    stop: CancellationToken,
}

impl Node {
    async fn start(api: &ApiServer) -> Self {
        let options = options("n1");
        let runtime = Hollow::new("n1", options.clock);
        Self::with(api, runtime, options).await
    }

    async fn with(api: &ApiServer, runtime: Arc<Hollow>, options: Options) -> Self {
        let stop = CancellationToken::new();
        let shared = Shared::new(stop.clone());
        let agent = Agent::build(api.client(), runtime.clone(), options, &shared).await.unwrap();
        tokio::spawn(async move { agent.run().await });
        Self { api: api.clone(), runtime, stop }
    }

    async fn container(&self, name: &str) -> String {
        let all = self.runtime.list_containers(None).await.unwrap();
        all.into_iter().filter(|c| c.name == name).max_by_key(|c| c.attempt).unwrap().id
    }
}

fn ready(status: &Value) -> bool {
    condition(status, "Ready") == Some("True")
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a str> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

#[tokio::test(start_paused = true)]
async fn a_node_registers_becomes_ready_and_renews_its_lease() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    let node = api.wait_for("/api/v1/nodes/n1", |n| n.is_some_and(|n| ready(&n["status"]))).await.unwrap();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(node["status"]["allocatable"]["cpu"], "4");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    let first = api.wait_for(lease, |l| l.is_some()).await.unwrap();
    assert_eq!(first["spec"]["leaseDurationSeconds"], 40);
    let renewed = api.wait_for(lease, |l| l.is_some_and(|l| l["spec"]["renewTime"] != first["spec"]["renewTime"])).await;
    assert!(renewed.is_some());
    let status_writes = api.requests("PATCH /api/v1/nodes/n1/status").len();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(api.requests("PATCH /api/v1/nodes/n1/status").len(), status_writes, "nothing changed, nothing is written");
}

#[tokio::test(start_paused = true)]
async fn a_pod_becomes_running_with_one_status_write_and_tells_its_story() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    api.pod("web", "n1", &json!({}));
    let pod = api.wait_for_pod("web", |s| s["phase"] == "Running" && ready(s)).await;
    let status = &pod["status"];
    assert!(status["podIP"].as_str().unwrap().starts_with("10.9.0."), "{status}");
    assert_eq!(status["hostIP"], "192.168.0.7");
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    assert!(status["containerStatuses"][0]["containerID"].as_str().unwrap().starts_with("hollow://"));
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(status, kind), Some("True"), "{kind}");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.requests("PATCH /api/v1/namespaces/default/pods/web/status").len(), 1);
    assert_eq!(api.events("web"), ["Pulled", "Created", "Started"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_stopped_and_its_object_removed() {
    let api = ApiServer::default();
    let node = Node::start(&api).await;
    api.pod("web", "n1", &json!({}));
    api.wait_for_pod("web", ready).await;
    api.delete_gracefully("web", 30);
    node.api.wait_for("/api/v1/namespaces/default/pods/web", |pod| pod.is_none()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(node.runtime.list_sandboxes().await.unwrap().is_empty());
    assert!(api.events("web").contains(&"Killing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_restarts_at_once_and_then_backs_off() {
    let api = ApiServer::default();
    let node = Node::start(&api).await;
    api.pod("crash", "n1", &json!({}));
    api.wait_for_pod("crash", ready).await;
    node.runtime.exit(&node.container("app").await, 3);
    let first = api.wait_for_pod("crash", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(first["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    node.runtime.exit(&node.container("app").await, 3);
    let second = api.wait_for_pod("crash", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff").await;
    let words = second["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(words, "back-off 10s restarting failed container=app pod=crash_default(uid-crash)");
    assert_eq!(second["status"]["phase"], "Running");
    let began = tokio::time::Instant::now();
    api.wait_for_pod("crash", |s| s["containerStatuses"][0]["restartCount"] == 2 && ready(s)).await;
    assert!((9..=12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(api.events("crash").contains(&"BackOff".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_restarts_ends_by_its_exit_codes() {
    let api = ApiServer::default();
    let node = Node::start(&api).await;
    for (name, code, phase, reason) in [("good", 0, "Succeeded", "PodCompleted"), ("bad", 1, "Failed", "PodFailed")] {
        api.pod(name, "n1", &json!({"restartPolicy": "Never", "containers": [{"name": name, "image": "app:1"}]}));
        api.wait_for_pod(name, ready).await;
        node.runtime.exit(&node.container(name).await, code);
        let pod = api.wait_for_pod(name, |s| s["phase"] == phase).await;
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "False" && c["reason"] == reason), "{conditions:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_another_before_the_others() {
    let api = ApiServer::default();
    let node = Node::start(&api).await;
    let init = json!([
        {"name": "first", "image": "app:1"}, {"name": "side", "image": "app:1", "restartPolicy": "Always"}, {"name": "second", "image": "app:1"},
    ]);
    api.pod("p", "n1", &json!({"initContainers": init}));
    let pod = api.wait_for_pod("p", |s| s["initContainerStatuses"][0]["state"]["running"].is_object()).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&pod["status"], "Initialized"), Some("False"));
    node.runtime.exit(&node.container("first").await, 0);
    api.wait_for_pod("p", |s| s["initContainerStatuses"][2]["state"]["running"].is_object()).await;
    node.runtime.exit(&node.container("second").await, 0);
    let pod = api.wait_for_pod("p", ready).await;
    assert_eq!(pod["status"]["initContainerStatuses"][1]["ready"], true);
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test(start_paused = true)]
async fn the_active_deadline_fails_the_pod() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    api.pod("job", "n1", &json!({"activeDeadlineSeconds": 20, "terminationGracePeriodSeconds": 1}));
    api.wait_for_pod("job", ready).await;
    let pod = api.wait_for_pod("job", |s| s["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_is_refused_as_kubelet_refuses_it() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    api.wait_for("/api/v1/nodes/n1", |n| n.is_some()).await;
    api.pod("big", "n1", &json!({"containers": [{"name": "app", "image": "a:1", "resources": {"requests": {"cpu": "64"}}}]}));
    let pod = api.wait_for_pod("big", |s| s["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert!(api.events("big").contains(&"OutOfcpu".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_bad_image_name_is_said_and_nothing_starts() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    api.pod("typo", "n1", &json!({"containers": [{"name": "app", "image": "not an image"}]}));
    let pod = api.wait_for_pod("typo", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "InvalidImageName").await;
    assert_eq!(pod["status"]["phase"], "Pending");
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_replaces_the_container() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    api.pod("web", "n1", &json!({}));
    let mut pod = api.wait_for_pod("web", ready).await;
    pod["spec"]["containers"][0]["image"] = json!("app:2");
    pod["metadata"]["generation"] = json!(2);
    api.put("/api/v1/namespaces/default/pods/web", pod);
    let pod = api.wait_for_pod("web", |s| s["containerStatuses"][0]["image"] == "app:2" && ready(s)).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(pod["status"]["observedGeneration"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs_and_restarts_nothing() {
    let api = ApiServer::default();
    let node = Node::start(&api).await;
    api.pod("web", "n1", &json!({}));
    let before = api.wait_for_pod("web", ready).await;
    let runtime = node.runtime.clone();
    node.stop.cancel();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = api.requests("pods/web/status").len();
    let _again = Node::with(&api, runtime.clone(), options("n1")).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let after = api.get("/api/v1/namespaces/default/pods/web").unwrap();
    assert_eq!(after["status"], before["status"]);
    assert_eq!(api.requests("pods/web/status").len(), writes, "nothing changed, nothing is written");
    assert_eq!(runtime.list_containers(None).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_was_denied_by_others_is_told_again() {
    let api = ApiServer::default();
    let _node = Node::start(&api).await;
    api.pod("web", "n1", &json!({}));
    api.wait_for_pod("web", ready).await;
    let path = "/api/v1/namespaces/default/pods/web";
    let mut pod = api.get(path).unwrap();
    let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
    let denied = conditions.iter_mut().find(|c| c["type"] == "Ready").unwrap();
    denied["status"] = json!("False");
    api.put(path, pod);
    assert!(!ready(&api.get(path).unwrap()["status"]));
    api.wait_for_pod("web", ready).await;
}

#[tokio::test(start_paused = true)]
async fn pods_deleted_while_the_agent_was_away_are_cleaned_up() {
    let api = ApiServer::default();
    let node = Node::start(&api).await;
    api.pod("web", "n1", &json!({}));
    api.wait_for_pod("web", ready).await;
    let runtime = node.runtime.clone();
    node.stop.cancel();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = ApiServer::default();
    let _again = Node::with(&empty, runtime.clone(), options("n1")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(runtime.list_sandboxes().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fleet_runs_the_pods_of_all_its_nodes_over_one_watch() {
    let api = ApiServer::default();
    let shared = Shared::new(CancellationToken::new());
    let nodes = (0..20).map(|n| Options { pod_cidrs: Vec::new(), ..options(&format!("n{n}")) }).collect();
    let client = api.clone();
    let fleet = Fleet::hollow(api.client(), &(Arc::new(move |_: &str| client.client()) as _), nodes, &shared).await.unwrap();
    tokio::spawn(async move { fleet.run().await });
    for number in 0..20 {
        let path = format!("/api/v1/nodes/n{number}");
        let mut node = api.wait_for(&path, |n| n.is_some_and(|n| n["status"]["conditions"].is_array())).await.unwrap();
        assert!(!ready(&node["status"]), "no address range yet");
        node["spec"]["podCIDRs"] = json!([format!("10.{number}.0.0/24")]);
        api.put(&path, node);
        api.wait_for(&path, |n| n.is_some_and(|n| ready(&n["status"]))).await;
    }
    for number in 0..200 {
        api.pod(&format!("p{number}"), &format!("n{}", number % 20), &json!({}));
    }
    for number in 0..200 {
        api.wait_for_pod(&format!("p{number}"), ready).await;
    }
    assert_eq!(api.requests("GET /api/v1/pods").len(), 2, "one list, one watch");
    assert_eq!(api.requests("PATCH /api/v1/namespaces/default/pods/").len(), 200, "one status write a pod");
}
