//! A lease as controllers see it: who holds it, and when it was last renewed.

use jiff::Timestamp;
use serde::Deserialize;

use crate::object::{Kind, Meta, Resource, object_by_meta};

/// The namespace of the nodes' leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// A lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeLease {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: NodeLeaseSpec,
}

/// The part of a lease's spec that is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeLeaseSpec {
    /// When it was last renewed, by its holder's clock.
    pub renew_time: Option<Timestamp>,
}

object_by_meta!(NodeLease);

impl Kind for NodeLease {
    const RESOURCE: Resource = Resource::known("coordination.k8s.io", "v1", "leases", "Lease");
}
