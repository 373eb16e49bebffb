//! NodeRestriction: a node writes only what is its own (`plugin/pkg/admission/noderestriction`).

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use coracle_tree::{Map, Text, Value};

mod audience;
mod certificate;
mod refers;

use super::{
    Admission, Attempt, Operation,
    look::{self, list, text},
};
use crate::{
    authz::{Chain, node::identity},
    registry::{Object, Reader},
    request::RequestInfo,
    wire::{Status, status::Subject},
};

/// Marks pods that stand for a node's own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Kubernetes labels a node may set on itself (`kubelet/pkg/apis/well_known_labels.go`).
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
];

/// Prefixes of further labels it may set.
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The plugin.
pub struct NodeRestriction {
    /// Where pods and nodes are looked up.
    pub reader: Arc<dyn Reader>,
    /// Who says what a node may ask for besides what its pods name.
    pub authorizer: Chain,
}

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.user.name.starts_with("system:node:") && identity(attempt.user).is_some() && attempt.operation != Operation::Connect
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let node = identity(attempt.user).unwrap_or_default();
        if node.is_empty() {
            return Err(look::forbidden(attempt, new, &format!("could not determine node from user {:?}", attempt.user.name)));
        }
        match self.judge(attempt, node, new).await {
            Ok(()) => Ok(()),
            Err(Refusal::Why(why)) => Err(look::forbidden(attempt, new, &why)),
            Err(Refusal::Status(status)) => Err(status),
        }
    }
}

/// Why not.
enum Refusal {
    Why(String),
    Status(Status),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Why(why)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl NodeRestriction {
    async fn judge(&self, attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), Refusal> {
        let request = attempt.request;
        let name = new.map(Object::name).filter(|n| !n.is_empty()).unwrap_or(&request.name);
        match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
            ("", "pods", "") | ("", "pods", "eviction") => self.pod(attempt, node, new).await,
            ("", "pods", "status") => Ok(pod_status(attempt, node, new)?),
            ("", "pods", other) => Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed").into()),
            ("", "nodes", _) => Ok(own_node(attempt, node, name, new)?),
            ("", "persistentvolumeclaims", "status") => Ok(claim_status(attempt, node, new)?),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned().into()),
            ("", "serviceaccounts", "token") if attempt.operation == Operation::Create => self.token(attempt, node, new).await,
            ("coordination.k8s.io", "leases", _) if request.namespace != "kube-node-lease" => {
                Err(r#"can only access leases in the "kube-node-lease" system namespace"#.to_owned().into())
            }
            ("coordination.k8s.io", "leases", _) if name != node => {
                Err("can only access node lease with the same name as the requesting node".to_owned().into())
            }
            ("storage.k8s.io", "csinodes", _) if name != node => {
                Err("can only access CSINode with the same name as the requesting node".to_owned().into())
            }
            ("resource.k8s.io", "resourceslices", _) => Ok(slice(attempt, node, new)?),
            ("certificates.k8s.io", "certificatesigningrequests", _) => Ok(certificate::own(attempt, node, new)?),
            ("certificates.k8s.io", "podcertificaterequests", "") => self.pod_certificate(attempt, node, new).await,
            ("certificates.k8s.io", "podcertificaterequests", part) if attempt.operation == Operation::Create => {
                Err(format!("unexpected subresource {part}").into())
            }
            ("certificates.k8s.io", "podcertificaterequests", _) => Err(format!("unexpected operation {}", told(attempt)).into()),
            _ => Ok(()),
        }
    }

    async fn pod(&self, attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), Refusal> {
        let request = attempt.request;
        match (attempt.operation, request.subresource.as_str(), new) {
            (Operation::Delete, ..) => {
                let bound = attempt.old.map(|o| o.text("/spec/nodeName")).unwrap_or_default();
                if bound == node {
                    Ok(())
                } else {
                    Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself").into())
                }
            }
            (Operation::Create, "eviction", _) => {
                let pod = self.found("pods", &request.namespace, &request.name).await?;
                let own = pod.text("/spec/nodeName") == node;
                if own { Ok(()) } else { Err(format!("node {node} can only evict pods with spec.nodeName set to itself").into()) }
            }
            (Operation::Create, _, Some(pod)) => self.mirror(node, pod).await,
            _ => Err(format!("unexpected operation {:?}, node {node:?} can only create and delete mirror pods", told(attempt)).into()),
        }
    }

