//! The certificates that clients show in the TLS handshake: verified against the client authorities, proof of the key demanded.
//!
//! The API server demands the proof alone during the handshake ([`Shown`]): whether a certificate is good is asked with each request, whose
//! answer then says so, and which may come with a token instead.
//!
//! Certificates of version 3 are rustls' matter. It refuses those of version 1, which `openssl x509 -req` makes when it is given no
//! extensions and which kube-apiserver takes; their rules are those of Go (`crypto/x509` `Certificate.isValid`, `CheckSignatureFrom`) where
//! such a certificate can stand at all: at the end of a chain, directly under an authority.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{
    asn1_rs::{Any, BitString},
    prelude::{FromDer, X509Certificate, X509Version},
};

/// Demands certificates under one of the authorities of those clients that show any.
#[derive(Debug)]
pub struct ClientCertificates {
    current: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertificates {
    /// For these authorities. The error names what is unusable.
    pub fn new(authorities: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone())?;
        }
        let algorithms = provider.signature_verification_algorithms;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
        let current = verifier.map_err(|e| Error::General(e.to_string()))?;
        Ok(Self { current, authorities, algorithms })
    }

    /// The authorities.
    pub(super) fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Whether a certificate, with what was shown beside it, is one of a client now.
    pub fn verify(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        if !is_first(leaf) {
            return self.current.verify_client_cert(leaf, intermediates, now).map(|_| ());
        }
        Ok(self.verify_first(leaf, now)?)
    }

    /// A certificate of version 1: within its time and signed by one of the authorities that may sign.
    fn verify_first(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
        let certificate = parse(leaf)?;
        in_time(&certificate, now)?;
        let mut refusal = CertificateError::UnknownIssuer;
        for authority in &self.authorities {
            let Ok(issuer) = parse(authority) else { continue };
            if issuer.subject().as_raw() != certificate.issuer().as_raw() || !may_sign(&issuer) {
                continue;
            }
            match in_time(&issuer, now).and_then(|()| self.signed(leaf, &issuer)) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Whether the issuer's key made the certificate's signature, by an algorithm that is good enough for TLS.
    fn signed(&self, leaf: &CertificateDer<'_>, issuer: &X509Certificate<'_>) -> Result<(), CertificateError> {
        let malformed = |_| CertificateError::BadEncoding;
        let (_, certificate) = Any::from_der(leaf).map_err(malformed)?;
        let (rest, _) = Any::from_der(certificate.data).map_err(malformed)?;
        let body = &certificate.data[..certificate.data.len() - rest.len()];
        let (rest, algorithm) = Any::from_der(rest).map_err(malformed)?;
        let (_, signature) = BitString::from_der(rest).map_err(malformed)?;
        let fitting = self.algorithms.all.iter().filter(|known| &known.signature_alg_id()[..] == algorithm.data);
        verify(fitting.copied(), issuer, body, signature.as_ref())
    }

    /// Whether the client has the key of a certificate of version 1.
    fn proven(&self, message: &[u8], leaf: &CertificateDer<'_>, proof: &DigitallySignedStruct) -> Result<(), CertificateError> {
        let certificate = parse(leaf)?;
        let fitting = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == proof.scheme).flat_map(|(_, known)| known.iter());
        verify(fitting.copied(), &certificate, message, proof.signature())
    }
}

/// Demands of clients that show a certificate only the proof that its key is theirs.
#[derive(Debug)]
pub struct Shown(ClientCertificates);

impl Shown {
    /// Hints at these authorities. The error names what is unusable.
    pub(super) fn new(authorities: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        ClientCertificates::new(authorities, provider).map(Self)
    }
}

impl ClientCertVerifier for Shown {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.current.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        proof: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_first(leaf) {
            return self.0.current.verify_tls12_signature(message, leaf, proof);
        }
        self.0.proven(message, leaf, proof)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        proof: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_first(leaf) {
            return self.0.current.verify_tls13_signature(message, leaf, proof);
        }
        let certificate = parse(leaf)?;
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &certificate.public_key().raw.into(), proof, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.current.supported_verify_schemes()
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::BadEncoding),
    }
}

/// Whether a certificate is of version 1, which has no extensions.
fn is_first(leaf: &CertificateDer<'_>) -> bool {
    parse(leaf).is_ok_and(|certificate| certificate.version() == X509Version::V1 && certificate.extensions().is_empty())
}

fn in_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (validity, now) = (certificate.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Whether an authority may sign certificates of clients: what its extensions say counts, as far as it has any.
fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    let authority = match issuer.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => issuer.version() != X509Version::V3,
        Err(_) => false,
    };
    let signs = issuer.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    let clients = issuer.extended_key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.client_auth || usage.value.any));
    authority && signs && clients
}

/// Verifies a signature with the key of a certificate, by the first of the algorithms that is for keys of its kind.
fn verify(
    mut algorithms: impl Iterator<Item = &'static dyn SignatureVerificationAlgorithm>,
    certificate: &X509Certificate<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CertificateError> {
    let key = certificate.public_key();
    let (_, whole) = Any::from_der(key.raw).map_err(|_| CertificateError::BadEncoding)?;
    let (_, kind) = Any::from_der(whole.data).map_err(|_| CertificateError::BadEncoding)?;
    let algorithm = algorithms.find(|known| &known.public_key_alg_id()[..] == kind.data).ok_or(CertificateError::BadSignature)?;
    algorithm.verify_signature(&key.subject_public_key.data, message, signature).map_err(|_| CertificateError::BadSignature)
}

#[cfg(test)]
mod tests;
