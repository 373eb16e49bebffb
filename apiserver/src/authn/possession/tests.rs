use std::time::Duration;

use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
    client::ResolvesClientCert,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::*;

/// `openssl x509 -req` without extensions made the certificates of clients; `noca.crt` is of the authority's key, and says that it is none.
macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../testdata/first/", $name))
    };
}

fn certificate(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn verifier(authority: &[u8]) -> ClientCertificates {
    ClientCertificates::new(vec![certificate(authority)], provider()).unwrap()
}

fn at(years: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(years * 31_557_600))
}

fn verified(authority: &[u8], leaf: &[u8], now: UnixTime) -> Result<(), Error> {
    verifier(authority).verify(&certificate(leaf), &[], now)
}

#[test]
fn a_certificate_without_extensions_is_taken_under_its_authority_and_within_its_time() {
    let (authority, leaf) = (file!("ca.crt"), file!("jane.crt"));
    assert_eq!(verified(authority, leaf, at(60)), Ok(()));
    assert_eq!(verified(authority, leaf, at(50)), Err(CertificateError::NotValidYet.into()));
    assert_eq!(verified(authority, leaf, at(200)), Err(CertificateError::Expired.into()));
}

#[test]
fn an_authority_of_the_same_name_or_one_that_may_not_sign_is_none() {
    assert_eq!(verified(file!("other.crt"), file!("jane.crt"), at(60)), Err(CertificateError::BadSignature.into()));
    assert_eq!(verified(file!("noca.crt"), file!("jane.crt"), at(60)), Err(CertificateError::UnknownIssuer.into()));
    assert_eq!(verified(file!("jane.crt"), file!("john.crt"), at(60)), Err(CertificateError::UnknownIssuer.into()));
}

#[test]
fn a_changed_certificate_is_refused() {
    let mut leaf = certificate(file!("jane.crt")).to_vec();
    let name = leaf.windows(4).position(|bytes| bytes == b"jane").unwrap();
    leaf[name] = b'd';
    let refused = verifier(file!("ca.crt")).verify(&leaf.into(), &[], at(60));
    assert_eq!(refused, Err(CertificateError::BadSignature.into()));
}

/// Shows its certificate whatever the server asks for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Shakes hands in memory; the names are of the client's certificate and of the key it uses.
fn handshake(version: &'static SupportedProtocolVersion, leaf: &[u8], key: &[u8]) -> Result<(), Error> {
    let serving = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(serving.cert.der().clone()).unwrap();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])?
        .with_client_cert_verifier(Arc::new(super::Shown(verifier(file!("ca.crt")))))
        .with_single_cert(vec![serving.cert.der().clone()], PrivateKeyDer::try_from(serving.signing_key.serialize_der()).unwrap())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::from_pem_slice(key).unwrap())?;
    let shown = Shown(Arc::new(CertifiedKey::new(vec![certificate(leaf)], key)));
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(shown));
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    for _ in 0..4 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut sent = &wire[..];
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut sent = &wire[..];
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking());
    assert_eq!(server.peer_certificates().unwrap()[0], certificate(leaf));
    Ok(())
}

#[test]
fn who_has_the_key_of_such_a_certificate_is_let_in_by_either_version_of_tls_and_who_has_not_is_kept_out() {
    for version in [&TLS12, &TLS13] {
        assert_eq!(handshake(version, file!("jane.crt"), file!("jane.key")), Ok(()));
        assert_eq!(handshake(version, file!("john.crt"), file!("john.key")), Ok(()));
        assert!(handshake(version, file!("jane.crt"), file!("john.key")).is_err());
    }
}
