//! Users from client certificates (apiserver's `authentication/request/x509`): the common name is the user, organizations are groups.
//!
//! The chain was verified during the TLS handshake; here the verified leaf is only read.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CREDENTIAL_ID, User};

/// The subject attribute that carries a user's uid (`AllowParsingUserUIDFromCertAuth`).
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// Why a verified certificate names no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not DER of an X.509 certificate.
    #[error("the client certificate cannot be parsed")]
    Malformed,
    /// No common name, hence no user name.
    #[error("the client certificate has no common name")]
    NoCommonName,
    /// The uid attribute stands twice or is empty.
    #[error("the client certificate's uid attribute must be one non-empty text")]
    BadUid,
}

/// The user a verified leaf certificate (DER) stands for.
pub fn user(leaf: &[u8]) -> Result<User, CertificateError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Malformed)?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|n| n.as_str().ok()).filter(|n| !n.is_empty());
    let name = name.ok_or(CertificateError::NoCommonName)?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut user = User::new(name, &groups);
    let uids: Vec<_> = subject.iter_attributes().filter(|a| a.attr_type().to_id_string() == UID_OID).collect();
    match uids.as_slice() {
        [] => {}
        [one] => user.uid = one.as_str().ok().filter(|u| !u.is_empty()).map(Arc::from).ok_or(CertificateError::BadUid)?,
        _ => return Err(CertificateError::BadUid),
    }
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={}", hex(&Sha256::digest(leaf)))]);
    Ok(user)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn leaf(fill: impl Fn(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        fill(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn common_name_is_the_user_and_organizations_are_groups() {
        let der = leaf(|p| {
            p.distinguished_name.push(DnType::CommonName, "system:node:a");
            p.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        });
        let user = user(&der).unwrap();
        assert_eq!(&*user.name, "system:node:a");
        assert!(user.in_group("system:nodes") && user.in_group("system:authenticated"));
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }

    #[test]
    fn uid_attribute_becomes_the_uid() {
        let der = leaf(|p| {
            p.distinguished_name.push(DnType::CommonName, "jane");
            p.distinguished_name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), "u-1");
        });
        assert_eq!(&*user(&der).unwrap().uid, "u-1");
    }

    #[test]
    fn a_certificate_without_common_name_is_refused() {
        let der = leaf(|p| p.distinguished_name.push(DnType::OrganizationName, "x"));
        assert_eq!(user(&der), Err(CertificateError::NoCommonName));
        assert_eq!(user(b"junk"), Err(CertificateError::Malformed));
    }
}
