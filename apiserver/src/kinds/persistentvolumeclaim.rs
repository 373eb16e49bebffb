//! Persistent volume claims (upstream `apis/core/validation`, `ValidatePersistentVolumeClaim…`).

use coracle_schema::{FieldErrors, Quantity, name, selector};
use coracle_tree::{Value, json};

use super::{pod, resources, view};
use crate::registry::{Object, Part, Rules};

/// Rules of `persistentvolumeclaims`.
pub(super) struct PersistentVolumeClaim;

/// How a volume may be mounted.
pub(super) const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Which API groups a source of data may name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Groups {
    /// Well-formed ones.
    Valid,
    /// Any: the claim has named a group already, when nobody looked at its form (`allowInvalidAPIGroupInDataSourceOrRef`).
    Any,
}

/// Checks a claim's spec, in claims and in the templates of them.
pub(super) fn spec(spec: &Value, groups: Groups, path: &str, errors: &mut FieldErrors) {
    access_modes(spec, "at least 1 access mode is required", path, errors);
    if let Some(given) = view::get(spec, "selector") {
        selector::validate_object(given, &format!("{path}.selector"), errors);
    }
    let storage = format!("{path}.resources[storage]");
    match view::map(view::member(spec, "resources"), "requests").get("storage").filter(|v| !v.is_null()) {
        None => errors.required(storage, ""),
        Some(amount) if view::quantity(amount).is_some_and(|q| q <= Quantity::ZERO) => {
            errors.invalid(storage, amount, "must be greater than zero");
        }
        Some(amount) => resources::amount_of("storage", amount, &storage, errors),
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = view::text(spec, field);
        if !class.is_empty() {
            errors.invalid_each(&format!("{path}.{field}"), class, name::subdomain(class));
        }
    }
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = view::get(spec, field) {
            data_source(source, groups, &format!("{path}.{field}"), errors);
        }
    }
    if let (Some(one), Some(other)) = (view::get(spec, "dataSource"), view::get(spec, "dataSourceRef")) {
        if is_elsewhere(other) {
            errors.invalid(path, one, "may not be specified when dataSourceRef.namespace is specified");
        } else if ["apiGroup", "kind", "name"].iter().any(|field| view::get(one, field) != view::get(other, field)) {
            errors.invalid(path, one, "must match dataSourceRef");
        }
    }
}

pub(super) fn access_modes(spec: &Value, missing: &str, path: &str, errors: &mut FieldErrors) {
    let modes = view::list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(format!("{path}.accessModes"), missing);
    }
    if missing.is_empty() {
        return single_access(modes, path, errors);
    }
    for mode in view::texts(spec, "accessModes").filter(|mode| !MODES.contains(mode)) {
        errors.not_supported(format!("{path}.accessModes"), view::quoted(mode), MODES);
    }
    single_access(modes, path, errors);
}

fn single_access(modes: &[Value], path: &str, errors: &mut FieldErrors) {
    let alone = modes.iter().any(|m| m == "ReadWriteOncePod");
    if alone && modes.iter().any(|m| m != "ReadWriteOncePod") {
        errors.forbidden(format!("{path}.accessModes"), "may not use ReadWriteOncePod with other access modes");
    }
}

/// Whether a source of data is in a namespace of its own.
fn is_elsewhere(source: &Value) -> bool {
    !view::text(source, "namespace").is_empty()
}

fn data_source(source: &Value, groups: Groups, path: &str, errors: &mut FieldErrors) {
    for field in ["name", "kind"] {
        if view::text(source, field).is_empty() {
            errors.required(format!("{path}.{field}"), "");
        }
    }
    let (group, kind) = (view::text(source, "apiGroup"), view::text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, view::quoted(kind), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    } else if !group.is_empty() && groups == Groups::Valid {
        errors.invalid_each(&format!("{path}.apiGroup"), group, name::subdomain(group));
    }
    if is_elsewhere(source) {
        let namespace = view::text(source, "namespace");
        errors.invalid_each(&format!("{path}.namespace"), namespace, name::label(namespace));
    }
}

