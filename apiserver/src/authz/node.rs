//! What kubelets may do (`plugin/pkg/auth/authorizer/node`): read only what their pods refer to, write only what is theirs.

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use parking_lot::RwLock;

use super::{
    Authorizer, Decision,
    graph::{Graph, Vertex},
    policy::Rule,
    rules::Known,
};
use crate::{
    authn::User,
    registry::{Change, Reader},
    request::RequestInfo,
    wire::Status,
};

/// The group all nodes are in.
const NODES: &str = "system:nodes";

/// What precedes the node's name in its user name.
const PREFIX: &str = "system:node:";

/// The namespace of node leases.
const LEASES: &str = "kube-node-lease";

/// The node authorizer.
pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    /// What every node may do alike: the rules of the ClusterRole `system:node`.
    rules: Vec<Rule>,
}

/// The changes still to come after [`NodeAuthorizer::load`].
pub struct Changes(Vec<(Vertex, BoxStream<'static, Change>)>);

/// What feeds the graph.
const SOURCES: [(Vertex, &str, &str); 5] = [
    (Vertex::Pod, "", "pods"),
    (Vertex::Volume, "", "persistentvolumes"),
    (Vertex::Attachment, "storage.k8s.io", "volumeattachments"),
    (Vertex::Slice, "resource.k8s.io", "resourceslices"),
    (Vertex::CertificateRequest, "certificates.k8s.io", "podcertificaterequests"),
];

/// The name of the node a user is; `None` when it is none. Empty when it is in the nodes' group without a node's name.
pub fn identity(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    user.in_group(NODES).then_some(name)
}

impl NodeAuthorizer {
    /// With the rules of the ClusterRole `system:node`.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { graph: RwLock::default(), rules }
    }

    /// Reads what is there. Decisions are right from here on; [`NodeAuthorizer::follow`] keeps them so.
    pub async fn load(&self, reader: &dyn Reader) -> Result<Changes, Status> {
        let mut streams = Vec::new();
        for (vertex, group, resource) in SOURCES {
            let (now, changes) = reader.begin_readable(group, resource).await?;
            let mut graph = self.graph.write();
            now.iter().for_each(|object| put(&mut graph, vertex, object));
            streams.push((vertex, changes));
        }
        Ok(Changes(streams))
    }

    /// Applies changes until the server stops; run it as a task.
    pub async fn follow(self: Arc<Self>, changes: Changes) {
        let tagged = changes.0.into_iter().map(|(vertex, stream)| stream.map(move |c| (vertex, c)).boxed());
        let mut all = futures::stream::select_all(tagged);
        while let Some((vertex, change)) = all.next().await {
            let mut graph = self.graph.write();
            match (&change.object, vertex) {
                (Some(object), _) => put(&mut graph, vertex, object),
                (None, Vertex::Pod) => graph.remove_pod(&change.namespace, &change.name),
                (None, Vertex::Volume) => graph.remove_volume(&change.name),
                (None, _) => graph.remove_owned(vertex, &change.namespace, &change.name),
            }
        }
    }

    /// `Ok` when the node may; else why not (empty: nothing to say).
    fn judge(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if request.is_resource {
            match (request.group.as_str(), request.resource.as_str()) {
                ("", "secrets") => return self.read(node, Vertex::Secret, request),
                ("", "configmaps") => return self.read(node, Vertex::ConfigMap, request),
                ("", "persistentvolumeclaims") if request.subresource == "status" => return self.status(node, Vertex::Claim, request),
                ("", "persistentvolumeclaims") => return self.get(node, Vertex::Claim, request),
                ("", "persistentvolumes") => return self.get(node, Vertex::Volume, request),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, Vertex::ResourceClaim, request),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, Vertex::Attachment, request),
                ("", "serviceaccounts") => return self.account(node, request),
                ("coordination.k8s.io", "leases") => return lease(node, request),
                ("storage.k8s.io", "csinodes") => return csi_node(node, request),
                ("resource.k8s.io", "resourceslices") => return self.slice(node, request),
                ("certificates.k8s.io", "podcertificaterequests") => return self.certificate_request(node, request),
                ("", "nodes") => return own_node(node, request),
                ("", "pods") => return self.pod(node, request),
                _ => {}
            }
        }
        // Everything else is the same for all nodes.
        if self.rules.iter().any(|r| r.allows(request)) { Ok(()) } else { Err(String::new()) }
    }

    fn read(&self, node: &str, vertex: Vertex, request: &RequestInfo) -> Result<(), String> {
        require(matches!(request.verb.as_str(), "get" | "list" | "watch"), "can only read resources of this type")?;
        require(request.subresource.is_empty(), "cannot read subresource")?;
        require(!request.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related(node, vertex, request)
    }

    fn get(&self, node: &str, vertex: Vertex, request: &RequestInfo) -> Result<(), String> {
        require(request.verb == "get", "can only get individual resources of this type")?;
        require(request.subresource.is_empty(), "cannot get subresource")?;
        self.related(node, vertex, request)
    }

    fn status(&self, node: &str, vertex: Vertex, request: &RequestInfo) -> Result<(), String> {
        require(matches!(request.verb.as_str(), "update" | "patch"), "can only get/update/patch this type")?;
        self.related(node, vertex, request)
    }

    fn account(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if request.verb == "get" && request.subresource.is_empty() {
            return self.related(node, Vertex::ServiceAccount, request);
        }
        let individual = request.verb == "create" && !request.name.is_empty();
        require(individual, "can only create tokens for individual service accounts")?;
        require(request.subresource == "token", "can only create token subresource of serviceaccount")?;
        self.related(node, Vertex::ServiceAccount, request)
    }

    fn slice(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        require(request.subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
        match request.verb.as_str() {
            // NodeRestriction looks into the new object.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Vertex::Slice, request),
            "watch" | "list" | "deletecollection" => require(
                request.fields.requires("spec.nodeName") == Some(node),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".into()),
        }
    }

    fn certificate_request(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        require(request.subresource.is_empty(), "nodes may not access the status subresource of PodCertificateRequests")?;
        match request.verb.as_str() {
            // NodeRestriction looks into the new object.
            "create" => Ok(()),
            "get" => self.related(node, Vertex::CertificateRequest, request),
            "list" | "watch" => require(
                request.fields.requires("spec.nodeName") == Some(node),
                "can only list/watch podcertificaterequests with nodeName field selector",
            ),
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn pod(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        match (request.subresource.as_str(), request.verb.as_str()) {
            ("", "get") => self.related(node, Vertex::Pod, request),
            ("", "list" | "watch") if request.fields.requires("spec.nodeName") == Some(node) => Ok(()),
            ("", "list" | "watch") if !request.name.is_empty() => self.related(node, Vertex::Pod, request),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".into()),
            // Mirror pods, statuses and evictions of its own pods only: NodeRestriction sees to it.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn related(&self, node: &str, vertex: Vertex, request: &RequestInfo) -> Result<(), String> {
        require(!request.name.is_empty(), "No Object name found")?;
        let reached = self.graph.read().reaches(node, vertex, &request.namespace, &request.name);
        if reached { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
    }
}

impl Authorizer for NodeAuthorizer {
    fn name(&self) -> &str {
        "node"
    }

    fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
        match identity(user) {
            None => Decision::NoOpinion(String::new()),
            Some("") => Decision::NoOpinion(format!("unknown node for user {:?}", user.name)),
            Some(node) => self.judge(node, request).map_or_else(Decision::NoOpinion, |()| Decision::Allow),
        }
    }

    fn rules(&self, user: &User, _namespace: &str) -> Known {
        match identity(user) {
            Some(_) => Known::untold("node authorizer does not support user rule resolution"),
            None => Known::default(),
        }
    }
}

fn put(graph: &mut Graph, vertex: Vertex, object: &[u8]) {
    match vertex {
        Vertex::Pod => graph.put_pod(object),
        Vertex::Volume => graph.put_volume(object),
        other => graph.put_owned(other, object),
    }
}

fn require(condition: bool, why: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(why.to_owned()) }
}

fn lease(node: &str, request: &RequestInfo) -> Result<(), String> {
    let verbs = matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete");
    require(verbs, "can only get, create, update, patch, or delete a node lease")?;
    require(request.namespace == LEASES, &format!("can only access leases in the {LEASES:?} system namespace"))?;
    // A create does not tell the name yet; NodeRestriction does.
    let own = request.verb == "create" || request.name == node;
    require(own, "can only access node lease with the same name as the requesting node")
}

fn csi_node(node: &str, request: &RequestInfo) -> Result<(), String> {
    let verbs = matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete");
    require(verbs, "can only get, create, update, patch, or delete a CSINode")?;
    require(request.subresource.is_empty(), "cannot authorize CSINode subresources")?;
    let own = request.verb == "create" || request.name == node;
    require(own, "can only access CSINode with the same name as the requesting node")
}

fn own_node(node: &str, request: &RequestInfo) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match request.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::{fake::FakeReader, selector::FieldSelector};

    async fn authorizer() -> NodeAuthorizer {
        let reader = FakeReader::default();
        let spec = json!({"nodeName": "a", "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}]});
        reader.put("", "pods", json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}));
        reader.put("storage.k8s.io", "volumeattachments", json!({"metadata": {"name": "va"}, "spec": {"nodeName": "a"}}));
        for (name, node) in [("mine", "a"), ("theirs", "b")] {
            let request = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": node}});
            reader.put("certificates.k8s.io", "podcertificaterequests", request);
        }
        let services = json!({"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]});
        let authorizer = NodeAuthorizer::new(vec![coracle_tree::from_value(services).unwrap()]);
        authorizer.load(&reader).await.unwrap();
        authorizer
    }

    /// `verb group resource/subresource namespace name [nodeName selector]`, `-` for empty.
    fn request(line: &str) -> RequestInfo {
        let parts: Vec<&str> = line.split(' ').map(|p| if p == "-" { "" } else { p }).collect();
        let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
        RequestInfo {
            is_resource: true,
            verb: parts[0].into(),
            group: parts[1].into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: parts[3].into(),
            name: parts[4].into(),
            fields: parts.get(5).map(|n| FieldSelector::parse(&format!("spec.nodeName={n}")).unwrap()).unwrap_or_default(),
            ..RequestInfo::default()
        }
    }

    #[tokio::test]
    async fn a_node_is_held_to_its_own_objects_and_its_pods_needs() {
        let authorizer = authorizer().await;
        let node = User::new("system:node:a", &["system:nodes"]);
        for (line, allowed) in [
            ("get - secrets ns pull", true),
            ("watch - secrets ns pull", true),
            ("list - secrets ns -", false),
            ("get - secrets ns other", false),
            ("update - secrets ns pull", false),
            ("create - serviceaccounts/token ns robot", true),
            ("create - serviceaccounts/token ns other", false),
            ("get - serviceaccounts ns robot", true),
            ("get storage.k8s.io volumeattachments - va", true),
            ("list storage.k8s.io volumeattachments - -", false),
            ("get - nodes - a", true),
            ("get - nodes - b", false),
            ("list - nodes - -", false),
            ("create - nodes - -", true),
            ("patch - nodes/status - a", true),
            ("delete - nodes - a", false),
            ("list - pods - - a", true),
            ("list - pods - - b", false),
            ("watch - pods - -", false),
            ("get - pods ns p", true),
            ("get - pods ns q", false),
            ("patch - pods/status ns p", true),
            ("create - pods/eviction ns p", true),
            ("create - pods/exec ns p", false),
            ("update coordination.k8s.io leases kube-node-lease a", true),
            ("update coordination.k8s.io leases kube-node-lease b", false),
            ("create coordination.k8s.io leases kube-node-lease -", true),
            ("get coordination.k8s.io leases ns a", false),
            ("create certificates.k8s.io podcertificaterequests ns -", true),
            ("get certificates.k8s.io podcertificaterequests ns mine", true),
            ("get certificates.k8s.io podcertificaterequests ns theirs", false),
            ("get certificates.k8s.io podcertificaterequests other mine", false),
            ("list certificates.k8s.io podcertificaterequests - - a", true),
            ("list certificates.k8s.io podcertificaterequests - -", false),
            ("update certificates.k8s.io podcertificaterequests/status ns mine", false),
            ("list - services - -", true),
            ("list apps deployments - -", false),
        ] {
            assert_eq!(authorizer.decide(&node, &request(line)) == Decision::Allow, allowed, "{line}");
        }
    }

    #[tokio::test]
    async fn only_members_of_the_nodes_group_are_nodes() {
        let authorizer = authorizer().await;
        let fake = User::new("system:node:a", &[]);
        let unnamed = User::new("system:node:", &["system:nodes"]);
        let ask = request("get - nodes - a");
        assert_eq!(authorizer.decide(&fake, &ask), Decision::NoOpinion(String::new()));
        assert_eq!(authorizer.decide(&unnamed, &ask), Decision::NoOpinion(r#"unknown node for user "system:node:""#.into()));
    }
}
