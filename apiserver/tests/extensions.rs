//! Kinds that CRDs define, from outside: served at once, in every version, until their CRD is gone.

use std::sync::Arc;

use coracle_store::{Store, embedded};
use coracle_tree::{Value, json};
use http::{Method, StatusCode};

use crate::house::House;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn version(name: &str, storage: bool, properties: &Value) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
    })
}

fn crd(versions: &[Value]) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["all"]},
        },
    })
}

fn spec() -> Value {
    json!({"spec": {"type": "object", "properties": {
        "color": {"type": "string", "default": "blue"}, "size": {"type": "integer", "minimum": 1}, "replicas": {"type": "integer"},
    }}})
}

fn with_status() -> Value {
    let mut properties = spec();
    properties["status"] = json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}}});
    properties
}

fn widget(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

fn condition<'v>(crd: &'v Value, of: &str) -> (&'v str, &'v str) {
    let found = crd["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == of);
    found.map_or(("", ""), |c| (c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
}

async fn define(house: &House, crd: &Value) -> Value {
    house.post(CRDS, crd).await.ok();
    house.get(&format!("{CRDS}/{}", crd["metadata"]["name"].as_str().unwrap())).await.ok()
}

/// Asks until an answer is as wanted; the server's own tasks get their turns in between.
async fn until(house: &House, path: &str, done: impl Fn(&crate::house::Reply) -> bool) {
    for _ in 0..2000 {
        if done(&house.get(path).await) {
            return;
        }
        tokio::task::yield_now().await;
    }
    let last = house.get(path).await;
    panic!("{path}: {} {}", last.code, String::from_utf8_lossy(&last.body));
}

/// Defines widgets of `example.com/v1`.
pub(crate) async fn define_widgets(house: &House) {
    define(house, &crd(&[version("v1", true, &spec())])).await;
}

#[tokio::test]
async fn a_version_that_is_built_in_stays_as_it_is_whatever_is_defined_in_its_group() {
    let house = House::new().await;
    let mut bars = crd(&[version("v1", true, &spec()), version("v9", false, &spec())]);
    let annotations = json!({"api-approved.kubernetes.io": "unapproved, a test"});
    bars["metadata"] = json!({"name": "bars.rbac.authorization.k8s.io", "annotations": annotations});
    bars["spec"]["group"] = json!("rbac.authorization.k8s.io");
    bars["spec"]["names"] = json!({"plural": "bars", "singular": "bar", "kind": "Bar", "listKind": "BarList"});
    define(&house, &bars).await;
    let names = async |version: &str| {
        let list = house.get(&format!("/apis/rbac.authorization.k8s.io/{version}")).await.ok();
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("v9").await, ["bars"]);
    let built_in = names("v1").await;
    assert!(built_in.contains(&"roles".to_owned()) && !built_in.contains(&"bars".to_owned()), "{built_in:?}");
    let bars = |version: &str| format!("/apis/rbac.authorization.k8s.io/{version}/namespaces/default/bars");
    assert_eq!(house.get(&bars("v1")).await.code, StatusCode::NOT_FOUND);
    house.get(&bars("v9")).await.ok();
}

#[tokio::test]
async fn a_kind_is_served_discoverable_and_published_when_its_definition_is_answered() {
    let house = House::new().await;
    assert_eq!(house.get(WIDGETS).await.code, StatusCode::NOT_FOUND);
    let made = define(&house, &crd(&[version("v1", true, &spec())])).await;
    assert_eq!(
        (condition(&made, "NamesAccepted"), condition(&made, "Established")),
        (("True", "NoConflicts"), ("True", "InitialNamesAccepted"))
    );
    assert_eq!(made["status"]["acceptedNames"]["shortNames"], json!(["wd"]));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    // Definitions are stored as JSON, so that a list without items stays one.
    let mut empty = made.clone();
    empty["status"]["conditions"] = json!([]);
    let path = format!("{CRDS}/{}/status?dryRun=All", made["metadata"]["name"].as_str().unwrap());
    assert_eq!(house.put(&path, &empty).await.ok()["status"]["conditions"], json!([]));
    let list = house.get(WIDGETS).await.ok();
    assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("WidgetList"), Some("example.com/v1")));

    let resources = house.get("/apis/example.com/v1").await.ok();
    let line = &resources["resources"][0];
    assert_eq!((line["name"].as_str(), &line["shortNames"], &line["categories"]), (Some("widgets"), &json!(["wd"]), &json!(["all"])));
    assert!(line["storageVersionHash"].is_string());
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let groups = house.ask(Method::GET, "/apis", &accept, "").await.ok();
    let group = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "example.com").unwrap();
    assert_eq!(group["versions"][0]["resources"][0]["responseKind"]["kind"], "Widget");
    let index = house.get("/openapi/v3").await.ok();
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = house.get(&url).await.ok();
    assert_eq!(document["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["color"]["type"], "string");
    assert!(document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"].is_object());
    // What is of no version has documents, too, and groups of custom resources have none.
    let url = index["paths"]["apis/apps"]["serverRelativeURL"].as_str().unwrap();
    assert!(house.get(url).await.ok()["paths"]["/apis/apps/"]["get"].is_object());
    assert_eq!(house.get("/openapi/v3/apis/example.com").await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn objects_are_pruned_defaulted_validated_and_patched() {
    let house = House::new().await;
    define(&house, &crd(&[version("v1", true, &spec())])).await;
    let made = house.post(WIDGETS, &widget("w", &json!({"size": 2, "unknown": 1}))).await;
    assert!(
        made.headers.get_all("warning").iter().any(|w| w.to_str().unwrap().contains("unknown field \\\"spec.unknown\\\"")),
        "{:?}",
        made.headers
    );
    let made = made.ok();
    assert_eq!((&made["spec"], made["metadata"]["generation"].as_i64()), (&json!({"size": 2, "color": "blue"}), Some(1)));
    let bad = house.post(WIDGETS, &widget("bad", &json!({"size": 0}))).await;
    assert_eq!(bad.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        bad.json()["message"],
        "Widget.example.com \"bad\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
    );

    let merged = house.patch(&format!("{WIDGETS}/w"), "application/merge-patch+json", &json!({"spec": {"size": 3}})).await.ok();
    assert_eq!((merged["spec"]["size"].as_i64(), merged["metadata"]["generation"].as_i64()), (Some(3), Some(2)));
    let labelled =
        house.patch(&format!("{WIDGETS}/w"), "application/merge-patch+json", &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 2);
    let strategic = house.patch(&format!("{WIDGETS}/w"), "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!((strategic.code, strategic.json()["reason"].as_str()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("UnsupportedMediaType")));
    let applied = widget("applied", &json!({"size": 5}));
    let path = format!("{WIDGETS}/applied?fieldManager=me");
    let applied = house.ask(Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], applied.to_string()).await.ok();
    assert_eq!(applied["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:size": {}}}));

    let unconditional = house.put(&format!("{WIDGETS}/w"), &widget("w", &json!({"size": 9}))).await;
    assert_eq!(unconditional.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        unconditional.json()["message"]
            .as_str()
            .unwrap()
            .contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{}",
        unconditional.json()
    );
    let missing = house.get(&format!("{WIDGETS}/none")).await;
    assert_eq!(missing.json()["message"], "widgets.example.com \"none\" not found");
}

#[tokio::test]
async fn rules_that_say_the_same_are_each_a_cause() {
    let house = House::new().await;
    let rule = |rule: &str| json!({"rule": rule, "message": "no colour"});
    let color = json!({"type": "string", "x-kubernetes-validations": [rule("self == 'red'"), rule("self.startsWith('r')")]});
    let spec = json!({"spec": {"type": "object", "properties": {"color": color}}});
    define(&house, &crd(&[version("v1", true, &spec)])).await;
    let bad = house.post(WIDGETS, &widget("bad", &json!({"color": "x"}))).await.json();
    let fault = "Invalid value: \"x\": no colour";
    assert_eq!(bad["message"], format!("Widget.example.com \"bad\" is invalid: spec.color: {fault}"));
    let cause = json!({"reason": "FieldValueInvalid", "message": fault, "field": "spec.color"});
    assert_eq!(bad["details"]["causes"], json!([cause, cause]));
}

#[tokio::test]
async fn status_and_scale_are_written_apart() {
    let house = House::new().await;
    let mut v1 = version("v1", true, &with_status());
    v1["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    define(&house, &crd(&[v1])).await;
    let mut sent = widget("w", &json!({"replicas": 2}));
    sent["status"] = json!({"phase": "Ready"});
    let made = house.post(WIDGETS, &sent).await.ok();
    assert!(made.get("status").is_none(), "{made}");

    let mut change = made.clone();
    change["status"] = json!({"phase": "Ready", "replicas": 1, "selector": "a=b"});
    change["spec"]["replicas"] = 7.into();
    change["metadata"]["labels"] = json!({"x": "y"});
    let written = house.put(&format!("{WIDGETS}/w/status"), &change).await.ok();
    assert_eq!((&written["status"]["phase"], &written["spec"]["replicas"]), (&json!("Ready"), &json!(2)));
    assert_eq!((written["metadata"].get("labels"), written["metadata"]["generation"].as_i64()), (None, Some(1)));

    let scale = house.get(&format!("{WIDGETS}/w/scale")).await.ok();
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]),
        (&json!("Scale"), &json!(2), &json!({"replicas": 1, "selector": "a=b"}))
    );
    let scaled = house.patch(&format!("{WIDGETS}/w/scale"), "application/merge-patch+json", &json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let now = house.get(&format!("{WIDGETS}/w")).await.ok();
    assert_eq!(
        (&now["spec"]["replicas"], &now["metadata"]["generation"], &now["status"]["phase"]),
        (&json!(5), &json!(2), &json!("Ready"))
    );
    // As `kubectl scale` and autoscalers of few words send it.
    let bare = house.put(&format!("{WIDGETS}/w/scale"), &json!({"metadata": {"name": "w"}, "spec": {"replicas": 8}})).await.ok();
    assert_eq!(bare["spec"]["replicas"], 8);
    let stale = json!({"metadata": {"name": "w", "resourceVersion": "1"}, "spec": {"replicas": 9}});
    assert_eq!(house.put(&format!("{WIDGETS}/w/scale"), &stale).await.code, StatusCode::CONFLICT);
    let other = json!({"metadata": {"name": "w", "uid": "u"}, "spec": {"replicas": 9}});
    for (query, key) in [("", "Key: /registry/example.com/widgets/default/w,"), ("?dryRun=All", "Key: /example.com/widgets/default/w,")] {
        let refused = house.put(&format!("{WIDGETS}/w/scale{query}"), &other).await;
        assert_eq!(refused.code, StatusCode::CONFLICT);
        assert!(refused.json()["message"].as_str().unwrap().contains(key), "{}", refused.json());
    }
    let applied = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "w"}, "spec": {"replicas": 6}});
    let path = format!("{WIDGETS}/w/scale?fieldManager=me&force=true");
    house.ask(Method::PATCH, &path, &[("content-type", "application/apply-patch+yaml")], applied.to_string()).await.ok();
    assert_eq!(house.get(&format!("{WIDGETS}/w")).await.ok()["spec"]["replicas"], 6);
    let none = house.get("/apis/example.com/v1/namespaces/default/widgets/w/none").await;
    assert_eq!(none.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn versions_differ_in_name_only_when_nobody_converts() {
    let house = House::new().await;
    let mut beta = version("v1beta1", false, &spec());
    beta["deprecated"] = true.into();
    define(&house, &crd(&[beta, version("v1", true, &spec())])).await;
    house.post(WIDGETS, &widget("w", &json!({"size": 2}))).await.ok();
    let old = WIDGETS.replace("v1", "v1beta1");
    let read = house.get(&format!("{old}/w")).await;
    assert_eq!(read.headers["warning"], "299 - \"example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget\"");
    assert_eq!(read.ok()["apiVersion"], "example.com/v1beta1");
    let listed = house.get(&old).await.ok();
    assert_eq!((&listed["items"][0]["apiVersion"], &listed["apiVersion"]), (&json!("example.com/v1beta1"), &json!("example.com/v1beta1")));
    let mut other = widget("x", &json!({"size": 3}));
    other["apiVersion"] = "example.com/v1beta1".into();
    assert_eq!(house.post(&old, &other).await.ok()["apiVersion"], "example.com/v1beta1");
    assert_eq!(house.get(&format!("{WIDGETS}/x")).await.ok()["apiVersion"], "example.com/v1");
    house.post(WIDGETS, &widget("y", &json!({"color": "x".repeat(150_000)}))).await.ok();
    for path in [WIDGETS, &old] {
        assert!(house.gunzipped(path, "application/json").await.body == house.get(path).await.body, "{path}");
    }

    // From now on v1beta1 is stored: what is stored already is read as it, and v1 still answers.
    let mut now = house.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    now["spec"]["versions"] = json!([version("v1beta1", true, &spec()), version("v1", false, &spec())]);
    house.put(&format!("{CRDS}/widgets.example.com"), &now).await.ok();
    for path in [format!("{old}/w"), format!("{WIDGETS}/w")] {
        let version = if path.starts_with(&old) { "example.com/v1beta1" } else { "example.com/v1" };
        assert_eq!(house.get(&path).await.ok()["apiVersion"], version, "{path}");
    }
    let crd = house.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v1beta1"]));
}

#[tokio::test]
async fn what_is_read_has_the_defaults_of_the_version_it_is_stored_in_and_what_is_sent_those_of_its_own() {
    let house = House::new().await;
    let spec = |own: &str| {
        let field = |name: &str| if name == own { json!({"type": "string", "default": name}) } else { json!({"type": "string"}) };
        json!({"spec": {"type": "object", "default": {}, "properties": {"beta": field("beta"), "one": field("one"), "late": field("")}}})
    };
    let mut made = define(&house, &crd(&[version("v1beta1", false, &spec("beta")), version("v1", true, &spec("one"))])).await;
    let beta = WIDGETS.replace("v1", "v1beta1");
    let mut sent = widget("w", &json!({}));
    sent["apiVersion"] = "example.com/v1beta1".into();
    assert_eq!(house.post(&beta, &sent).await.ok()["spec"], json!({"beta": "beta", "one": "one"}));
    house.post(WIDGETS, &widget("x", &json!({}))).await.ok();
    assert_eq!(house.get(&format!("{beta}/x")).await.ok()["spec"], json!({"one": "one"}));
    made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["late"]["default"] = "late".into();
    house.put(&format!("{CRDS}/widgets.example.com"), &made).await.ok();
    assert_eq!(house.get(&format!("{beta}/x")).await.ok()["spec"], json!({"one": "one"}));
    let merge = "application/merge-patch+json";
    let patched = house.patch(&format!("{beta}/x"), merge, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(patched["spec"], json!({"beta": "beta", "late": "late", "one": "one"}));
}

#[tokio::test]
async fn an_apply_of_null_clears_what_may_be_null_and_is_refused_elsewhere() {
    let house = House::new().await;
    let labels = |nullable: bool| json!({"type": "object", "nullable": nullable, "additionalProperties": {"type": "string"}});
    let spec = json!({"type": "object", "properties": {"may": labels(true), "not": labels(false)}});
    define(&house, &crd(&[version("v1", true, &json!({"spec": spec}))])).await;
    let apply = async |spec: Value| {
        let path = format!("{WIDGETS}/w?fieldManager=me");
        house.patch(&path, "application/apply-patch+yaml", &widget("w", &spec)).await
    };
    apply(json!({"may": {"a": "1"}, "not": {"a": "1"}})).await.ok();
    assert_eq!(apply(json!({"may": null, "not": {"a": "1"}})).await.ok()["spec"], json!({"may": null, "not": {"a": "1"}}));
    let refused = apply(json!({"not": null})).await;
    let told = "spec.not: Invalid value: \"null\": spec.not in body must be of type object: \"null\"";
    assert_eq!(refused.json()["message"], format!("Widget.example.com \"w\" is invalid: {told}"));
}

#[tokio::test]
async fn an_update_without_a_change_brings_an_object_into_the_version_that_is_stored_now() {
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let house = House::over(store.clone(), None).await;
    define(&house, &crd(&[version("v1", true, &spec())])).await;
    let made = house.post(WIDGETS, &widget("w", &json!({"size": 2}))).await.ok();
    let path = format!("{WIDGETS}/w");
    let nothing = async || house.patch(&path, "application/merge-patch+json", &json!({})).await.ok();
    assert_eq!(nothing().await, made);
    let mut now = house.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    now["spec"]["versions"] = json!([version("v1", false, &spec()), version("v2", true, &spec())]);
    house.put(&format!("{CRDS}/widgets.example.com"), &now).await.ok();

    let moved = nothing().await;
    let entry = store.get(&"/registry/example.com/widgets/default/w".into()).await.unwrap().value.unwrap();
    assert!(entry.value.starts_with(br#"{"apiVersion":"example.com/v2","#), "{}", String::from_utf8_lossy(&entry.value));
    assert_eq!((&moved["apiVersion"], &moved["metadata"]["resourceVersion"]), (&made["apiVersion"], &json!(entry.revision.0.to_string())));
    assert_eq!(nothing().await, moved, "once");
}

#[tokio::test]
async fn a_changed_schema_counts_for_objects_that_are_there() {
    let house = House::new().await;
    define(&house, &crd(&[version("v1", true, &spec())])).await;
    house.post(WIDGETS, &widget("w", &json!({"size": 2, "color": "red"}))).await.ok();
    let mut now = house.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    now["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        json!({"size": {"type": "integer"}, "shape": {"type": "string", "default": "round"}});
    house.put(&format!("{CRDS}/widgets.example.com"), &now).await.ok();
    assert_eq!(house.get(&format!("{WIDGETS}/w")).await.ok()["spec"], json!({"size": 2, "shape": "round"}));
    // A version that is no longer served is not there.
    now = house.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    now["spec"]["versions"] = json!([version("v1", true, &spec()), version("v2", false, &spec())]);
    now["spec"]["versions"][0]["served"] = false.into();
    house.put(&format!("{CRDS}/widgets.example.com"), &now).await.ok();
    assert_eq!(house.get(WIDGETS).await.code, StatusCode::NOT_FOUND);
    assert_eq!(house.get(&format!("{}/w", WIDGETS.replace("v1", "v2"))).await.ok()["apiVersion"], "example.com/v2");
}

#[tokio::test]
async fn columns_and_selectable_fields_are_those_of_the_version() {
    let house = House::new().await;
    let mut v1 = version("v1", true, &spec());
    v1["additionalPrinterColumns"] = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}, {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    v1["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    define(&house, &crd(&[v1])).await;
    house.post(WIDGETS, &widget("a", &json!({"size": 2, "color": "red"}))).await.ok();
    house.post(WIDGETS, &widget("b", &json!({"size": 3}))).await.ok();
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = house.ask(Method::GET, WIDGETS, &accept, "").await.ok();
    let names: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((names, &table["rows"][0]["cells"][1]), (vec!["Name", "Size", "Age"], &json!(2)));
    for (selector, expected) in [("spec.color%3Dred", "a"), ("spec.color!%3Dred", "b"), ("spec.color%3Dblue,metadata.name%3Db", "b")] {
        let list = house.get(&format!("{WIDGETS}?fieldSelector={selector}")).await.ok();
        let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, [expected], "{selector}");
    }
    let unknown = house.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D2")).await;
    assert_eq!((unknown.code, unknown.json()["message"].as_str()), (StatusCode::BAD_REQUEST, Some("field label not supported: spec.size")));
}

#[tokio::test]
async fn names_another_has_are_not_granted_until_they_are_free() {
    let house = House::new().await;
    define(&house, &crd(&[version("v1", true, &spec())])).await;
    let mut second = crd(&[version("v1", true, &spec())]);
    second["metadata"]["name"] = "wares.example.com".into();
    second["spec"]["names"] = json!({"plural": "wares", "singular": "ware", "kind": "Widget", "listKind": "WareList"});
    let refused = define(&house, &second).await;
    assert_eq!(
        (condition(&refused, "NamesAccepted"), condition(&refused, "Established")),
        (("False", "KindConflict"), ("False", "NotAccepted"))
    );
    assert_eq!(house.get("/apis/example.com/v1/namespaces/default/wares").await.code, StatusCode::NOT_FOUND);
    house.delete(&format!("{CRDS}/widgets.example.com")).await.ok();
    until(&house, "/apis/example.com/v1/namespaces/default/wares", |reply| reply.code == StatusCode::OK).await;
    // Its status says so a moment after it is served.
    let granted = |reply: &crate::house::Reply| condition(&reply.json(), "Established") == ("True", "InitialNamesAccepted");
    until(&house, &format!("{CRDS}/wares.example.com"), granted).await;
}

#[tokio::test]
async fn a_definition_goes_after_its_objects_and_may_come_back() {
    let house = House::new().await;
    define(&house, &crd(&[version("v1", true, &spec())])).await;
    let mut held = widget("held", &json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    house.post(WIDGETS, &held).await.ok();
    house.post(WIDGETS, &widget("free", &json!({"size": 1}))).await.ok();
    let going = house.delete(&format!("{CRDS}/widgets.example.com")).await.ok();
    assert_eq!(condition(&going, "Terminating"), ("True", "InstanceDeletionPending"));
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    until(&house, &format!("{WIDGETS}/free"), |reply| reply.code == StatusCode::NOT_FOUND).await;
    let refused = house.post(WIDGETS, &widget("late", &json!({"size": 1}))).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    let why = "widgets.example.com \"late\" is forbidden: create not allowed while custom resource definition is terminating";
    assert_eq!(refused.json()["message"], why);
    let resources = house.get("/apis/example.com/v1").await.ok();
    assert_eq!(resources["resources"][0]["verbs"], json!(["delete", "deletecollection", "get", "list", "watch"]));
    let still = house.get(&format!("{CRDS}/widgets.example.com")).await.ok();
    assert_eq!(condition(&still, "Terminating"), ("True", "InstanceDeletionInProgress"));

    house.patch(&format!("{WIDGETS}/held"), "application/merge-patch+json", &json!({"metadata": {"finalizers": null}})).await.ok();
    until(&house, &format!("{CRDS}/widgets.example.com"), |reply| reply.code == StatusCode::NOT_FOUND).await;
    until(&house, WIDGETS, |reply| reply.code == StatusCode::NOT_FOUND).await;
    assert_eq!(house.get("/apis/example.com/v1").await.code, StatusCode::NOT_FOUND);
    define(&house, &crd(&[version("v1", true, &spec())])).await;
    assert_eq!(house.get(WIDGETS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn what_was_defined_is_served_after_a_restart() {
    let store: std::sync::Arc<dyn coracle_store::Store> =
        std::sync::Arc::new(coracle_store::embedded::Embedded::open(&coracle_store::embedded::Options::memory()).unwrap());
    let first = House::over(store.clone(), None).await;
    define(&first, &crd(&[version("v1", true, &spec())])).await;
    first.post(WIDGETS, &widget("w", &json!({"size": 2}))).await.ok();
    first.server.close().await;
    drop(first);
    let second = House::over(store, None).await;
    assert_eq!(second.get(&format!("{WIDGETS}/w")).await.ok()["spec"], json!({"size": 2, "color": "blue"}));
    assert_eq!(second.get("/apis/example.com/v1").await.ok()["resources"][0]["name"], "widgets");
}
