//! What of the cluster a pod would open to its node (`pkg/api/pod/util.go`, `HasAPIObjectReference`).

use coracle_tree::Value;

use crate::admission::look::{list, text};

/// Volumes that need nothing of the API. Some may name a secret, which is looked at before.
const FREE: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// Members of volumes that name secrets.
const SECRETS: [&str; 9] = [
    "/cephfs/secretRef",
    "/cinder/secretRef",
    "/flexVolume/secretRef",
    "/rbd/secretRef",
    "/secret",
    "/scaleIO/secretRef",
    "/iscsi/secretRef",
    "/storageos/secretRef",
    "/csi/nodePublishSecretRef",
];

/// Every container list of a pod spec.
const CONTAINERS: [&str; 3] = ["/initContainers", "/containers", "/ephemeralContainers"];

/// The first kind of objects a pod spec refers to. The error names a volume of which that is not known.
pub(super) fn referred(spec: &Value) -> Result<Option<&'static str>, String> {
    if !text(spec, "serviceAccountName").is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    let volumes = list(spec, "/volumes");
    let projected = |member: &str| volumes.iter().flat_map(|v| list(v, "/projected/sources")).any(|source| has(source, member));
    let environment = |whole: &str, key: &str| {
        let containers = CONTAINERS.iter().flat_map(|at| list(spec, at));
        containers
            .flat_map(|c| {
                list(c, "/envFrom").iter().map(move |from| has(from, whole)).chain(list(c, "/env").iter().map(move |e| at(e, key)))
            })
            .any(|named| named)
    };
    let secret = |volume: &Value| {
        SECRETS.iter().any(|member| at(volume, member)) || !volume.get("azureFile").is_none_or(|file| text(file, "secretName").is_empty())
    };
    if !list(spec, "/imagePullSecrets").is_empty()
        || environment("secretRef", "/valueFrom/secretKeyRef")
        || volumes.iter().any(secret)
        || projected("secret")
    {
        return Ok(Some("secrets"));
    }
    if environment("configMapRef", "/valueFrom/configMapKeyRef") || volumes.iter().any(|v| has(v, "configMap")) || projected("configMap") {
        return Ok(Some("configmaps"));
    }
    if !list(spec, "/resourceClaims").is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in volumes {
        if let Some(what) = volume_refers(volume)? {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

fn volume_refers(volume: &Value) -> Result<Option<&'static str>, String> {
    if FREE.iter().any(|kind| has(volume, kind)) {
        return Ok(None);
    }
    let kinds = [
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    if let Some((_, what)) = kinds.iter().find(|(kind, _)| has(volume, kind)) {
        return Ok(Some(what));
    }
    let name = text(volume, "name");
    if !has(volume, "projected") {
        return Err(format!("unknown volume type for volume  {name:?}"));
    }
    let sources = [
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    for source in list(volume, "/projected/sources") {
        if let Some((_, what)) = sources.iter().find(|(kind, _)| has(source, kind)) {
            return Ok(Some(what));
        }
        if !has(source, "downwardAPI") {
            return Err(format!("unknown source for projected volume {name:?}"));
        }
    }
    Ok(None)
}

fn has(value: &Value, member: &str) -> bool {
    value.get(member).is_some_and(|v| !v.is_null())
}

fn at(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|v| !v.is_null())
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn whatever_a_pod_needs_of_the_api_is_named() {
        let container = |member: &Value| json!({"containers": [member]});
        let volume = |source: &Value| {
            let mut volume = source.clone();
            volume["name"] = "v".into();
            json!({"volumes": [volume]})
        };
        let cases = [
            (json!({}), Ok(None)),
            (json!({"nodeSelector": {"secret": "x"}}), Ok(None)),
            (json!({"serviceAccountName": "x"}), Ok(Some("serviceaccounts"))),
            (json!({"imagePullSecrets": [{"name": "s"}]}), Ok(Some("secrets"))),
            (container(&json!({"envFrom": [{"secretRef": {"name": "s"}}]})), Ok(Some("secrets"))),
            (container(&json!({"env": [{"name": "e", "valueFrom": {"configMapKeyRef": {"name": "c"}}}]})), Ok(Some("configmaps"))),
            (json!({"resourceClaims": [{"name": "c"}]}), Ok(Some("resourceclaims"))),
            (volume(&json!({"emptyDir": {}})), Ok(None)),
            (volume(&json!({"rbd": {"secretRef": {"name": "s"}}})), Ok(Some("secrets"))),
            (volume(&json!({"csi": {"driver": "d"}})), Ok(Some("csidrivers (via CSI volumes)"))),
            (volume(&json!({"ephemeral": {}})), Ok(Some("persistentvolumeclaims (via ephemeral volumes)"))),
            (volume(&json!({"projected": {"sources": [{"downwardAPI": {}}]}})), Ok(None)),
            (volume(&json!({"projected": {"sources": [{"configMap": {}}]}})), Ok(Some("configmaps"))),
            (
                volume(&json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
                Ok(Some("serviceaccounts (via projected volumes)")),
            ),
            (volume(&json!({"projected": {"sources": [{}]}})), Err(r#"unknown source for projected volume "v""#.to_owned())),
            (volume(&json!({"next": {}})), Err(r#"unknown volume type for volume  "v""#.to_owned())),
        ];
        for (spec, expected) in cases {
            assert_eq!(referred(&spec), expected, "{spec}");
        }
    }
}
