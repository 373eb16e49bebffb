//! Who may do what, and what a first start leaves behind, seen from outside.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use coracle_apiserver::{
    Options, Ranges, Server,
    authn::{self, User, keys::SigningKey},
    bootstrap::Facts,
};
use coracle_store::{Store, embedded};
use coracle_tree::{Value, json};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::house::{House, Reply};

const ISSUER: &str = "https://kubernetes.default.svc";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn memory() -> Arc<dyn Store> {
    Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap())
}

async fn start(store: Arc<dyn Store>, key: &str) -> House {
    let facts = Facts {
        advertise_address: Ipv4Addr::new(192, 0, 2, 7).into(),
        secure_port: 6443,
        service_address: Ranges::default().first(),
        now: jiff::Timestamp::now(),
    };
    let authentication = authn::Options {
        issuers: vec![ISSUER.into()],
        signing_key: Some(SigningKey::from_pem(key.as_bytes()).unwrap()),
        anonymous: authn::Anonymous::On,
        ..authn::Options::default()
    };
    let admission = coracle_apiserver::admission::Settings::default();
    let options = Options { authentication, facts, admission, ..House::options(store) };
    House { server: Server::build(options).await.unwrap(), user: Arc::new(User::new("admin", &["system:masters"])) }
}

fn key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

impl House {
    fn become_user(&mut self, name: &str, groups: &[&str]) {
        self.user = Arc::new(User::new(name, groups));
    }
}

