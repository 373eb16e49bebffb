//! What the schema of a version may say.

use coracle_tree::Value;

use super::{Options, Props, child, flag, list, member, schema_of, text};
use crate::{
    field::{ErrorKind, FieldErrors},
    structural::{Kind, build, defaults, field_path, invariants, invariants::property, props::OrBool, rules},
    types::SchemaRef,
};

/// A version's schema, or the one that all versions share.
pub(super) struct Place<'a> {
    pub(super) options: &'a Options<'a>,
    pub(super) spec: &'a Value,
    pub(super) version: &'a Value,
    /// The version has the status subresource.
    pub(super) status: bool,
}

/// Types of OpenAPI v3.
const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

impl Place<'_> {
    /// Checks the schema of the version; `path` is where it stands.
    pub(super) fn check(&self, path: &str, errors: &mut FieldErrors) {
        let Some(schema) = schema_of(self.version) else { return };
        let path = child(path, "openAPIV3Schema");
        let mut found = FieldErrors::none();
        if self.status {
            root_members(schema, &path, &mut found);
        }
        if schema.flag("nullable") {
            found.forbidden(child(&path, "nullable"), "nullable cannot be true at the root");
        }
        let (mut unbuilt, mut built) = (None, None);
        if self.wants_structural(schema) {
            match build::build(schema) {
                Err(why) => unbuilt = Some(why),
                Ok(node) => {
                    let wrong = invariants::check(schema, &path);
                    if wrong.is_empty() {
                        let options = defaults::Options { metadata: self.options.metadata, pruned: self.options.pruned_defaults };
                        defaults::check(&node, &path, options, &mut found);
                        built = Some(node);
                    } else {
                        found.extend(wrong);
                    }
                }
            }
        }
        let walk = Walk { options: self.options };
        walk.schema(schema, &path, &Around { root: true, ..Around::default() }, &mut found);
        if let Some(node) = built.filter(|_| found.is_empty()) {
            let known = rules::Known::of(self.options.old);
            rules::check(&node, &path, &known, self.is_unchanged(), &mut found);
        }
        if let Some(why) = unbuilt.filter(|_| found.is_empty()) {
            found.invalid(path, "\"\"", &why);
        }
        errors.extend(found);
    }

    /// Whether the version had this schema before.
    fn is_unchanged(&self) -> bool {
        let versions = self.options.old.map(|old| list(member(old, "spec"), "versions")).unwrap_or_default();
        let name = member(self.version, "name");
        versions.iter().any(|old| member(old, "name") == name && member(old, "schema") == member(self.version, "schema"))
    }

    /// Schemas that prune, default or extend must be structural; only those of old servers need not.
    fn wants_structural(&self, _schema: Props<'_>) -> bool {
        const EXTENSIONS: &[&str] = &[
            "default",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-int-or-string",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-list-type",
            "x-kubernetes-validations",
        ];
        let extends = |schema: Props<'_>| schema.any(&mut |s| EXTENSIONS.iter().any(|name| s.get(name).is_some()));
        self.options.structural
            || !flag(self.spec, "preserveUnknownFields")
            || list(self.spec, "versions").iter().filter_map(schema_of).any(extends)
    }
}

/// With a status subresource the root says nothing that would not hold for the status, too.
fn root_members(schema: Props<'_>, path: &str, errors: &mut FieldErrors) {
    const ALLOWED: &[(&str, &str)] = &[
        ("description", "Description"),
        ("type", "Type"),
        ("format", "Format"),
        ("title", "Title"),
        ("maximum", "Maximum"),
        ("exclusiveMaximum", "ExclusiveMaximum"),
        ("minimum", "Minimum"),
        ("exclusiveMinimum", "ExclusiveMinimum"),
        ("maxLength", "MaxLength"),
        ("minLength", "MinLength"),
        ("pattern", "Pattern"),
        ("maxItems", "MaxItems"),
        ("minItems", "MinItems"),
        ("uniqueItems", "UniqueItems"),
        ("multipleOf", "MultipleOf"),
        ("required", "Required"),
        ("items", "Items"),
        ("properties", "Properties"),
        ("externalDocs", "ExternalDocs"),
        ("example", "Example"),
        ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
        ("x-kubernetes-validations", "XValidations"),
    ];
    let kind = schema.text("type");
    if !kind.is_empty() && kind != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(child(path, "type"), text::quoted(kind), detail);
    }
    let allowed = |name: &str| ALLOWED.iter().any(|(json, _)| *json == name);
    if schema.members().iter().any(|(name, value)| !value.is_null() && !allowed(name)) {
        let names: Vec<&str> = ALLOWED.iter().map(|(_, go)| *go).collect();
        let detail =
            format!("only [{}] fields are allowed at the root of the schema if the status subresource is enabled", names.join(" "));
        errors.invalid(path, crate::go::json(&Value::Object(schema.members().clone())), &detail);
    }
}

