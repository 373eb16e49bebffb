//! The same objects in every encoding and form, and what is refused.

use std::sync::Arc;

use bytes::Bytes;
use coracle_apiserver::{Options, StorageMediaType};
use coracle_schema::{SchemaRef, Tables, proto};
use coracle_store::{Store, embedded};
use coracle_tree::{Value, json};
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use crate::house::{House, Reply};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A house with two config maps, `a` and `b`.
async fn house() -> House {
    let house = House::new().await;
    for name in ["a", "b"] {
        let map = json!({"metadata": {"name": name, "labels": {"of": name}}, "data": {"k": "v"}, "binaryData": {"b": "AP8="}});
        house.post(MAPS, &map).await.ok();
    }
    house
}

async fn accepting(house: &House, path: &str, accept: &str) -> Reply {
    house.ask(Method::GET, path, &[("accept", accept)], "").await
}

fn message(name: &str) -> SchemaRef {
    Tables::load().unwrap().message(name).unwrap()
}

/// What a protobuf body says, as a value.
fn read(body: &[u8], schema: &SchemaRef) -> Value {
    proto::decode(body, schema).unwrap()
}

#[tokio::test]
async fn an_object_is_the_same_in_json_and_in_protobuf() {
    let house = house().await;
    let json = house.get(&format!("{MAPS}/a")).await.ok();
    let reply = accepting(&house, &format!("{MAPS}/a"), PROTOBUF).await;
    assert_eq!((reply.code, reply.headers["content-type"].to_str().unwrap()), (StatusCode::OK, PROTOBUF));
    let schema = message("core.ConfigMap");
    let read = read(&reply.body, &schema);
    let stored = coracle_schema::decode::from_value(read, &schema, coracle_schema::decode::FieldValidation::Strict).unwrap();
    assert_eq!(stored.value, json);
    // What was read can be written back as it came, but for what the server keeps.
    let sent = house.ask(Method::PUT, &format!("{MAPS}/a"), &[("content-type", PROTOBUF), ("accept", PROTOBUF)], reply.body).await;
    assert_eq!(sent.code, StatusCode::OK, "{:?}", sent.body);
}

