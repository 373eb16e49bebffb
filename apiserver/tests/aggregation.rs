//! Another API server behind this one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use coracle_apiserver::{Service, authn::User};
use coracle_tree::{Value, json};
use futures::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest, handshake::derive_accept_key};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    hook::{Answer, Hook},
    house::{House, Reply},
    network::Pki,
};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const ONE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.other.example.com";
const AGGREGATED: [(&str, &str); 1] = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];

/// What the other server answers: one resource, told in the plain form of discovery, and objects.
fn other() -> Answer {
    Arc::new(|path, body| {
        let made = |code: u16, kind: &str, text: String| {
            let response = Response::builder().status(code).header("content-type", kind).header("x-other", "told");
            Some(response.header("access-control-allow-origin", "*").body(Full::new(Bytes::from(text))).unwrap())
        };
        let json = |value: Value| made(200, "application/json", value.to_string());
        match path.split('?').next().unwrap_or_default() {
            "/apis/other.example.com/v1" => json(json!({"kind": "APIResourceList", "resources": [
                {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"]},
            ]})),
            "/openapi/v3" => json(json!({"paths": {
                "apis/other.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/other.example.com/v1?hash=ABC"},
                "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=DEF"},
            }})),
            "/openapi/v3/apis/other.example.com/v1" => json(json!({"openapi": "3.0.0", "told": "by the other"})),
            "/openapi/v2" => json(json!({
                "paths": {"/apis/other.example.com/v1/things": {"get": {"schema": {"$ref": "#/definitions/Thing"}}}, "/version": {}},
                "definitions": {"Thing": {"type": "object"}, "Unused": {}},
            })),
            "/apis/other.example.com/v1/namespaces/a/things" => json(json!({"got": body})),
            "/apis/other.example.com/v1/away" => {
                Some(Response::builder().status(302).header("location", "https://elsewhere.example.com/").body(Full::default()).unwrap())
            }
            _ => made(404, "text/plain", "404 page not found".to_owned()),
        }
    })
}

struct World {
    house: House,
    hook: Hook,
}

impl World {
    async fn new(protocols: &[&str]) -> Self {
        let hook = Hook::start(protocols, other()).await;
        Self { house: House::new().await, hook }
    }

    async fn register(&self, trust: &Value) {
        let mut spec = json!({
            "group": "other.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "service": {"namespace": "default", "name": "hook", "port": self.hook.port},
        });
        spec.as_object_mut().unwrap().extend(trust.as_object().unwrap().clone());
        let metadata = json!({"name": "v1.other.example.com"});
        let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": metadata, "spec": spec});
        self.house.post(SERVICES, &object).await.ok();
    }

    async fn service(&self) {
        let spec = json!({"type": "ExternalName", "externalName": "localhost"});
        let metadata = json!({"name": "hook"});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        self.house.post("/api/v1/namespaces/default/services", &service).await.ok();
    }

