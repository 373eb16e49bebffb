//! What is written down of requests.

use std::{path::Path, sync::Arc};

use coracle_apiserver::{
    Options,
    audit::{self, LogOptions, Mode},
    authn::User,
};
use coracle_store::embedded;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::house::House;

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

async fn house(folder: &Path) -> House {
    let policy = folder.join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let path = folder.join("audit.log");
    let log = LogOptions { path, max_size: 1, max_age: 0, max_backups: 0, compress: false, mode: Mode::Blocking, buffer: 100 };
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let audit = audit::Options { policy: Some(policy), log: Some(log) };
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
    assert_eq!(acting["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&refused["annotations"]["authorization.k8s.io/decision"], &refused["responseStatus"]["code"]),
        (&json!("forbid"), &json!(403))
    );
    assert_eq!(nobody["user"], json!({}));
    assert_eq!(nobody["responseStatus"]["message"], "Authentication failed, attempted: bearer");
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
