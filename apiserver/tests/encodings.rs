//! The same objects in every encoding and form, and what is refused.

use bytes::Bytes;
use coracle_schema::{SchemaRef, Tables, proto};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

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
async fn large_lists_are_compressed_for_who_takes_it() {
    let house = house().await;
    for n in 0..3 {
        let map = json!({"metadata": {"name": format!("large{n}")}, "data": {"k": "x".repeat(100_000)}});
        house.post(MAPS, &map).await.ok();
    }
    let plain = house.get(MAPS).await;
    let gzip = house.ask(Method::GET, MAPS, &[("accept-encoding", "br, gzip")], "").await;
    assert_eq!((gzip.headers["content-encoding"].to_str().unwrap(), gzip.headers["vary"].to_str().unwrap()), ("gzip", "Accept-Encoding"));
    assert!(gzip.body.len() < plain.body.len() / 10);
    assert!(
        house.ask(Method::GET, &format!("{MAPS}/a"), &[("accept-encoding", "gzip")], "").await.headers.get("content-encoding").is_none()
    );
}
