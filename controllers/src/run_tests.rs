//! The whole frame against a server in memory.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Clients, Controllers, Options, fake::Fake};

const PODS: &str = "api/v1/pods";
const SETS: &str = "apis/apps/v1/replicasets";

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}})
}

fn workload(kind: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template()}})
}

fn start(fake: &Arc<Fake>, controllers: &[&str]) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    start_with(fake, controllers, Options::default())
}

fn start_with(fake: &Arc<Fake>, controllers: &[&str], options: Options) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let client = fake.client();
    let clients: Clients = Arc::new(move |_: &str| client.clone());
    let options = Options { controllers: controllers.iter().map(|name| (*name).to_owned()).collect(), ..options };
    let controllers = Controllers::build(&clients, options).unwrap_or_else(|error| panic!("{error}"));
    let stop = CancellationToken::new();
    (stop.clone(), tokio::spawn(controllers.run(stop)))
}

/// Waits, in virtual time, until `done`.
async fn until(done: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(600), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not in ten minutes"));
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_lags_never_makes_a_set_create_too_many() {
    let fake = Fake::new(Duration::from_secs(2), None);
    fake.put("/apis/apps/v1/namespaces/a/replicasets", workload("ReplicaSet", 1200));
    let (stop, room) = start(&fake, &["replicaset-controller"]);
    until(|| fake.list(PODS).len() >= 1200).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.list(PODS).len(), 1200);
    assert_eq!(fake.list(SETS)[0]["status"]["replicas"], 1200);
    stop.cancel();
    room.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deployment_becomes_a_set_and_the_set_becomes_pods() {
    let fake = Fake::new(Duration::ZERO, None);
    let (stop, room) = start(&fake, &["deployment-controller", "replicaset-controller"]);
    fake.put("/apis/apps/v1/namespaces/a/deployments", workload("Deployment", 3));
    until(|| fake.list("apis/apps/v1/deployments")[0]["status"]["updatedReplicas"] == 3).await;
    let (sets, pods) = (fake.list(SETS), fake.list(PODS));
    assert_eq!((sets.len(), pods.len()), (1, 3));
    assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["uid"], sets[0]["metadata"]["uid"]);
    assert_eq!(pods[0]["metadata"]["labels"]["pod-template-hash"], sets[0]["metadata"]["labels"]["pod-template-hash"]);
    stop.cancel();
    room.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_refusal_ends_a_batch_of_creations() {
    let fake = Fake::new(Duration::ZERO, Some("pods"));
    fake.put("/apis/apps/v1/namespaces/a/replicasets", workload("ReplicaSet", 400));
    let (stop, room) = start(&fake, &["replicaset-controller"]);
    until(|| fake.list(SETS)[0]["status"]["conditions"][0]["reason"] == "FailedCreate").await;
    assert!(fake.creations.load(Ordering::Relaxed) < 20, "{:?} creations were tried", fake.creations);
    stop.cancel();
    room.await.unwrap();
}

#[test]
fn a_controller_that_does_not_exist_is_refused_by_name() {
    let client: Clients = Arc::new(|_: &str| unreachable!());
    let options = Options { controllers: vec!["deployment".to_owned()], ..Options::default() };
    let error = Controllers::build(&client, options).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("\"deployment\"") && error.contains("deployment-controller"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn tokens_in_secrets_are_spared_by_their_account_by_how_long_uses_are_noted_and_by_pods() {
    const PATH: &str = "/api/v1/namespaces/a";
    let run = async |noted: &str| {
        let fake = Fake::new(Duration::ZERO, None);
        let tracking = json!({"metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking"}, "data": {"since": noted}});
        fake.put("/api/v1/namespaces/kube-system/configmaps", tracking);
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "mounted"}, {"name": "unused"}]});
        fake.put(&format!("{PATH}/serviceaccounts"), account);
        let volumes = json!([{"name": "v", "secret": {"secretName": "mounted"}}]);
        fake.put(&format!("{PATH}/pods"), json!({"metadata": {"name": "p"}, "spec": {"volumes": volumes}}));
        for name in ["mounted", "of-nobody", "unused"] {
            let metadata = json!({"name": name, "annotations": {"kubernetes.io/service-account.name": "sa"}});
            fake.put(&format!("{PATH}/secrets"), json!({"metadata": metadata}));
        }
        let options = Options { unused_tokens: Duration::from_secs(1), ..Options::default() };
        let (stop, room) = start_with(&fake, &["legacy-serviceaccount-token-cleaner-controller"], options);
        tokio::time::sleep(Duration::from_secs(50)).await;
        stop.cancel();
        room.await.unwrap();
        let ended = |secret: &Value| secret["metadata"]["labels"]["kubernetes.io/legacy-token-invalid-since"].is_string();
        let ended = fake.list("api/v1/secrets").into_iter().filter(ended).map(|secret| secret["metadata"]["name"].clone());
        let asked = fake.lists.lock().iter().filter(|list| list.contains(&format!("{PATH}/pods"))).cloned().collect::<Vec<_>>();
        (ended.collect::<Vec<_>>(), asked)
    };
    let (ended, asked) = run("2026-01-01").await;
    assert_eq!((ended, asked.len()), (vec![json!("unused")], 1), "{asked:?}");
    assert!(asked[0].contains("limit=500"), "{asked:?}");
    assert_eq!(run("9998-01-01").await, (vec![], vec![]), "nobody knows whether it was used before");
}
