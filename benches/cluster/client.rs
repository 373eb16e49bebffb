//! A client of an API server: one HTTP/2 connection, a certificate, JSON.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is sent, and in which encoding; the answer is asked for in the same one where it is protobuf.
pub struct Body {
    pub content_type: &'static str,
    pub bytes: Bytes,
}

impl Body {
    pub fn json(object: &Value) -> Self {
        Self { content_type: "application/json", bytes: object.to_string().into() }
    }
}

/// Where a server is and with what it lets one in; certificates and key in PEM.
#[derive(Clone)]
pub struct Access {
    pub address: SocketAddr,
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

#[derive(Clone)]
pub struct Client {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: String,
    token: Option<String>,
}

impl Client {
    pub async fn connect(access: &Access) -> Result<Self> {
        Self::reach(access, None).await
    }

    /// With a token instead of the certificate.
    pub async fn with_token(access: &Access, token: String) -> Result<Self> {
        Self::reach(access, Some(token)).await
    }

    async fn reach(access: &Access, token: Option<String>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(access.authority.as_bytes())?)?;
        let chain = CertificateDer::pem_slice_iter(access.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = match token {
            Some(_) => tls.with_no_client_auth(),
            None => tls.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(access.key.as_bytes())?)?,
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(access.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(access.address.ip());
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(4 << 20).initial_connection_window_size(16 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authority: access.address.to_string(), token })
    }

    /// Sends a body; the body of a good answer.
    pub async fn send(&self, method: Method, path: &str, body: Body) -> Result<Bytes> {
        let accept = if body.content_type.ends_with("protobuf") { body.content_type } else { "application/json" };
        let request = self.request(method, path, accept).header(header::CONTENT_TYPE, body.content_type).body(Full::new(body.bytes))?;
        self.answer(path, request).await
    }

    pub async fn get(&self, path: &str) -> Result<Bytes> {
        self.accept(path, "application/json").await
    }

    /// What a path answers in this encoding.
    pub async fn accept(&self, path: &str, accept: &str) -> Result<Bytes> {
        self.answer(path, self.request(Method::GET, path, accept).body(Full::default())?).await
    }

    /// The compressed bytes of what a path answers to a client that takes gzip, as Go's do unless told otherwise.
    pub async fn gzip(&self, path: &str, accept: &str) -> Result<Bytes> {
        let request = self.request(Method::GET, path, accept).header(header::ACCEPT_ENCODING, "gzip");
        self.answer(path, request.body(Full::default())?).await
    }

    fn request(&self, method: Method, path: &str, accept: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(format!("https://{}{path}", self.authority)).header(header::ACCEPT, accept);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// A stream of what a path tells, from its beginning on.
    pub async fn open(&self, path: &str) -> Result<Incoming> {
        let request = self.request(Method::GET, path, "application/json").body(Full::default())?;
        let answer = timeout(PATIENCE, self.sender.clone().send_request(request)).await.with_context(|| format!("{path}: no answer"))??;
        if !answer.status().is_success() {
            bail!("{path}: {}", answer.status());
        }
        Ok(answer.into_body())
    }

    async fn answer(&self, path: &str, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let answer = timeout(PATIENCE, async {
            let answer = self.sender.clone().send_request(request).await?;
            let status = answer.status();
            anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
        });
        let (status, bytes) = answer.await.with_context(|| format!("{path}: no answer"))??;
        if !status.is_success() {
            bail!("{path}: {status} {}", String::from_utf8_lossy(&bytes));
        }
        Ok(bytes)
    }

    pub async fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?)?)
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.send(Method::POST, path, Body::json(object)).await.map(drop)
    }
}
