//! Small plugins around storage: default class, protection of what is in use, growing of claims.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::Value;
use serde::Deserialize;

use super::{Admission, Attempt, Operation, look};
use crate::{
    registry::{Object, Reader},
    wire::Status,
};

const GROUP: &str = "storage.k8s.io";

/// DefaultStorageClass (`plugin/pkg/admission/storage/storageclass/setdefault`).
pub struct DefaultStorageClass {
    /// Where classes are looked up.
    pub reader: Arc<dyn Reader>,
}

/// StorageObjectInUseProtection (`plugin/pkg/admission/storage/storageobjectinuseprotection`).
pub struct StorageObjectInUseProtection;

/// PersistentVolumeClaimResize (`plugin/pkg/admission/storage/persistentvolume/resize`).
pub struct PersistentVolumeClaimResize {
    /// Where classes are looked up.
    pub reader: Arc<dyn Reader>,
}

/// A class that may be marked as default, of storage or ingress.
#[derive(Deserialize)]
pub(super) struct Class {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    creation_timestamp: String,
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
}

/// The default among the classes, by any of the annotations: the newest, then the first by name.
pub(super) fn default_class(classes: Vec<Class>, annotations: &[&str]) -> Option<String> {
    let marked = |c: &Class| annotations.iter().any(|a| c.metadata.annotations.get(*a).is_some_and(|v| v == "true"));
    let mut defaults: Vec<Metadata> = classes.into_iter().filter(marked).map(|c| c.metadata).collect();
    defaults.sort_by(|a, b| b.creation_timestamp.cmp(&a.creation_timestamp).then_with(|| a.name.cmp(&b.name)));
    defaults.into_iter().next().map(|m| m.name)
}

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, "", "persistentvolumeclaims")
    }

    async fn mutate(&self, _attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(claim) = new else { return Ok(()) };
        // An empty name means "no class"; only an absent one asks for the default.
        let named = claim.value().pointer("/spec/storageClassName").is_some_and(Value::is_string);
        if named || claim.annotation("volume.beta.kubernetes.io/storage-class").is_some() {
            return Ok(());
        }
        let classes = look::all(&*self.reader, GROUP, "storageclasses", "").await?;
        let annotations = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        if let Some(name) = default_class(classes, &annotations) {
            claim.member_mut("spec").insert("storageClassName", name.into());
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && finalizer(attempt).is_some()
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let (Some(object), Some(finalizer)) = (new, finalizer(attempt)) else { return Ok(()) };
        if !object.finalizers().contains(&finalizer) {
            object.metadata_mut();
            if let Some(list) = look::list_mut(&mut object.value_mut()["metadata"], "finalizers") {
                list.push(finalizer.into());
            }
        }
        Ok(())
    }
}

fn finalizer(attempt: &Attempt<'_>) -> Option<&'static str> {
    if look::is(attempt, "", "persistentvolumeclaims") {
        Some("kubernetes.io/pvc-protection")
    } else if look::is(attempt, "", "persistentvolumes") {
        Some("kubernetes.io/pv-protection")
    } else if look::is(attempt, GROUP, "volumeattributesclasses") {
        Some("kubernetes.io/vac-protection")
    } else {
        None
    }
}

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Update && look::is(attempt, "", "persistentvolumeclaims")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (new, attempt.old) else { return Ok(()) };
        let size = |claim: &Object| claim.text("/spec/resources/requests/storage").parse::<coracle_schema::Quantity>().ok();
        let (Some(now), Some(before)) = (size(new), size(old)) else { return Ok(()) };
        if now <= before {
            return Ok(());
        }
        if old.text("/status/phase") != "Bound" {
            return Err(look::forbidden(attempt, Some(new), "Only bound persistent volume claims can be expanded"));
        }
        let name = match new.text("/spec/storageClassName") {
            "" => new.annotation("volume.beta.kubernetes.io/storage-class").unwrap_or_default(),
            name => name,
        };
        let class: Option<Value> = if name.is_empty() { None } else { look::one(&*self.reader, GROUP, "storageclasses", "", name).await? };
        if class.as_ref().and_then(|c| c.get("allowVolumeExpansion")?.as_bool()) == Some(true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(look::forbidden(attempt, Some(new), why))
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::Bench;

    fn class(name: &str, default: bool, made: &str) -> Value {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": default.to_string()});
        json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": annotations}, "allowVolumeExpansion": default})
    }

    fn bench() -> Bench {
        let bench = Bench::new();
        bench.reader.put(GROUP, "storageclasses", class("old", true, "2026-01-01T00:00:00Z"));
        bench.reader.put(GROUP, "storageclasses", class("new", true, "2026-02-01T00:00:00Z"));
        bench.reader.put(GROUP, "storageclasses", class("other", false, "2026-03-01T00:00:00Z"));
        bench
    }

    fn claim(class: Value, size: &str) -> Value {
        let mut claim =
            json!({"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": size}}}, "status": {"phase": "Bound"}});
        if !class.is_null() {
            claim["spec"]["storageClassName"] = class;
        }
        claim
    }

    #[tokio::test]
    async fn the_newest_default_class_is_used_when_none_is_named() {
        let b = bench();
        let plugin = DefaultStorageClass { reader: b.reader.clone() };
        for (given, expected) in [(Value::Null, "new"), (json!(""), ""), (json!("other"), "other")] {
            let claim = b.create(&plugin, "persistentvolumeclaims live d", claim(given, "1Gi")).await.unwrap();
            assert_eq!(claim["spec"]["storageClassName"], expected);
        }
    }

    #[tokio::test]
    async fn volumes_and_claims_are_protected_once() {
        let b = bench();
        let at = "persistentvolumeclaims live d";
        let once = b.create(&StorageObjectInUseProtection, at, claim(Value::Null, "1Gi")).await.unwrap();
        assert_eq!(once["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        assert_eq!(b.create(&StorageObjectInUseProtection, at, once.clone()).await.unwrap(), once);
        let volume = b.create(&StorageObjectInUseProtection, "persistentvolumes - v", json!({"metadata": {"name": "v"}})).await.unwrap();
        assert_eq!(volume["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    }

    #[tokio::test]
    async fn claims_grow_only_where_their_class_lets_them() {
        let b = bench();
        let plugin = PersistentVolumeClaimResize { reader: b.reader.clone() };
        let grow = async |class: &str| {
            b.update(&plugin, "persistentvolumeclaims live d", claim(json!(class), "1Gi"), claim(json!(class), "2Gi")).await
        };
        assert!(grow("new").await.is_ok());
        assert!(grow("other").await.unwrap_err().message.contains("must support resize"));
    }
}
