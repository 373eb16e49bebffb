//! Of the documents of version 3.

use super::*;
use crate::discovery::built_in;

fn references<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|v| references(v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}

#[test]
fn every_reference_of_every_document_leads_to_a_definition() {
    for (path, document) in documents() {
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty() || path.contains("openid"), "{path}");
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{path}: {name}");
        }
    }
}

#[test]
fn a_deployments_paths_carry_what_kubectl_looks_for() {
    let documents = documents();
    let (_, apps) = documents.iter().find(|(path, _)| path == "apis/apps/v1").unwrap();
    let one = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!((&one["patch"]["x-kubernetes-action"], &one["patch"]["x-kubernetes-group-version-kind"]), (&json!("patch"), &kind));
    let parameters: Vec<&str> = one["patch"]["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(parameters, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(apps["paths"]["/apis/apps/v1/deployments"]["get"]["x-kubernetes-action"], "list");
    let spec = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(spec["required"], json!(["selector", "template"]));
    assert_eq!(spec["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    let pod = &apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!((&pod["x-kubernetes-list-type"], &pod["x-kubernetes-list-map-keys"]), (&json!("map"), &json!(["name"])));
    assert!(pod["description"].as_str().unwrap().contains("containers"), "in Kubernetes' own words");
    assert_eq!((&pod["x-kubernetes-patch-strategy"], &pod["x-kubernetes-patch-merge-key"]), (&json!("merge"), &json!("name")));
}

#[test]
fn the_index_names_every_document_and_its_hash_follows_the_resources() {
    let tables = Tables::load().unwrap();
    let discovery = Discovery::new(built_in(&tables));
    let index = |seed| super::index(&tables, &discovery, seed);
    let first = index("a");
    let url = first["paths"]["apis/batch/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/batch/v1?hash="));
    assert_ne!(first, index("b"));
    assert_eq!(first, index("a"));
    let named: Vec<&str> = first["paths"].as_object().unwrap().keys().map(coracle_tree::Text::as_str).collect();
    for (path, _) in documents() {
        assert!(named.contains(&path.as_str()), "{path}");
    }
}

#[test]
fn a_custom_kind_has_paths_for_its_definition_and_a_list() {
    let tables = Tables::load().unwrap();
    let entry = Entry {
        group: "example.com".into(),
        version: "v1".into(),
        plural: "widgets".into(),
        kind: "Widget".into(),
        namespaced: true,
        verbs: ["create", "delete", "get", "list", "patch", "watch"].map(str::to_owned).to_vec(),
        ..Entry::default()
    };
    let metadata = json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]});
    let widget = json!({"type": "object", "properties": {"metadata": metadata},
        "x-kubernetes-group-version-kind": [{"group": "example.com", "version": "v1", "kind": "Widget"}]});
    let custom = Map::from_iter([("com.example.v1.Widget".to_owned(), widget)]);
    let made = document(&tables, "example.com", "v1", &[entry], &custom, "v1.37.1");
    let paths = &made["paths"];
    let all = &paths["/apis/example.com/v1/widgets"]["get"];
    assert_eq!(all["operationId"], "listExampleComV1WidgetForAllNamespaces");
    let one = &paths["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
    assert!(one["patch"]["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null());
    let schemas = &made["components"]["schemas"];
    assert_eq!(schemas["com.example.v1.WidgetList"]["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.v1.Widget");
    assert!(schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
}

#[test]
fn what_belongs_to_no_version_has_a_document_of_its_own() {
    let tables = Tables::load().unwrap();
    let at = |path: &str| general::documents(&tables, |known| known == path, "v1.37.1").pop();
    let made = |path: &str| at(path).unwrap();
    let group = made("apis/rbac.authorization.k8s.io");
    let get = &group["paths"]["/apis/rbac.authorization.k8s.io/"]["get"];
    assert_eq!((&get["operationId"], &get["tags"][0]), (&json!("getRbacAuthorizationAPIGroup"), &json!("rbacAuthorization")));
    let schemas = &group["components"]["schemas"];
    assert!(schemas["io.k8s.apimachinery.pkg.apis.meta.v1.GroupVersionForDiscovery"].is_object(), "{schemas}");
    let version = made("version");
    let info = &version["components"]["schemas"]["io.k8s.apimachinery.pkg.version.Info"];
    assert_eq!((&info["properties"]["gitVersion"]["type"], &info["required"][0]), (&json!("string"), &json!("major")));
    assert_eq!(at("apis/example.com"), None);
}
