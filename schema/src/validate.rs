//! The rules that stand in a schema: what must be set, which texts are allowed, limits, what may not change.
//!
//! Rules across fields belong to the kind. `metadata` is checked by the registry, and a built-in kind's `status` is taken as its writer gives
//! it, as kube-apiserver does for most kinds.

use std::{collections::HashSet, fmt};

use coracle_tree::{Map, Value};

use crate::{
    field::FieldErrors,
    structural,
    types::{Field, Limits, ListKind, Presence, Schema, SchemaRef, Shape, Type},
};

/// Whose rules apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rigour {
    /// Built-in kinds: lists may hold the same key twice (`env`, `ports`), because upstream never forbade it.
    BuiltIn,
    /// Custom resources: sets and maps are kept free of duplicates, and status is checked as well.
    Custom,
}

/// Checks a normalized, defaulted object; `old` is what it replaces.
pub fn structure(new: &Value, old: Option<&Value>, schema: &SchemaRef, rigour: Rigour) -> FieldErrors {
    if schema.custom().is_some() {
        return structural::validate(new, old, schema, structural::Written::Whole);
    }
    let mut walk = Walk { schema: &schema.schema, rigour, errors: FieldErrors::none() };
    if let Some(members) = new.as_object() {
        walk.message(schema.root(), members, old.and_then(Value::as_object), &Path::Root);
    }
    walk.errors
}

struct Walk<'s> {
    schema: &'s Schema,
    rigour: Rigour,
    errors: FieldErrors,
}

/// Where the walk is; becomes text only when there is something to say about it.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, at) => write!(f, "{parent}[{at}]"),
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> Self {
        path.to_string()
    }
}

impl Walk<'_> {
    fn message(&mut self, of: &Type, new: &Map, old: Option<&Map>, path: &Path<'_>) {
        for field in of.checked.iter().map(|at| &of.fields[*at as usize]) {
            let is_root = matches!(path, Path::Root);
            let is_status = &*field.name == "status" && matches!(field.shape, Shape::Message(_));
            if is_root && (&*field.name == "metadata" || (is_status && self.rigour == Rigour::BuiltIn)) {
                continue;
            }
            let value = new.get(&field.name).filter(|v| !v.is_null());
            let before = old.and_then(|old| old.get(&field.name)).filter(|v| !v.is_null());
            if value.is_none() && before.is_none() && !field.required {
                continue;
            }
            let path = Path::Field(path, &field.name);
            if field.immutable && before.is_some() && before != value {
                self.errors.invalid(&path, value.unwrap_or(&Value::Null), "field is immutable");
            }
            match value {
                Some(value) if field.required && is_empty(field, value) => self.errors.required(&path, ""),
                Some(value) => self.field(field, value, before, &path),
                None if field.required => self.errors.required(&path, ""),
                None => {}
            }
        }
    }

    fn field(&mut self, field: &Field, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if !field.allowed.is_empty() {
            self.allowed(field, value, path);
        }
        if let Some(limits) = &field.limits {
            self.limits(limits, value, path);
        }
        if self.rigour == Rigour::Custom
            && let Some(items) = value.as_array()
        {
            self.unique(&field.list, items, path);
        }
        self.shape(&field.shape, value, old, path);
    }

    fn shape(&mut self, shape: &Shape, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        match (shape, value) {
            (Shape::Message(id), Value::Object(members)) => {
                let of = self.schema.get(*id);
                let of = of.union.map_or(of, |union| self.schema.get(union.message));
                self.message(of, members, old.and_then(Value::as_object), path);
            }
            (Shape::List(of), Value::Array(items)) if of.message().is_some() => {
                for (at, item) in items.iter().enumerate() {
                    self.shape(of, item, None, &Path::Index(path, at));
                }
            }
            (Shape::Map(of), Value::Object(items)) if of.message().is_some() => {
                for (key, item) in items {
                    self.shape(of, item, old.and_then(|old| old.get(key)), &Path::Key(path, key));
                }
            }
            _ => {}
        }
    }

    fn allowed(&mut self, field: &Field, value: &Value, path: &Path<'_>) {
        let check = |errors: &mut FieldErrors, text: &str, path: &Path<'_>| {
            // Left out and empty are the same where presence does not matter.
            let unset = text.is_empty() && field.presence != Presence::Optional;
            if !unset && !field.allowed.iter().any(|a| **a == *text) {
                // In the order of the table, which is the one upstream names them in.
                errors.not_supported(path, format!("{text:?}"), &field.allowed);
            }
        };
        match value {
            Value::String(text) => check(&mut self.errors, text, path),
            Value::Array(items) => {
                for (at, text) in items.iter().enumerate().filter_map(|(at, item)| Some((at, item.as_str()?))) {
                    check(&mut self.errors, text, &Path::Index(path, at));
                }
            }
            _ => {}
        }
    }

    fn limits(&mut self, limits: &Limits, value: &Value, path: &Path<'_>) {
        if let Some(number) = value.as_f64() {
            if let Some(low) = limits.minimum.filter(|low| number < *low) {
                self.errors.invalid(path, value, &format!("must be greater than or equal to {low}"));
            }
            if let Some(high) = limits.maximum.filter(|high| number > *high) {
                self.errors.invalid(path, value, &format!("must be less than or equal to {high}"));
            }
        }
        if let Some(text) = value.as_str() {
            if let Some(most) = limits.max_length.filter(|most| text.chars().count() as u64 > *most) {
                self.errors.too_long(path, most, "character");
            }
            if let Some(most) = limits.max_bytes.filter(|most| text.len() as u64 > *most) {
                self.errors.too_long(path, most, "byte");
            }
        }
        if let Some(items) = value.as_array()
            && let Some(most) = limits.max_items.filter(|most| items.len() as u64 > *most)
        {
            self.errors.too_many(path, items.len(), most);
        }
    }

    fn unique(&mut self, kind: &ListKind, items: &[Value], path: &Path<'_>) {
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            let key = match kind {
                ListKind::Atomic => return,
                ListKind::Set => item.clone(),
                ListKind::Map(keys) => keys.iter().map(|key| (&**key, item.get(&**key).cloned().unwrap_or_default())).collect(),
            };
            let text = key.to_string();
            if !seen.insert(text.clone()) {
                self.errors.duplicate(Path::Index(path, at), text);
            }
        }
    }
}