    async fn until(&self, path: &str, headers: &[(&str, &str)], done: impl Fn(&Reply) -> bool) -> Reply {
        let settled = async {
            loop {
                let reply = self.house.ask(Method::GET, path, headers, "").await;
                if done(&reply) {
                    return reply;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), settled).await.expect("it never came to be so")
    }

    async fn until_said(&self, status: &str, reason: &str) -> Value {
        let said = |reply: &Reply| {
            let condition = &reply.json()["status"]["conditions"][0];
            condition["status"] == status && condition["reason"] == reason
        };
        self.until(ONE, &[], said).await.json()["status"]["conditions"][0].clone()
    }
}

#[tokio::test]
async fn another_server_is_checked_asked_and_shown() {
    let world = World::new(&["h2", "http/1.1"]).await;
    world.register(&json!({"caBundle": world.hook.bundle})).await;
    let condition = world.until_said("False", "ServiceNotFound").await;
    assert_eq!(condition["message"], "service/hook in \"default\" is not present");
    let down = world.house.get("/apis/other.example.com/v1/namespaces/a/things").await;
    assert_eq!((down.code, &*down.body), (StatusCode::SERVICE_UNAVAILABLE, &b"service unavailable\n"[..]));
    let stale = |reply: &Reply| String::from_utf8_lossy(&reply.body).contains("\"freshness\":\"Stale\"");
    world.until("/apis", &AGGREGATED, stale).await;

    world.service().await;
    let condition = world.until_said("True", "Passed").await;
    assert_eq!(condition["message"], "all checks passed");
    let shown = |reply: &Reply| {
        let all = reply.json();
        let group = all["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "other.example.com").cloned();
        group.is_some_and(|g| g["versions"][0]["freshness"] == "Current" && g["versions"][0]["resources"][0]["resource"] == "things")
    };
    world.until("/apis", &AGGREGATED, shown).await;
    let group = world.house.get("/apis/other.example.com").await.ok();
    assert_eq!(group["preferredVersion"]["groupVersion"], "other.example.com/v1");

    let index = world.until("/openapi/v3", &[], |reply| reply.json()["paths"]["apis/other.example.com/v1"].is_object()).await.json();
    assert_eq!(index["paths"]["apis/other.example.com/v1"]["serverRelativeURL"], "/openapi/v3/apis/other.example.com/v1?hash=ABC");
    assert!(!index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().ends_with("DEF"), "ours is told by us");
    let document = world.house.get("/openapi/v3/apis/other.example.com/v1?hash=ABC").await.ok();
    assert_eq!(document["told"], "by the other");
    let merged = world.until("/openapi/v2", &[], |reply| reply.json()["definitions"]["Thing"].is_object()).await.json();
    assert!(merged["paths"]["/apis/other.example.com/v1/things"].is_object() && merged["definitions"].get("Unused").is_none());
    assert!(merged["paths"]["/version/"].is_object() || merged["paths"]["/api/v1/pods"].is_object());

    world.house.delete(ONE).await.ok();
    world.until("/apis/other.example.com/v1", &[], |reply| reply.code == StatusCode::NOT_FOUND).await;
    assert_eq!(world.house.get("/apis/other.example.com").await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_request_is_passed_on_with_who_asks_and_without_what_the_client_says_of_it() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::new(&[protocol]).await;
        world.service().await;
        world.register(&json!({"insecureSkipTLSVerify": true})).await;
        world.until_said("True", "Passed").await;
        world.hook.take();
        let path = "/apis/other.example.com/v1/namespaces/a/things?limit=5&x=%2F";
        let headers = [
            ("authorization", "Bearer secret"),
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-a", "b"),
            ("impersonate-user", "jo"),
            ("impersonate-group", "dev"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-kept", "2"),
            ("audit-id", "the-id"),
        ];
        let admin = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "jo"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jo"}]});
        world.house.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &admin).await.ok();
        let settled = async {
            loop {
                let reply = world.house.ask(Method::POST, path, &headers, r#"{"a":1}"#).await;
                if reply.code != StatusCode::FORBIDDEN {
                    return reply;
                }
                tokio::task::yield_now().await;
            }
        };
        let reply = tokio::time::timeout(Duration::from_secs(20), settled).await.unwrap();
        assert_eq!(reply.json()["got"], json!({"a": 1}));
        assert_eq!((reply.headers["x-other"].to_str().unwrap(), reply.headers.get("access-control-allow-origin")), ("told", None));
        let asked = world.hook.take().into_iter().find(|asked| asked.path == path).unwrap();
        let all = |name: &str| asked.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jo"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(
            (all("x-kept"), all("audit-id"), all("x-forwarded-for")),
            (vec!["2".into()], vec!["the-id".into()], vec!["127.0.0.1".into()])
        );
        assert_eq!(all("x-forwarded-uri"), ["/apis/other.example.com/v1/namespaces/a/things"]);
        for gone in ["authorization", "x-remote-extra-a", "impersonate-user", "impersonate-group", "x-hop"] {
            assert!(all(gone).is_empty(), "{gone}");
        }
        let away = world.house.get("/apis/other.example.com/v1/away").await;
        assert_eq!(away.code, StatusCode::BAD_GATEWAY);
        assert_eq!(&*away.body, b"the backend attempted to redirect this request, which is not permitted");
    }
}

#[tokio::test]
async fn a_server_with_the_wrong_certificate_is_not_asked() {
    let world = World::new(&["h2"]).await;
    world.service().await;
    let stranger = Hook::start(&["h2"], other()).await;
    world.register(&json!({"caBundle": stranger.bundle})).await;
    let condition = world.until_said("False", "FailedDiscoveryCheck").await;
    let message = condition["message"].as_str().unwrap();
    assert!(message.starts_with("failing or missing response from https://localhost:"), "{message}");
    assert!(message.contains("tls: failed to verify certificate: x509: certificate signed by unknown authority"), "{message}");
}

#[tokio::test]
async fn a_custom_version_has_an_object_as_long_as_it_is_served() {
    let world = World::new(&["h2"]).await;
    let path = format!("{SERVICES}/v1.example.com");
    crate::extensions::define_widgets(&world.house).await;
    let made =
        world.until(&path, &[], |reply| reply.code == StatusCode::OK && reply.json()["status"]["conditions"].is_array()).await.json();
    assert_eq!(made["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!((&made["spec"]["groupPriorityMinimum"], &made["spec"]["versionPriority"]), (&json!(1000), &json!(100)));
    assert_eq!(made["status"]["conditions"][0]["reason"], "Local");
    let uid = made["metadata"]["uid"].clone();
    world.house.delete(&path).await.ok();
    world.until(&path, &[], |reply| reply.code == StatusCode::OK && reply.json()["metadata"]["uid"] != uid).await;
    world.house.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com").await.ok();
    world.until(&path, &[], |reply| reply.code == StatusCode::NOT_FOUND).await;
}

/// The same server, older: it tells version 2 of OpenAPI alone.
#[tokio::test]
async fn a_server_that_tells_openapi_v2_alone_is_told_in_v3_too() {
    let told = other();
    let older: Answer = Arc::new(move |path, body| {
        let path = if path.starts_with("/openapi/v3") { "/gone" } else { path };
        told(path, body)
    });
    let world = World { hook: Hook::start(&["h2"], older).await, house: House::new().await };
    world.service().await;
    world.register(&json!({"insecureSkipTLSVerify": true})).await;
    let index = world.until("/openapi/v3", &[], |reply| reply.json()["paths"]["apis/other.example.com/v1"].is_object()).await.json();
    let url = index["paths"]["apis/other.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(url.starts_with("/openapi/v3/apis/other.example.com/v1?hash="), "{url}");
    let document = world.house.get(&url).await.ok();
    assert_eq!(document["openapi"], "3.0.0");
    assert_eq!(
        document["paths"]["/apis/other.example.com/v1/things"]["get"]["schema"]["$ref"], "#/definitions/Thing",
        "not a schema there"
    );
    assert_eq!(document["components"]["schemas"]["Thing"], json!({"type": "object"}));
    assert!(document["components"]["schemas"].get("Unused").is_none());
}

/// A server that leaves HTTP when it is asked to, and then says back what it hears; it refuses those who ask at `/refused`.
async fn echo(tls: Arc<rustls::ServerConfig>) -> (u16, Arc<Mutex<Vec<http::HeaderMap>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<http::HeaderMap>>>::default();
    let seen = asked.clone();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls);
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let serve = service_fn(move |request| {
                    let said = echoed(request, &seen);
                    async move { Ok::<_, hyper::Error>(said) }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).with_upgrades().await;
            });
        }
    });
    (port, asked)
}

