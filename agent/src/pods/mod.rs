//! Pods of a node: what they are ([`object`]), what is known about them ([`state`]), what to do next ([`plan`]), what the API shows ([`mod@status`]),
//! who does it ([`worker`]) and whether they may run at all ([`admit`]).

pub mod admit;
pub mod hooks;
pub mod launch;
pub mod object;
pub mod plan;
pub mod publish;
pub mod qos;
pub mod registry;
pub mod state;
pub mod status;
pub mod termination;
pub mod worker;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use sha2::{Digest, Sha256};

use object::BoundPod;

/// Label: pod name.
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// Label: pod namespace.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label: pod uid; what the agent adopts by.
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Label: container name.
pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
/// Annotation: hash of the part of the container's spec that needs a new container when it changes.
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
/// Annotation: restart count.
pub const RESTARTS_ANNOTATION: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container writes its last words.
pub const MESSAGE_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: grace period of the pod.
pub const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Hash of what can only change with a new container: name and image (kubelet `pickFieldsToHash`).
#[must_use]
pub fn container_hash(container: &Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    let digest = hasher.finalize();
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Labels of the pod's sandbox: the pod's own and the identity.
#[must_use]
pub fn sandbox_labels(pod: &BoundPod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone();
    labels.extend(identity_labels(pod));
    labels
}

/// Labels that identify the pod.
#[must_use]
pub fn identity_labels(pod: &BoundPod) -> BTreeMap<String, String> {
    BTreeMap::from([
        (POD_NAME_LABEL.to_owned(), pod.metadata.name.clone()),
        (POD_NAMESPACE_LABEL.to_owned(), pod.metadata.namespace.clone()),
        (POD_UID_LABEL.to_owned(), pod.metadata.uid.clone()),
    ])
}
