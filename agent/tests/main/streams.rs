//! The agent's server as the API server sees it.

use std::sync::Arc;

use coracle_agent::clock::Clock;
use coracle_agent::streams::{Server, ServerOptions};
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::real::Node;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn issue(&self, user: &str, group: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        roots
    }
}

struct Served {
    node: Node,
    authority: Authority,
    address: std::net::SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Served {
    async fn start() -> Self {
        let node = Node::start(Clock::System).await;
        node.api.pod("web", "n1", &json!({}));
        node.api.wait_for_pod("web", |s| s["phase"] == "Running").await;
        let authority = Authority::new();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = authority.issue("system:node:n1", "system:nodes");
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let options =
            ServerOptions { address: ([127, 0, 0, 1], 0).into(), tls: Arc::new(tls), trusted_users: vec!["kube-apiserver".to_owned()] };
        let stop = CancellationToken::new();
        let server = Server::bind(options, node.shared.directory.clone(), node.api.client(), stop.clone()).await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.run());
        Self { node, authority, address, _stop: stop.drop_guard() }
    }

    async fn connect(&self, user: Option<&str>) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let config = match user {
            Some(user) => {
                let (certificate, key) = self.authority.issue(user, "people");
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()
    }

    async fn get(&self, user: Option<&str>, path: &str) -> (StatusCode, String) {
        let stream = self.connect(user).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let code = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn only_known_and_allowed_clients_are_answered() {
    let served = Served::start().await;
    for (user, code) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("stranger"), StatusCode::FORBIDDEN),
        (Some("friend"), StatusCode::OK),
        (Some("kube-apiserver"), StatusCode::OK),
    ] {
        assert_eq!(served.get(user, "/pods").await.0, code, "{user:?}");
    }
    let (_, pods) = served.get(Some("kube-apiserver"), "/pods").await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods["items"][0]["metadata"]["name"], "web");
    assert!(served.get(Some("kube-apiserver"), "/metrics").await.1.contains("kubelet_running_pods 1"));
}

#[tokio::test]
async fn logs_are_cut_and_filtered_as_asked() {
    let served = Served::start().await;
    for (query, wanted) in [
        ("", "first\nsecond\n"),
        ("?tailLines=1", "second\n"),
        ("?limitBytes=3", "fir"),
        ("?stream=Stderr", "second\n"),
        ("?sinceTime=2027-01-15T08:00:01Z", "second\n"),
        ("?timestamps=true&tailLines=1", "2027-01-15T08:00:01.000000001Z second\n"),
    ] {
        let (code, text) = served.get(Some("kube-apiserver"), &format!("/containerLogs/default/web/app{query}")).await;
        assert_eq!((code, text.as_str()), (StatusCode::OK, wanted), "{query}");
    }
    for (path, code) in [
        ("/containerLogs/default/none/app", StatusCode::NOT_FOUND),
        ("/containerLogs/default/web/none", StatusCode::NOT_FOUND),
        ("/containerLogs/default/web/app?previous=true", StatusCode::BAD_REQUEST),
        ("/containerLogs/default/web/app?tailLines=x", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(served.get(Some("kube-apiserver"), path).await.0, code, "{path}");
    }
}

#[tokio::test]
async fn a_followed_log_goes_on_until_the_container_ends() {
    use std::io::Write;
    let served = Served::start().await;
    let path = served.node.runtime.config("app").log_path;
    let id = served.node.runtime.containers.lock()[0].0.clone();
    let read = served.get(Some("kube-apiserver"), "/containerLogs/default/web/app?follow=true&tailLines=1");
    let write = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut log = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        log.write_all(b"2027-01-15T08:00:02.000000001Z stdout F third\n").unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        served.node.runtime.hollow.exit(&id, 0);
    };
    let ((code, text), ()) = tokio::time::timeout(std::time::Duration::from_secs(20), futures::future::join(read, write)).await.unwrap();
    assert_eq!((code, text.as_str()), (StatusCode::OK, "second\nthird\n"));
}

#[tokio::test]
async fn exec_carries_streams_and_exit_code_over_websocket() {
    let served = Served::start().await;
    let stream = served.connect(Some("kube-apiserver")).await;
    let request = Request::get("wss://localhost/exec/default/web/app?command=up&input=1&output=1")
        .header("host", "localhost")
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tokio_tungstenite::tungstenite::handshake::client::generate_key())
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(())
        .unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    socket.send(Message::Binary(bytes::Bytes::from_static(b"\x00hello"))).await.unwrap();
    socket.send(Message::Binary(bytes::Bytes::from_static(b"\xff\x00"))).await.unwrap();
    let mut output = Vec::new();
    let mut status = Value::Null;
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) if bytes[0] == 1 => output.extend_from_slice(&bytes[1..]),
            Message::Binary(bytes) if bytes[0] == 3 => status = serde_json::from_slice(&bytes[1..]).unwrap(),
            Message::Close(_) => break,
            _ => {}
        }
    }
    assert_eq!(String::from_utf8(output).unwrap(), "HELLO");
    assert_eq!(status["details"]["causes"][0]["message"], "5");
}
