//! What a `CustomResourceDefinition` may say (apiextensions-apiserver `apis/apiextensions/validation/validation.go`).
//!
//! Upstream keeps what all versions have in common once, above the versions, and names it there in errors (`spec.validation` for the schema
//! of a definition with one version); so does this.

mod conversion;
mod names;
mod schema;
mod version;

use coracle_tree::Value;

use super::{invariants::child, props::Props, text};
use crate::{field::FieldErrors, name, tables, types::SchemaRef};

pub use version::warnings;

/// The annotation that a definition in a group of the Kubernetes community needs.
const APPROVAL: &str = "api-approved.kubernetes.io";

/// Checks a definition; `old` is what it replaces, and what was wrong there may stay wrong. Metadata other than the name is the registry's.
pub fn check(new: &Value, old: Option<&Value>) -> FieldErrors {
    let mut errors = FieldErrors::none();
    let Some(metadata) = tables::metadata() else { return errors };
    let spec = member(new, "spec");
    let options = Options::of(old, metadata);
    check_spec(spec, &options, &mut errors);
    if let Some(old) = old {
        immutable(spec, member(old, "spec"), &options, &mut errors);
    }
    status(new, &mut errors);
    stored_versions(member(new, "status"), list(spec, "versions"), &mut errors);
    approval(new, old, &mut errors);
    let kept = old.is_some_and(|old| flag(member(old, "spec"), "preserveUnknownFields"));
    if flag(spec, "preserveUnknownFields") && !kept {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid("spec.preserveUnknownFields", true, detail);
    }
    errors
}

/// What is wrong with the name of a new definition, beside its form: it follows from what is defined.
pub fn name_fault(definition: &Value, name: &str) -> Option<&'static str> {
    let spec = member(definition, "spec");
    let fits = name == format!("{}.{}", text_of(member(spec, "names"), "plural"), text_of(spec, "group"));
    (!fits).then_some("must be spec.names.plural+\".\"+spec.group")
}

/// Checks a write to the status of a definition.
pub fn check_status(new: &Value) -> FieldErrors {
    let mut errors = FieldErrors::none();
    status(new, &mut errors);
    errors
}

/// What is asked of a definition: all, or what was already so.
struct Options<'a> {
    metadata: &'a SchemaRef,
    /// It was established: its scope and kind cannot change.
    established: bool,
    schema_required: bool,
    known_types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    strict_keys: bool,
    recognized_review: bool,
    bad_bundle: bool,
    old: Option<&'a Value>,
}