/// Whether a value that is there counts as not set: an empty text, list or map. Zero, false and `{}` of a message are values.
fn is_empty(field: &Field, value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty() && matches!(field.shape, Shape::Map(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::tables::Tables;

    fn texts(message: &str, new: &Value, rigour: Rigour) -> Vec<String> {
        let schema = Tables::load().unwrap().message(message).unwrap();
        structure(new, None, &schema, rigour).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_missing_or_not_allowed_is_named_with_upstreams_words() {
        let deployment = json!({"metadata": {}, "spec": {"selector": null, "strategy": {"type": "Slow"}, "template": {"spec": {
            "restartPolicy": "", "containers": [{"name": "c", "imagePullPolicy": "Often", "ports": [{"containerPort": 1, "protocol": "tcp"}]}],
        }}}});
        assert_eq!(
            texts("apps.Deployment", &deployment, Rigour::BuiltIn),
            [
                "spec.selector: Required value",
                "spec.template.spec.containers[0].ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.template.spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                "spec.strategy.type: Unsupported value: \"Slow\": supported values: \"Recreate\", \"RollingUpdate\"",
            ]
        );
    }

    #[test]
    fn limits_count_characters_bytes_and_items() {
        let condition =
            json!({"type": "x".repeat(317), "status": "Maybe", "lastTransitionTime": "2024-01-01T00:00:00Z", "reason": "r", "message": ""});
        assert_eq!(
            texts("meta.Condition", &condition, Rigour::BuiltIn),
            [
                "type: Too long: may not be more than 316 characters",
                "status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                "message: Required value",
            ]
        );
        let responder = json!({"name": "a/b", "priority": 100_001});
        assert_eq!(
            texts("core.EvictionResponder", &responder, Rigour::BuiltIn),
            ["priority: Invalid value: 100001: must be less than or equal to 100000"]
        );
    }

    #[test]
    fn duplicate_keys_are_refused_only_where_upstream_refuses_them() {
        let container = json!({"name": "c", "env": [{"name": "a"}, {"name": "a"}]});
        assert!(texts("core.Container", &container, Rigour::BuiltIn).is_empty());
        assert_eq!(texts("core.Container", &container, Rigour::Custom), ["env[1]: Duplicate value: {\"name\":\"a\"}"]);
    }

    #[test]
    fn status_of_a_built_in_kind_is_left_to_its_writer() {
        assert!(texts("core.Pod", &json!({"status": {"phase": "Odd"}}), Rigour::BuiltIn).is_empty());
    }
}
