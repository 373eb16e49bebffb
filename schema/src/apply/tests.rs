use std::borrow::Cow;

use coracle_tree::{Value, json};

use super::*;
use crate::{
    Tables,
    managed::{Unconverted, record_update},
};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:01:00Z";

fn schema(name: &str) -> SchemaRef {
    Tables::load().unwrap().message(name).unwrap()
}

fn who(manager: &str) -> Who<'_> {
    Who { manager, api_version: "apps/v1", kind: "Deployment", subresource: "", now: NOW, reset: &[&["status"]], versions: None }
}

fn deployment(spec: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn containers(list: &Value) -> Value {
    deployment(&json!({"template": {"spec": {"containers": list}}}))
}

fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(&schema("apps.Deployment"), live, config, &who(manager), false).unwrap()
}

fn entry<'a>(object: &'a Value, manager: &str) -> Option<&'a Value> {
    object["metadata"]["managedFields"].as_array()?.iter().find(|e| e["manager"] == manager)
}

#[test]
fn a_first_apply_makes_the_object_and_owns_its_leaves() {
    let config = deployment(
        &json!({"replicas": 1, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}),
    );
    let made = applied(None, &config, "me");
    let own = entry(&made, "me").unwrap();
    assert_eq!((&own["operation"], &own["time"]), (&json!("Apply"), &json!(NOW)));
    let spec = json!({"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}});
    let template = json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": spec});
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}, "f:template": template}}));
}

#[test]
fn what_is_applied_no_more_and_owned_by_nobody_else_goes() {
    let live = applied(
        None,
        &deployment(&json!({"replicas": 1, "minReadySeconds": 5, "template": {"metadata": {"labels": {"a": "1", "b": "2"}}}})),
        "me",
    );
    let live = applied(Some(&live), &deployment(&json!({"template": {"metadata": {"labels": {"b": "2"}}}})), "you");
    let next = applied(Some(&live), &deployment(&json!({"replicas": 1})), "me");
    assert_eq!(next["spec"], json!({"replicas": 1, "template": {"metadata": {"labels": {"b": "2"}}}}));
}

#[test]
fn list_items_are_merged_by_key_and_removed_by_owner() {
    let live = applied(None, &containers(&json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])), "me");
    let live = applied(Some(&live), &containers(&json!([{"name": "sidecar", "image": "s"}])), "injector");
    let next = applied(Some(&live), &containers(&json!([{"name": "b", "image": "2"}])), "me");
    let list = &next["spec"]["template"]["spec"]["containers"];
    assert_eq!(list, &json!([{"name": "b", "image": "2"}, {"name": "sidecar", "image": "s"}]));
}

