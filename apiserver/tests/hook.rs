//! A webhook that stands in the test and is asked over TLS.

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_tree::Value;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a webhook answers to a question at a path; nothing: it never does.
pub(crate) type Answer = Arc<dyn Fn(&str, &Value) -> Option<Response<Full<Bytes>>> + Send + Sync>;

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// With its query.
    pub(crate) path: String,
    /// `HTTP/1.1`
    pub(crate) protocol: String,
    pub(crate) body: Value,
    pub(crate) headers: http::HeaderMap,
}

/// The webhook, and what it was asked.
pub(crate) struct Hook {
    /// `https://localhost:PORT`
    pub(crate) url: String,
    pub(crate) port: u16,
    /// Its certificate, as a `caBundle`.
    pub(crate) bundle: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    /// How many connections it was asked over.
    pub(crate) connections: Arc<Mutex<usize>>,
}

impl Hook {
    /// A webhook of the given names, `localhost` first, that speaks these protocols.
    pub(crate) async fn start(protocols: &[&str], answer: Answer) -> Self {
        let names = ["localhost".to_owned(), "hook.default.svc".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hook = Self {
            url: format!("https://localhost:{port}"),
            port,
            bundle: STANDARD.encode(certified.cert.pem()),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let (asked, connections) = (hook.asked.clone(), hook.connections.clone());
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, asked, answer) = (acceptor.clone(), asked.clone(), answer.clone());
                *connections.lock().unwrap() += 1;
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serve = service_fn(move |request| {
                        let (asked, answer) = (asked.clone(), answer.clone());
                        async move { Ok::<_, hyper::Error>(said(request, &answer, &asked).await) }
                    });
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        hook
    }

    /// What it was asked since it was last looked at.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn said(request: Request<Incoming>, answer: &Answer, asked: &Mutex<Vec<Asked>>) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let protocol = format!("{:?}", request.version());
    let headers = request.headers().clone();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    asked.lock().unwrap().push(Asked { path: path.clone(), protocol, body: body.clone(), headers });
    match answer(&path, &body) {
        Some(response) => response,
        None => std::future::pending().await,
    }
}
