//! Keeps claims that pods use, and volumes that claims use, from being removed under them
//! (upstream `pkg/controller/volume/{pvcprotection,pvprotection}`): a finalizer stays on as long as they are in use.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::{
    caches::Caches,
    change::{Change, Plan, Tolerate},
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// Protects claims.
pub(crate) struct ClaimProtection {
    caches: Arc<Caches>,
}

/// Protects volumes.
pub(crate) struct VolumeProtection {
    caches: Arc<Caches>,
}

impl ClaimProtection {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl VolumeProtection {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

/// The names of the claims a pod uses.
fn claims(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    pod.spec.volumes.iter().filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.metadata.name, volume.name)),
        (None, None) => None,
    })
}

impl Named for ClaimProtection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }
    fn identity(&self) -> &'static str {
        "pvc-protection-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.claims);
        wake.on(&self.caches.pods, |delta, wake| {
            let Some(pod) = delta.last() else { return };
            let ended =
                delta.new.is_none_or(|pod| pod.is_terminal()) && delta.old.is_none_or(|old| !old.is_terminal() || delta.new.is_none());
            if ended {
                claims(pod).for_each(|claim| wake(Key::new(pod.namespace(), &claim)));
            }
        });
    }
}

impl Controller for ClaimProtection {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let Some(claim) = self.caches.claims.at(key) else { return Plan::nothing() };
        let protected = claim.finalizers().iter().any(|finalizer| finalizer == CLAIM);
        let mut after: PersistentVolumeClaim = claim.as_ref().clone();
        let finalizers = after.metadata.finalizers.get_or_insert_default();
        match (claim.deleted().is_some(), protected) {
            (false, false) => finalizers.push(CLAIM.to_owned()),
            (true, true) => {
                let uses = |pod: &Arc<Pod>| !pod.is_terminal() && claims(pod).any(|name| *name == *key.name);
                if self.caches.pods.list(&key.namespace).iter().any(uses) {
                    return Plan::nothing();
                }
                finalizers.retain(|finalizer| finalizer != CLAIM);
            }
            _ => return Plan::nothing(),
        }
        Change::update(&after).tolerate(Tolerate::NotFound).into()
    }
}

impl Named for VolumeProtection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }
    fn identity(&self) -> &'static str {
        "pv-protection-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.volumes);
    }
}

impl Controller for VolumeProtection {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let Some(volume) = self.caches.volumes.at(key) else { return Plan::nothing() };
        let protected = volume.finalizers().iter().any(|finalizer| finalizer == VOLUME);
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let mut after: PersistentVolume = volume.as_ref().clone();
        let finalizers = after.metadata.finalizers.get_or_insert_default();
        match (volume.deleted().is_some(), protected) {
            (false, false) => finalizers.push(VOLUME.to_owned()),
            (true, true) if !bound => finalizers.retain(|finalizer| finalizer != VOLUME),
            _ => return Plan::nothing(),
        }
        Change::update(&after).tolerate(Tolerate::NotFound).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::change::Verb;

    fn finalizers(deleted: bool, present: &[&str], pod_phase: Option<&str>) -> Option<usize> {
        let caches = Arc::new(Caches::default());
        let deleted = deleted.then_some("2026-01-01T00:00:00Z");
        let claim = json!({"metadata": {"name": "c", "namespace": "a", "finalizers": present, "deletionTimestamp": deleted}});
        caches.claims.put(serde_json::from_value(claim).unwrap());
        if let Some(phase) = pod_phase {
            let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "status": {"phase": phase},
                "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
            caches.pods.put(serde_json::from_value(pod).unwrap());
        }
        let plan = ClaimProtection::new(caches).plan(&Key::new("a", "c"), Timestamp::UNIX_EPOCH);
        let Verb::Update { object, .. } = &plan.changes().next()?.verb else { panic!("not an update") };
        Some(object["metadata"]["finalizers"].as_array().map_or(0, Vec::len))
    }

    #[test]
    fn a_claim_is_protected_until_it_is_deleted_and_unused() {
        assert_eq!(finalizers(false, &[], None), Some(1));
        assert_eq!(finalizers(false, &[CLAIM], None), None);
        assert_eq!(finalizers(true, &[CLAIM], Some("Running")), None);
        assert_eq!(finalizers(true, &[CLAIM], Some("Succeeded")), Some(0));
        assert_eq!(finalizers(true, &[CLAIM], None), Some(0));
    }
}
