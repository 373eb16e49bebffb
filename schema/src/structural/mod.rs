//! Structural schemas: what a custom resource definition says about its objects, compiled.
//!
//! The algorithms of this crate (decoding, defaulting, validation, apply, ownership) take a [`SchemaRef`]; [`version`] makes one from a
//! definition, so that they treat custom resources like any other. Rules are those of apiextensions-apiserver `apiserver/schema` and
//! `apis/apiextensions/validation`.

mod build;
mod completeness;
mod correlate;
mod defaults;
pub mod definition;

pub(crate) mod embedded;

mod field_path;
pub mod format;
mod invariants;
mod lists;
mod node;
mod number;
pub mod openapi;

mod props;
pub(crate) mod prune;
pub(crate) mod rules;
mod text;
mod value;

use std::sync::Arc;

use coracle_tree::Value;

pub(crate) use correlate::Correlated;
pub use node::{Additional, Checks, Kind, Node};

use crate::{
    field::{ErrorKind, FieldErrors},
    types::{Schema, SchemaRef, Type, TypeId},
};

/// One version of a definition, compiled.
#[derive(Clone, Debug)]
pub struct Structural {
    /// What the algorithms take.
    pub schema: SchemaRef,
    /// The schema of the whole object.
    pub root: Arc<Node>,
}

/// What a [`Schema`] made from a definition knows beyond the built-in types.
#[derive(Debug)]
pub struct Custom {
    /// The schema of the whole object.
    pub root: Arc<Node>,
    /// Nothing is pruned (`spec.preserveUnknownFields`, from before there were structural schemas).
    pub preserves: bool,
    /// Where replicas stand, if the version has the scale subresource.
    pub scale: Option<Scale>,
    /// `x-kubernetes-validations`
    pub(crate) rules: rules::Rules,
}

/// The paths of a scale subresource, without the leading dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scale {
    /// `spec.replicas`
    pub spec_replicas: Box<str>,
    /// `status.replicas`
    pub status_replicas: Box<str>,
    /// `status.selector`
    pub label_selector: Option<Box<str>>,
}

/// Which part of an object was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The object.
    Whole,
    /// Its status, through the subresource: nothing else is validated.
    Status,
}

/// Compiles a version of a definition. `tables` are the built-in types. Fails with what keeps the schema from being structural, as the
/// condition `NonStructuralSchema` reports it.
pub fn version(definition: &Value, name: &str, tables: &Arc<Schema>) -> Result<Structural, Vec<String>> {
    let empty = Value::Null;
    let spec = definition.get("spec").unwrap_or(&empty);
    let versions = spec.get("versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let version = versions.iter().find(|v| v.get("name").and_then(Value::as_str) == Some(name)).unwrap_or(&empty);
    let kind = spec.pointer("/names/kind").and_then(Value::as_str).unwrap_or_default();
    let preserves = spec.get("preserveUnknownFields").and_then(Value::as_bool).unwrap_or_default();
    let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&empty);
    let root = match props::Props::of(schema) {
        Some(props) => root(props)?,
        None => Node { preserves: true, ..Node::default() },
    };
    let scale = version.pointer("/subresources/scale").filter(|s| s.is_object()).map(Scale::of);
    Ok(assemble(root, tables, kind, preserves, scale))
}

/// Compiles a schema by itself: see [`version`].
pub fn compile(schema: &Value, tables: &Arc<Schema>, kind: &str, preserves: bool) -> Result<Structural, Vec<String>> {
    let props = props::Props::of(schema).ok_or_else(|| vec!["the schema is not an object".to_owned()])?;
    Ok(assemble(root(props)?, tables, kind, preserves, None))
}

/// What keeps a version's schema, which stands at `path` of its definition, from being structural; empty if nothing does. Fails with the
/// construct that keeps it from being read at all.
pub fn violations(schema: &Value, path: &str) -> Result<Vec<String>, String> {
    let Some(props) = props::Props::of(schema) else { return Ok(Vec::new()) };
    build::build(props)?;
    Ok(invariants::check(props, path).0.iter().map(ToString::to_string).collect())
}

fn root(props: props::Props<'_>) -> Result<Node, Vec<String>> {
    let node = build::build(props).map_err(|why| vec![why])?;
    let errors = invariants::check(props, "");
    if errors.is_empty() { Ok(node) } else { Err(errors.0.iter().map(ToString::to_string).collect()) }
}

fn assemble(mut root: Node, tables: &Arc<Schema>, kind: &str, preserves: bool, scale: Option<Scale>) -> Structural {
    let mut shell = Type::new(kind, Vec::new(), Vec::new());
    shell.open = true;
    shell.typed = true;
    if let Some(metadata) = tables.find("meta.ObjectMeta") {
        defaults::prune(&mut root, &SchemaRef { schema: Arc::clone(tables), root: metadata });
    }
    let root = Arc::new(root);
    let id = TypeId(u32::try_from(tables.types.len()).unwrap_or(u32::MAX));
    let custom = Custom { root: Arc::clone(&root), preserves, scale, rules: rules::Rules::default() };
    let schema = Schema::of_custom(shell, Arc::clone(tables), custom);
    Structural { schema: SchemaRef { schema: Arc::new(schema), root: id }, root }
}

impl Structural {
    /// Brings an object read from the store into the form of this version: prunes, drops nulls and malformed metadata, fills in defaults.
    pub fn refresh(&self, object: &mut Value) {
        crate::decode::refresh(object, &self.schema);
        crate::default::apply(object, &self.schema);
    }

    /// Checks an object: see [`validate`].
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> FieldErrors {
        validate(object, old, &self.schema, Written::Whole)
    }
}

