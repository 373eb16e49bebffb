//! Which writes need not be on disk before they are answered: heartbeats of nodes and events, and nothing else.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coracle_store::{
    At, Durability, Entry, Events, Expect, Key, Page, Revision, Store, StoreError, Write,
    embedded::{Embedded, Options},
};
use serde_json::json;

use crate::house::House;

/// A store that notes what it is asked to write.
struct Noting(Embedded, Mutex<Vec<(String, Durability)>>);

#[async_trait]
impl Store for Noting {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }
    fn latest(&self) -> Option<Revision> {
        self.0.latest()
    }
    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.0.get(key).await
    }
    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.0.range(prefix, page).await
    }
    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        if let Write::Put { durability, .. } = &write {
            self.1.lock().unwrap().push((key.to_string(), *durability));
        }
        self.0.commit(key, expect, write).await
    }
    fn watch(&self, prefix: &str, from: Revision) -> Events {
        self.0.watch(prefix, from)
    }
    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.compact(to).await
    }
}

#[tokio::test]
async fn only_heartbeats_and_events_are_written_in_a_relaxed_way() {
    let store = Arc::new(Noting(Embedded::open(&Options::memory()).unwrap(), Mutex::default()));
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

    let noted = store.1.lock().unwrap().clone();
    let relaxed: Vec<_> = noted.iter().filter(|(_, durability)| *durability == Durability::Relaxed).map(|(key, _)| key.as_str()).collect();
    let node_lease = "/registry/leases/kube-node-lease/n";
    assert_eq!(relaxed, [node_lease, node_lease, "/registry/events/default/core", "/registry/events/default/group"]);
    for key in ["/registry/leases/kube-system/n", "/registry/configmaps/kube-node-lease/m"] {
        assert!(noted.iter().any(|(noted, durability)| noted == key && *durability == Durability::Strict), "{key}: {noted:?}");
    }
}
