//! Attempts to get further than one may: by roles, by acting as others, by certificates, from one node to another, by odd paths and framing,
//! and through proxies to places that are not the cluster's.

use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{headers, identities::HOME, post};
use crate::differential::http::{Connection, Question, Server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// How many attempts of one sort there were, and how many failed as they should.
pub(super) struct Tried {
    pub(super) label: &'static str,
    pub(super) tried: usize,
    pub(super) held: usize,
}

/// One attempt.
struct Attempt {
    user: &'static str,
    groups: &'static [&'static str],
    /// Further headers.
    more: Vec<(&'static str, String)>,
    question: Question,
    /// The codes that hold it off; where they are those of a success, it must succeed.
    codes: &'static [u16],
    /// Of a review: that it must say no.
    denied: bool,
}

fn attempt(user: &'static str, question: Question, codes: &'static [u16]) -> Attempt {
    Attempt { user, groups: &[], more: Vec::new(), question, codes, denied: false }
}

fn get(path: &str) -> Question {
    Question { method: "GET", path: path.to_owned(), content_type: "application/json", body: String::new() }
}

/// Tries all; what succeeds that should not is added to `wrong`.
pub(super) async fn run(server: &Arc<Server>, peer: &Option<Arc<Server>>, wrong: &mut Vec<String>) -> Result<Vec<Tried>> {
    let mut all = Vec::new();
    let sorts = [
        ("by roles and bindings", roles()),
        ("by acting as others", acting()),
        ("by certificates", certificates()),
        ("from node to node", nodes()),
    ];
    for (label, attempts) in sorts {
        all.push(try_all(label, &attempts, server, peer, wrong).await);
    }
    for server in std::iter::once(server).chain(peer) {
        set_traps(server).await?;
    }
    all.push(try_all("through proxies", &proxies(), server, peer, wrong).await);
    all.push(try_all("by odd paths", &paths(), server, peer, wrong).await);
    all.push(framing(server, wrong).await?);
    Ok(all)
}

async fn try_all(
    label: &'static str,
    attempts: &[Attempt],
    server: &Arc<Server>,
    peer: &Option<Arc<Server>>,
    wrong: &mut Vec<String>,
) -> Tried {
    let mut held = 0;
    for one in attempts {
        let mut said = Vec::new();
        for server in std::iter::once(server).chain(peer) {
            let sent = headers(one.user, one.groups).into_iter().chain(one.more.clone());
            // An administrator may act as anybody: further headers are those of who acts on.
            let mut connection = Connection::acting(server, sent.collect());
            said.push(connection.ask(&one.question).await);
        }
        let no = said[0].body.pointer("/status/allowed") == Some(&Value::Bool(false));
        if one.codes.contains(&said[0].code) && (no || !one.denied) {
            held += 1;
        } else {
            let Question { method, path, body, .. } = &one.question;
            wrong.push(format!("{label}: {} {method} {path} {body}: {} {}", one.user, said[0].code, said[0].body));
        }
        if let Some(other) = said.get(1).filter(|other| other.code != said[0].code) {
            let Question { method, path, .. } = &one.question;
            wrong.push(format!("{label}: {} {method} {path}: {}, by kube-apiserver {} {}", one.user, said[0].code, other.code, other.body));
        }
    }
    Tried { label, tried: attempts.len(), held }
}

/// Nobody hands out what he does not hold: an administrator of a namespace neither secrets elsewhere, nor all of anything.
fn roles() -> Vec<Attempt> {
    let role = |kind: &str, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "x"}, "rules": rules});
    let bind = |of: &str, name: &str, user: &str| {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": of, "name": name});
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "x"}, "roleRef": role, "subjects": [subject]})
    };
    let local = |resource: &str| format!("{RBAC}/namespaces/{HOME}/{resource}?dryRun=All");
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let mut attempts = Vec::new();
    for rules in [
        all.clone(),
        json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]),
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]),
        json!([{"apiGroups": [""], "resources": ["*/status"], "verbs": ["update"]}]),
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]),
        json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"]}]),
        json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]),
    ] {
        attempts.push(attempt("local-admin", post(&local("roles"), &role("Role", rules)), &[403]));
    }
    for (kind, name) in
        [("ClusterRole", "cluster-admin"), ("ClusterRole", "system:node"), ("ClusterRole", "system:kube-controller-manager")]
    {
        attempts.push(attempt("local-admin", post(&local("rolebindings"), &bind(kind, name, "local-admin")), &[403]));
    }
    attempts.push(attempt("local-admin", post(&local("rolebindings"), &bind("ClusterRole", "absent", "local-admin")), &[404]));
    attempts.push(attempt("editor", post(&local("rolebindings"), &bind("ClusterRole", "view", "editor")), &[403]));
    attempts.push(attempt("local-admin", post(&format!("{RBAC}/clusterroles?dryRun=All"), &role("ClusterRole", all)), &[403]));
    // What he holds he may hand on.
    attempts.push(attempt("local-admin", post(&local("rolebindings"), &bind("ClusterRole", "view", "friend")), &[201]));
    let own = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    attempts.push(attempt("local-admin", post(&local("roles"), &role("Role", own)), &[201]));
    attempts
}

