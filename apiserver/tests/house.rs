//! A server over the memory store, and one function that asks it something.

use std::{io::Read, net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use coracle_apiserver::{Options, Ranges, Server, Service, admission, audit, authn, authn::User, authz, bootstrap::Facts};
use coracle_store::{Store, embedded};
use coracle_tree::Value;
use flate2::read::GzDecoder;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

/// A running server and who asks it.
pub(crate) struct House {
    pub(crate) server: Server,
    pub(crate) user: Arc<User>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body of a success; anything else ends the test with what the server said.
    pub(crate) fn ok(&self) -> Value {
        assert!(self.code.is_success(), "{} {}", self.code, String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::reaching_agents(None).await
    }

    /// A server that reaches node agents with this TLS.
    pub(crate) async fn reaching_agents(agent_tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let store = embedded::Embedded::open(&embedded::Options::memory()).unwrap();
        Self::over(Arc::new(store), agent_tls).await
    }

    /// A server over a store that may hold something already.
    pub(crate) async fn over(store: Arc<dyn Store>, agent_tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self::of(Options { agent_tls, ..Self::options(store) }).await
    }

    /// A server of these options.
    pub(crate) async fn of(options: Options) -> Self {
        Self { server: Server::build(options).await.unwrap(), user: Arc::new(User::new("admin", &["system:masters"])) }
    }

    /// What the servers of most tests are built of.
    pub(crate) fn options(store: Arc<dyn Store>) -> Options {
        let facts = Facts {
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            secure_port: 6443,
            service_address: Ranges::default().first(),
            now: jiff::Timestamp::now(),
        };
        Options {
            store,
            elsewhere: Vec::new(),
            media_type: None,
            authentication: authn::Options { anonymous: authn::Anonymous::On, ..authn::Options::default() },
            authorization: authz::Options::of(&[authz::Mode::Node, authz::Mode::Rbac]),
            service_ranges: Ranges::default(),
            facts,
            admission: admission::Settings { disable: vec!["ServiceAccount".into()], ..Default::default() },
            audit: audit::Options::default(),
            encryption: None,
            log_levels: None,
            flags: [("log".to_owned(), "warn".to_owned())].into(),
            tracing: None,
            agent_tls: None,
            egress: Default::default(),
            aggregator: Default::default(),
            flow: Default::default(),
            build: Default::default(),
            presence: None,
            connections: Default::default(),
            events_last: std::time::Duration::from_secs(3600),
            gates: Default::default(),
            metrics_off: Default::default(),
            versions: Default::default(),
            clock: Arc::new(jiff::Timestamp::now),
        }
    }

    pub(crate) fn service(&self) -> Service {
        self.server.service()
    }

    /// The raw response, for streams.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<coracle_apiserver::wire::Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(body.into())).unwrap();
        request.extensions_mut().insert(self.user.clone());
        self.service().oneshot(request).await.unwrap()
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { code: parts.status, headers: parts.headers, body }
    }

    /// What a client reads that takes gzip, which the answer must be.
    pub(crate) async fn gunzipped(&self, path: &str, accept: &str) -> Reply {
        let mut reply = self.ask(Method::GET, path, &[("accept", accept), ("accept-encoding", "br, gzip")], "").await;
        assert_eq!(["content-encoding", "vary"].map(|name| reply.headers[name].to_str().unwrap()), ["gzip", "Accept-Encoding"]);
        let mut text = Vec::new();
        GzDecoder::new(&reply.body[..]).read_to_end(&mut text).unwrap();
        assert!(reply.body.len() < text.len() / 10);
        reply.body = text.into();
        reply
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, value: &Value) -> Reply {
        self.ask(Method::POST, path, &[("content-type", "application/json")], value.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, value: &Value) -> Reply {
        self.ask(Method::PUT, path, &[("content-type", "application/json")], value.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, of: &str, value: &Value) -> Reply {
        self.ask(Method::PATCH, path, &[("content-type", of)], value.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.ask(Method::DELETE, path, &[], "").await
    }
}
