use std::borrow::Borrow;

use coracle_tree::{Value, json};

use super::*;
use crate::Tables;

fn patched(object: Value, patch: Value) -> Result<Value, PatchError> {
    strategic_merge_patch(&Tables::load().unwrap().message("core.Pod").unwrap(), object, patch)
}

fn pod(spec: &Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn spec(object: impl Borrow<Value>, patch: impl Borrow<Value>) -> Value {
    patched(pod(object.borrow()), json!({"spec": patch.borrow()})).unwrap()["spec"].clone()
}

#[test]
fn lists_merge_by_key_new_items_come_first_and_null_removes() {
    let object = json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}]});
    let patch = json!({"containers": [{"name": "c", "image": "9"}, {"name": "a", "image": "2", "tty": null}]});
    let expected = json!({"containers": [{"name": "c", "image": "9"}, {"name": "a", "image": "2"}, {"name": "b", "image": "1"}]});
    assert_eq!(spec(object, patch), expected);
}

#[test]
fn numeric_keys_tell_ports_apart() {
    let object = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 443}]}]});
    let patch = json!({"containers": [{"name": "a", "ports": [{"containerPort": 443, "name": "https"}]}]});
    let ports = json!([{"containerPort": 80, "name": "http"}, {"containerPort": 443, "name": "https"}]);
    assert_eq!(spec(object, patch)["containers"][0]["ports"], ports);
}

#[test]
fn directives_delete_and_replace() {
    let list = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    let deleted = spec(json!({"containers": list}), json!({"containers": [{"name": "a", "$patch": "delete"}]}));
    assert_eq!(deleted, json!({"containers": [{"name": "b", "image": "1"}]}));
    let replaced = spec(json!({"containers": list}), json!({"containers": [{"name": "z", "image": "9"}, {"$patch": "replace"}]}));
    assert_eq!(replaced, json!({"containers": [{"name": "z", "image": "9"}]}));
    let object = json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}});
    let map = spec(object.clone(), json!({"securityContext": {"$patch": "replace", "fsGroup": 3}}));
    assert_eq!(map, json!({"securityContext": {"fsGroup": 3}}));
    assert_eq!(spec(object, json!({"securityContext": {"$patch": "delete"}})), json!({"securityContext": {}}));
}

#[test]
fn an_order_is_set_and_server_items_keep_their_place() {
    let object = json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]});
    let patch = json!({
        "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "n"}],
    });
    let expected = json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "new", "image": "n"}, {"name": "a"}]});
    assert_eq!(spec(object, patch), expected);
}

#[test]
fn lists_of_scalars_merge_and_lose_what_is_named() {
    let object = json!({"metadata": {"finalizers": ["a", "b"]}});
    let added = patched(object.clone(), json!({"metadata": {"finalizers": ["c", "a"]}})).unwrap();
    assert_eq!(added["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}});
    assert_eq!(patched(object, patch).unwrap()["metadata"]["finalizers"], json!(["b"]));
}

#[test]
fn retained_keys_clear_the_others() {
    let object = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]});
    assert_eq!(spec(object.clone(), patch), json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}));
    let wrong = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "secret": {}}]}});
    assert_eq!(patched(pod(&object), wrong), Err(PatchError::BadRequest("invalid patch format of retainKeys".into())));
}

#[test]
fn lists_without_a_strategy_are_replaced_and_maps_merged() {
    let object = json!({"tolerations": [{"key": "a"}], "nodeSelector": {"a": "1", "b": "2"}});
    let patch = json!({"tolerations": [{"key": "b"}], "nodeSelector": {"b": null, "c": "3"}});
    assert_eq!(spec(object, patch), json!({"tolerations": [{"key": "b"}], "nodeSelector": {"a": "1", "c": "3"}}));
}

#[test]
fn mistakes_are_worded_as_upstream_words_them() {
    let object = || pod(&json!({"containers": [{"name": "a"}]}));
    let error = |patch: Value| patched(object(), json!({"spec": patch})).unwrap_err().to_string();
    let missing = "map: map[image:x] does not contain declared merge key: name";
    assert_eq!(error(json!({"containers": [{"image": "x"}]})), missing);
    assert_eq!(error(json!({"$patch": "shuffle"})), "unknown patch type: shuffle in map: map[$patch:shuffle]");
    assert_eq!(error(json!({"$setElementOrder": []})), "invalid patch format of setElementOrder list");
    let order = error(json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}));
    assert!(order.starts_with("The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]"), "{order}");
}
