//! Ways to spoil or change an object, field by field, as its schema suggests.

use serde_json::{Value, json};

use super::api::Resource;

/// One change of an object.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    /// `spec.replicas=-1`, for people and for the list of accepted differences.
    pub(crate) label: String,
    path: Vec<Step>,
    action: Action,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Member(String),
    Item(usize),
}

#[derive(Clone, Debug)]
enum Action {
    Set(Value),
    Remove,
}

/// What changes are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    /// All, valid or not, also values of the wrong type.
    Create,
    /// Those of the right type: immutable fields show themselves.
    Update,
}

/// Schemas whose inside is looked at only where they are a kind of their own, because many kinds hold them.
const OPAQUE: &[&str] = &[".PodSpec", ".ObjectMeta", ".PersistentVolumeClaimSpec", ".JobSpec", ".ManagedFieldsEntry"];
const LONG: usize = 300;

impl Mutation {
    /// The changed object.
    pub(crate) fn apply(&self, object: &Value) -> Value {
        let mut changed = object.clone();
        let Some((last, parents)) = self.path.split_last() else { return changed };
        let mut at = &mut changed;
        for step in parents {
            let next = match step {
                Step::Member(name) => {
                    if !at.is_object() {
                        *at = json!({});
                    }
                    at.as_object_mut().map(|members| members.entry(name.clone()).or_insert_with(|| json!({})))
                }
                Step::Item(index) => at.get_mut(*index),
            };
            match next {
                Some(next) => at = next,
                None => return object.clone(),
            }
        }
        match (last, &self.action, at) {
            (Step::Member(name), Action::Set(value), Value::Object(members)) => {
                members.insert(name.clone(), value.clone());
            }
            (Step::Member(name), Action::Remove, Value::Object(members)) => {
                members.remove(name);
            }
            (Step::Item(index), Action::Set(value), Value::Array(items)) if *index < items.len() => items[*index] = value.clone(),
            _ => {}
        }
        changed
    }
}

/// All changes of an object; `root` is the member they are limited to, empty for all.
pub(crate) fn mutations(resource: &Resource, object: &Value, aim: Aim, root: &str) -> Vec<Mutation> {
    let mut walk = Walk { resource, aim, path: Vec::new(), trail: Vec::new(), found: Vec::new() };
    let Some(schema) = resource.schema() else { return Vec::new() };
    let members = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (name, schema) in members {
        match name.as_str() {
            _ if !root.is_empty() && name != root => {}
            "apiVersion" | "kind" => {}
            "metadata" if walk.resource.kind == "ConfigMap" && aim == Aim::Create => walk.member(name, schema, object.get(name)),
            "metadata" => {}
            "status" if root.is_empty() => {}
            _ => walk.member(name, schema, object.get(name)),
        }
    }
    if root.is_empty() {
        walk.metadata(object);
    }
    walk.found
}

struct Walk<'r> {
    resource: &'r Resource,
    aim: Aim,
    path: Vec<Step>,
    /// Names of the schemas that are being looked into.
    trail: Vec<String>,
    found: Vec<Mutation>,
}

