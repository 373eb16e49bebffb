//! What differs between two versions of an object, and whose entries moved. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A field that differs; values are compact JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// `.spec.containers[name=web].image`
    pub(super) path: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// Members of metadata that change with everything and tell nothing.
const QUIET: [&str; 2] = ["managedFields", "resourceVersion"];
/// What tells the elements of a list apart, if all have it and no two the same.
const KEYS: [&str; 7] = ["name", "type", "key", "uid", "ip", "containerPort", "port"];
/// Longer values are cut: the whole is in the JSON output.
const WIDTH: usize = 200;

/// All fields that differ, in the order of their paths.
pub(super) fn between(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", Some(before).filter(|v| !v.is_null()), Some(after).filter(|v| !v.is_null()), &mut changes);
    changes
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    let of = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    match (before, after) {
        (before, after) if before == after => {}
        // What is wholly new or gone is told field by field, too.
        (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) => {
            members(path, &of(before).unwrap_or_default(), &of(after).unwrap_or_default(), changes);
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => elements(path, before, after, changes),
        _ => changes.push(Change { path: path.to_owned(), before: before.map(text), after: after.map(text) }),
    }
}

fn members(path: &str, before: &Map<String, Value>, after: &Map<String, Value>, changes: &mut Vec<Change>) {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        if path == ".metadata" && QUIET.contains(&name.as_str()) {
            continue;
        }
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        let path = if plain { format!("{path}.{name}") } else { format!("{path}[{name:?}]") };
        match (before.get(name), after.get(name)) {
            // An empty object has no fields to be told.
            (None, Some(Value::Object(new))) if new.is_empty() => {
                changes.push(Change { path, before: None, after: Some("{}".to_owned()) });
            }
            (Some(Value::Object(old)), None) if old.is_empty() => {
                changes.push(Change { path, before: Some("{}".to_owned()), after: None });
            }
            (before, after) => compare(&path, before, after, changes),
        }
    }
}

fn elements(path: &str, before: &[Value], after: &[Value], changes: &mut Vec<Change>) {
    let Some(key) = KEYS.iter().find(|key| tells_apart(before, key) && tells_apart(after, key)) else {
        for at in 0..before.len().max(after.len()) {
            compare(&format!("{path}[{at}]"), before.get(at), after.get(at), changes);
        }
        return;
    };
    let find = |list: &[Value], id: &Value| list.iter().find(|element| element.get(key) == Some(id)).cloned();
    let ids = before.iter().chain(after.iter().filter(|element| element.get(key).is_none_or(|id| find(before, id).is_none())));
    for id in ids.filter_map(|element| element.get(key)) {
        let name = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        compare(&format!("{path}[{key}={name}]"), find(before, id).as_ref(), find(after, id).as_ref(), changes);
    }
    let order = |list: &[Value], other: &[Value]| -> Vec<Value> {
        let ids = list.iter().filter_map(|element| element.get(key));
        ids.filter(|id| find(other, id).is_some()).cloned().collect()
    };
    let (old, new) = (order(before, after), order(after, before));
    // Conditions are a set, whatever order they come in.
    if old != new && *key != "type" {
        let told = |ids: Vec<Value>| Some(text(&Value::Array(ids)));
        changes.push(Change { path: format!("{path} (order)"), before: told(old), after: told(new) });
    }
}

fn tells_apart(list: &[Value], key: &str) -> bool {
    let ids: Vec<&Value> = list.iter().filter_map(|element| element.get(key)).collect();
    let different: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
    ids.len() == list.len() && different.len() == list.len()
}

fn text(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= WIDTH {
        return text;
    }
    let cut: String = text.chars().take(WIDTH).collect();
    format!("{cut}… ({} bytes)", text.len())
}

