//! The HTTP request of a probe or hook (`pkg/probe/http`): any status from 200 to 399 passes, certificates are not verified because the pod has
//! none the node could know.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most of a body that is read, for messages.
const BODY_LIMIT: usize = 10 * 1024;
/// Redirects followed within the same host.
const REDIRECTS: usize = 10;

/// The address a probe asks.
///
/// # Errors
/// When port or path make no address.
pub fn url(get: &HTTPGetAction, spec: &ContainerSpec, address: Option<IpAddr>) -> Result<Uri, String> {
    let scheme = if get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")) { "https" } else { "http" };
    let host = get.host.clone().filter(|h| !h.is_empty()).or(address.map(|a| a.to_string())).ok_or("the pod has no address")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = super::port(&get.port, spec)?;
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{host}:{port}{slash}{path}").parse().map_err(|e| format!("invalid URL: {e}"))
}

/// Asks, following redirects to the same host, and returns the status.
///
/// # Errors
/// In kubelet's words when it did not pass.
pub async fn get(get: &HTTPGetAction, spec: &ContainerSpec, address: Option<IpAddr>) -> Result<u16, String> {
    let mut target = url(get, spec, address)?;
    let host = target.host().map(str::to_owned);
    for _ in 0..REDIRECTS {
        let (status, location, body) = once(get, &target).await?;
        if let (300..=399, Some(next)) = (status, location.and_then(|l| resolve(&target, &l))) {
            if next.host().map(str::to_owned) == host {
                target = next;
                continue;
            }
            // Leaving the host counts as success with a warning upstream.
            return Ok(status);
        }
        if (200..400).contains(&status) {
            return Ok(status);
        }
        tracing::trace!(status, body, "probe answered");
        return Err(format!("HTTP probe failed with statuscode: {status}"));
    }
    Err(format!("Get \"{target}\": stopped after 10 redirects"))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') {
        return format!("{}://{}{location}", base.scheme_str()?, base.authority()?).parse().ok();
    }
    location.parse().ok()
}

async fn once(get: &HTTPGetAction, target: &Uri) -> Result<(u16, Option<String>, String), String> {
    let fail = |error: &dyn std::fmt::Display| format!("Get \"{target}\": {error}");
    let host = target.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let https = target.scheme_str() == Some("https");
    let port = target.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await;
    let tcp = tcp.map_err(|e| fail(&format!("dial tcp {host}:{port}: {}", super::words(&e))))?;
    let mut request = Request::get(target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str));
    let mut named = false;
    let mut agent = false;
    for header in get.http_headers.iter().flatten() {
        named |= header.name.eq_ignore_ascii_case("host");
        agent |= header.name.eq_ignore_ascii_case("user-agent");
        request = request.header(&header.name, &header.value);
    }
    if !named {
        request = request.header(http::header::HOST, target.authority().map_or("", http::uri::Authority::as_str));
    }
    if !agent {
        request = request.header(http::header::USER_AGENT, "kube-probe/1.37");
    }
    let request = request.header(http::header::ACCEPT, "*/*").header(http::header::CONNECTION, "close").body(Empty::<bytes::Bytes>::new());
    let request = request.map_err(|e| fail(&e))?;
    if https {
        let name = ServerName::try_from(host).map_err(|e| fail(&e))?;
        let tls = connector().connect(name, tcp).await.map_err(|e| fail(&e))?;
        exchange(tls, request).await.map_err(|e| fail(&e))
    } else {
        exchange(tcp, request).await.map_err(|e| fail(&e))
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<bytes::Bytes>>) -> Result<(u16, Option<String>, String), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if text.len() > BODY_LIMIT {
                break;
            }
        }
        Ok((status, location, String::from_utf8_lossy(&text).into_owned()))
    };
    // The connection is driven here and dropped with the answer: no task is left behind.
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error),
        },
    }
}

fn connector() -> TlsConnector {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        #[allow(clippy::expect_used)] // the default versions are always supported by the provider compiled in
        let builder = versions.expect("ring supports the default TLS versions").dangerous();
        Arc::new(builder.with_custom_certificate_verifier(verifier).with_no_client_auth())
    });
    TlsConnector::from(config.clone())
}

/// Accepts any certificate: a probe asks whether the pod answers, not who it is (kubelet does the same).
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn serve(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn action(port: u16) -> HTTPGetAction {
        serde_json::from_value(serde_json::json!({"port": port, "path": "/healthz"})).expect("an action")
    }

    #[tokio::test]
    async fn a_good_status_passes_and_a_bad_one_fails_in_kubelets_words() {
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        let spec = ContainerSpec::default();
        let port = serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(get(&action(port), &spec, local).await, Ok(200));
        let port = serve("HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(get(&action(port), &spec, local).await, Err("HTTP probe failed with statuscode: 503".to_owned()));
    }

    #[tokio::test]
    async fn a_closed_port_is_told_as_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let error = get(&action(port), &ContainerSpec::default(), Some(IpAddr::from([127, 0, 0, 1]))).await.expect_err("closed");
        assert!(error.contains("connect: connection refused"), "{error}");
    }
}