    /// A node makes only mirror pods of itself, which open nothing.
    async fn mirror(&self, node: &str, pod: &Object) -> Result<(), Refusal> {
        let refuse = |why: &str| Err(Refusal::Why(why.to_owned()));
        if pod.annotation(MIRROR).is_none() {
            return refuse(&format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
        }
        if pod.text("/spec/nodeName") != node {
            return refuse(&format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match list(pod.value(), "/metadata/ownerReferences") {
            [] => return refuse(&format!("node {node:?} can only create pods with an owner reference set to itself")),
            [one] => one,
            _ => return refuse(&format!("node {node:?} can only create pods with a single owner reference set to itself")),
        };
        if (text(owner, "apiVersion"), text(owner, "kind"), text(owner, "name")) != ("v1", "Node", node) {
            return refuse(&format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        let flag = |name: &str| owner.get(name).and_then(Value::as_bool).unwrap_or_default();
        if !flag("controller") {
            return refuse(&format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if flag("blockOwnerDeletion") {
            return refuse(&format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let own = self.found("nodes", "", node).await?;
        if own.uid() != text(owner, "uid") {
            return refuse(&format!("node {node} UID mismatch: expected {} got {}", text(owner, "uid"), own.uid()));
        }
        match refers::referred(pod.value().get("spec").unwrap_or(&Value::Null)) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => refuse(&format!("node {node:?} can not create pods that reference {what}")),
            Err(why) => refuse(&format!("error checking mirror pod for API references: {why}")),
        }
    }

    /// Tokens only for the accounts of its pods, bound to them.
    async fn token(&self, attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), Refusal> {
        let bound = new.and_then(|o| o.value().pointer("/spec/boundObjectRef")).unwrap_or(&Value::Null);
        if text(bound, "apiVersion") != "v1" || text(bound, "kind") != "Pod" || text(bound, "name").is_empty() {
            return Err("node requested token not bound to a pod".to_owned().into());
        }
        let uid = text(bound, "uid");
        if uid.is_empty() {
            return Err("node requested token with a pod binding without a uid".to_owned().into());
        }
        let pod = self.found("pods", &attempt.request.namespace, text(bound, "name")).await?;
        if pod.uid() != uid {
            return Err(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )
            .into());
        }
        if pod.text("/spec/nodeName") != node {
            return Err("node requested token bound to a pod scheduled on a different node".to_owned().into());
        }
        self.audience(attempt, new, &pod).await
    }

    /// Whether the node may do something of its own right.
    async fn may(&self, attempt: &Attempt<'_>, verb: &str, resource: &str, name: &str) -> Result<bool, String> {
        let request = attempt.request;
        let asked = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: request.group.clone(),
            version: request.version.clone(),
            namespace: request.namespace.clone(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        let verdict = self.authorizer.decide(attempt.user, &asked).await;
        match verdict.error {
            Some(why) if !verdict.is_allowed() => Err(why),
            _ => Ok(verdict.is_allowed()),
        }
    }

    async fn found(&self, resource: &str, namespace: &str, name: &str) -> Result<Object, Status> {
        let found: Option<Value> = look::one(&*self.reader, "", resource, namespace, name).await?;
        found.and_then(Object::new).ok_or_else(|| Status::not_found(Subject { group: "", resource, name }))
    }
}

/// An operation as upstream tells it.
fn told(attempt: &Attempt<'_>) -> &'static str {
    match attempt.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn pod_status(attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), String> {
    let (Operation::Update, Some(old), Some(new)) = (attempt.operation, attempt.old, new) else {
        return Err(format!("unexpected operation {:?}", told(attempt)));
    };
    if old.text("/spec/nodeName") != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if labels(Some(old)) != labels(Some(new)) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let differs = |field: &str| {
        let of =
            |pod: &Object| pod.value().pointer(field).filter(|v| !v.is_null() && v.as_array().is_none_or(|all| !all.is_empty())).cloned();
        of(old) != of(new)
    };
    let scheduler = [
        ("/status/resourceClaimStatuses", "resource claim statues"),
        ("/status/extendedResourceClaimStatus", "extended resource claim status"),
        ("/status/nodeAllocatableResourceClaimStatuses", "node allocatable resource claim statuses"),
    ];
    if let Some((_, what)) = scheduler.into_iter().find(|(field, _)| differs(field)) {
        return Err(format!("node {node:?} cannot update {what}"));
    }
    Ok(())
}

fn own_node(attempt: &Attempt<'_>, node: &str, name: &str, new: Option<&Object>) -> Result<(), String> {
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let forbidden = forbidden_labels(&labels(attempt.old), &labels(new)).join(", ");
    // What a spec points to the node may read.
    let source = |o: Option<&Object>| o.and_then(|o| o.value().pointer("/spec/configSource")).filter(|source| !source.is_null()).cloned();
    let (before, source) = (source(attempt.old), source(new));
    match attempt.operation {
        Operation::Create if source.is_some() => Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource")),
        Operation::Create if !forbidden.is_empty() => Err(format!("node {node:?} is not allowed to set the following labels: {forbidden}")),
        Operation::Update => {
            let taints = |o: Option<&Object>| o.map(|o| list(o.value(), "/spec/taints").to_vec()).unwrap_or_default();
            // With its owner a node is collected: whoever makes it anew has the labels and taints it wants.
            let owners = |o: Option<&Object>| o.map(|o| list(o.value(), "/metadata/ownerReferences").to_vec()).unwrap_or_default();
            if source.is_some() && source != before {
                return Err(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
            }
            if taints(attempt.old) != taints(new) {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if owners(attempt.old) != owners(new) {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            if forbidden.is_empty() { Ok(()) } else { Err(format!("is not allowed to modify labels: {forbidden}")) }
        }
        _ => Ok(()),
    }
}

fn claim_status(attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), String> {
    let (Operation::Update, Some(old), Some(new)) = (attempt.operation, attempt.old, new) else {
        return Err(format!("unexpected operation {:?}", told(attempt)));
    };
    let rest = |object: &Object| {
        let mut value = object.value().clone();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        if let Some(status) = value["status"].as_object_mut() {
            for own in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                status.remove(own);
            }
        }
        value
    };
    if rest(old) == rest(new) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions"))
}

/// The node of a slice is who makes or deletes it; slices that are there already are the authorizer's matter.
fn slice(attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), String> {
    let (slice, what) = match attempt.operation {
        Operation::Create => (new, "create"),
        Operation::Delete => (attempt.old, "delete"),
        _ => return Ok(()),
    };
    if slice.is_some_and(|slice| slice.text("/spec/nodeName") == node) {
        return Ok(());
    }
    Err(format!("can only {what} ResourceSlice with the same NodeName as the requesting node"))
}

fn labels(object: Option<&Object>) -> Map {
    let found = object.and_then(|o| o.value().pointer("/metadata/labels")).and_then(Value::as_object);
    found.cloned().unwrap_or_default()
}

/// The labels changed that are not a node's to change, sorted.
fn forbidden_labels(old: &Map, new: &Map) -> Vec<String> {
    let keys: BTreeSet<&Text> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|k| old.get(k) != new.get(k));
    changed.filter(|k| is_forbidden(k)).map(ToString::to_string).collect()
}

fn is_forbidden(label: &str) -> bool {
    let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
    let within = |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    kubernetes && !OWN_LABELS.contains(&label) && !OWN_PREFIXES.iter().any(|p| within(p))
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use coracle_tree::json;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::{
        admission::bench::{Bench, pod},
        authn::User,
        authz::{Authorizer, Decision},
    };

    /// Allows one audience and one signer.
    struct Rule;

    impl Authorizer for Rule {
        fn name(&self) -> &'static str {
            "rule"
        }

        fn decide(&self, _: &User, request: &RequestInfo) -> Decision {
            let asked = (request.verb.as_str(), request.resource.as_str(), request.namespace.as_str(), request.name.as_str());
            match asked {
                ("request-serviceaccounts-token-audience", "vault", "live", "default") => Decision::Allow,
                ("request-serviceaccounts-podcertificate-signer", "example.com:any", "live", "default") => Decision::Allow,
                _ => Decision::NoOpinion(String::new()),
            }
        }
    }

    fn bench() -> (Bench, NodeRestriction) {
        let mut bench = Bench::new();
        bench.user = User::new("system:node:a", &["system:nodes"]);
        bench.reader.put("", "nodes", json!({"metadata": {"name": "a", "uid": "node-a"}}));
        bench.reader.put("", "pods", json!({"metadata": {"name": "mine", "namespace": "live", "uid": "p1"}, "spec": {
            "nodeName": "a", "serviceAccountName": "default",
            "volumes": [
                {"name": "own", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"podCertificate": {"signerName": "example.com/s"}}]}},
                {"name": "other", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "db"}}]}},
            ],
        }}));
        bench.reader.put("", "pods", json!({"metadata": {"name": "other", "namespace": "live", "uid": "p2"}, "spec": {"nodeName": "b"}}));
        let plugin = NodeRestriction { reader: bench.reader.clone(), authorizer: Chain::new(vec![Arc::new(Rule)]) };
        (bench, plugin)
    }

    fn mirror() -> Value {
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "node-a", "controller": true}]);
        mirror["spec"]["nodeName"] = "a".into();
        mirror
    }

