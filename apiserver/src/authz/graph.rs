//! Which objects a node has to do with: those its pods refer to (`plugin/pkg/auth/authorizer/node/graph.go`).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use memchr::memmem;
use serde::Deserialize;

use super::policy::nullable;

/// What can be reached from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum Vertex {
    Pod,
    Secret,
    ConfigMap,
    ServiceAccount,
    Claim,
    Volume,
    ResourceClaim,
    Attachment,
    Slice,
    CertificateRequest,
}

/// An object; the namespace is empty for cluster kinds.
type Id = (Vertex, Arc<str>, Arc<str>);

/// A namespace and a name.
type Name = (Arc<str>, Arc<str>);

/// References from pods (by their node), volumes, attachments and slices.
#[derive(Default)]
pub(super) struct Graph {
    /// Pod -> its node and what it refers to.
    pods: HashMap<Name, (Arc<str>, Vec<Id>)>,
    /// Object -> node -> how many pods on the node refer to it.
    referred: HashMap<Id, HashMap<Arc<str>, usize>>,
    /// Volume -> its claim and the secrets it names.
    volumes: HashMap<Arc<str>, (Id, Vec<Id>)>,
    /// Secret -> the volumes that name it.
    secret_volumes: HashMap<Id, HashSet<Arc<str>>>,
    /// Attachments and slices -> their node.
    owned: HashMap<Id, Arc<str>>,
}

impl Graph {
    /// Takes in a pod; one without a node is nobody's.
    pub(super) fn put_pod(&mut self, json: &[u8]) {
        // Most pods of a burst are new and unbound: told without decoding. A bound pod stays bound, so there is nothing to take back.
        if memmem::find(json, b"\"nodeName\":").is_none() {
            return;
        }
        let Ok(pod) = serde_json::from_slice::<Pod>(json) else { return };
        let (namespace, name): (Arc<str>, Arc<str>) = (pod.metadata.namespace.as_str().into(), pod.metadata.name.as_str().into());
        self.remove_pod(&namespace, &name);
        if pod.spec.node_name.is_empty() {
            return;
        }
        let node: Arc<str> = pod.spec.node_name.as_str().into();
        let mut references = vec![(Vertex::Pod, namespace.clone(), name.clone())];
        // A mirror pod is only the node's word: it opens nothing.
        if !pod.metadata.annotations.contains_key("kubernetes.io/config.mirror") {
            pod.refer(&mut |vertex, to| references.push((vertex, namespace.clone(), to.into())));
        }
        references.sort_unstable_by(|a, b| (a.0 as u8, &a.2).cmp(&(b.0 as u8, &b.2)));
        references.dedup();
        for id in &references {
            *self.referred.entry(id.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        self.pods.insert((namespace, name), (node, references));
    }

    /// Forgets a pod.
    pub(super) fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some((node, references)) = self.pods.remove(&(namespace.into(), name.into())) else { return };
        for id in references {
            if let Some(nodes) = self.referred.get_mut(&id) {
                if let Some(count) = nodes.get_mut(&node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&node);
                    }
                }
                if nodes.is_empty() {
                    self.referred.remove(&id);
                }
            }
        }
    }

    /// Takes in a persistent volume.
    pub(super) fn put_volume(&mut self, json: &[u8]) {
        let Ok(volume) = serde_json::from_slice::<Volume>(json) else { return };
        self.remove_volume(&volume.metadata.name);
        let Some(claim) = volume.spec.claim_ref else { return };
        let mut secrets = Vec::new();
        for source in volume.spec.sources.values() {
            secret_references(source, &claim.namespace, &mut secrets);
        }
        let name: Arc<str> = volume.metadata.name.as_str().into();
        for secret in &secrets {
            self.secret_volumes.entry(secret.clone()).or_default().insert(name.clone());
        }
        let claim = (Vertex::Claim, claim.namespace.as_str().into(), claim.name.as_str().into());
        self.volumes.insert(name, (claim, secrets));
    }

    /// Forgets a volume.
    pub(super) fn remove_volume(&mut self, name: &str) {
        let Some((_, secrets)) = self.volumes.remove(name) else { return };
        for secret in secrets {
            if let Some(volumes) = self.secret_volumes.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.secret_volumes.remove(&secret);
                }
            }
        }
    }

    /// Takes in an object that names its node itself: a volume attachment or a resource slice.
    pub(super) fn put_owned(&mut self, vertex: Vertex, json: &[u8]) {
        let Ok(owned) = serde_json::from_slice::<Owned>(json) else { return };
        let id = (vertex, owned.metadata.namespace.as_str().into(), owned.metadata.name.as_str().into());
        match owned.spec.node_name.as_str() {
            "" => self.owned.remove(&id),
            node => self.owned.insert(id, node.into()),
        };
    }

    /// Forgets an attachment, a slice or a certificate request.
    pub(super) fn remove_owned(&mut self, vertex: Vertex, namespace: &str, name: &str) {
        self.owned.remove(&(vertex, namespace.into(), name.into()));
    }

    /// Whether the node has to do with the object.
    pub(super) fn reaches(&self, node: &str, vertex: Vertex, namespace: &str, name: &str) -> bool {
        let id: Id = (vertex, namespace.into(), name.into());
        let by_pod = |id: &Id| self.referred.get(id).is_some_and(|nodes| nodes.contains_key(node));
        let by_volume = |volume: &Arc<str>| self.volumes.get(volume).is_some_and(|(claim, _)| by_pod(claim));
        match vertex {
            Vertex::Attachment | Vertex::Slice | Vertex::CertificateRequest => self.owned.get(&id).is_some_and(|n| &**n == node),
            Vertex::Volume => by_volume(&id.2),
            Vertex::Secret => by_pod(&id) || self.secret_volumes.get(&id).is_some_and(|all| all.iter().any(by_volume)),
            _ => by_pod(&id),
        }
    }
}

