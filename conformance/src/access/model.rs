//! What the documentation of Kubernetes says of who may do what ("Using RBAC Authorization", "Using Node Authorization"), over the roles and
//! bindings that a server shows. Written from those pages, not from anybody's code: the suite compares servers with it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Somebody who asks.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// As the report calls it.
    pub(super) label: &'static str,
    /// User name.
    pub(super) user: String,
    /// All groups, also those that authentication adds.
    pub(super) groups: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    /// As RBAC names it.
    pub(super) verb: &'static str,
    /// Group, empty for core; `None` for a path that is no resource.
    pub(super) group: Option<String>,
    /// Plural.
    pub(super) resource: String,
    /// Empty for none.
    pub(super) subresource: String,
    /// Empty for all and for none.
    pub(super) namespace: String,
    /// Empty for collections.
    pub(super) name: String,
    /// The node a field selector asks for.
    pub(super) of_node: String,
    /// Of what is no resource.
    pub(super) path: String,
}

/// Roles, bindings and what pods need.
pub(super) struct Model {
    grants: Vec<Grant>,
    /// What a node of this name may reach: (resource, namespace/name).
    needs: BTreeMap<String, BTreeSet<(&'static str, String)>>,
    nodes: Vec<Value>,
}

/// A binding with the rules of its role.
struct Grant {
    /// Empty: everywhere.
    namespace: String,
    subjects: Vec<Value>,
    rules: Vec<Value>,
}

/// The lists of objects a server shows.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) cluster_roles: Vec<Value>,
    pub(super) roles: Vec<Value>,
    pub(super) cluster_bindings: Vec<Value>,
    pub(super) bindings: Vec<Value>,
    pub(super) pods: Vec<Value>,
    pub(super) claims: Vec<Value>,
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn names(value: &Value, list: &str, wanted: &str) -> bool {
    items(value, list).iter().any(|item| item == wanted)
}

fn names_or_all(value: &Value, list: &str, wanted: &str) -> bool {
    names(value, list, "*") || names(value, list, wanted)
}

impl Model {
    pub(super) fn new(shown: &Shown) -> Self {
        let role = |kind: &str, namespace: &str, name: &str| {
            let of = if kind == "Role" { &shown.roles } else { &shown.cluster_roles };
            let found =
                of.iter().find(|r| text(r, "/metadata/name") == name && (kind != "Role" || text(r, "/metadata/namespace") == namespace));
            found.map(|role| items(role, "/rules").to_vec()).unwrap_or_default()
        };
        let grant = |binding: &Value| {
            let namespace = text(binding, "/metadata/namespace").to_owned();
            let rules = role(text(binding, "/roleRef/kind"), &namespace, text(binding, "/roleRef/name"));
            Grant { subjects: items(binding, "/subjects").to_vec(), rules, namespace }
        };
        Self {
            grants: shown.cluster_bindings.iter().chain(&shown.bindings).map(grant).collect(),
            needs: needs(shown),
            nodes: role("ClusterRole", "", "system:node"),
        }
    }

    pub(super) fn allows(&self, who: &Identity, ask: &Ask) -> bool {
        // To open a stream is to create one, also where the request begins as a GET.
        let streams = matches!(ask.subresource.as_str(), "attach" | "exec" | "portforward");
        let also = streams && ask.verb == "get" && !self.allows_verb(who, &Ask { verb: "create", ..ask.clone() });
        !also && self.allows_verb(who, ask)
    }

    fn allows_verb(&self, who: &Identity, ask: &Ask) -> bool {
        let in_group = |group: &str| who.groups.iter().any(|g| g == group);
        if in_group("system:masters") {
            return true;
        }
        if let Some(node) = who.user.strip_prefix("system:node:").filter(|_| in_group("system:nodes"))
            && self.node_may(node, ask)
        {
            return true;
        }
        self.grants.iter().filter(|grant| grant.namespace.is_empty() || grant.namespace == ask.namespace).any(|grant| {
            grant.subjects.iter().any(|subject| is_meant(subject, who, &grant.namespace))
                && grant.rules.iter().any(|rule| rule_allows(rule, ask))
        })
    }

