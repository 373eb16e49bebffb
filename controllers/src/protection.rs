//! Keeps claims that pods use, volumes that claims use, and classes of attributes that either uses from being removed under them
//! (upstream `pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}`): a finalizer stays on as long as they are in use.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::VolumeAttributesClass,
};

use crate::{
    caches::Caches,
    change::{Change, Plan, Tolerate},
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES: &str = "kubernetes.io/vac-protection";

/// Protects claims.
pub(crate) struct ClaimProtection {
    caches: Arc<Caches>,
}

/// Protects volumes.
pub(crate) struct VolumeProtection {
    caches: Arc<Caches>,
}

/// Protects classes of volume attributes.
pub(crate) struct AttributesProtection {
    caches: Arc<Caches>,
}

impl AttributesProtection {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
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

/// The classes a claim asks for, has, or is on the way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty())
}

/// The class a volume has.
fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref().filter(|name| !name.is_empty())
}

impl Named for AttributesProtection {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }
    fn identity(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.attributes_classes);
        // A class that is no longer named may be free.
        wake.on(&self.caches.claims, |delta, wake| {
            let kept: Vec<&str> = delta.new.into_iter().flat_map(|new| classes_of_claim(new)).collect();
            let named = delta.old.into_iter().flat_map(|old| classes_of_claim(old));
            named.filter(|name| !kept.contains(name)).for_each(|name| wake(Key::new("", name)));
        });
        wake.on(&self.caches.volumes, |delta, wake| {
            let kept = delta.new.and_then(|new| class_of_volume(new));
            let named = delta.old.and_then(|old| class_of_volume(old));
            named.filter(|name| Some(*name) != kept).into_iter().for_each(|name| wake(Key::new("", name)));
        });
    }
}

impl Controller for AttributesProtection {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let Some(class) = self.caches.attributes_classes.at(key) else { return Plan::nothing() };
        let protected = class.finalizers().iter().any(|finalizer| finalizer == ATTRIBUTES);
        let mut after: VolumeAttributesClass = class.as_ref().clone();
        let finalizers = after.metadata.finalizers.get_or_insert_default();
        match (class.deleted().is_some(), protected) {
            (false, false) => finalizers.push(ATTRIBUTES.to_owned()),
            (true, true) => {
                let name = key.name.as_ref();
                let claimed = self.caches.claims.all().iter().any(|claim| classes_of_claim(claim).any(|used| used == name));
                if claimed || self.caches.volumes.all().iter().any(|volume| class_of_volume(volume) == Some(name)) {
                    return Plan::nothing();
                }
                finalizers.retain(|finalizer| finalizer != ATTRIBUTES);
            }
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

    #[test]
    fn a_class_of_attributes_is_protected_while_a_claim_or_a_volume_names_it() {
        let plan = |claim: serde_json::Value, volume: serde_json::Value| {
            let caches = Arc::new(Caches::default());
            let class = json!({"metadata": {"name": "gold", "finalizers": [ATTRIBUTES], "deletionTimestamp": "2026-01-01T00:00:00Z"}});
            caches.attributes_classes.put(serde_json::from_value(class).unwrap());
            caches.claims.put(serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "a"}, "status": claim})).unwrap());
            caches.volumes.put(serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": volume})).unwrap());
            AttributesProtection::new(caches).plan(&Key::new("", "gold"), Timestamp::UNIX_EPOCH).changes().count()
        };
        let named = json!({"volumeAttributesClassName": "gold"});
        let current = json!({"currentVolumeAttributesClassName": "gold"});
        let target = json!({"modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "gold"}});
        assert_eq!(plan(json!({}), json!({})), 1);
        assert_eq!((plan(current, json!({})), plan(target, json!({})), plan(json!({}), named)), (0, 0, 0));
    }
}