/// Acting as somebody else takes the right to. Here an administrator already acts, as whoever tries: what is asked is whether they would be
/// let, of the authorizer that headers are put to.
fn acting() -> Vec<Attempt> {
    let may = |user: &'static str, resource: &str, name: &str, group: &str| {
        let attributes = json!({"verb": "impersonate", "resource": resource, "name": name, "group": group});
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
        Attempt { denied: true, ..attempt(user, post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review), &[201]) }
    };
    let mut attempts = Vec::new();
    for user in ["actor", "local-admin", "editor", "nobody"] {
        for (resource, name, group) in [
            ("users", "root", ""),
            ("users", "system:kube-controller-manager", ""),
            ("groups", "system:masters", ""),
            ("userextras", "x", "authentication.k8s.io"),
            ("uids", "1", "authentication.k8s.io"),
        ] {
            attempts.push(may(user, resource, name, group));
        }
    }
    // Headers that name nobody, or a group without a user, are mistakes and no way in.
    let mut nameless = attempt("", get("/api/v1/secrets"), &[400]);
    nameless.groups = &["system:masters"];
    attempts.push(nameless);
    attempts
}

/// Nobody gets a certificate of the superuser's group, nor approves or signs without the right to.
fn certificates() -> Vec<Attempt> {
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = |groups: &str, signer: &str| {
        let (key, mut params) = (rcgen::KeyPair::generate().ok(), rcgen::CertificateParams::default());
        params.distinguished_name.push(rcgen::DnType::CommonName, "mallory");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, groups);
        let pem = key.and_then(|key| params.serialize_request(&key).ok()).and_then(|request| request.pem().ok()).unwrap_or_default();
        let request = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pem);
        let spec = json!({"request": request, "signerName": signer, "usages": ["client auth"]});
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "x"}, "spec": spec})
    };
    let client = "kubernetes.io/kube-apiserver-client";
    vec![
        attempt("chief", post(&format!("{path}?dryRun=All"), &request("system:masters", client)), &[403]),
        attempt("local-admin", post(&format!("{path}?dryRun=All"), &request("system:masters", client)), &[403]),
        attempt("nobody", post(&format!("{path}?dryRun=All"), &request("devs", client)), &[403]),
        attempt("chief", post(&format!("{path}?dryRun=All"), &request("devs", client)), &[201]),
        attempt("nobody", Question { method: "PUT", ..post(&format!("{path}/x/approval"), &request("devs", client)) }, &[403]),
        attempt("nobody", Question { method: "PUT", ..post(&format!("{path}/x/status"), &request("devs", client)) }, &[403]),
    ]
}

