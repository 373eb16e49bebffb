//! The pods of a job.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod as FullPod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{TRACKING, indexes::INDEX};
use crate::{
    change::{Change, Note},
    object::{Key, Kind, Object, controller_reference},
    pod::Pod,
};

/// The variable that tells a container its index.
const VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Creations of `count` equal pods.
pub(super) fn equal(job: &Job, template: &PodTemplateSpec, count: usize) -> Vec<Change> {
    let pod = pod(job, template);
    let body: Arc<[u8]> = serde_json::to_vec(&pod).unwrap_or_default().into();
    vec![creation(job, body); count]
}

/// The creation of the pod with this index.
pub(super) fn indexed(job: &Job, template: &PodTemplateSpec, index: i32) -> Change {
    let mut pod = pod(job, template);
    pod.metadata.generate_name = Some(format!("{}-{index}-", job.name()));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        if spec.hostname.is_none() {
            spec.hostname = Some(format!("{}-{index}", job.name()));
        }
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
    }
    creation(job, serde_json::to_vec(&pod).unwrap_or_default().into())
}

fn creation(job: &Job, body: Arc<[u8]>) -> Change {
    Change::create_bytes(Pod::RESOURCE, Key::new(job.namespace(), ""), body)
        .on_success(Note::normal(job, "SuccessfulCreate", "Created pod: {name}"))
        .on_failure(Note::warning(job, "FailedCreate", "Error creating: {error}"))
}

fn pod(job: &Job, template: &PodTemplateSpec) -> FullPod {
    let from = template.metadata.clone().unwrap_or_default();
    let mut finalizers = from.finalizers.unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", job.name())),
        namespace: Some(job.namespace().to_owned()),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: Some(finalizers),
        owner_references: Some(vec![controller_reference(job)]),
        ..ObjectMeta::default()
    };
    FullPod { metadata, spec: template.spec.clone(), status: None }
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let value_from = Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() });
    variables.push(EnvVar { name: VARIABLE.to_owned(), value: None, value_from });
}
