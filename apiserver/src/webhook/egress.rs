//! `--egress-selector-config-file` (apiserver `server/egressselector`): by which way others are reached. Somebody in front may be asked to
//! connect to them (`CONNECT`), over TCP, with TLS or without, or over a socket in the file system.

use std::{path::Path, sync::Arc};

use http::Uri;
use rustls::{
    ClientConfig as Tls,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{Identity, Trust, client, pem_certificates, place, words};
use crate::wire::configuration::Format;

const FORMAT: Format = Format {
    group: "apiserver.k8s.io",
    versions: &["v1beta1", "v1alpha1"],
    kind: "EgressSelectorConfiguration",
    others: &[],
    fields: &[
        ("", &["apiVersion", "kind", "egressSelections"]),
        ("egressSelections", &["name", "connection"]),
        ("egressSelections.connection", &["proxyProtocol", "transport"]),
        ("egressSelections.connection.transport", &["tcp", "uds"]),
        ("egressSelections.connection.transport.tcp", &["url", "tlsConfig"]),
        ("egressSelections.connection.transport.tcp.tlsConfig", &["caBundle", "clientKey", "clientCert", "tlsServerName"]),
        ("egressSelections.connection.transport.uds", &["udsName"]),
    ],
};
/// The group's newer name.
const CONFIGURATION: Format = Format { group: "apiserver.config.k8s.io", versions: &["v1alpha1", "v1beta1"], ..FORMAT };

/// Largest head of an answer to `CONNECT`, in bytes (Go's `http.DefaultMaxHeaderBytes`).
const HEAD: usize = 1 << 20;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    egress_selections: Vec<Selection>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Selection {
    name: String,
    connection: Connection,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Connection {
    proxy_protocol: String,
    transport: Option<Transport>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Transport {
    tcp: Option<Tcp>,
    uds: Option<Uds>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Tcp {
    url: String,
    tls_config: Option<TlsConfig>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct TlsConfig {
    ca_bundle: String,
    client_key: String,
    client_cert: String,
    tls_server_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Uds {
    uds_name: String,
}

/// By which way whom is reached; directly where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Nodes, pods, and services: also those that are webhooks or other API servers.
    pub(crate) cluster: Way,
    /// Whom files and URLs name.
    pub(crate) control_plane: Way,
}

/// A way to somebody; the default leads there directly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way(Option<Arc<Proxy>>);

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }
}

impl Eq for Way {}

/// Who is asked to connect to others.
#[derive(Debug)]
enum Proxy {
    /// Host and port, and whom to expect there, where that is not plain.
    Tcp(place::Address, Option<(Arc<Tls>, ServerName<'static>)>),
    /// A socket in the file system.
    Socket(String),
}

/// A connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Egress {
    /// Reads the file and refuses what is wrong with it, in upstream's words, and the ways that there are not here.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let file: File = FORMAT.read_or(&CONFIGURATION, bytes)?;
        let (mut egress, mut seen) = (Self::default(), Vec::new());
        for Selection { connection, .. } in &file.egress_selections {
            connection.check()?;
        }
        for (at, Selection { name, connection }) in file.egress_selections.iter().enumerate() {
            let name = name.to_lowercase();
            if seen.contains(&name) {
                return Err(format!("service.connection[{at}]: Duplicate value: {name:?}"));
            }
            let way = || connection.way().map_err(|why| format!("failed to create dialer for egressSelection {name:?}: {why}"));
            match name.as_str() {
                "cluster" => egress.cluster = way()?,
                "controlplane" => egress.control_plane = way()?,
                "etcd" if connection.proxy_protocol == "Direct" => {}
                "etcd" => return Err("egress selection \"etcd\": only the proxy protocol Direct is supported".to_owned()),
                _ => {
                    return Err(format!(
                        r#"service.connection: Unsupported value: {name:?}: supported values: "cluster", "controlplane", "etcd""#
                    ));
                }
            }
            seen.push(name);
        }
        Ok(egress)
    }
}

impl Connection {
    fn check(&self) -> Result<(), String> {
        match (self.proxy_protocol.as_str(), &self.transport) {
            ("Direct", None) => Ok(()),
            ("Direct", Some(_)) => {
                Err(r#"service.connection.transport: Invalid value: "direct": config must be absent for direct connect"#.to_owned())
            }
            ("HTTPConnect", None) => Err("service.connection.transport: Required value: transport must be set for HTTPConnect".to_owned()),
            ("HTTPConnect", Some(Transport { tcp: Some(tcp), uds: None })) => tcp.check(),
            ("HTTPConnect", Some(Transport { tcp: None, uds: Some(uds) })) => uds.check(),
            ("HTTPConnect", Some(Transport { tcp: None, uds: None })) => {
                Err("service.connection.tcp: Required value: One of TCP or UDS must be set".to_owned())
            }
            ("HTTPConnect", Some(_)) => Err("service.connection.tcp: Invalid value: TCP and UDS cannot both be set".to_owned()),
            ("GRPC", None) => Err("service.connection.transport: Required value: transport must be set for GRPC".to_owned()),
            ("GRPC", Some(Transport { uds: None, .. })) => {
                Err("service.connection.uds: Required value: UDS must be set with GRPC".to_owned())
            }
            ("GRPC", Some(Transport { uds: Some(uds), .. })) => {
                uds.check()?;
                Err("proxy protocol GRPC is not supported; allowed: Direct, HTTPConnect".to_owned())
            }
            (other, _) => Err(format!(
                r#"service.connection.protocol: Unsupported value: {other:?}: supported values: "Direct", "HTTPConnect", "GRPC""#
            )),
        }
    }

    fn way(&self) -> Result<Way, String> {
        let proxy = match &self.transport {
            Some(Transport { tcp: Some(tcp), .. }) => tcp.proxy()?,
            Some(Transport { uds: Some(uds), .. }) => Proxy::Socket(uds.uds_name.clone()),
            _ => return Ok(Way(None)),
        };
        Ok(Way(Some(Arc::new(proxy))))
    }
}

impl Uds {
    fn check(&self) -> Result<(), String> {
        if !self.uds_name.is_empty() {
            return Ok(());
        }
        Err(r#"service.connection.udsName: Invalid value: "nil": must be present for UDS connections"#.to_owned())
    }
}

impl Tcp {
    fn check(&self) -> Result<(), String> {
        let invalid = |field: &str, value: &str, why: &str| Err(format!("service.connection.{field}: Invalid value: {value:?}: {why}"));
        let tls = match (&self.tls_config, self.url.split_once("://")) {
            (None, Some(("http", _))) => return Ok(()),
            (Some(_), Some(("http", _))) => return invalid("tlsConfig", "nil", "config must not be present when using HTTP"),
            (None, Some(("https", _))) => {
                return Err("service.connection.tlsConfig: Required value: TLSConfig must be present when using HTTPS".to_owned());
            }
            (Some(tls), Some(("https", _))) => tls,
            _ => return invalid("url", &self.url, "supported connection protocols are http:// and https://"),
        };
        let is_there = |file: &str| Path::new(file).exists();
        if !tls.ca_bundle.is_empty() && !is_there(&tls.ca_bundle) {
            return invalid("tlsConfig.caBundle", &tls.ca_bundle, "TLS config ca bundle does not exist");
        }
        for (field, file, missing, nowhere) in [
            ("tlsConfig.clientCert", &tls.client_cert, "Using TLS requires clientCert", "TLS client cert does not exist"),
            ("tlsConfig.clientKey", &tls.client_key, "Using TLS requires requires clientKey", "TLS client key does not exist"),
        ] {
            if file.is_empty() {
                return invalid(field, "nil", missing);
            }
            if !is_there(file) {
                return invalid(field, file, nowhere);
            }
        }
        Ok(())
    }

    fn proxy(&self) -> Result<Proxy, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("invalid proxy server url {:?}: {why}", self.url);
        let uri: Uri = self.url.parse().map_err(|why| wrong(&why))?;
        let host = uri.host().ok_or_else(|| wrong(&"no host"))?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().ok_or_else(|| wrong(&"no port"))?;
        let tls = match &self.tls_config {
            None => None,
            Some(tls) => {
                let name = if tls.tls_server_name.is_empty() { host.clone() } else { tls.tls_server_name.clone() };
                Some((tls.load()?, ServerName::try_from(name).map_err(|why| wrong(&why))?))
            }
        };
        Ok(Proxy::Tcp((host, port), tls))
    }
}

impl TlsConfig {
    fn load(&self) -> Result<Arc<Tls>, String> {
        let (cert, key) = (&self.client_cert, &self.client_key);
        let pair = |why: &dyn std::fmt::Display| format!("failed to read key pair {cert} & {key}, got {why}");
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&std::fs::read(cert).map_err(|why| pair(&why))?).collect();
        let chain = chain.map_err(|why| pair(&why))?;
        let key = PrivateKeyDer::from_pem_slice(&std::fs::read(key).map_err(|why| pair(&why))?).map_err(|why| pair(&why))?;
        let bundle = match self.ca_bundle.as_str() {
            "" => None,
            file => {
                let pem = std::fs::read(file).map_err(|why| format!("failed to read cert file {file}, got {why}"))?;
                Some(pem_certificates(&pem).map_err(|_| "failed to append CA cert to the cert pool")?)
            }
        };
        client(Trust { bundle, insecure: false, identity: Some(&Identity { chain, key }), protocols: &[] })
    }
}

impl Way {
    /// A connection to an address. The error is what Go's dialers say.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<Box<dyn Io>, String> {
        let address = place::authority(host, port);
        let Some(proxy) = &self.0 else { return Ok(Box::new(connect(host, port).await?)) };
        let (mut stream, asked): (Box<dyn Io>, String) = match &**proxy {
            Proxy::Tcp((host, port), tls) => {
                let stream = connect(host, *port).await?;
                let stream: Box<dyn Io> = match tls {
                    None => Box::new(stream),
                    Some((tls, name)) => {
                        let made = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await;
                        Box::new(made.map_err(|why| words::handshake(&why))?)
                    }
                };
                (stream, place::authority(host, *port))
            }
            Proxy::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|why| format!("dial unix {path}: connect: {why}"))?;
                (Box::new(stream), path.clone())
            }
        };
        tunnel(&mut *stream, &asked, &address).await?;
        Ok(stream)
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|why| words::dial(&place::authority(host, port), &why))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Has a proxy connect to an address. What comes after its answer is the other side's.
async fn tunnel(stream: &mut dyn Io, proxy: &str, address: &str) -> Result<(), String> {
    let broken = |why: &dyn std::fmt::Display| format!("reading HTTP response from CONNECT to {address} via proxy {proxy} failed: {why}");
    let asked = format!("CONNECT {address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.map_err(|why| broken(&why))?;
    stream.flush().await.map_err(|why| broken(&why))?;
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    let end = loop {
        let read = stream.read(&mut piece).await.map_err(|why| broken(&why))?;
        if read == 0 || head.len() > HEAD {
            return Err(broken(&"unexpected EOF"));
        }
        // Nobody speaks on this connection before we do.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..read]);
        if let Some(at) = head[from..].windows(4).position(|four| four == b"\r\n\r\n") {
            break from + at + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]);
    let line = text.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')).map(|(_, status)| status.trim());
    let code = status.and_then(|status| status.get(..3)?.parse::<u16>().ok());
    match (code, status) {
        (Some(200), _) if end == head.len() => Ok(()),
        (Some(200), _) => Err(format!("unexpected {} bytes of buffered data from CONNECT proxy {proxy:?}", head.len() - end)),
        (Some(code), Some(status)) => Err(format!("proxy error from {proxy} while dialing {address}, code {code}: {status}")),
        _ => Err(broken(&format!("malformed HTTP response {line:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn read(selections: &str) -> Result<Egress, String> {
        let head = "apiVersion: apiserver.k8s.io/v1beta1\nkind: EgressSelectorConfiguration\negressSelections: ";
        Egress::read(format!("{head}{selections}").as_bytes())
    }

    fn by(transport: &str) -> String {
        format!("[{{name: cluster, connection: {{proxyProtocol: HTTPConnect, transport: {transport}}}}}]")
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_in_upstreams_words() {
        let direct =
            read("[{name: controlplane, connection: {proxyProtocol: Direct}}, {name: Cluster, connection: {proxyProtocol: Direct}}]");
        assert!(direct.unwrap().cluster.0.is_none());
        let proxied = read(&by("{tcp: {url: 'http://proxy:1'}}")).unwrap();
        assert!(proxied.cluster.0.is_some() && proxied.control_plane.0.is_none());
        for (selections, why) in [
            (
                "[{name: cluster, connection: {proxyProtocol: GRPC, transport: {uds: {udsName: /a}}}}]",
                "proxy protocol GRPC is not supported",
            ),
            (
                "[{name: cluster, connection: {proxyProtocol: Tunnel}}]",
                "service.connection.protocol: Unsupported value: \"Tunnel\": supported values: \"Direct\", \"HTTPConnect\", \"GRPC\"",
            ),
            ("[{name: moon, connection: {proxyProtocol: Direct}}]", "service.connection: Unsupported value: \"moon\""),
            (
                "[{name: cluster, connection: {proxyProtocol: Direct, transport: {}}}]",
                "service.connection.transport: Invalid value: \"direct\": config must be absent for direct connect",
            ),
            (
                "[{name: etcd, connection: {proxyProtocol: Direct}}, {name: etcd, connection: {proxyProtocol: Direct}}]",
                "service.connection[1]: Duplicate value: \"etcd\"",
            ),
            ("[{nam: etcd}]", "strict decoding error: unknown field"),
            (&by("{tcp: {url: 'http://a:1', tlsConfig: {}}}"), "config must not be present when using HTTP"),
            (
                &by("{tcp: {url: 'https://a:1'}}"),
                "service.connection.tlsConfig: Required value: TLSConfig must be present when using HTTPS",
            ),
            (
                &by("{tcp: {url: 'https://a:1', tlsConfig: {}}}"),
                "tlsConfig.clientCert: Invalid value: \"nil\": Using TLS requires clientCert",
            ),
            (&by("{tcp: {url: 'a:1'}}"), "supported connection protocols are http:// and https://"),
            (&by("{tcp: {url: 'http://a:1'}, uds: {udsName: /a}}"), "TCP and UDS cannot both be set"),
            (&by("{}"), "service.connection.tcp: Required value: One of TCP or UDS must be set"),
            (&by("{uds: {}}"), "service.connection.udsName: Invalid value: \"nil\": must be present for UDS connections"),
        ] {
            let refused = read(selections).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(Egress::read(b"kind: Pod").is_err());
    }

    /// A proxy that answers the first who asks with a line, and then with what he says; what it was asked.
    async fn proxy(mut stream: impl Io, answer: &str) -> String {
        let mut asked = vec![0; 1024];
        let read = stream.read(&mut asked).await.unwrap();
        asked.truncate(read);
        stream.write_all(format!("HTTP/1.1 {answer}\r\nVia: me\r\n\r\n").as_bytes()).await.unwrap();
        let mut said = [0; 2];
        while stream.read_exact(&mut said).await.is_ok() {
            stream.write_all(&said).await.unwrap();
        }
        String::from_utf8(asked).unwrap()
    }

    #[tokio::test]
    async fn a_proxy_is_asked_to_connect_and_what_it_refuses_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let way = read(&by(&format!("{{tcp: {{url: 'http://{at}'}}}}"))).unwrap().cluster;
        let serving = tokio::spawn(async move {
            let taken = proxy(listener.accept().await.unwrap().0, "200 Connection established").await;
            (taken, proxy(listener.accept().await.unwrap().0, "403 Forbidden").await)
        });
        let mut stream = way.dial("fd00::1", 443).await.unwrap();
        stream.write_all(b"hi").await.unwrap();
        let mut heard = [0; 2];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hi");
        drop(stream);
        let refused = way.dial("10.0.0.1", 443).await.err().unwrap();
        assert_eq!(refused, format!("proxy error from {at} while dialing 10.0.0.1:443, code 403: 403 Forbidden"));
        let (taken, _) = serving.await.unwrap();
        assert_eq!(taken, "CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    }

    #[tokio::test]
    async fn a_proxy_may_be_behind_a_socket_of_the_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let way = read(&by(&format!("{{uds: {{udsName: {}}}}}", path.display()))).unwrap().cluster;
        let serving = tokio::spawn(async move { proxy(listener.accept().await.unwrap().0, "200 OK").await });
        drop(way.dial("pod", 80).await.unwrap());
        assert!(serving.await.unwrap().starts_with("CONNECT pod:80 HTTP/1.1\r\n"));
    }
}
