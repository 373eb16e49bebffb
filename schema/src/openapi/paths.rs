//! `paths`: the operations of every resource of a group and version (`apiserver/pkg/endpoints/installer.go`, `endpoints/openapi`).

use coracle_tree::{Map, Value, json};

use crate::{
    discovery::{Entry, SubEntry},
    tables::Tables,
};

use super::{definitions::Definitions, parameters};

/// Collects the paths of a document.
pub(super) struct Paths<'a, 't> {
    tables: &'t Tables,
    definitions: &'a mut Definitions<'t>,
    /// `/apis/apps/v1`
    base: String,
    /// `apps_v1`
    tag: String,
    /// `AppsV1`, for operation ids.
    prefix: String,
    made: Map,
}

/// What the operations at one path have in common.
struct At<'e> {
    entry: &'e Entry,
    sub: Option<&'e SubEntry>,
    /// The message of bodies.
    body: Value,
    /// The message of list answers.
    list: Value,
    /// Patched and encoded as JSON only: a custom kind.
    custom: bool,
    /// Of all namespaces.
    all: bool,
    path: String,
}

/// What answers are written in.
pub(super) const BUILT_IN: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const CUSTOM: [&str; 2] = ["application/json", "application/yaml"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

impl<'a, 't> Paths<'a, 't> {
    pub(super) fn new(tables: &'t Tables, group: &str, version: &str, definitions: &'a mut Definitions<'t>) -> Self {
        let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let short = short_group(group);
        let (tag, prefix) = (format!("{short}_{version}"), format!("{}{}", capital(&short), capital(version)));
        let mut made = Map::new();
        let list = definitions.named("meta.APIResourceList").unwrap_or_default();
        let get = json!({
            "description": "get available resources", "operationId": format!("get{prefix}APIResources"),
            "responses": responses(&content(&list, &BUILT_IN), &["200"]), "tags": [tag],
        });
        made.insert(format!("{base}/"), json!({"get": get}));
        Self { tables, definitions, base, tag, prefix, made }
    }

    pub(super) fn finish(self) -> Map {
        self.made
    }

    /// Adds a resource and its subresources.
    pub(super) fn add(&mut self, entry: &Entry) {
        let Some(body) = self.definitions.of_kind(&entry.group, &entry.version, &entry.kind) else { return };
        let custom = self.definitions.is_custom(&entry.group, &entry.version, &entry.kind);
        let list = self.definitions.list_of(&entry.group, &entry.version, &entry.kind).unwrap_or_else(|| body.clone());
        let at = |path: &str, all| At { entry, sub: None, body: body.clone(), list: list.clone(), custom, all, path: path.to_owned() };
        let everywhere = format!("{}/{}", self.base, entry.plural);
        let collection =
            if entry.namespaced { format!("{}/namespaces/{{namespace}}/{}", self.base, entry.plural) } else { everywhere.clone() };
        self.put(&["list", "create", "deletecollection"], &at(&collection, false));
        if entry.namespaced {
            self.put(&["list"], &at(&everywhere, true));
        }
        let one = format!("{collection}/{{name}}");
        self.put(&["get", "update", "patch", "delete"], &at(&one, false));
        for sub in &entry.subresources {
            self.add_sub(entry, sub, custom, &one);
        }
    }

    fn add_sub(&mut self, entry: &Entry, sub: &SubEntry, custom: bool, one: &str) {
        if let Some(verbs) = connects(sub) {
            self.connect(entry, sub, verbs, &format!("{one}/{}", sub.name));
            if sub.name == "proxy" {
                self.connect(entry, sub, verbs, &format!("{one}/proxy/{{path}}"));
            }
            return;
        }
        let Some(body) = self.definitions.of_kind(&sub.group, &sub.version, &sub.kind) else { return };
        let at = At { entry, sub: Some(sub), list: body.clone(), body, custom, all: false, path: format!("{one}/{}", sub.name) };
        self.put(&["get", "create", "update", "patch", "delete"], &at);
    }

    /// Adds a path with those of `verbs` that the resource has.
    fn put(&mut self, verbs: &[&str], at: &At<'_>) {
        let served = at.sub.map_or(&at.entry.verbs, |sub| &sub.verbs);
        let verbs: Vec<&str> = verbs.iter().copied().filter(|verb| served.iter().any(|s| s == verb)).collect();
        let operations = verbs.iter().map(|verb| (method(verb), self.operation(verb, at))).collect();
        let own = |verb: &&str| match at.sub {
            Some(sub) if sub.name == "log" => [parameters::of_verb(verb), self.options("core.PodLogOptions")].concat(),
            _ => parameters::of_verb(verb),
        };
        let lists = verbs.iter().map(own).collect();
        self.insert(&at.path, operations, lists);
    }

    /// Adds a path that is connected through to a node, pod or service.
    fn connect(&mut self, entry: &Entry, sub: &SubEntry, methods: &[&str], path: &str) {
        let scope = if entry.namespaced { "Namespaced" } else { "" };
        let with_path = if path.ends_with("{path}") { "WithPath" } else { "" };
        let operation = |method: &&str| {
            let id = format!("connect{}{}{scope}{}{}{with_path}", self.prefix, capital(method), entry.kind, capital(&sub.name));
            let text = json!({"*/*": {"schema": {"type": "string"}}});
            json!({
                "description": format!("connect {} requests to {} of {}", method.to_uppercase(), sub.name, entry.kind),
                "operationId": id, "responses": responses(&text, &["200"]), "tags": [self.tag], "x-kubernetes-action": "connect",
                "x-kubernetes-group-version-kind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
            })
        };
        let operations = methods.iter().map(|method| (*method, operation(method))).collect();
        let options = self.options(&format!("core.{}", sub.kind));
        self.insert(path, operations, vec![options; methods.len()]);
    }

    fn options(&self, name: &str) -> Vec<Value> {
        let id = self.tables.schema.by_name.get(name);
        id.map(|id| parameters::of_options(self.tables.schema.get(*id))).unwrap_or_default()
    }

    /// Puts operations, each with its parameters, at a path.
    fn insert(&mut self, path: &str, operations: Vec<(&str, Value)>, mut lists: Vec<Vec<Value>>) {
        if operations.is_empty() {
            return;
        }
        for list in &mut lists {
            list.extend(
                ["name", "namespace", "path"].iter().filter(|p| path.contains(&format!("{{{p}}}"))).map(|p| parameters::in_path(p)),
            );
        }
        let common = parameters::take_common(&mut lists);
        let mut item = Map::new();
        for ((method, mut operation), list) in operations.into_iter().zip(lists) {
            if !list.is_empty() {
                operation["parameters"] = Value::Array(list);
            }
            item.insert(method, operation);
        }
        item.insert("parameters", Value::Array(common));
        self.made.insert(path, Value::Object(item));
    }

    fn operation(&mut self, verb: &str, at: &At<'_>) -> Value {
        let (group, version, kind) = match at.sub {
            Some(sub) => (&sub.group, &sub.version, &sub.kind),
            None => (&at.entry.group, &at.entry.version, &at.entry.kind),
        };
        let mut operation = json!({
            "description": sentence(verb, at),
            "operationId": self.operation_id(verb, at),
            "tags": [self.tag],
            "x-kubernetes-action": action(verb),
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        operation["responses"] = self.answers(verb, at);
        let body = match verb {
            "create" | "update" => Some(json!({"content": {"*/*": {"schema": at.body}}, "required": true})),
            "patch" => Some(patch_body(&self.definitions.named("meta.Patch").unwrap_or_default(), at.custom)),
            "delete" | "deletecollection" => {
                let options = self.definitions.named("meta.DeleteOptions").unwrap_or_default();
                Some(json!({"content": {"*/*": {"schema": options}}}))
            }
            _ => None,
        };
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        operation
    }

    fn answers(&mut self, verb: &str, at: &At<'_>) -> Value {
        let types: &[&str] = if at.custom { &CUSTOM } else { &BUILT_IN };
        let status = self.definitions.named("meta.Status").unwrap_or_default();
        match verb {
            "create" => responses(&content(&at.body, types), &["200", "201", "202"]),
            "update" | "patch" => responses(&content(&at.body, types), &["200", "201"]),
            "list" => {
                let streams = STREAMS.iter().filter(|stream| !at.custom || stream.starts_with(BUILT_IN[0]));
                let types: Vec<&str> = types.iter().chain(streams).copied().collect();
                let listed = if at.entry.verbs.iter().any(|verb| verb == "watch") || at.sub.is_none() { &at.list } else { &at.body };
                responses(&content(listed, &types), &["200"])
            }
            "delete" if keeps_object(&at.entry.group, &at.entry.kind) => responses(&content(&at.body, types), &["200", "202"]),
            "delete" => responses(&content(&status, types), &["200", "202"]),
            "deletecollection" => responses(&content(&status, types), &["200"]),
            _ if at.sub.is_some_and(|sub| sub.name == "log") => {
                responses(&content(&json!({"type": "string"}), &[types, &["text/plain"]].concat()), &["200"])
            }
            _ => responses(&content(&at.body, types), &["200"]),
        }
    }

    /// `replaceAppsV1NamespacedDeploymentStatus`
    fn operation_id(&self, verb: &str, at: &At<'_>) -> String {
        let (verb, collection) = match verb {
            "get" => ("read", ""),
            "update" => ("replace", ""),
            "deletecollection" => ("delete", "Collection"),
            other => (other, ""),
        };
        let scope = if at.entry.namespaced && !at.all { "Namespaced" } else { "" };
        let sub = at.sub.map(|s| capital(&s.name)).unwrap_or_default();
        let all = if at.all { "ForAllNamespaces" } else { "" };
        format!("{verb}{}{collection}{scope}{}{sub}{all}", self.prefix, at.entry.kind)
    }
}

/// The methods by which a subresource is connected through, if it is.
fn connects(sub: &SubEntry) -> Option<&'static [&'static str]> {
    match sub.name.as_str() {
        "attach" | "exec" | "portforward" => Some(&["get", "post"]),
        "proxy" => Some(&["delete", "get", "head", "options", "patch", "post", "put"]),
        _ => None,
    }
}

/// Deleting one of these answers with the object, because it may linger.
fn keeps_object(group: &str, kind: &str) -> bool {
    let core = ["Pod", "PersistentVolume", "PersistentVolumeClaim", "Service", "ServiceAccount", "PodTemplate", "ResourceQuota"];
    match group {
        "" => core.contains(&kind),
        "storage.k8s.io" => kind != "CSIStorageCapacity",
        "resource.k8s.io" => ["DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"].contains(&kind),
        _ => false,
    }
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

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

fn sentence(verb: &str, at: &At<'_>) -> String {
    let kind = &at.entry.kind;
    let what = at.sub.map_or_else(|| kind.clone(), |sub| format!("{} of {kind}", sub.name));
    match verb {
        "list" => format!("list or watch objects of kind {kind}"),
        "deletecollection" => format!("delete collection of {kind}"),
        "get" => format!("read {what}"),
        "update" => format!("replace {what}"),
        other => format!("{other} {what}"),
    }
}

fn patch_body(patch: &Value, custom: bool) -> Value {
    let types = ["apply-patch+yaml", "json-patch+json", "merge-patch+json", "strategic-merge-patch+json"];
    let types = &types[..if custom { 3 } else { 4 }];
    let content: Map = types.iter().map(|t| (format!("application/{t}"), json!({"schema": patch}))).collect();
    json!({"content": content, "required": true})
}

pub(super) fn content(schema: &Value, types: &[&str]) -> Value {
    types.iter().map(|t| (*t, json!({"schema": schema}))).collect()
}

pub(super) fn responses(content: &Value, codes: &[&str]) -> Value {
    let text = |code: &str| match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    };
    let mut made: Map = codes.iter().map(|code| ((*code).to_owned(), json!({"description": text(code), "content": content}))).collect();
    made.insert("401", json!({"description": "Unauthorized"}));
    Value::Object(made)
}

/// `core`; `apps`; `rbacAuthorization` of `rbac.authorization.k8s.io`.
pub(super) fn short_group(group: &str) -> String {
    if group.is_empty() {
        return "core".to_owned();
    }
    let mut parts = group.strip_suffix(".k8s.io").unwrap_or(group).split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &capital(part))
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
