//! Persistent volumes (upstream `apis/core/validation`, `ValidatePersistentVolume…`).

use coracle_schema::{FieldErrors, Quantity, name};
use coracle_tree::{Value, json};

use super::{
    persistentvolumeclaim::{MODES, access_modes},
    scheduling, view, volume_source,
};
use crate::registry::{Object, Part, Rules};

/// Rules of `persistentvolumes`.
pub(super) struct PersistentVolume;

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

    fn note_time(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>, now: &str) {
        let phase = |object: &Object| object.text("/status/phase").to_owned();
        let time = |object: &Object| object.text("/status/lastPhaseTransitionTime").to_owned();
        let moved = match old {
            None => true,
            // Who moves the phase may say when.
            Some(old) => part == Part::Status && phase(old) != phase(new) && (time(new).is_empty() || time(new) == time(old)),
        };
        if let Some(old) =
            old.filter(|old| part == Part::Status && phase(old) == phase(new) && time(new).is_empty() && !time(old).is_empty())
        {
            new.member_mut("status").insert("lastPhaseTransitionTime", time(old).into());
        }
        if moved {
            new.member_mut("status").insert("lastPhaseTransitionTime", now.into());
        }
    }

    fn unheard(&self) -> &'static [&'static str] {
        &[
            "spec.accessModes",
            "spec.capacity",
            "spec.gcePersistentDisk.pdName",
            "spec.nodeAffinity.required.nodeSelectorTerms.matchExpressions.operator",
            "spec.nodeAffinity.required.nodeSelectorTerms.matchFields.operator",
        ]
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.accessModes",
            "spec.capacity",
            "spec.persistentVolumeReclaimPolicy",
            "spec.nodeAffinity",
            "spec.hostPath",
            "spec.gcePersistentDisk",
            "spec.persistentDisk",
            "spec.awsElasticBlockStore",
            "spec.glusterfs",
            "spec.flocker",
            "spec.nfs",
            "spec.rbd",
            "spec.quobyte",
            "spec.cephfs",
            "spec.cephFS",
            "spec.iscsi",
            "spec.cinder",
            "spec.fc",
            "spec.flexVolume",
            "spec.azureFile",
            "spec.vsphereVolume",
            "spec.photonPersistentDisk",
            "spec.portworxVolume",
            "spec.azureDisk",
            "spec.scaleIO",
            "spec.local",
            "spec.storageos",
            "spec.volumeAttributesClassName",
            "spec.csi",
            "spec.",
        ]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        check(view::member(new.value(), "spec"), Some(new.name()), "spec", &mut errors);
        errors
    }

    fn passed_over(&self, new: &Object, _: Option<&Object>) -> Vec<String> {
        let given = volume_source::given(view::member(new.value(), "spec"), volume_source::PERSISTENT);
        given.into_iter().skip(1).filter(|(kind, _)| *kind != "flexVolume").map(|(kind, _)| format!("spec.{kind}")).collect()
    }

    fn immutable(&self, new: &Object, old: &Object, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let (spec, before) = (view::member(new.value(), "spec"), view::member(old.value(), "spec"));
        if !same_source(spec, before) {
            errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
        }
        let field = |spec, name| view::get(spec, name);
        if field(before, "volumeMode") != field(spec, "volumeMode") {
            errors.invalid("volumeMode", view::member(spec, "volumeMode"), "field is immutable");
        }
        if let Some(then) = field(before, "nodeAffinity")
            && field(spec, "nodeAffinity").is_none_or(|now| now != then && *now != with_stable_labels(then, now))
        {
            let detail = "field is immutable, except for updating from beta label to GA";
            errors.invalid("nodeAffinity", view::member(spec, "nodeAffinity"), detail);
        }
        if field(before, "volumeAttributesClassName").is_some() && field(spec, "volumeAttributesClassName").is_none() {
            errors.forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden");
        }
        errors
    }
}

