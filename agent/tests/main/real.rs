//! What a node that really runs containers prepares for them: volumes, environment, files, probes.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use coracle_agent::clock::Clock;
use coracle_agent::pods::qos::Amounts;
use coracle_agent::{Agent, Options, Reserve, Shared};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api_server::ApiServer;
use crate::recording::Recording;

pub(crate) struct Node {
    pub(crate) api: ApiServer,
    pub(crate) runtime: Arc<Recording>,
    pub(crate) shared: Shared,
    _dir: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start(clock: Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = ApiServer::default();
        let mut options = Options::new("n1", IpAddr::from([127, 0, 0, 1]), dir.path().to_owned());
        options.clock = clock;
        options.pod_cidrs = vec!["10.9.0.0/24".to_owned()];
        options.capacity = Some(Amounts { cpu_milli: 4000, memory: 8 << 30, ephemeral_storage: 100 << 30 });
        options.cgroups = false;
        options.reserve = Reserve::NONE;
        let runtime = Recording::new(clock);
        let shared = Shared::new(CancellationToken::new());
        let agent = Agent::build(api.client(), runtime.clone(), options, &shared).await.unwrap();
        tokio::spawn(async move { agent.run().await });
        Self { api, runtime, shared, _dir: dir }
    }

    fn config_map(&self, name: &str, data: &Value) {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data});
        self.api.put(&format!("/api/v1/namespaces/default/configmaps/{name}"), object);
    }

    fn secret(&self, name: &str, key: &str, value: &str) {
        let data = json!({key: base64::engine::general_purpose::STANDARD.encode(value)});
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "data": data});
        self.api.put(&format!("/api/v1/namespaces/default/secrets/{name}"), object);
    }

    fn host_path(&self, mount: &str) -> PathBuf {
        let mounts = self.runtime.config("app").mounts;
        mounts
            .iter()
            .find(|m| m.container_path == Path::new(mount))
            .unwrap_or_else(|| panic!("{mount} not in {mounts:?}"))
            .host_path
            .clone()
    }
}