/// Asks as whoever the headers say, as over the network.
async fn outside(house: &House, path: &str, token: Option<&str>) -> Reply {
    let mut request = Request::builder().method(Method::GET).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = house.service().oneshot(request.body(Full::default()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Reply { code: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

/// Asks until the answer has this code: roles take effect in a moment, as upstream.
async fn until(house: &House, path: &str, code: StatusCode) {
    let settled = async {
        while house.get(path).await.code != code {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), settled).await.expect("the answer never came to be that");
}

fn rules(resource: &str, verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": [resource], "verbs": verbs}])
}

#[tokio::test]
async fn a_first_start_makes_system_objects_and_a_second_writes_nothing() {
    let (store, key) = (memory(), key());
    let house = start(store.clone(), &key).await;
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/exempt",
    ] {
        house.get(path).await.ok();
    }
    let apps = house.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.apps").await.ok();
    assert_eq!(apps["status"]["conditions"][0]["reason"], "Local", "{apps}");
    assert!(house.get(&format!("{RBAC}/clusterroles")).await.ok()["items"].as_array().unwrap().len() > 60);
    house.server.close().await;
    let before = store.revision().await.unwrap();
    let again = start(store.clone(), &key).await;
    again.server.close().await;
    assert_eq!(store.revision().await.unwrap(), before);
}

#[tokio::test]
async fn anybody_may_ask_for_health_and_nobody_for_secrets() {
    let house = start(memory(), &key()).await;
    assert_eq!(outside(&house, "/healthz", None).await.code, StatusCode::OK);
    let refused = outside(&house, "/api/v1/namespaces/default/secrets", None).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert_eq!(
        refused.json()["message"],
        r#"secrets is forbidden: User "system:anonymous" cannot list resource "secrets" in API group "" in the namespace "default""#
    );
    assert_eq!(outside(&house, "/api", Some("nonsense")).await.code, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn roles_and_bindings_take_effect_and_end() {
    let mut house = start(memory(), &key()).await;
    let pods = "/api/v1/namespaces/default/pods";
    let role = json!({"metadata": {"name": "reader"}, "rules": rules("pods", &["list"])});
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"});
    let subjects = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]);
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": reference, "subjects": subjects});
    let admin = house.user.clone();
    house.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.ok();
    house.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.ok();
    house.become_user("jane", &[]);
    until(&house, pods, StatusCode::OK).await;
    assert_eq!(house.get("/api/v1/pods").await.code, StatusCode::FORBIDDEN);
    let wider = json!({"metadata": {"name": "wide"}, "rules": rules("secrets", &["get"])});
    assert_eq!(house.post(&format!("{RBAC}/namespaces/default/roles"), &wider).await.code, StatusCode::FORBIDDEN);
    house.user = admin.clone();
    let binder = json!({"metadata": {"name": "reader"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"], "verbs": ["create", "get"]},
    ]});
    house.put(&format!("{RBAC}/namespaces/default/roles/reader"), &binder).await.ok();
    house.become_user("jane", &[]);
    until(&house, &format!("{RBAC}/namespaces/default/rolebindings/jane"), StatusCode::OK).await;
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "none"});
    let dangling = json!({"metadata": {"name": "dangling"}, "roleRef": reference, "subjects": subjects});
    let refused = house.post(&format!("{RBAC}/namespaces/default/rolebindings"), &dangling).await;
    assert_eq!(refused.code, StatusCode::NOT_FOUND);
    assert_eq!(refused.json()["message"], r#"rolebindings.rbac.authorization.k8s.io "none" not found"#);
    house.user = admin;
    house.delete(&format!("{RBAC}/namespaces/default/rolebindings/jane")).await.ok();
    house.become_user("jane", &[]);
    until(&house, pods, StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn nobody_grants_more_than_he_holds() {
    let mut house = start(memory(), &key()).await;
    let writer = json!({
        "metadata": {"name": "role-writer"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create", "get"]}],
    });
    house.post(&format!("{RBAC}/clusterroles"), &writer).await.ok();
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "role-writer"});
    let subjects = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]);
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": reference, "subjects": subjects});
    house.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.ok();
    house.become_user("jane", &[]);
    until(&house, &format!("{RBAC}/clusterroles/view"), StatusCode::OK).await;
    let wide = json!({"metadata": {"name": "wide"}, "rules": rules("secrets", &["get"])});
    let refused = house.post(&format!("{RBAC}/clusterroles"), &wide).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(
            r#"permissions not currently held:
{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#
        ),
        "{message}"
    );
}

#[tokio::test]
async fn labelled_roles_flow_into_the_roles_that_aggregate_them() {
    let house = start(memory(), &key()).await;
    let labels = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let rule = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"]}]);
    house.post(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": "widgets", "labels": labels}, "rules": rule})).await.ok();
    let flowed = async {
        for name in ["view", "edit", "admin"] {
            while !house.get(&format!("{RBAC}/clusterroles/{name}")).await.ok()["rules"].to_string().contains("widgets") {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), flowed).await.expect("the rule never flowed");
}

#[tokio::test]
async fn a_pod_runs_as_an_account_whose_token_is_believed_until_the_pod_is_gone() {
    let house = start(memory(), &key()).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    house.post(accounts, &json!({"metadata": {"name": "default"}})).await.ok();
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = house.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert!(pod["spec"]["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"), "{pod}");
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": pod["metadata"]["uid"]});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}});
    let made = house.post(&format!("{accounts}/default/token"), &request).await.ok();
    let token = made["status"]["token"].as_str().unwrap();
    let refused = outside(&house, "/api/v1/pods", Some(token)).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert!(refused.json()["message"].as_str().unwrap().contains(r#"User "system:serviceaccount:default:default""#));
    assert_eq!(outside(&house, "/apis", Some(token)).await.code, StatusCode::OK);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = house.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok();
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    assert_eq!(reviewed["status"]["audiences"], json!([ISSUER]));
    assert_eq!(reviewed["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["web"]));
}

#[tokio::test]
async fn keys_and_issuer_are_published() {
    let house = start(memory(), &key()).await;
    let keys = house.get("/openid/v1/jwks").await.ok();
    assert_eq!(keys["keys"][0]["alg"], "ES256", "{keys}");
    assert_eq!(house.get("/.well-known/openid-configuration").await.ok()["issuer"], ISSUER);
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_only() {
    let mut house = start(memory(), &key()).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    house.post(accounts, &json!({"metadata": {"name": "default"}})).await.ok();
    let pod = json!({"metadata": {"name": "web"}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    let pod = house.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": pod["metadata"]["uid"]});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}});
    house.become_user("system:node:a", &["system:nodes"]);
    until(&house, "/api/v1/namespaces/default/pods/web", StatusCode::OK).await;
    let made = house.post(&format!("{accounts}/default/token"), &request).await.ok();
    assert!(made["status"]["token"].is_string());
    let unbound = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let refused = house.post(&format!("{accounts}/default/token"), &unbound).await;
    assert!(refused.json()["message"].as_str().unwrap().contains("node requested token not bound to a pod"));
    let other = json!({"metadata": {"name": "b"}});
    assert_eq!(house.post("/api/v1/nodes", &other).await.code, StatusCode::FORBIDDEN);
    house.post("/api/v1/nodes", &json!({"metadata": {"name": "a"}})).await.ok();
    house.become_user("system:node:b", &["system:nodes"]);
    assert_eq!(house.post(&format!("{accounts}/default/token"), &request).await.code, StatusCode::FORBIDDEN);
    assert_eq!(house.get("/api/v1/namespaces/default/pods/web").await.code, StatusCode::FORBIDDEN);
    assert_eq!(house.get("/api/v1/pods?fieldSelector=spec.nodeName%3Da").await.code, StatusCode::FORBIDDEN);
    assert_ne!(house.get("/api/v1/pods?fieldSelector=spec.nodeName%3Db").await.code, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn reviews_tell_what_one_may() {
    let mut house = start(memory(), &key()).await;
    house.become_user("jane", &[]);
    let can = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
                     "spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let answer = house.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &can).await.ok();
    assert_eq!(answer["status"]["allowed"], false, "{answer}");
    let all = json!({"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"namespace": "default"}});
    let answer = house.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &all).await.ok();
    assert!(answer["status"]["resourceRules"].to_string().contains("selfsubjectreviews"), "{answer}");
    let who = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"});
    let answer = house.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &who).await.ok();
    assert_eq!(answer["status"]["userInfo"]["username"], "jane");
}

#[tokio::test]
async fn a_full_quota_refuses_until_something_goes() {
    let house = start(memory(), &key()).await;
    let (maps, quotas) = ("/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/resourcequotas");
    house.post(quotas, &json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "2"}}})).await.ok();
    let map = |name: &str| json!({"metadata": {"name": name}});
    for name in ["a", "b"] {
        house.post(maps, &map(name)).await.ok();
    }
    let refused = house.post(maps, &map("c")).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert!(
        refused.json()["message"].as_str().unwrap().contains("exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2")
    );
    house.delete(&format!("{maps}/a")).await.ok();
    house.post(maps, &map("c")).await.ok();
    assert_eq!(house.get(&format!("{quotas}/q")).await.ok()["status"]["used"]["count/configmaps"], "2");
}

#[tokio::test]
async fn a_namespace_of_the_system_stays_and_a_missing_one_takes_nothing() {
    let house = start(memory(), &key()).await;
    assert_eq!(house.delete("/api/v1/namespaces/kube-system").await.code, StatusCode::FORBIDDEN);
    let missing = house.post("/api/v1/namespaces/none/configmaps", &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(missing.code, StatusCode::NOT_FOUND);
    assert_eq!(missing.json()["message"], r#"namespaces "none" not found"#);
}

#[tokio::test]
async fn a_quota_holds_against_many_at_once() {
    let house = start(memory(), &key()).await;
    let namespace = "/api/v1/namespaces/default";
    house
        .post(&format!("{namespace}/resourcequotas"), &json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "10"}}}))
        .await
        .ok();
    let create = |i: usize| {
        let (house, path) = (&house, format!("{namespace}/configmaps"));
        async move { house.post(&path, &json!({"metadata": {"name": format!("m{i}")}})).await.code }
    };
    let codes = futures::future::join_all((0..40).map(create)).await;
    assert_eq!(codes.iter().filter(|c| **c == StatusCode::CREATED).count(), 10, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == StatusCode::FORBIDDEN).count(), 30, "{codes:?}");
}
