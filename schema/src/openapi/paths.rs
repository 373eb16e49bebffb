//! `paths`: the operations of every resource of a group and version.

use serde_json::{Map, Value, json};

use crate::{
    discovery::{Entry, SubEntry},
    tables::Tables,
    types::TypeId,
};

use super::definitions::Definitions;

/// Collects the paths of a document.
pub(super) struct Paths<'a, 't> {
    tables: &'t Tables,
    definitions: &'a mut Definitions<'t>,
    /// `/apis/apps/v1`
    base: String,
    /// `apps_v1`, and `AppsV1` for operation ids.
    tag: String,
    prefix: String,
    made: Map<String, Value>,
}

/// What the operations at one path have in common.
struct At<'e> {
    entry: &'e Entry,
    sub: Option<&'e SubEntry>,
    /// The message of bodies.
    body: Value,
    /// The message of list answers.
    list: Value,
    namespaced: bool,
    all_namespaces: bool,
}

impl<'a, 't> Paths<'a, 't> {
    pub(super) fn new(tables: &'t Tables, group: &str, version: &str, definitions: &'a mut Definitions<'t>) -> Self {
        let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let short = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
        let mut made = Map::new();
        let list = definitions.named("meta.APIResourceList").unwrap_or_default();
        let tag = format!("{short}_{version}");
        let get = json!({
            "description": "get available resources", "operationId": format!("get{}{}APIResources", capital(short), capital(version)),
            "responses": responses(&list, &["200"]), "tags": [tag],
        });
        made.insert(format!("{base}/"), json!({"get": get}));
        Self { tables, definitions, base, prefix: format!("{}{}", capital(short), capital(version)), tag, made }
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.made
    }

    /// Adds a resource and its subresources.
    pub(super) fn add(&mut self, entry: &Entry) {
        let Some(id) = self.message(&entry.group, &entry.version, &entry.kind) else { return };
        let body = self.definitions.reference(id);
        let list = self.list(&entry.group, &entry.version, &entry.kind).unwrap_or_else(|| body.clone());
        let at = |namespaced, all| At { entry, sub: None, body: body.clone(), list: list.clone(), namespaced, all_namespaces: all };
        let collection = if entry.namespaced {
            format!("{}/namespaces/{{namespace}}/{}", self.base, entry.plural)
        } else {
            format!("{}/{}", self.base, entry.plural)
        };
        self.put(collection.clone(), &["list", "create", "deletecollection"], &at(entry.namespaced, false));
        if entry.namespaced {
            self.put(format!("{}/{}", self.base, entry.plural), &["list"], &at(false, true));
        }
        let one = format!("{collection}/{{name}}");
        self.put(one.clone(), &["get", "update", "patch", "delete"], &at(entry.namespaced, false));
        for sub in &entry.subresources {
            let Some(id) = self.message(&sub.group, &sub.version, &sub.kind) else { continue };
            let body = self.definitions.reference(id);
            let at = At { entry, sub: Some(sub), list: body.clone(), body, namespaced: entry.namespaced, all_namespaces: false };
            self.put(format!("{one}/{}", sub.name), &["get", "create", "update", "patch", "delete"], &at);
        }
    }

    fn message(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        self.tables.kind(group, version, kind).map(|of| of.root)
    }

    fn list(&mut self, group: &str, version: &str, kind: &str) -> Option<Value> {
        let id = self.message(group, version, &format!("{kind}List"))?;
        Some(self.definitions.reference(id))
    }

