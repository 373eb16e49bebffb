//! Persistent volume claims (upstream `apis/core/validation`, `ValidatePersistentVolumeClaim…`).

use coracle_schema::{FieldErrors, Quantity, name, selector};
use serde_json::{Value, json};

use super::{resources, view};
use crate::registry::{Object, Part, Rules};

/// Rules of `persistentvolumeclaims`.
pub(super) struct PersistentVolumeClaim;

/// How a volume may be mounted.
pub(super) const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Checks a claim's spec, in claims and in the templates of them.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
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
            data_source(source, &format!("{path}.{field}"), errors);
        }
    }
    if let (Some(one), Some(other)) = (view::get(spec, "dataSource"), view::get(spec, "dataSourceRef"))
        && ["apiGroup", "kind", "name"].iter().any(|field| view::get(one, field) != view::get(other, field))
    {
        errors.invalid(path, one, "must match dataSourceRef");
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

fn data_source(source: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["name", "kind"] {
        if view::text(source, field).is_empty() {
            errors.required(format!("{path}.{field}"), "");
        }
    }
    let (group, kind) = (view::text(source, "apiGroup"), view::text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, view::quoted(kind), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    } else if !group.is_empty() {
        errors.invalid_each(&format!("{path}.apiGroup"), group, name::subdomain(group));
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
        // Of what the older field names other than claims and snapshots nothing was ever made (`EnforceDataSourceBackwardsCompatibility`).
        let used = old.is_some_and(|old| view::get(view::member(old.value(), "spec"), "dataSource").is_some());
        if let Some(spec) = view::message_mut(new.value_mut(), "spec")
            && !used
            && view::get(spec, "dataSourceRef").is_none()
            && !is_claim_or_snapshot(view::member(spec, "dataSource"))
        {
            view::remove(spec, "dataSource");
        }
        // Each of the two fields stands for the other; volumes of other namespaces have only the newer (`NormalizeDataSources`).
        let Some(spec) = view::message_mut(new.value_mut(), "spec") else { return };
        for (from, to) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
            let source = view::get(spec, from).filter(|source| view::get(source, "namespace").is_none()).cloned();
            if let Some(source) = source {
                view::set_absent(spec, to, source);
            }
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            claim_status(view::member(new.value(), "status"), &mut errors);
            return errors;
        }
        spec(view::member(new.value(), "spec"), "spec", &mut errors);
        if let Some(old) = old {
            claim_update(new.value(), old.value(), &mut errors);
        }
        errors
    }
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
    // A class may be filled in afterwards, by whoever sets the default class.
    if view::get(before, "storageClassName").is_none() {
        restore(&mut allowed, "storageClassName");
    }
    if &allowed != before {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden("spec", detail);
    }
    let size = |v: Option<&Value>| v.and_then(view::quantity);
    let path = "/resources/requests/storage";
    if let (Some(now), Some(then)) = (size(spec.pointer(path)), size(before.pointer(path)))
        && now < then
        && size(old.pointer("/status/capacity/storage")).is_none_or(|has| now <= has)
    {
        errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
}
