//! Encryption at rest, from a request to the disk.

use std::{path::Path, sync::Arc, time::Duration};

use coracle_apiserver::{Options, atrest};
use coracle_store::{
    Key, Store,
    embedded::{self, Embedded},
};
use coracle_tree::json;
use http::{Method, StatusCode};

use crate::house::House;

const OLD: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const NEW: &str = "QUJDREVGR0hJSktMTU5PUEFCQ0RFRkdISUpLTE1OT1A=";
const WORD: &str = "plaintext-proof";

fn rules(keys: &[(&str, &str)], and: &str) -> String {
    let keys: Vec<String> = keys.iter().map(|(name, secret)| format!("{{name: {name}, secret: {secret}}}")).collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{{aescbc: {{keys: [{}]}}}}{and}]\n",
        keys.join(", ")
    )
}

/// A server over the store in a folder; `None`: it encrypts nothing.
async fn house(folder: &Path, rules: Option<&str>) -> (House, Arc<Embedded>) {
    let store = Arc::new(Embedded::open(&embedded::Options::at(folder.join("store"))).unwrap());
    let encryption = rules.map(|rules| {
        let file = folder.join("encryption.yaml");
        std::fs::write(&file, rules).unwrap();
        atrest::Options { file, reload: false }
    });
    (House::of(Options { encryption, ..House::options(store.clone()) }).await, store)
}

async fn close(house: House, store: Arc<Embedded>) {
    house.server.close().await;
    drop(house);
    store.close().await;
}

/// Whether a word stands in any file of a folder.
fn on_disk(folder: &Path, word: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(word.len()).any(|part| part == word.as_bytes())
    })
}

async fn stored(store: &Embedded, name: &str) -> Vec<u8> {
    store.get(&Key::from(format!("/registry/secrets/default/{name}"))).await.unwrap().value.unwrap().value.to_vec()
}

fn secret(name: &str) -> coracle_tree::Value {
    json!({"metadata": {"name": name}, "stringData": {"word": WORD}, "data": {"raw": "cGxhaW50ZXh0LXByb29m"}})
}

#[tokio::test]
async fn nothing_of_a_secret_is_on_disk_in_plaintext() {
    let folder = tempfile::tempdir().unwrap();
    let (house, store) = house(folder.path(), Some(&rules(&[("key1", OLD)], ", {identity: {}}"))).await;
    house.post("/api/v1/namespaces/default/secrets", &secret("s")).await.ok();
    house.post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "open-word"}})).await.ok();
    let got = house.get("/api/v1/namespaces/default/secrets/s").await.ok();
    assert_eq!(got["data"]["word"], "cGxhaW50ZXh0LXByb29m");
    let files = folder.path().join("store");
    // While the write-ahead log holds it, and after it was moved into the database.
    for at in ["open", "closed"] {
        assert!(on_disk(&files, "open-word") && on_disk(&files, "k8s:enc:aescbc:v1:key1:"), "{at}");
        assert!(!on_disk(&files, "cGxhaW50ZXh0LXByb29m") && !on_disk(&files, WORD), "{at}");
        if at == "open" {
            house.server.close().await;
            store.close().await;
        }
    }
}

