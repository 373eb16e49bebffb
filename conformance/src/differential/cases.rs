//! The cases: which requests are made of the objects of the corpus.

use serde_json::{Value, json};

use super::{
    api::Resource,
    corpus::Seed,
    http::Question,
    mutate::{Aim, mutations},
};

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// One question to both servers; the bodies differ only in what the servers chose (uid, resource version).
#[derive(Clone)]
pub(crate) struct Case {
    /// `create apps/v1/deployments/full spec.replicas=-1`
    pub(crate) label: String,
    /// `apps/v1/deployments`, for the table.
    pub(crate) resource: String,
    /// To the server under test.
    pub(crate) left: Question,
    /// To the peer.
    pub(crate) right: Question,
}

/// A seed with its resource and, once made, what each server stores of it.
pub(crate) struct Subject<'a> {
    /// The object of the corpus.
    pub(crate) seed: &'a Seed,
    /// Its resource.
    pub(crate) resource: &'a Resource,
    /// As the server under test and the peer show it; `None` while not both have it.
    pub(crate) stored: Option<(Value, Value)>,
}

impl Subject<'_> {
    fn label(&self) -> String {
        format!("{}/{}", self.resource.label(), self.seed.name())
    }

    fn collection(&self) -> String {
        self.resource.collection(self.seed.namespace())
    }

    /// The path of the object.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.seed.name())
    }

    fn case(&self, verb: &str, what: &str, question: Question) -> Case {
        let label = format!("{verb} {} {what}", self.label());
        Case { label: label.trim_end().to_owned(), resource: self.resource.label(), left: question.clone(), right: question }
    }

    /// POST of the object as it is.
    pub(crate) fn create(&self, dry: bool) -> Case {
        let path = format!("{}{}", self.collection(), if dry { "?dryRun=All" } else { "" });
        self.case("create", "", Question { method: "POST", path, content_type: JSON, body: self.seed.object.to_string() })
    }

    /// GET of the object.
    pub(crate) fn read(&self) -> Case {
        self.case("get", "", Question { method: "GET", path: self.path(), content_type: JSON, body: String::new() })
    }

    /// DELETE of the object.
    pub(crate) fn delete(&self) -> Case {
        self.case("delete", "", Question { method: "DELETE", path: self.path(), content_type: JSON, body: String::new() })
    }

    /// POST of the object, changed in every way, without effect.
    pub(crate) fn spoiled(&self) -> Vec<Case> {
        let path = format!("{}?dryRun=All", self.collection());
        let question = |body: &Value| Question { method: "POST", path: path.clone(), content_type: JSON, body: body.to_string() };
        let changes = mutations(self.resource, &self.seed.object, Aim::Create, "");
        let mut cases: Vec<Case> = changes.iter().map(|m| self.case("create", &m.label, question(&m.apply(&self.seed.object)))).collect();
        let mut odd = self.seed.object.clone();
        odd["spec"]["oddField"] = json!(1);
        let strict = Question { path: format!("{path}&fieldValidation=Strict"), ..question(&odd) };
        cases.push(self.case("create", "strict", strict));
        let mut generated = self.seed.object.clone();
        generated["metadata"]["name"] = json!("");
        generated["metadata"]["generateName"] = json!("Bad_-");
        cases.push(self.case("create", "generateName=Bad_-", question(&generated)));
        for (what, body) in [
            ("cut", r#"{"kind":"#),
            ("empty", ""),
            ("list", "[]"),
            ("text", "\"x\""),
            ("null", "null"),
            ("other", r#"{"apiVersion":"v1","kind":"Odd"}"#),
        ] {
            cases.push(self.case("create", &format!("body={what}"), Question { body: body.into(), ..question(&Value::Null) }));
        }
        cases
    }

    /// PUT of the stored object, changed in every way, without effect.
    pub(crate) fn updated(&self) -> Vec<Case> {
        let Some((_, base)) = &self.stored else { return Vec::new() };
        if !self.resource.takes("PUT") {
            return Vec::new();
        }
        let mut cases = vec![self.put("update", "", &|v| v.clone(), "?dryRun=All", "")];
        cases.extend(
            mutations(self.resource, base, Aim::Update, "")
                .iter()
                .map(|m| self.put("update", &m.label, &|v| m.apply(v), "?dryRun=All", "")),
        );
        cases
    }

    /// PUT of the status, as the corpus has it.
    pub(crate) fn status(&self) -> Option<Case> {
        let status = self.seed.status.as_ref()?;
        self.stored.as_ref()?;
        Some(self.put("status", "", &|v| with_status(v, status), "", "/status"))
    }

    /// PUT of the stored status, changed in every way, without effect.
    pub(crate) fn statuses(&self) -> Vec<Case> {
        let Some((_, base)) = self.stored.as_ref().filter(|_| self.resource.subresources.contains_key("status")) else { return Vec::new() };
        mutations(self.resource, base, Aim::Update, "status")
            .iter()
            .map(|m| self.put("status", &m.label, &|v| m.apply(v), "?dryRun=All", "/status"))
            .collect()
    }

    fn put(&self, verb: &str, what: &str, change: &dyn Fn(&Value) -> Value, query: &str, part: &str) -> Case {
        let label = format!("{verb} {} {what}", self.label());
        let nothing = (Value::Null, Value::Null);
        let (left, right) = self.stored.as_ref().unwrap_or(&nothing);
        let path = format!("{}{part}{query}", self.path());
        let question = |base: &Value| Question { method: "PUT", path: path.clone(), content_type: JSON, body: change(base).to_string() };
        Case { label: label.trim_end().to_owned(), resource: self.resource.label(), left: question(left), right: question(right) }
    }

    /// PATCH in every form, good and bad, without effect.
    pub(crate) fn patches(&self) -> Vec<Case> {
        if self.stored.is_none() || !self.resource.takes("PATCH") {
            return Vec::new();
        }
        let ask = |what: &str, content_type: &'static str, query: &str, body: String| {
            let path = format!("{}?dryRun=All{query}", self.path());
            self.case("patch", what, Question { method: "PATCH", path, content_type, body })
        };
        let mut cases = Vec::new();
        for (what, content_type, body) in PATCHES {
            cases.push(ask(what, content_type, "", (*body).to_owned()));
        }
        let (version, kind) = (self.seed.api_version(), self.seed.kind());
        let apply = |metadata: Value| json!({"apiVersion": version, "kind": kind, "metadata": metadata}).to_string();
        let name = self.seed.name();
        let manager = "&fieldManager=other";
        cases.push(ask("apply", APPLY, manager, apply(json!({"name": name, "labels": {"a": "b"}}))));
        cases.push(ask("apply without manager", APPLY, "", apply(json!({"name": name}))));
        cases.push(ask("apply with managed fields", APPLY, manager, apply(json!({"name": name, "managedFields": [{"manager": "x"}]}))));
        cases.push(ask("apply other name", APPLY, manager, apply(json!({"name": "other"}))));
        cases.push(ask("apply odd field", APPLY, manager, apply(json!({"name": name, "oddField": 1}))));
        cases.push(ask(
            "apply other kind",
            APPLY,
            manager,
            json!({"apiVersion": "v1", "kind": "Odd", "metadata": {"name": name}}).to_string(),
        ));
        cases.push(ask("apply no kind", APPLY, manager, json!({"metadata": {"name": name}}).to_string()));
        cases.push(ask("apply cut", APPLY, manager, "{".into()));
        let mut whole = self.seed.object.clone();
        cases.push(ask("apply same", APPLY, manager, whole.to_string()));
        whole["metadata"]["annotations"] = json!({"a": "b"});
        cases.push(ask("apply more", APPLY, &format!("{manager}&force=true"), whole.to_string()));
        if let Some(change) = first_text(&self.seed.object) {
            cases.push(ask("apply conflict", APPLY, manager, change.to_string()));
            cases.push(ask("apply forced", APPLY, &format!("{manager}&force=true"), change.to_string()));
        }
        cases
    }

    /// DELETE in every form, without effect.
    pub(crate) fn deletes(&self) -> Vec<Case> {
        if self.stored.is_none() || !self.resource.takes("DELETE") {
            return Vec::new();
        }
        let ask = |what: &str, query: &str, body: &str| {
            let path = format!("{}?dryRun=All{query}", self.path());
            self.case("delete", what, Question { method: "DELETE", path, content_type: JSON, body: body.to_owned() })
        };
        DELETES.iter().map(|(what, query, body)| ask(what, query, body)).collect()
    }
}

