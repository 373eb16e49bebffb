//! Policies in Cedar, in files and in objects of the project's own definition, over a whole server: they allow, deny, forbid writes, and are
//! refused when they make no sense.

use std::{sync::Arc, time::Duration};

use coracle_apiserver::{
    authn::User,
    authz::{self, Mode},
};
use coracle_store::embedded;
use coracle_tree::{Value, json};
use http::{Method, StatusCode};

use crate::house::House;

const POLICIES: &str = "/apis/cedar.k8s.aws/v1alpha1/policies";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// In a file: readers read maps, and nobody whose name is in it reads secrets, whatever roles say.
const FILE: &str = r#"
    permit (principal in k8s::Group::"readers", action in [k8s::Action::"get", k8s::Action::"list"], resource is k8s::Resource)
    when { resource.apiGroup == "" && resource.resource == "configmaps" };

    @id("no-secrets")
    forbid (principal is k8s::User, action, resource is k8s::Resource)
    when { principal.name == "joe" && resource.resource == "secrets" };
"#;

/// In an object: the same over admission, and a name for those who make maps.
const OBJECT: &str = r#"
    permit (principal is k8s::User, action in [k8s::Action::"create", k8s::Action::"update", k8s::Action::"delete", k8s::Action::"get"], resource is k8s::Resource)
    when { principal.name == "mary" && resource.resource == "configmaps" };

    @id("locked")
    forbid (principal, action in [k8s::admission::Action::"update", k8s::admission::Action::"delete"], resource is core::v1::ConfigMap)
    when { resource.metadata has labels && resource.metadata.labels.contains({"key": "locked", "value": "yes"}) };
"#;

fn policy(name: &str, content: &str, enforced: bool) -> Value {
    let validation = json!({"enforced": enforced, "validationMode": if enforced { "strict" } else { "permissive" }});
    json!({
        "apiVersion": "cedar.k8s.aws/v1alpha1", "kind": "Policy", "metadata": {"name": name},
        "spec": {"content": content, "validation": validation},
    })
}

/// The project's definition, as far as the server reads it.
fn definition() -> Value {
    let text = json!({"type": "string"});
    let validation = json!({"type": "object", "properties": {"enforced": {"type": "boolean"}, "validationMode": text}});
    let spec = json!({"type": "object", "required": ["content"], "properties": {"content": text, "validation": validation}});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "policies.cedar.k8s.aws"},
        "spec": {
            "group": "cedar.k8s.aws", "scope": "Cluster", "names": {"kind": "Policy", "plural": "policies", "singular": "policy"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

struct World {
    house: House,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("readers.cedar"), FILE).unwrap();
        let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
        let mut authorization = authz::Options::of(&[Mode::Node, Mode::Cedar, Mode::Rbac]);
        authorization.cedar.folder = Some(folder.path().to_owned());
        let options = coracle_apiserver::Options { authorization, ..House::options(store) };
        Self { house: House::of(options).await, _folder: folder }
    }

    fn be(&mut self, name: &str, groups: &[&str]) {
        self.house.user = Arc::new(User::new(name, groups));
    }

    fn be_admin(&mut self) {
        self.be("admin", &["system:masters"]);
    }

    /// Asks until the answer is this: policies in objects count a moment after they are written.
    async fn until(&self, method: Method, path: &str, body: &Value, code: StatusCode) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let settled = async {
            loop {
                let reply = self.house.ask(method.clone(), path, &[("content-type", "application/json")], body.clone()).await;
                if reply.code == code {
                    return String::from_utf8_lossy(&reply.body).into_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), settled).await.expect("it never came to be so")
    }
}

fn map(name: &str, locked: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"locked": locked}}, "data": {}})
}

#[tokio::test]
async fn policies_in_files_allow_what_no_role_does_and_deny_what_roles_allow() {
    let mut world = World::new().await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "joe"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "joe"}],
    });
    world.house.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.ok();
    world.be("jane", &["readers"]);
    world.house.get(MAPS).await.ok();
    assert_eq!(world.house.post(MAPS, &map("a", "no")).await.code, StatusCode::FORBIDDEN);
    assert_eq!(world.house.get("/api/v1/namespaces/default/secrets").await.code, StatusCode::FORBIDDEN);
    world.be("joe", &[]);
    world.until(Method::GET, "/api/v1/namespaces/default/pods", &Value::Null, StatusCode::OK).await;
    let refused = world.house.get("/api/v1/namespaces/default/secrets").await;
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(refused.code == StatusCode::FORBIDDEN && message.ends_with("Cedar: forbidden by policy \"readers.no-secrets\""), "{message}");
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "secrets", "namespace": "default"}},
    });
    let said = world.house.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await.ok();
    assert_eq!((&said["status"]["allowed"], &said["status"]["denied"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn policies_in_objects_count_while_they_are_there_over_requests_and_over_writes() {
    let mut world = World::new().await;
    world.house.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition()).await.ok();
    world.until(Method::GET, POLICIES, &Value::Null, StatusCode::OK).await;
    let refused = world.house.post(POLICIES, &policy("broken", "permit (principal", false)).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json()["details"]["causes"][0]["field"], "spec.content");
    let unknown =
        r#"permit (principal is k8s::User, action == k8s::Action::"get", resource is k8s::Resource) when { resource.color == "red" };"#;
    let refused = world.house.post(POLICIES, &policy("strict", unknown, true)).await;
    assert!(refused.code == StatusCode::UNPROCESSABLE_ENTITY && refused.json()["message"].as_str().unwrap().contains("color"));
    world.house.post(&format!("{POLICIES}?dryRun=All"), &policy("permissive", unknown, false)).await.ok();

    world.house.post(POLICIES, &policy("makers", OBJECT, false)).await.ok();
    world.be("mary", &[]);
    world.until(Method::POST, MAPS, &map("free", "no"), StatusCode::CREATED).await;
    world.house.post(MAPS, &map("locked", "yes")).await.ok();
    world.house.put(&format!("{MAPS}/free"), &map("free", "never")).await.ok();
    for method in [Method::PUT, Method::DELETE] {
        let body = if method == Method::PUT { map("locked", "yes").to_string() } else { String::new() };
        let headers = [("content-type", "application/json")];
        let refused = world.house.ask(method.clone(), &format!("{MAPS}/locked"), &headers, body).await;
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(
            (refused.code, &*message),
            (StatusCode::FORBIDDEN, r#"configmaps "locked" is forbidden: Cedar: forbidden by policy "makers.locked""#),
            "{method}"
        );
    }
    // A policy over admission is asked of the superuser, too.
    world.be_admin();
    assert_eq!(world.house.delete(&format!("{MAPS}/locked")).await.code, StatusCode::FORBIDDEN);

    world.house.delete(&format!("{POLICIES}/makers")).await.ok();
    world.until(Method::DELETE, &format!("{MAPS}/locked"), &Value::Null, StatusCode::OK).await;
    world.be("mary", &[]);
    assert_eq!(world.house.get(&format!("{MAPS}/free")).await.code, StatusCode::FORBIDDEN);
}