fn ready(status: &Value) -> bool {
    status["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

#[tokio::test]
async fn a_container_gets_its_environment_files_and_volumes() {
    let node = Node::start(Clock::System).await;
    node.config_map("settings", &json!({"color": "blue", "a.conf": "x=1"}));
    node.secret("password", "word", "hush");
    node.api.put(
        "/api/v1/namespaces/default/services/kubernetes",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}),
    );
    node.api.pod(
        "full",
        "n1",
        &json!({
            "serviceAccountName": "robot", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}],
            "containers": [{
                "name": "app", "image": "app:1", "command": ["run", "$(COLOR)", "$(POD)"], "workingDir": "/w",
                "env": [
                    {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "BOTH", "value": "$(COLOR)-$(POD)-$(KUBERNETES_SERVICE_HOST)"},
                    {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
                ],
                "envFrom": [{"prefix": "S_", "secretRef": {"name": "password"}}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [
                    {"name": "conf", "mountPath": "/conf"}, {"name": "conf", "mountPath": "/one", "subPath": "a.conf"},
                    {"name": "tmp", "mountPath": "/tmp"}, {"name": "token", "mountPath": "/var/run/secrets"},
                ],
            }],
            "volumes": [
                {"name": "conf", "configMap": {"name": "settings", "defaultMode": 416, "items": [{"key": "a.conf", "path": "a.conf"}]}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
                    {"secret": {"name": "password", "items": [{"key": "word", "path": "deep/word"}]}},
                    {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]}},
            ],
        }),
    );
    let pod = node.api.wait_for_pod("full", ready).await;
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let config = node.runtime.config("app");
    let env = |name: &str| config.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(config.command, ["run", "blue", "full"]);
    assert_eq!((env("S_word"), env("IP"), env("BOTH"), env("MAYBE")), (Some("hush"), Some(ip), Some("blue-full-10.96.0.1"), None));
    assert_eq!((config.security.uid, config.security.no_new_privs), (Some(1000), true));
    assert_eq!((config.resources.cpu_quota_us, config.resources.memory_limit_bytes), (Some(50_000), Some(64 << 20)));
    assert_eq!(config.resources.oom_score_adj, Some(-997), "limits equal requests: guaranteed");

    let conf = node.host_path("/conf");
    assert_eq!(std::fs::read_to_string(conf.join("a.conf")).unwrap(), "x=1");
    assert_eq!(std::fs::metadata(conf.join("a.conf")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!conf.join("color").exists(), "only the items asked for");
    assert!(node.host_path("/one").is_file());
    assert_eq!(std::fs::metadata(node.host_path("/tmp")).unwrap().permissions().mode() & 0o777, 0o777);
    let token = node.host_path("/var/run/secrets");
    assert_eq!(std::fs::read_to_string(token.join("token")).unwrap(), "token-of-robot-for-full");
    assert_eq!(std::fs::read_to_string(token.join("deep/word")).unwrap(), "hush");
    assert_eq!(std::fs::read_to_string(token.join("name")).unwrap(), "full");
    let hosts = std::fs::read_to_string(node.host_path("/etc/hosts")).unwrap();
    assert!(hosts.contains(&format!("{ip}\tfull\n")) && hosts.contains("1.2.3.4\talias\n"), "{hosts}");
    assert!(node.host_path("/dev/termination-log").is_file());

    node.config_map("settings", &json!({"color": "red", "a.conf": "x=2"}));
    for _ in 0..200 {
        if std::fs::read_to_string(conf.join("a.conf")).unwrap() == "x=2" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(std::fs::read_to_string(conf.join("a.conf")).unwrap(), "x=2", "volumes follow their config map");

    node.api.delete_gracefully("full", 1);
    node.api.wait_for("/api/v1/namespaces/default/pods/full", |pod| pod.is_none()).await;
    for _ in 0..200 {
        if !conf.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!conf.exists(), "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_is_told_and_the_pod_starts_when_it_appears() {
    let node = Node::start(Clock::starting_at(Timestamp::from_second(1_800_000_000).unwrap())).await;
    let spec = json!({
        "containers": [{"name": "app", "image": "app:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "late"}}],
    });
    node.api.pod("waiting", "n1", &spec);
    node.api.wait_for_pod("waiting", |s| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating").await;
    while !node.api.events("waiting").contains(&"FailedMount".to_owned()) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    node.config_map("late", &json!({"k": "v"}));
    node.api.wait_for_pod("waiting", ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_a_configuration_error() {
    let node = Node::start(Clock::starting_at(Timestamp::from_second(1_800_000_000).unwrap())).await;
    node.config_map("settings", &json!({"color": "blue"}));
    let env = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "size"}}}]);
    node.api.pod("broken", "n1", &json!({"containers": [{"name": "app", "image": "app:1", "env": env}]}));
    let waiting = |s: &Value| s["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = node.api.wait_for_pod("broken", |s| waiting(s)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting(&pod["status"])["message"], "couldn't find key size in ConfigMap default/settings");
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_probe_and_liveness_restarts_the_container() {
    let node = Node::start(Clock::starting_at(Timestamp::from_second(1_800_000_000).unwrap())).await;
    *node.runtime.probe_result.lock() = 1;
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 5, "failureThreshold": 2});
    node.api.pod("probed", "n1", &json!({"containers": [{"name": "app", "image": "app:1", "readinessProbe": probe}]}));
    let pod = node.api.wait_for_pod("probed", |s| s["phase"] == "Running").await;
    assert!(!ready(&pod["status"]));
    *node.runtime.probe_result.lock() = 0;
    node.api.wait_for_pod("probed", ready).await;
    *node.runtime.probe_result.lock() = 1;
    node.api.wait_for_pod("probed", |s| !ready(s)).await;
    assert!(node.api.events("probed").contains(&"Unhealthy".to_owned()));

    node.api.pod("live", "n1", &json!({"containers": [{"name": "app", "image": "app:1", "livenessProbe": probe}]}));
    node.api.wait_for_pod("live", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert!(node.api.events("live").contains(&"Killing".to_owned()));
}