#[test]
fn an_item_with_a_field_of_another_stays_with_that_field() {
    let live = applied(None, &containers(&json!([{"name": "a", "image": "1", "tty": true}])), "me");
    let live = applied(Some(&live), &containers(&json!([{"name": "a", "stdin": true}])), "you");
    let next = applied(Some(&live), &deployment(&json!({})), "me");
    assert_eq!(next["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "stdin": true}]));
    assert!(entry(&next, "me").is_some_and(|e| e["fieldsV1"] == json!({"f:spec": {}})));
}

#[test]
fn a_field_of_another_manager_is_a_conflict_unless_the_value_is_the_same_or_it_is_forced() {
    let schema = schema("apps.Deployment");
    let mut live = deployment(&json!({"replicas": 2, "minReadySeconds": 1}));
    record_update(&schema, None, &mut live, &who("kubectl-client-side-apply"));
    let error = apply(&schema, Some(&live), &deployment(&json!({"replicas": 3})), &who("me"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas"#
    );
    let error = apply(&schema, Some(&live), &deployment(&json!({"replicas": 3, "minReadySeconds": 2})), &who("me"), false).unwrap_err();
    let expected = "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.minReadySeconds\n- .spec.replicas";
    assert_eq!(error.to_string(), expected);

    let shared = apply(&schema, Some(&live), &deployment(&json!({"replicas": 2})), &who("me"), false).unwrap();
    assert!(entry(&shared, "kubectl-client-side-apply").unwrap()["fieldsV1"]["f:spec"].get("f:replicas").is_some());
    assert!(entry(&shared, "me").unwrap().get("time").is_none(), "nothing was written");

    let forced = apply(&schema, Some(&live), &deployment(&json!({"replicas": 3})), &who("me"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert!(entry(&forced, "kubectl-client-side-apply").unwrap()["fieldsV1"]["f:spec"].get("f:replicas").is_none());
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = deployment(&json!({"replicas": 1}));
    let live = applied(None, &config, "me");
    let again = apply(&schema("apps.Deployment"), Some(&live), &config, &Who { now: LATER, ..who("me") }, false).unwrap();
    assert_eq!(again, live);
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let live = deployment(&json!({"replicas": 2}));
    let error = apply(&schema("apps.Deployment"), Some(&live), &deployment(&json!({"replicas": 3})), &who("me"), false).unwrap_err();
    assert_eq!(error.to_string(), r#"Apply failed with 1 conflict: conflict with "before-first-apply" using apps/v1: .spec.replicas"#);
}

#[test]
fn an_applied_status_is_ignored_by_the_main_resource() {
    let mut config = deployment(&json!({"replicas": 1}));
    config["status"] = json!({"replicas": 1});
    let made = applied(None, &config, "me");
    assert_eq!(entry(&made, "me").unwrap()["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client_side() {
    let schema = schema("apps.Deployment");
    let mut live = deployment(&json!({"replicas": 2, "minReadySeconds": 3}));
    let last = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2}}).to_string();
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    record_update(&schema, None, &mut live, &who("kubectl-client-side-apply"));
    let next = apply(&schema, Some(&live), &deployment(&json!({"replicas": 4})), &who("kubectl"), false).unwrap();
    assert_eq!(next["spec"]["replicas"], 4);
    let annotation = next["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert!(annotation.contains("\"replicas\":4") && annotation.ends_with("}\n"), "{annotation}");
    let error =
        apply(&schema, Some(&live), &deployment(&json!({"replicas": 4, "minReadySeconds": 9})), &who("kubectl"), false).unwrap_err();
    assert!(error.to_string().ends_with("using apps/v1: .spec.minReadySeconds"), "{error}");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_as_upstream_words_it() {
    let schema = schema("apps.Deployment");
    let refused = |config: &Value| apply(&schema, None, config, &who("me"), false).unwrap_err().to_string();
    let head = "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): ";
    assert_eq!(refused(&deployment(&json!({"foo": 1}))), format!("{head}.spec.foo: field not declared in schema"));
    assert_eq!(
        refused(&deployment(&json!({"replicas": "1"}))),
        format!("{head}.spec.replicas: expected numeric (int or float), got string")
    );
    let twice = containers(&json!([{"name": "a"}, {"name": "a"}]));
    let where_ = r#".spec.template.spec.containers: duplicate entries for key [name="a"]"#;
    assert_eq!(refused(&twice), format!("{head}{where_}"));
    let mut other = deployment(&json!({}));
    other["apiVersion"] = json!("v1");
    assert_eq!(refused(&other), "invalid object type: /v1, Kind=Deployment");
    let mut list = deployment(&json!({}));
    list["metadata"]["managedFields"] = json!([]);
    assert_eq!(refused(&list), "metadata.managedFields must be nil");
}

/// A kind in two versions, of which the second has a field more.
#[derive(Debug)]
struct TwoVersions(SchemaRef, SchemaRef);

impl managed::Versions for TwoVersions {
    fn schema(&self, api_version: &str) -> Result<&SchemaRef, Unconverted> {
        match api_version {
            "ex.com/v1beta1" => Ok(&self.0),
            "ex.com/v1" => Ok(&self.1),
            other => Err(Unconverted::Failed(format!("request to convert CR to an invalid group/version: {other}"))),
        }
    }

    fn convert<'o>(&self, object: &'o Value, _: &str) -> Result<Cow<'o, Value>, Unconverted> {
        Ok(Cow::Borrowed(object))
    }
}

impl TwoVersions {
    /// `list`: what the items of `spec.l` are in the second version.
    fn new(list: &str) -> Self {
        let tables = Tables::load().unwrap();
        let made = |list: &str, more: &str| {
            let list = json!({"type": "array", "x-kubernetes-list-type": list, "items": {"type": "string"}});
            let spec = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "l": list, more: {"type": "string"}}});
            crate::structural::compile(&json!({"type": "object", "properties": {"spec": spec}}), &tables.schema, "", false).unwrap().schema
        };
        Self(made("set", "a"), made(list, "n"))
    }

    fn who<'a>(&'a self, manager: &'a str, api_version: &'a str) -> Who<'a> {
        Who { manager, api_version, kind: "W", subresource: "", now: NOW, reset: &[], versions: Some(self) }
    }

    fn apply(&self, live: Option<&Value>, manager: &str, version: &str, spec: &Value) -> Result<Value, ApplyError> {
        let live = live.map(|live| in_version(live, version));
        let config = json!({"apiVersion": version, "kind": "W", "metadata": {"name": "o"}, "spec": spec});
        apply(managed::Versions::schema(self, version).unwrap(), live.as_ref(), &config, &self.who(manager, version), true)
    }
}