#[tokio::test]
async fn an_update_without_a_change_brings_an_object_into_the_media_type_that_is_kept_now() {
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let keeping = |media| House::of(Options { media_type: Some(media), ..House::options(store.clone()) });
    let before = keeping(StorageMediaType::Json).await;
    let made = before.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    before.server.close().await;
    let house = keeping(StorageMediaType::Protobuf).await;
    let kept = async || store.get(&"/registry/configmaps/default/a".into()).await.unwrap().value.unwrap().value;
    assert!(kept().await.starts_with(b"{"));
    let moved = house.put(&format!("{MAPS}/a"), &made).await.ok();
    assert!(kept().await.starts_with(b"k8s\0"));
    assert_ne!(moved["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(house.put(&format!("{MAPS}/a"), &moved).await.ok(), moved, "once");
}

#[tokio::test]
async fn lists_and_metadata_alone_come_in_protobuf_too() {
    let house = house().await;
    let list = accepting(&house, &format!("{MAPS}?limit=1"), PROTOBUF).await;
    let schema = message("meta.PartialObjectMetadataList");
    // Any list has metadata first and items second, whose metadata comes first: the rest is unknown to this message.
    let list = read(&list.body, &schema);
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 1));
    assert!(list["metadata"]["continue"].as_str().is_some_and(|token| !token.is_empty()));
    let form = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let partial = read(&accepting(&house, MAPS, &form).await.body, &schema);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    let names: Vec<&Value> = partial["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn items_of_a_list_have_no_type_of_their_own_as_upstream() {
    let list = house().await.get(MAPS).await.ok();
    assert_eq!(
        (&list["kind"], list["items"][1].get("kind"), &list["items"][1]["metadata"]["name"]),
        (&json!("ConfigMapList"), None, &json!("b"))
    );
}

#[tokio::test]
async fn a_watch_in_protobuf_sends_framed_events() {
    let house = house().await;
    let path = format!("{MAPS}?watch=1&labelSelector=of%3Db&timeoutSeconds=30");
    let mut response = house.open(Method::GET, &path, &[("accept", PROTOBUF)], "").await;
    assert_eq!(response.headers()["content-type"], format!("{PROTOBUF};stream=watch"));
    let frame: Bytes = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let (length, event) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let at = event.windows(4).position(|w| w == proto::MAGIC).unwrap();
    assert!(event.starts_with(b"\x0a\x05ADDED"));
    assert_eq!(read(&event[at..], &message("core.ConfigMap"))["metadata"]["name"], "b");
    house.delete(&format!("{MAPS}/b")).await.ok();
    let gone: Bytes = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(gone[4..].starts_with(b"\x0a\x07DELETED"));
}

#[tokio::test]
async fn errors_come_in_the_encoding_that_was_asked_for() {
    let house = house().await;
    let reply = accepting(&house, &format!("{MAPS}/nobody"), PROTOBUF).await;
    assert_eq!((reply.code, reply.headers["content-type"].to_str().unwrap()), (StatusCode::NOT_FOUND, PROTOBUF));
    let status = read(&reply.body, &message("meta.Status"));
    assert_eq!((&status["reason"], &status["details"]["name"]), (&json!("NotFound"), &json!("nobody")));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_before_anything_is_done() {
    let house = house().await;
    let headers = [("content-type", "application/json"), ("accept", "text/html")];
    let refused = house.ask(Method::POST, MAPS, &headers, json!({"metadata": {"name": "c"}}).to_string()).await;
    assert_eq!(refused.code, StatusCode::NOT_ACCEPTABLE);
    assert!(refused.json()["message"].as_str().unwrap().starts_with("406: Not Acceptable\n\nAvailable representations: application/json"));
    assert_eq!(house.get(&format!("{MAPS}/c")).await.code, StatusCode::NOT_FOUND);
    assert_eq!(house.ask(Method::HEAD, &format!("{MAPS}/a"), &[], "").await.code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(accepting(&house, &format!("{MAPS}?watch=1"), "application/yaml").await.code, StatusCode::NOT_ACCEPTABLE);
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    assert_eq!(accepting(&house, MAPS, &table).await.code, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn large_lists_are_compressed_for_who_takes_it_and_are_the_same() {
    let house = house().await;
    for n in 0..3 {
        let map = json!({"metadata": {"name": format!("large{n}")}, "data": {"k": "x".repeat(100_000)}});
        house.post(MAPS, &map).await.ok();
    }
    for accept in ["application/json", PROTOBUF, "application/yaml"] {
        // Twice: what was made for the first answer is kept for the second, also beside a change.
        for turn in 0..2 {
            let change = json!({"data": {"k": "y".repeat(100_000 + turn)}});
            house.patch(&format!("{MAPS}/large1"), "application/merge-patch+json", &change).await.ok();
            for path in [MAPS.to_owned(), format!("{MAPS}?limit=4")] {
                let (plain, gzip) = (accepting(&house, &path, accept).await, house.gunzipped(&path, accept).await);
                assert_eq!(gzip.headers["content-type"], plain.headers["content-type"]);
                assert!(gzip.body == plain.body, "{accept} {path}");
            }
        }
    }
    assert!(
        house.ask(Method::GET, &format!("{MAPS}/a"), &[("accept-encoding", "gzip")], "").await.headers.get("content-encoding").is_none()
    );
}

#[tokio::test]
async fn discovery_comes_in_every_encoding_there_is_and_in_no_other() {
    let house = House::new().await;
    let reply = accepting(&house, "/apis/apps/v1", PROTOBUF).await;
    assert_eq!((reply.code, reply.headers["content-type"].to_str().unwrap()), (StatusCode::OK, PROTOBUF));
    let read = read(&reply.body, &message("meta.APIResourceList"));
    let names: Vec<&str> = read["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(read["groupVersion"] == "apps/v1" && names.contains(&"deployments/scale"), "{names:?}");
    let form = format!("{PROTOBUF};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let reply = accepting(&house, "/apis", &form).await;
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with(PROTOBUF));
    let read = proto::decode(&reply.body, &message("apidiscovery.APIGroupDiscoveryList")).unwrap();
    assert!(read["items"].as_array().unwrap().iter().any(|group| group["metadata"]["name"] == "apps"));
    let yaml = accepting(&house, "/api", "application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("kind: APIVersions"));

    const ROUTED: &str = "406: Not Acceptable\n\nAvailable representations: ";
    const NEGOTIATED: &str =
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for (path, accept, said) in [
        ("/api", "text/html", ROUTED),
        ("/apis/apps/v1", "application/*", ROUTED),
        ("/version", "application/yaml", ROUTED),
        ("/openid/v1/jwks", "application/json", ROUTED),
        ("/apis", "text/html", NEGOTIATED),
        ("/apis/apps", "text/html", NEGOTIATED),
        ("/api/v1", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", NEGOTIATED),
        ("/openapi/v2", "application/yaml", ""),
        ("/openapi/v3/apis/apps/v1", "application/yaml", ""),
    ] {
        let reply = accepting(&house, path, accept).await;
        assert_eq!(reply.code, StatusCode::NOT_ACCEPTABLE, "{path} {accept}");
        assert!(String::from_utf8_lossy(&reply.body).contains(said.lines().next().unwrap_or_default()), "{path}: {:?}", reply.body);
    }
    assert_eq!(house.ask(Method::HEAD, "/version", &[], "").await.code, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(house.get("/api/v2").await.json()["reason"], "NotFound");
    assert_eq!(house.get("/apis/nobody.example").await.body, "404 page not found\n");
}

/// What kube-apiserver 1.37 answers as it comes: its gate CBORServingAndStorage is alpha and off. Clients that prefer CBOR go on in JSON
/// after the first 415.
#[tokio::test]
async fn cbor_is_refused_as_upstream_refuses_it() {
    const CBOR: &str = "application/cbor";
    /// `{"kind": "ConfigMap", "metadata": {"name": "c"}}` as byte strings, behind the tag that says what it is.
    const BODY: &[u8] = b"\xd9\xd9\xf7\xa2\x44kind\x49ConfigMap\x48metadata\xa1\x44name\x41c";
    let house = house().await;
    let one = format!("{MAPS}/a");
    let unknown = "the body of the request was in an unknown format - accepted media types include: \
                   application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let routed =
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let patch = "415: Unsupported Media Type";
    for (method, path, headers, code, said) in [
        (Method::POST, MAPS, &[("content-type", CBOR)][..], 415, unknown),
        (Method::PUT, &one, &[("content-type", CBOR)], 415, unknown),
        (Method::PATCH, &one, &[("content-type", "application/apply-patch+cbor")], 415, patch),
        (Method::PATCH, &one, &[("content-type", "application/apply-patch+cbor"), ("accept", CBOR)], 415, patch),
        (Method::POST, MAPS, &[("content-type", CBOR), ("accept", CBOR)], 406, routed),
        (Method::GET, &one, &[("accept", CBOR)], 406, routed),
        (Method::GET, &one, &[("accept", "application/cbor;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")], 406, routed),
    ] {
        let reply = house.ask(method.clone(), path, headers, BODY).await;
        assert_eq!((reply.code.as_u16(), reply.json()["message"].as_str()), (code, Some(said)), "{method} {path} {headers:?}");
    }
    let streamed = accepting(&house, &format!("{MAPS}?watch=1"), "application/cbor-seq").await;
    assert_eq!(
        streamed.json()["message"],
        format!("{routed}, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch")
    );
    let both = accepting(&house, &one, "application/cbor;q=1,application/json;q=0.9").await;
    assert_eq!((both.code, both.headers["content-type"].to_str().unwrap()), (StatusCode::OK, "application/json"));
    assert_eq!(house.get(&format!("{MAPS}/c")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn tables_and_metadata_come_in_the_older_version_too() {
    let house = House::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    house.post(maps, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})).await.ok();
    for version in ["v1", "v1beta1"] {
        let said = json!(format!("meta.k8s.io/{version}"));
        let accept = |form: &str| format!("application/json;as={form};v={version};g=meta.k8s.io");
        let table = house.ask(Method::GET, maps, &[("accept", &accept("Table"))], "").await.ok();
        assert_eq!((&table["kind"], &table["apiVersion"], &table["rows"][0]["object"]["apiVersion"]), (&json!("Table"), &said, &said));
        let one = house.ask(Method::GET, &format!("{maps}/a"), &[("accept", &accept("PartialObjectMetadata"))], "").await.ok();
        assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PartialObjectMetadata"), &said));
        let list = house.ask(Method::GET, maps, &[("accept", &accept("PartialObjectMetadataList"))], "").await.ok();
        assert_eq!((&list["apiVersion"], &list["items"][0]["apiVersion"]), (&said, &said));
        let watched = format!("{maps}?watch=true&resourceVersion=0&fieldSelector=metadata.name%3Da");
        let mut body = house.open(Method::GET, &watched, &[("accept", &accept("PartialObjectMetadata"))], "").await.into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(frame.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!(event["object"]["apiVersion"], said, "{event}");
    }
}

#[tokio::test]
async fn the_pages_of_flags_and_status_are_lines_or_objects() {
    let house = House::new().await;
    let lines = house.get("/flagz").await;
    assert_eq!(lines.headers["content-type"], "text/plain; charset=utf-8");
    assert!(std::str::from_utf8(&lines.body).unwrap().ends_with("\nlog: warn\n"), "{:?}", lines.body);
    let asked = "application/json;as=Flagz;v=v1alpha1;g=config.k8s.io";
    let old = accepting(&house, "/flagz", asked).await;
    assert!(old.headers["warning"].to_str().unwrap().contains("version of the flagz endpoint is deprecated"));
    assert_eq!(old.headers["content-type"], "application/json;g=config.k8s.io;v=v1alpha1;as=Flagz");
    assert_eq!(old.ok()["flags"], json!({"log": "warn"}));

    let status = accepting(&house, "/statusz", "application/yaml;as=Statusz;v=v1beta1;g=config.k8s.io").await;
    assert!(!status.headers.contains_key("warning"));
    let text = std::str::from_utf8(&status.body).unwrap();
    assert!(text.contains("binaryVersion: \"1.37.1\"\n") && text.contains("- /flagz\n"), "{text}");
    assert_eq!(accepting(&house, "/statusz", "application/json").await.code, StatusCode::NOT_ACCEPTABLE);
    let paths = house.get("/").await.ok();
    for path in ["/flagz", "/statusz", "/readyz/shutdown"] {
        assert!(paths["paths"].as_array().unwrap().contains(&json!(path)), "{path}: {paths}");
    }
}
