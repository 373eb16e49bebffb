//! What is written down of requests.

use std::{path::Path, sync::Arc, time::Duration};

use coracle_apiserver::{
    Options,
    audit::{self, Batch, Format, HookOptions, LogOptions, Mode, Truncation},
    authn::User,
};
use coracle_store::embedded;
use coracle_tree::{Value, json};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::{hook::Hook, house::House};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: ["RequestReceived"]
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: ["/version"]
- level: Metadata
  resources: [{group: "", resources: ["secrets"]}]
- level: RequestResponse
  resources: [{group: "", resources: ["configmaps"]}]
- level: Metadata
"#;

const BATCH: Batch = Batch { buffer: 100, size: 10, wait: Duration::from_millis(50), throttle: None };

/// A server that writes down requests in a folder, when they have begun to be answered and when they have ended.
pub(crate) async fn house(folder: &Path) -> House {
    let policy = folder.join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let path = folder.join("audit.log");
    let log = LogOptions {
        path,
        max_size: 1,
        max_age: 0,
        max_backups: 0,
        compress: false,
        mode: Mode::Blocking,
        batch: BATCH,
        truncation: None,
        format: Format::Json,
    };
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let audit = audit::Options { policy: Some(policy), log: Some(log), webhook: None };
    House::of(Options { audit, ..House::options(store) }).await
}