/// Who wrote: whose entries in the managed fields are new or of another time; if there are none (a writer that changes only what it owns
/// moves nothing), who owns what changed. Each is a manager, with the subresource it wrote through.
pub(super) fn writers(before: &Value, after: &Value, changes: &[Change]) -> Vec<String> {
    let entries = |object: &Value| object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let same = |a: &Value, b: &Value| ["manager", "operation", "apiVersion", "subresource", "time"].iter().all(|of| a.get(of) == b.get(of));
    let (old, new) = (entries(before), entries(after));
    let moved: Vec<&Value> = new.iter().filter(|entry| !old.iter().any(|old| same(old, entry))).collect();
    let owning = || new.iter().filter(|entry| changes.iter().any(|change| owns(entry, &change.path))).collect();
    let mut names: Vec<String> = Vec::new();
    for entry in if moved.is_empty() { owning() } else { moved } {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let part = text("subresource");
        let name = if part.is_empty() { text("manager").to_owned() } else { format!("{} ({part})", text("manager")) };
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whether an entry of the managed fields has the field, as far as its path leads through objects.
fn owns(entry: &Value, path: &str) -> bool {
    let plain = path.split('[').next().unwrap_or_default();
    let mut at = entry.get("fieldsV1");
    for name in plain.split('.').filter(|name| !name.is_empty()) {
        at = at.and_then(|fields| fields.get(format!("f:{name}")));
    }
    at.is_some() && !plain.is_empty()
}

/// Hides the values of secrets: each becomes a number that is the same as long as the value is.
#[derive(Default)]
pub(super) struct Hiding {
    seen: Vec<String>,
}

impl Hiding {
    /// Replaces the values of a secret; other objects stay as they are.
    pub(super) fn hide(&mut self, object: &mut Value) {
        if object.get("kind").and_then(Value::as_str) != Some("Secret") {
            return;
        }
        for part in ["data", "stringData"] {
            let values = object.get_mut(part).and_then(Value::as_object_mut).into_iter().flatten();
            values.for_each(|(_, value)| self.replace(value));
        }
        // kubectl apply keeps all it was given in an annotation.
        if let Some(last) = object.pointer_mut("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration") {
            self.replace(last);
        }
    }

    fn replace(&mut self, value: &mut Value) {
        let text = value.to_string();
        let at = self.seen.iter().position(|seen| *seen == text).unwrap_or_else(|| {
            self.seen.push(text);
            self.seen.len() - 1
        });
        *value = format!("hidden value {}", at + 1).into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(before: &Value, after: &Value) -> Vec<String> {
        let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        between(before, after).into_iter().map(|c| format!("{} {} {}", c.path, text(c.before), text(c.after))).collect()
    }

    #[test]
    fn fields_are_told_by_their_paths_and_list_elements_by_their_names() {
        let before = json!({"metadata": {"resourceVersion": "1", "labels": {"a.b/c": "x"}}, "spec": {"replicas": 2, "list": [1, 2],
            "containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}});
        let after = json!({"metadata": {"resourceVersion": "2", "labels": {}}, "spec": {"replicas": 3, "list": [1], "empty": {},
            "containers": [{"name": "c"}, {"name": "a", "image": "i:2"}]}});
        assert_eq!(
            lines(&before, &after),
            [
                r#".metadata.labels["a.b/c"] "x" none"#,
                r#".spec.containers[name=a].image "i:1" "i:2""#,
                r#".spec.containers[name=b].image "j" none"#,
                r#".spec.containers[name=b].name "b" none"#,
                r#".spec.containers[name=c].name none "c""#,
                ".spec.empty none {}",
                ".spec.list[1] 2 none",
                ".spec.replicas 2 3",
            ]
        );
        assert_eq!(lines(&json!({"l": [{"name": "a"}, {"name": "b"}]}), &json!({"l": [{"name": "b"}, {"name": "a"}]})).len(), 1);
    }

    #[test]
    fn the_writer_is_whose_entry_moved_or_who_owns_what_changed() {
        let entry = |manager: &str, time: u32, part: &str| json!({"manager": manager, "time": time, "subresource": part, "fieldsV1": {"f:data": {format!("f:{manager}"): {}}}});
        let object = |entries: &[Value]| json!({"metadata": {"managedFields": entries}});
        let before = object(&[entry("kubectl", 1, ""), entry("kubelet", 1, "status")]);
        let mut less = entry("kubectl", 1, "");
        less["fieldsV1"] = json!({});
        let after = object(&[less, entry("kubelet", 2, "status")]);
        assert_eq!(writers(&before, &after, &[]), ["kubelet (status)"], "who lost a field did not write");
        assert_eq!(writers(&Value::Null, &before, &[]), ["kubectl", "kubelet (status)"]);
        assert!(writers(&before, &Value::Null, &[]).is_empty());
        let change = Change { path: ".data.kubectl".to_owned(), before: None, after: None };
        assert_eq!(writers(&before, &before, &[change]), ["kubectl"]);
    }

    #[test]
    fn a_secret_tells_that_it_changed_and_not_what_it_says() {
        let mut hiding = Hiding::default();
        let mut secret = |value: &str| {
            let mut secret = json!({"kind": "Secret", "data": {"password": value},
                "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": value}}});
            hiding.hide(&mut secret);
            secret
        };
        let (one, other, again) = (secret("tiger"), secret("lion"), secret("tiger"));
        assert!(!one.to_string().contains("tiger"), "{one}");
        assert_eq!(one["data"]["password"], "hidden value 1");
        assert_eq!((between(&one, &other).len(), between(&one, &again).len()), (2, 0));
        let mut map = json!({"kind": "ConfigMap", "data": {"a": "b"}});
        hiding.hide(&mut map);
        assert_eq!(map["data"]["a"], "b");
    }
}