#[tokio::test]
async fn what_was_written_before_is_encrypted_by_the_next_write_or_by_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, store) = house(folder.path(), None).await;
    for name in ["a", "b", "c"] {
        plain.post("/api/v1/namespaces/default/secrets", &secret(name)).await.ok();
    }
    close(plain, store).await;
    let (house, store) = house(folder.path(), Some(&rules(&[("key1", OLD)], ", {identity: {}}"))).await;
    let a = house.get("/api/v1/namespaces/default/secrets/a").await.ok();
    assert!(stored(&store, "a").await.starts_with(b"{"));
    let again = house.put("/api/v1/namespaces/default/secrets/a", &a).await.ok();
    assert!(stored(&store, "a").await.starts_with(b"k8s:enc:aescbc:v1:key1:"), "a write that changes nothing encrypts");
    let same = house.put("/api/v1/namespaces/default/secrets/a", &again).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"], "and then nothing is written any more");
    let (mut seen, mut rewritten, mut after) = (0, 0, String::new());
    loop {
        let step = house.ask(Method::POST, &format!("/encryption/reencrypt?limit=2&continue={after}"), &[], "").await.ok();
        seen += step["seen"].as_u64().unwrap();
        rewritten += step["rewritten"].as_u64().unwrap();
        step["continue"].as_str().unwrap().clone_into(&mut after);
        if after.is_empty() {
            break;
        }
    }
    assert_eq!((seen, rewritten), (3, 2));
    assert!(stored(&store, "c").await.starts_with(b"k8s:enc:aescbc:v1:key1:"));
    let step = house.ask(Method::POST, "/encryption/reencrypt", &[], "").await.ok();
    assert_eq!((step["seen"].as_u64(), step["rewritten"].as_u64()), (Some(3), Some(0)), "begun again, there is nothing left to do");
    let list = house.get("/api/v1/namespaces/default/secrets").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_object_of_a_lost_key_is_told_and_the_rest_of_the_server_works() {
    let folder = tempfile::tempdir().unwrap();
    let (first, store) = house(folder.path(), Some(&rules(&[("key1", OLD)], ""))).await;
    first.post("/api/v1/namespaces/default/secrets", &secret("lost")).await.ok();
    close(first, store).await;
    let (house, store) = house(folder.path(), Some(&rules(&[("key2", NEW)], ""))).await;
    // Nobody has read any of them before.
    let list = house.get("/api/v1/namespaces/default/secrets").await;
    let why = "StorageError: corrupt object, Code: 7, Key: /registry/secrets/default/lost, ResourceVersion: 0, AdditionalErrorMsg: data from the storage is not transformable revision=0: no matching key was found for the provided AES transformer";
    assert_eq!((list.code.as_u16(), &list.json()["reason"]), (500, &json!("StorageReadError")));
    assert_eq!(list.json()["message"], format!("failed to read one or more secrets from the storage: {why}"));
    let cause = json!({"reason": "UnexpectedServerResponse", "message": why, "field": "/registry/secrets/default/lost"});
    assert_eq!(list.json()["details"], json!({"name": "list", "kind": "secrets", "causes": [cause]}));
    // What a cache is asked for waits until it is whole; what is elsewhere lacks nothing.
    assert_eq!(house.get("/api/v1/secrets?resourceVersion=0").await.code, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(house.get("/api/v1/namespaces/kube-system/secrets").await.code, StatusCode::OK);
    let lost = house.get("/api/v1/namespaces/default/secrets/lost").await;
    assert_eq!(lost.code, StatusCode::INTERNAL_SERVER_ERROR);
    let why = "StorageError: corrupt object, Code: 7, Key: /secrets/default/lost, ResourceVersion: 0, AdditionalErrorMsg: data from the storage is not transformable revision=0: no matching key was found for the provided AES transformer";
    assert_eq!(lost.json()["message"], format!("Internal error occurred: {why}"));
    assert_eq!(lost.json()["details"]["causes"][0]["message"], why);
    assert_eq!(house.delete("/api/v1/namespaces/default/secrets/lost").await.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(house.get("/api/v1/secrets?watch=true&timeoutSeconds=1").await.code, StatusCode::TOO_MANY_REQUESTS);
    house.post("/api/v1/namespaces/default/secrets", &secret("found")).await.ok();
    house.get("/api/v1/namespaces/default/secrets/found").await.ok();
    // It lies behind the first page, and behind no page's end: whoever lists it all is told.
    house.post("/api/v1/namespaces/default/secrets", &secret("early")).await.ok();
    let page = |more: &str| format!("/api/v1/namespaces/default/secrets?limit=1{more}");
    let first = house.get(&page("")).await.ok();
    let next = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(house.get(&page(&format!("&continue={next}"))).await.json()["reason"], "StorageReadError");
    assert_eq!(house.get(&page("&resourceVersion=0")).await.json()["reason"], "StorageReadError");
    house.get("/api/v1/namespaces/default/configmaps").await.ok();
    assert!(stored(&store, "found").await.starts_with(b"k8s:enc:aescbc:v1:key2:"));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_goes_when_it_is_asked_for_by_who_may() {
    let folder = tempfile::tempdir().unwrap();
    let (first, store) = house(folder.path(), Some(&rules(&[("key1", OLD)], ""))).await;
    let mut lost = secret("lost");
    lost["metadata"]["finalizers"] = json!(["example.com/never"]);
    first.post("/api/v1/namespaces/default/secrets", &lost).await.ok();
    close(first, store).await;
    let (house, store) = house(folder.path(), Some(&rules(&[("key2", NEW)], ""))).await;
    house.post("/api/v1/namespaces/default/secrets", &secret("found")).await.ok();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["delete", "deletecollection"]}]);
    let role = json!({"metadata": {"name": "deleter"}, "rules": rules});
    house.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.ok();
    let subjects = json!([{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]);
    let bound = json!({"kind": "ClusterRole", "name": "deleter", "apiGroup": "rbac.authorization.k8s.io"});
    let binding = json!({"metadata": {"name": "deleter"}, "roleRef": bound, "subjects": subjects});
    house.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.ok();

    const FLAG: &str = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
    let at = |name: &str, more: &str| format!("/api/v1/namespaces/default/secrets/{name}?{FLAG}{more}");
    let jane = loop {
        let told = house.ask(Method::DELETE, &at("lost", ""), &[("impersonate-user", "jane")], "").await;
        // Roles count when they were seen.
        if !told.json()["message"].as_str().unwrap().contains("cannot delete") {
            break told;
        }
        tokio::task::yield_now().await;
    };
    let refused = "secrets \"lost\" is forbidden: not permitted to do \"unsafe-delete-ignore-read-errors\", reason: ";
    assert_eq!((jane.code, jane.json()["message"].as_str().unwrap()), (StatusCode::FORBIDDEN, refused));
    assert_eq!(house.delete(&at("lost", "&gracePeriodSeconds=1")).await.code, StatusCode::UNPROCESSABLE_ENTITY);
    let all = house.delete(&format!("/api/v1/namespaces/default/secrets?{FLAG}")).await;
    assert_eq!(all.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(house.delete(&at("found", "")).await.code, StatusCode::CONFLICT, "it can be read");
    assert_eq!(house.delete(&at("nobody", "")).await.code, StatusCode::NOT_FOUND);

    assert_eq!(house.delete(&at("lost", "&dryRun=All")).await.ok()["status"], "Success");
    assert_eq!(house.get("/api/v1/namespaces/default/secrets/lost").await.code, StatusCode::INTERNAL_SERVER_ERROR);
    let gone = house.delete(&at("lost", "")).await.ok();
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("Secret")));
    assert_eq!(house.get("/api/v1/namespaces/default/secrets/lost").await.code, StatusCode::NOT_FOUND);
    assert!(store.get(&Key::from("/registry/secrets/default/lost")).await.unwrap().value.is_none());
    let list = house.get("/api/v1/namespaces/default/secrets").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "and the rest can be listed again");
}

