//! Whether an object or a configuration fits a schema (structured-merge-diff's `typed/validate.go`), with upstream's messages.

use std::collections::HashSet;

use coracle_tree::{Text, Value};

use super::{
    display, item_element,
    node::{Custom, Item, Node, is_type_meta, key_defaults},
};
use crate::{
    SchemaRef,
    structural::{self, Kind},
    types::{Field, ListKind, Schema, Shape, Type, TypeId},
};

const NUMERIC: &str = "numeric (int or float)";

/// Checks the whole object; the text lists everything wrong.
pub(crate) fn check(schema: &SchemaRef, object: &Value) -> Result<(), String> {
    let mut check = Check { schema: &schema.schema, path: Vec::new(), errors: Vec::new() };
    match Node::root(schema) {
        Node::Custom(custom) => check.object(custom, object),
        _ => check.message(schema.root, object),
    }
    match check.errors.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => Err(many.iter().fold("errors:".to_owned(), |text, e| text + "\n  " + e)),
    }
}

struct Check<'s, 'v> {
    schema: &'s Schema,
    /// Printed only when something is wrong.
    path: Vec<Step<'v>>,
    errors: Vec<String>,
}

enum Step<'v> {
    Member(&'v str),
    /// The element text of an item.
    Item(Text),
    Index(usize),
}

impl<'s, 'v> Check<'s, 'v> {
    fn wrong(&mut self, what: impl AsRef<str>) {
        let what = what.as_ref();
        let printed = |step: &Step<'_>| match step {
            Step::Member(name) => format!(".{name}"),
            Step::Item(key) => display(key),
            Step::Index(at) => format!("[{at}]"),
        };
        let path: String = self.path.iter().map(printed).collect();
        self.errors.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
    }

    fn at(&mut self, step: Step<'v>, then: impl FnOnce(&mut Self)) {
        self.path.push(step);
        then(self);
        self.path.pop();
    }

    fn message(&mut self, id: TypeId, value: &'v Value) {
        let schema: &'s Schema = self.schema;
        let message: &'s Type = schema.get(id);
        if message.union.is_some() || value.is_null() {
            return;
        }
        let Value::Object(map) = value else { return self.wrong(format!("expected map, got {}", printed(value))) };
        for (key, value) in map {
            let step = Step::Member(key);
            match message.field(key) {
                Some(field) => self.at(step, |c| c.field(field, value)),
                None if message.open => {}
                None if message.typed && is_type_meta(key) => self.at(step, |c| c.shape(&Shape::String, value)),
                None => {
                    self.at(step, |c| c.wrong("field not declared in schema"));
                    return;
                }
            }
        }
    }

    fn field(&mut self, field: &'s Field, value: &'v Value) {
        match &field.shape {
            Shape::List(item) => self.list(&field.list, Item::Shape(item), value),
            other => self.shape(other, value),
        }
    }

    fn shape(&mut self, shape: &'s Shape, value: &'v Value) {
        let fits = match shape {
            Shape::Message(id) => return self.message(*id, value),
            Shape::List(item) => return self.list(&ListKind::Atomic, Item::Shape(item), value),
            Shape::Map(inner) => return self.map(inner, value),
            Shape::Object | Shape::Fields | Shape::Any => return,
            _ if value.is_null() => return,
            Shape::Bool => value.is_boolean().then_some(()).ok_or("boolean"),
            Shape::Int32 | Shape::Int64 | Shape::Float64 => value.is_number().then_some(()).ok_or(NUMERIC),
            Shape::String | Shape::Bytes | Shape::Duration => value.is_string().then_some(()).ok_or("string"),
            Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrString => {
                (!value.is_array() && !value.is_object()).then_some(()).ok_or("any scalar")
            }
        };
        self.unless(fits, value);
    }

    fn unless(&mut self, fits: Result<(), &str>, value: &Value) {
        if let Err(expected) = fits {
            let got = if expected == NUMERIC { crate::go::type_name(value).to_owned() } else { printed(value) };
            self.wrong(format!("expected {expected}, got {got}"));
        }
    }

    fn item(&mut self, item: Item<'s>, value: &'v Value) {
        match item {
            Item::Shape(shape) => self.shape(shape, value),
            Item::Custom { node: Some(node), open } => self.custom(node, open, value),
            Item::Custom { node: None, .. } => {}
        }
    }

    /// A place in a custom resource.
    fn custom(&mut self, node: &'s structural::Node, open: bool, value: &'v Value) {
        let open = open || node.preserves;
        let fits = match node.kind {
            _ if value.is_null() => return,
            Kind::Object => return self.object(Custom { node, typed: node.embedded, open }, value),
            Kind::Array => return self.list(&node.list, Item::Custom { node: node.items.as_deref(), open }, value),
            Kind::Any | Kind::Unknown if value.is_object() && !node.properties.is_empty() => {
                return self.object(Custom { node, typed: node.embedded, open }, value);
            }
            Kind::Any | Kind::Unknown => return,
            Kind::Boolean => value.is_boolean().then_some(()).ok_or("boolean"),
            Kind::Integer | Kind::Number => value.is_number().then_some(()).ok_or(NUMERIC),
            Kind::String => value.is_string().then_some(()).ok_or("string"),
        };
        self.unless(fits, value);
    }

    fn object(&mut self, custom: Custom<'s>, value: &'v Value) {
        let Value::Object(map) = value else { return self.wrong(format!("expected map, got {}", printed(value))) };
        for (key, value) in map {
            let step = Step::Member(key);
            if custom.typed && is_type_meta(key) {
                self.at(step, |c| c.shape(&Shape::String, value));
            } else if custom.typed && key == "metadata" {
                if let Some(id) = self.schema.find("meta.ObjectMeta") {
                    self.at(step, |c| c.message(id, value));
                }
            } else if let Some(node) = custom.node.member(key) {
                self.at(step, |c| c.custom(node, custom.open, value));
            } else if Node::Custom(custom).child(self.schema, key).is_none() {
                return self.at(step, |c| c.wrong("field not declared in schema"));
            }
        }
    }

    fn map(&mut self, inner: &'s Shape, value: &'v Value) {
        match value {
            Value::Null => {}
            Value::Object(map) => {
                for (key, value) in map {
                    self.at(Step::Member(key), |c| c.shape(inner, value));
                }
            }
            other => self.wrong(format!("expected map, got {}", printed(other))),
        }
    }

    fn list(&mut self, kind: &ListKind, item: Item<'s>, value: &'v Value) {
        let items = match value {
            Value::Null => return,
            Value::Array(items) => items,
            other => return self.wrong(format!("expected list, got {}", printed(other))),
        };
        let defaults = key_defaults(self.schema, item);
        let mut seen = HashSet::new();
        for (at, value) in items.iter().enumerate() {
            if *kind == ListKind::Atomic {
                self.at(Step::Index(at), |c| c.item(item, value));
                continue;
            }
            match item_element(kind, defaults, value) {
                Ok(key) => {
                    if !seen.insert(key.clone()) {
                        self.wrong(format!("duplicate entries for key {}", display(&key)));
                    }
                    self.at(Step::Item(key), |c| c.item(item, value));
                }
                Err(why) => return self.wrong(format!("element {at}: {why}")),
            }
        }
    }
}

/// A value as Go prints an interface that wraps it.
fn printed(value: &Value) -> String {
    format!("&value.valueUnstructured{{Value:{}}}", value_text(value))
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "[]interface {}".to_owned() + &value.to_string(),
        other => other.to_string(),
    }
}
