//! Custom resources whose versions a webhook converts: the webhook stands in the test and is asked over TLS.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_tree::{Value, json};
use futures::StreamExt;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyStream, Full};

use crate::{hook::Hook, house::House};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/hosts";
const V2: &str = "/apis/example.com/v2/namespaces/default/hosts";

/// What a webhook makes of an object in the version asked for; `Err` is its complaint.
type Convert = fn(Value, &str) -> Result<Value, String>;

/// A webhook that converts.
struct Converter(Hook);

impl Converter {
    async fn start(convert: Convert) -> Self {
        Self(Hook::start(&["http/1.1"], Arc::new(move |_, review| Some(answer(review, convert)))).await)
    }

    /// How often it was asked.
    fn reviews(&self) -> usize {
        self.0.asked.lock().unwrap().len()
    }

    fn conversion(&self, review: &str) -> Value {
        let config = json!({"url": format!("{}/convert", self.0.url), "caBundle": self.0.bundle});
        json!({"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": [review]}})
    }
}

fn answer(review: &Value, convert: Convert) -> Response<Full<Bytes>> {
    let wanted = review["request"]["desiredAPIVersion"].as_str().unwrap();
    let sent = review["request"]["objects"].as_array().unwrap();
    let made: Result<Vec<Value>, String> = sent.iter().map(|object| convert(object.clone(), wanted)).collect();
    let mut response = json!({"uid": review["request"]["uid"], "result": {"status": "Success"}});
    match made {
        Ok(made) => response["convertedObjects"] = made.into(),
        Err(why) => response["result"] = json!({"status": "Failed", "message": why}),
    }
    let said = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response});
    Response::new(Full::new(said.to_string().into()))
}

/// v1 has `hostPort`, v2 has `host` and `port`.
fn split(mut object: Value, wanted: &str) -> Result<Value, String> {
    object["apiVersion"] = wanted.into();
    object["metadata"]["annotations"] = json!({"converted": wanted});
    let members = object.as_object_mut().unwrap();
    if wanted.ends_with("/v2") {
        let both = members.remove("hostPort").unwrap_or_default();
        let (host, port) = both.as_str().and_then(|b| b.split_once(':')).ok_or("no hostPort")?;
        members.insert("host", host.into());
        members.insert("port", port.into());
    } else {
        let text = |v: Option<Value>| v.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let (host, port) = (text(members.remove("host")), text(members.remove("port")));
        members.insert("hostPort", format!("{host}:{port}").into());
    }
    Ok(object)
}

fn crd(conversion: &Value) -> Value {
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let properties: coracle_tree::Map = fields.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
        let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
        json!({"name": name, "served": true, "storage": storage, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "hosts.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "hosts", "singular": "host", "kind": "Host", "listKind": "HostList"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])], "conversion": conversion,
        },
    })
}

fn v1(name: &str, host_port: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Host", "metadata": {"name": name}, "hostPort": host_port})
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_webhook_converts_what_is_read_and_written_in_another_version() {
    let (house, hook) = (House::new().await, Converter::start(split).await);
    house.post(CRDS, &crd(&hook.conversion("v1"))).await.ok();
    house.post(V1, &v1("a", "one:1")).await.ok();
    house.post(V1, &v1("b", "two:2")).await.ok();
    assert_eq!(hook.reviews(), 0, "nothing had to be converted yet");
    let read = house.get(&format!("{V2}/a")).await.ok();
    assert_eq!((&read["apiVersion"], &read["host"], &read["port"]), (&json!("example.com/v2"), &json!("one"), &json!("1")));
    assert_eq!(read["metadata"]["annotations"], json!({"converted": "example.com/v2"}));
    let before = hook.reviews();
    let list = house.get(V2).await.ok();
    assert_eq!((names(&list), &list["items"][1]["host"]), (vec!["a", "b"], &json!("two")));
    assert_eq!(hook.reviews(), before + 1, "a list is one review");
    let made = json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "c"}, "host": "three", "port": "3"});
    assert_eq!(house.post(V2, &made).await.ok()["host"], "three");
    assert_eq!(house.get(&format!("{V1}/c")).await.ok()["hostPort"], "three:3");
    let patched = house.patch(&format!("{V2}/a"), "application/merge-patch+json", &json!({"port": "9"})).await.ok();
    assert_eq!(patched["port"], "9");
    assert_eq!(house.get(&format!("{V1}/a")).await.ok()["hostPort"], "one:9");
    house.delete(&format!("{V2}/a")).await.ok();
    assert_eq!(names(&house.get(V1).await.ok()), ["b", "c"]);
}