/// What the schemas around one say of it.
#[derive(Clone, Default)]
struct Around {
    root: bool,
    /// It is that of metadata, `kind` or `apiVersion`.
    in_metadata: bool,
    /// Why there may be no default.
    no_default: Option<String>,
}

struct Walk<'a> {
    options: &'a Options<'a>,
}

impl Walk<'_> {
    fn schema(&self, of: Props<'_>, path: &str, around: &Around, errors: &mut FieldErrors) {
        self.constructs(of, path, around, errors);
        if of.flag("uniqueItems") {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.forbidden(child(path, "uniqueItems"), detail);
        }
        self.members(of, path, around, errors);
        let inside = Around { root: false, ..around.clone() };
        if let Some(not) = of.schema("not") {
            self.schema(not, &child(path, "not"), &inside, errors);
        }
        for name in ["allOf", "oneOf", "anyOf"] {
            for (at, schema) in of.schemas(name).enumerate() {
                self.schema(schema, &format!("{}[{at}]", child(path, name)), &inside, errors);
            }
        }
        for name in ["definitions", "dependencies"] {
            for (key, schema) in of.named(name) {
                self.schema(schema, &format!("{}[{key}]", child(path, name)), &inside, errors);
            }
        }
        if let Some(items) = of.items() {
            self.schema(items, &child(path, "items"), &inside, errors);
        }
        for (at, schema) in of.item_list().iter().filter_map(Props::of).enumerate() {
            self.schema(schema, &format!("{}[{at}]", child(path, "items")), &inside, errors);
        }
        self.extensions(of, path, errors);
        for (at, rule) in of.list("x-kubernetes-validations").iter().enumerate() {
            check_rule(of, rule, &format!("{}[{at}]", child(path, "x-kubernetes-validations")), errors);
        }
    }

    /// What no schema of a definition may have.
    fn constructs(&self, of: Props<'_>, path: &str, around: &Around, errors: &mut FieldErrors) {
        let kind = of.text("type");
        if self.options.known_types && !Kind::parse(kind).is_known() {
            errors.not_supported(child(path, "type"), text::quoted(kind), TYPES);
        }
        if let Some(reason) = around.no_default.as_ref().filter(|_| of.get("default").is_some()) {
            errors.forbidden(child(path, "default"), &format!("must not be set {reason}"));
        }
        let mut refuse = |name: &str, detail: &str| errors.forbidden(child(path, name), detail);
        if !of.text("id").is_empty() {
            refuse("id", "id is not supported");
        }
        if of.get("additionalItems").is_some() {
            refuse("additionalItems", "additionalItems is not supported");
        }
        for name in ["patternProperties", "definitions"] {
            if of.has_any(name) {
                refuse(name, &format!("{name} is not supported"));
            }
        }
        for name in ["dependencies", "$ref"] {
            if of.get(name).is_some() {
                refuse(name, &format!("{name} is not supported"));
            }
        }
        if kind == "null" {
            refuse("type", "type cannot be set to null, use nullable as an alternative");
        }
        if !of.item_list().is_empty() {
            refuse("items", "items must be a schema object and not an array");
        }
        if around.in_metadata && of.embedded() {
            refuse("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
        }
    }

    fn members(&self, of: Props<'_>, path: &str, around: &Around, errors: &mut FieldErrors) {
        if let Some(additional) = of.additional() {
            let at = child(path, "additionalProperties");
            if of.has_any("properties") && !matches!(additional, OrBool::Bool(true)) {
                errors.forbidden(&at, "additionalProperties and properties are mutual exclusive");
            }
            let mut inside = Around { root: false, ..around.clone() };
            if around.in_metadata {
                inside.no_default = Some("inside additionalProperties applying to object metadata".into());
            }
            if let OrBool::Schema(schema) = additional {
                self.schema(schema, &at, &inside, errors);
            }
        }
        for (name, schema) in of.named("properties") {
            let mut inside = Around { root: false, ..around.clone() };
            if (around.root || of.embedded()) && matches!(name, "metadata" | "kind" | "apiVersion") {
                inside.in_metadata = true;
                if around.root {
                    inside.no_default = Some(format!("in top-level {name}"));
                }
            }
            self.schema(schema, &property(path, name), &inside, errors);
        }
    }

    /// `x-kubernetes-…` of maps and lists.
    fn extensions(&self, of: Props<'_>, path: &str, errors: &mut FieldErrors) {
        if of.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(false) {
            errors.invalid(child(path, "x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined");
        }
        let kind = of.text("type");
        let mut wants = |name: &str, wanted: &str| {
            let detail = format!("must be {wanted} if {name} is specified");
            match kind {
                "" => errors.required(child(path, "type"), &detail),
                other => errors.invalid(child(path, "type"), text::quoted(other), &detail),
            }
        };
        if of.map_type().is_some() && kind != "object" {
            wants("x-kubernetes-map-type", "object");
        }
        let misplaced = of.list_type().is_some() && kind != "array";
        if misplaced {
            wants("x-kubernetes-list-type", "array");
        }
        if let Some(other) = of.map_type().filter(|t| !matches!(*t, "atomic" | "granular")) {
            errors.not_supported(child(path, "x-kubernetes-map-type"), text::quoted(other), &["atomic", "granular"]);
        }
        if !misplaced && self.options.atomic_sets && has_loose_set(of) {
            loose_set(of, &child(path, "items"), errors);
        }
        if let Some(other) = of.list_type().filter(|t| !matches!(*t, "atomic" | "set" | "map")) {
            errors.not_supported(child(path, "x-kubernetes-list-type"), text::quoted(other), &["atomic", "set", "map"]);
        }
        if of.has_any("x-kubernetes-list-map-keys") {
            let (at, detail) = (child(path, "x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty");
            match of.list_type() {
                None => errors.required(at, detail),
                Some("map") => {}
                Some(other) => errors.invalid(at, text::quoted(other), detail),
            }
        }
        if of.list_type() == Some("map") {
            map_list(of, path, errors);
        }
        if self.options.strict_keys {
            keys(of, path, errors);
        }
    }
}

/// Whether the items of a set can be merged with others.
pub(super) fn has_loose_set(of: Props<'_>) -> bool {
    match of.items().filter(|_| of.list_type() == Some("set")) {
        Some(items) => match items.text("type") {
            "array" => items.list_type().is_some_and(|t| t != "atomic"),
            "object" => items.map_type() != Some("atomic"),
            _ => false,
        },
        None => false,
    }
}

fn loose_set(of: Props<'_>, path: &str, errors: &mut FieldErrors) {
    let Some(items) = of.items() else { return };
    let name = if items.text("type") == "array" { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
    // Upstream shows the list type for both.
    let shown = items.list_type().map_or_else(|| "null".to_owned(), text::quoted);
    errors.invalid(child(path, name), shown, "must be atomic as item of a list with x-kubernetes-list-type=set");
}

fn map_list(of: Props<'_>, path: &str, errors: &mut FieldErrors) {
    let keys_path = child(path, "x-kubernetes-list-map-keys");
    let items_path = child(path, "items");
    if !of.has_any("x-kubernetes-list-map-keys") {
        errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
    }
    if of.get("items").is_none() {
        errors.required(&items_path, "must have a schema if x-kubernetes-list-type is map");
    }
    let Some(items) = of.items() else {
        if let Some(many) = of.get("items") {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            errors.invalid(items_path, crate::go::json(many), detail);
        }
        return;
    };
    if items.text("type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(child(&items_path, "type"), text::quoted(items.text("type")), detail);
    }
    let all = of.list("x-kubernetes-list-map-keys");
    let shown = || Value::Array(all.to_vec()).to_string();
    for (at, key) in all.iter().enumerate().filter_map(|(at, key)| Some((at, key.as_str()?))) {
        match items.property(key) {
            Some(schema) if matches!(schema.text("type"), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.invalid(child(&property(&items_path, key), "type"), text::quoted(items.text("type")), detail);
            }
            Some(_) => {}
            None => errors.invalid(&keys_path, shown(), "entries must all be names of item properties"),
        }
        if all[..at].iter().any(|earlier| earlier == key) {
            errors.invalid(&keys_path, shown(), "must not contain duplicate entries");
        }
    }
}

/// Whether items of a set or map may lack what tells them apart.
pub(super) fn has_loose_keys(of: Props<'_>, path: &str) -> bool {
    let mut errors = FieldErrors::none();
    keys(of, path, &mut errors);
    !errors.is_empty()
}

fn keys(of: Props<'_>, path: &str, errors: &mut FieldErrors) {
    let (Some(items), Some(kind @ ("set" | "map"))) = (of.items(), of.list_type()) else { return };
    let path = child(path, "items");
    if items.flag("nullable") {
        errors.forbidden(child(&path, "nullable"), &format!("cannot be nullable when x-kubernetes-list-type is {kind}"));
    }
    if kind == "set" {
        return;
    }
    for key in of.texts("x-kubernetes-list-map-keys") {
        let Some(schema) = items.property(key) else { continue };
        let path = property(&path, key);
        if schema.get("default").is_none() && !items.texts("required").any(|name| name == key) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(child(&path, "default"), detail);
        }
        if schema.flag("nullable") {
            errors.forbidden(child(&path, "nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
        }
    }
}

/// Whether some default has members that the schema does not name.
pub(super) fn has_unpruned_default(schema: Props<'_>, metadata: &SchemaRef) -> bool {
    let Ok(node) = build::build(schema) else { return false };
    let mut errors = FieldErrors::none();
    defaults::check(&node, "", defaults::Options { metadata, pruned: true }, &mut errors);
    errors.0.iter().any(|e| e.message.ends_with("must not have unknown fields"))
}

/// The form of a validation rule; what its expression says is checked when it is compiled.
fn check_rule(of: Props<'_>, rule: &Value, path: &str, errors: &mut FieldErrors) {
    const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let text_of = |name: &str| member(rule, name).as_str().unwrap_or_default();
    let has_breaks = |text: &str| text.contains(['\n', '\r']);
    let (rule_text, message, expression, field) = (text_of("rule"), text_of("message"), text_of("messageExpression"), text_of("fieldPath"));
    if rule_text.trim().is_empty() {
        errors.required(child(path, "rule"), "rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(child(path, "message"), text::quoted(message), "must be non-empty if specified");
    } else if has_breaks(message.trim()) {
        errors.invalid(child(path, "message"), text::quoted(message), "must not contain line breaks");
    } else if has_breaks(rule_text.trim()) && message.trim().is_empty() {
        errors.required(child(path, "message"), "message must be specified if rule contains line breaks");
    }
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.required(child(path, "messageExpression"), "messageExpression must be non-empty if specified");
    }
    if let Some(reason) = member(rule, "reason").as_str().filter(|reason| !REASONS.contains(reason)) {
        errors.not_supported(child(path, "reason"), text::quoted(reason), REASONS);
    }
    if field.is_empty() {
        return;
    }
    let at = child(path, "fieldPath");
    if field.trim().is_empty() {
        errors.invalid(&at, text::quoted(field), "must be non-empty if specified");
    }
    if has_breaks(field) {
        errors.invalid(&at, text::quoted(field), "must not contain line breaks");
    }
    if field_path::resolve(field, of, true).is_err() {
        errors.push(ErrorKind::Invalid, at, format!("Invalid value: {}: must be a valid path", text::quoted(field)));
    }
}