    fn node(labels: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": labels}, "spec": {}})
    }

    #[tokio::test]
    async fn others_than_nodes_are_not_concerned() {
        let (mut b, plugin) = bench();
        b.user = User::new("jane", &[]);
        assert!(b.create(&plugin, "pods live web", pod()).await.is_ok());
    }

    #[tokio::test]
    async fn a_node_makes_only_mirror_pods_that_open_nothing() {
        let (b, plugin) = bench();
        assert!(b.create(&plugin, "pods live web", mirror()).await.is_ok());
        type Case = (fn(&mut Value), &'static str);
        let cases: [Case; 5] = [
            (|p| p["metadata"]["annotations"] = json!({}), "can only create mirror pods"),
            (|p| p["spec"]["nodeName"] = "b".into(), "spec.nodeName set to itself"),
            (|p| p["metadata"]["ownerReferences"][0]["uid"] = "x".into(), "UID mismatch"),
            (|p| p["spec"]["serviceAccountName"] = "x".into(), "reference serviceaccounts"),
            (|p| p["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]), "reference secrets"),
        ];
        for (change, expected) in cases {
            let mut changed = mirror();
            change(&mut changed);
            let refused = b.create(&plugin, "pods live web", changed).await.unwrap_err();
            assert!(refused.message.contains(expected), "{}", refused.message);
        }
    }

    #[tokio::test]
    async fn a_node_touches_only_itself_and_its_own_labels() {
        let (b, plugin) = bench();
        let set = async |labels: Value| b.create(&plugin, "nodes - a", node(labels)).await.map_err(|s| s.message);
        assert!(set(json!({"kubernetes.io/hostname": "a", "node.kubernetes.io/x": "1", "mine": "1"})).await.is_ok());
        let refused = set(json!({"node-role.kubernetes.io/control-plane": ""})).await.unwrap_err();
        assert!(refused.ends_with("is not allowed to set the following labels: node-role.kubernetes.io/control-plane"), "{refused}");
        assert!(set(json!({"team.node-restriction.kubernetes.io/x": "1"})).await.is_err());
        let mut other = node(json!({}));
        other["metadata"]["name"] = "b".into();
        assert!(b.create(&plugin, "nodes - b", other).await.unwrap_err().message.contains(r#"not allowed to modify node "b""#));
        let mut tainted = node(json!({}));
        tainted["spec"]["taints"] = json!([{"key": "k"}]);
        assert!(b.update(&plugin, "nodes - a", tainted, node(json!({}))).await.unwrap_err().message.contains("modify taints"));
        let mut owned = node(json!({}));
        owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "u"}]);
        assert!(
            b.update(&plugin, "nodes - a", node(json!({})), owned.clone()).await.unwrap_err().message.contains("modify ownerReferences")
        );
        assert!(b.update(&plugin, "nodes - a", owned.clone(), owned).await.is_ok());
        let mut sourced = node(json!({}));
        sourced["spec"]["configSource"] = json!({"configMap": {"name": "c", "namespace": "live"}});
        assert!(b.create(&plugin, "nodes - a", sourced.clone()).await.unwrap_err().message.contains("non-nil configSource"));
        assert!(b.update(&plugin, "nodes - a", sourced.clone(), node(json!({}))).await.is_ok());
        assert!(b.update(&plugin, "nodes - a", node(json!({})), sourced).await.is_err());
    }

    #[tokio::test]
    async fn statuses_evictions_and_tokens_are_for_its_own_pods() {
        let (b, plugin) = bench();
        let of = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        assert!(b.update(&plugin, "pods/status live p", of("a"), of("a")).await.is_ok());
        assert!(b.update(&plugin, "pods/status live p", of("b"), of("b")).await.is_err());
        assert!(b.create(&plugin, "pods/eviction live mine", json!({})).await.is_ok());
        assert!(b.create(&plugin, "pods/eviction live other", json!({})).await.is_err());
        let token =
            |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
        assert!(b.create(&plugin, "serviceaccounts/token live default", token("mine", "p1")).await.is_ok());
        for (request, expected) in [
            (token("other", "p2"), "scheduled on a different node"),
            (token("mine", "p9"), "does not match the UID in record"),
            (token("mine", ""), "without a uid"),
            (json!({"spec": {}}), "not bound to a pod"),
        ] {
            let refused = b.create(&plugin, "serviceaccounts/token live default", request).await.unwrap_err();
            assert!(refused.message.contains(expected), "{}", refused.message);
        }
    }

    #[tokio::test]
    async fn audiences_of_tokens_are_those_its_pods_name_or_it_may_ask_for() {
        let (b, plugin) = bench();
        let pod = |uid: &str, volumes: Value| json!({"metadata": {"name": uid, "namespace": "live", "uid": uid}, "spec": {"nodeName": "a", "volumes": volumes}});
        b.reader.put("", "pods", pod("csi", json!([{"name": "v", "csi": {"driver": "d.io"}}])));
        b.reader.put("", "pods", pod("lost", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "gone"}}])));
        b.reader.put("", "pods", pod("eph", json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}])));
        b.reader.put("", "pods", pod("old", json!([{"name": "v", "azureFile": {"secretName": "s", "shareName": "x"}}])));
        let claim = json!({"metadata": {"name": "eph-v", "namespace": "live"}, "spec": {"volumeName": "pv"}});
        b.reader.put("", "persistentvolumeclaims", claim);
        b.reader.put("", "persistentvolumes", json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d.io"}}}));
        for name in ["d.io", "file.csi.azure.com"] {
            b.reader.put(
                "storage.k8s.io",
                "csidrivers",
                json!({"metadata": {"name": name}, "spec": {"tokenRequests": [{"audience": name}]}}),
            );
        }
        let ask = async |pod: &str, uid: &str, audiences: &[&str]| {
            let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
            let request = json!({"spec": {"boundObjectRef": bound, "audiences": audiences}});
            b.create(&plugin, "serviceaccounts/token live default", request).await.map_err(|s| s.message)
        };
        for (pod, uid, audiences) in [
            ("mine", "p1", &[][..]),
            ("mine", "p1", &["db"]),
            ("mine", "p1", &["vault"]),
            ("csi", "csi", &["d.io"]),
            ("eph", "eph", &["d.io"]),
            ("old", "old", &["file.csi.azure.com"]),
        ] {
            assert!(ask(pod, uid, audiences).await.is_ok(), "{pod} {audiences:?}");
        }
        for (pod, uid, audiences, expected) in [
            ("mine", "p1", &["db", "vault"][..], "node may only request 0 or 1 audiences"),
            ("mine", "p1", &["x"], r#"system:node:a is not authorized to request tokens for audience "x""#),
            ("csi", "csi", &["db"], r#"system:node:a is not authorized to request tokens for audience "db""#),
            ("lost", "lost", &["db"], r#"error validating audience "db": persistentvolumeclaim "gone" not found"#),
        ] {
            let why = ask(pod, uid, audiences).await.unwrap_err();
            assert!(why.ends_with(expected), "{why}");
        }
    }

    #[tokio::test]
    async fn certificates_are_its_own_and_those_its_pods_name() {
        let (b, plugin) = bench();
        b.reader.put("", "serviceaccounts", json!({"metadata": {"name": "default", "namespace": "live", "uid": "sa"}}));
        let asked = json!({
            "signerName": "example.com/s", "podName": "mine", "podUID": "p1", "nodeName": "a", "nodeUID": "node-a",
            "serviceAccountName": "default", "serviceAccountUID": "sa",
        });
        let ask = async |field: &str, value: &str| {
            let mut spec = asked.clone();
            spec[field] = value.into();
            let request = json!({"metadata": {"name": "r", "namespace": "live"}, "spec": spec});
            b.create(&plugin, "podcertificaterequests.certificates.k8s.io live r", request).await.map_err(|s| (s.code, s.message))
        };
        assert!(ask("signerName", "example.com/s").await.is_ok() && ask("signerName", "example.com/any").await.is_ok());
        for (field, value, code, expected) in [
            (
                "signerName",
                "example.com/x",
                403,
                r#"pod "live/mine" does not mount a podCertificate projected volume for signer "example.com/x""#,
            ),
            ("nodeName", "b", 403, r#"PodCertificateRequest.Spec.NodeName="b", which is not the requesting node "a""#),
            ("nodeUID", "x", 500, r#"names node UID "x", inconsistent with the running node ("node-a")"#),
            ("podUID", "x", 500, r#"contains pod UID ("x") which differs from running pod "p1""#),
            ("serviceAccountName", "x", 403, r#"contains serviceAccountName ("x") that differs from running pod ("default")"#),
            ("serviceAccountUID", "x", 500, r#"names service account UID "x", which differs from the running service account ("sa")"#),
        ] {
            let (told, why) = ask(field, value).await.unwrap_err();
            assert!(told == code && why.ends_with(expected), "{told} {why}");
        }

        let signed = async |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            let spec = json!({"signerName": "kubernetes.io/kubelet-serving", "request": STANDARD.encode(pem)});
            let request = json!({"metadata": {"name": "r"}, "spec": spec});
            b.create(&plugin, "certificatesigningrequests.certificates.k8s.io - r", request).await.map_err(|s| s.message)
        };
        assert!(signed("system:node:a").await.is_ok());
        let why = signed("system:node:b").await.unwrap_err();
        assert!(why.ends_with("can only create a node CSR with CN=system:node:a"), "{why}");
    }

    #[tokio::test]
    async fn leases_are_its_own() {
        let (b, plugin) = bench();
        let lease = |name: &str| json!({"metadata": {"name": name}});
        assert!(b.create(&plugin, "leases.coordination.k8s.io kube-node-lease a", lease("a")).await.is_ok());
        assert!(b.create(&plugin, "leases.coordination.k8s.io kube-node-lease b", lease("b")).await.is_err());
        assert!(b.create(&plugin, "leases.coordination.k8s.io live a", lease("a")).await.is_err());
    }
}