/// Each of the two fields stands for the other; volumes of other namespaces have only the newer (`NormalizeDataSources`).
fn agree_sources(claim: &mut Object) {
    let Some(spec) = view::message_mut(claim.value_mut(), "spec") else { return };
    for (from, to) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
        let source = view::get(spec, from).filter(|source| !is_elsewhere(source)).cloned();
        if let Some(mut source) = source {
            view::remove(&mut source, "namespace");
            view::set_absent(spec, to, source);
        }
    }
}

impl Rules for PersistentVolumeClaim {
    fn unheard(&self) -> &'static [&'static str] {
        &["spec.accessModes"]
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        if old.is_none() {
            new.value_mut()["status"] = json!({"phase": "Pending"});
        }
        if part != Part::Whole {
            return;
        }
        let before = old.map(|old| view::member(old.value(), "spec"));
        let had = |field: &str| before.is_some_and(|spec| view::get(spec, field).is_some());
        // Sources in other namespaces are behind a gate that is off (`CrossNamespaceVolumeDataSource`): nobody takes data from one that
        // has the same name here.
        if let Some(spec) = view::message_mut(new.value_mut(), "spec")
            && is_elsewhere(view::member(spec, "dataSourceRef"))
            && !had("dataSourceRef")
        {
            view::remove(spec, "dataSourceRef");
        }
        // Of what the older field names other than claims and snapshots nothing was ever made (`EnforceDataSourceBackwardsCompatibility`).
        if let Some(spec) = view::message_mut(new.value_mut(), "spec")
            && !had("dataSource")
            && !had("dataSourceRef")
            && view::get(spec, "dataSourceRef").is_none()
            && !is_claim_or_snapshot(view::member(spec, "dataSource"))
        {
            view::remove(spec, "dataSource");
        }
        agree_sources(new);
    }

    fn complete_old(&self, object: &mut Object) {
        agree_sources(object);
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            claim_status(view::member(new.value(), "status"), &mut errors);
            return errors;
        }
        let named = old.is_some_and(|old| {
            let before = view::member(old.value(), "spec");
            ["dataSource", "dataSourceRef"].iter().any(|field| view::get(view::member(before, field), "apiGroup").is_some())
        });
        spec(view::member(new.value(), "spec"), if named { Groups::Any } else { Groups::Valid }, "spec", &mut errors);
        if let Some(old) = old {
            claim_update(new.value(), old.value(), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        warnings(new)
    }
}

