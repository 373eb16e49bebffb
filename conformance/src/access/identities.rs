//! Who asks, and the objects that give them something to ask for.

use serde_json::{Value, json};

use super::model::Identity;

/// The namespace in which most of them hold something.
pub(super) const HOME: &str = "dev";
/// A namespace in which they do not.
pub(super) const ELSEWHERE: &str = "kube-system";

const RBAC: &str = "rbac.authorization.k8s.io";

/// Everybody.
pub(super) fn all() -> Vec<Identity> {
    let of = |label, user: &str, groups: &[&str]| {
        let mut groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        groups.push(if user == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" }.to_owned());
        Identity { label, user: user.to_owned(), groups }
    };
    let account = |label, namespace: &str, name: &str| {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        of(label, &format!("system:serviceaccount:{namespace}:{name}"), &groups.each_ref().map(String::as_str))
    };
    vec![
        of("anonymous", "system:anonymous", &[]),
        of("nobody", "nobody", &[]),
        of("reader of one namespace", "reader", &[]),
        of("editor of one namespace", "editor", &["editors"]),
        of("admin of one namespace", "local-admin", &[]),
        of("cluster admin", "chief", &[]),
        of("system:masters", "root", &["system:masters"]),
        account("service account", HOME, "robot-a"),
        of("node a", "system:node:node-a", &["system:nodes"]),
        of("node b", "system:node:node-b", &["system:nodes"]),
        of("node without its group", "system:node:node-a", &[]),
        of("scheduler", "system:kube-scheduler", &[]),
        of("controller manager", "system:kube-controller-manager", &[]),
        account("deployment controller", "kube-system", "deployment-controller"),
        account("garbage collector", "kube-system", "generic-garbage-collector"),
        of("impersonator", "actor", &[]),
        of("reader of paths", "scraper", &[]),
    ]
}

/// Objects in the order in which they are made: (path, object).
pub(super) fn objects() -> Vec<(String, Value)> {
    let core = |resource: &str| format!("/api/v1/namespaces/{HOME}/{resource}");
    let mut all = vec![("/api/v1/namespaces".to_owned(), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}))];
    for node in ["node-a", "node-b"] {
        all.push(("/api/v1/nodes".into(), json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})));
    }
    for of in ["a", "b"] {
        all.push((
            core("serviceaccounts"),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": format!("robot-{of}")}}),
        ));
        all.push((core("secrets"), json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("secret-{of}")}})));
        all.push((core("configmaps"), json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("map-{of}")}})));
        let spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": format!("volume-{of}")});
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": format!("claim-{of}")}, "spec": spec});
        all.push((core("persistentvolumeclaims"), claim));
        let claim = json!({"kind": "PersistentVolumeClaim", "namespace": HOME, "name": format!("claim-{of}")});
        let spec = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp"}, "claimRef": claim,
        });
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("volume-{of}")}, "spec": spec});
        all.push(("/api/v1/persistentvolumes".into(), volume));
        let volumes = json!([
            {"name": "s", "secret": {"secretName": format!("secret-{of}")}}, {"name": "m", "configMap": {"name": format!("map-{of}")}},
            {"name": "c", "persistentVolumeClaim": {"claimName": format!("claim-{of}")}},
        ]);
        let spec = json!({
            "nodeName": format!("node-{of}"), "serviceAccountName": format!("robot-{of}"), "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "example.com/i"}], "volumes": volumes,
        });
        all.push((core("pods"), json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{of}")}, "spec": spec})));
    }
    all.extend(roles());
    all
}

fn roles() -> Vec<(String, Value)> {
    let version = format!("{RBAC}/v1");
    let local = |resource: &str| format!("/apis/{RBAC}/v1/namespaces/{HOME}/{resource}");
    let everywhere = |resource: &str| format!("/apis/{RBAC}/v1/{resource}");
    let role =
        |kind: &str, name: &str, rule: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "rules": [rule]});
    let bind = |kind: &str, name: &str, (of, role): (&str, &str), (who, subject): (&str, &str)| {
        let mut subject = json!({"kind": who, "name": subject});
        if who != "ServiceAccount" {
            subject["apiGroup"] = RBAC.into();
        } else if kind == "ClusterRoleBinding" {
            subject["namespace"] = HOME.into();
        }
        let role = json!({"apiGroup": RBAC, "kind": of, "name": role});
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
    };
    let one_map = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["map-a"], "verbs": ["get", "update", "patch"]});
    let act = json!({"apiGroups": [""], "resources": ["users"], "resourceNames": ["reader"], "verbs": ["impersonate"]});
    let paths = json!({"nonResourceURLs": ["/metrics", "/logs/*"], "verbs": ["get"]});
    vec![
        (local("rolebindings"), bind("RoleBinding", "readers", ("ClusterRole", "view"), ("User", "reader"))),
        (local("rolebindings"), bind("RoleBinding", "editors", ("ClusterRole", "edit"), ("Group", "editors"))),
        (local("rolebindings"), bind("RoleBinding", "admins", ("ClusterRole", "admin"), ("User", "local-admin"))),
        (local("roles"), role("Role", "one-map", one_map)),
        (local("rolebindings"), bind("RoleBinding", "one-map", ("Role", "one-map"), ("ServiceAccount", "robot-a"))),
        (everywhere("clusterrolebindings"), bind("ClusterRoleBinding", "chief", ("ClusterRole", "cluster-admin"), ("User", "chief"))),
        (everywhere("clusterroles"), role("ClusterRole", "acting", act)),
        (everywhere("clusterrolebindings"), bind("ClusterRoleBinding", "acting", ("ClusterRole", "acting"), ("User", "actor"))),
        (everywhere("clusterroles"), role("ClusterRole", "paths", paths)),
        (everywhere("clusterrolebindings"), bind("ClusterRoleBinding", "paths", ("ClusterRole", "paths"), ("User", "scraper"))),
    ]
}

/// Names of objects there are, of the resources that nodes are held to; of others only what is not there is asked for.
pub(super) fn known_names(resource: &str) -> &'static [&'static str] {
    match resource {
        "secrets" => &["secret-a", "secret-b"],
        "configmaps" => &["map-a", "map-b"],
        "serviceaccounts" => &["robot-a", "robot-b"],
        "persistentvolumeclaims" => &["claim-a", "claim-b"],
        "persistentvolumes" => &["volume-a", "volume-b"],
        "pods" => &["pod-a", "pod-b"],
        "nodes" | "csinodes" => &["node-a", "node-b"],
        _ => &[],
    }
}
