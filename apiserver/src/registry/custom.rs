//! What kinds made by a CRD have beyond built-in ones, and the rules all of them share (apiextensions-apiserver
//! `registry/customresource/{strategy,status_strategy,validator}.go`).

use std::sync::Arc;

use bytes::Bytes;
use coracle_schema::go;
use coracle_tree::Value;

use super::{
    names,
    object::Object,
    rules::{Part, Policy, Rules},
};

/// One version of a custom resource.
pub struct Custom {
    /// Name of its CRD, `widgets.example.com`.
    pub definition: Arc<str>,
    /// The CRD as it stands in the cache: what schemas and OpenAPI are made of, when somebody asks.
    pub source: Bytes,
    /// Uid of the CRD.
    pub uid: Arc<str>,
    /// `metadata.generation` of the CRD: moves with its spec.
    pub generation: i64,
    /// The kind of its lists.
    pub list_kind: Arc<str>,
    /// The CRD is going away: nothing new may be created.
    pub terminating: bool,
    /// Text of the `Warning:` header of every answer, if the version is deprecated.
    pub deprecation: Option<Arc<str>>,
    /// Where the scale subresource finds its values.
    pub scale: Option<ScalePaths>,
    /// The fields this version's selectors may name.
    pub fields: Arc<[Field]>,
    /// Those of all versions: what is noted of each object.
    pub all_fields: Arc<[Field]>,
    /// `apiVersion` of what is stored: `example.com/v1`.
    pub stored: Arc<str>,
}

/// Where a scale subresource finds its values in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Replicas wanted.
    pub spec: FieldPath,
    /// Replicas seen.
    pub status: FieldPath,
    /// The selector as text, if the CRD names one.
    pub selector: Option<FieldPath>,
}

/// A field that selectors may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// As selectors name it: `spec.color`.
    pub name: Arc<str>,
    /// Where its value is.
    pub path: FieldPath,
}

/// A path of member names, written `.spec.color` or `.spec['a.b']`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath {
    text: Box<str>,
    names: Box<[Box<str>]>,
}

impl FieldPath {
    /// Reads a path; what is no path of names leads nowhere.
    pub fn parse(text: &str) -> Self {
        let mut names = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some((name, after)) = rest.strip_prefix("['").and_then(|quoted| quoted.split_once("']")) {
                names.push(name.into());
                rest = after;
                continue;
            }
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            if end == 0 {
                return Self { text: text.into(), names: Box::default() };
            }
            names.push(plain[..end].into());
            rest = &plain[end..];
        }
        Self { text: text.into(), names: names.into() }
    }

    /// As the CRD writes it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The member names on the way.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// What is there; `None` when something on the way is not, `Err` when something on the way is no object.
    pub fn find<'v>(&self, value: &'v Value) -> Result<Option<&'v Value>, String> {
        let mut at = value;
        for (depth, name) in self.names.iter().enumerate() {
            let Some(members) = at.as_object() else {
                let found = go::type_name(at);
                return Err(format!(
                    ".{} accessor error: {at} is of the type {found}, expected map[string]interface{{}}",
                    self.names[..depth].join(".")
                ));
            };
            match members.get(name) {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(if self.names.is_empty() { None } else { Some(at) })
    }

    /// The whole number there; 0 and `false` when there is none.
    pub fn int(&self, value: &Value) -> Result<(i64, bool), String> {
        match self.find(value)? {
            None => Ok((0, false)),
            Some(found) => match found.as_i64() {
                Some(number) => Ok((number, true)),
                None => Err(format!(
                    ".{} accessor error: {found} is of the type {}, expected int64",
                    self.names.join("."),
                    go::type_name(found)
                )),
            },
        }
    }

    /// The text there; empty when there is none.
    pub fn string<'v>(&self, value: &'v Value) -> Result<&'v str, String> {
        match self.find(value)? {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(found) => {
                Err(format!(".{} accessor error: {found} is of the type {}, expected string", self.names.join("."), go::type_name(found)))
            }
        }
    }

    /// Puts a value there; objects on the way are made.
    pub fn set(&self, value: &mut Value, to: Value) {
        let Some((last, parents)) = self.names.split_last() else { return };
        let mut at = value;
        for name in parents {
            let Some(members) = at.as_object_mut() else { return };
            at = members.entry(&**name).or_insert_with(|| Value::Object(coracle_tree::Map::new()));
        }
        if let Some(members) = at.as_object_mut() {
            members.insert(&**last, to);
        }
    }
}

