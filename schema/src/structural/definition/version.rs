//! The versions of a definition, and what they share.

use std::collections::{BTreeSet, HashSet};

use coracle_tree::Value;

use super::{Options, Props, child, flag, list, member, schema, schema_of, text, text_of};
use crate::{
    field::FieldErrors,
    name,
    structural::{Kind, field_path, format},
};

/// Most fields that selectors may name.
const MAX_SELECTABLE: usize = 8;
/// Longest deprecation warning, in bytes.
const MAX_WARNING: usize = 256;

/// What all versions have alike, which upstream names once.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &[Value]) -> Self {
        let alike = |field: &str| versions.windows(2).all(|pair| member(&pair[0], field) == member(&pair[1], field));
        Self {
            schema: alike("schema"),
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns"),
            selectable: alike("selectableFields"),
        }
    }
}

/// Checks the versions one by one, without what they share.
pub(super) fn check_all(spec: &Value, options: &Options<'_>, errors: &mut FieldErrors) {
    let versions = list(spec, "versions");
    let shared = Shared::of(versions);
    let has_schema = shared.schema && versions.first().is_some_and(|v| schema_of(v).is_some());
    for (at, version) in versions.iter().enumerate().filter(|(_, v)| !has_schema && schema_of(v).is_none()) {
        let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
        if options.schema_required {
            errors.required(path, "");
        } else if !flag(spec, "preserveUnknownFields") && flag(version, "served") {
            errors.required(path, "because otherwise all fields are pruned");
        }
    }
    let schemas = || versions.iter().filter_map(schema_of);
    if flag(spec, "preserveUnknownFields") && schemas().any(|s| s.any(&mut |s| s.get("default").is_some())) {
        errors.invalid("spec.preserveUnknownFields", true, "must be false in order to use defaults in the schema");
    }
    let mut seen = HashSet::new();
    let mut unique = true;
    for (at, version) in versions.iter().enumerate() {
        let (path, given) = (format!("spec.versions[{at}]"), text_of(version, "name"));
        unique &= seen.insert(given);
        let wrong = name::label_1035(given);
        if !wrong.is_empty() {
            errors.invalid(format!("{path}.name"), text::quoted(given), &wrong.join(","));
        }
        deprecation(version, &path, errors);
        one(spec, version, &path, &shared, options, errors);
    }
    if !unique {
        errors.invalid("spec.versions", go_versions(spec, versions, &shared), "must contain unique version names");
    }
    if versions.iter().filter(|v| flag(v, "storage")).count() != 1 {
        errors.invalid("spec.versions", go_versions(spec, versions, &shared), "must have exactly one version marked as storage version");
    }
    // Upstream keeps the first name once more.
    let first = versions.first().map(|v| text_of(v, "name")).unwrap_or_default();
    let wrong = name::label_1035(first);
    if !first.is_empty() && !wrong.is_empty() {
        errors.invalid("spec.version", text::quoted(first), &wrong.join(","));
    }
}

/// What a version has for itself.
fn one(spec: &Value, version: &Value, path: &str, shared: &Shared, options: &Options<'_>, errors: &mut FieldErrors) {
    let place = schema::Place { options, spec, version, status: has_status(version) };
    if !shared.schema {
        place.check(&child(path, "schema"), errors);
    }
    if !shared.subresources {
        subresources(version, &child(path, "subresources"), errors);
    }
    if !shared.columns {
        columns(version, &child(path, "additionalPrinterColumns"), errors);
    }
    if !shared.selectable && !list(version, "selectableFields").is_empty() {
        let path = child(path, "selectableFields");
        match schema_of(version).filter(|_| !shared.schema) {
            Some(schema) => selectable(version, schema, &path, options, errors),
            None => errors.invalid(path, "\"\"", "may only be set when `version.schema.openAPIV3Schema` is not included"),
        }
    }
}

