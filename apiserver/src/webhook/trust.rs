//! Whom a webhook's `caBundle` makes us believe: whom its authorities signed, and, as Go's verifier does, a certificate that stands in the
//! bundle itself. Test environments put the webhook's own certificate there (controller-runtime, `pkg/envtest/webhook.go`).

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Verifies servers by a bundle, or believes anybody.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Who is believed; `None`: any server that holds the key of the certificate it shows.
    whom: Option<Believed>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Believed {
    /// The certificates of the bundle, each believed when it is the server's own.
    own: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl Bundle {
    /// The error names the certificate that cannot be used.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|e| format!("unable to load root certificates: {e}"))?;
        }
        let algorithms = provider.signature_verification_algorithms;
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|e| e.to_string())?;
        Ok(Self { whom: Some(Believed { own: certificates, authorities }), algorithms })
    }

    /// A kubeconfig says `insecure-skip-tls-verify`, or an `APIService` `insecureSkipTLSVerify`.
    pub(crate) fn anyone(provider: &CryptoProvider) -> Self {
        Self { whom: None, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Believed { own, authorities }) = &self.whom else { return Ok(ServerCertVerified::assertion()) };
        if !own.iter().any(|own| own.as_ref() == server.as_ref()) {
            return authorities.verify_server_cert(server, intermediates, name, ocsp, now);
        }
        verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
        valid_at(server, now).map_err(Error::InvalidCertificate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn valid_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn verify(bundle: &[&CertificateDer<'static>], server: &CertificateDer<'static>, name: &str, year: u64) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bundle = Bundle::new(bundle.iter().map(|c| (*c).clone()).collect(), provider).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        bundle.verify_server_cert(server, &[], &name, &[], now).map(|_| ())
    }

    #[test]
    fn a_certificate_in_the_bundle_is_believed_for_its_names_and_its_time_only() {
        let make = || {
            let mut params = CertificateParams::new(["hook.ns.svc".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let (own, other) = (make(), make());
        assert_eq!(verify(&[&other, &own], &own, "hook.ns.svc", 2026), Ok(()));
        assert!(verify(&[&own], &own, "else.ns.svc", 2026).is_err());
        assert!(matches!(verify(&[&own], &own, "hook.ns.svc", 2035), Err(Error::InvalidCertificate(CertificateError::Expired))));
        assert!(matches!(verify(&[&own], &own, "hook.ns.svc", 2010), Err(Error::InvalidCertificate(CertificateError::NotValidYet))));
        assert!(verify(&[&other], &own, "hook.ns.svc", 2026).is_err());
    }
}
