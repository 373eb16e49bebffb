//! A webhook as seen from here: where it is, how it is recognised, and one bounded question after another.
//!
//! A service is reached at one of its ready endpoints, else at its cluster IP: this server need not stand where cluster IPs lead anywhere.
//! It is recognised as `NAME.NAMESPACE.svc` by its `caBundle`, a URL by its host name and, without a bundle, by the system's authorities.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{definition, trust::Bundle};
use crate::registry::{LabelSelector, Reader};

/// How long a question may take (upstream's default for conversions).
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer.
const ANSWER: usize = 64 << 20;
/// Where systems keep the certificates they trust.
const SYSTEM: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// A webhook of a CRD.
pub(super) struct Webhook {
    /// Versions of the review it understands, preferred first.
    pub review_versions: Vec<String>,
    config: definition::ClientConfig,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
    reader: Arc<dyn Reader>,
}

/// Where a question goes.
struct Place {
    /// `host:port` as the other side is named.
    authority: String,
    /// Path and query.
    path: String,
    /// The name in its certificate.
    name: String,
    /// Addresses to try, in order.
    addresses: Vec<(String, u16)>,
}

/// The certificates of a bundle (base64 of PEM); `Err` when it holds none or others cannot be read.
pub(super) fn certificates(bundle: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = STANDARD.decode(bundle.trim()).map_err(|e| format!("unable to load root certificates: {e}"))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned()),
        Err(e) => Err(format!("unable to load root certificates: {e:?}")),
    }
}

impl Webhook {
    /// The webhook a CRD names; services are looked up through `reader`.
    pub(super) fn new(of: &definition::Webhook, reader: Arc<dyn Reader>) -> Self {
        Self { review_versions: of.conversion_review_versions.clone(), config: of.client_config.clone(), tls: OnceLock::new(), reader }
    }

    /// Sends JSON and returns the JSON of a success. The error is what upstream's HTTP client would have said.
    pub(super) async fn post(&self, body: &[u8]) -> Result<Bytes, String> {
        let asked = timeout(TIMEOUT, self.ask(body)).await;
        asked.unwrap_or_else(|_| {
            Err(format!("Post {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)", self.url()))
        })
    }

    /// The address as messages show it.
    fn url(&self) -> String {
        let seconds = TIMEOUT.as_secs();
        match (&self.config.url, &self.config.service) {
            (Some(url), _) if url.contains('?') => format!("{url}&timeout={seconds}s"),
            (Some(url), _) => format!("{url}?timeout={seconds}s"),
            (None, Some(service)) => {
                let path = service.path.as_deref().unwrap_or("/");
                let slash = if path.starts_with('/') { "" } else { "/" };
                let (name, namespace, port) = (&service.name, &service.namespace, service.port.unwrap_or(443));
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}?timeout={seconds}s")
            }
            (None, None) => String::new(),
        }
    }

    async fn ask(&self, body: &[u8]) -> Result<Bytes, String> {
        let url = self.url();
        let failed = |why: String| format!("Post {url:?}: {why}");
        let place = self.place().await.map_err(failed)?;
        let tls = self.tls.get_or_init(|| self.client_config()).clone().map_err(failed)?;
        let mut last = "no address".to_owned();
        for (host, port) in &place.addresses {
            match TcpStream::connect((host.as_str(), *port)).await {
                Ok(stream) => return exchange(stream, tls, &place, body).await.map_err(failed),
                Err(e) => last = format!("dial tcp {}: connect: {}", authority(host, *port), plain(&e)),
            }
        }
        Err(failed(last))
    }

    async fn place(&self) -> Result<Place, String> {
        let uri: Uri = self.url().parse().map_err(|e| format!("invalid URL: {e}"))?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let addresses = match &self.config.service {
            Some(service) if self.config.url.is_none() => self.endpoints(service).await?,
            _ => vec![(host.clone(), port)],
        };
        Ok(Place { authority: authority(&host, port), path, name: host, addresses })
    }

    /// Where the service's port is answered.
    async fn endpoints(&self, of: &definition::ServiceReference) -> Result<Vec<(String, u16)>, String> {
        let found = self.reader.get("", "services", &of.namespace, &of.name).await.map_err(|s| s.message)?;
        let service: Value = match found {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => return Err(format!("service {:?} not found", of.name)),
        };
        let number = of.port.unwrap_or(443);
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let Some(port) = ports.into_iter().find(|p| p["port"].as_u64() == Some(u64::from(number))) else {
            return Err(format!("no service port {number} found for service {:?}", of.name));
        };
        if let Some(name) = service.pointer("/spec/externalName").and_then(Value::as_str) {
            return Ok(vec![(name.to_owned(), number)]);
        }
        let mut addresses = self.ready(of, port["name"].as_str().unwrap_or_default()).await.map_err(|s| s.message)?;
        let cluster = service.pointer("/spec/clusterIP").and_then(Value::as_str).filter(|ip| !matches!(*ip, "" | "None"));
        addresses.extend(cluster.map(|ip| (ip.to_owned(), number)));
        if addresses.is_empty() {
            return Err(format!("no endpoints available for service {:?}", of.name));
        }
        Ok(addresses)
    }

    /// The ready endpoints of a named port, from a chosen one on.
    async fn ready(&self, of: &definition::ServiceReference, port: &str) -> Result<Vec<(String, u16)>, crate::wire::Status> {
        let selector = LabelSelector::parse(&format!("kubernetes.io/service-name={}", of.name)).unwrap_or_default();
        let mut found = Vec::new();
        for bytes in self.reader.list("discovery.k8s.io", "endpointslices", &of.namespace).await? {
            let slice: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if !selector.matches(|key| slice["metadata"]["labels"][key].as_str()) {
                continue;
            }
            let ports = slice["ports"].as_array().into_iter().flatten();
            let number = ports.filter(|p| p["name"].as_str().unwrap_or_default() == port).find_map(|p| p["port"].as_u64());
            let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
            let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] != false);
            found.extend(ready.filter_map(|e| Some((e["addresses"][0].as_str()?.to_owned(), number))));
        }
        let first = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % found.len().max(1);
        found.rotate_left(first);
        Ok(found)
    }

    fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let config = match self.config.ca_bundle.as_deref().filter(|b| !b.trim().is_empty()) {
            Some(bundle) => {
                let bundle = Bundle::new(certificates(bundle)?, provider)?;
                config.dangerous().with_custom_certificate_verifier(Arc::new(bundle))
            }
            None => {
                let mut roots = RootCertStore::empty();
                let pem = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
                config.with_root_certificates(roots)
            }
        };
        Ok(Arc::new(config.with_no_client_auth()))
    }
}

fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// An error of the system, in the words Go has for it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

async fn exchange(stream: TcpStream, tls: Arc<ClientConfig>, place: &Place, body: &[u8]) -> Result<Bytes, String> {
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(place.name.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| format!("tls: failed to verify certificate: {e}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection to a webhook ended");
        }
    });
    let request = Request::builder()
        .method(Method::POST)
        .uri(&place.path)
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|e| e.to_string())?;
    let (head, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
    let read = Limited::new(body, ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
    if head.status.is_success() {
        return Ok(read);
    }
    let text = String::from_utf8_lossy(&read[..read.len().min(1024)]).trim().to_owned();
    Err(match head.status.as_u16() {
        404 => "the server could not find the requested resource".to_owned(),
        code if text.is_empty() => format!("an error on the server (\"unknown\") has prevented the request from succeeding: {code}"),
        _ => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    fn webhook(config: &Value, reader: Arc<FakeReader>) -> Webhook {
        let of = serde_json::from_value(json!({"clientConfig": config, "conversionReviewVersions": ["v1"]})).unwrap();
        Webhook::new(&of, reader)
    }

    #[tokio::test]
    async fn a_service_is_reached_at_its_ready_endpoints_and_then_at_its_address() {
        let reader = Arc::new(FakeReader::default());
        let service = json!({"metadata": {"name": "hook", "namespace": "ns"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 9443, "name": "https"}]}});
        reader.put("", "services", service);
        let slice = json!({
            "metadata": {"name": "hook-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}},
            "ports": [{"name": "https", "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"], "conditions": {"ready": true}}],
        });
        reader.put("discovery.k8s.io", "endpointslices", slice);
        let hook = webhook(&json!({"service": {"namespace": "ns", "name": "hook", "path": "convert", "port": 9443}}), reader);
        let place = hook.place().await.unwrap();
        assert_eq!(place.addresses, [("10.0.0.2".to_owned(), 8443), ("10.96.0.9".to_owned(), 9443)]);
        assert_eq!(
            (place.name.as_str(), place.authority.as_str(), place.path.as_str()),
            ("hook.ns.svc", "hook.ns.svc:9443", "/convert?timeout=30s")
        );
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_told_as_upstream_tells_it() {
        let reader = Arc::new(FakeReader::default());
        let hook = webhook(&json!({"service": {"namespace": "ns", "name": "hook"}}), reader.clone());
        assert_eq!(hook.post(b"{}").await.unwrap_err(), "Post \"https://hook.ns.svc:443/?timeout=30s\": service \"hook\" not found");
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let hook = webhook(&json!({"url": format!("https://127.0.0.1:{closed}/c")}), reader);
        let expected =
            format!("Post \"https://127.0.0.1:{closed}/c?timeout=30s\": dial tcp 127.0.0.1:{closed}: connect: connection refused");
        assert_eq!(hook.post(b"{}").await.unwrap_err(), expected);
    }

    #[test]
    fn a_bundle_must_hold_certificates() {
        assert!(certificates("!").is_err());
        assert!(certificates(&STANDARD.encode("text")).unwrap_err().contains("unable to parse bytes as PEM block"));
        let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        assert_eq!(certificates(&STANDARD.encode(certificate.cert.pem())).unwrap().len(), 1);
    }
}