fn events(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_request_is_written_as_its_rule_says_and_secrets_never_are() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let hidden = json!({"metadata": {"name": "s"}, "stringData": {"word": "hush"}});
    house.post("/api/v1/namespaces/default/secrets", &hidden).await.ok();
    let map = json!({"metadata": {"generateName": "m-"}, "data": {"k": "v"}});
    let made = house.post("/api/v1/namespaces/default/configmaps", &map).await;
    house.get("/version").await.ok();
    house.get("/api/v1/namespaces/default/configmaps/none").await;
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf"), ("audit-id", "mine")];
    let listed = house.ask(Method::GET, "/api/v1/namespaces/default/configmaps?limit=1", &protobuf, "").await;

    let all = events(folder.path());
    let stages: Vec<&str> = all.iter().map(|e| e["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["ResponseComplete"; 4], "{all:#?}");
    let [secret, create, missing, list] = all.as_slice() else { unreachable!() };
    assert_eq!((&secret["level"], &secret["objectRef"]["name"]), (&json!("Metadata"), &json!("s")));
    assert!(!std::fs::read_to_string(folder.path().join("audit.log")).unwrap().contains("hush"));
    assert_eq!(secret["annotations"], json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}));
    assert_eq!((&secret["user"]["username"], &secret["responseStatus"]["code"]), (&json!("admin"), &json!(201)));

    assert_eq!(create["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(create["responseObject"]["metadata"]["uid"], made.ok()["metadata"]["uid"]);
    assert!(create["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(create["auditID"].as_str(), made.headers.get("audit-id").map(|id| id.to_str().unwrap()));

    let status = &missing["responseStatus"];
    assert_eq!((&status["reason"], &status["code"], &status["status"]), (&json!("NotFound"), &json!(404), &json!("Failure")));

    assert_eq!((listed.headers["audit-id"].to_str().unwrap(), &list["auditID"]), ("mine", &json!("mine")));
    assert_eq!(
        (&list["responseObject"]["kind"], &list["requestURI"]),
        (&json!("ConfigMapList"), &json!("/api/v1/namespaces/default/configmaps?limit=1"))
    );
}

#[tokio::test]
async fn who_acts_for_whom_who_may_not_and_who_is_nobody_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = house(folder.path()).await;
    house.ask(Method::GET, "/api/v1/nodes", &[("impersonate-user", "jane")], "").await;
    house.user = Arc::new(User::new("jane", &[]));
    house.get("/api/v1/nodes").await;
    let request = Request::get("/api/v1/nodes").header("authorization", "Bearer wrong").body(Full::<bytes::Bytes>::default()).unwrap();
    assert_eq!(house.service().oneshot(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let all = events(folder.path());
    let [acting, refused, nobody] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((&acting["user"]["username"], &acting["impersonatedUser"]["username"]), (&json!("admin"), &json!("jane")));
    assert_eq!(acting["authenticationMetadata"], json!({"impersonationConstraint": "impersonate:user-info"}));
    assert!(refused.get("authenticationMetadata").is_none());
    assert_eq!(acting["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&refused["annotations"]["authorization.k8s.io/decision"], &refused["responseStatus"]["code"]),
        (&json!("forbid"), &json!(403))
    );
    assert_eq!(nobody["user"], json!({}));
    assert_eq!(nobody["responseStatus"]["message"], "Authentication failed, attempted: bearer");
}

#[tokio::test]
async fn a_write_whose_client_does_not_wait_for_it_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    // Dropped, while it waits for a webhook, as the future of a stream is that its client resets.
    let hook = Hook::start(&["h2"], Arc::new(|_, _| None)).await;
    let client = json!({"url": format!("{}/silent", hook.url), "caBundle": hook.bundle});
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]});
    let webhook = json!({"name": "silent.example.com", "clientConfig": client, "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "objectSelector": {"matchLabels": {"silent": "yes"}}});
    let webhooks = json!({"metadata": {"name": "silent"}, "webhooks": [webhook]});
    house.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &webhooks).await.ok();
    // Until the webhook counts, writes are answered.
    let mut answered = 0;
    let name = loop {
        let asked = async {
            while hook.take().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let name = format!("m{answered}");
        let map = json!({"metadata": {"name": name, "labels": {"silent": "yes"}}});
        tokio::select! {
            reply = house.post("/api/v1/namespaces/default/configmaps", &map) => assert_eq!(reply.code, StatusCode::CREATED),
            () = asked => break name,
        }
        answered += 1;
    };
    // The configuration's own, and those of writes that were answered.
    let before = answered + 1;
    let all = events(folder.path());
    let [given_up] = &all[before..] else { panic!("{all:#?}") };
    assert_eq!((&given_up["stage"], &given_up["verb"]), (&json!("ResponseComplete"), &json!("create")));
    assert_eq!((&given_up["objectRef"]["name"], &given_up["responseStatus"]["code"]), (&json!(name), &json!(504)));
    house.post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "n"}})).await.ok();
    assert_eq!(events(folder.path()).len(), before + 2, "what is answered is written once");
}

#[tokio::test]
async fn a_watch_is_written_when_it_begins_and_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let watch = house.open(Method::GET, "/api/v1/namespaces?watch=true&timeoutSeconds=1", &[], "").await;
    assert_eq!(events(folder.path()).len(), 1);
    watch.into_body().collect().await.unwrap();
    // What ends without anybody waiting is written in a moment.
    let written = async {
        while events(folder.path()).len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), written).await.unwrap();
    let stages: Vec<Value> = events(folder.path()).iter().map(|e| e["stage"].clone()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
}

/// A receiver of events over plain HTTP on this machine: it refuses the first `refused` lists, then keeps what comes.
async fn receiver(folder: &Path, refused: usize) -> (std::path::PathBuf, Arc<received::Events>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = folder.join("hook.kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{server: 'http://{}/audit'}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\nusers: [{{name: a, user: {{token: secret}}}}]\ncurrent-context: a\n",
        listener.local_addr().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let events = Arc::new(received::Events::default());
    let kept = Arc::clone(&events);
    tokio::spawn(async move {
        let mut left = refused;
        while let Ok((stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            let fails = left > 0;
            left = left.saturating_sub(1);
            let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    assert_eq!(request.uri().path(), "/audit");
                    let list: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
                    if !fails {
                        kept.add(list["items"].as_array().unwrap());
                    }
                    let code = if fails { 503 } else { 200 };
                    let answer = http::Response::builder().status(code).header("connection", "close").body(Full::<bytes::Bytes>::default());
                    Ok::<_, std::convert::Infallible>(answer.unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), answer));
        }
    });
    (config, events)
}

