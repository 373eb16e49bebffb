//! What the server shows and whom it asks for certificates, as its files say now (apiserver `server/dynamiccertificates`).

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use rustls::{
    CipherSuite, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{Acceptor, ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::protocol::Protocol;
use crate::authn::Authorities;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateAndKey {
    /// The chain, the server's own first.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// For which names it is shown (`--tls-sni-cert-key`); those in it when empty.
    pub names: Vec<String>,
}

/// Everything that serving needs of files.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Shown to those who ask for no other name.
    pub serving: CertificateAndKey,
    /// Shown to those who ask for their names.
    pub others: Vec<CertificateAndKey>,
    /// Authorities of clients, PEM (`--client-ca-file`); empty: none.
    pub client_authorities: String,
    /// Authorities of front proxies, PEM (`--requestheader-client-ca-file`); empty: none.
    pub proxy_authorities: String,
}

/// Reads the files; the error names the one that cannot be read.
pub type Load = Box<dyn Fn() -> Result<Material, String> + Send + Sync>;

/// TLS as it is served now.
pub struct Serving {
    load: Load,
    protocol: Protocol,
    authorities: Arc<Authorities>,
    current: RwLock<Arc<Shown>>,
    stamp: Mutex<[u8; 32]>,
}

impl Serving {
    /// Reads everything once; the error says what cannot be read or used. `authorities` are what certificates are verified by later.
    pub fn new(load: Load, protocol: Protocol, authorities: Arc<Authorities>) -> Result<Arc<Self>, String> {
        let material = load()?;
        let shown = build(&material, &protocol, &authorities)?;
        Ok(Arc::new(Self { load, protocol, authorities, current: RwLock::new(Arc::new(shown)), stamp: Mutex::new(stamp(&material)) }))
    }

    /// What the next connection is served with.
    pub(super) fn shown(&self) -> Arc<Shown> {
        self.current.read().clone()
    }

    /// Looks at the files until `stop`. What is wrong in them leaves everything as it was.
    pub(super) async fn follow(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => self.look(),
            }
        }
    }

    /// Looks at the files once.
    pub fn look(&self) {
        let changed = match (self.load)() {
            Ok(material) => {
                let now = stamp(&material);
                let mut known = self.stamp.lock();
                if *known == now {
                    return;
                }
                // What is wrong is told once, not at every look.
                *known = now;
                build(&material, &self.protocol, &self.authorities)
            }
            Err(why) => Err(why),
        };
        match changed {
            Ok(shown) => {
                *self.current.write() = Arc::new(shown);
                info!("certificates of the server or its authorities changed");
            }
            Err(why) => warn!(why, "certificates changed to something unusable; going on with what was there"),
        }
    }
}

fn stamp(material: &Material) -> [u8; 32] {
    let mut digest = Sha256::new();
    let pairs = std::iter::once(&material.serving).chain(&material.others).flat_map(|pair| [&pair.certificate, &pair.key]);
    for part in pairs.chain([&material.client_authorities, &material.proxy_authorities]) {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn build(material: &Material, protocol: &Protocol, authorities: &Authorities) -> Result<Shown, String> {
    let provider = protocol.provider.clone();
    let shown = Arc::new(Certificates::new(material, &provider)?);
    authorities.replace(&material.client_authorities, &material.proxy_authorities)?;
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&protocol.versions).map_err(|e| e.to_string())?;
    let builder = match authorities.handshake(provider).map_err(|e| e.to_string())? {
        Some(asks) => builder.with_client_cert_verifier(Arc::new(asks)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(shown);
    let offered: &[&[u8]] = if protocol.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    let theirs = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(Shown { ours: Arc::new(config), theirs })
}

/// TLS as it is at one time, in two orders.
pub(super) struct Shown {
    ours: Arc<ServerConfig>,
    theirs: Arc<ServerConfig>,
}

impl Shown {
    /// Shakes hands. As in Go (`crypto/tls`, `isAESGCMPreferred`) the server's order of suites counts, by which the cheaper of two good ones
    /// is taken; but for clients that would rather not have AES, which costs those much who have no instructions for it.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = if prefers_aes(begun.client_hello().cipher_suites()) { &self.ours } else { &self.theirs };
        begun.into_stream(Arc::clone(config)).await
    }
}

/// Whether AES comes before what would be taken in its place.
fn prefers_aes(suites: &[CipherSuite]) -> bool {
    let names = suites.iter().filter_map(CipherSuite::as_str);
    names.map(|name| (name.contains("_GCM_"), name.contains("CHACHA20"))).find(|(aes, other)| *aes || *other).is_none_or(|(aes, _)| aes)
}

/// The server's certificates by name.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    named: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(material: &Material, provider: &CryptoProvider) -> Result<Self, String> {
        let default = Arc::new(certified(&material.serving, provider)?);
        let mut named = HashMap::new();
        for pair in &material.others {
            let key = Arc::new(certified(pair, provider).map_err(|why| format!("tls-sni-cert-key: {why}"))?);
            let names = if pair.names.is_empty() { names_in(&key.cert[0]) } else { pair.names.clone() };
            for name in names {
                // The first that names it wins, as upstream.
                named.entry(name.to_ascii_lowercase()).or_insert_with(|| key.clone());
            }
        }
        Ok(Self { default, named })
    }

    /// The certificate for a name, exactly or by `*.` in place of its first label.
    fn of(&self, name: &str) -> Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let wild = || name.split_once('.').and_then(|(_, rest)| self.named.get(&format!("*.{rest}")));
        self.named.get(&name).or_else(wild).unwrap_or(&self.default).clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or_else(|| self.default.clone(), |name| self.of(name)))
    }
}

