//! A pod as controllers see it: a slim view, since pods are many and their full decoding is the largest cost of the room.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Toleration;
use serde::{Deserialize, Serialize};

use crate::object::{Kind, Labels, Meta, Resource, object_by_meta};

/// The annotation `kubectl apply` keeps its last input in: large, and nothing here reads it.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A pod without what controllers never read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
}

/// The parts of a pod's spec that controllers read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it runs.
    pub node_name: Option<String>,
    /// `Always`, `OnFailure`, `Never`.
    pub restart_policy: Option<String>,
    /// Its host name, for endpoints of headless services.
    pub hostname: Option<String>,
    /// Its sub-domain, for endpoints of headless services.
    pub subdomain: Option<String>,
    /// Its tolerations, for eviction by taints.
    pub tolerations: Vec<Toleration>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Its init containers (those with restart policy `Always` have ports, too).
    pub init_containers: Vec<Container>,
    /// Its volumes, as far as they are claims.
    pub volumes: Vec<Volume>,
    /// Its priority.
    pub priority: Option<i32>,
    /// The name of its priority class.
    pub priority_class_name: Option<String>,
    /// Overhead of its runtime class.
    pub overhead: Option<Labels>,
    /// Its deadline; a terminating-scoped quota counts pods that have one.
    pub active_deadline_seconds: Option<i64>,
    /// Node affinity of daemon pods, which name their node here until they are bound.
    pub affinity: Option<Affinity>,
    /// Readiness gates.
    pub readiness_gates: Vec<ReadinessGate>,
}

/// A container's name, ports and resources.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Ports.
    pub ports: Vec<Port>,
    /// `Always` for side-cars among init containers.
    pub restart_policy: Option<String>,
    /// Requests and limits.
    pub resources: Resources,
}

/// Requests and limits, as written.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Resources {
    /// Requests.
    pub requests: Labels,
    /// Limits.
    pub limits: Labels,
}

/// A container port.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub container_port: i32,
    /// `TCP` when absent.
    pub protocol: Option<String>,
}

/// A volume, as far as it is a claim.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// The claim it uses.
    pub persistent_volume_claim: Option<ClaimSource>,
    /// Set for generic ephemeral volumes, whose claim is named after pod and volume.
    pub ephemeral: Option<serde::de::IgnoredAny>,
}

/// The claim a volume uses.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource {
    /// Its name.
    pub claim_name: String,
}

/// A readiness gate.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessGate {
    /// The condition it waits for.
    pub condition_type: String,
}

/// The one part of affinity that matters here: required node affinity by field.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Node affinity.
    pub node_affinity: Option<NodeAffinity>,
}

/// Node affinity.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinity {
    /// The required part.
    pub required_during_scheduling_ignored_during_execution: Option<NodeTerms>,
}

/// Alternatives of node affinity.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerms {
    /// The alternatives.
    pub node_selector_terms: Vec<NodeTerm>,
}

/// One alternative, by fields of the node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    /// Field requirements.
    pub match_fields: Vec<FieldMatch>,
}

/// One requirement on a field of the node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldMatch {
    /// The field.
    pub key: String,
    /// The values it may have.
    pub values: Vec<String>,
}

/// The parts of a pod's status that controllers read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: String,
    /// Why it is in that phase.
    pub reason: Option<String>,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Its address.
    pub pod_ip: Option<String>,
    /// All its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// When the node took it.
    pub start_time: Option<Timestamp>,
    /// Its containers.
    pub container_statuses: Vec<ContainerStatus>,
    /// Its init containers.
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// A condition of a pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// A CamelCase word for why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the status last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
}

/// The state of a container.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// How often it was restarted.
    pub restart_count: i32,
    /// Running, waiting or terminated.
    pub state: ContainerState,
}

/// What a container is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ContainerState {
    /// How it ended.
    pub terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Its exit code.
    pub exit_code: i32,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

object_by_meta!(Pod, index = |pod| pod.spec.node_name.as_deref());

impl Kind for Pod {
    const RESOURCE: Resource = Resource::known("", "v1", "pods", "Pod");

    fn trim(&mut self) {
        self.metadata.annotations.remove(LAST_APPLIED);
    }
}

impl Pod {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether its condition `Ready` is true.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }

    /// Whether it has been ready for `min_ready_seconds`; if it is ready but not for long enough, when it will be.
    #[must_use]
    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> (bool, Option<Timestamp>) {
        let Some(ready) = self.condition("Ready").filter(|ready| ready.status == "True") else { return (false, None) };
        if min_ready_seconds <= 0 {
            return (true, None);
        }
        let Some(since) = ready.last_transition_time else { return (false, None) };
        let at = crate::time::plus(since, i64::from(min_ready_seconds));
        if at <= now { (true, None) } else { (false, Some(at)) }
    }

    /// Whether it ended, well or badly.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it neither ended nor is being deleted (upstream's `IsPodActive`).
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && self.metadata.deletion_timestamp.is_none()
    }

    /// Whether it is being deleted and has not ended yet (upstream's `IsPodTerminating`).
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        !self.is_terminal() && self.metadata.deletion_timestamp.is_some()
    }

    /// The largest restart count among its containers.
    #[must_use]
    pub fn restarts(&self) -> i32 {
        self.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or_default()
    }
}
