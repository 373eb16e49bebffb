//! Versions that are served only if they are asked for.

use std::sync::Arc;

use coracle_apiserver::{Options, unfinished};
use coracle_store::embedded;
use coracle_tree::{Value, json};
use http::{Method, StatusCode};

use crate::house::House;

const CLASSES: &str = "/apis/resource.k8s.io/v1beta2/deviceclasses";
const FINISHED: &str = "/apis/resource.k8s.io/v1/deviceclasses";

async fn house(asked: &[(&str, &str)]) -> House {
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let versions = asked.iter().map(|(group, version)| ((*group).to_owned(), (*version).to_owned())).collect();
    House::of(Options { versions, ..House::options(store) }).await
}

fn names(list: &Value, at: &str) -> Vec<String> {
    list[at].as_array().unwrap().iter().map(|of| of["name"].as_str().or(of["version"].as_str()).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_version_is_served_if_it_is_asked_for_and_nowhere_else() {
    let (without, with) = (house(&[]).await, house(&[("resource.k8s.io", "v1beta2")]).await);
    for path in [CLASSES, "/apis/resource.k8s.io/v1beta2", "/openapi/v3/apis/resource.k8s.io/v1beta2"] {
        assert_eq!(without.get(path).await.code, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(with.get(path).await.code, StatusCode::OK, "{path}");
    }
    assert_eq!(with.get("/apis/resource.k8s.io/v1beta1").await.code, StatusCode::NOT_FOUND, "nobody asked for it");
    assert_eq!(with.get("/apis/certificates.k8s.io/v1beta1").await.code, StatusCode::NOT_FOUND, "nobody asked for it");
    assert_eq!(names(&with.get("/apis/resource.k8s.io").await.ok(), "versions"), ["v1", "v1beta2"]);
    let hashes = |list: &Value| {
        let of = |entry: &Value| (entry["name"].to_string(), entry["storageVersionHash"].to_string());
        list["resources"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let (finished, other) = (with.get("/apis/resource.k8s.io/v1").await.ok(), with.get("/apis/resource.k8s.io/v1beta2").await.ok());
    assert_eq!(hashes(&finished), hashes(&other), "both are kept as one");
    let service = with.get("/apis/apiregistration.k8s.io/v1/apiservices/v1beta2.resource.k8s.io").await.ok();
    assert_eq!((&service["spec"]["versionPriority"], &service["spec"]["groupPriorityMinimum"]), (&json!(15), &json!(16200)));
    let document = with.get("/openapi/v3/apis/resource.k8s.io/v1beta2").await.ok();
    assert!(document["components"]["schemas"]["io.k8s.api.resource.v1beta2.DeviceClassSpec"].is_object());
}

#[tokio::test]
async fn objects_are_the_same_in_either_version() {
    let house = house(&[("resource.k8s.io", "v1beta2")]).await;
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": "true"}}]}});
    let made = house.post(CLASSES, &class).await;
    let warning = made.headers.get("warning").unwrap().to_str().unwrap();
    assert_eq!(warning, "299 - \"resource.k8s.io/v1beta2 DeviceClass is deprecated in v1.36+, unavailable in v1.39+\"");
    assert_eq!(made.ok()["apiVersion"], "resource.k8s.io/v1beta2");
    let read = house.get(&format!("{FINISHED}/gpu")).await.ok();
    assert_eq!((&read["apiVersion"], &read["spec"]), (&json!("resource.k8s.io/v1"), &class["spec"]));
    let list = house.get(CLASSES).await.ok();
    assert_eq!((&list["apiVersion"], list["items"].as_array().unwrap().len()), (&json!("resource.k8s.io/v1beta2"), 1));
    // Who owns what is told in the version it was written in.
    let applied = |version: &str, manager: &str, label: &str| {
        let object = json!({"apiVersion": format!("resource.k8s.io/{version}"), "kind": "DeviceClass", "metadata": {"name": "gpu", "labels": {"of": label}}});
        let path = format!("/apis/resource.k8s.io/{version}/deviceclasses/gpu?fieldManager={manager}");
        (path, object.to_string())
    };
    let apply = [("content-type", "application/apply-patch+yaml")];
    let (path, object) = applied("v1beta2", "one", "one");
    let owned = house.ask(Method::PATCH, &path, &apply, object).await.ok();
    let of_one = owned["metadata"]["managedFields"].as_array().unwrap().iter().find(|of| of["manager"] == "one").unwrap();
    assert_eq!(of_one["apiVersion"], "resource.k8s.io/v1beta2");
    let (path, object) = applied("v1", "two", "two");
    let refused = house.ask(Method::PATCH, &path, &apply, object).await;
    assert_eq!((refused.code, &refused.json()["details"]["causes"][0]["field"]), (StatusCode::CONFLICT, &json!(".metadata.labels.of")));
    let message = house.ask(Method::GET, &format!("{CLASSES}/gpu"), &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    assert!(message.body.windows(23).any(|part| part == b"resource.k8s.io/v1beta2"), "{:?}", message.body);
}

#[tokio::test]
async fn every_version_there_is_answers() {
    let all: Vec<(&str, &str)> = unfinished().collect();
    let house = house(&all).await;
    for (group, version) in all {
        let list = house.get(&format!("/apis/{group}/{version}")).await.ok();
        let names = names(&list, "resources");
        assert!(!names.is_empty(), "{group}/{version}");
        for resource in names.iter().filter(|name| !name.contains('/')) {
            let listed = house.get(&format!("/apis/{group}/{version}/{resource}")).await.ok();
            assert_eq!(listed["apiVersion"], format!("{group}/{version}"));
        }
    }
}
