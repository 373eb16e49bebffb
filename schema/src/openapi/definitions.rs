//! `components.schemas`: the messages of the tables as JSON schemas, under upstream's names.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use coracle_tree::{Map, Value, json};

use super::descriptions::Descriptions;
use crate::{
    tables::Tables,
    types::{Field, ListKind, Presence, Schema, Shape, Type, TypeId},
};

/// Upstream's name of a message: `io.k8s.api.core.v1.Pod` of `core.Pod`.
pub fn definition_name(tables: &Tables, of: &Type) -> String {
    let (alias, name) = of.name.split_once('.').unwrap_or(("", &of.name));
    let (group, version) = tables.groups.iter().find(|g| g.alias == alias).map_or(("", ""), |g| (g.group, g.version));
    let package = match alias {
        "meta" => "io.k8s.apimachinery.pkg.apis.meta".to_owned(),
        "core" => "io.k8s.api.core".to_owned(),
        "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        _ => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    };
    format!("{package}.{version}.{name}")
}

/// Messages of which one field's value tells which other counts: (message, that field, the others and their values).
type Union = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const UNIONS: [Union; 5] = [
    ("core.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("core.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("flowcontrol.LimitResponse", "type", &[("queuing", "Queuing")]),
    ("flowcontrol.PriorityLevelConfigurationSpec", "type", &[("exempt", "Exempt"), ("limited", "Limited")]),
    ("flowcontrol.Subject", "kind", &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")]),
];

/// The definitions of one document: what was asked for and all that it refers to.
pub(super) struct Definitions<'t> {
    tables: &'t Tables,
    words: &'t Descriptions<'t>,
    /// The group and version the document is of.
    at: (String, String),
    /// Definition names of custom kinds by kind.
    custom: BTreeMap<String, String>,
    wanted: Vec<TypeId>,
    known: BTreeSet<u32>,
    made: Map,
}

impl<'t> Definitions<'t> {
    pub(super) fn new(tables: &'t Tables, words: &'t Descriptions<'t>, at: (&str, &str)) -> Self {
        let at = (at.0.to_owned(), at.1.to_owned());
        Self { tables, words, at, custom: BTreeMap::new(), wanted: Vec::new(), known: BTreeSet::new(), made: Map::new() }
    }

    /// Takes over the definitions of the custom kinds of this group and version.
    pub(super) fn add_custom(&mut self, custom: &Map) {
        for (name, schema) in custom {
            for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                if (kind["group"].as_str(), kind["version"].as_str()) == (Some(&self.at.0), Some(&self.at.1)) {
                    self.custom.insert(kind["kind"].as_str().unwrap_or_default().to_owned(), name.to_string());
                }
            }
            let mut schema = schema.clone();
            for property in ["apiVersion", "kind", "metadata"] {
                // Whatever the definition's author wrote: these are everybody's.
                if let (Some(words), Some(of)) = (self.generic(property), schema.pointer_mut(&format!("/properties/{property}"))) {
                    of["description"] = words.into();
                }
            }
            self.made.insert(name.clone(), schema);
        }
        if !custom.is_empty() {
            self.named("meta.ObjectMeta");
            self.named("meta.ListMeta");
        }
    }

    /// The words for what every kind has.
    fn generic(&self, property: &str) -> Option<Cow<'t, str>> {
        let any = self.words.message("io.k8s.api.core.v1.ConfigMap")?;
        ["apiVersion", "kind", "metadata"].contains(&property).then(|| any.field(property)).flatten()
    }

    /// A reference to the message of a kind.
    pub(super) fn of_kind(&mut self, group: &str, version: &str, kind: &str) -> Option<Value> {
        if self.is_custom(group, version, kind) {
            return self.custom.get(kind).map(|name| refer(name));
        }
        let root = self.tables.kind(group, version, kind)?.root;
        Some(self.reference(root))
    }

    /// Whether a kind is a custom one of this document.
    pub(super) fn is_custom(&self, group: &str, version: &str, kind: &str) -> bool {
        (group, version) == (&*self.at.0, &*self.at.1) && self.custom.contains_key(kind)
    }

    /// A reference to the message of a kind's lists; made here for custom kinds that bring none.
    pub(super) fn list_of(&mut self, group: &str, version: &str, kind: &str) -> Option<Value> {
        let list = format!("{kind}List");
        if !self.is_custom(group, version, kind) || self.is_custom(group, version, &list) {
            return self.of_kind(group, version, &list);
        }
        let name = self.custom.get(kind)?.clone();
        let metadata = self.named("meta.ListMeta")?;
        let schema = json!({
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"allOf": [metadata], "default": {}},
                "items": {"type": "array", "items": refer(&name)},
            },
            "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": list}],
        });
        let name = format!("{name}List");
        self.made.insert(name.clone(), schema);
        self.custom.insert(list, name.to_string());
        Some(refer(&name))
    }

    /// A reference to a message, which will be defined.
    pub(super) fn reference(&mut self, id: TypeId) -> Value {
        if self.known.insert(id.0) {
            self.wanted.push(id);
        }
        refer(&definition_name(self.tables, self.tables.schema.get(id)))
    }

    /// A reference to a message by its name in the tables, if they have it.
    pub(super) fn named(&mut self, name: &str) -> Option<Value> {
        let id = *self.tables.schema.by_name.get(name)?;
        Some(self.reference(id))
    }

    pub(super) fn finish(mut self) -> Map {
        let schema: &Schema = &self.tables.schema;
        while let Some(id) = self.wanted.pop() {
            let of = schema.get(id);
            let value = match of.union {
                // Go's generator has no word for these; upstream publishes them as anything.
                Some(union) => {
                    self.reference(union.message);
                    json!({})
                }
                None => self.message(of),
            };
            self.made.insert(definition_name(self.tables, of), value);
        }
        self.made
    }

    fn message(&mut self, of: &Type) -> Value {
        match &*of.name {
            "apiextensions.JSON" => return json!({}),
            "meta.Patch" => return json!({"type": "object"}),
            _ => {}
        }
        let words = self.words.message(&definition_name(self.tables, of));
        let mut properties = Map::new();
        let mut required = Vec::new();
        if of.typed {
            for name in ["apiVersion", "kind"] {
                properties.insert(name, json!({"type": "string"}));
            }
        }
        for field in &of.fields {
            if field.required || (!field.optional && matches!(field.presence, Presence::Always | Presence::Nullable)) {
                required.push(field.key());
            }
            properties.insert(field.key(), self.field(of, field));
        }
        for (name, property) in &mut properties {
            let generic = if of.typed && name != "metadata" { self.generic(name) } else { None };
            if let Some(words) = words.and_then(|words| words.field(name)).or(generic) {
                property["description"] = words.into();
            }
        }
        let mut value = json!({"type": "object"});
        if let Some(words) = words.map(super::descriptions::Message::words).filter(|words| !words.is_empty()) {
            value["description"] = words.into();
        }
        if !properties.is_empty() {
            value["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            value["required"] = json!(required);
        }
        if of.atomic {
            value["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(kinds) = self.kinds(of) {
            value["x-kubernetes-group-version-kind"] = kinds;
        }
        if let Some((_, discriminator, fields)) = UNIONS.iter().find(|(name, ..)| *name == &*of.name) {
            let fields: Map = fields.iter().map(|(field, value)| (*field, *value)).collect();
            value["x-kubernetes-unions"] = json!([{"discriminator": discriminator, "fields-to-discriminateBy": fields}]);
        }
        value
    }

    /// The group, version and kind a message is, if it is one.
    fn kinds(&self, of: &Type) -> Option<Value> {
        let (alias, name) = of.name.split_once('.')?;
        let at = self.tables.groups.iter().find(|g| g.alias == alias)?;
        let own = of.typed && !["ObjectMeta", "ListMeta"].contains(&name);
        let group = if alias == "meta" { "" } else { at.group };
        let kind = |group: &str, version: &str| json!({"group": group, "version": version, "kind": name});
        let mut kinds = vec![kind(group, at.version)];
        // Every group and version takes these.
        if alias == "meta" && ["DeleteOptions", "WatchEvent"].contains(&name) && !self.at.0.is_empty() {
            kinds.push(kind(&self.at.0, &self.at.1));
        }
        own.then_some(Value::Array(kinds))
    }

    fn field(&mut self, of: &Type, field: &Field) -> Value {
        let mut value = self.shape(&field.shape);
        // Beside a reference nothing else is read, so it is wrapped; the one message upstream writes by hand does not.
        if value.get("$ref").is_some() && &*of.name != "apiextensions.JSONSchemaProps" {
            value = json!({"allOf": [value]});
        }
        if let Some(default) = &field.default {
            value["default"] = default.clone();
        } else if let Some(default) = zero_default(field) {
            value["default"] = default;
        }
        if matches!(field.shape, Shape::List(_)) && !(of.typed && &*field.name == "items") {
            match &field.list {
                ListKind::Atomic => value["x-kubernetes-list-type"] = "atomic".into(),
                ListKind::Set => value["x-kubernetes-list-type"] = "set".into(),
                ListKind::Map(keys) => {
                    value["x-kubernetes-list-type"] = "map".into();
                    value["x-kubernetes-list-map-keys"] = json!(keys);
                }
            }
        }
        if field.atomic || field.granular {
            value["x-kubernetes-map-type"] = if field.atomic { "atomic" } else { "granular" }.into();
        }
        let strategies: Vec<&str> =
            [(field.patch.merge, "merge"), (field.patch.replace, "replace"), (field.patch.retain_keys, "retainKeys")]
                .iter()
                .filter(|s| s.0)
                .map(|s| s.1)
                .collect();
        if !strategies.is_empty() {
            value["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if let Some(key) = &field.patch.key {
            value["x-kubernetes-patch-merge-key"] = json!(key);
        }
        if !field.allowed.is_empty() {
            let target = match field.shape {
                Shape::List(_) => &mut value["items"],
                Shape::Map(_) => &mut value["additionalProperties"],
                _ => &mut value,
            };
            let mut allowed: Vec<&str> = field.allowed.iter().map(AsRef::as_ref).collect();
            allowed.sort_unstable();
            target["enum"] = json!(allowed);
        }
        limits(field, &mut value);
        value
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Float64 => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Time => self.leaf("io.k8s.apimachinery.pkg.apis.meta.v1.Time", json!({"type": "string", "format": "date-time"})),
            Shape::MicroTime => {
                self.leaf("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", json!({"type": "string", "format": "date-time"}))
            }
            Shape::Duration => self.leaf("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", json!({"type": "string"})),
            Shape::Quantity => {
                self.leaf("io.k8s.apimachinery.pkg.api.resource.Quantity", json!({"oneOf": [{"type": "string"}, {"type": "number"}]}))
            }
            Shape::IntOrString => {
                let form = json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]});
                self.leaf("io.k8s.apimachinery.pkg.util.intstr.IntOrString", form)
            }
            Shape::Object => self.leaf("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"})),
            Shape::Fields => self.leaf("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", json!({"type": "object"})),
            Shape::Any => self.leaf("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", json!({})),
            Shape::List(of) => json!({"type": "array", "items": self.shape(of)}),
            Shape::Map(of) => json!({"type": "object", "additionalProperties": self.shape(of)}),
            Shape::Message(id) => self.reference(*id),
        }
    }

    /// A type that is no message of the tables but has a definition of its own.
    fn leaf(&mut self, name: &str, mut form: Value) -> Value {
        if !self.made.contains_key(name) {
            if let Some(words) = self.words.message(name).map(super::descriptions::Message::words).filter(|words| !words.is_empty()) {
                form["description"] = words.into();
            }
            self.made.insert(name, form);
        }
        refer(name)
    }
}

/// The default upstream publishes for what is not a pointer: `{}` for messages, the zero value where it is always written.
fn zero_default(field: &Field) -> Option<Value> {
    match (&field.shape, field.presence) {
        (Shape::Message(_), Presence::WhenSet | Presence::Always) => Some(json!({})),
        (Shape::String, Presence::Always) => Some("".into()),
        (Shape::Bool, Presence::Always) => Some(false.into()),
        (Shape::Int32 | Shape::Int64 | Shape::Float64, Presence::Always) => Some(0.into()),
        _ => None,
    }
}

fn limits(field: &Field, value: &mut Value) {
    let Some(limits) = &field.limits else { return };
    let number = |n: f64| if n.fract() == 0.0 { json!(n as i64) } else { json!(n) };
    for (name, limit) in [
        ("minimum", limits.minimum.map(number)),
        ("maximum", limits.maximum.map(number)),
        ("maxLength", limits.max_length.map(Value::from)),
        ("maxItems", limits.max_items.map(Value::from)),
    ] {
        if let Some(limit) = limit {
            value[name] = limit;
        }
    }
}

fn refer(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