/// The annotation that once named the storage class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Amounts that are not whole bytes, and an annotation that a field has replaced (`GetWarningsForPersistentVolumeClaim`).
fn warnings(claim: &Object) -> Vec<String> {
    let class = claim
        .annotation(CLASS)
        .map(|_| format!("metadata.annotations[{CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    class.into_iter().chain(pod::warnings::claim(view::member(claim.value(), "spec"), &"spec")).collect()
}

fn is_claim_or_snapshot(source: &Value) -> bool {
    let of = (view::text(source, "apiGroup"), view::text(source, "kind"));
    [("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")].contains(&of)
}

/// How far a claim's growth is (`ValidatePersistentVolumeClaimStatusUpdate`).
fn claim_status(status: &Value, errors: &mut FieldErrors) {
    const STEPS: [&str; 5] =
        ["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"];
    for (resource, amount) in view::map(status, "capacity") {
        not_negative(amount, &format!("status.capacity[{resource}]"), errors);
    }
    for (resource, step) in view::map(status, "allocatedResourceStatuses") {
        let path = "status.allocatedResourceStatuses";
        grown(resource, path, errors);
        if !step.as_str().is_some_and(|step| STEPS.contains(&step)) {
            let mut steps = STEPS;
            steps.sort_unstable();
            errors.not_supported(path, view::quoted(resource), &steps);
        }
    }
    for (resource, amount) in view::map(status, "allocatedResources") {
        if grown(resource, "status.allocatedResources", errors) {
            not_negative(amount, &format!("status.allocatedResources[{resource}]"), errors);
        }
    }
}

fn not_negative(amount: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(amount) = view::quantity(amount).filter(|amount| amount.is_negative()) {
        errors.invalid(path, amount.value(), "must be a valid resource quantity");
    }
}

/// Whether a resource may grow: storage, or one of somebody else's.
fn grown(resource: &str, path: &str, errors: &mut FieldErrors) -> bool {
    let wrong = name::qualified(resource);
    if !wrong.is_empty() {
        errors.invalid_each(path, resource, wrong);
        return false;
    }
    let fine = resource == "storage" || resource.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"));
    if !fine {
        errors.not_supported(path, view::quoted(resource), &["storage"]);
    }
    fine
}

fn claim_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, before) = (view::member(new, "spec"), view::member(old, "spec"));
    let bound = view::text(view::member(old, "status"), "phase") == "Bound";
    let mut allowed = spec.clone();
    let restore = |to: &mut Value, field: &str| match view::get(before, field) {
        Some(value) => to[field] = value.clone(),
        None => drop(view::remove(to, field)),
    };
    if view::text(before, "volumeName").is_empty() {
        restore(&mut allowed, "volumeName");
    }
    if bound {
        restore(&mut allowed, "volumeAttributesClassName");
        let storage = before.pointer("/resources/requests/storage");
        if let (Some(storage), Some(now)) = (storage, allowed.pointer_mut("/resources/requests/storage")) {
            *now = storage.clone();
        }
    }
    if class(new, old, errors) {
        restore(&mut allowed, "storageClassName");
    }
    if &allowed != before {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden("spec", detail);
    }
    // What is not there is nothing.
    let size = |amount: Option<&Value>| amount.and_then(view::quantity).unwrap_or(Quantity::ZERO);
    let path = "/resources/requests/storage";
    let (now, then) = (size(spec.pointer(path)), size(before.pointer(path)));
    if now < then && now <= size(old.pointer("/status/capacity/storage")) {
        errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
    if view::get(spec, "volumeMode") != view::get(before, "volumeMode") {
        errors.invalid("volumeMode", view::member(spec, "volumeMode"), "field is immutable");
    }
    attributes_class(spec, before, view::member(old, "status"), errors);
}

/// Whether the storage class may be what it is: it may be filled in afterwards, by whoever sets the default class, or move from the annotation
/// it once was to the field. But for that the annotation stays.
fn class(new: &Value, old: &Value, errors: &mut FieldErrors) -> bool {
    let annotation = |object: &Value| {
        let all = view::member(view::member(object, "metadata"), "annotations");
        all.get(CLASS).and_then(Value::as_str).map(str::to_owned)
    };
    let (now, then) = (annotation(new), annotation(old));
    let field = view::get(view::member(new, "spec"), "storageClassName").and_then(Value::as_str);
    let was_empty = view::get(view::member(old, "spec"), "storageClassName").is_none();
    let moves = was_empty && then.is_some() && field == then.as_deref() && (now.is_none() || now == then);
    if !moves && now.as_deref().unwrap_or_default() != then.as_deref().unwrap_or_default() {
        let path = format!("metadata.annotations.{CLASS}");
        errors.invalid(path, view::quoted(now.as_deref().unwrap_or_default()), "field is immutable");
    }
    was_empty && (then.is_none() || field == then.as_deref())
}

/// A class of attributes that a volume has may be replaced and not taken away.
fn attributes_class(spec: &Value, before: &Value, status: &Value, errors: &mut FieldErrors) {
    let field = "volumeAttributesClassName";
    let now = view::get(spec, field);
    if now == view::get(before, field) || view::get(status, "currentVolumeAttributesClassName").is_none() {
        return;
    }
    let to = match now {
        None => "nil",
        Some(class) if class == "" => "empty string",
        Some(_) => return,
    };
    let detail = format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
    errors.forbidden(format!("spec.{field}"), &detail);
}