/// What a receiver got.
mod received {
    use std::sync::Mutex;

    use coracle_tree::Value;

    #[derive(Default)]
    pub(super) struct Events(Mutex<Vec<Value>>);

    impl Events {
        pub(super) fn add(&self, events: &[Value]) {
            self.0.lock().unwrap().extend_from_slice(events);
        }

        pub(super) fn all(&self) -> Vec<Value> {
            self.0.lock().unwrap().clone()
        }
    }
}

async fn sending(folder: &Path, mode: Mode, refused: usize) -> (House, Arc<received::Events>) {
    let (config, events) = receiver(folder, refused).await;
    let policy = folder.join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let webhook =
        HookOptions { config, mode, batch: BATCH, truncation: Some(Truncation { event: 2000 }), backoff: Duration::from_millis(1) };
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let audit = audit::Options { policy: Some(policy), log: None, webhook: Some(webhook) };
    (House::of(Options { audit, ..House::options(store) }).await, events)
}

#[tokio::test]
async fn events_are_sent_in_batches_until_they_arrive_and_none_is_left_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (house, events) = sending(folder.path(), Mode::Batch, 2).await;
    for n in 0..25 {
        house.get(&format!("/api/v1/namespaces/default/secrets/s{n}")).await;
    }
    let large = json!({"metadata": {"name": "m"}, "data": {"k": "v".repeat(3000)}});
    house.post("/api/v1/namespaces/default/configmaps", &large).await.ok();
    house.server.close().await;
    let all = events.all();
    let names: std::collections::BTreeSet<&str> = all.iter().filter_map(|event| event["objectRef"]["name"].as_str()).collect();
    assert!((0..25).all(|n| names.contains(format!("s{n}").as_str())), "{names:?}");
    assert!(all.iter().all(|event| event.get("kind").is_none()), "the list says what its events are");
    let cut = all.iter().find(|event| event["objectRef"]["name"] == "m").unwrap();
    assert_eq!((&cut["annotations"]["audit.k8s.io/truncated"], cut.get("requestObject")), (&json!("true"), None));
}

#[tokio::test]
async fn a_request_waits_for_its_event_only_where_it_is_told_to_and_fails_only_where_that_is_strict() {
    let folder = tempfile::tempdir().unwrap();
    let (house, events) = sending(folder.path(), Mode::Blocking, 0).await;
    house.get("/api/v1/namespaces/default/secrets/waited").await;
    assert!(events.all().iter().any(|event| event["objectRef"]["name"] == "waited"), "it is there with the answer");
    let (house, _) = sending(folder.path(), Mode::Blocking, usize::MAX).await;
    assert_eq!(house.get("/api/v1/namespaces/default/configmaps").await.code, StatusCode::OK);
    // Only what a request begins with may keep it from going on, and the policy leaves that out.
    let (house, _) = sending(folder.path(), Mode::BlockingStrict, usize::MAX).await;
    assert_eq!(house.get("/api/v1/namespaces/default/configmaps").await.code, StatusCode::OK);
    std::fs::write(folder.path().join("policy.yaml"), POLICY.replace("omitStages: [\"RequestReceived\"]", "omitStages: []")).unwrap();
    let (config, _) = receiver(folder.path(), usize::MAX).await;
    let webhook = HookOptions { config, mode: Mode::BlockingStrict, batch: BATCH, truncation: None, backoff: Duration::from_millis(1) };
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let audit = audit::Options { policy: Some(folder.path().join("policy.yaml")), log: None, webhook: Some(webhook) };
    let house = House::of(Options { audit, ..House::options(store) }).await;
    let refused = house.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(refused.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(refused.json()["message"], "Internal error occurred: failed to store audit event");
}
