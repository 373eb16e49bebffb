//! Plain HTTP/1.1 over TLS to one API server, as an administrator.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a server is reached.
pub(crate) struct Server {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// HTTP method.
    pub(crate) method: &'static str,
    /// Path and query.
    pub(crate) path: String,
    /// Of the body.
    pub(crate) content_type: &'static str,
    /// The body.
    pub(crate) body: String,
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// HTTP status code.
    pub(crate) code: u16,
    /// `Warning:` headers, in order.
    pub(crate) warnings: Vec<String>,
    /// The body; a text when it is no JSON.
    pub(crate) body: Value,
}

/// A connection, opened when first needed and again when it was lost.
pub(crate) struct Connection {
    server: Arc<Server>,
    /// Headers of every request.
    headers: Vec<(&'static str, String)>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Server {
    /// A server at an address; whose certificates are trusted, and the client's chain and key, all PEM.
    pub(crate) fn new(address: SocketAddr, authority: &[u8], chain: &str, key: &str) -> Result<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(authority)?)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// The server and user of a kubeconfig that holds its certificates inline.
    pub(crate) fn from_kubeconfig(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let config: Value = serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", file.display()))?;
        let data = |pointer: &str| -> Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str).with_context(|| format!("{}: no {pointer}", file.display()))?;
            Ok(BASE64_STANDARD.decode(text)?)
        };
        let url = config.pointer("/clusters/0/cluster/server").and_then(Value::as_str).unwrap_or_default();
        let address = url.trim_start_matches("https://").parse().with_context(|| format!("{url} is not https://ADDRESS:PORT"))?;
        let text = |pem: Vec<u8>| String::from_utf8(pem).context("a certificate is not text");
        Self::new(
            address,
            &data("/clusters/0/cluster/certificate-authority-data")?,
            &text(data("/users/0/user/client-certificate-data")?)?,
            &text(data("/users/0/user/client-key-data")?)?,
        )
    }
}

impl Server {
    /// The same, of a protocol by its ALPN name.
    pub(crate) async fn dial_speaking(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.to_vec()];
        Self { address: self.address, tls: Arc::new(tls) }.dial().await
    }

    /// A connection on which nothing was said yet.
    pub(crate) async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        Ok(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?)
    }
}

/// The certificates that may vouch for the server; leaves in the file are passed over.
fn roots(pem: &[u8]) -> Result<RootCertStore> {
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        bail!("no certificate authority is given");
    }
    Ok(roots)
}

impl Connection {
    /// To be opened.
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        Self::acting(server, Vec::new())
    }

    /// To be opened; every request carries these headers.
    pub(crate) fn acting(server: &Arc<Server>, headers: Vec<(&'static str, String)>) -> Self {
        Self { server: Arc::clone(server), headers, sender: None }
    }

    /// Asks; a connection that the server has closed is opened again. A server that breaks off twice, as one that panics does, has
    /// answered with code 0.
    pub(crate) async fn ask(&mut self, question: &Question) -> Reply {
        let mut lost = String::new();
        for _ in 0..2 {
            match timeout(PATIENCE, self.attempt(question)).await {
                Ok(Ok(reply)) => return reply,
                Ok(Err(error)) => lost = format!("{error:#}"),
                Err(_) => lost = format!("no answer after {PATIENCE:?}"),
            }
            self.sender = None;
        }
        Reply { body: serde_json::json!({ "message": lost }), ..Reply::default() }
    }

    /// A GET.
    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.ask(&Question { method: "GET", path: path.to_owned(), content_type: "application/json", body: String::new() }).await
    }

    async fn attempt(&mut self, question: &Question) -> Result<Reply> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            self.sender = Some(self.open().await?);
        }
        let sender = self.sender.as_mut().context("no connection")?;
        let mut request = Request::builder()
            .method(question.method)
            .uri(&question.path)
            .header(header::HOST, self.server.address.to_string())
            .header(header::USER_AGENT, "differential/1")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, question.content_type);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(Bytes::from(question.body.clone())))?).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let warnings = head.headers.get_all("warning").iter().map(|w| String::from_utf8_lossy(w.as_bytes()).into_owned()).collect();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok(Reply { code: head.status.as_u16(), warnings, body })
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = self.server.dial().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Its end shows as a closed sender.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