impl Field {
    /// A field from its JSON path.
    pub fn new(path: &str) -> Self {
        Self { name: path.strip_prefix('.').unwrap_or(path).into(), path: FieldPath::parse(path) }
    }

    /// Its value as selectors compare it; empty when there is none.
    pub fn value(&self, object: &Value) -> String {
        match self.path.find(object) {
            Ok(Some(Value::String(text))) => text.to_string(),
            Ok(None | Some(Value::Null)) | Err(_) => String::new(),
            Ok(Some(other)) => other.to_string(),
        }
    }
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = [super::meta::ORPHAN, super::meta::FOREGROUND, "kubernetes"];

impl Rules for Custom {
    fn policy(&self) -> Policy {
        Policy { unconditional_update: false, ..Policy::DEFAULT }
    }

    /// A write of the status changes the status and nothing else, whatever else the object has at its top.
    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        let (Part::Status, Some(old)) = (part, old) else { return };
        let Some(members) = new.value_mut().as_object_mut() else { return };
        let kept = |name: &str| matches!(name, "metadata" | "status");
        members.retain(|name, _| kept(name));
        let before = old.value().as_object().into_iter().flatten().filter(|(name, _)| !kept(name));
        members.extend(before.map(|(name, value)| (name.clone(), value.clone())));
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let before = old.map(Object::finalizers).unwrap_or_default();
        let mut added: Vec<&str> = new.finalizers().into_iter().filter(|name| !before.contains(name)).collect();
        added.sort_unstable();
        added.into_iter().flat_map(finalizer_warnings).collect()
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let head = format!("metadata.finalizers: {name:?}");
    let mut warnings: Vec<String> = names::qualified_name(name).into_iter().map(|why| format!("{head}: {why}")).collect();
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        warnings.push(format!(
            "{head}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn custom() -> Custom {
        Custom {
            definition: "widgets.example.com".into(),
            source: Bytes::new(),
            uid: "u".into(),
            generation: 1,
            list_kind: "WidgetList".into(),
            terminating: false,
            deprecation: None,
            scale: None,
            fields: [].into(),
            all_fields: [].into(),
            stored: "example.com/v1".into(),
        }
    }

    #[test]
    fn paths_find_plain_and_quoted_names_and_name_what_is_in_the_way() {
        let object = json!({"spec": {"a.b": {"c": 7}, "color": "red", "on": true}});
        assert_eq!(FieldPath::parse(".spec['a.b'].c").int(&object), Ok((7, true)));
        assert_eq!(FieldPath::parse(".spec.none.deeper").int(&object), Ok((0, false)));
        assert_eq!(
            FieldPath::parse(".spec.color.x").int(&object).unwrap_err(),
            ".spec.color accessor error: \"red\" is of the type string, expected map[string]interface{}"
        );
        assert_eq!((Field::new(".spec.on").value(&object).as_str(), &*Field::new(".spec.on").name), ("true", "spec.on"));
        assert_eq!(Field::new(".spec.none").value(&object), "");
        let mut made = json!({});
        FieldPath::parse(".spec.replicas").set(&mut made, 3.into());
        assert_eq!(made, json!({"spec": {"replicas": 3}}));
    }

    #[test]
    fn a_status_write_keeps_everything_else_as_it_was() {
        let old = Object::new(json!({"metadata": {}, "spec": {"a": 1}, "other": 1})).unwrap();
        let mut new = Object::new(json!({"metadata": {}, "spec": {"a": 2}, "more": 1, "status": {"b": 1}})).unwrap();
        custom().prepare(&mut new, Some(&old), Part::Status);
        assert_eq!(new.value(), &json!({"metadata": {}, "spec": {"a": 1}, "other": 1, "status": {"b": 1}}));
    }

    #[test]
    fn finalizers_without_a_domain_are_warned_about_when_they_are_new() {
        let object = |list: Value| Object::new(json!({"metadata": {"finalizers": list}})).unwrap();
        let warnings = custom().warnings(&object(json!(["mine", "a.b", "x.io/y", "orphan"])), Some(&object(json!(["mine"]))));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("metadata.finalizers: \"a.b\": prefer a domain-qualified finalizer name including a path (/)"));
    }
}