/// Every `…SecretRef: {name, namespace?}` (and `secretName`, of azureFile) inside a volume source; `home` is the claim's namespace.
fn secret_references(source: &coracle_tree::Value, home: &str, found: &mut Vec<Id>) {
    let Some(members) = source.as_object() else { return };
    let text = |value: &coracle_tree::Value, name: &str| value.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    for (key, value) in members {
        if key == "secretRef" || key.ends_with("SecretRef") {
            let (name, namespace) = (text(value, "name"), text(value, "namespace"));
            let namespace = if namespace.is_empty() { home } else { &namespace };
            found.push((Vertex::Secret, namespace.into(), name.into()));
        }
    }
    if let Some(name) = members.get("secretName").and_then(|v| v.as_str()) {
        let namespace = text(source, "secretNamespace");
        let namespace = if namespace.is_empty() { home } else { &namespace };
        found.push((Vertex::Secret, namespace.into(), name.into()));
    }
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: HashMap<String, serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Owned {
    metadata: Metadata,
    spec: OwnedSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnedSpec {
    #[serde(default)]
    node_name: String,
}

#[derive(Deserialize)]
struct Volume {
    metadata: Metadata,
    spec: VolumeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    claim_ref: Option<ClaimRef>,
    #[serde(flatten)]
    sources: HashMap<String, coracle_tree::Value>,
}

#[derive(Deserialize)]
struct ClaimRef {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PodSpec {
    node_name: String,
    service_account_name: String,
    image_pull_secrets: Vec<Named>,
    volumes: Vec<PodVolume>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
    resource_claims: Vec<PodClaim>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    resource_claim_statuses: Vec<PodClaim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodClaim {
    resource_claim_name: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    env: Vec<Env>,
    #[serde(default)]
    env_from: Vec<EnvFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Env {
    value_from: Option<ValueFrom>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ValueFrom {
    secret_key_ref: Option<Named>,
    config_map_key_ref: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvFrom {
    secret_ref: Option<Named>,
    config_map_ref: Option<Named>,
}

/// A volume of a pod: those sources that name other objects.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodVolume {
    name: String,
    secret: Option<SecretSource>,
    config_map: Option<Named>,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<serde::de::IgnoredAny>,
    projected: Option<Projected>,
    azure_file: Option<SecretSource>,
    #[serde(alias = "cephfs", alias = "rbd", alias = "flexVolume", alias = "scaleIO", alias = "storageos", alias = "iscsi")]
    network: Option<NetworkSource>,
    csi: Option<CsiSource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretSource {
    #[serde(default)]
    secret_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimSource {
    claim_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetworkSource {
    secret_ref: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CsiSource {
    node_publish_secret_ref: Option<Named>,
}

#[derive(Deserialize)]
struct Projected {
    #[serde(default, deserialize_with = "nullable")]
    sources: Vec<Projection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Projection {
    secret: Option<Named>,
    config_map: Option<Named>,
}

impl Pod {
    /// Calls `add` for every object in the pod's namespace that it refers to.
    fn refer(&self, add: &mut impl FnMut(Vertex, &str)) {
        let spec = &self.spec;
        let mut add = |vertex: Vertex, name: &str| {
            if !name.is_empty() {
                add(vertex, name);
            }
        };
        add(Vertex::ServiceAccount, &spec.service_account_name);
        spec.image_pull_secrets.iter().for_each(|s| add(Vertex::Secret, &s.name));
        for container in spec.containers.iter().chain(&spec.init_containers).chain(&spec.ephemeral_containers) {
            for from in container.env.iter().filter_map(|e| e.value_from.as_ref()) {
                from.secret_key_ref.iter().for_each(|s| add(Vertex::Secret, &s.name));
                from.config_map_key_ref.iter().for_each(|c| add(Vertex::ConfigMap, &c.name));
            }
            for from in &container.env_from {
                from.secret_ref.iter().for_each(|s| add(Vertex::Secret, &s.name));
                from.config_map_ref.iter().for_each(|c| add(Vertex::ConfigMap, &c.name));
            }
        }
        for volume in &spec.volumes {
            volume.refer(&self.metadata.name, &mut add);
        }
        // A claim made from a template is named by the status only.
        for claim in spec.resource_claims.iter().chain(&self.status.resource_claim_statuses) {
            add(Vertex::ResourceClaim, claim.resource_claim_name.as_deref().unwrap_or_default());
        }
    }
}

impl PodVolume {
    fn refer(&self, pod: &str, add: &mut impl FnMut(Vertex, &str)) {
        self.secret.iter().chain(&self.azure_file).for_each(|s| add(Vertex::Secret, &s.secret_name));
        self.config_map.iter().for_each(|c| add(Vertex::ConfigMap, &c.name));
        self.persistent_volume_claim.iter().for_each(|c| add(Vertex::Claim, &c.claim_name));
        if self.ephemeral.is_some() {
            add(Vertex::Claim, &format!("{pod}-{}", self.name));
        }
        for source in self.projected.iter().flat_map(|p| &p.sources) {
            source.secret.iter().for_each(|s| add(Vertex::Secret, &s.name));
            source.config_map.iter().for_each(|c| add(Vertex::ConfigMap, &c.name));
        }
        let references = self.network.iter().filter_map(|n| n.secret_ref.as_ref());
        references.chain(self.csi.iter().filter_map(|c| c.node_publish_secret_ref.as_ref())).for_each(|s| add(Vertex::Secret, &s.name));
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn pod(node: &str) -> Vec<u8> {
        json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "nodeName": node, "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
                "containers": [{
                    "name": "c",
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "settings"}}],
                }],
                "volumes": [
                    {"name": "s", "secret": {"secretName": "mounted"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"serviceAccountToken": {"path": "t"}}]}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "e", "ephemeral": {"volumeClaimTemplate": {}}},
                    {"name": "x", "emptyDir": {}},
                ],
            },
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn a_node_reaches_what_its_pods_refer_to_and_nothing_else() {
        let mut graph = Graph::default();
        graph.put_pod(&pod("a"));
        for (vertex, name) in [
            (Vertex::Pod, "web"),
            (Vertex::ServiceAccount, "robot"),
            (Vertex::Secret, "pull"),
            (Vertex::Secret, "env"),
            (Vertex::Secret, "mounted"),
            (Vertex::ConfigMap, "settings"),
            (Vertex::ConfigMap, "kube-root-ca.crt"),
            (Vertex::Claim, "data"),
            (Vertex::Claim, "web-e"),
        ] {
            assert!(graph.reaches("a", vertex, "ns", name), "{vertex:?} {name}");
            assert!(!graph.reaches("b", vertex, "ns", name), "{vertex:?} {name}");
            assert!(!graph.reaches("a", vertex, "other", name), "{vertex:?} {name}");
        }
        assert!(!graph.reaches("a", Vertex::Secret, "ns", "else"));
        graph.remove_pod("ns", "web");
        assert!(!graph.reaches("a", Vertex::Secret, "ns", "env"));
        assert!(graph.referred.is_empty() && graph.pods.is_empty());
    }

    #[test]
    fn a_pod_without_node_or_mirroring_a_file_opens_nothing() {
        let mut graph = Graph::default();
        graph.put_pod(&pod(""));
        assert!(graph.referred.is_empty());
        let mut mirror: coracle_tree::Value = serde_json::from_slice(&pod("a")).unwrap();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        graph.put_pod(mirror.to_string().as_bytes());
        assert!(graph.reaches("a", Vertex::Pod, "ns", "web") && !graph.reaches("a", Vertex::Secret, "ns", "env"));
    }

    #[test]
    fn volumes_and_their_secrets_are_reached_through_claims() {
        let mut graph = Graph::default();
        let source = json!({"driver": "d", "nodeStageSecretRef": {"name": "stage", "namespace": "store"}});
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "data"}, "csi": source}});
        graph.put_volume(volume.to_string().as_bytes());
        assert!(!graph.reaches("a", Vertex::Volume, "", "pv"));
        graph.put_pod(&pod("a"));
        assert!(graph.reaches("a", Vertex::Volume, "", "pv") && graph.reaches("a", Vertex::Secret, "store", "stage"));
        graph.remove_volume("pv");
        assert!(!graph.reaches("a", Vertex::Volume, "", "pv") && !graph.reaches("a", Vertex::Secret, "store", "stage"));
    }
}
