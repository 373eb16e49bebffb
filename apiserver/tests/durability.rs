//! Which writes need not be on disk before they are answered: heartbeats of nodes and events, and nothing else.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coracle_store::{
    Durability, Key, Write,
    embedded::{Embedded, Options},
};
use coracle_tree::json;

use crate::{
    house::House,
    tapped::{Tap, Tapped},
};

/// Notes what is to be written.
#[derive(Default)]
struct Noting(Mutex<Vec<(String, Durability)>>);

#[async_trait]
impl Tap for Noting {
    fn asked(&self, key: &Key, write: &Write) {
        if let Write::Put { durability, .. } = write {
            self.0.lock().unwrap().push((key.to_string(), *durability));
        }
    }
}

#[tokio::test]
async fn only_heartbeats_and_events_are_written_in_a_relaxed_way() {
    let store = Arc::new(Tapped { store: Arc::new(Embedded::open(&Options::memory()).unwrap()), tap: Noting::default() });
    let house = House::over(store.clone(), None).await;
    let lease = |namespace: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n", "namespace": namespace}});
    let leases = |namespace: &str| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let mut heartbeat = house.post(&leases("kube-node-lease"), &lease("kube-node-lease")).await.ok();
    heartbeat["spec"] = json!({"holderIdentity": "n", "leaseDurationSeconds": 40});
    house.put(&format!("{}/n", leases("kube-node-lease")), &heartbeat).await.ok();
    house.post(&leases("kube-system"), &lease("kube-system")).await.ok();
    let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "core"}, "reason": "R", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    house.post("/api/v1/namespaces/default/events", &core).await.ok();
    let group = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "group"}, "reason": "R", "type": "Normal",
        "action": "A", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c/d", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    house.post("/apis/events.k8s.io/v1/namespaces/default/events", &group).await.ok();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    house.post("/api/v1/namespaces/kube-node-lease/configmaps", &map).await.ok();

    let noted = store.tap.0.lock().unwrap().clone();
    let relaxed: Vec<_> = noted.iter().filter(|(_, durability)| *durability == Durability::Relaxed).map(|(key, _)| key.as_str()).collect();
    let node_lease = "/registry/leases/kube-node-lease/n";
    assert_eq!(relaxed, [node_lease, node_lease, "/registry/events/default/core", "/registry/events/default/group"]);
    for key in ["/registry/leases/kube-system/n", "/registry/configmaps/kube-node-lease/m"] {
        assert!(noted.iter().any(|(noted, durability)| noted == key && *durability == Durability::Strict), "{key}: {noted:?}");
    }
}

#[tokio::test]
async fn pods_are_deleted_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&Options { size_limit: Some(8 << 20), ..Options::at(dir.path()) }).unwrap();
    let house = House::over(Arc::new(store), None).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    house.post(pods, &pod).await.ok();
    let mut filled = 0;
    let refused = loop {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{filled}")}, "data": {"a": "x".repeat(500_000)}});
        let answer = house.post("/api/v1/namespaces/default/configmaps", &map).await;
        if !answer.code.is_success() {
            break answer.json();
        }
        filled += 1;
    };
    assert!(filled > 0 && refused["message"].as_str().unwrap().contains("no room on the disk"), "{filled} {refused}");
    house.delete(&format!("{pods}/p")).await.ok();
    assert_eq!(house.get(&format!("{pods}/p")).await.code, 404);
}