#[tokio::test]
async fn while_webhooks_cannot_be_read_nothing_is_written_but_what_mends_that() {
    const LOST: &str = "[validatingwebhookconfigurations.admissionregistration.k8s.io]";
    const FLAG: &str = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
    const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let folder = tempfile::tempdir().unwrap();
    let of = |key| rules(&[key], "").replace("[secrets]", LOST);
    let (first, store) = house(folder.path(), Some(&of(("key1", OLD)))).await;
    first.post(HOOKS, &json!({"metadata": {"name": "lost"}, "webhooks": []})).await.ok();
    close(first, store).await;

    let (house, _store) = house(folder.path(), Some(&of(("key2", NEW)))).await;
    let map = json!({"metadata": {"name": "m"}});
    let refused = house.post(MAPS, &map).await;
    let why = "configmaps \"m\" is forbidden: not yet ready to handle request";
    assert_eq!((refused.code, refused.json()["message"].as_str()), (StatusCode::FORBIDDEN, Some(why)));
    house.get(MAPS).await.ok();
    house.post(HOOKS, &json!({"metadata": {"name": "found"}, "webhooks": []})).await.ok();
    house.delete(&format!("{HOOKS}/lost?{FLAG}")).await.ok();
    let taken = async {
        while house.post(MAPS, &map).await.code != StatusCode::CREATED {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.unwrap();
}

#[tokio::test]
async fn a_definition_that_cannot_be_read_is_not_served_and_the_rest_is() {
    const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    const FLAG: &str = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
    let folder = tempfile::tempdir().unwrap();
    let of = |key, and| rules(&[key], and).replace("[secrets]", "[customresourcedefinitions.apiextensions.k8s.io]");
    let crd = |plural: &str, kind: &str| {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema}]);
        let names = json!({"plural": plural, "kind": kind});
        let spec = json!({"group": "example.com", "scope": "Cluster", "names": names, "versions": versions});
        json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": spec})
    };
    let (plain, store) = house(folder.path(), None).await;
    plain.post(CRDS, &crd("gadgets", "Gadget")).await.ok();
    close(plain, store).await;
    let (first, store) = house(folder.path(), Some(&of(("key1", OLD), ", {identity: {}}"))).await;
    first.post(CRDS, &crd("widgets", "Widget")).await.ok();
    first
        .post("/apis/example.com/v1/widgets", &json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}))
        .await
        .ok();
    close(first, store).await;

    let (house, _store) = house(folder.path(), Some(&of(("key2", NEW), ", {identity: {}}"))).await;
    house.get("/apis/example.com/v1/gadgets").await.ok();
    house.get("/api/v1/namespaces/default/configmaps").await.ok();
    assert_eq!(house.get("/apis/example.com/v1/widgets").await.code, StatusCode::NOT_FOUND);
    let list = house.get(CRDS).await;
    assert_eq!((list.code.as_u16(), &list.json()["reason"]), (500, &json!("StorageReadError")));
    let one = house.get(&format!("{CRDS}/widgets.example.com")).await;
    assert!(one.code == StatusCode::INTERNAL_SERVER_ERROR && one.json()["message"].as_str().unwrap().contains("corrupt object"));
    house.get(&format!("{CRDS}/gadgets.example.com")).await.ok();
    // Made anew, it defines what it did; its objects are still there.
    house.delete(&format!("{CRDS}/widgets.example.com?{FLAG}")).await.ok();
    house.post(CRDS, &crd("widgets", "Widget")).await.ok();
    house.get("/apis/example.com/v1/widgets/w").await.ok();
}

#[tokio::test]
async fn without_a_configuration_there_is_nothing_to_reencrypt() {
    let house = House::new().await;
    assert_eq!(house.ask(Method::POST, "/encryption/reencrypt", &[], "").await.code, StatusCode::NOT_FOUND);
}
