//! The server on a socket: TLS, client certificates, an orderly end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_apiserver::{CertificateAndKey, Connections, Egress, Gates, Material, Options, Origins, Protocol, Serving, authn::Authorities};
use coracle_store::embedded;
use coracle_tree::json;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::house::{House, Reply};

/// An authority and what it signed.
pub(crate) struct Pki {
    pub(crate) authority: String,
    pub(crate) server: (String, String),
    pub(crate) admin: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let sign = |names: Vec<String>, cn: &str, org: &str, of: ExtendedKeyUsagePurpose| {
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, cn);
            params.distinguished_name.push(DnType::OrganizationName, org);
            params.extended_key_usages.push(of);
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let server = sign(vec!["127.0.0.1".into(), "localhost".into()], "server", "x", ExtendedKeyUsagePurpose::ServerAuth);
        let admin = sign(Vec::new(), "admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
        Self { authority, server, admin }
    }

    /// What a server of anything else shows that believes this authority's clients.
    pub(crate) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&self.authority)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let clients = clients.allow_unauthenticated().build().unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_client_cert_verifier(clients);
        let mut config = builder.with_single_cert(vec![der(&self.server.0)], key(&self.server.1)).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// What a server shows that believes this authority's clients, as far as its authenticator has these authorities.
    pub(crate) fn serving(&self, authorities: &Arc<Authorities>) -> Arc<Serving> {
        let (certificate, key) = self.server.clone();
        let material = Material {
            serving: CertificateAndKey { certificate, key, names: Vec::new() },
            others: Vec::new(),
            client_authorities: self.authority.clone(),
            proxy_authorities: String::new(),
        };
        Serving::new(Box::new(move || Ok(material.clone())), Protocol::default(), authorities.clone()).unwrap()
    }

    pub(crate) fn client_config(&self, with_certificate: bool) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&self.authority)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(if with_certificate {
            builder.with_client_auth_cert(vec![der(&self.admin.0)], key(&self.admin.1)).unwrap()
        } else {
            builder.with_no_client_auth()
        })
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    use rustls::pki_types::pem::PemObject;
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

async fn get(port: u16, tls: Arc<rustls::ClientConfig>, path: &str) -> http::Response<hyper::body::Incoming> {
    send(port, tls, Request::get(path)).await
}