const PATCHES: &[(&str, &str, &str)] = &[
    ("merge label", MERGE, r#"{"metadata":{"labels":{"a":"b"}}}"#),
    ("merge bad label", MERGE, r#"{"metadata":{"labels":{"a":"b c"}}}"#),
    ("merge other name", MERGE, r#"{"metadata":{"name":"other"}}"#),
    ("merge version", MERGE, r#"{"metadata":{"resourceVersion":"1"}}"#),
    ("merge uid", MERGE, r#"{"metadata":{"uid":"x"}}"#),
    ("merge text", MERGE, r#""x""#),
    ("merge list", MERGE, "[]"),
    ("merge cut", MERGE, r#"{"a":"#),
    ("merge odd field", MERGE, r#"{"oddField":1}"#),
    ("merge wrong type", MERGE, r#"{"metadata":{"labels":"x"}}"#),
    ("merge nothing", MERGE, "{}"),
    ("strategic label", STRATEGIC, r#"{"metadata":{"labels":{"a":"b"}}}"#),
    ("strategic wrong type", STRATEGIC, r#"{"metadata":{"labels":"x"}}"#),
    ("strategic bad directive", STRATEGIC, r#"{"metadata":{"$patch":"odd"}}"#),
    ("strategic finalizer", STRATEGIC, r#"{"metadata":{"finalizers":["example.com/x"]}}"#),
    ("strategic owners without key", STRATEGIC, r#"{"metadata":{"ownerReferences":[{"name":"x"}]}}"#),
    ("strategic cut", STRATEGIC, r#"{"a":"#),
    ("strategic text", STRATEGIC, r#""x""#),
    ("json label", JSON_PATCH, r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]"#),
    ("json test", JSON_PATCH, r#"[{"op":"test","path":"/metadata/name","value":"zzz"}]"#),
    ("json remove missing", JSON_PATCH, r#"[{"op":"remove","path":"/metadata/missing"}]"#),
    ("json replace missing", JSON_PATCH, r#"[{"op":"replace","path":"/metadata/missing","value":1}]"#),
    ("json add below missing", JSON_PATCH, r#"[{"op":"add","path":"/missing/below","value":1}]"#),
    ("json bad op", JSON_PATCH, r#"[{"op":"odd","path":"/metadata/name"}]"#),
    ("json no op", JSON_PATCH, r#"[{"path":"/metadata/name"}]"#),
    ("json no array", JSON_PATCH, r#"{"op":"add"}"#),
    ("json cut", JSON_PATCH, "["),
    ("json bad path", JSON_PATCH, r#"[{"op":"add","path":"metadata","value":1}]"#),
    ("json empty", JSON_PATCH, "[]"),
    ("json wrong type", JSON_PATCH, r#"[{"op":"add","path":"/metadata/labels","value":"x"}]"#),
    ("plain json", JSON, "{}"),
    ("text", "text/plain", "{}"),
];

const DELETES: &[(&str, &str, &str)] = &[
    ("plain", "", ""),
    ("orphan", "&propagationPolicy=Orphan", ""),
    ("foreground", "&propagationPolicy=Foreground", ""),
    ("background", "", r#"{"propagationPolicy":"Background","dryRun":["All"]}"#),
    ("odd policy", "&propagationPolicy=Odd", ""),
    ("both policies", "&propagationPolicy=Orphan&orphanDependents=true", ""),
    ("orphan dependents", "&orphanDependents=true", ""),
    ("grace 0", "&gracePeriodSeconds=0", ""),
    ("grace -1", "&gracePeriodSeconds=-1", ""),
    ("grace 5", "", r#"{"gracePeriodSeconds":5,"dryRun":["All"]}"#),
    ("other uid", "", r#"{"preconditions":{"uid":"x"}}"#),
    ("other version", "", r#"{"preconditions":{"resourceVersion":"1"}}"#),
    ("both preconditions", "", r#"{"preconditions":{"uid":"x","resourceVersion":"1"}}"#),
    ("odd dry run", "&dryRun=Odd", ""),
    ("nothing but dry run in body", "&gracePeriodSeconds=7", r#"{"dryRun":["All"]}"#),
    ("cut", "", "{"),
    ("other kind", "", r#"{"apiVersion":"v1","kind":"Odd","dryRun":["All"]}"#),
];

fn with_status(object: &Value, status: &Value) -> Value {
    let mut object = object.clone();
    object["status"] = status.clone();
    object
}

/// An apply of the object with its first text outside metadata changed: somebody else owns that.
fn first_text(object: &Value) -> Option<Value> {
    fn change(value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                text.push('x');
                true
            }
            Value::Array(items) => items.iter_mut().any(change),
            Value::Object(members) => members.values_mut().any(change),
            _ => false,
        }
    }
    let mut object = object.clone();
    let members = object.as_object_mut()?;
    let changed = members.iter_mut().any(|(k, v)| !matches!(k.as_str(), "apiVersion" | "kind" | "metadata") && change(v));
    changed.then_some(object)
}
