//! Where etcd is: the URLs of its members, and how a stream to one is made. Files of TLS are read anew for each connection, so that a
//! certificate that was renewed is used without a restart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::grpc::{Connection, Limits};

/// Files of TLS towards etcd (`--etcd-cafile`, `--etcd-certfile`, `--etcd-keyfile`).
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Certificates of the authorities that sign etcd's; without one none is trusted.
    pub authorities: Option<PathBuf>,
    /// Our certificate and those up to its authority.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: String,
    tls: bool,
    /// Whom calls name, and whom the certificate has to be of.
    host: String,
    at: Place,
}

/// Where its streams lead.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A port of the host.
    Port(u16),
    /// A socket on this machine.
    Socket(PathBuf),
}

/// etcd refuses pings that come more often than every five seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

impl Endpoint {
    /// From `http://HOST:PORT` or `https://HOST:PORT`, or from the path of a socket, with (`unixs://`) or without TLS, which as in etcd's own
    /// client may begin with anything (`unix:///run/etcd`, `unix://127.0.0.1:2379`); the error says what is allowed.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let wanted = || format!("{url:?} is not a URL such as http://127.0.0.1:2379 or https://etcd.example:2379");
        let (scheme, rest) = url.trim().split_once("://").ok_or_else(wanted)?;
        let tls = match scheme {
            "http" | "unix" => false,
            "https" | "unixs" => true,
            _ => return Err(wanted()),
        };
        if scheme.starts_with("unix") {
            // What the socket is called is whom it leads to: `127.0.0.1:2379` is a name of a host and a port, too.
            let name = rest.rsplit('/').next().unwrap_or_default();
            let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
            if host.is_empty() {
                return Err(wanted());
            }
            return Ok(Self { url: format!("{scheme}://{rest}"), tls, host: host.to_owned(), at: Place::Socket(rest.into()) });
        }
        let authority = rest.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wanted)?;
        let port = port.parse().map_err(|_| wanted())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || bare.contains(['/', '@', ' ']) {
            return Err(wanted());
        }
        Ok(Self { url: format!("{scheme}://{authority}"), tls, host: bare.to_owned(), at: Place::Port(port) })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// A connection to it, made in this time, that takes answers up to this size; the error says what failed.
    pub(super) async fn dial(&self, files: &TlsFiles, largest: usize, limit: Duration) -> Result<Connection, String> {
        let dialled = timeout(limit, self.connect(files, largest)).await;
        dialled.unwrap_or_else(|_| Err(format!("no connection within {limit:?}"))).map_err(|why| format!("{}: {why}", self.url))
    }

    async fn connect(&self, files: &TlsFiles, largest: usize) -> Result<Connection, String> {
        match &self.at {
            Place::Port(port) => {
                let stream = TcpStream::connect((self.host.as_str(), *port)).await.map_err(|error| error.to_string())?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                self.over(stream, self.url.clone(), files, largest).await
            }
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                self.over(stream, "http://localhost".to_owned(), files, largest).await
            }
        }
    }

    /// The connection over a stream to it. `origin` is how calls name it.
    async fn over<S>(&self, stream: S, origin: String, files: &TlsFiles, largest: usize) -> Result<Connection, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = Limits { message: largest, keep_alive: Some(KEEP_ALIVE), keep_alive_timeout: KEEP_ALIVE_TIMEOUT };
        let made = if self.tls {
            let config = files.read().await?;
            let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
            Connection::over(stream, origin, limits).await
        } else {
            Connection::over(stream, origin, limits).await
        };
        made.map_err(|error| error.to_string())
    }
}

impl TlsFiles {
    /// What the files hold now. The error names the file, never what is in it.
    pub(super) async fn read(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.authorities {
            let pem = read(file).await?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let added = certificate.map_err(|error| error.to_string()).and_then(|c| roots.add(c).map_err(|error| error.to_string()));
                added.map_err(|error| format!("{}: {error}", file.display()))?;
            }
            if roots.is_empty() {
                return Err(format!("{}: there is no certificate in it", file.display()));
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate).await?).collect();
                let chain = chain.map_err(|error| format!("{}: {error}", certificate.display()))?;
                let private = PrivateKeyDer::from_pem_slice(&read(key).await?).map_err(|error| format!("{}: {error}", key.display()))?;
                config.with_client_auth_cert(chain, private).map_err(|error| format!("{}: {error}", certificate.display()))?
            }
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

async fn read(file: &std::path::Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(file).await.map_err(|error| format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_member_may_be_behind_a_socket_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("localhost:0");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut preface = [0; 14];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut preface).await.unwrap();
            preface
        });
        let endpoint = Endpoint::parse(&format!("unix://{}", path.display())).unwrap();
        let _connection = endpoint.dial(&TlsFiles::default(), 1 << 20, Duration::from_secs(5)).await.unwrap();
        assert_eq!(heard.await.unwrap(), *b"PRI * HTTP/2.0");
        let nobody = Endpoint::parse("unix:///nowhere/etcd").unwrap();
        assert!(
            nobody.dial(&TlsFiles::default(), 1 << 20, Duration::from_secs(5)).await.unwrap_err().starts_with("unix:///nowhere/etcd: ")
        );
    }

    #[test]
    fn a_member_is_named_by_its_url() {
        let parsed = Endpoint::parse(" https://[::1]:2379/ ").unwrap();
        assert_eq!((parsed.host.as_str(), parsed.tls, parsed.url.as_str()), ("::1", true, "https://[::1]:2379"));
        assert_eq!(parsed.at, Place::Port(2379));
        let parsed = Endpoint::parse("unixs:///run/etcd/localhost:0").unwrap();
        assert_eq!((parsed.host.as_str(), parsed.tls, &parsed.at), ("localhost", true, &Place::Socket("/run/etcd/localhost:0".into())));
        let parsed = Endpoint::parse("unix://localhost:7007").unwrap();
        assert_eq!((parsed.tls, &parsed.at), (false, &Place::Socket("localhost:7007".into())));
        assert!(!Endpoint::parse("http://127.0.0.1:2379").unwrap().is_tls());
        for wrong in
            ["127.0.0.1:2379", "ftp://a:1", "http://a", "http://:1", "http://a:port", "http://a/b:1", "unix://", "unix:///run/", ""]
        {
            assert!(Endpoint::parse(wrong).unwrap_err().contains("is not a URL such as"), "{wrong}");
        }
    }
}
