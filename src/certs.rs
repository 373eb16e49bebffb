//! The cluster's certificates and keys, made on first start and renewed at later ones.
//!
//! All are valid from 1970 on: a board without a clock battery starts there, and a certificate that is "not yet valid" helps nobody.
//! Their end is what limits them: ten years for the authority, one for what it signs, renewed when a third is left.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::write_private;

/// Certificate and private key, both PEM.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Everything the parts need to trust one another.
pub(crate) struct Certificates {
    /// Signs all others; also given to pods as `ca.crt`.
    pub(crate) authority: String,
    /// The API server's, for TLS.
    pub(crate) server: Pair,
    /// The administrator's (`system:masters`), for the kubeconfig.
    pub(crate) admin: Pair,
    /// With which the API server speaks to node agents.
    pub(crate) agent_client: Pair,
    /// The node agent's, for TLS.
    pub(crate) agent_server: Pair,
    /// Signs service-account tokens (EC P-256, PKCS 8).
    pub(crate) token_key: String,
}

/// Names and addresses in the serving certificates.
pub(crate) struct Names {
    pub(crate) server: Vec<String>,
    pub(crate) agent: Vec<String>,
}

const YEAR_SECONDS: i64 = 365 * 24 * 3600;

/// Reads what is there, makes what is missing, renews what ends soon or lacks a name. `now`: Unix seconds.
pub(crate) fn load_or_make(folder: &Path, names: &Names, now: i64) -> Result<Certificates> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let authority = Authority::load_or_make(folder, now)?;
    let admin = Leaf { name: "admin", common_name: "admin", organization: Some("system:masters"), names: &[], server: false };
    let agent_client = Leaf {
        name: "agent-client",
        common_name: "kube-apiserver-kubelet-client",
        organization: Some("system:masters"),
        names: &[],
        server: false,
    };
    let server = Leaf { name: "server", common_name: "kube-apiserver", organization: None, names: &names.server, server: true };
    let agent_server = Leaf { name: "agent-server", common_name: "coracle-agent", organization: None, names: &names.agent, server: true };
    Ok(Certificates {
        server: authority.leaf(folder, &server, now)?,
        admin: authority.leaf(folder, &admin, now)?,
        agent_client: authority.leaf(folder, &agent_client, now)?,
        agent_server: authority.leaf(folder, &agent_server, now)?,
        token_key: token_key(folder)?,
        authority: authority.certificate,
    })
}

/// A certificate for these names that nobody signed but itself, and its key.
pub(crate) fn self_signed(names: &[String], now: i64) -> Result<Pair> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = params("kube-apiserver", None, now, 1)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_>>()?;
    let certificate = params.self_signed(&key).context("cannot sign the server's certificate")?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

struct Leaf<'a> {
    name: &'a str,
    common_name: &'a str,
    organization: Option<&'a str>,
    names: &'a [String],
    server: bool,
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn load_or_make(folder: &Path, now: i64) -> Result<Self> {
        let (certificate_file, key_file) = files(folder, "ca");
        if !certificate_file.exists() && !key_file.exists() {
            let key = KeyPair::generate().context("cannot make a key")?;
            let mut params = params("coracle", None, now, 10)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key).context("cannot sign the authority's certificate")?;
            write_private(&key_file, key.serialize_pem().as_bytes())?;
            write_private(&certificate_file, certificate.pem().as_bytes())?;
        }
        let certificate = read(&certificate_file)?;
        let key = KeyPair::from_pem(&read(&key_file)?).with_context(|| format!("{} is not a private key", key_file.display()))?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate, key).with_context(|| format!("{} is not a certificate", certificate_file.display()))?;
        Ok(Self { certificate, issuer })
    }

    fn leaf(&self, folder: &Path, leaf: &Leaf<'_>, now: i64) -> Result<Pair> {
        let (certificate_file, key_file) = files(folder, leaf.name);
        if let (Ok(certificate), Ok(key)) = (read(&certificate_file), read(&key_file))
            && still_good(&certificate, leaf, now)
        {
            return Ok(Pair { certificate, key });
        }
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = params(leaf.common_name, leaf.organization, now, 1)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if leaf.server {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = leaf.names.iter().map(|name| alternative(name)).collect::<Result<_>>()?;
        }
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign the certificate {:?}", leaf.name))?;
        let pair = Pair { certificate: certificate.pem(), key: key.serialize_pem() };
        write_private(&key_file, pair.key.as_bytes())?;
        write_private(&certificate_file, pair.certificate.as_bytes())?;
        Ok(pair)
    }
}

fn params(common_name: &str, organization: Option<&str>, now: i64, years: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    params.not_before = date_time_ymd(1970, 1, 1);
    let end = jiff::Timestamp::from_second(now + years * YEAR_SECONDS).context("the clock is beyond the end of time")?;
    let end = end.to_zoned(jiff::tz::TimeZone::UTC).date();
    params.not_after = date_time_ymd(i32::from(end.year()), end.month().unsigned_abs(), end.day().unsigned_abs());
    Ok(params)
}

fn alternative(name: &str) -> Result<SanType> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into().with_context(|| format!("{name:?} is neither an address nor a DNS name"))?)),
    }
}

/// Whether more than a third of the certificate's year is left and every name is in it.
fn still_good(pem: &str, leaf: &Leaf<'_>, now: i64) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&pem.contents) else { return false };
    let left = certificate.validity().not_after.timestamp() - now;
    let has: Vec<String> = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(printed).collect(),
        _ => Vec::new(),
    };
    left > YEAR_SECONDS / 3 && leaf.names.iter().all(|name| has.contains(name))
}

fn printed(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// The token key never changes by itself: tokens in running pods depend on it.
fn token_key(folder: &Path) -> Result<String> {
    let file = folder.join("token.key");
    if !file.exists() {
        let key = KeyPair::generate().context("cannot make a key")?;
        write_private(&file, key.serialize_pem().as_bytes())?;
    }
    read(&file)
}

fn files(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(server: &[&str]) -> Names {
        Names { server: server.iter().map(ToString::to_string).collect(), agent: vec!["127.0.0.1".into()] }
    }

    #[test]
    fn a_second_start_finds_the_same_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_make(folder.path(), &names(&["localhost", "127.0.0.1"]), 1_800_000_000).unwrap();
        let second = load_or_make(folder.path(), &names(&["127.0.0.1"]), 1_800_000_000).unwrap();
        assert_eq!(first.server.certificate, second.server.certificate);
        assert_eq!(first.token_key, second.token_key);
    }

    #[test]
    fn a_new_address_or_a_near_end_renews_the_leaf_but_never_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_make(folder.path(), &names(&["127.0.0.1"]), 1_800_000_000).unwrap();
        let moved = load_or_make(folder.path(), &names(&["127.0.0.1", "192.0.2.7"]), 1_800_000_000).unwrap();
        assert_ne!(first.server.certificate, moved.server.certificate);
        let later = load_or_make(folder.path(), &names(&["192.0.2.7"]), 1_800_000_000 + YEAR_SECONDS * 3 / 4).unwrap();
        assert_ne!(later.admin.certificate, moved.admin.certificate);
        assert_eq!(first.authority, later.authority);
    }
}
