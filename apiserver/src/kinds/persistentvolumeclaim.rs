//! Persistent volumes and claims (upstream `apis/core/validation`, `ValidatePersistentVolume…`).

use coracle_schema::{FieldErrors, Quantity, name, selector};
use serde_json::{Value, json};

use super::{resources, scheduling, view};
use crate::registry::{Object, Part, Rules};

/// Rules of `persistentvolumeclaims`.
pub(super) struct PersistentVolumeClaim;
/// Rules of `persistentvolumes`.
pub(super) struct PersistentVolume;

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
        errors.invalid(path, view::quoted(&format!("{path}.dataSource")), "must match dataSourceRef");
    }
}

fn access_modes(spec: &Value, missing: &str, path: &str, errors: &mut FieldErrors) {
    let modes = view::list(spec, "accessModes");
    if modes.is_empty() {
        errors.required(format!("{path}.accessModes"), missing);
    }
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
    fn default(&self, object: &mut Object) {
        // Each of the two fields stands for the other; volumes of other namespaces have only the newer.
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        for (from, to) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
            if let Some(source) = view::get(spec, from).cloned() {
                view::set_absent(spec, to, source);
            }
        }
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>) {
        if old.is_none() {
            new.value_mut()["status"] = json!({"phase": "Pending"});
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        spec(view::member(new.value(), "spec"), "spec", &mut errors);
        if let Some(old) = old {
            claim_update(new.value(), old.value(), &mut errors);
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("name", view::text(view::member(object, "metadata"), "name").to_owned())]
    }
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

/// Members of a volume's spec that are no source.
const NO_SOURCE: &[&str] = &[
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

/// The sources of a volume: exactly one in a valid one.
fn sources(spec: &Value) -> Vec<(&String, &Value)> {
    spec.as_object().into_iter().flatten().filter(|(name, v)| !NO_SOURCE.contains(&name.as_str()) && !v.is_null()).collect()
}

impl Rules for PersistentVolume {
    fn default(&self, object: &mut Object) {
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        if view::text(spec, "persistentVolumeReclaimPolicy").is_empty() {
            spec["persistentVolumeReclaimPolicy"] = "Retain".into();
        }
        view::set_absent(spec, "volumeMode", "Filesystem");
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>) {
        if old.is_none() {
            new.value_mut()["status"] = json!({"phase": "Pending"});
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        access_modes(spec, "", "spec", &mut errors);
        capacity(spec, &mut errors);
        let found = sources(spec);
        for (name, _) in found.iter().skip(1) {
            errors.forbidden(format!("spec.{name}"), "may not specify more than 1 volume type");
        }
        if found.is_empty() {
            errors.required("spec", "must specify a volume type");
        }
        if let Some((_, source)) = found.first().filter(|(name, _)| ["hostPath", "local"].contains(&name.as_str()))
            && view::text(source, "path").is_empty()
        {
            errors.required(format!("spec.{}.path", found[0].0), "");
        }
        match view::get(spec, "nodeAffinity").and_then(|a| view::get(a, "required")) {
            Some(required) => scheduling::node_selector(required, "spec.nodeAffinity.required", &mut errors),
            None if view::get(spec, "local").is_some() => errors.required("spec.nodeAffinity", "Local volume requires node affinity"),
            None => {}
        }
        let class = view::text(spec, "storageClassName");
        if !class.is_empty() {
            errors.invalid_each("spec.storageClassName", class, name::subdomain(class));
        }
        if let Some(old) = old {
            let before = view::member(old.value(), "spec");
            if sources(before) != found {
                errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
            }
            if view::get(before, "volumeMode") != view::get(spec, "volumeMode") {
                errors.invalid("volumeMode", view::member(spec, "volumeMode"), "field is immutable");
            }
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("name", view::text(view::member(object, "metadata"), "name").to_owned())]
    }
}

fn capacity(spec: &Value, errors: &mut FieldErrors) {
    let capacity = view::map(spec, "capacity");
    if capacity.is_empty() {
        errors.required("spec.capacity", "");
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        errors.not_supported("spec.capacity", view::member(spec, "capacity"), &["storage"]);
    }
    for (resource, amount) in capacity {
        if view::quantity(amount).is_some_and(|q| q <= Quantity::ZERO) {
            errors.invalid(format!("spec.capacity[{resource}]"), amount, "must be greater than zero");
        }
    }
}

/// Rules of `storageclasses`.
pub(super) struct StorageClass;

impl Rules for StorageClass {
    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let class = new.value();
        let provisioner = view::text(class, "provisioner");
        if !provisioner.is_empty() {
            errors.invalid_each("provisioner", provisioner, name::qualified(&provisioner.to_lowercase()));
        }
        for key in view::map(class, "parameters").keys().filter(|key| key.is_empty()) {
            errors.invalid("parameters", view::quoted(key), "field must not be empty.");
        }
        if let Some(old) = old {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                let (now, then) = (view::get(class, field), view::get(old.value(), field));
                if now != then {
                    errors.invalid(field, now.unwrap_or(&Value::Null), "field is immutable");
                }
            }
        }
        errors
    }
}