    /// The node authorizer: read what the node's pods need, write what is the node's.
    fn node_may(&self, node: &str, ask: &Ask) -> bool {
        let needed = |what: &'static str| {
            let key = (what, format!("{}/{}", ask.namespace, ask.name));
            !ask.name.is_empty() && self.needs.get(node).is_some_and(|all| all.contains(&key))
        };
        let own = ask.name == node;
        let plain = ask.subresource.is_empty();
        let reads = matches!(ask.verb, "get" | "list" | "watch");
        match (ask.group.as_deref(), ask.resource.as_str()) {
            (Some(""), "secrets") => plain && reads && needed("secrets"),
            (Some(""), "configmaps") => plain && reads && needed("configmaps"),
            (Some(""), "persistentvolumeclaims") if ask.subresource == "status" => {
                matches!(ask.verb, "update" | "patch") && needed("persistentvolumeclaims")
            }
            (Some(""), "persistentvolumeclaims") => plain && ask.verb == "get" && needed("persistentvolumeclaims"),
            (Some(""), "persistentvolumes") => plain && ask.verb == "get" && needed("persistentvolumes"),
            (Some("storage.k8s.io"), "volumeattachments") | (Some("resource.k8s.io"), "resourceclaims") => false,
            (Some(""), "serviceaccounts") => match (ask.subresource.as_str(), ask.verb) {
                ("", "get") | ("token", "create") => needed("serviceaccounts"),
                _ => false,
            },
            (Some("coordination.k8s.io"), "leases") => {
                let verb = matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete");
                verb && ask.namespace == "kube-node-lease" && (ask.verb == "create" || own)
            }
            (Some("storage.k8s.io"), "csinodes") => {
                plain && matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") && (ask.verb == "create" || own)
            }
            // Slices of its own drivers only, or those that a selector says are its own.
            (Some("resource.k8s.io"), "resourceslices") => {
                plain && (ask.verb == "create" || matches!(ask.verb, "list" | "watch" | "deletecollection") && ask.of_node == node)
            }
            // Requests of its own pods; none is there.
            (Some("certificates.k8s.io"), "podcertificaterequests") => plain && ask.verb == "create",
            (Some(""), "nodes") => match (ask.subresource.as_str(), ask.verb) {
                ("", "create" | "update" | "patch") | ("status", "update" | "patch") => true,
                ("", "get" | "list" | "watch") => own,
                _ => false,
            },
            (Some(""), "pods") => match (ask.subresource.as_str(), ask.verb) {
                ("", "get") => needed("pods"),
                ("", "list" | "watch") => ask.of_node == node || needed("pods"),
                ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => true,
                _ => false,
            },
            _ => self.nodes.iter().any(|rule| rule_allows(rule, ask)),
        }
    }
}

/// What the pods of each node refer to.
fn needs(shown: &Shown) -> BTreeMap<String, BTreeSet<(&'static str, String)>> {
    let mut needs: BTreeMap<String, BTreeSet<(&'static str, String)>> = BTreeMap::new();
    for pod in &shown.pods {
        let namespace = text(pod, "/metadata/namespace");
        let of = needs.entry(text(pod, "/spec/nodeName").to_owned()).or_default();
        let mut add = |what: &'static str, name: &str| {
            if !name.is_empty() {
                of.insert((what, format!("{namespace}/{name}")));
            }
        };
        add("pods", text(pod, "/metadata/name"));
        add("serviceaccounts", text(pod, "/spec/serviceAccountName"));
        let mut volumes = Vec::new();
        for volume in items(pod, "/spec/volumes") {
            add("secrets", text(volume, "/secret/secretName"));
            add("configmaps", text(volume, "/configMap/name"));
            add("persistentvolumeclaims", text(volume, "/persistentVolumeClaim/claimName"));
            for source in items(volume, "/projected/sources") {
                add("secrets", text(source, "/secret/name"));
                add("configmaps", text(source, "/configMap/name"));
            }
            let claim = text(volume, "/persistentVolumeClaim/claimName");
            let claims =
                || shown.claims.iter().filter(|c| text(c, "/metadata/name") == claim && text(c, "/metadata/namespace") == namespace);
            // A volume has no namespace, and requests for it have none.
            volumes.extend(claims().map(|claim| text(claim, "/spec/volumeName")).filter(|name| !name.is_empty()));
        }
        of.extend(volumes.into_iter().map(|volume| ("persistentvolumes", format!("/{volume}"))));
    }
    needs
}

/// A subject is a user, a group or a service account; those of a binding without a namespace are in the binding's.
fn is_meant(subject: &Value, who: &Identity, home: &str) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => who.user == name,
        "Group" => who.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let namespace = Some(text(subject, "/namespace")).filter(|n| !n.is_empty()).unwrap_or(home);
            who.user == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

/// Verbs, groups, resources and names must all fit; `*` fits everything, and `*/sub` that part of any resource.
fn rule_allows(rule: &Value, ask: &Ask) -> bool {
    if !names_or_all(rule, "/verbs", ask.verb) {
        return false;
    }
    let Some(group) = &ask.group else {
        return items(rule, "/nonResourceURLs").iter().filter_map(Value::as_str).any(|url| match url.strip_suffix('*') {
            Some(start) => ask.path.starts_with(start),
            None => url == ask.path,
        });
    };
    let resource = if ask.subresource.is_empty() { ask.resource.clone() } else { format!("{}/{}", ask.resource, ask.subresource) };
    let part = !ask.subresource.is_empty() && names(rule, "/resources", &format!("*/{}", ask.subresource));
    let named = items(rule, "/resourceNames").is_empty() || names(rule, "/resourceNames", &ask.name);
    names_or_all(rule, "/apiGroups", group) && (names_or_all(rule, "/resources", &resource) || part) && named
}
