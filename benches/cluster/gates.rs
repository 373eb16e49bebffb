//! What the gates cost: a GET as the superuser by a certificate, with nothing written down, and the same GET as a service account with a
//! token, allowed by one of thousands of bindings, in the audit log; and what `kubectl auth can-i --list` asks.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::{
    client::{Body, Client},
    definitions::settle,
    own,
    server::{Program, Server, peers},
};

/// Roles and bindings that are loaded, half of each in namespaces.
const ROLES: usize = 1_000;
const BINDINGS: usize = 5_000;
/// Requests of each sort that are measured, and before them some that are not.
const COUNT: usize = 20_000;
const REVIEWS: usize = 10_000;
const BEFORE: usize = 1_000;
const AT_ONCE: usize = 16;
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const MAP: &str = "/api/v1/namespaces/default/configmaps/measured";

/// CPU milliseconds a request.
struct Made {
    plain: f64,
    gates: f64,
    list: f64,
}

/// CPU of a GET without and with the gates, and of a SelfSubjectRulesReview.
pub async fn gates() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n")?;
    let quiet = ["--agent=off", "--without=scheduler,controllers"];
    let audit = |log: &str| {
        [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", folder.path().join(log).display())]
    };
    let peer = match peers() {
        Some(binaries) => {
            Some(measure(Program::Peer(binaries.clone(), Vec::new()), Program::Peer(binaries, audit("peer.log").to_vec())).await?)
        }
        None => None,
    };
    let written = audit("audit.log");
    let loud = [quiet.as_slice(), &written.each_ref().map(String::as_str)].concat();
    let made = measure(own(&quiet), own(&loud)).await?;
    let share = (made.gates - made.plain) / made.plain * 100.0;
    let times =
        |of: fn(&Made) -> f64| peer.as_ref().map(|p| format!("; kube-apiserver {:.1}x as much", of(p) / of(&made))).unwrap_or_default();
    println!("gates   GET, superuser, no audit: {:.1} us of CPU{}", made.plain * 1e3, times(|m| m.plain));
    println!(
        "gates   GET, token, {ROLES} roles, {BINDINGS} bindings, audit: {:.1} us of CPU, {share:.0} % more{}",
        made.gates * 1e3,
        times(|m| m.gates)
    );
    println!("gates   can-i --list (SelfSubjectRulesReview): {:.1} us of CPU{}", made.list * 1e3, times(|m| m.list));
    Ok(())
}

/// The plain GET from one program, the others from another that has all the roles.
async fn measure(plain: Program, gates: Program) -> Result<Made> {
    let server = Server::start(plain).await?;
    let admin = server.client().await?;
    measured_map(&admin).await?;
    settle().await;
    let plain = cost(&server, &admin, COUNT, MAP, None).await?;
    drop(server);

    let server = Server::start(gates).await?;
    let admin = server.client().await?;
    measured_map(&admin).await?;
    load(&admin).await?;
    settle().await;
    let robot = Client::with_token(&server.access, token(&admin).await?).await?;
    crate::until(async || Ok(robot.get(MAP).await.is_ok())).await?;
    let with_gates = cost(&server, &robot, COUNT, MAP, None).await?;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let list = cost(&server, &robot, REVIEWS, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", Some(&review)).await?;
    Ok(Made { plain, gates: with_gates, list })
}

async fn measured_map(admin: &Client) -> Result<()> {
    crate::until(async || {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "measured"}, "data": {"a": "b"}});
        Ok(admin.create("/api/v1/namespaces/default/configmaps", &map).await.is_ok() || admin.get(MAP).await.is_ok())
    })
    .await
}

/// CPU milliseconds of one request, of many.
async fn cost(server: &Server, client: &Client, count: usize, path: &str, body: Option<&Value>) -> Result<f64> {
    let bytes: Option<Bytes> = body.map(|body| body.to_string().into());
    let ask = |_| {
        let (client, bytes) = (client.clone(), bytes.clone());
        async move {
            match bytes {
                Some(bytes) => client.send(Method::POST, path, Body { content_type: "application/json", bytes }).await,
                None => client.get(path).await,
            }
        }
    };
    stream::iter(0..BEFORE.min(count)).map(ask).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    let before = server.cpu()?;
    stream::iter(0..count).map(ask).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    Ok((server.cpu()? - before) / count as f64 * 1e3)
}

/// Roles and bindings of many subjects; some of either level are the robot's.
async fn load(admin: &Client) -> Result<()> {
    let local = |resource: &str| format!("{RBAC}/namespaces/default/{resource}");
    let rules =
        |n: usize| json!([{"apiGroups": [""], "resources": [format!("things{n}"), "configmaps"], "verbs": ["get", "list", "watch"]}]);
    let roles = (0..ROLES).map(|n| {
        let (kind, path) = if n % 2 == 0 { ("ClusterRole", format!("{RBAC}/clusterroles")) } else { ("Role", local("roles")) };
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": format!("bench-{n}")}, "rules": rules(n)});
        (path, role)
    });
    let bindings = (0..BINDINGS).map(|n| {
        let (kind, path) = if n % 2 == 0 {
            ("ClusterRoleBinding", format!("{RBAC}/clusterrolebindings"))
        } else {
            ("RoleBinding", local("rolebindings"))
        };
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": if n % 2 == 0 { "ClusterRole" } else { "Role" }, "name": format!("bench-{}", n % ROLES)});
        let subject = match n {
            // Nine of the robot, of either level, the rest of others.
            n if n % 601 == 7 => json!({"kind": "ServiceAccount", "namespace": "default", "name": "robot"}),
            n => json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("user-{n}")}),
        };
        let metadata = json!({"name": format!("bench-{n}")});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "roleRef": role, "subjects": [subject]});
        (path, binding)
    });
    for all in [roles.collect::<Vec<_>>(), bindings.collect()] {
        let create = |(path, object): (String, Value)| {
            let admin = admin.clone();
            async move { admin.create(&path, &object).await }
        };
        stream::iter(all).map(create).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(())
}

async fn token(admin: &Client) -> Result<String> {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.create(accounts, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})).await?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}});
    let answer = admin.send(Method::POST, &format!("{accounts}/robot/token"), Body::json(&request)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
}