/// A certificate with the key that fits it.
pub fn certified(pair: &CertificateAndKey, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or("tls: failed to find any PEM data in certificate input")?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|_| "tls: failed to find any PEM data in key input")?;
    CertifiedKey::from_der(chain, key, provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => "tls: private key does not match public key".to_owned(),
        other => format!("tls: {other}"),
    })
}

/// The names a certificate is for.
fn names_in(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let mut names: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(found)) => {
            let dns = |name: &GeneralName<'_>| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None };
            found.value.general_names.iter().filter_map(dns).collect()
        }
        _ => Vec::new(),
    };
    if names.is_empty() {
        names.extend(certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, names: &[&str]) -> CertificateAndKey {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let names = names.iter().map(ToString::to_string).collect();
        CertificateAndKey { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), names }
    }

    fn material() -> Material {
        let others = vec![pair("own.example", &[]), pair("x", &["*.wild.example", "plain.example"])];
        Material { serving: pair("default", &[]), others, client_authorities: String::new(), proxy_authorities: String::new() }
    }

    #[test]
    fn each_name_is_shown_its_certificate() {
        let material = material();
        let provider = rustls::crypto::ring::default_provider();
        let shown = Certificates::new(&material, &provider).unwrap();
        let which = |name: &str| {
            let der = shown.of(name).cert[0].clone();
            let all = std::iter::once(&material.serving).chain(&material.others);
            all.map(|p| CertificateDer::from_pem_slice(p.certificate.as_bytes()).unwrap()).position(|c| c == der).unwrap()
        };
        let names = ["other", "own.example", "OWN.example", "a.wild.example", "a.b.wild.example", "plain.example"];
        assert_eq!(names.map(which), [0, 1, 1, 2, 0, 2]);
    }

    #[tokio::test]
    async fn clients_without_instructions_for_aes_are_spared_it() {
        let shown = material();
        let serving = Serving::new(
            Box::new({
                let shown = shown.clone();
                move || Ok(shown.clone())
            }),
            Protocol::default(),
            Arc::default(),
        )
        .unwrap();
        let ours = serving.shown().ours.crypto_provider().cipher_suites[0].suite();
        let taken = async |first: CipherSuite| {
            let mut provider = rustls::crypto::ring::default_provider();
            provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(shown.serving.certificate.as_bytes()).unwrap()).unwrap();
            let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
            let client = builder.with_root_certificates(roots).with_no_client_auth();
            let (near, far) = tokio::io::duplex(1 << 16);
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
            let now = serving.shown();
            let (made, _) = tokio::try_join!(connector.connect("default".try_into().unwrap(), near), now.accept(far)).unwrap();
            made.get_ref().1.negotiated_cipher_suite().unwrap().suite()
        };
        assert_eq!(taken(CipherSuite::TLS13_AES_256_GCM_SHA384).await, ours);
        assert_eq!(taken(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256).await, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        assert!(prefers_aes(&[CipherSuite::Unknown(0x0a0a), CipherSuite::TLS13_AES_128_GCM_SHA256]) && prefers_aes(&[]));
    }

    #[test]
    fn files_that_change_are_served_and_wrong_ones_are_not() {
        let files = Arc::new(Mutex::new(Ok(material())));
        let serving = Serving::new(
            Box::new({
                let files = files.clone();
                move || files.lock().clone()
            }),
            Protocol::default(),
            Arc::default(),
        )
        .unwrap();
        let first = serving.shown();
        serving.look();
        assert!(Arc::ptr_eq(&first, &serving.shown()), "nothing changed");
        *files.lock() = Ok(material());
        serving.look();
        let second = serving.shown();
        assert!(!Arc::ptr_eq(&first, &second));
        let (one, other) = (material(), material());
        let torn = CertificateAndKey { key: other.serving.key, ..one.serving.clone() };
        *files.lock() = Ok(Material { serving: torn, ..one });
        serving.look();
        assert!(Arc::ptr_eq(&second, &serving.shown()), "a key that does not fit");
        *files.lock() = Err("gone".to_owned());
        serving.look();
        assert!(Arc::ptr_eq(&second, &serving.shown()));
    }
}
