//! `components.schemas`: the messages of the tables as JSON schemas, under upstream's names.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    tables::Tables,
    types::{Alternative, Field, ListKind, Presence, Schema, Shape, Type, TypeId},
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

/// The definitions of one document: what was asked for and all that it refers to.
pub(super) struct Definitions<'t> {
    tables: &'t Tables,
    wanted: Vec<TypeId>,
    known: BTreeSet<u32>,
    made: Map<String, Value>,
}

impl<'t> Definitions<'t> {
    pub(super) fn new(tables: &'t Tables) -> Self {
        Self { tables, wanted: Vec::new(), known: BTreeSet::new(), made: Map::new() }
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

    pub(super) fn finish(mut self) -> Map<String, Value> {
        let schema: &Schema = &self.tables.schema;
        while let Some(id) = self.wanted.pop() {
            let of = schema.get(id);
            let value = match of.union {
                Some(union) => {
                    let message = self.reference(union.message);
                    one_of(&message, union.other)
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
        let mut properties = Map::new();
        let mut required = Vec::new();
        if of.typed {
            properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
            properties.insert("kind".to_owned(), json!({"type": "string"}));
        }
        for field in &of.fields {
            if field.required || (!field.optional && matches!(field.presence, Presence::Always | Presence::Nullable)) {
                required.push(field.name.to_string());
            }
            properties.insert(field.name.to_string(), self.field(of, field));
        }
        let mut value = json!({"type": "object"});
        if !properties.is_empty() {
            value["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            required.sort();
            value["required"] = json!(required);
        }
        if of.atomic {
            value["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(kinds) = self.kinds(of) {
            value["x-kubernetes-group-version-kind"] = kinds;
        }
        value
    }

    /// The group, version and kind a message is, if it is one.
    fn kinds(&self, of: &Type) -> Option<Value> {
        let (alias, name) = of.name.split_once('.')?;
        let at = self.tables.groups.iter().find(|g| g.alias == alias)?;
        let own = of.typed && !["ObjectMeta", "ListMeta"].contains(&name);
        let group = if alias == "meta" { "" } else { at.group };
        own.then(|| json!([{"group": group, "version": at.version, "kind": name}]))
    }

    fn field(&mut self, of: &Type, field: &Field) -> Value {
        let mut value = self.shape(&field.shape);
        if value.get("$ref").is_some() {
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
            [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys")].iter().filter(|s| s.0).map(|s| s.1).collect();
        if !strategies.is_empty() {
            value["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if let Some(key) = &field.patch.key {
            value["x-kubernetes-patch-merge-key"] = json!(key);
        }
        if !field.allowed.is_empty() {
            let target = if matches!(field.shape, Shape::List(_)) { &mut value["items"] } else { &mut value };
            target["enum"] = json!(field.allowed);
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
    fn leaf(&mut self, name: &str, form: Value) -> Value {
        self.made.entry(name).or_insert(form);
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

fn one_of(message: &Value, other: Alternative) -> Value {
    let other = match other {
        Alternative::List => json!({"type": "array", "items": message}),
        Alternative::Bool => json!({"type": "boolean"}),
        Alternative::Strings => json!({"type": "array", "items": {"type": "string"}}),
    };
    json!({"oneOf": [message, other]})
}

fn refer(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