fn echoed(mut request: Request<Incoming>, seen: &Mutex<Vec<http::HeaderMap>>) -> Response<Full<Bytes>> {
    let Some(protocol) = request.headers().get("upgrade").cloned() else {
        let list = json!({"kind": "APIResourceList", "resources": []}).to_string();
        return Response::builder().header("content-type", "application/json").body(Full::new(list.into())).unwrap();
    };
    seen.lock().unwrap().push(request.headers().clone());
    if request.uri().path().ends_with("/refused") {
        return Response::builder().status(403).header("x-why", "so").body(Full::new("not you".into())).unwrap();
    }
    let mut answer = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", protocol);
    if let Some(key) = request.headers().get("sec-websocket-key") {
        answer = answer.header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
        answer = answer.header("sec-websocket-protocol", "v5.channel.k8s.io");
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut reading, mut writing) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        tokio::io::copy(&mut reading, &mut writing).await.ok();
        writing.shutdown().await.ok();
    });
    answer.body(Full::default()).unwrap()
}

/// This server on a socket, before the echo.
struct Front {
    port: u16,
    pki: Pki,
    asked: Arc<Mutex<Vec<http::HeaderMap>>>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    /// The same server without a socket.
    inside: Service,
    user: Arc<User>,
}

impl Front {
    async fn new() -> Self {
        Self::of(House::new().await).await
    }

