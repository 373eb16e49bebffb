//! The pods of a stateful set and their claims.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod as FullPod, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    caches::Caches,
    change::{Change, Note, Tolerate},
    history::HASH_LABEL,
    object::{Object, controller_reference},
    pod::Pod,
};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The set and the number in a pod's name.
pub(super) fn parent(pod: &str) -> Option<(&str, i32)> {
    let (name, number) = pod.rsplit_once('-')?;
    Some((name, number.parse().ok().filter(|number| *number >= 0)?))
}

/// The revision a pod was made from.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.labels().get(HASH_LABEL).map(String::as_str).unwrap_or_default()
}

/// Creations of the claims a pod needs and does not have yet.
pub(super) fn claims(set: &StatefulSet, number: i32, caches: &Caches) -> Vec<Change> {
    let pod = format!("{}-{number}", set.name());
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    let missing = templates.iter().filter_map(|template| {
        let name = format!("{}-{pod}", template.name());
        if caches.claims.get(set.namespace(), &name).is_some() {
            return None;
        }
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(set.namespace().to_owned()),
            labels: Some(labels),
            annotations: template.metadata.annotations.clone(),
            ..ObjectMeta::default()
        };
        let claim = PersistentVolumeClaim { metadata, spec: template.spec.clone(), status: None };
        let made = format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.name());
        let failed = format!("create Claim {name} for Pod {pod} in StatefulSet {} failed error: {{error}}", set.name());
        let change = Change::create(&claim).tolerate(Tolerate::AlreadyExists);
        Some(change.on_success(Note::normal(set, "SuccessfulCreate", made)).on_failure(Note::warning(set, "FailedCreate", failed)))
    });
    missing.collect()
}

/// The creation of the pod with this number from the template of a revision.
pub(super) fn create(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, number: i32) -> Change {
    let name = format!("{}-{number}", set.name());
    let from = template.metadata.clone().unwrap_or_default();
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), number.to_string());
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.service_name.clone().filter(|name| !name.is_empty());
    let claims = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|volume| !claims.iter().any(|claim| claim.name() == volume.name));
    volumes.extend(claims.iter().map(|claim| Volume {
        name: claim.name().to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: format!("{}-{name}", claim.name()),
            read_only: None,
        }),
        ..Volume::default()
    }));
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: Some(set.namespace().to_owned()),
        labels: Some(labels),
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    let pod = FullPod { metadata, spec: Some(spec), status: None };
    let body = serde_json::to_vec(&pod).unwrap_or_default();
    let made = format!("create Pod {name} in StatefulSet {} successful", set.name());
    let failed = format!("create Pod {name} in StatefulSet {} failed error: {{error}}", set.name());
    Change::create_bytes(<Pod as crate::object::Kind>::RESOURCE, crate::object::Key::new(set.namespace(), &name), body.into())
        .on_success(Note::normal(set, "SuccessfulCreate", made))
        .on_failure(Note::warning(set, "FailedCreate", failed))
}

/// The deletion of a pod.
pub(super) fn delete(set: &StatefulSet, pod: &Pod) -> Change {
    let done = format!("delete Pod {} in StatefulSet {} successful", pod.name(), set.name());
    let failed = format!("delete Pod {} in StatefulSet {} failed error: {{error}}", pod.name(), set.name());
    Change::delete(pod).on_success(Note::normal(set, "SuccessfulDelete", done)).on_failure(Note::warning(set, "FailedDelete", failed))
}