/// Node a reaches nothing of node b.
fn nodes() -> Vec<Attempt> {
    let node =
        |question: Question, codes: &'static [u16]| Attempt { groups: &["system:nodes"], ..attempt("system:node:node-a", question, codes) };
    let patch = |path: &str, body: Value| Question {
        method: "PATCH",
        path: path.to_owned(),
        content_type: "application/merge-patch+json",
        body: body.to_string(),
    };
    let core = |what: &str| format!("/api/v1/namespaces/{HOME}/{what}");
    let token = |bound: &str| {
        let spec = json!({"audiences": ["https://kubernetes.default.svc.cluster.local"], "expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": bound}});
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
    };
    let mirror = |on: &str| {
        let spec = json!({"nodeName": on, "containers": [{"name": "c", "image": "i"}]});
        let metadata = json!({"name": "static", "annotations": {"kubernetes.io/config.mirror": "x"}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    };
    let taints = json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}});
    let label = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}});
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-b"}, "spec": {}});
    vec![
        node(get(&core("secrets/secret-a")), &[200]),
        node(get(&core("secrets/secret-b")), &[403]),
        node(get(&core("secrets")), &[403]),
        node(get("/api/v1/secrets"), &[403]),
        node(get(&core("configmaps/map-b")), &[403]),
        node(get(&core("pods/pod-b")), &[403]),
        node(get("/api/v1/nodes/node-b"), &[403]),
        node(post(&core("serviceaccounts/robot-b/token"), &token("pod-b")), &[403]),
        node(post(&core("serviceaccounts/robot-a/token"), &token("pod-b")), &[403]),
        node(
            post(
                &core("serviceaccounts/robot-a/token"),
                &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"]}}),
            ),
            &[403],
        ),
        node(patch(&core("pods/pod-b/status"), json!({"status": {"phase": "Failed"}})), &[403]),
        node(patch("/api/v1/nodes/node-b/status?dryRun=All", json!({"status": {"nodeInfo": {"machineID": "x"}}})), &[403]),
        node(patch("/api/v1/nodes/node-a?dryRun=All", taints), &[403]),
        node(patch("/api/v1/nodes/node-a?dryRun=All", label), &[403]),
        node(Question { method: "DELETE", ..get(&core("pods/pod-b?dryRun=All")) }, &[403]),
        node(post(&core("pods?dryRun=All"), &mirror("node-b")), &[403]),
        node(
            post(
                &core("pods/pod-b/eviction?dryRun=All"),
                &json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "pod-b"}}),
            ),
            &[403],
        ),
        node(post("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?dryRun=All", &lease), &[403]),
        node(get("/api/v1/nodes/node-b/proxy/pods"), &[403]),
        node(post(&core("pods/pod-b/exec?command=id"), &json!({})), &[403]),
    ]
}

/// Objects that point where no proxy may go: a pod each, and a service of slices that name the same, once as that pod and once as a host.
async fn set_traps(server: &Arc<Server>) -> Result<()> {
    let mut admin = Connection::new(server);
    let mut make = async |question: Question, codes: &[u16]| -> Result<()> {
        let reply = admin.ask(&question).await;
        if !codes.contains(&reply.code) {
            bail!("{}: {} {}", question.path, reply.code, reply.body);
        }
        Ok(())
    };
    let core = |what: &str| format!("/api/v1/namespaces/{HOME}/{what}");
    for (name, address, family) in TRAPS {
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "nodeName": "node-a", "serviceAccountName": "robot-a", "automountServiceAccountToken": false});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        make(post(&core("pods"), &pod), &[201, 409]).await?;
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        let status = post(&core(&format!("pods/{name}/status")), &status);
        make(Question { method: "PATCH", content_type: "application/merge-patch+json", ..status }, &[200]).await?;
        let spec = json!({"ports": [{"port": 6443}]});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        make(post(&core("services"), &service), &[201, 409]).await?;
        // Slices refuse loopback and link-local addresses themselves; names of hosts they take.
        let host = json!({"addresses": ["trap.localhost"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "namespace": HOME, "name": name}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": if family { "FQDN" } else { "IPv4" },
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "ports": [{"name": "", "port": 6443}],
            "endpoints": [if family { host } else { json!({"addresses": ["10.0.0.9"], "targetRef": {"kind": "Pod", "namespace": HOME, "name": name}}) }]});
        make(post(&format!("/apis/discovery.k8s.io/v1/namespaces/{HOME}/endpointslices"), &slice), &[201, 409]).await?;
    }
    Ok(())
}

/// A name, the address of the pod, and whether the service's slice names a host rather than an address that is not the pod's.
const TRAPS: [(&str, &str, bool); 4] = [
    ("trap-loopback", "127.0.0.1", true),
    ("trap-metadata", "169.254.169.254", false),
    ("trap-six", "::1", true),
    ("trap-link-six", "fe80::1", false),
];

/// Proxies lead to pods and services, not to this machine and its neighbours (apiserver `util/proxy`, `IsProxyableIP`), nor to addresses that
/// are no pod's.
fn proxies() -> Vec<Attempt> {
    let of = |resource: &str, codes| {
        let path = move |name: &str| format!("/api/v1/namespaces/{HOME}/{resource}/{name}:6443/proxy/healthz");
        TRAPS.iter().map(|(name, ..)| attempt("chief", get(&path(name)), codes)).collect::<Vec<_>>()
    };
    let mut all = of("pods", &[400, 403]);
    all.extend(of("services", &[400, 403, 503]));
    all
}