impl Walk<'_> {
    fn member(&mut self, name: &str, schema: &Value, value: Option<&Value>) {
        self.path.push(Step::Member(name.to_owned()));
        if value.is_some() {
            self.note("gone", Action::Remove);
        }
        self.value(schema, value);
        self.path.pop();
    }

    fn value(&mut self, schema: &Value, value: Option<&Value>) {
        let (schema, name) = self.resource.follow(schema);
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        if name.is_some_and(|n| n.ends_with(".Quantity")) {
            return self.offer(value, &["1", "2Gi"], &[json!("x"), json!("-1"), json!("0"), json!("0.5m"), json!(true)]);
        }
        if text("format") == "int-or-string" {
            let odd = [json!(-1), json!(0), json!("x"), json!("150%"), json!(70000), json!(true), json!("Odd_Name")];
            return self.offer(value, &["1"], &odd);
        }
        match text("type") {
            "string" => self.string(schema, value),
            "integer" => self.integer(value),
            "number" => self.offer(value, &[], &[json!("x"), json!(-1.5)]),
            "boolean" => self.boolean(value),
            "array" => self.array(schema, value),
            "object" if schema.get("additionalProperties").is_some() => self.map(schema, value),
            "object" => self.message(schema, name, value),
            _ => {}
        }
    }

    fn string(&mut self, schema: &Value, value: Option<&Value>) {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        if schema.get("enum").is_some() {
            return self.offer(value, &[], &[json!("Odd"), json!(""), json!(7)]);
        }
        match format {
            "date-time" => self.offer(value, &["2020-01-02T03:04:05Z"], &[json!("x"), json!(7)]),
            "byte" => self.offer(value, &["YQ=="], &[json!("!!"), json!(7)]),
            _ => {
                let long = "a".repeat(LONG);
                self.offer(value, &["changed"], &[json!(""), json!("Not_Valid "), json!(long), json!(7), json!("a/b"), json!("x.Y")]);
            }
        }
    }

    fn integer(&mut self, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64) {
            self.note(&format!("{}", number + 1), Action::Set(json!(number + 1)));
        }
        self.offer(value, &[], &[json!(1), json!(-1), json!(0), json!(70_000), json!(4_294_967_296_i64), json!("x"), json!(1.5)]);
    }

    fn boolean(&mut self, value: Option<&Value>) {
        let flipped = !value.and_then(Value::as_bool).unwrap_or_default();
        self.note(&flipped.to_string(), Action::Set(json!(flipped)));
        self.offer(value, &[], &[json!("x")]);
    }

    fn array(&mut self, schema: &Value, value: Option<&Value>) {
        let items = schema.get("items").unwrap_or(&Value::Null);
        match value.and_then(Value::as_array) {
            Some(list) if !list.is_empty() => {
                self.note("[]", Action::Set(json!([])));
                let mut twice = list.clone();
                twice.push(list[0].clone());
                self.note("twice", Action::Set(Value::Array(twice)));
                if self.aim == Aim::Create {
                    self.note("\"x\"", Action::Set(json!("x")));
                    self.note("[null]", Action::Set(json!([null])));
                }
                for (at, item) in list.iter().enumerate().take(2) {
                    self.path.push(Step::Item(at));
                    self.value(items, Some(item));
                    self.path.pop();
                }
            }
            _ => {
                let made = self.made(items);
                self.note(&format!("[{}]", short(&made)), Action::Set(json!([made])));
                if self.aim == Aim::Create {
                    self.note("{}", Action::Set(json!({})));
                }
            }
        }
    }

    fn map(&mut self, schema: &Value, value: Option<&Value>) {
        let of = schema.get("additionalProperties").unwrap_or(&Value::Null);
        let made = value.and_then(|v| v.as_object()?.values().next().cloned()).unwrap_or_else(|| self.made(of));
        let base = value.and_then(Value::as_object).cloned().unwrap_or_default();
        for key in ["added", "-Bad/x/y", ""] {
            let mut members = base.clone();
            members.insert(key.to_owned(), made.clone());
            self.note(&format!("+{key:?}"), Action::Set(Value::Object(members)));
        }
        if self.aim == Aim::Create {
            self.note("\"x\"", Action::Set(json!("x")));
            self.note("{a:7}", Action::Set(json!({"a": 7})));
        }
        if let Some((key, first)) = value.and_then(|v| v.as_object()?.iter().next()) {
            self.path.push(Step::Member(key.clone()));
            self.note("gone", Action::Remove);
            self.value(of, Some(first));
            self.path.pop();
        }
    }

    fn message(&mut self, schema: &Value, name: Option<&str>, value: Option<&Value>) {
        let name = name.unwrap_or_default().to_owned();
        let inside = value.is_some_and(Value::is_object);
        if self.aim == Aim::Create || !inside {
            self.note("{}", Action::Set(json!({})));
        }
        if self.aim == Aim::Create && inside {
            self.note("\"x\"", Action::Set(json!("x")));
            let mut odd = value.cloned().unwrap_or_default();
            odd["oddField"] = json!(1);
            self.note("+oddField", Action::Set(odd));
        }
        let opaque = OPAQUE.iter().any(|o| name.ends_with(o)) && self.path.len() > 1;
        if !inside || self.trail.iter().filter(|n| **n == name).count() > 1 {
            return;
        }
        self.trail.push(name);
        for (member, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let present = value.and_then(|v| v.get(member));
            if !opaque {
                self.member(member, schema, present);
            } else if let Some(present) = present {
                self.path.push(Step::Member(member.clone()));
                self.note("gone", Action::Remove);
                if present.is_string() {
                    self.note("\"Odd_x\"", Action::Set(json!("Odd_x")));
                }
                self.path.pop();
            }
        }
        self.trail.pop();
    }

    /// The few changes of metadata that every kind gets.
    fn metadata(&mut self, object: &Value) {
        let set = |walk: &mut Self, member: &str, word: &str, value: Value| {
            walk.path = vec![Step::Member("metadata".into()), Step::Member(member.into())];
            walk.note(word, Action::Set(value));
            walk.path.clear();
        };
        if self.aim == Aim::Create {
            for (word, name) in [("\"Not_Valid\"", "Not_Valid"), ("\"\"", ""), ("\"a/b\"", "a/b"), ("\"x.y\"", "x.y"), ("\"1a\"", "1a")] {
                set(self, "name", word, json!(name));
            }
            set(self, "name", "long", json!("a".repeat(260)));
            set(self, "name", "64", json!("a".repeat(64)));
            set(self, "resourceVersion", "\"7\"", json!("7"));
            set(self, "namespace", "\"other\"", json!("other"));
            set(self, "uid", "\"u\"", json!("u"));
        } else {
            set(self, "name", "\"other\"", json!("other"));
            set(self, "uid", "\"u\"", json!("u"));
            set(self, "resourceVersion", "\"1\"", json!("1"));
            set(self, "resourceVersion", "\"\"", json!(""));
            set(self, "creationTimestamp", "2020", json!("2020-01-02T03:04:05Z"));
            set(self, "generation", "7", json!(7));
        }
        set(self, "labels", "{added}", json!({"added": "yes"}));
        set(self, "labels", "bad", json!({"-Bad/x/y": "no good"}));
        set(self, "annotations", "{added}", json!({"added": "yes"}));
        set(self, "annotations", "bad", json!({"-Bad/x/y": "v"}));
        set(self, "finalizers", "[bad]", json!(["bad", "example.com/Bad_"]));
        set(self, "ownerReferences", "[{}]", json!([{}]));
        if object.pointer("/metadata/name").is_some() && self.aim == Aim::Create {
            self.path = vec![Step::Member("oddField".into())];
            self.note("1", Action::Set(json!(1)));
            self.path.clear();
        }
    }

    /// Offers values of the right type and, where all are wanted, odd ones.
    fn offer(&mut self, value: Option<&Value>, good: &[&str], odd: &[Value]) {
        for text in good {
            self.note(&format!("{text:?}"), Action::Set(json!(text)));
        }
        let is_text = value.is_none_or(Value::is_string);
        // Of an absent field only what says most.
        let most = if value.is_some() { odd.len() } else { 2 };
        for value in odd.iter().take(most) {
            let fits = if is_text { value.is_string() } else { value.is_i64() };
            if self.aim == Aim::Create || fits {
                self.note(&short(value), Action::Set(value.clone()));
            }
        }
    }

    fn note(&mut self, word: &str, action: Action) {
        let mut label = String::new();
        for step in &self.path {
            match step {
                Step::Member(name) if label.is_empty() => label += name,
                Step::Member(name) => label += &format!(".{name}"),
                Step::Item(at) => label += &format!("[{at}]"),
            }
        }
        self.found.push(Mutation { label: format!("{label}={word}"), path: self.path.clone(), action });
    }

    /// A value of a schema's type.
    fn made(&self, schema: &Value) -> Value {
        let (schema, name) = self.resource.follow(schema);
        if name.is_some_and(|n| n.ends_with(".Quantity")) {
            return json!("1");
        }
        match schema.get("type").and_then(Value::as_str).unwrap_or_default() {
            "string" if schema.get("format").and_then(Value::as_str) == Some("byte") => json!("YQ=="),
            "string" => schema.pointer("/enum/0").cloned().unwrap_or_else(|| json!("x")),
            "integer" => json!(1),
            "boolean" => json!(true),
            "array" => json!([]),
            _ => json!({}),
        }
    }
}

/// A value, cut for a label.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() > 40 { "long".to_owned() } else { text }
}