async fn send(port: u16, tls: Arc<rustls::ClientConfig>, request: http::request::Builder) -> http::Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(tls).connect(name, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = request.header("host", "127.0.0.1").body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

/// Serves on a port, until it is stopped.
async fn serve(house: &Arc<House>, pki: &Pki) -> (u16, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (house, stop, tls) = (house.clone(), CancellationToken::new(), pki.serving(house.server.authorities()));
    let until = stop.clone();
    (port, stop, tokio::spawn(async move { house.server.run(listener, tls, until).await }))
}

/// The head of an answer over HTTP/2, and the bytes after it.
async fn over_http2(port: u16, tls: &rustls::ClientConfig, request: http::request::Builder) -> (http::response::Parts, Bytes) {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn an_answer_to_head_is_as_long_as_it_says_but_not_there() {
    let (house, pki) = (Arc::new(House::new().await), Pki::new());
    let (port, stop, running) = serve(&house, &pki).await;
    let tls = pki.client_config(true);
    for (path, code) in [("/healthz", StatusCode::OK), ("/api/v1/namespaces/default", StatusCode::METHOD_NOT_ALLOWED)] {
        let uri = format!("https://127.0.0.1:{port}{path}");
        let (head, body) = over_http2(port, &tls, Request::head(&uri)).await;
        assert_eq!((head.status, body.len()), (code, 0), "{path}");
        let length: usize = head.headers["content-length"].to_str().unwrap().parse().unwrap();
        assert!(length > 0, "{path}");
        let (over_http1, body) = send(port, tls.clone(), Request::head(path)).await.into_parts();
        assert_eq!((over_http1.status, over_http1.headers["content-length"].to_str().unwrap()), (code, &*length.to_string()), "{path}");
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_certificate_makes_the_user_and_a_watch_ends_cleanly_when_the_server_stops() {
    let (house, pki) = (Arc::new(House::new().await), Pki::new());
    let (port, stop, running) = serve(&house, &pki).await;
    let known = get(port, pki.client_config(true), "/api/v1/namespaces").await;
    assert_eq!(known.status(), StatusCode::OK);
    let unknown = get(port, pki.client_config(false), "/api/v1/namespaces").await;
    assert_eq!(unknown.status(), StatusCode::FORBIDDEN);
    let health = get(port, pki.client_config(false), "/healthz").await;
    assert_eq!(health.status(), StatusCode::OK);

    let mut watch =
        get(port, pki.client_config(true), "/api/v1/namespaces?watch=true&allowWatchBookmarks=true&resourceVersion=1").await.into_body();
    stop.cancel();
    let last = watch.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(last.starts_with(b"{\"type\":"), "{last:?}");
    while let Some(frame) = watch.frame().await {
        frame.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
    assert!(!house.server.ready());
}

/// Server and client agree on the end: the client has its answer, and goes elsewhere with the next request.
#[tokio::test]
async fn a_request_may_be_the_last_of_its_connection_and_browsers_are_told_what_to_insist_on() {
    let transport_security = Some(http::HeaderValue::from_static("max-age=1; preload"));
    let connections = Connections { goaway_chance: 1.0, transport_security, ..Connections::default() };
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let (house, pki) = (Arc::new(House::of(Options { connections, ..House::options(store) }).await), Pki::new());
    let (port, stop, running) = serve(&house, &pki).await;
    let tls = pki.client_config(true);
    let mut of_two = rustls::ClientConfig::clone(&tls);
    of_two.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let stream = TlsConnector::from(Arc::new(of_two)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let ended = tokio::spawn(connection);
    let answer = sender.send_request(Request::get("https://127.0.0.1/version").body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=1; preload");
    assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the server ends the connection").unwrap().unwrap();
    // HTTP/1 knows no such end.
    assert!(!get(port, tls, "/version").await.headers().contains_key("connection"));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn pages_of_allowed_origins_are_answered_and_what_browsers_ask_beforehand_asks_nobody_else() {
    let origins = Origins::new(&["//example\\.com(:|$)".to_owned()]).unwrap();
    let connections = Connections { origins, ..Connections::default() };
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let house = House::of(Options { connections, ..House::options(store) }).await;
    let (good, bad) = ([("origin", "https://example.com")], [("origin", "https://example.com.evil")]);
    let allowed = |reply: &Reply| reply.headers.get("access-control-allow-origin").map(|origin| origin.to_str().unwrap().to_owned());

    let asked = house.ask(Method::OPTIONS, "/api/v1/pods", &good, "").await;
    assert_eq!((asked.code, asked.body.len(), allowed(&asked)), (StatusCode::NO_CONTENT, 0, Some("https://example.com".into())));
    for (name, value) in [
        ("methods", "POST, GET, OPTIONS, PUT, DELETE, PATCH"),
        ("headers", "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since"),
        ("credentials", "true"),
    ] {
        assert_eq!(asked.headers[format!("access-control-allow-{name}")], value);
    }
    assert_eq!(asked.headers["access-control-expose-headers"], "Date");
    // Also what was refused may be read.
    for (path, code) in [("/api/v1/namespaces/default", StatusCode::OK), ("/api/v1/namespaces/nowhere", StatusCode::NOT_FOUND)] {
        let told = house.ask(Method::GET, path, &good, "").await;
        assert_eq!((told.code, allowed(&told)), (code, Some("https://example.com".into())));
        let told = house.ask(Method::GET, path, &bad, "").await;
        assert_eq!((told.code, allowed(&told)), (code, None));
    }
    assert_ne!(house.ask(Method::OPTIONS, "/api/v1/pods", &bad, "").await.code, StatusCode::NO_CONTENT);
}

/// A node agent that answers logs with a line and echoes streams; it tells which path it was asked for in a header.
async fn agent(listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let stream = acceptor.accept(stream).await.unwrap();
        let service = hyper::service::service_fn(|mut request: Request<hyper::body::Incoming>| async move {
            assert!(!request.headers().contains_key("authorization"));
            let asked = request.uri().to_string();
            let mut answer = http::Response::builder().header("asked", &asked);
            if request.headers().contains_key("upgrade") {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                    tokio::io::copy(&mut read, &mut write).await
                });
                answer = answer.status(StatusCode::SWITCHING_PROTOCOLS).header("connection", "Upgrade").header("upgrade", "websocket");
            }
            let body = if asked.starts_with("/containerLogs") { "a line\n" } else { "" };
            Ok::<_, std::convert::Infallible>(answer.body(http_body_util::Full::new(Bytes::from(body))).unwrap())
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection.with_upgrades());
    }
}

#[tokio::test]
async fn logs_and_streams_come_from_the_agent_of_the_pods_node() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pki = Pki::new();
    let house = Arc::new(House::reaching_agents(Some(pki.client_config(true))).await);
    let agents = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent_port = agents.local_addr().unwrap().port();
    let agent = tokio::spawn(agent(agents, pki.server_config()));
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": agent_port}},
    });
    house.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": status})).await.ok();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    house.post(pods, &pod).await.ok();
    let log = house.get(&format!("{pods}/p/log?tailLines=3&follow=true")).await;
    assert_eq!(log.body, "a line\n");

    let (port, stop, running) = serve(&house, &pki).await;
    let exec = Request::get(format!("{pods}/p/exec?command=sh&command=-c&stdin=true&stdout=true")).header("connection", "Upgrade");
    let exec = exec.header("upgrade", "websocket").header("authorization", "Bearer secret");
    let answer = send(port, pki.client_config(true), exec).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["asked"], "/exec/default/p/c?input=1&output=1&command=sh&command=%2Dc");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"both ways").await.unwrap();
    let mut echoed = [0; 9];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"both ways");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(6), running).await.unwrap().unwrap();
    agent.abort();
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_told_of_as_upstream_tells_it() {
    let pki = Pki::new();
    let house = House::reaching_agents(Some(pki.client_config(true))).await;
    // Taken, and nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    });
    house.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": status})).await.ok();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    house.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    let told = house.get("/api/v1/namespaces/default/pods/p/log").await;
    let why = format!("Get \"https://127.0.0.1:{port}/containerLogs/default/p/c\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!((told.code, told.json()["message"].as_str()), (StatusCode::INTERNAL_SERVER_ERROR, Some(&*why)));
}

#[tokio::test]
async fn nodes_are_reached_by_the_way_of_the_cluster() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pki = Pki::new();
    let (agents, proxy) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (to, by) = (agents.local_addr().unwrap(), proxy.local_addr().unwrap());
    let agent = tokio::spawn(agent(agents, pki.server_config()));
    // Nobody but the proxy knows where the node is.
    let proxy = tokio::spawn(async move {
        let (mut near, mut asked) = (proxy.accept().await.unwrap().0, [0; 1024]);
        let read = near.read(&mut asked).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        String::from_utf8(asked[..read].to_vec()).unwrap()
    });
    let connection = json!({"proxyProtocol": "HTTPConnect", "transport": {"tcp": {"url": format!("http://{by}")}}});
    let egress = json!({
        "apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": connection}],
    });
    let egress = Egress::read(egress.to_string().as_bytes()).unwrap();
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let options = Options { egress, agent_tls: Some(pki.client_config(true)), ..House::options(store) };
    let house = House::of(options).await;
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 7}},
    });
    house.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": status})).await.ok();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    house.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    assert_eq!(house.get("/api/v1/namespaces/default/pods/p/log").await.body, "a line\n");
    drop(house);
    assert!(proxy.await.unwrap().starts_with("CONNECT 127.0.0.1:7 HTTP/1.1\r\n"));
    agent.abort();
}

