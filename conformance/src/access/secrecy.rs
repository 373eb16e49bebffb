//! What is secret is told to nobody: secrets and tokens with a mark go through every verb and through bad requests; then refusals, the log at
//! its most talkative and the audit log at level Metadata are searched for the mark.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{attacks::Tried, post};
use crate::{
    cluster::Cluster,
    differential::http::{Connection, Question, Server},
};

/// The mark. In threes, so that base64 does not pad it.
const MARK: &str = "kept-to-itself-4711";
const PADDED: &str = "kept-to-itself-4711!!";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n";
/// Beyond what one object may hold.
const TOO_MUCH: usize = 2 << 20;

/// Runs a server of its own; what tells the mark is added to `wrong`.
pub(super) async fn run(binary: &Path, wrong: &mut Vec<String>) -> Result<Tried> {
    let folder = tempfile::tempdir()?;
    let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
    std::fs::write(&policy, POLICY)?;
    let flags = [
        "--without=scheduler,controllers".to_owned(),
        "--hollow-nodes=0".to_owned(),
        "--log=trace".to_owned(),
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ];
    let cluster = Cluster::start(binary, &flags)?;
    let server = Arc::new(Server::from_kubeconfig(&cluster.kubeconfig())?);
    let issued = issue(&server).await?;
    let questions = questions();
    let mut held = 0;
    for (headers, question) in &questions {
        let reply = Connection::acting(&server, headers.clone()).ask(question).await;
        let told = reply.body.to_string() + &reply.warnings.concat();
        // Whoever may read a secret is shown it; a refusal shows nobody anything.
        if reply.code < 400 || !is_marked(&told) {
            held += 1;
        } else {
            wrong.push(format!("by secrets: {} {}: {told}", question.method, question.path));
        }
        if reply.code == 0 {
            bail!("{} {}: {told}", question.method, question.path);
        }
    }
    let written = folder.path().join("server.log");
    cluster.keep_log(&written)?;
    drop(cluster);
    for (what, file, shows) in [("log", &written, "coracle"), ("audit log", &log, "\"resource\":\"secrets\"")] {
        let text = std::fs::read_to_string(file).with_context(|| format!("the {what} is not there"))?;
        if !text.contains(shows) {
            bail!("the {what} does not tell of what was done: nothing can be found in it");
        }
        let before = wrong.len();
        for line in text.lines().filter(|line| is_marked(line) || issued.iter().any(|token| line.contains(token))) {
            wrong.push(format!("by secrets: the {what} tells: {}", line.chars().take(300).collect::<String>()));
        }
        held += usize::from(wrong.len() == before);
    }
    // The questions, and the two logs.
    Ok(Tried { label: "by secrets and tokens", tried: questions.len() + 2, held })
}

fn is_marked(text: &str) -> bool {
    let forms = [MARK.to_owned(), BASE64_STANDARD.encode(PADDED), BASE64_URL_SAFE_NO_PAD.encode(PADDED)];
    forms.iter().any(|form| text.contains(form.as_str()))
}

/// Has tokens issued, which nobody but who asked may see; their signatures.
async fn issue(server: &Arc<Server>) -> Result<Vec<String>> {
    let mut admin = Connection::new(server);
    admin.ask(&post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}}))).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let reply = admin.ask(&post("/api/v1/namespaces/default/serviceaccounts/robot/token", &request)).await;
    let token = reply.body.pointer("/status/token").and_then(Value::as_str).context("no token was issued")?.to_owned();
    // Good and spoiled, it is sent as whoever has it would.
    for bearer in [token.clone(), format!("{token}x")] {
        Connection::acting(server, vec![("authorization", format!("Bearer {bearer}"))]).get("/api/v1/namespaces/default/pods").await;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": bearer}});
        admin.ask(&post("/apis/authentication.k8s.io/v1/tokenreviews", &review)).await;
    }
    let signature = token.rsplit('.').next().unwrap_or_default().to_owned();
    if signature.len() < 20 {
        bail!("the token has no signature");
    }
    Ok(vec![signature])
}