/// [`split`], but the stored version has no room for a port of zero.
fn split_without_zero(object: Value, wanted: &str) -> Result<Value, String> {
    let mut object = split(object, wanted)?;
    if let Some(host) = object["hostPort"].as_str().and_then(|both| both.strip_suffix(":0")).map(str::to_owned) {
        object["hostPort"] = format!("{host}:").into();
    }
    Ok(object)
}

#[tokio::test]
async fn a_write_that_counts_or_is_only_tried_answers_what_a_read_would() {
    let (house, hook) = (House::new().await, Converter::start(split_without_zero).await);
    house.post(CRDS, &crd(&hook.conversion("v1"))).await.ok();
    let sent = json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "a"}, "host": "one", "port": "0"});
    let port = |object: Value| object["port"].clone();
    assert_eq!(port(house.post(&format!("{V2}?dryRun=All"), &sent).await.ok()), "");
    assert_eq!(port(house.post(V2, &sent).await.ok()), "");
    let merge = "application/merge-patch+json";
    for query in ["?dryRun=All", ""] {
        let patched = house.patch(&format!("{V2}/a{query}"), merge, &json!({"host": "two", "port": "0"})).await.ok();
        assert_eq!((&patched["host"], &patched["port"]), (&json!("two"), &json!("")), "{query}");
    }
    assert_eq!(port(house.get(&format!("{V2}/a")).await.ok()), "");
}

#[tokio::test]
async fn owners_in_a_version_that_a_webhook_converts_keep_what_did_not_change_there() {
    let (house, hook) = (House::new().await, Converter::start(split).await);
    house.post(CRDS, &crd(&hook.conversion("v1"))).await.ok();
    house.post(&format!("{V1}?fieldManager=m1"), &v1("a", "one:1")).await.ok();
    let merge = "application/merge-patch+json";
    let owned = |object: &Value, manager: &str| {
        let all = object["metadata"]["managedFields"].as_array().unwrap();
        all.iter().find(|entry| entry["manager"] == manager).map(|entry| entry["fieldsV1"].clone())
    };
    let labelled = json!({"metadata": {"labels": {"x": "y"}}});
    let made = house.patch(&format!("{V2}/a?fieldManager=m2"), merge, &labelled).await.ok();
    assert_eq!(owned(&made, "m1"), Some(json!({"f:hostPort": {}})));
    let apply = async |manager: &str, query: &str, port: &str| {
        let config = json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "a"}, "port": port});
        house.patch(&format!("{V2}/a?fieldManager={manager}{query}"), "application/apply-patch+yaml", &config).await
    };
    let refused = apply("m3", "", "2").await;
    assert_eq!(refused.json()["message"], "Apply failed with 1 conflict: conflict with \"m1\" using example.com/v1: .hostPort");
    let made = apply("m3", "&force=true", "2").await.ok();
    assert_eq!((owned(&made, "m1"), owned(&made, "m3")), (None, Some(json!({"f:port": {}}))));
    // The other way round, and by an update.
    let made = house.patch(&format!("{V1}/a?fieldManager=m4"), merge, &json!({"hostPort": "one:3"})).await.ok();
    assert_eq!((owned(&made, "m3"), owned(&made, "m4")), (None, Some(json!({"f:hostPort": {}}))));
}

