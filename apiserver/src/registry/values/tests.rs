//! Against what kube-apiserver 1.37.1 kept in etcd and answered of the same objects (`kept.jsonl.gz`, the objects of the comparison's
//! corpus): a line is a key and its value, or an object as it was listed.

use std::{collections::BTreeMap, io::Read};

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_store::{Expect, Page, Write, embedded};
use futures::StreamExt;
use serde::Deserialize;

use super::*;
use crate::registry::{
    catalog::{self, Odd},
    translated::Translated,
};

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Kept { key: String, value: String },
    Listed { group: String, version: String, resource: String, object: Value },
}

struct House {
    catalog: Catalog,
    codec: Codec,
    kept: BTreeMap<Key, Bytes>,
    listed: Vec<(Arc<str>, Key, Value)>,
}

fn house() -> House {
    let tables = Arc::new(Tables::load().unwrap());
    let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
    let catalog = catalog::built_in(&tables, odd);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&include_bytes!("kept.jsonl.gz")[..]).read_to_string(&mut text).unwrap();
    let (mut kept, mut listed) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line).unwrap() {
            Line::Kept { key, value } => {
                kept.insert(Key::from(key), Bytes::from(STANDARD.decode(value).unwrap()));
            }
            Line::Listed { group, version, resource, object } => {
                let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
                let (namespace, name) = (text("namespace"), text("name"));
                let key = match catalog.get(&group, &version, &resource) {
                    Some(kind) => kind.key(&namespace, &name).unwrap(),
                    None => Key::from(format!("/registry/{group}/{resource}/{namespace}/{name}")),
                };
                listed.push((format!("{group}/{version}/{resource}").into(), key, object));
            }
        }
    }
    House { codec: Codec::new(tables, &catalog), catalog, kept, listed }
}

fn parsed(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

#[test]
fn what_upstream_keeps_is_read_as_upstream_answers_it() {
    let house = house();
    let (mut compared, mut wrong) = (0, Vec::new());
    // What v1 of autoscalers cannot say stands in annotations, as JSON in another order of members.
    for (of, key, object) in house.listed.iter().filter(|(of, ..)| &**of != "autoscaling/v1/horizontalpodautoscalers") {
        let kept = house.kept.get(key).unwrap_or_else(|| panic!("{of}: upstream has no key {key}"));
        let json = house.codec.json(key, kept).unwrap_or_else(|why| panic!("{key}: {why}"));
        let mut expected = object.clone();
        expected["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let mut found = parsed(&json);
        if let Some(Conversion::Renaming(renaming)) = conversion(&house, of) {
            (renaming.from_stored)(&mut found);
        }
        compared += 1;
        if found != expected {
            wrong.push(format!("{key}\n  ours:   {found}\n  theirs: {expected}"));
        }
        // What the cache cuts into.
        assert!(head(&json).is_some(), "{key}: {}", String::from_utf8_lossy(&json));
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 120, "{compared}");
}

fn conversion<'h>(house: &'h House, of: &str) -> Option<&'h Conversion> {
    let mut parts = of.splitn(3, '/');
    let (group, version, resource) = (parts.next()?, parts.next()?, parts.next()?);
    house.catalog.get(group, version, resource)?.conversion.as_ref()
}