/// With their headers.
fn questions() -> Vec<(Vec<(&'static str, String)>, Question)> {
    let data = BASE64_STANDARD.encode(PADDED);
    let secret = |name: &str, more: Value| {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        secret.as_object_mut().into_iter().for_each(|fields| fields.extend(more.as_object().cloned().unwrap_or_default()));
        secret
    };
    let put = |path: &str, object: &Value| Question { method: "PUT", ..post(path, object) };
    let patch = |path: &str, of: &'static str, body: String| Question { method: "PATCH", path: path.to_owned(), content_type: of, body };
    let raw = |body: String| Question { method: "POST", path: SECRETS.to_owned(), content_type: "application/json", body };
    let get = |path: &str| Question { method: "GET", path: path.to_owned(), content_type: "application/json", body: String::new() };
    let delete = |path: &str| Question { method: "DELETE", ..get(path) };
    let one = format!("{SECRETS}/one");
    let good = secret("one", json!({"data": {"k": data}}));
    let marked = json!({"data": {"k": data}}).to_string();
    let mut all = vec![
        post(SECRETS, &good),
        post(SECRETS, &good),
        post(SECRETS, &secret("two", json!({"stringData": {"k": PADDED}, "immutable": true}))),
        post(&format!("{SECRETS}?dryRun=All"), &secret("three", json!({"stringData": {"k": PADDED}}))),
        put(&one, &secret("one", json!({"data": {"k": data, "l": data}}))),
        put(&one, &secret("one", json!({"data": {"k": data}, "type": "other"}))),
        put(&format!("{SECRETS}/two"), &secret("two", json!({"stringData": {"k": format!("{PADDED}?")}}))),
        put(&format!("{SECRETS}/other"), &good),
        patch(&one, "application/merge-patch+json", marked.clone()),
        patch(&one, "application/strategic-merge-patch+json", marked),
        patch(&format!("{one}?fieldManager=m&force=true"), "application/apply-patch+yaml", good.to_string()),
        patch(
            &format!("{one}?fieldManager=n"),
            "application/apply-patch+yaml",
            secret("one", json!({"stringData": {"k": PADDED}})).to_string(),
        ),
        patch(&format!("{one}?fieldManager=m"), "application/apply-patch+yaml", format!("apiVersion: v1\nkind: Secret\ndata: [{MARK}\n")),
        patch(&one, "application/json-patch+json", json!([{"op": "test", "path": "/data/k", "value": format!("{MARK}?")}]).to_string()),
        patch(&one, "application/json-patch+json", json!([{"op": "replace", "path": "/data/none", "value": data}]).to_string()),
        patch(&one, "application/json-patch+json", json!([{"op": "add", "path": "/data/k", "value": PADDED}]).to_string()),
        patch(&one, "application/json-patch+json", format!("[{{\"op\": \"add\", \"value\": \"{MARK}")),
        patch(&one, "application/merge-patch+json", json!({"data": MARK}).to_string()),
        patch(&one, "application/strategic-merge-patch+json", json!({"data": [MARK]}).to_string()),
        raw(format!("{{\"kind\": \"Secret\", \"stringData\": {{\"k\": \"{MARK}")),
        raw(format!("kind: Secret\nstringData: {{k: {MARK}")),
        raw(secret("x", json!({"data": {"k": PADDED}})).to_string()),
        raw(secret("x", json!({"data": MARK})).to_string()),
        raw(secret("x", json!({"data": [MARK]})).to_string()),
        raw(secret("x", json!({"data": {"k": {"l": MARK}}})).to_string()),
        raw(secret("x", json!({"stringData": {"k": [MARK]}})).to_string()),
        raw(secret("x", json!({"data": {"k/l": data}})).to_string()),
        raw(secret("X", json!({"stringData": {"k": PADDED}})).to_string()),
        raw(secret("x", json!({"stringData": {"k": MARK.repeat(TOO_MUCH / MARK.len())}})).to_string()),
        raw(secret("x", json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": PADDED}})).to_string()),
        raw(secret("x", json!({"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": PADDED}})).to_string()),
        raw(secret("x", json!({"type": "kubernetes.io/tls", "stringData": {"tls.key": PADDED}})).to_string()),
        raw(secret("x", json!({"type": "kubernetes.io/basic-auth", "stringData": {"other": PADDED}})).to_string()),
        raw(secret("x", json!({"type": "kubernetes.io/service-account-token", "stringData": {"token": PADDED}})).to_string()),
        raw(secret("x", json!({"immutable": MARK, "stringData": {"k": PADDED}})).to_string()),
        raw(good.to_string().replacen("\"data\"", &format!("\"data\": {{\"k\": \"{data}\"}}, \"data\""), 1)),
        Question { content_type: "application/vnd.kubernetes.protobuf", ..raw(format!("k8s\0{MARK}")) },
        Question { content_type: "application/cbor", ..raw(format!("\u{7f}{MARK}")) },
        Question { content_type: "text/plain", ..raw(MARK.to_owned()) },
        post("/api/v1/namespaces/absent/secrets", &good),
        post("/api/v1/namespaces/default/configmaps", &good),
        get(&one),
        get(SECRETS),
        get(&format!("{SECRETS}?watch=true&timeoutSeconds=1")),
        get(&format!("{SECRETS}?fieldSelector=type%3DOpaque")),
        delete(&format!("{one}?dryRun=All")),
        delete(&one),
        delete(SECRETS),
    ];
    // The same refused by who may not, by a namespace that goes, and with what nobody knows.
    all.push(Question {
        path: format!("{SECRETS}?fieldValidation=Strict"),
        ..raw(secret("y", json!({"stringData": {"k": PADDED}, "more": PADDED})).to_string())
    });
    let mut all: Vec<_> = all.into_iter().map(|question| (Vec::new(), question)).collect();
    let nobody = vec![("impersonate-user", "nobody".to_owned())];
    all.push((nobody, post(SECRETS, &good)));
    let basic = BASE64_STANDARD.encode(format!("user:{PADDED}"));
    let protocol = format!("base64url.bearer.authorization.k8s.io.{}", BASE64_URL_SAFE_NO_PAD.encode(PADDED));
    for (header, value) in [
        ("authorization", format!("Bearer {MARK}")),
        ("authorization", format!("Bearer {MARK} {MARK}")),
        ("authorization", format!("Bearer a.{MARK}.c")),
        ("authorization", format!("Basic {basic}")),
        ("sec-websocket-protocol", protocol),
        ("cookie", format!("token={MARK}")),
    ] {
        all.push((vec![(header, value)], get(&one)));
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": MARK}});
    all.push((Vec::new(), post("/apis/authentication.k8s.io/v1/tokenreviews", &review)));
    all
}