    /// Adds a path with those of `verbs` that the resource has.
    fn put(&mut self, path: String, verbs: &[&str], at: &At<'_>) {
        let served = at.sub.map_or(&at.entry.verbs, |sub| &sub.verbs);
        let mut item = Map::new();
        for verb in verbs.iter().filter(|verb| served.iter().any(|s| s == *verb)) {
            item.insert(method(verb).to_owned(), self.operation(verb, at));
        }
        if item.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        if path.contains("{name}") {
            parameters.push(json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}));
        }
        if path.contains("{namespace}") {
            parameters
                .push(json!({"name": "namespace", "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}));
        }
        parameters.push(query("pretty", "string"));
        item.insert("parameters".to_owned(), Value::Array(parameters));
        self.made.insert(path, Value::Object(item));
    }

    fn operation(&mut self, verb: &str, at: &At<'_>) -> Value {
        let (group, version, kind) = match at.sub {
            Some(sub) => (&sub.group, &sub.version, &sub.kind),
            None => (&at.entry.group, &at.entry.version, &at.entry.kind),
        };
        let action = match verb {
            "create" => "post",
            "update" => "put",
            other => other,
        };
        let mut operation = json!({
            "operationId": self.operation_id(verb, at),
            "tags": [self.tag],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let status = self.definitions.named("meta.Status").unwrap_or_default();
        let options = self.definitions.named("meta.DeleteOptions").unwrap_or_default();
        operation["responses"] = match verb {
            "create" => responses(&at.body, &["200", "201", "202"]),
            "update" | "patch" => responses(&at.body, &["200", "201"]),
            "list" => responses(&at.list, &["200"]),
            "delete" if keeps_object(&at.entry.kind) => responses(&at.body, &["200", "202"]),
            "delete" => responses(&status, &["200", "202"]),
            "deletecollection" => responses(&status, &["200"]),
            _ => responses(&at.body, &["200"]),
        };
        let body = match verb {
            "create" | "update" => Some(json!({"content": {"*/*": {"schema": at.body}}, "required": true})),
            "patch" => Some(patch_body(&self.definitions.named("meta.Patch").unwrap_or_default())),
            "delete" | "deletecollection" => Some(json!({"content": {"*/*": {"schema": options}}})),
            _ => None,
        };
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        let parameters = parameters(verb);
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        operation
    }

    /// `replaceAppsV1NamespacedDeploymentStatus`
    fn operation_id(&self, verb: &str, at: &At<'_>) -> String {
        let verb = match (verb, at.sub) {
            ("get", None) => "read",
            ("get", Some(sub)) if !["exec", "attach", "portforward", "proxy"].contains(&sub.name.as_str()) => "read",
            ("get", Some(_)) => "connectGet",
            ("update", _) => "replace",
            ("deletecollection", _) => "deleteCollection",
            ("create", Some(sub)) if ["exec", "attach", "portforward", "proxy"].contains(&sub.name.as_str()) => "connectPost",
            (other, _) => other,
        };
        let scope = if at.namespaced { "Namespaced" } else { "" };
        let sub = at.sub.map(|s| capital(&s.name)).unwrap_or_default();
        let all = if at.all_namespaces { "ForAllNamespaces" } else { "" };
        format!("{verb}{}{scope}{}{sub}{all}", self.prefix, at.entry.kind)
    }
}

/// Deleting one of these answers with the object, because it may linger.
fn keeps_object(kind: &str) -> bool {
    ["Pod", "PersistentVolume", "PersistentVolumeClaim", "Service", "ServiceAccount", "PodTemplate", "ResourceQuota"].contains(&kind)
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn parameters(verb: &str) -> Vec<Value> {
    let mut names: Vec<(&str, &str)> = match verb {
        "create" | "update" => vec![("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => vec![("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")],
        "delete" | "deletecollection" => vec![
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => Vec::new(),
    };
    if matches!(verb, "list" | "deletecollection") {
        names.extend([
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ]);
    }
    names.into_iter().map(|(name, kind)| query(name, kind)).collect()
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn patch_body(patch: &Value) -> Value {
    let types = ["apply-patch+yaml", "json-patch+json", "merge-patch+json", "strategic-merge-patch+json"];
    let content: Map<String, Value> = types.iter().map(|t| (format!("application/{t}"), json!({"schema": patch}))).collect();
    json!({"content": content, "required": true})
}

fn responses(body: &Value, codes: &[&str]) -> Value {
    let content = json!({"application/json": {"schema": body}});
    let text = |code: &str| match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    };
    let mut made: Map<String, Value> =
        codes.iter().map(|code| ((*code).to_owned(), json!({"description": text(code), "content": content}))).collect();
    made.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(made)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
