//! A read-only view of one `JSONSchemaProps` as it is stored: typed access, nothing copied.

use coracle_tree::{Map, Value};

/// One schema of a definition.
#[derive(Clone, Copy)]
pub(super) struct Props<'a>(&'a Map);

/// What `additionalProperties` or `additionalItems` holds.
#[derive(Clone, Copy)]
pub(super) enum OrBool<'a> {
    Bool(bool),
    Schema(Props<'a>),
}

impl<'a> Props<'a> {
    /// The view; `None` where there is no schema.
    pub(super) fn of(value: &'a Value) -> Option<Self> {
        value.as_object().map(Self)
    }

    /// The members as they stand.
    pub(super) fn members(self) -> &'a Map {
        self.0
    }

    /// A member that is there and not null.
    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    /// A text; empty when absent.
    pub(super) fn text(self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A switch; off when absent.
    pub(super) fn flag(self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn number(self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    pub(super) fn count(self, name: &str) -> Option<i64> {
        self.get(name).and_then(Value::as_i64)
    }

    /// A list; empty when absent.
    pub(super) fn list(self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The texts of a list.
    pub(super) fn texts(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.list(name).iter().filter_map(Value::as_str)
    }

    /// A single schema.
    pub(super) fn schema(self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::of)
    }

    /// The schemas of a list (`allOf`, `anyOf`, `oneOf`).
    pub(super) fn schemas(self, name: &str) -> impl Iterator<Item = Self> {
        self.list(name).iter().filter_map(Self::of)
    }

    /// The schemas of a map, by name.
    pub(super) fn named(self, name: &str) -> impl Iterator<Item = (&'a str, Self)> {
        self.get(name).and_then(Value::as_object).into_iter().flatten().filter_map(|(key, v)| Some((key.as_str(), Self::of(v)?)))
    }

    /// One property.
    pub(super) fn property(self, name: &str) -> Option<Self> {
        self.schema("properties").and_then(|all| all.schema(name))
    }

    /// Whether a list or map is there and not empty.
    pub(super) fn has_any(self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(members)) => !members.is_empty(),
            _ => false,
        }
    }

    /// `items`, where it is one schema.
    pub(super) fn items(self) -> Option<Self> {
        self.schema("items")
    }

    /// `items`, where it is a list of schemas.
    pub(super) fn item_list(self) -> &'a [Value] {
        self.list("items")
    }

    pub(super) fn or_bool(self, name: &str) -> Option<OrBool<'a>> {
        match self.get(name)? {
            Value::Bool(allowed) => Some(OrBool::Bool(*allowed)),
            other => Self::of(other).map(OrBool::Schema),
        }
    }

    pub(super) fn additional(self) -> Option<OrBool<'a>> {
        self.or_bool("additionalProperties")
    }

    /// `x-kubernetes-list-type`
    pub(super) fn list_type(self) -> Option<&'a str> {
        self.get("x-kubernetes-list-type").and_then(Value::as_str)
    }

    /// `x-kubernetes-map-type`
    pub(super) fn map_type(self) -> Option<&'a str> {
        self.get("x-kubernetes-map-type").and_then(Value::as_str)
    }

    pub(super) fn preserves(self) -> bool {
        self.flag("x-kubernetes-preserve-unknown-fields")
    }

    pub(super) fn embedded(self) -> bool {
        self.flag("x-kubernetes-embedded-resource")
    }

    pub(super) fn int_or_string(self) -> bool {
        self.flag("x-kubernetes-int-or-string")
    }

    /// This schema and every schema in it, in no order of meaning (`SchemaHas` upstream). Stops when `found` says so.
    pub(super) fn any(self, found: &mut dyn FnMut(Self) -> bool) -> bool {
        if found(self) {
            return true;
        }
        let mut children: Vec<Self> = Vec::new();
        children.extend(self.items());
        children.extend(self.item_list().iter().filter_map(Self::of));
        for name in ["allOf", "anyOf", "oneOf"] {
            children.extend(self.schemas(name));
        }
        children.extend(self.schema("not"));
        for name in ["properties", "patternProperties", "definitions", "dependencies"] {
            children.extend(self.named(name).map(|(_, schema)| schema));
        }
        for name in ["additionalProperties", "additionalItems"] {
            if let Some(OrBool::Schema(schema)) = self.or_bool(name) {
                children.push(schema);
            }
        }
        children.into_iter().any(|child| child.any(found))
    }
}
