//! Every verb on every resource, as requests that nothing comes of where they are allowed: bodies that mean nothing, names that are not there,
//! dry runs, selectors nobody can parse.

use super::{
    identities::{ELSEWHERE, HOME, known_names},
    model::Ask,
};
use crate::differential::{api::Api, http::Question};

/// What is no resource.
const PATHS: [&str; 16] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/metrics",
    "/logs/x",
    "/api",
    "/apis",
    "/apis/apps",
    "/openapi/v2",
    "/openapi/v3",
    "/debug/pprof/",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
    "/",
    "/absent",
];

/// Parts that lead to a node's agent when the object is there.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// A request and what it means.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) ask: Ask,
}

/// All of them.
pub(super) fn all(api: &Api) -> Vec<Asked> {
    let mut all = Vec::new();
    for resource in api.resources() {
        let group = resource.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let namespaces: &[&str] = match (resource.namespaced, group, resource.plural.as_str()) {
            (true, "coordination.k8s.io", "leases") => &[HOME, ELSEWHERE, "kube-node-lease"],
            (true, ..) => &[HOME, ELSEWHERE],
            (false, ..) => &[""],
        };
        for namespace in namespaces {
            let base = Ask {
                group: Some(group.to_owned()),
                resource: resource.plural.clone(),
                namespace: (*namespace).to_owned(),
                ..Ask::default()
            };
            let path = resource.collection(namespace);
            // A namespace is its own.
            let within = |name: &str| if resource.plural == "namespaces" { name.to_owned() } else { (*namespace).to_owned() };
            collection(&mut all, &path, &base);
            let mut names = vec!["absent"];
            if *namespace != ELSEWHERE {
                names.extend(known_names(&resource.plural));
            }
            if *namespace == "kube-node-lease" {
                names.extend(["node-a", "node-b"]);
            }
            for name in names {
                let ask = Ask { name: name.to_owned(), namespace: within(name), ..base.clone() };
                object(&mut all, &format!("{path}/{name}"), &ask);
                for part in resource.subresources.keys().filter(|part| name == "absent" || !STREAMS.contains(&part.as_str())) {
                    object_part(&mut all, &format!("{path}/{name}/{part}"), &Ask { subresource: part.clone(), ..ask.clone() });
                }
            }
        }
        if resource.namespaced {
            let root = if group.is_empty() { "api" } else { "apis" };
            let ask = Ask { group: Some(group.to_owned()), resource: resource.plural.clone(), verb: "list", ..Ask::default() };
            push(&mut all, "GET", &format!("/{root}/{}/{}?labelSelector=%3D", resource.api_version, resource.plural), "", ask);
        }
    }
    by_selector(&mut all);
    for path in PATHS {
        push(&mut all, "GET", path, "", Ask { verb: "get", path: path.to_owned(), ..Ask::default() });
        push(&mut all, "POST", path, "x", Ask { verb: "post", path: path.to_owned(), ..Ask::default() });
    }
    all
}

fn push(all: &mut Vec<Asked>, method: &'static str, path: &str, body: &str, ask: Ask) {
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    all.push(Asked { question: Question { method, path: path.to_owned(), content_type, body: body.to_owned() }, ask });
}

fn collection(all: &mut Vec<Asked>, path: &str, base: &Ask) {
    let of = |verb| Ask { verb, ..base.clone() };
    push(all, "GET", &format!("{path}?labelSelector=%3D"), "", of("list"));
    push(all, "GET", &format!("{path}?watch=1&labelSelector=%3D"), "", of("watch"));
    push(all, "POST", path, "x", of("create"));
    push(all, "DELETE", &format!("{path}?dryRun=All&labelSelector=%3D"), "", of("deletecollection"));
}

fn object(all: &mut Vec<Asked>, path: &str, ask: &Ask) {
    let of = |verb| Ask { verb, ..ask.clone() };
    push(all, "GET", path, "", of("get"));
    push(all, "PUT", &format!("{path}?dryRun=All"), "x", of("update"));
    push(all, "PATCH", &format!("{path}?dryRun=All"), "x", of("patch"));
    push(all, "DELETE", &format!("{path}?dryRun=All"), "", of("delete"));
}

fn object_part(all: &mut Vec<Asked>, path: &str, ask: &Ask) {
    let of = |verb| Ask { verb, ..ask.clone() };
    push(all, "GET", path, "", of("get"));
    push(all, "POST", &format!("{path}?dryRun=All"), "x", of("create"));
    push(all, "PUT", &format!("{path}?dryRun=All"), "x", of("update"));
    push(all, "PATCH", &format!("{path}?dryRun=All"), "x", of("patch"));
}

/// What nodes read by selectors: one object by its name, and the pods of a node.
fn by_selector(all: &mut Vec<Asked>) {
    for resource in ["secrets", "configmaps"] {
        for name in known_names(resource) {
            let path = format!("/api/v1/namespaces/{HOME}/{resource}?fieldSelector=metadata.name%3D{name}");
            let base = Ask {
                group: Some(String::new()),
                resource: resource.into(),
                namespace: HOME.into(),
                name: (*name).into(),
                ..Ask::default()
            };
            push(all, "GET", &path, "", Ask { verb: "list", ..base.clone() });
            push(all, "GET", &format!("{path}&watch=1&timeoutSeconds=1"), "", Ask { verb: "watch", ..base });
        }
    }
    for node in known_names("nodes") {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        let base = Ask { group: Some(String::new()), resource: "pods".into(), of_node: (*node).into(), ..Ask::default() };
        push(all, "GET", &path, "", Ask { verb: "list", ..base.clone() });
        push(all, "GET", &format!("{path}&watch=1&timeoutSeconds=1"), "", Ask { verb: "watch", ..base });
    }
}
