//! Persistent volumes and claims (upstream `apis/core/validation`, `ValidatePersistentVolume…`).

use coracle_schema::{FieldErrors, Quantity, name, selector};
use serde_json::{Value, json};

use super::{resources, scheduling, view, volume_source};
use crate::registry::{Object, Part, Policy, Rules};

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
        errors.invalid(path, one, "must match dataSourceRef");
    }
}

fn access_modes(spec: &Value, missing: &str, path: &str, errors: &mut FieldErrors) {
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

/// Members of a volume's spec that are no source.
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
            new.member_mut("status").insert("lastPhaseTransitionTime".into(), time(old).into());
        }
        if moved {
            new.member_mut("status").insert("lastPhaseTransitionTime".into(), now.into());
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
            "spec.csi",
            "spec.",
        ]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        access_modes(spec, "", "spec", &mut errors);
        for mode in view::texts(spec, "accessModes").filter(|mode| !MODES.contains(mode)) {
            errors.not_supported("spec.accessModes", view::quoted(mode), MODES);
        }
        capacity(spec, &mut errors);
        let found = volume_source::given(spec, volume_source::PERSISTENT);
        for (at, (kind, source)) in found.iter().enumerate() {
            // Upstream does not count a flexible volume.
            if at > 0 && *kind != "flexVolume" {
                volume_source::refuse_more(kind, "spec", &mut errors);
            } else {
                volume_source(kind, source, new.name(), &mut errors);
            }
        }
        if found.is_empty() {
            errors.required("spec", "must specify a volume type");
        }
        match view::get(spec, "nodeAffinity").map(|affinity| view::get(affinity, "required")) {
            Some(Some(required)) => scheduling::node_selector(required, "spec.nodeAffinity.required", &mut errors),
            Some(None) => errors.required("spec.nodeAffinity.required", "must specify required node constraints"),
            None if found.first().is_some_and(|(name, _)| *name == "local") => {
                errors.required("spec.nodeAffinity", "Local volume requires node affinity");
            }
            None => {}
        }
        let class = view::text(spec, "storageClassName");
        if !class.is_empty() {
            errors.invalid_each("spec.storageClassName", class, name::subdomain(class));
        }
        let attributes = view::text(spec, "volumeAttributesClassName");
        if !attributes.is_empty() {
            errors.invalid_each("spec.volumeAttributesClassName", attributes, name::subdomain(attributes));
        }
        if let Some(attributes) = view::get(spec, "volumeAttributesClassName").and_then(Value::as_str) {
            if attributes.is_empty() {
                errors.required("spec.volumeAttributesClassName", "an empty string is disallowed");
            }
            if view::get(spec, "csi").is_none() {
                errors.required("spec.csi", "has to be specified when using volumeAttributesClassName");
            }
        }
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
        let sources = |spec| volume_source::given(spec, volume_source::PERSISTENT);
        if sources(before) != sources(spec) {
            errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
        }
        let field = |spec, name| view::get(spec, name);
        if field(before, "volumeMode") != field(spec, "volumeMode") {
            errors.invalid("volumeMode", view::member(spec, "volumeMode"), "field is immutable");
        }
        if let Some(then) = field(before, "nodeAffinity")
            && field(spec, "nodeAffinity").is_none_or(|now| now != then && *now != with_stable_labels(then))
        {
            let detail = "field is immutable, except for updating from beta label to GA";
            errors.invalid("nodeAffinity", view::member(spec, "nodeAffinity"), detail);
        }
        errors
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