impl Custom {
    /// Fills in the defaults (apiextensions-apiserver `apiserver/schema/defaulting/algorithm.go`).
    pub(crate) fn default(&self, object: &mut Value) {
        fill(&self.root, object);
    }
}

fn fill(node: &Node, value: &mut Value) {
    let stand_in = |node: &Node, value: &mut Value| {
        if value.is_null()
            && !node.nullable
            && let Some(default) = &node.default
        {
            *value = (**default).clone();
        }
    };
    match value {
        Value::Object(members) => {
            for (name, node) in &node.properties {
                let Some(default) = &node.default else { continue };
                if members.get(name).is_none_or(|value| value.is_null() && !node.nullable) {
                    members.insert(String::from(&**name), (**default).clone());
                }
            }
            for (name, value) in members {
                match (node.property(name), node.additional.schema()) {
                    (Some(below), _) => fill(below, value),
                    (None, Some(below)) => {
                        stand_in(below, value);
                        fill(below, value);
                    }
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = &node.items else { return };
            for item in items {
                stand_in(below, item);
                fill(below, item);
            }
        }
        _ => {}
    }
}

/// Checks a decoded, defaulted object of a custom kind; `old` is what it replaces: what did not change is not checked again. Empty for
/// other kinds. `metadata` is the registry's.
pub fn validate(object: &Value, old: Option<&Value>, schema: &SchemaRef, written: Written) -> FieldErrors {
    let Some(custom) = schema.custom() else { return FieldErrors::none() };
    let root = &*custom.root;
    let mut errors = FieldErrors::none();
    let before = old.map(|old| Correlated { old, schema: root });
    // What the schema itself refuses is told once (`Result.AddErrors` of kube-openapi); rules may say the same of one field.
    let told_once = |mut errors: FieldErrors| {
        errors.say_once();
        errors
    };
    match written {
        Written::Whole => {
            errors.extend(told_once(value::check(root, object, before, "")));
            custom.scale.iter().for_each(|scale| scale.check_spec(object, &mut errors));
            custom.scale.iter().for_each(|scale| scale.check_status(object, &mut errors));
            embedded::check(root, object, "", false, &mut errors);
        }
        Written::Status => {
            if let (Some(status), Some(node)) = (object.get("status"), root.property("status")) {
                errors.extend(told_once(value::check(node, status, before.and_then(|before| before.key("status")), "status")));
            }
            custom.scale.iter().for_each(|scale| scale.check_status(object, &mut errors));
        }
    }
    let mut twins = FieldErrors::none();
    lists::check(root, object, "", &mut twins);
    if !twins.is_empty() {
        let mut known = FieldErrors::none();
        old.into_iter().for_each(|old| lists::check(root, old, "", &mut known));
        if known.is_empty() {
            errors.extend(twins);
        }
    }
    custom.rules.validate(root, object, old, &mut errors);
    errors
}

/// Whether rules are not worth evaluating: they could not rely on the object's form (`hasBlockingErr`).
pub fn blocks_rules(errors: &FieldErrors) -> bool {
    use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    errors.0.iter().any(|e| matches!(e.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid))
}

impl Scale {
    fn of(scale: &Value) -> Self {
        let path = |name: &str| {
            let text = scale.get(name).and_then(Value::as_str)?;
            Some(text.strip_prefix('.').unwrap_or(text).into())
        };
        Self {
            spec_replicas: path("specReplicasPath").unwrap_or_default(),
            status_replicas: path("statusReplicasPath").unwrap_or_default(),
            label_selector: path("labelSelectorPath"),
        }
    }

    fn check_spec(&self, object: &Value, errors: &mut FieldErrors) {
        replicas(object, &self.spec_replicas, errors);
    }

    fn check_status(&self, object: &Value, errors: &mut FieldErrors) {
        replicas(object, &self.status_replicas, errors);
        if let Some(path) = &self.label_selector
            && let Err(why) = nested(object, path, |value| value.is_string().then_some(()).ok_or("string"))
        {
            errors.invalid(format!(".{path}"), "\"\"", &why);
        }
    }
}

fn replicas(object: &Value, path: &str, errors: &mut FieldErrors) {
    let at = format!(".{path}");
    match nested(object, path, |value| value.as_i64().ok_or("int64")) {
        Ok(Some(count)) if count < 0 => errors.invalid(at, count, "should be a non-negative integer"),
        Ok(Some(count)) if count > i64::from(i32::MAX) => {
            errors.invalid(at, count, &format!("should be less than or equal to {}", i32::MAX));
        }
        Ok(_) => {}
        Err(why) => errors.invalid(at, 0, &why),
    }
}

/// The value at a dotted path, read by `get`, which names the Go type it wants (`unstructured.NestedInt64`).
fn nested<T>(object: &Value, path: &str, get: impl Fn(&Value) -> Result<T, &'static str>) -> Result<Option<T>, String> {
    let mut at = object;
    let mut walked = String::new();
    for name in path.split('.') {
        let Some(members) = at.as_object() else {
            if at.is_null() {
                return Ok(None);
            }
            return Err(format!(
                "{walked} accessor error: {at} is of the type {}, expected map[string]interface{{}}",
                crate::go::type_name(at)
            ));
        };
        walked.push('.');
        walked.push_str(name);
        match members.get(name) {
            None => return Ok(None),
            Some(value) => at = value,
        }
    }
    get(at).map(Some).map_err(|wanted| {
        let shown = at.as_str().map_or_else(|| at.to_string(), str::to_owned);
        format!(".{path} accessor error: {shown} is of the type {}, expected {wanted}", crate::go::type_name(at))
    })
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod upstream;
