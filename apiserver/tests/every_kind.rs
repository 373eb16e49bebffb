//! Every row of the tables is served: in discovery, in OpenAPI, and by its verbs.

use coracle_schema::Tables;
use http::StatusCode;

use crate::house::House;

fn collection(group: &str, version: &str, plural: &str) -> String {
    if group.is_empty() { format!("/api/{version}/{plural}") } else { format!("/apis/{group}/{version}/{plural}") }
}

#[tokio::test]
async fn every_kind_is_listed_watched_discovered_and_documented() {
    let house = House::new().await;
    for row in &Tables::load().unwrap().resources {
        let path = collection(row.group, row.version, row.plural);
        let parent = path.rsplit_once('/').unwrap().0;
        let discovered = house.get(parent).await.ok();
        assert!(discovered["resources"].as_array().unwrap().iter().any(|r| r["name"] == row.plural), "{path}");
        if row.verbs.contains(&"list") {
            let list = house.get(&path).await.ok();
            assert_eq!(list["kind"], format!("{}List", row.kind), "{path}");
        }
        let base = if row.namespaced { format!("{parent}/namespaces/default/{}", row.plural) } else { path.clone() };
        if row.verbs.contains(&"get") {
            let missing = house.get(&format!("{base}/missing")).await;
            assert_eq!(missing.code, StatusCode::NOT_FOUND, "{base}");
            // Upstream's storage of these is not called by the resource's name.
            let of = if row.plural == "componentstatuses" { "componentstatus" } else { row.plural };
            assert_eq!(missing.json()["details"]["kind"], of, "{base}");
        }
        if row.verbs.contains(&"watch") {
            let answer = house.open(http::Method::GET, &format!("{path}?watch=true"), &[], "").await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
        }
        if row.verbs.contains(&"deletecollection") {
            house.delete(&format!("{base}?labelSelector=no%3Dbody")).await.ok();
        }
    }
    for group in &Tables::load().unwrap().groups {
        if Tables::load().unwrap().resources.iter().any(|r| r.group == group.group && r.version == group.version) {
            let path = coracle_schema::openapi::document_path(group.group, group.version);
            let document = house.get(&format!("/openapi/v3/{path}")).await.ok();
            assert!(!document["paths"].as_object().unwrap().is_empty(), "{path}");
        }
    }
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let house = House::new().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(house.get(path).await.body, "ok", "{path}");
    }
    assert!(String::from_utf8_lossy(&house.get("/readyz?verbose").await.body).ends_with("readyz check passed\n"));
    assert_eq!(house.get("/version").await.ok()["minor"], "37");
    house.get("/api/v1/pods").await.ok();
    assert!(String::from_utf8_lossy(&house.get("/metrics").await.body).contains("apiserver_request_total{code=\"200\""));
    assert_eq!(house.get("/nowhere").await.code, StatusCode::NOT_FOUND);
    assert_eq!(house.get("/apis/apps/v1/nothings").await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn documents_are_not_sent_twice_to_those_who_have_them() {
    let house = House::new().await;
    let first = house.get("/openapi/v3/apis/apps/v1").await;
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    let again = house.ask(http::Method::GET, "/openapi/v3/apis/apps/v1", &[("if-none-match", &etag)], "").await;
    assert_eq!((again.code, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
    let aggregated = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json");
    assert_eq!(house.ask(http::Method::GET, "/apis", &[aggregated], "").await.ok()["kind"], "APIGroupDiscoveryList");
    assert_eq!(house.get("/apis").await.ok()["kind"], "APIGroupList");
}
