//! Schemas as the types of expressions (apiserver `pkg/cel/common/schemas.go`, `SchemaDeclType`).

use coracle_cel::{Decl, Listing, ObjectType};
use coracle_tree::Value;

use crate::structural::{Checks, Kind, Node};
use crate::types::ListKind;

/// How expressions see data of `node`, named `name`; none where nothing is known of it. `root`: it is a whole object, or one that is embedded.
pub(super) fn of(node: &Node, root: bool, name: &str) -> Option<Decl> {
    let decl = plain(node, root, name)?;
    Some(if node.nullable { decl.nullable() } else { decl })
}

fn plain(node: &Node, root: bool, name: &str) -> Option<Decl> {
    let none = Checks::default();
    let checks = node.checks.as_deref().unwrap_or(&none);
    let size = |limit: Option<i64>| limit.map(|limit| u64::try_from(limit).unwrap_or(0));
    if node.int_or_string {
        return Some(Decl::int_or_string(size(checks.max_length)));
    }
    // What is embedded, and what is the whole, has the members of every object.
    let kind = if root && node.kind == Kind::Any { Kind::Object } else { node.kind };
    match kind {
        Kind::Array => {
            let items = node.items.as_deref()?;
            let item = of(items, items.embedded, &format!("{name}.@idx"))?;
            Some(Decl::list(item, listing(&node.list), size(checks.max_items)))
        }
        Kind::Object => match node.additional.schema() {
            Some(values) if !root => {
                let value = of(values, values.embedded, &format!("{name}.@elem"))?;
                Some(Decl::map(value, size(checks.max_properties)))
            }
            _ => Some(object(node, checks, root, name)),
        },
        Kind::String => Some(match checks.format.as_deref() {
            Some("byte") => Decl::bytes(size(checks.max_length)),
            Some("duration") => Decl::duration(),
            Some("date") => Decl::date(),
            Some("date-time") => Decl::date_time(),
            _ => Decl::string(size(checks.max_length), longest(&checks.allowed)),
        }),
        Kind::Boolean => Some(Decl::bool()),
        Kind::Number => Some(Decl::double()),
        Kind::Integer => Some(Decl::int()),
        Kind::Any | Kind::Unknown => None,
    }
}

/// The longest of the values that are allowed, if they are listed, in bytes.
fn longest(allowed: &[Value]) -> Option<u64> {
    let lengths = allowed.iter().filter_map(Value::as_str).map(|text| text.len() as u64);
    (!allowed.is_empty()).then(|| lengths.max().unwrap_or(0))
}

fn listing(list: &ListKind) -> Listing {
    match list {
        ListKind::Atomic => Listing::Atomic,
        ListKind::Set => Listing::Set,
        ListKind::Map(keys) => Listing::Map(keys.iter().map(ToString::to_string).collect()),
    }
}

fn object(node: &Node, checks: &Checks, root: bool, name: &str) -> Decl {
    let mut fields: Vec<(String, Decl)> = Vec::new();
    let mut required: Vec<&str> = Vec::new();
    let common = root && !has_common(node);
    for (field, below) in node.properties.iter().filter(|(field, _)| !(common && matches!(&**field, "apiVersion" | "kind" | "metadata"))) {
        let Some(decl) = of(below, below.embedded, &format!("{name}.{field}")) else { continue };
        fields.push((field.to_string(), decl));
        // A required field that has a default need not be in the request.
        if below.default.is_none() && checks.required.contains(field) {
            required.push(field);
        }
    }
    if common {
        let text = || Decl::string(None, None);
        let members = [("name".to_owned(), text()), ("generateName".to_owned(), text())];
        fields.push(("apiVersion".to_owned(), text()));
        fields.push(("kind".to_owned(), text()));
        fields.push(("metadata".to_owned(), Decl::object(ObjectType::new(&format!("{name}.metadata"), members), &[])));
    }
    Decl::object(ObjectType::new(name, fields), &required)
}

/// Whether the schema itself says what every object has (`WithTypeAndObjectMeta`).
fn has_common(node: &Node) -> bool {
    let text = |node: &Node, field: &str| node.property(field).is_some_and(|below| below.kind == Kind::String);
    let named = |metadata: &Node| metadata.kind == Kind::Object && text(metadata, "name") && text(metadata, "generateName");
    text(node, "kind") && text(node, "apiVersion") && node.property("metadata").is_some_and(named)
}
