//! Plugins that are off unless `--enable-admission-plugins` names them.

mod always;
mod events;
mod externalips;
mod imagepolicy;
mod images;
mod namespaces;
mod owners;
mod pods;
mod selector;
mod tolerations;

pub use always::{AlwaysAdmit, AlwaysDeny};
pub use events::EventRateLimit;
pub use externalips::DenyServiceExternalIPs;
pub use imagepolicy::ImagePolicyWebhook;
pub use images::AlwaysPullImages;
pub use namespaces::{NamespaceAutoProvision, NamespaceExists};
pub use owners::OwnerReferencesPermissionEnforcement;
pub use pods::{ExtendedResourceToleration, LimitPodHardAntiAffinityTopology};
pub use selector::PodNodeSelector;
pub use tolerations::PodTolerationRestriction;

use coracle_tree::Value;

use super::look;
use crate::{
    registry::Reader,
    wire::{Status, status::Subject},
};

/// Their names.
pub(super) const NAMES: [&str; 13] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "OwnerReferencesPermissionEnforcement",
    "PodNodeSelector",
    "PodTolerationRestriction",
];

/// A namespace; 404 when it is not there.
async fn namespace(reader: &dyn Reader, name: &str) -> Result<Value, Status> {
    let found = look::one(reader, "", "namespaces", "", name).await?;
    found.ok_or_else(|| Status::not_found(Subject { group: "", resource: "namespaces", name }))
}

/// An annotation of an object.
fn annotation<'v>(object: &'v Value, name: &str) -> Option<&'v str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}
