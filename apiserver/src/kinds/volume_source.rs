//! The one source of a volume, in pods and in persistent volumes: which comes first where there are many, and what those of storage
//! systems outside the cluster must have (upstream `validateVolumeSource`, `ValidatePersistentVolumeSpec`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::view;

/// The sources of a pod's volume, in the order upstream looks for them.
pub(super) const OF_POD: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The sources of a persistent volume, in that order.
pub(super) const PERSISTENT: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The sources that are there, in `order`; exactly one in a valid volume.
pub(super) fn given<'v>(volume: &'v Value, order: &[&'static str]) -> Vec<(&'static str, &'v Value)> {
    let members = volume.as_object().into_iter().flatten().filter(|(_, source)| !source.is_null());
    let mut found: Vec<_> = members.filter_map(|(name, source)| Some((order.iter().position(|kind| kind == name)?, source))).collect();
    found.sort_unstable_by_key(|(at, _)| *at);
    found.into_iter().map(|(at, source)| (order[at], source)).collect()
}

/// Says that a source is one too many, under the name upstream has for it then.
pub(super) fn refuse_more(kind: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    let called = match kind {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        other => other,
    };
    errors.forbidden(format_args!("{path}.{called}"), "may not specify more than 1 volume type");
}

/// What a source is called in the paths of its members.
pub(super) fn called(kind: &str) -> &str {
    if kind == "gcePersistentDisk" { "persistentDisk" } else { kind }
}

/// Members that must be set in a source, by source; of `rbd` and `cephfs` the lists of monitors, too.
const REQUIRED: &[(&str, &[&str])] = &[
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("nfs", &["server", "path"]),
    ("local", &["path"]),
    ("hostPath", &["path"]),
];

/// Checks the sources that are alike in pods and persistent volumes; says nothing of others.
pub(super) fn check(kind: &str, source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let empty = |field: &str| view::text(source, field).is_empty() && view::list(source, field).is_empty();
    let required = REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| *fields);
    for field in required.iter().filter(|field| empty(field)) {
        errors.required(format_args!("{path}.{field}"), "");
    }
    match kind {
        "nfs" => {
            let mount = view::text(source, "path");
            if !mount.starts_with('/') {
                errors.invalid(format_args!("{path}.path"), view::quoted(mount), "must be an absolute path");
            }
        }
        "hostPath" | "local" if view::text(source, "path").split('/').any(|step| step == "..") => {
            errors.invalid(format_args!("{path}.path"), view::quoted(view::text(source, "path")), "must not contain '..'");
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            if let Some(partition) = view::int(source, "partition").filter(|number| !(0..=255).contains(number)) {
                errors.invalid(format_args!("{path}.partition"), partition, "must be between 0 and 255, inclusive");
            }
        }
        "flocker" => flocker(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "storageos" => storage_os(source, path, errors),
        "cinder" => secret(source, path, errors),
        "azureDisk" => azure_disk(source, path, errors),
        _ => {}
    }
}

/// Where a disk is has the form of its kind.
fn azure_disk(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let Some(kind) = view::get(source, "kind").and_then(Value::as_str) else { return };
    let (start, form) = if kind == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    let uri = view::text(source, "diskURI");
    if !uri.starts_with(start) {
        errors.not_supported(format_args!("{path}.diskURI"), view::quoted(uri), &[form]);
    }
}

fn secret(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    if view::get(source, "secretRef").is_some_and(|secret| view::text(secret, "name").is_empty()) {
        errors.required(format_args!("{path}.secretRef.name"), "");
    }
}

fn flocker(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let (name, uuid) = (view::text(source, "datasetName"), view::text(source, "datasetUUID"));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => errors.invalid(path, "\"resource\"", "datasetName and datasetUUID can not be specified simultaneously"),
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(format_args!("{path}.datasetName"), view::quoted(name), "must not contain '/'");
    }
}

fn fibre_channel(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let targets = view::member(source, "targetWWNs");
    let named = !view::list(source, "targetWWNs").is_empty();
    match (named, view::list(source, "wwids").is_empty()) {
        (false, true) => errors.required(format_args!("{path}.targetWWNs"), "must specify either targetWWNs or wwids, but not both"),
        (true, false) => {
            errors.invalid(format_args!("{path}.targetWWNs"), targets, "targetWWNs and wwids can not be specified simultaneously");
        }
        _ => {}
    }
    match view::int(source, "lun") {
        None if named => errors.required(format_args!("{path}.lun"), "lun is required if targetWWNs is specified"),
        Some(lun) if named && !(0..=255).contains(&lun) => {
            errors.invalid(format_args!("{path}.lun"), lun, "must be between 0 and 255, inclusive");
        }
        _ => {}
    }
}

fn quobyte(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = view::text(source, "registry");
    if registry.is_empty() {
        errors.required(format_args!("{path}.registry"), PAIRS);
    } else if view::text(source, "tenant").len() >= 65 {
        errors.required(format_args!("{path}.tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.split(',').filter(|pair| pair.rsplit_once(':').is_none_or(|(host, _)| host.contains(':') && !host.ends_with(']')))
        {
            errors.invalid(format_args!("{path}.registry"), view::quoted(registry), PAIRS);
        }
    }
    if view::text(source, "volume").is_empty() {
        errors.required(format_args!("{path}.volume"), "");
    }
}

fn storage_os(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let (volume, namespace) = (view::text(source, "volumeName"), view::text(source, "volumeNamespace"));
    if volume.is_empty() {
        errors.required(format_args!("{path}.volumeName"), "");
    } else {
        errors.invalid_each(&format!("{path}.volumeName"), volume, name::label(volume));
    }
    if !namespace.is_empty() {
        errors.invalid_each(&format!("{path}.volumeNamespace"), namespace, name::label(namespace));
    }
    secret(source, path, errors);
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn sources_are_looked_for_in_one_order_and_what_is_too_much_has_upstreams_name() {
        let volume = json!({"name": "v", "cephfs": {}, "configMap": {}, "emptyDir": {}});
        let kinds: Vec<&str> = given(&volume, OF_POD).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["emptyDir", "cephfs", "configMap"]);
        let mut errors = FieldErrors::none();
        refuse_more("cephfs", &"spec.volumes[0]", &mut errors);
        assert_eq!(errors.0[0].to_string(), "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type");
    }

    #[test]
    fn a_source_says_what_it_lacks() {
        let said = |kind: &str, source: &Value| {
            let mut errors = FieldErrors::none();
            check(kind, source, &format!("spec.{}", called(kind)), &mut errors);
            errors.0.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        assert_eq!(said("gcePersistentDisk", &json!({"partition": 256})), ["spec.persistentDisk.pdName", "spec.persistentDisk.partition"]);
        assert_eq!(said("nfs", &json!({"server": "s"})), ["spec.nfs.path", "spec.nfs.path"]);
        assert_eq!(said("fc", &json!({"targetWWNs": ["a"], "wwids": ["b"], "lun": 256})), ["spec.fc.targetWWNs", "spec.fc.lun"]);
        assert!(said("rbd", &json!({"monitors": ["m"], "image": "i"})).is_empty());
        assert_eq!(said("quobyte", &json!({"registry": "a:1,b", "volume": "v"})), ["spec.quobyte.registry"]);
    }
}
