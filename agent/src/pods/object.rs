//! A pod as the agent reads it: the spec typed in full, metadata without `managedFields`, and a cheap look at watch events that tells
//! whether decoding is worth it at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The part of `ObjectMeta` the agent reads.
#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Uid: the identity of everything the agent makes for the pod.
    pub uid: String,
    /// Resource version of the copy at hand.
    pub resource_version: String,
    /// Generation of the spec.
    pub generation: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was created.
    pub creation_timestamp: Option<Time>,
    /// Set when somebody deleted it: by then it must be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    /// Grace period of that deletion in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
}

/// A pod bound to a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BoundPod {
    /// Identity.
    pub metadata: Meta,
    /// What to run.
    pub spec: PodSpec,
    /// Status as last stored: restart counts, conditions of others, start time.
    pub status: PodStatus,
    /// `spec.ephemeralContainers` as ordinary containers; filled by [`BoundPod::decode`].
    #[serde(skip)]
    pub ephemeral: Vec<Container>,
}

/// What part a container plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container with `restartPolicy: Always` (KEP-753).
    Sidecar,
    /// An ordinary container.
    App,
    /// Added for debugging; never restarted, never counted.
    Ephemeral,
}

impl BoundPod {
    /// Reads a pod from JSON.
    ///
    /// # Errors
    /// When the bytes are not a pod.
    pub fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Self>(json).map(Self::normalized)
    }

    /// Fills what is derived from the decoded fields.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        for extra in self.spec.ephemeral_containers.iter().flatten() {
            // Same fields but one: the types differ only in name.
            let container = serde_json::to_vec(extra).ok().and_then(|json| serde_json::from_slice(&json).ok());
            self.ephemeral.extend(container);
        }
        self
    }

    /// All containers with their roles: init containers in order, ordinary ones, ephemeral ones.
    pub fn containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        let init = self.spec.init_containers.iter().flatten();
        init.map(|c| (if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }, c))
            .chain(self.spec.containers.iter().map(|c| (Role::App, c)))
            .chain(self.ephemeral.iter().map(|c| (Role::Ephemeral, c)))
    }

    /// The container of that name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.containers().find(|(_, c)| c.name == name)
    }

    /// `spec.restartPolicy`, defaulted.
    #[must_use]
    pub fn restart_policy(&self) -> &str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }

    /// Whether the pod uses the node's network.
    #[must_use]
    pub fn host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }

    /// `namespace/name`, for logs.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}_{}", self.metadata.name, self.metadata.namespace)
    }

    /// Resource version as a number, 0 when it is none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or_default()
    }

    /// Whether the stored phase is final.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}

/// What a glance at a pod's bytes tells, at a sixth of the price of decoding it.
#[derive(Debug, Deserialize)]
pub struct Glance<'a> {
    #[serde(borrow, default)]
    metadata: GlanceMeta<'a>,
    #[serde(borrow, default)]
    spec: GlanceSpec<'a>,
    #[serde(borrow, default)]
    status: GlanceStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GlanceMeta<'a> {
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(default)]
    generation: i64,
    #[serde(borrow, default)]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GlanceSpec<'a> {
    #[serde(borrow, default)]
    node_name: Cow<'a, str>,
    #[serde(borrow, default)]
    readiness_gates: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct GlanceStatus<'a> {
    #[serde(borrow, default)]
    conditions: Vec<GlanceCondition<'a>>,
}

#[derive(Debug, Deserialize)]
struct GlanceCondition<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
}

impl Glance<'_> {
    /// Uid.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.metadata.uid
    }

    /// Node the pod is bound to, empty when none.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.spec.node_name
    }

    /// Resource version.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// Whether the stored pod is ready; `None` when it does not say. The agent is not the only one to write this: the node lifecycle
    /// controller denies it to pods of a node that was silent.
    #[must_use]
    pub fn ready(&self) -> Option<bool> {
        self.status.conditions.iter().find(|c| c.kind == "Ready").map(|c| c.status == "True")
    }

    /// Changes when, and only when, something changed that the agent acts on: the agent's own status writes leave it as it is. With
    /// readiness gates conditions of others matter, so then every version counts.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let meta = &self.metadata;
        let mut hasher = DefaultHasher::new();
        meta.generation.hash(&mut hasher);
        meta.labels.map(RawValue::get).hash(&mut hasher);
        meta.annotations.map(RawValue::get).hash(&mut hasher);
        meta.deletion_timestamp.hash(&mut hasher);
        meta.deletion_grace_period_seconds.hash(&mut hasher);
        if self.spec.readiness_gates.is_some() {
            meta.resource_version.hash(&mut hasher);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(json: &str) -> (String, u64) {
        let g: Glance<'_> = serde_json::from_str(json).expect("valid");
        (g.node().to_owned(), g.fingerprint())
    }

    #[test]
    fn own_status_writes_do_not_change_the_fingerprint() {
        let a = glance(r#"{"metadata":{"uid":"u","resourceVersion":"1","generation":1,"labels":{"a":"b"}},"spec":{"nodeName":"n"}}"#);
        let b = glance(
            r#"{"metadata":{"uid":"u","resourceVersion":"2","generation":1,"labels":{"a":"b"}},"spec":{"nodeName":"n"},"status":{"phase":"Running"}}"#,
        );
        assert_eq!(a, b);
    }

    #[test]
    fn a_glance_sees_whether_the_pod_is_said_to_be_ready() {
        let ready = |json: &str| serde_json::from_str::<Glance<'_>>(json).expect("valid").ready();
        assert_eq!(ready(r#"{"metadata":{"uid":"u"}}"#), None);
        assert_eq!(ready(r#"{"status":{"conditions":[{"type":"Ready","status":"False","message":"a \"b\""}]}}"#), Some(false));
        assert_eq!(
            ready(r#"{"status":{"conditions":[{"type":"Initialized","status":"False"},{"type":"Ready","status":"True"}]}}"#),
            Some(true)
        );
    }

    #[test]
    fn labels_deletion_and_gated_conditions_change_the_fingerprint() {
        let base = glance(r#"{"metadata":{"uid":"u","resourceVersion":"1","labels":{"a":"b"}},"spec":{"nodeName":"n"}}"#).1;
        for other in [
            r#"{"metadata":{"uid":"u","resourceVersion":"1","labels":{"a":"c"}},"spec":{"nodeName":"n"}}"#,
            r#"{"metadata":{"uid":"u","resourceVersion":"1","labels":{"a":"b"},"deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{}}"#,
            r#"{"metadata":{"uid":"u","resourceVersion":"1","labels":{"a":"b"}},"spec":{"nodeName":"n","readinessGates":[]}}"#,
        ] {
            assert_ne!(glance(other).1, base, "{other}");
        }
    }

    #[test]
    fn ephemeral_containers_become_ordinary_ones_with_their_own_role() {
        let pod = BoundPod::decode(
            br#"{"metadata":{"name":"p"},"spec":{"initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"}],"containers":[{"name":"c"}],"ephemeralContainers":[{"name":"e","image":"x","targetContainerName":"c"}]}}"#,
        )
        .expect("decodes");
        let roles: Vec<_> = pod.containers().map(|(role, c)| (role, c.name.as_str())).collect();
        assert_eq!(roles, [(Role::Init, "i"), (Role::Sidecar, "s"), (Role::App, "c"), (Role::Ephemeral, "e")]);
    }
}
