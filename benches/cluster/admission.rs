//! What admission costs a create of a pod: a hundred policies, and a webhook that says yes.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    PODS,
    client::{Body, Client},
    own,
    server::{Program, Server, peers},
    until, writes,
};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const POLICIES: usize = 100;
/// Pods made for each figure, and how many at once.
const COUNT: usize = 3_000;
const AT_ONCE: usize = 16;

/// CPU milliseconds of a create: alone, with the webhook, with the policies.
struct Made {
    plain: f64,
    hook: f64,
    policies: f64,
}

/// Creates of pods without admission of one's own, with a webhook, and with policies.
pub async fn admission() -> Result<()> {
    let peer = match peers() {
        Some(binaries) => Some(measure(Program::Peer(binaries, Vec::new())).await?),
        None => None,
    };
    if let Some(peer) = &peer {
        show("kube-apiserver + etcd", peer);
    }
    let made = measure(own(&["--agent=off", "--without=scheduler,controllers"])).await?;
    show("coracle", &made);
    if let Some(peer) = peer {
        println!(
            "admit   with the webhook {:.1}x less CPU, with {POLICIES} policies {:.1}x; the call is {:.1} % of a create of kube-apiserver",
            peer.hook / made.hook,
            peer.policies / made.policies,
            (made.hook - made.plain) / peer.plain * 100.0
        );
    }
    Ok(())
}

fn show(name: &str, made: &Made) {
    let more = |with: f64| (with - made.plain) / made.plain * 100.0;
    println!(
        "admit   {name}: create {:.0} us of CPU; with a webhook {:.0} us ({:.0} % more); with {POLICIES} policies {:.0} us ({:.0} % more)",
        made.plain * 1e3,
        made.hook * 1e3,
        more(made.hook),
        made.policies * 1e3,
        more(made.policies)
    );
}

async fn measure(program: Program) -> Result<Made> {
    let server = Server::start(program).await?;
    let client = server.client().await?;
    crate::account(&client).await?;
    creates(&server, &client, "first").await?;
    let plain = creates(&server, &client, "plain").await?;

    let hook = Hook::start().await?;
    let configurations = format!("{ADMISSION}/validatingwebhookconfigurations");
    client.create(&configurations, &hook.configuration()).await?;
    until(async || {
        client.create(&format!("{PODS}?dryRun=All"), &writes::pod("asked")).await?;
        Ok(hook.asked.load(Ordering::Relaxed) > 0)
    })
    .await?;
    let before = hook.asked.load(Ordering::Relaxed);
    let with_hook = creates(&server, &client, "hook").await?;
    let asked = hook.asked.load(Ordering::Relaxed) - before;
    if asked != COUNT {
        bail!("the webhook was asked {asked} times for {COUNT} pods");
    }
    client.send(Method::DELETE, &format!("{configurations}/bench"), Body::json(&json!({}))).await?;

    for n in 0..POLICIES {
        client.create(&format!("{ADMISSION}/validatingadmissionpolicies"), &policy(n)).await?;
        client.create(&format!("{ADMISSION}/validatingadmissionpolicybindings"), &binding(n)).await?;
    }
    let mut refused = writes::pod("refused");
    refused["metadata"]["labels"]["refuse"] = json!(format!("p{}", POLICIES - 1));
    until(async || Ok(client.create(&format!("{PODS}?dryRun=All"), &refused).await.is_err())).await?;
    let policies = creates(&server, &client, "policies").await?;
    Ok(Made { plain, hook: with_hook, policies })
}

/// CPU milliseconds of a create.
async fn creates(server: &Server, client: &Client, prefix: &str) -> Result<f64> {
    let bodies: Vec<Body> = (0..COUNT).map(|n| Body::json(&writes::pod(&format!("{prefix}-{n:05}")))).collect();
    let before = server.cpu()?;
    let create = |body| client.send(Method::POST, PODS, body);
    stream::iter(bodies).map(create).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    Ok((server.cpu()? - before) / COUNT as f64 * 1e3)
}

/// What policies commonly look at: images, and one label that only this one refuses.
fn policy(n: usize) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": format!("bench-{n}")},
        "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
            "validations": [
                {"expression": "object.spec.containers.all(c, c.image.startsWith('registry.example.com/'))"},
                {"expression": format!("!has(object.metadata.labels) || !('refuse' in object.metadata.labels) || object.metadata.labels['refuse'] != 'p{n}'")}]}})
}

fn binding(n: usize) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": format!("bench-{n}")},
        "spec": {"policyName": format!("bench-{n}"), "validationActions": ["Deny"]}})
}

/// A webhook of this process, whose CPU is not the server's.
struct Hook {
    port: u16,
    bundle: String,
    asked: Arc<AtomicUsize>,
}

impl Hook {
    async fn start() -> Result<Self> {
        let certified = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])?;
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = config.with_single_cert(vec![certified.cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let asked = Arc::new(AtomicUsize::new(0));
        let hook = Self { port: listener.local_addr()?.port(), bundle: STANDARD.encode(certified.cert.pem()), asked: asked.clone() };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), stream, asked.clone()));
            }
        });
        Ok(hook)
    }

    fn configuration(&self) -> Value {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "bench"},
            "webhooks": [{"name": "bench.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://{}:{}/", Ipv4Addr::LOCALHOST, self.port), "caBundle": self.bundle},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]})
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, asked: Arc<AtomicUsize>) -> Result<()> {
    let stream = acceptor.accept(stream).await?;
    let answer = service_fn(move |request| {
        asked.fetch_add(1, Ordering::Relaxed);
        say_yes(request)
    });
    Ok(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await?)
}

async fn say_yes(request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": review["request"]["uid"], "allowed": true}});
    Ok(Response::builder().header("content-type", "application/json").body(Full::from(answer.to_string()))?)
}
