//! Checks of a pod's volumes (upstream `ValidateVolumes`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, Quantity, name};
use coracle_tree::Value;

use super::{container::descending, field_ref};
use crate::kinds::{certificates, persistentvolumeclaim, view, volume_source};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes; answers those that are fine, which mounts may refer to.
pub(super) fn check<'v>(spec: &'v Value, pod_name: &str, path: view::At<'_>, errors: &mut FieldErrors) -> Vec<&'v Value> {
    let mut names = HashSet::new();
    let mut fine = Vec::new();
    let volumes = view::list(spec, "volumes");
    let made = |claim: &str| {
        volumes.iter().any(|v| view::get(v, "ephemeral").is_some() && claim == format!("{pod_name}-{}", view::text(v, "name")))
    };
    for (at, volume) in volumes.iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        let mut found = FieldErrors::none();
        sources(volume, pod_name, &path, &mut found);
        let name = view::text(volume, "name");
        if name.is_empty() {
            found.required(format!("{path}.name"), "");
        } else {
            found.invalid_each(&format_args!("{path}.name"), name, name::label(name));
        }
        if names.contains(name) {
            found.duplicate(format!("{path}.name"), view::quoted(name));
        }
        if found.is_empty() {
            names.insert(name);
            fine.push(volume);
        }
        errors.extend(found);
        let claim = view::text(view::member(volume, "persistentVolumeClaim"), "claimName");
        if !pod_name.is_empty() && !claim.is_empty() && made(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(format_args!("{path}.persistentVolumeClaim.claimName"), view::quoted(claim), detail);
        }
    }
    fine
}

fn sources(volume: &Value, pod_name: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    let given = volume_source::given(volume, volume_source::OF_POD);
    if given.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for (at, (kind, source)) in given.into_iter().enumerate() {
        if at > 0 {
            volume_source::refuse_more(kind, path, errors);
            continue;
        }
        source_of(kind, source, &format_args!("{path}.{}", volume_source::called(kind)), errors);
        if kind == "ephemeral" && !pod_name.is_empty() {
            let name = view::text(volume, "name");
            let claim = format!("{pod_name}-{name}");
            for message in name::subdomain(&claim) {
                errors.invalid(format_args!("{path}.name"), view::quoted(name), &format!("PVC name {claim:?}: {message}"));
            }
        }
    }
}

