//! Whether a configuration fits the schema (structured-merge-diff's `typed/validate.go`), with upstream's messages.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    SchemaRef,
    managed::{
        display, item_element,
        node::{is_type_meta, item_type},
    },
    types::{Field, ListKind, Schema, Shape, Type, TypeId},
};

/// Checks the whole configuration; the text lists everything wrong.
pub(super) fn check(schema: &SchemaRef, config: &Value) -> Result<(), String> {
    let mut check = Check { schema: &schema.schema, path: String::new(), errors: Vec::new() };
    check.message(schema.root, config);
    match check.errors.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => Err(many.iter().fold("errors:".to_owned(), |text, e| text + "\n  " + e)),
    }
}

struct Check<'s> {
    schema: &'s Schema,
    path: String,
    errors: Vec<String>,
}

impl<'s> Check<'s> {
    fn wrong(&mut self, what: impl AsRef<str>) {
        let what = what.as_ref();
        self.errors.push(if self.path.is_empty() { what.to_owned() } else { format!("{}: {what}", self.path) });
    }

    fn at(&mut self, step: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        then(self);
        self.path.truncate(length);
    }

    fn message(&mut self, id: TypeId, value: &Value) {
        let schema: &'s Schema = self.schema;
        let message: &'s Type = schema.get(id);
        if message.union.is_some() || value.is_null() {
            return;
        }
        let Value::Object(map) = value else { return self.wrong(format!("expected map, got {}", printed(value))) };
        for (key, value) in map {
            let step = format!(".{key}");
            match message.field(key) {
                Some(field) => self.at(&step, |c| c.field(field, value)),
                None if message.open => {}
                None if message.typed && is_type_meta(key) => self.at(&step, |c| c.shape(&Shape::String, value)),
                None => {
                    self.at(&step, |c| c.wrong("field not declared in schema"));
                    return;
                }
            }
        }
    }

    fn field(&mut self, field: &'s Field, value: &Value) {
        match &field.shape {
            Shape::List(item) => self.list(&field.list, item, value),
            other => self.shape(other, value),
        }
    }

    fn shape(&mut self, shape: &'s Shape, value: &Value) {
        let fits = match shape {
            Shape::Message(id) => return self.message(*id, value),
            Shape::List(item) => return self.list(&ListKind::Atomic, item, value),
            Shape::Map(inner) => return self.map(inner, value),
            Shape::Object | Shape::Fields | Shape::Any => return,
            _ if value.is_null() => return,
            Shape::Bool => value.is_boolean().then_some(()).ok_or("boolean"),
            Shape::Int32 | Shape::Int64 | Shape::Float64 => value.is_number().then_some(()).ok_or("numeric (int or float)"),
            Shape::String | Shape::Bytes | Shape::Duration => value.is_string().then_some(()).ok_or("string"),
            Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrString => {
                (!value.is_array() && !value.is_object()).then_some(()).ok_or("any scalar")
            }
        };
        if let Err(expected) = fits {
            let got = if expected.starts_with("numeric") { go_type(value).to_owned() } else { printed(value) };
            self.wrong(format!("expected {expected}, got {got}"));
        }
    }

    fn map(&mut self, inner: &'s Shape, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(map) => {
                for (key, value) in map {
                    self.at(&format!(".{key}"), |c| c.shape(inner, value));
                }
            }
            other => self.wrong(format!("expected map, got {}", printed(other))),
        }
    }

    fn list(&mut self, kind: &ListKind, item: &'s Shape, value: &Value) {
        let items = match value {
            Value::Null => return,
            Value::Array(items) => items,
            other => return self.wrong(format!("expected list, got {}", printed(other))),
        };
        let key_type = item_type(self.schema, item);
        let mut seen = HashSet::new();
        for (at, value) in items.iter().enumerate() {
            let step = if *kind == ListKind::Atomic {
                format!("[{at}]")
            } else {
                match item_element(kind, key_type, value) {
                    Ok(key) => display(&key),
                    Err(why) => return self.wrong(format!("element {at}: {why}")),
                }
            };
            if *kind != ListKind::Atomic && !seen.insert(step.clone()) {
                self.wrong(format!("duplicate entries for key {step}"));
            }
            self.at(&step, |c| c.shape(item, value));
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

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