impl<'a> Options<'a> {
    fn of(old: Option<&'a Value>, metadata: &'a SchemaRef) -> Self {
        let Some(definition) = old else {
            return Self {
                metadata,
                established: false,
                schema_required: true,
                known_types: true,
                structural: true,
                pruned_defaults: true,
                atomic_sets: true,
                strict_keys: true,
                recognized_review: true,
                bad_bundle: true,
                old,
            };
        };
        let spec = member(definition, "spec");
        let all: Vec<Option<Props<'_>>> = list(spec, "versions").iter().map(schema_of).collect();
        let none = |wrong: &dyn Fn(Props<'_>) -> bool| !all.iter().flatten().any(|schema| schema.any(&mut |s| wrong(s)));
        let is_true = |c: &Value| c.get("type").is_some_and(|t| t == "Established") && c.get("status").is_some_and(|s| s == "True");
        let established = list(member(definition, "status"), "conditions").iter().any(is_true);
        let reviews = list(member(member(spec, "conversion"), "webhook"), "conversionReviewVersions");
        Self {
            metadata,
            established,
            schema_required: all.iter().all(Option::is_some),
            known_types: none(&|s| !super::Kind::parse(s.text("type")).is_known()),
            structural: all.iter().flatten().all(|s| super::root(*s).is_ok()),
            pruned_defaults: all.iter().flatten().all(|s| !schema::has_unpruned_default(*s, metadata)),
            atomic_sets: none(&schema::has_loose_set),
            strict_keys: none(&|s| schema::has_loose_keys(s, "")),
            recognized_review: reviews.is_empty() || reviews.iter().any(|v| v == "v1" || v == "v1beta1"),
            bad_bundle: !established || conversion::has_bad_bundle(spec),
            old,
        }
    }
}

fn check_spec(spec: &Value, options: &Options<'_>, errors: &mut FieldErrors) {
    match text_of(spec, "group") {
        "" => errors.required("spec.group", ""),
        group => match name::subdomain(group) {
            faults if !faults.is_empty() => errors.invalid("spec.group", text::quoted(group), &faults.join(",")),
            _ if !group.contains('.') => errors.invalid("spec.group", text::quoted(group), "should be a domain with at least one dot"),
            _ => {}
        },
    }
    match text_of(spec, "scope") {
        "" => errors.required("spec.scope", ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported("spec.scope", text::quoted(other), &["Cluster", "Namespaced"]),
    }
    version::check_all(spec, options, errors);
    names::required(member(spec, "names"), errors);
    names::check(member(spec, "names"), "spec.names", errors);
    version::check_shared(spec, options, errors);
    conversion::check(spec, options, errors);
}

/// What names the stored objects cannot change; the rest of the names can.
fn immutable(spec: &Value, old: &Value, options: &Options<'_>, errors: &mut FieldErrors) {
    let mut same = |path: &str, of: fn(&Value) -> &str| {
        if of(spec) != of(old) {
            errors.invalid(path, text::quoted(of(spec)), "field is immutable");
        }
    };
    if options.established {
        same("spec.scope", |spec| text_of(spec, "scope"));
        same("spec.names.kind", |spec| text_of(member(spec, "names"), "kind"));
    }
    same("spec.group", |spec| text_of(spec, "group"));
    same("spec.names.plural", |spec| text_of(member(spec, "names"), "plural"));
}

fn status(new: &Value, errors: &mut FieldErrors) {
    names::check(member(member(new, "status"), "acceptedNames"), "status.acceptedNames", errors);
}

fn stored_versions(status: &Value, versions: &[Value], errors: &mut FieldErrors) {
    let path = "status.storedVersions";
    let stored = list(status, "storedVersions");
    let shown = Value::Array(stored.to_vec()).to_string();
    if stored.is_empty() {
        errors.invalid(path, "null", "must have at least one stored version");
        return;
    }
    let known = |name: &str| versions.iter().any(|v| text_of(v, "name") == name);
    let mut seen = std::collections::HashSet::new();
    for version in versions {
        let name = text_of(version, "name");
        // Each stored version stands for one version of that name.
        let first = seen.insert(name);
        if flag(version, "storage") && !(first && stored.iter().any(|v| v == name)) {
            errors.invalid(path, &shown, &format!("must have the storage version {name}"));
        }
    }
    for (at, name) in stored.iter().enumerate().filter_map(|(at, v)| Some((at, v.as_str()?))) {
        if !known(name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage \
                 migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(format!("{path}[{at}]"), text::quoted(name), &detail);
        }
    }
}

/// Groups of the community are only for what it approved.
fn approval(new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let group = text_of(member(new, "spec"), "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|head| head.is_empty() || head.ends_with('.')));
    let annotation = |definition: &Value| text_of(member(member(definition, "metadata"), "annotations"), APPROVAL).to_owned();
    let now = annotation(new);
    if !protected || old.is_some_and(|old| state(&annotation(old)) == state(&now)) {
        return;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state(&now) {
        Approval::Given => {}
        Approval::Missing => errors.required(path, &format!("protected groups must have approval annotation \"{APPROVAL}\", {see}")),
        Approval::Invalid => {
            let detail = format!(
                "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \"unapproved\", {see}"
            );
            errors.invalid(path, text::quoted(&now), &detail);
        }
    }
}

/// What the approval annotation amounts to; the condition `KubernetesAPIApprovalPolicyConformant` tells more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Approval {
    Given,
    Missing,
    Invalid,
}

fn state(annotation: &str) -> Approval {
    let has_host =
        || annotation.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
    match annotation {
        "" => Approval::Missing,
        text if text.starts_with("unapproved") => Approval::Given,
        text if super::format::fits("uri", text) == Some(true) && has_host() => Approval::Given,
        _ => Approval::Invalid,
    }
}

/// The schema of a version.
fn schema_of(version: &Value) -> Option<Props<'_>> {
    version.get("schema")?.get("openAPIV3Schema").and_then(Props::of)
}

fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn text_of<'v>(value: &'v Value, name: &str) -> &'v str {
    member(value, name).as_str().unwrap_or_default()
}

fn flag(value: &Value, name: &str) -> bool {
    member(value, name).as_bool().unwrap_or_default()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    member(value, name).as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream;
