//! From a stored `openAPIV3Schema` to a [`Node`] (apiextensions-apiserver `apiserver/schema/convert.go`).

use super::{
    format,
    node::{Additional, Checks, Kind, Node},
    props::{OrBool, Props},
};
use crate::types::ListKind;

/// Schemas nested deeper than this are refused: nothing that a person or a generator writes comes near.
pub(super) const MAX_DEPTH: usize = 100;

/// Builds a node and all below it; says which construct is not supported.
pub(super) fn build(of: Props<'_>) -> Result<Node, String> {
    at_depth(of, 0)
}

fn at_depth(of: Props<'_>, depth: usize) -> Result<Node, String> {
    if depth > MAX_DEPTH {
        return Err(format!("OpenAPIV3Schema is nested deeper than {MAX_DEPTH} levels"));
    }
    unsupported(of)?;
    if of.get("x-kubernetes-preserve-unknown-fields").and_then(coracle_tree::Value::as_bool) == Some(false) {
        return Err("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".into());
    }
    if !of.item_list().is_empty() {
        return Err("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    let mut node = Node {
        kind: Kind::parse(of.text("type")),
        nullable: of.flag("nullable"),
        preserves: of.preserves(),
        embedded: of.embedded(),
        int_or_string: of.int_or_string(),
        atomic: of.map_type() == Some("atomic"),
        list: list_kind(of),
        default: of.get("default").cloned().map(Box::new),
        ..Node::default()
    };
    if let Some(items) = of.items() {
        node.items = Some(Box::new(at_depth(items, depth + 1)?));
    }
    node.additional = match of.additional() {
        None => Additional::Unset,
        Some(OrBool::Bool(allowed)) => Additional::Bool(allowed),
        Some(OrBool::Schema(schema)) => Additional::Schema(Box::new(at_depth(schema, depth + 1)?)),
    };
    let properties: Result<Vec<_>, String> =
        of.named("properties").map(|(name, schema)| Ok((name.into(), at_depth(schema, depth + 1)?))).collect();
    node.properties = properties?.into();
    node.properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    node.checks = checks(of, node.kind, depth)?.map(Box::new);
    let rules = of.list("x-kubernetes-validations");
    node.rules = (!rules.is_empty()).then(|| rules.into());
    Ok(node)
}

fn nodes(of: Props<'_>, name: &str, depth: usize) -> Result<Box<[Node]>, String> {
    of.schemas(name).map(|schema| at_depth(schema, depth + 1)).collect()
}

fn checks(of: Props<'_>, kind: Kind, depth: usize) -> Result<Option<Checks>, String> {
    const WORDS: &[&str] = &[
        "format",
        "maximum",
        "minimum",
        "multipleOf",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxProperties",
        "minProperties",
        "enum",
        "required",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
    ];
    if !WORDS.iter().any(|word| of.get(word).is_some()) {
        return Ok(None);
    }
    let text = |name: &str| Some(of.text(name)).filter(|t| !t.is_empty());
    let known = |name: &&str| format::is_supported(kind, name);
    let not = of.schema("not").map(|schema| at_depth(schema, depth + 1)).transpose()?;
    Ok(Some(Checks {
        format: text("format").filter(known).map(Into::into),
        maximum: of.number("maximum"),
        exclusive_maximum: of.flag("exclusiveMaximum"),
        minimum: of.number("minimum"),
        exclusive_minimum: of.flag("exclusiveMinimum"),
        multiple_of: of.number("multipleOf"),
        max_length: of.count("maxLength"),
        min_length: of.count("minLength"),
        pattern: text("pattern").map(Into::into),
        max_items: of.count("maxItems"),
        min_items: of.count("minItems"),
        unique_items: of.flag("uniqueItems"),
        max_properties: of.count("maxProperties"),
        min_properties: of.count("minProperties"),
        allowed: of.list("enum").into(),
        required: of.texts("required").map(Into::into).collect(),
        all_of: nodes(of, "allOf", depth)?,
        any_of: nodes(of, "anyOf", depth)?,
        one_of: nodes(of, "oneOf", depth)?,
        not: not.map(Box::new),
    }))
}

fn list_kind(of: Props<'_>) -> ListKind {
    match of.list_type() {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(of.texts("x-kubernetes-list-map-keys").map(Into::into).collect()),
        _ => ListKind::Atomic,
    }
}

/// The constructs of JSON schema that no structural schema has.
fn unsupported(of: Props<'_>) -> Result<(), String> {
    let refused = |name: &str| Err(format!("OpenAPIV3Schema '{name}' is not supported"));
    for (field, shown) in [("id", "id"), ("$schema", "schema"), ("$ref", "$ref")] {
        if !of.text(field).is_empty() {
            return refused(shown);
        }
    }
    for name in ["patternProperties", "dependencies", "additionalItems", "definitions"] {
        if of.has_any(name) || (name == "additionalItems" && of.get(name).is_some()) {
            return refused(name);
        }
    }
    Ok(())
}