/// Checks a volume's spec; `name` is the volume's, `None` for what is attached without one.
pub(super) fn check(spec: &Value, name: Option<&str>, path: &str, errors: &mut FieldErrors) {
    if name.is_none() {
        only_inline(spec, path, errors);
    }
    access_modes(spec, "", path, errors);
    for mode in view::texts(spec, "accessModes").filter(|mode| !MODES.contains(mode)) {
        errors.not_supported(format!("{path}.accessModes"), view::quoted(mode), MODES);
    }
    if name.is_some() {
        capacity(spec, path, errors);
    }
    let found = volume_source::given(spec, volume_source::PERSISTENT);
    for (at, (kind, source)) in found.iter().enumerate() {
        // Upstream does not count a flexible volume.
        if at > 0 && *kind != "flexVolume" {
            volume_source::refuse_more(kind, &path, errors);
        } else {
            volume_source(kind, source, name.unwrap_or_default(), path, errors);
        }
    }
    if found.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    let root = view::get(spec, "hostPath").is_some_and(|host| is_root(view::text(host, "path")));
    if root && view::text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        errors.forbidden(format!("{path}.persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    if name.is_some() {
        let is_local = found.first().is_some_and(|(kind, _)| *kind == "local");
        node_affinity(spec, is_local, &format!("{path}.nodeAffinity"), errors);
        let class = view::text(spec, "storageClassName");
        if !class.is_empty() {
            errors.invalid_each(&format!("{path}.storageClassName"), class, name::subdomain(class));
        }
    }
    attributes_class(spec, path, errors);
}

/// What only volumes with an object of their own have.
fn only_inline(spec: &Value, path: &str, errors: &mut FieldErrors) {
    const NOT_HERE: &str = "may not be specified in the context of inline volumes";
    let set = |field: &str| match view::get(spec, field) {
        Some(Value::Object(members)) if field == "capacity" => !members.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        other => other.is_some(),
    };
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"].into_iter().filter(|field| set(field)) {
        errors.forbidden(format!("{path}.{field}"), NOT_HERE);
    }
    if view::get(spec, "csi").is_none() {
        errors.required(format!("{path}.csi"), "has to be specified in the context of inline volumes");
    }
    if !["", "Retain"].contains(&view::text(spec, "persistentVolumeReclaimPolicy")) {
        errors.forbidden(format!("{path}.persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes");
    }
    if !["", "Filesystem"].contains(&view::text(spec, "volumeMode")) {
        let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(format!("{path}.volumeMode"), detail);
    }
}

/// Whether a path comes to `/` once it is cleaned.
fn is_root(path: &str) -> bool {
    let mut depth = 0_u32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn node_affinity(spec: &Value, is_local: bool, path: &str, errors: &mut FieldErrors) {
    match view::get(spec, "nodeAffinity").map(|affinity| view::get(affinity, "required")) {
        Some(Some(required)) => scheduling::node_selector(required, &format!("{path}.required"), errors),
        Some(None) => errors.required(format!("{path}.required"), "must specify required node constraints"),
        None if is_local => errors.required(path, "Local volume requires node affinity"),
        None => {}
    }
}

fn attributes_class(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(class) = view::get(spec, "volumeAttributesClassName").and_then(Value::as_str) else { return };
    let field = format!("{path}.volumeAttributesClassName");
    if class.is_empty() {
        errors.required(field, "an empty string is disallowed");
    } else {
        errors.invalid_each(&field, class, name::subdomain(class));
    }
    if view::get(spec, "csi").is_none() {
        errors.required(format!("{path}.csi"), "has to be specified when using volumeAttributesClassName");
    }
}

/// Labels of nodes by their beta names, and by those they have had since.
const STABLE_LABELS: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Whether the source is the one it was; a secret to expand the volume with may be added.
fn same_source(spec: &Value, before: &Value) -> bool {
    const SECRET: &str = "controllerExpandSecretRef";
    let sources = |spec| volume_source::given(spec, volume_source::PERSISTENT);
    let (now, then) = (sources(spec), sources(before));
    let added = |(kind, source): &(&str, &Value)| *kind == "csi" && view::get(source, SECRET).is_some();
    let lacked = |(kind, source): &(&str, &Value)| *kind == "csi" && view::get(source, SECRET).is_none();
    if !now.iter().any(added) || !then.iter().any(lacked) {
        return now == then;
    }
    let without = |(kind, source): &(&'static str, &Value)| {
        let mut source = (*source).clone();
        if *kind == "csi" {
            view::remove(&mut source, SECRET);
        }
        (*kind, source)
    };
    now.iter().map(without).eq(then.iter().map(without))
}

/// The same affinity with the names that labels have today, where `now` has them. To upstream no name is the new one of every label that
/// has none, too: it says elsewhere that a name is needed.
fn with_stable_labels(then: &Value, now: &Value) -> Value {
    let mut then = then.clone();
    let names: Vec<&str> = requirements(now).map(|requirement| view::text(requirement, "key")).collect();
    let terms = then.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut).into_iter().flatten();
    let lists = terms.filter_map(Value::as_object_mut).flat_map(|term| term.iter_mut());
    let old = lists.filter(|(list, _)| REQUIREMENTS.contains(&list.as_str())).filter_map(|(_, list)| list.as_array_mut()).flatten();
    for (requirement, name) in old.zip(names) {
        let stable = STABLE_LABELS.iter().find(|(beta, _)| *beta == view::text(requirement, "key")).map_or("", |(_, stable)| *stable);
        if stable == name && view::text(requirement, "key") != name {
            requirement["key"] = name.into();
        }
    }
    then
}

const REQUIREMENTS: [&str; 2] = ["matchExpressions", "matchFields"];

/// All requirements of an affinity, list after list of each term.
fn requirements(affinity: &Value) -> impl Iterator<Item = &Value> {
    let terms = affinity.pointer("/required/nodeSelectorTerms").and_then(Value::as_array).into_iter().flatten();
    terms.flat_map(|term| REQUIREMENTS.iter().flat_map(|list| view::list(term, list)))
}

/// Checks a source; `volume` is the volume's name, `path` that of its spec.
fn volume_source(kind: &str, source: &Value, volume: &str, path: &str, errors: &mut FieldErrors) {
    let path = format!("{path}.{}", volume_source::called(kind));
    volume_source::check(kind, source, &path, errors);
    let needed: &[&str] = match kind {
        "csi" => &["driver", "volumeHandle"],
        "iscsi" => &["targetPortal", "iqn"],
        _ => &[],
    };
    for field in needed.iter().filter(|field| view::text(source, field).is_empty()) {
        errors.required(format!("{path}.{field}"), "");
    }
    match kind {
        "iscsi" => iscsi(source, volume, &path, errors),
        "csi" => csi(source, &path, errors),
        _ => {}
    }
}

fn iscsi(source: &Value, volume: &str, path: &str, errors: &mut FieldErrors) {
    let portal = view::text(source, "targetPortal");
    if view::get(source, "initiatorName").is_some() && volume.len() + 1 + portal.len() > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(format!("{path}.targetportal"), view::quoted(portal), detail);
    }
    // iqn.2001-04.com.example:…, eui.…, naa.…
    let valid = |iqn: &str| ["iqn.", "eui.", "naa."].iter().any(|form| iqn.starts_with(form));
    let iqn = view::text(source, "iqn");
    if !iqn.is_empty() && !valid(iqn) {
        errors.invalid(format!("{path}.iqn"), view::quoted(iqn), "must be valid format");
    }
    let lun = view::int(source, "lun").unwrap_or_default();
    if !(0..=255).contains(&lun) {
        errors.invalid(format!("{path}.lun"), lun, "must be between 0 and 255, inclusive");
    }
    let secret = view::get(source, "secretRef");
    if secret.is_none() && (view::flag(source, "chapAuthDiscovery") || view::flag(source, "chapAuthSession")) {
        errors.required(format!("{path}.secretRef"), "");
    }
    if secret.is_some_and(|secret| view::text(secret, "name").is_empty()) {
        errors.required(format!("{path}.secretRef.name"), "");
    }
    if let Some(initiator) = view::get(source, "initiatorName").and_then(Value::as_str).filter(|name| !valid(name)) {
        errors.invalid(format!("{path}.initiatorname"), view::quoted(initiator), "must be valid format");
    }
}