/// However a path is written, it means one thing to the authorizer and to what answers.
fn paths() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for path in [
        "/api/v1/namespaces/dev/../kube-system/secrets",
        "/api/v1/namespaces/dev/%2e%2e/kube-system/secrets",
        "/api/v1/namespaces/dev%2f..%2fkube-system/secrets",
        "/api/v1/namespaces/kube-system//secrets",
        "//api/v1/namespaces/kube-system/secrets",
        "/api//v1/namespaces/kube-system/secrets",
        "/api/v1/namespaces/kube-system/secrets/",
        "/api/v1/namespaces/kube-system/secrets;x",
        "/api/v1/namespaces/kube-system/secrets;/x",
        "/api/v1/namespaces/kube-system/secrets%00",
        "/api/v1/namespaces/kube-system/secrets%20",
        "/api/v1/namespaces/kube-system/Secrets",
        "/api/v1/namespaces/kube-system/./secrets",
        "/API/v1/namespaces/kube-system/secrets",
        "/api/v1/watch/namespaces/kube-system/secrets",
        "/api/v1/proxy/namespaces/kube-system/services/x",
        "/apis//v1/namespaces/kube-system/secrets",
        "/healthz/../api/v1/namespaces/kube-system/secrets",
        "/healthz/..%2fapi/v1/namespaces/kube-system/secrets",
        "/version/../api/v1/secrets",
        "/openapi/v2/../../api/v1/secrets",
        "/api/v1/namespaces/dev/pods/../../kube-system/secrets",
        "/api/v1/namespaces/dev/pods/%2e%2e%2f%2e%2e%2fkube-system%2fsecrets",
        "/api/v1/namespaces/kube-system/secrets?fieldSelector=metadata.name%3Dx&fieldSelector=",
        "/api/v1/namespaces//secrets",
        "/api/v1/secrets?namespace=dev",
        "/api/v1/namespaces/kube-system/pods/x/log?container=../../secrets",
    ] {
        attempts.push(attempt("reader", get(path), &[301, 307, 400, 403, 404, 405, 406, 500]));
    }
    attempts
}

/// Requests whose bounds two readers could see differently end the connection or are refused; a second request hidden in a first is
/// never answered.
async fn framing(server: &Arc<Server>, wrong: &mut Vec<String>) -> Result<Tried> {
    let hidden = "GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\n\r\n";
    let cases = [
        format!(
            "POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}",
            hidden.len()
        ),
        format!("POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n{hidden}"),
        format!(
            "POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!(
            "POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n{hidden}"
        ),
        format!("GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n X-Folded: y\r\n\r\n{hidden}"),
        format!("GET /api/v1/secrets\tHTTP/1.1\r\nHost: x\r\n\r\n{hidden}"),
        format!("GET http://127.0.0.1:1/api/v1/secrets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n{hidden}"),
        format!("GET /api/v1/secrets HTTP/9.9\r\nHost: x\r\n\r\n{hidden}"),
        format!("GET /api/v1/sec\0rets HTTP/1.1\r\nHost: x\r\n\r\n{hidden}"),
    ];
    // Were the hidden one asked in the open, it would be answered: only so does its silence tell anything.
    let open = raw(server, &format!("GET /version HTTP/1.1\r\nHost: x\r\n\r\n{hidden}")).await?;
    if open.matches("HTTP/1.1 ").count() != 2 || !open.contains("NamespaceList") {
        bail!("two requests in a row were not both answered: {open:?}");
    }
    let mut held = 0;
    for case in &cases {
        let answer = raw(server, case).await?;
        let answers = answer.matches("HTTP/1.1 ").count();
        let leaks = answer.contains("NamespaceList");
        if !leaks && answers <= 1 {
            held += 1;
        } else {
            wrong.push(format!(
                "by framing: {:?}: {answers} answers: {:?}",
                case.lines().take(4).collect::<Vec<_>>(),
                answer.lines().next()
            ));
        }
    }
    Ok(Tried { label: "by framing", tried: cases.len(), held })
}

/// Bytes as they are over TLS, as the administrator; what came back until the other side ended or a second passed.
async fn raw(server: &Arc<Server>, bytes: &str) -> Result<String> {
    let mut stream = server.dial().await?;
    // A server that has seen enough hangs up before it has all.
    let _ = stream.write_all(bytes.as_bytes()).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), read).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