/// An object as it is read in another version.
fn in_version(object: &Value, version: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = version.into();
    object
}

#[test]
fn what_the_status_of_a_custom_resource_does_not_write_changes_no_owner_in_any_version() {
    let versions = TwoVersions::new("set");
    let live = versions.apply(None, "m1", "ex.com/v1beta1", &json!({"a": "1"})).unwrap();
    let live = in_version(&live, "ex.com/v1");
    let who = Who { subresource: "status", reset: &[&["spec"]], ..versions.who("m2", "ex.com/v1") };
    let mut new = live.clone();
    new["spec"]["a"] = "2".into();
    let schema = managed::Versions::schema(&versions, "ex.com/v1").unwrap();
    managed::record_update(schema, Some(&live), &mut new, &who);
    assert_eq!(entry(&new, "m1").unwrap()["fieldsV1"], json!({"f:spec": {"f:a": {}}}));
}

#[test]
fn fields_owned_in_another_version_are_looked_at_under_its_schema() {
    let versions = TwoVersions::new("atomic");
    let live = versions.apply(None, "m1", "ex.com/v1beta1", &json!({"a": "1", "b": "1", "l": ["p"]})).unwrap();
    let live = versions.apply(Some(&live), "m2", "ex.com/v1", &json!({"a": "2", "l": ["q"]})).unwrap();
    let owned = |manager: &str| entry(&live, manager).unwrap()["fieldsV1"].clone();
    assert_eq!((owned("m1"), owned("m2")), (json!({"f:spec": {"f:b": {}}}), json!({"f:spec": {"f:a": {}, "f:l": {}}})));
}

#[test]
fn an_apply_that_some_owners_version_cannot_say_is_refused() {
    let versions = TwoVersions::new("set");
    let mistyped = |why: &str| Err(ApplyError::Mistyped(why.to_owned()));
    let live = versions.apply(None, "m1", "ex.com/v1beta1", &json!({"a": "1"})).unwrap();
    let more = json!({"a": "1", "n": "2"});
    let why = "failed to convert new object: .spec.n: field not declared in schema";
    assert_eq!(versions.apply(Some(&live), "m2", "ex.com/v1", &more), mistyped(why));
    let why = "failed to prune fields: failed to convert merged object to last applied version: .spec.n: field not declared in schema";
    assert_eq!(versions.apply(Some(&live), "m1", "ex.com/v1", &more), mistyped(why));

    // A default that only the other version has is there before anything is applied.
    let mut defaulted = live.clone();
    defaulted["spec"]["n"] = json!("x");
    let why = ".spec.n: field not declared in schema";
    assert_eq!(versions.apply(Some(&defaulted), "m2", "ex.com/v1", &json!({"b": "2"})), mistyped(why));

    let mut gone = live;
    gone["metadata"]["managedFields"][0]["apiVersion"] = json!("ex.com/v1alpha1");
    let why = "request to convert CR to an invalid group/version: ex.com/v1alpha1";
    assert_eq!(versions.apply(Some(&gone), "m2", "ex.com/v1", &json!({"b": "2"})), mistyped(why));
}

#[test]
fn an_update_that_some_owners_version_cannot_say_leaves_the_owners_as_they_were() {
    let versions = TwoVersions::new("set");
    let live = versions.apply(None, "m1", "ex.com/v1beta1", &json!({"a": "1", "b": "1"})).unwrap();
    let live = in_version(&live, "ex.com/v1");
    let updated = |field: &str| {
        let mut new = live.clone();
        new["metadata"].as_object_mut().unwrap().remove("managedFields");
        new["spec"][field] = json!("3");
        record_update(&versions.1, Some(&live), &mut new, &versions.who("u", "ex.com/v1"));
        new["metadata"]["managedFields"].clone()
    };
    assert_eq!(updated("n"), live["metadata"]["managedFields"]);
    let list = updated("b");
    assert_eq!(list[0]["fieldsV1"], json!({"f:spec": {"f:a": {}}}));
    assert_eq!((&list[1]["manager"], &list[1]["fieldsV1"]), (&json!("u"), &json!({"f:spec": {"f:b": {}}})));
}