#[test]
fn what_is_kept_of_an_object_is_what_upstream_keeps_byte_for_byte() {
    let house = house();
    let (mut compared, mut wrong) = (0, Vec::new());
    // These upstream kept without what it fills in when it reads them; written again, they have it there, too.
    let filled = |key: &Key| key.as_str().contains("/persistentvolumeclaims/") || key.as_str().ends_with("/jobs/default/minimal");
    for (key, kept) in house.kept.iter().filter(|(key, kept)| kept.starts_with(proto::MAGIC) && !filled(key)) {
        let json = house.codec.json(key, kept).unwrap_or_else(|why| panic!("{key}: {why}"));
        compared += 1;
        if house.codec.kept(key, &json, MediaType::Protobuf).unwrap() != kept {
            wrong.push(key.to_string());
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}: {}", wrong.len(), wrong.join(", "));
    assert!(compared > 100, "{compared}");
    // Allocated ports are of no kind that is served.
    assert!(house.kept.keys().any(|key| key.as_str() == "/registry/ranges/servicenodeports"));
}

#[test]
fn groups_with_servers_of_their_own_and_custom_resources_are_kept_as_json() {
    let house = house();
    let of = |part: &'static str| house.kept.iter().filter(move |(key, _)| key.as_str().contains(part));
    for (key, kept) in of("apiregistration.k8s.io/apiservices/").chain(of("customresourcedefinitions/")).chain(of("/widgets/")) {
        let json = house.codec.json(key, kept).unwrap();
        let again = house.codec.kept(key, &json, MediaType::Protobuf).unwrap();
        assert!(again.starts_with(b"{\"apiVersion\":") && again.ends_with(b"}\n"), "{key}");
        assert_eq!(parsed(&again), parsed(kept), "{key}");
    }
    // Where the head comes first anyway, to the last byte.
    let (key, kept) = of("/widgets/default/plain").next().unwrap();
    assert!(kept.windows(6).any(|part| part == br"\u003c"), "Go escapes it");
    let json = house.codec.json(key, &Bytes::from(kept.to_vec())).unwrap();
    let object = Object::new(parsed(&json)).unwrap();
    let ours = house.codec.kept(key, &items::stored_bytes(&object).unwrap(), MediaType::Protobuf).unwrap();
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(kept));
    // A member before the head would mislead whoever looks for the metadata.
    let (key, kept) = of("/widgets/default/early").next().unwrap();
    assert!(house.codec.json(key, kept).unwrap().starts_with(br#"{"apiVersion":"stored.example.com/v1","kind":"Widget","metadata":{"#));
}

#[test]
fn json_of_built_in_kinds_is_read_and_written_when_that_is_asked_for() {
    let house = house();
    let (key, kept) = house.kept.iter().find(|(key, _)| key.as_str().starts_with("/registry/deployments/")).unwrap();
    let json = house.codec.json(key, kept).unwrap();
    let text = house.codec.kept(key, &json, MediaType::Json).unwrap();
    assert_eq!(parsed(&text), parsed(&json));
    assert_eq!(house.codec.json(key, &text).unwrap(), json);
    let upstream =
        br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"b","creationTimestamp":null},"data":{"k":"v"}}"#;
    let read = house.codec.json(&"/registry/configmaps/b/a".into(), &Bytes::from_static(upstream)).unwrap();
    assert!(read.starts_with(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"#));
    assert_eq!(parsed(&read)["data"]["k"], "v");
}

#[test]
fn json_is_kept_under_the_version_upstream_keeps_the_kind_in() {
    let house = house();
    for (group, resource, kept_as) in KEPT_AS {
        let kind = house.catalog.stored(group, resource).unwrap();
        let key = kind.key("default", "a").unwrap();
        let (served, name) = (kind.api_version(), &kind.gvk.kind);
        assert_ne!(served, *kept_as);
        let json = Bytes::from(format!(r#"{{"apiVersion":"{served}","kind":"{name}","metadata":{{"name":"a"}}}}"#));
        let text = house.codec.kept(&key, &json, MediaType::Json).unwrap();
        assert_eq!((&parsed(&text)["apiVersion"], &parsed(&text)["kind"]), (&Value::from(*kept_as), &Value::from(&**name)));
        assert!(text.ends_with(b"}\n"));
        assert_eq!(parsed(&house.codec.json(&key, &text).unwrap())["apiVersion"], served, "and read as what is served");
    }
}

#[test]
fn what_was_read_and_written_once_stays_as_it_is() {
    // Else an update without a change would be a write each time.
    let house = house();
    let mut compared = 0;
    for (key, kept) in &house.kept {
        for media in [MediaType::Protobuf, MediaType::Json] {
            let again = |kept: &Bytes| house.codec.kept(key, &house.codec.json(key, kept).unwrap(), media).unwrap();
            let once = again(kept);
            assert_eq!(again(&once), once, "{key} {media:?}");
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
}

#[tokio::test]
async fn what_is_kept_in_another_form_or_version_than_now_is_stale() {
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let values = |media| Values::new(store.clone(), house().codec, media);
    let (protobuf, json) = (values(MediaType::Protobuf), values(MediaType::Json));
    let key = Key::from("/registry/configmaps/a/b");
    assert!(!protobuf.is_stale(&key, None).await, "what is not there");
    let object = Bytes::from_static(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","namespace":"a"}}"#);
    let first = store.commit(&key, Expect::Absent, Write::put(json.close(&key, &object).unwrap())).await.unwrap();
    assert!(protobuf.is_stale(&key, None).await && !json.is_stale(&key, None).await);
    let second = store.commit(&key, Expect::At(first), Write::put(protobuf.close(&key, &object).unwrap())).await.unwrap();
    assert!(!protobuf.is_stale(&key, None).await && json.is_stale(&key, None).await);
    let old =
        Bytes::from_static(br#"{"apiVersion":"batch/v1beta1","kind":"CronJob","metadata":{"name":"b"},"spec":{"schedule":"1 * * * *"}}"#);
    let cron = Key::from("/registry/cronjobs/a/b");
    store.commit(&cron, Expect::Absent, Write::put(old)).await.unwrap();
    assert!(json.is_stale(&cron, None).await);
    let custom = Key::from("/registry/example.com/widgets/a/b");
    let widget = Bytes::from_static(br#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"b","namespace":"a"}}"#);
    store.commit(&custom, Expect::Absent, Write::put(protobuf.close(&custom, &widget).unwrap())).await.unwrap();
    assert!(!protobuf.is_stale(&custom, Some("example.com/v1")).await && protobuf.is_stale(&custom, Some("example.com/v2")).await);
    store.commit(&key, Expect::At(second), Write::put(Bytes::from_static(b"k8s\0\xff"))).await.unwrap();
    assert!(!protobuf.is_stale(&key, None).await, "what cannot be read is not written again");
}

#[test]
fn objects_of_other_versions_are_read_as_the_one_that_is_served_and_defaulted() {
    let house = house();
    let key = Key::from("/registry/horizontalpodautoscalers/default/old");
    let old = br#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v1","metadata":{"name":"old","namespace":"default"},"spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":50}}"#;
    let read = parsed(&house.codec.json(&key, &Bytes::from_static(old)).unwrap());
    assert_eq!((&read["apiVersion"], &read["spec"]["minReplicas"]), (&"autoscaling/v2".into(), &1.into()));
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let key = Key::from("/registry/cronjobs/default/old");
    let old = br#"{"kind":"CronJob","apiVersion":"batch/v1beta1","metadata":{"name":"old"},"spec":{"schedule":"* * * * *","gone":1}}"#;
    let read = parsed(&house.codec.json(&key, &Bytes::from_static(old)).unwrap());
    assert_eq!((&read["apiVersion"], &read["spec"]["concurrencyPolicy"]), (&"batch/v1".into(), &"Allow".into()));
    assert!(read["spec"].get("gone").is_none());
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_named_with_the_reason() {
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let values = Arc::new(Values::new(store.clone(), house().codec, MediaType::Protobuf));
    let translated = Translated(values.clone());
    let (good, bad) = (Key::from("/registry/configmaps/a/good"), Key::from("/registry/configmaps/a/bad"));
    let json = Bytes::from_static(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"good","namespace":"a"}}"#);
    translated.commit(&good, Expect::Absent, Write::put(json.clone())).await.unwrap();
    assert!(store.get(&good).await.unwrap().value.unwrap().value.starts_with(b"k8s\0"));
    let broken = store.commit(&bad, Expect::Absent, Write::put(Bytes::from_static(b"k8s\0\xff\xff"))).await.unwrap();
    let mut watch = translated.watch("/registry/configmaps/", broken);
    let listed = translated.range("/registry/configmaps/", Page::default()).await.unwrap().value;
    assert_eq!(listed.iter().map(|entry| entry.value.clone()).collect::<Vec<_>>(), [json]);
    assert_eq!(values.faults().under::<Values>("/registry/configmaps/")[0].key, bad);
    let error = translated.get(&bad).await.unwrap_err().to_string();
    let said = format!("object not decodable revision={}: ", broken.0);
    assert!(error.contains(&said) && error.contains(bad.as_str()), "{error}");
    translated.commit(&bad, Expect::At(broken), Write::Delete).await.unwrap();
    assert_eq!(values.faults().keys(), std::slice::from_ref(&bad), "whoever deletes is not who tells of it");
    assert_eq!(watch.next().await.unwrap().unwrap().key, bad);
    assert_eq!(values.faults().keys(), []);
}

#[test]
fn what_earlier_releases_left_out_is_filled_in_when_it_is_read() {
    let house = house();
    let read = |key: &str, text: &'static str| parsed(&house.codec.json(&key.into(), &Bytes::from_static(text.as_bytes())).unwrap());
    let service = read(
        "/registry/services/specs/n/s",
        r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s","namespace":"n"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":81}]}}"#,
    );
    let spec = &service["spec"];
    assert_eq!((&spec["clusterIPs"], &spec["ipFamilies"]), (&coracle_tree::json!(["10.0.0.1"]), &coracle_tree::json!(["IPv4"])));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    let claim = read(
        "/registry/persistentvolumeclaims/n/c",
        r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","metadata":{"name":"c","namespace":"n"},"spec":{"dataSource":{"kind":"PersistentVolumeClaim","name":"foo"}}}"#,
    );
    assert_eq!(claim["spec"]["dataSourceRef"]["name"], "foo");
}