fn csi(source: &Value, path: &str, errors: &mut FieldErrors) {
    let driver = view::text(source, "driver");
    if !driver.is_empty() {
        csi_driver_name(driver, &format!("{path}.driver"), errors);
    }
    for field in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        let Some(secret) = view::get(source, field) else { continue };
        for (part, rule) in [("name", name::subdomain as fn(&str) -> Vec<String>), ("namespace", name::label)] {
            let (path, text) = (format!("{path}.{field}.{part}"), view::text(secret, part));
            if text.is_empty() {
                errors.required(path, "");
            } else {
                errors.invalid_each(&path, text, rule(text));
            }
        }
    }
}

/// A driver's name that is there (`ValidateCSIDriverName`).
pub(super) fn csi_driver_name(driver: &str, path: &str, errors: &mut FieldErrors) {
    if driver.len() > name::LABEL_MAX {
        errors.too_long(path, name::LABEL_MAX as u64, "byte");
    }
    errors.invalid_each(path, driver, name::subdomain(&driver.to_lowercase()));
}

fn capacity(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let path = format!("{path}.capacity");
    let capacity = view::map(spec, "capacity");
    if capacity.is_empty() {
        errors.required(path.as_str(), "");
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        let shown = view::member(spec, "capacity");
        errors.not_supported(path.as_str(), shown, &["storage"]);
    }
    for (resource, amount) in capacity {
        let path = format!("{path}[{resource}]");
        if view::quantity(amount).is_some_and(Quantity::is_negative) {
            // Said once more, about the number of bytes.
            errors.invalid(path.as_str(), view::quantity(amount).map_or(0, Quantity::value), "must be a valid resource quantity");
        }
        if view::quantity(amount).is_some_and(|q| q <= Quantity::ZERO) {
            errors.invalid(path, amount, "must be greater than zero");
        }
    }
}