#[tokio::test]
async fn selectors_and_watches_see_the_version_asked_for() {
    let (house, hook) = (House::new().await, Converter::start(split).await);
    house.post(CRDS, &crd(&hook.conversion("v1beta1"))).await.ok();
    house.post(V1, &v1("a", "one:1")).await.ok();
    house.post(V1, &v1("b", "two:1")).await.ok();
    assert_eq!(names(&house.get(&format!("{V1}?fieldSelector=hostPort%3Done:1")).await.ok()), ["a"]);
    assert_eq!(names(&house.get(&format!("{V2}?fieldSelector=host%3Dtwo")).await.ok()), ["b"]);
    assert_eq!(names(&house.get(&format!("{V2}?fieldSelector=port%3D1&limit=1")).await.ok()), ["a"]);
    let refused = house.get(&format!("{V2}?fieldSelector=hostPort%3Dx")).await;
    assert_eq!(refused.code, StatusCode::BAD_REQUEST);

    let watch = house.open(Method::GET, &format!("{V2}?watch=true&fieldSelector=host%3Dtwo"), &[], "").await;
    let mut frames = BodyStream::new(watch.into_body());
    let mut next = async || -> (String, String) {
        let bytes = frames.next().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&bytes).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["object"]["host"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(next().await, ("ADDED".into(), "two".into()));
    house.patch(&format!("{V1}/a"), "application/merge-patch+json", &json!({"hostPort": "two:7"})).await.ok();
    assert_eq!(next().await, ("ADDED".into(), "two".into()));
    house.patch(&format!("{V1}/b"), "application/merge-patch+json", &json!({"hostPort": "gone:7"})).await.ok();
    assert_eq!(next().await, ("DELETED".into(), "two".into()));
}

#[tokio::test]
async fn a_webhook_that_fails_is_quoted_and_harms_nothing_else() {
    let (house, hook) = (House::new().await, Converter::start(|_, _| Err("not today".into())).await);
    house.post(CRDS, &crd(&hook.conversion("v1"))).await.ok();
    house.post(V1, &v1("a", "one:1")).await.ok();
    let failed = house.get(&format!("{V2}/a")).await;
    assert_eq!(failed.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(failed.json()["message"], "conversion webhook for example.com/v1, Kind=Host failed: not today");
    assert_eq!(house.get(V2).await.code, StatusCode::INTERNAL_SERVER_ERROR);
    let made = json!({"apiVersion": "example.com/v2", "kind": "Host", "metadata": {"name": "c"}, "host": "three", "port": "3"});
    assert_eq!(house.post(V2, &made).await.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(names(&house.get(V1).await.ok()), ["a"]);

    let (house, hook) = (
        House::new().await,
        Converter::start(|mut object, wanted| {
            object["apiVersion"] = wanted.into();
            object["metadata"]["name"] = "other".into();
            Ok(object)
        })
        .await,
    );
    house.post(CRDS, &crd(&hook.conversion("v1"))).await.ok();
    house.post(V1, &v1("a", "one:1")).await.ok();
    let failed = house.get(&format!("{V2}/a")).await.json();
    assert_eq!(
        failed["message"],
        "conversion webhook for example.com/v1, Kind=Host returned invalid object: must have the same name: a != other"
    );
}

#[tokio::test]
async fn a_webhook_nobody_recognises_is_not_believed() {
    let (house, hook) = (House::new().await, Converter::start(split).await);
    let mut conversion = hook.conversion("v1");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    conversion["webhook"]["clientConfig"]["caBundle"] = STANDARD.encode(other.cert.pem()).into();
    house.post(CRDS, &crd(&conversion)).await.ok();
    house.post(V1, &v1("a", "one:1")).await.ok();
    let failed = house.get(&format!("{V2}/a")).await;
    assert!(failed.json()["message"].as_str().unwrap().contains("tls: failed to verify certificate"), "{}", failed.json());
    assert_eq!(hook.reviews(), 0);
}