#[tokio::test]
async fn gates_that_are_switched_off_take_what_they_gate_along_and_metrics_go_by_themselves() {
    let mut gates = Gates::default();
    for name in ["WatchList", "APIResponseCompression", "ComponentFlagz"] {
        assert!(gates.switch(name, false), "{name}");
    }
    assert!(!gates.switch("APIServerIdentity", false), "is fixed");
    let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let metrics_off = ["apiserver_request_total".to_owned()].into();
    let house = House::of(Options { gates, metrics_off, ..House::options(store) }).await;
    let refused = house.get("/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1").await;
    let why = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    assert_eq!((refused.code, refused.json()["message"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some(why)));
    assert_eq!(house.get("/api/v1/pods?watch=true&timeoutSeconds=1").await.code, StatusCode::OK);
    let large = house.ask(Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles", &[("accept-encoding", "gzip")], "").await;
    assert!(large.code == StatusCode::OK && large.json()["items"].is_array() && !large.headers.contains_key("content-encoding"));
    assert_eq!(house.get("/flagz").await.code, StatusCode::NOT_FOUND);
    assert_eq!(house.get("/statusz").await.code, StatusCode::OK);
    let metrics = String::from_utf8(house.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("\ndisabled_metrics_total 1\n") && !metrics.contains("apiserver_request_total"));
    assert!(metrics.contains(r#"kubernetes_feature_enabled{name="WatchList",stage="BETA"} 0"#));
    assert!(metrics.contains(r#"kubernetes_feature_enabled{name="ComponentStatusz",stage="BETA"} 1"#));
}