/// The same affinity with the names that labels have today.
fn with_stable_labels(affinity: &Value) -> Value {
    let mut affinity = affinity.clone();
    let terms = affinity.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for expression in terms.into_iter().flatten().flat_map(|term| view::items_mut(term, "matchExpressions")) {
        if let Some((_, stable)) = STABLE_LABELS.iter().find(|(beta, _)| *beta == view::text(expression, "key")) {
            expression["key"] = (*stable).into();
        }
    }
    affinity
}

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Checks a source; `volume` is the volume's name.
fn volume_source(kind: &str, source: &Value, volume: &str, errors: &mut FieldErrors) {
    let path = volume_source::path_of(kind, "spec");
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
        errors.invalid_each(&format!("{path}.driver"), driver, name::subdomain(&driver.to_lowercase()));
        if driver.len() > name::LABEL_MAX {
            errors.too_long(format!("{path}.driver"), name::LABEL_MAX as u64, "byte");
        }
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

fn capacity(spec: &Value, errors: &mut FieldErrors) {
    let capacity = view::map(spec, "capacity");
    if capacity.is_empty() {
        errors.required("spec.capacity", "");
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        let shown = if capacity.is_empty() { Value::Null } else { Value::Object(capacity.clone()) };
        errors.not_supported("spec.capacity", shown, &["storage"]);
    }
    for (resource, amount) in capacity {
        let path = format!("spec.capacity[{resource}]");
        if view::quantity(amount).is_some_and(Quantity::is_negative) {
            // Said once more, about the number of bytes.
            errors.invalid(path.as_str(), view::quantity(amount).map_or(0, Quantity::value), "must be a valid resource quantity");
        }
        if view::quantity(amount).is_some_and(|q| q <= Quantity::ZERO) {
            errors.invalid(path, amount, "must be greater than zero");
        }
    }
}

/// Rules of `storageclasses`.
pub(super) struct StorageClass;

/// Rules of `csidrivers`.
pub(super) struct CsiDriver;

impl Rules for CsiDriver {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let spec = view::member(new.value(), "spec");
        let requests = |of: &Value| view::list(of, "tokenRequests").to_vec();
        let same = old.is_some_and(|old| requests(view::member(old.value(), "spec")) == requests(spec));
        if same || requests(spec).is_empty() || view::get(spec, "serviceAccountTokenInSecrets").is_some() {
            return Vec::new();
        }
        let text = "if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        vec![format!("spec.serviceAccountTokenInSecrets is unset; {text}")]
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.volumeLifecycleModes"]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        if let Some(policy) = view::get(spec, "fsGroupPolicy").and_then(Value::as_str)
            && !["File", "None", "ReadWriteOnceWithFSType"].contains(&policy)
        {
            errors.not_supported("spec.fsGroupPolicy", view::quoted(policy), &["File", "None", "ReadWriteOnceWithFSType"]);
        }
        let mut audiences = std::collections::HashSet::new();
        for (at, request) in view::list(spec, "tokenRequests").iter().enumerate() {
            let path = format!("spec.tokenRequests[{at}]");
            let audience = view::text(request, "audience");
            if !audiences.insert(audience) {
                errors.duplicate(format!("{path}.audience"), view::quoted(audience));
                continue;
            }
            let path = format!("{path}.expirationSeconds");
            match view::int(request, "expirationSeconds") {
                Some(seconds) if seconds < 600 => errors.invalid(path, seconds, "may not specify a duration less than 10 minutes"),
                Some(seconds) if seconds > 1 << 32 => errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"),
                _ => {}
            }
        }
        for mode in view::texts(spec, "volumeLifecycleModes").filter(|mode| !["Persistent", "Ephemeral"].contains(mode)) {
            errors.not_supported("spec.volumeLifecycleModes", view::quoted(mode), &["Persistent", "Ephemeral"]);
        }
        if let Some(seconds) = view::int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|seconds| *seconds < 10) {
            errors.invalid("spec.nodeAllocatableUpdatePeriodSeconds", seconds, "must be greater than or equal to 10 seconds");
        }
        if let Some(secret) = view::get(spec, "serviceAccountTokenInSecrets").filter(|_| view::list(spec, "tokenRequests").is_empty()) {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.invalid("spec.serviceAccountTokenInSecrets", secret, detail);
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let (spec, before) = (view::member(new.value(), "spec"), view::member(old.value(), "spec"));
        for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
            if view::get(spec, field) != view::get(before, field) {
                errors.invalid(format!("spec.{shown}"), view::member(spec, field), "field is immutable");
            }
        }
        errors
    }
}

/// Where volumes of a class may be (`ValidateTopologySelectorTerm`).
fn topologies(class: &Value, errors: &mut FieldErrors) {
    let mut terms: Vec<std::collections::BTreeMap<&str, std::collections::BTreeSet<&str>>> = Vec::new();
    for (at, term) in view::list(class, "allowedTopologies").iter().enumerate() {
        let path = format!("allowedTopologies[{at}].matchLabelExpressions");
        let mut keys = std::collections::BTreeMap::new();
        for (at, expression) in view::list(term, "matchLabelExpressions").iter().enumerate() {
            let path = format!("{path}[{at}]");
            let mut values = std::collections::BTreeSet::new();
            if view::list(expression, "values").is_empty() {
                errors.required(format!("{path}.values"), "");
            }
            for (at, value) in view::texts(expression, "values").enumerate() {
                if !values.insert(value) {
                    errors.duplicate(format!("{path}.values[{at}]"), view::quoted(value));
                }
            }
            let key = view::text(expression, "key");
            errors.invalid_each(&format!("{path}.key"), key, name::qualified(key));
            if keys.insert(key, values).is_some() {
                errors.duplicate(format!("{path}.key"), view::quoted(key));
            }
        }
        // A term without expressions equals the nothing upstream begins with.
        if keys.is_empty() || terms.contains(&keys) {
            errors.duplicate(path, "\"\"");
        }
        terms.push(keys);
    }
}

impl Rules for StorageClass {
    fn unheard(&self) -> &'static [&'static str] {
        &["allowedTopologies.matchLabelExpressions.key", "allowedTopologies.matchLabelExpressions.values", "reclaimPolicy"]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let class = new.value();
        let provisioner = view::text(class, "provisioner");
        if !provisioner.is_empty() {
            errors.invalid_each("provisioner", provisioner, name::qualified(&provisioner.to_lowercase()));
        }
        for key in view::map(class, "parameters").keys().filter(|key| key.is_empty()) {
            errors.invalid("parameters", view::quoted(key), "field can not be empty.");
        }
        let policy = view::text(class, "reclaimPolicy");
        if !["", "Delete", "Retain"].contains(&policy) {
            errors.not_supported("reclaimPolicy", view::quoted(policy), &["Delete", "Retain"]);
        }
        topologies(class, &mut errors);
        if let Some(old) = old {
            for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                // Upstream does not show what was sent.
                if view::get(class, field) != view::get(old.value(), field) {
                    errors.invalid(field, Value::Null, "field is immutable");
                }
            }
        }
        errors
    }
}