/// Checks what all versions share.
pub(super) fn check_shared(spec: &Value, options: &Options<'_>, errors: &mut FieldErrors) {
    let versions = list(spec, "versions");
    let Some(version) = versions.first() else { return };
    let shared = Shared::of(versions);
    if shared.schema {
        let status = versions.iter().any(has_status);
        schema::Place { options, spec, version, status }.check("spec.validation", errors);
    }
    if shared.subresources {
        subresources(version, "spec.subresources", errors);
    }
    if shared.columns {
        columns(version, "spec.additionalPrinterColumns", errors);
    }
    if shared.selectable && !list(version, "selectableFields").is_empty() {
        match schema_of(version).filter(|_| shared.schema) {
            Some(schema) => selectable(version, schema, "spec.selectableFields", options, errors),
            None => errors.invalid("spec.selectableFields", "\"\"", "may only be set when validations.schema is included"),
        }
    }
}

fn has_status(version: &Value) -> bool {
    member(version, "subresources").get("status").is_some_and(|s| !s.is_null())
}

fn deprecation(version: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(warning) = member(version, "deprecationWarning").as_str() else { return };
    let path = format!("{path}.deprecationWarning");
    let shown = crate::go::json(member(version, "deprecationWarning"));
    let mut wrong = |detail: &str| errors.invalid(&path, &shown, detail);
    if !flag(version, "deprecated") {
        return wrong("can only be set for deprecated versions");
    }
    if warning.len() > MAX_WARNING {
        wrong("must be <= 256 characters long");
    }
    if warning.is_empty() {
        wrong("must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        wrong(&format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

fn subresources(version: &Value, path: &str, errors: &mut FieldErrors) {
    let scale = member(member(version, "subresources"), "scale");
    if scale.is_null() {
        return;
    }
    for (field, roots) in [("specReplicasPath", &[".spec."][..]), ("statusReplicasPath", &[".status."])] {
        let path = format!("{path}.scale.{field}");
        match text_of(scale, field) {
            "" => errors.required(path, ""),
            given => replica_path(given, roots, &path, errors),
        }
    }
    let selector = text_of(scale, "labelSelectorPath");
    if !selector.is_empty() {
        replica_path(selector, &[".spec.", ".status."], &format!("{path}.scale.labelSelectorPath"), errors);
    }
}

fn replica_path(given: &str, roots: &[&str], path: &str, errors: &mut FieldErrors) {
    if let Some(wrong) = simple_path(given) {
        errors.invalid(path, text::quoted(given), wrong);
    } else if !roots.iter().any(|root| given.starts_with(root)) {
        let detail = match roots {
            [".spec."] => "should be a json path under .spec",
            [".status."] => "should be a json path under .status",
            _ => "should be a json path under either .spec or .status",
        };
        errors.invalid(path, text::quoted(given), detail);
    }
}

/// What is wrong with a path that is not empty.
fn simple_path(given: &str) -> Option<&'static str> {
    (!given.starts_with('.')).then_some("must be a simple json path starting with .")
}

fn columns(version: &Value, path: &str, errors: &mut FieldErrors) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for (at, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let path = format!("{path}[{at}]");
        if text_of(column, "name").is_empty() {
            errors.required(format!("{path}.name"), "");
        }
        let detail = |of: &[&str]| format!("must be one of {}", of.join(","));
        match text_of(column, "type") {
            "" => errors.required(format!("{path}.type"), &detail(TYPES)),
            given if !TYPES.contains(&given) => errors.invalid(format!("{path}.type"), text::quoted(given), &detail(TYPES)),
            _ => {}
        }
        let given = text_of(column, "format");
        if !given.is_empty() && !FORMATS.contains(&given) {
            errors.invalid(format!("{path}.format"), text::quoted(given), &detail(FORMATS));
        }
        let (given, path) = (text_of(column, "jsonPath"), format!("{path}.JSONPath"));
        if given.is_empty() {
            errors.required(path, "");
        } else if let Some(wrong) = simple_path(given) {
            errors.invalid(path, text::quoted(given), wrong);
        }
    }
}

fn selectable(version: &Value, schema: Props<'_>, path: &str, options: &Options<'_>, errors: &mut FieldErrors) {
    let fields = list(version, "selectableFields");
    let mut seen = HashSet::new();
    for (at, field) in fields.iter().enumerate() {
        let (at, given) = (format!("{path}[{at}].jsonPath"), text_of(field, "jsonPath"));
        if given.is_empty() {
            errors.required(at, "");
            continue;
        }
        let target = match field_path::resolve(given, schema, false) {
            Ok(target) => target,
            Err(why) => {
                errors.invalid(at, text::quoted(given), &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if target.first == "metadata" {
            errors.invalid(&at, text::quoted(given), "must not point to fields in metadata");
        }
        if !target.schema.is_some_and(|s| matches!(s.text("type"), "string" | "boolean" | "integer")) {
            let detail =
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&at, text::quoted(given), detail);
        }
        if !seen.insert(target.path) {
            errors.duplicate(at, text::quoted(given));
        }
    }
    let before = options.old.map(|old| list(member(old, "spec"), "versions")).unwrap_or_default();
    let kept = before.iter().any(|v| text_of(v, "name") == text_of(version, "name") && list(v, "selectableFields") == fields);
    if seen.len() > MAX_SELECTABLE && !kept {
        errors.too_many(path, seen.len(), MAX_SELECTABLE as u64);
    }
}

/// What is accepted, but worth a word: formats nobody knows, and sets that apply cannot merge. `old` had its own words.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let (formats, sets) = oddities(new);
    let (known_formats, known_sets) = old.map(oddities).unwrap_or_default();
    let formats = formats.into_iter().filter(|f| !known_formats.contains(f)).map(|f| format!("unrecognized format {}", text::quoted(&f)));
    let sets = sets.into_iter().filter(|kind| !known_sets.contains(kind)).map(|kind| {
        format!(
            "x-kubernetes-list-type: set for items of type {} is not supported by server-side apply or CEL validation rules",
            text::quoted(&kind)
        )
    });
    formats.chain(sets).collect()
}

fn oddities(definition: &Value) -> (Vec<String>, BTreeSet<String>) {
    let (mut formats, mut sets) = (Vec::new(), BTreeSet::new());
    let versions = list(member(definition, "spec"), "versions");
    let distinct = if Shared::of(versions).schema { versions.len().min(1) } else { versions.len() };
    for schema in versions[..distinct].iter().filter_map(schema_of) {
        schema.any(&mut |s| {
            let format = s.text("format");
            if !format.is_empty() && !format::is_supported(Kind::parse(s.text("type")), format) {
                formats.push(format.to_owned());
            }
            if let (Some("set"), Some(items)) = (s.list_type(), s.items())
                && matches!(items.text("type"), "object" | "array")
            {
                sets.insert(items.text("type").to_owned());
            }
            false
        });
    }
    (formats, sets)
}

/// The versions as Go prints its own form of them, which has what they share elsewhere.
fn go_versions(spec: &Value, versions: &[Value], shared: &Shared) -> String {
    if member(spec, "versions").is_null() {
        return "null".to_owned();
    }
    let own = |version: &Value, field: &str, shared: bool| match member(version, field) {
        _ if shared => "null".to_owned(),
        other => crate::go::json(other),
    };
    let texts: Vec<String> = versions
        .iter()
        .map(|v| {
            format!(
                "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\"Subresources\":{},\
                 \"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
                crate::go::json(member(v, "name")),
                flag(v, "served"),
                flag(v, "storage"),
                flag(v, "deprecated"),
                crate::go::json(member(v, "deprecationWarning")),
                own(v, "schema", shared.schema),
                own(v, "subresources", shared.subresources),
                own(v, "additionalPrinterColumns", shared.columns),
                own(v, "selectableFields", shared.selectable),
            )
        })
        .collect();
    format!("[{}]", texts.join(","))
}