    async fn of(house: House) -> Self {
        let pki = Pki::new();
        // Connections leave HTTP/1.1 only.
        let mut tls = rustls::ServerConfig::clone(&pki.server_config());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (port, asked) = echo(Arc::new(tls)).await;
        let world = World { hook: Hook { port, ..Hook::start(&["h2"], other()).await }, house };
        world.service().await;
        world.register(&json!({"insecureSkipTLSVerify": true})).await;
        world.until_said("True", "Passed").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, tls, house) = (CancellationToken::new(), pki.serving(world.house.server.authorities()), world.house);
        let (end, inside, user) = (stop.clone(), house.service(), house.user.clone());
        let running = tokio::spawn(async move { house.server.run(listener, tls, end).await });
        Self { port, pki, asked, stop, running, inside, user }
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.pki.client_config(true)).connect(name, stream).await.unwrap()
    }

    /// The value of a series, if it is there.
    async fn metric(&self, series: &str) -> Option<String> {
        let mut request = Request::get("/metrics").body(Full::<Bytes>::default()).unwrap();
        request.extensions_mut().insert(self.user.clone());
        let page = self.inside.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let page = String::from_utf8(page.to_vec()).unwrap();
        page.lines().find_map(|line| line.strip_prefix(series)).map(|value| value.trim().to_owned())
    }

    /// Asks to leave HTTP for SPDY at a path below `namespaces/a/things`.
    async fn leave(&self, path: &str) -> Response<Incoming> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::post(format!("/apis/other.example.com/v1/namespaces/a/things/{path}"))
            .header("host", "localhost")
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io")
            .header("authorization", "Bearer secret")
            .header("x-remote-user", "root");
        sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn a_connection_leaves_http_through_this_server_and_ends_with_it() {
    let front = Front::new().await;
    let mut answer = front.leave("x/exec?command=ls").await;
    assert_eq!((answer.status(), &answer.headers()["upgrade"]), (StatusCode::SWITCHING_PROTOCOLS, &"SPDY/3.1".parse().unwrap()));
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    let long = vec![7; 1 << 20];
    let (mut reading, mut writing) = tokio::io::split(&mut stream);
    let heard = async {
        let mut heard = vec![0; long.len()];
        reading.read_exact(&mut heard).await.unwrap();
        heard
    };
    let (heard, said) = tokio::join!(heard, writing.write_all(&long));
    said.unwrap();
    assert!(heard == long, "every byte, both ways");
    let headers = front.asked.lock().unwrap()[0].clone();
    let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        (all("x-remote-user"), all("x-remote-group")),
        (vec!["admin".into()], vec!["system:masters".into(), "system:authenticated".into()])
    );
    assert_eq!((all("authorization"), all("x-stream-protocol-version")), (Vec::new(), vec!["v4.channel.k8s.io".into()]));
    // The server's end is the stream's.
    front.stop.cancel();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it never ended");
    assert!(rest.is_empty(), "{ended:?}");
    front.running.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_left_http_is_under_way_until_it_ends() {
    const UNDER_WAY: &str = "apiserver_longrunning_requests{component=\"apiserver\",group=\"other.example.com\",resource=\"things\",\
        scope=\"resource\",subresource=\"attach\",verb=\"CONNECT\",version=\"v1\"}";
    let folder = tempfile::tempdir().unwrap();
    let front = Front::of(crate::audit::house(folder.path()).await).await;
    let stages = || -> Vec<Value> {
        let ours = |event: &Value| event["requestURI"].as_str().is_some_and(|uri| uri.ends_with("/attach"));
        // The last line may be being written.
        let text = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
        let events = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        events.filter(ours).map(|event| event["stage"].clone()).collect()
    };
    let mut answer = front.leave("x/attach").await;
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"a").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'a');
    assert_eq!((stages(), front.metric(UNDER_WAY).await.as_deref()), (vec![json!("ResponseStarted")], Some("1")));
    drop(stream);
    let ended = async {
        while front.metric(UNDER_WAY).await.as_deref() != Some("0") || stages().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it never ended");
    assert_eq!(stages(), ["ResponseStarted", "ResponseComplete"]);
    front.stop.cancel();
    front.running.await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_leave_http_is_heard() {
    let front = Front::new().await;
    let answer = front.leave("refused").await;
    assert_eq!((answer.status(), answer.headers()["x-why"].to_str().unwrap()), (StatusCode::FORBIDDEN, "so"));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "not you");
    front.stop.cancel();
    front.running.await.unwrap();
}

#[tokio::test]
async fn a_websocket_goes_through_this_server() {
    let front = Front::new().await;
    let mut request = "wss://localhost/apis/other.example.com/v1/namespaces/a/things/x/exec".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::client_async(request, front.connect().await).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    // The echo knows no frames: what comes back are this client's own, masked as no server's may be.
    socket.send(Message::binary(vec![1; 10])).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap().unwrap().unwrap_err();
    assert!(refused.to_string().contains("masked"), "{refused}");
    front.stop.cancel();
    front.running.await.unwrap();
}
