//! For whom a node may ask a token of its pod's account: for those whom the pod's volumes name, and for those whom it may name itself
//! (KEP-4412).

use coracle_tree::Value;

use super::{NodeRestriction, Refusal};
use crate::{
    admission::{
        Attempt,
        look::{self, list, text},
    },
    registry::Object,
    wire::status::aggregate,
};

/// Volumes of the time before CSI and the drivers that serve them now (csi-translation-lib).
const MIGRATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

impl NodeRestriction {
    /// Refuses audiences that are not the node's to ask for.
    pub(super) async fn audience(&self, attempt: &Attempt<'_>, request: Option<&Object>, pod: &Object) -> Result<(), Refusal> {
        let audience = match request.map(|r| list(r.value(), "/spec/audiences")).unwrap_or_default() {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err("node may only request 0 or 1 audiences".to_owned().into()),
        };
        if self.names(pod, audience).await.map_err(|why| format!("error validating audience {audience:?}: {why}"))? {
            return Ok(());
        }
        let user = &attempt.user.name;
        match self.may(attempt, "request-serviceaccounts-token-audience", audience, &attempt.request.name).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{user} is not authorized to request tokens for audience {audience:?}").into()),
            Err(why) => Err(format!("error authorizing {user} to request tokens for audience {audience:?}: {why}").into()),
        }
    }

    /// Whether a volume of the pod names an audience, itself or by its CSI driver. An error of one volume counts if no other does.
    async fn names(&self, pod: &Object, audience: &str) -> Result<bool, String> {
        let mut errors = Vec::new();
        for volume in list(pod.value(), "/spec/volumes") {
            let mut tokens = list(volume, "/projected/sources").iter().filter_map(|source| source.get("serviceAccountToken"));
            if tokens.any(|token| text(token, "audience") == audience) {
                return Ok(true);
            }
            let named = async {
                let driver = self.driver(pod, volume).await?;
                if driver.is_empty() { Ok(false) } else { self.driver_names(&driver, audience).await }
            };
            match named.await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(why) => errors.push(why),
            }
        }
        aggregate(errors).map_or(Ok(false), Err)
    }

    /// The CSI driver that serves a volume; empty when none does.
    async fn driver(&self, pod: &Object, volume: &Value) -> Result<String, String> {
        let of = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let claim = if volume.pointer("/ephemeral/volumeClaimTemplate").is_some() {
            Some(format!("{}-{}", pod.name(), text(volume, "name")))
        } else {
            of("/persistentVolumeClaim/claimName")
        };
        let Some(claim) = claim else {
            return Ok(of("/csi/driver").unwrap_or_else(|| migrated(volume)));
        };
        let claim = self.look_up("", "persistentvolumeclaims", pod.namespace(), &claim).await?;
        let volume = self
            .look_up("", "persistentvolumes", "", claim.pointer("/spec/volumeName").and_then(Value::as_str).unwrap_or_default())
            .await?;
        let driver = volume.pointer("/spec/csi/driver").and_then(Value::as_str).map(str::to_owned);
        Ok(driver.unwrap_or_else(|| volume.get("spec").map(migrated).unwrap_or_default()))
    }

    async fn driver_names(&self, driver: &str, audience: &str) -> Result<bool, String> {
        let driver = self.look_up("storage.k8s.io", "csidrivers", "", driver).await?;
        Ok(list(&driver, "/spec/tokenRequests").iter().any(|token| text(token, "audience") == audience))
    }

    /// An object, or why there is none, in the words of upstream's listers: they name one of a kind.
    async fn look_up(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Value, String> {
        let found = look::one(&*self.reader, group, resource, namespace, name).await.map_err(|status| status.message)?;
        let kind = resource.trim_end_matches('s');
        let of = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        found.ok_or_else(|| format!("{of} {name:?} not found"))
    }
}

fn migrated(spec: &Value) -> String {
    MIGRATED.iter().find(|(source, _)| spec.get(source).is_some_and(|s| !s.is_null())).map_or("", |(_, driver)| driver).to_owned()
}