#[test]
fn who_owned_items_of_a_list_that_is_now_owned_as_a_whole_owns_the_list() {
    let (before, after) = (TwoVersions::new("set"), TwoVersions::new("atomic"));
    let live = before.apply(None, "m1", "ex.com/v1", &json!({"l": ["p", "q"]})).unwrap();
    let live = before.apply(Some(&live), "m2", "ex.com/v1", &json!({"l": ["p"], "a": "1"})).unwrap();
    let made = after.apply(Some(&live), "m3", "ex.com/v1", &json!({"b": "1"})).unwrap();
    let owned = |manager: &str| entry(&made, manager).unwrap()["fieldsV1"]["f:spec"].clone();
    assert_eq!((owned("m1"), owned("m2")), (json!({"f:l": {}}), json!({"f:a": {}, "f:l": {}})));
    // What is applied no more is not half of the list: m1 owns it, too.
    let kept = after.apply(Some(&made), "m2", "ex.com/v1", &json!({"a": "1"})).unwrap();
    assert_eq!(kept["spec"]["l"], json!(["p", "q"]));

    let mut new = live.clone();
    new["spec"]["b"] = json!("1");
    record_update(&after.1, Some(&live), &mut new, &after.who("u", "ex.com/v1"));
    assert_eq!(entry(&new, "m1").unwrap()["fieldsV1"], json!({"f:spec": {"f:l": {}}}));
}

#[test]
fn owners_in_a_version_that_a_built_in_kind_has_not_are_forgotten() {
    let mut live = applied(None, &deployment(&json!({"replicas": 1, "minReadySeconds": 2})), "me");
    live["metadata"]["managedFields"][0]["apiVersion"] = json!("apps/v1beta1");
    let made = applied(Some(&live), &deployment(&json!({"paused": true})), "you");
    assert!(entry(&made, "me").is_none() && entry(&made, "you").is_some(), "{made}");
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(2);
    record_update(&schema("apps.Deployment"), Some(&live), &mut new, &who("u"));
    assert_eq!(new["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

/// Two versions of which the second calls `a` by the name of `n`.
#[derive(Debug)]
struct Renamed(TwoVersions);

impl managed::Versions for Renamed {
    fn schema(&self, api_version: &str) -> Result<&SchemaRef, Unconverted> {
        managed::Versions::schema(&self.0, api_version)
    }

    fn convert<'o>(&self, object: &'o Value, api_version: &str) -> Result<Cow<'o, Value>, Unconverted> {
        if object["apiVersion"] == api_version {
            return Ok(Cow::Borrowed(object));
        }
        let mut object = in_version(object, api_version);
        let (from, to) = if api_version == "ex.com/v1" { ("a", "n") } else { ("n", "a") };
        if let Some(value) = object["spec"].as_object_mut().and_then(|spec| spec.remove(from)) {
            object["spec"][to] = value;
        }
        Ok(Cow::Owned(object))
    }
}

#[test]
fn fields_are_owned_and_pruned_under_the_names_they_have_in_their_owners_version() {
    let versions = Renamed(TwoVersions::new("set"));
    let apply_in = |version: &str, live: Option<&Value>, manager: &str, spec: &Value, force: bool| {
        let live = live.map(|live| managed::Versions::convert(&versions, live, version).unwrap().into_owned());
        let config = json!({"apiVersion": version, "kind": "W", "metadata": {"name": "o"}, "spec": spec});
        let who = Who { manager, api_version: version, kind: "W", subresource: "", now: NOW, reset: &[], versions: Some(&versions) };
        apply(managed::Versions::schema(&versions, version).unwrap(), live.as_ref(), &config, &who, force)
    };
    let live = apply_in("ex.com/v1beta1", None, "m1", &json!({"a": "1", "b": "1"}), false).unwrap();
    let refused = apply_in("ex.com/v1", Some(&live), "m2", &json!({"n": "2"}), false).unwrap_err();
    assert_eq!(refused.to_string(), "Apply failed with 1 conflict: conflict with \"m1\": .spec.a");
    let taken = apply_in("ex.com/v1", Some(&live), "m2", &json!({"n": "2"}), true).unwrap();
    assert_eq!(entry(&taken, "m1").unwrap()["fieldsV1"], json!({"f:spec": {"f:b": {}}}));

    // What was applied as `a` and is not applied as `n` goes.
    let less = apply_in("ex.com/v1", Some(&live), "m1", &json!({"b": "1"}), false).unwrap();
    assert_eq!((&less["apiVersion"], &less["spec"]), (&json!("ex.com/v1"), &json!({"b": "1"})));
    let same = apply_in("ex.com/v1", Some(&live), "m1", &json!({"n": "1", "b": "1"}), false).unwrap();
    assert_eq!(same["spec"], json!({"n": "1", "b": "1"}));
}