fn source_of(kind: &str, source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    volume_source::check(kind, source, path, errors);
    let required: &[&str] = match kind {
        "persistentVolumeClaim" => &["claimName"],
        "csi" => &["driver"],
        "iscsi" => &["targetPortal", "iqn"],
        "gitRepo" => &["repository"],
        _ => &[],
    };
    for field in required.iter().filter(|field| view::text(source, field).is_empty()) {
        errors.required(format_args!("{path}.{field}"), "");
    }
    match kind {
        "emptyDir" if view::quantity(view::member(source, "sizeLimit")).is_some_and(Quantity::is_negative) => {
            errors.forbidden(format_args!("{path}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "secret" | "configMap" => {
            let name = if kind == "secret" { "secretName" } else { "name" };
            if view::text(source, name).is_empty() {
                errors.required(format_args!("{path}.{name}"), "");
            }
            mode(source, "defaultMode", path, errors);
            items(source, path, errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            view::list(source, "items").iter().for_each(|file| downward_file(file, path, errors));
        }
        "projected" => {
            mode(source, "defaultMode", path, errors);
            projected(source, path, errors);
        }
        "ephemeral" => match view::get(source, "volumeClaimTemplate") {
            Some(template) => {
                let path = format_args!("{path}.volumeClaimTemplate.spec");
                persistentvolumeclaim::spec(
                    view::member(template, "spec"),
                    persistentvolumeclaim::Groups::Valid,
                    &path.to_string(),
                    errors,
                );
            }
            None => errors.required(format_args!("{path}.volumeClaimTemplate"), ""),
        },
        _ => {}
    }
}

fn mode(holder: &Value, field: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = view::int(holder, field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(format_args!("{path}.{field}"), mode, MODE);
    }
}

fn items(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    for (at, item) in view::list(source, "items").iter().enumerate() {
        let path = format_args!("{path}.items[{at}]");
        if view::text(item, "key").is_empty() {
            errors.required(format_args!("{path}.key"), "");
        }
        file_path(view::text(item, "path"), &format_args!("{path}.path"), errors);
        mode(item, "mode", &path, errors);
    }
}

fn file_path(text: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    if text.is_empty() {
        errors.required(path, "");
    }
    local_path(text, path, errors);
}

fn local_path(text: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    descending(text, path, errors);
    if text.starts_with("..") && text != ".." && !text.starts_with("../") {
        errors.invalid(path, view::quoted(text), "must not start with '..'");
    }
}

fn downward_file(file: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    file_path(view::text(file, "path"), &format_args!("{path}.path"), errors);
    match (view::get(file, "fieldRef"), view::get(file, "resourceFieldRef")) {
        (Some(field), other) => {
            field_ref::field(field, field_ref::VOLUME, &format_args!("{path}.fieldRef"), errors);
            if other.is_some() {
                errors.invalid(path, "\"resource\"", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => field_ref::resource(resource, true, &format_args!("{path}.resourceFieldRef"), errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode", path, errors);
}

fn projected<'v>(volume: &'v Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut paths: HashSet<&'v str> = HashSet::new();
    for (at, source) in view::list(volume, "sources").iter().enumerate() {
        let item = format_args!("{path}.sources[{at}]");
        let kinds: Vec<&str> =
            source.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(kind, _)| kind.as_str()).collect();
        if kinds.len() > 1 {
            errors.forbidden(item, "may not specify more than 1 volume type");
        }
        for kind in kinds {
            let below = format_args!("{item}.{kind}");
            let inner = view::member(source, kind);
            match kind {
                "secret" | "configMap" => {
                    if view::text(inner, "name").is_empty() {
                        errors.required(format_args!("{below}.name"), "");
                    }
                    items(inner, &below, errors);
                }
                "downwardAPI" => view::list(inner, "items").iter().for_each(|file| downward_file(file, &below, errors)),
                "serviceAccountToken" => token(inner, &below, path, errors),
                "clusterTrustBundle" => trust_bundle(inner, &below, errors),
                "podCertificate" => pod_certificate(inner, &below, errors),
                _ => {}
            }
            let single = ["path", "credentialBundlePath", "keyPath", "certificateChainPath"].map(|field| view::text(inner, field));
            let own = view::list(inner, "items").iter().map(|i| view::text(i, "path")).chain(single);
            for text in own.filter(|text| !text.is_empty()) {
                if !paths.insert(text) {
                    let name = view::text(inner, "name");
                    errors.invalid(path, view::quoted(if name.is_empty() { text } else { name }), "conflicting duplicate paths");
                }
            }
        }
    }
}

fn token(source: &Value, path: view::At<'_>, volume: view::At<'_>, errors: &mut FieldErrors) {
    match view::int(source, "expirationSeconds") {
        None => errors.required(format_args!("{path}.expirationSeconds"), ""),
        Some(seconds) if seconds < 600 => {
            errors.invalid(format_args!("{path}.expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
        }
        Some(seconds) if seconds > 1 << 32 => {
            errors.invalid(format_args!("{path}.expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
        }
        Some(_) => {}
    }
    // Upstream names the volume's path here, not the source's.
    file_path(view::text(source, "path"), &format!("{volume}.path"), errors);
}

const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
/// Longest life of a pod's certificate, in seconds: 91 days, and one day from Kubernetes' own signers.
const LONGEST_LIFE: i64 = 91 * 24 * 3600;
const LONGEST_KUBERNETES_LIFE: i64 = 24 * 3600;

fn pod_certificate(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let signer = view::text(source, "signerName");
    certificates::signer_name(signer, &format!("{path}.signerName"), errors);
    for key in view::map(source, "userAnnotations").keys() {
        let key = key.to_lowercase();
        let path = format_args!("{path}.userAnnotations");
        if key.contains('/') {
            errors.invalid_each(&path, &key, name::qualified(&key));
        } else {
            errors.invalid(path, view::quoted(&key), "must be a domain-prefixed key (such as \"acme.io/foo\")");
        }
    }
    let key_type = view::text(source, "keyType");
    if !KEY_TYPES.contains(&key_type) {
        errors.not_supported(format_args!("{path}.keyType"), view::quoted(key_type), &KEY_TYPES);
    }
    if let Some(seconds) = view::int(source, "maxExpirationSeconds") {
        let path = format_args!("{path}.maxExpirationSeconds");
        let most = if certificates::is_kubernetes_signer(signer) { LONGEST_KUBERNETES_LIFE } else { LONGEST_LIFE };
        if seconds < 3600 {
            errors.invalid(path, seconds, "if provided, maxExpirationSeconds must be >= 3600");
        }
        if seconds > most {
            errors.invalid(path, seconds, &format!("if provided, maxExpirationSeconds must be <= {most}"));
        }
    }
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    for field in paths.iter().filter(|field| !view::text(source, field).is_empty()) {
        local_path(view::text(source, field), &format_args!("{path}.{field}"), errors);
    }
    if paths.iter().all(|field| view::text(source, field).is_empty()) {
        errors.required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}

fn trust_bundle(source: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    match (view::get(source, "name"), view::get(source, "signerName")) {
        (Some(_), Some(_)) => errors.invalid(path, source, "only one of name and signerName may be used"),
        (None, None) => errors.required(path, "either name or signerName must be specified"),
        _ => {}
    }
    file_path(view::text(source, "path"), &format_args!("{path}.path"), errors);
}
