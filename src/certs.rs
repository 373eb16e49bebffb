//! The cluster's certificates and keys, made on first start and renewed at later ones and while running.
//!
//! All are valid from 1970 on: a board without a clock battery starts there, and a certificate that is "not yet valid" helps nobody.
//! Their end is what limits them: ten years for an authority, one for what it signs, renewed when a third is left. An authority is renewed
//! with its key, so that whoever believes it goes on believing. A clock that says a time before this program was written is wrong: ends
//! are counted from then, so that they are not in the past when the clock is set right.

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

/// What the parts need to trust one another. What the API server itself shows and believes it reads from the folder's files.
pub(crate) struct Certificates {
    /// Signs all others; also given to pods as `ca.crt`.
    pub(crate) authority: String,
    /// The administrator's (`system:masters`), for the kubeconfig.
    pub(crate) admin: Pair,
    /// With which the API server speaks to node agents.
    pub(crate) agent_client: Pair,
    /// The node agent's, for TLS.
    pub(crate) agent_server: Pair,
    /// Signs service-account tokens (EC P-256, PKCS 8).
    pub(crate) token_key: String,
}

/// The common name of the front proxy's certificate: the aggregator's.
pub(crate) const FRONT_PROXY: &str = "front-proxy-client";

/// Names and addresses in the serving certificates.
pub(crate) struct Names {
    pub(crate) server: Vec<String>,
    pub(crate) agent: Vec<String>,
}

const YEAR_SECONDS: i64 = 365 * 24 * 3600;
/// 2026-01-01: no clock that is right says less.
const WRITTEN: i64 = 1_767_225_600;
/// The years of an authority.
const AUTHORITY_YEARS: i64 = 10;

/// Reads what is there, makes what is missing, renews what ends soon or lacks a name. `now`: Unix seconds.
pub(crate) fn load_or_make(folder: &Path, names: &Names, now: i64) -> Result<Certificates> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let now = now.max(WRITTEN);
    let authority = Authority::load_or_make(folder, "ca", "coracle", now)?;
    let front_proxy = Authority::load_or_make(folder, "front-proxy-ca", "front-proxy-ca", now)?;
    let proxy_client = Leaf { name: FRONT_PROXY, common_name: FRONT_PROXY, organization: None, names: &[], server: false };
    front_proxy.leaf(folder, &proxy_client, now)?;
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
    authority.leaf(folder, &server, now)?;
    Ok(Certificates {
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
    fn load_or_make(folder: &Path, name: &str, common_name: &str, now: i64) -> Result<Self> {
        let (certificate_file, key_file) = files(folder, name);
        if !certificate_file.exists() && !key_file.exists() {
            let key = KeyPair::generate().context("cannot make a key")?;
            write_private(&key_file, key.serialize_pem().as_bytes())?;
        }
        let key = KeyPair::from_pem(&read(&key_file)?).with_context(|| format!("{} is not a private key", key_file.display()))?;
        if !certificate_file.exists() {
            // The first start broke off between key and certificate, or this is it.
            Self::certify(&key, &certificate_file, common_name, now)?;
        }
        let mut certificate = read(&certificate_file)?;
        // One that somebody else made is somebody else's to renew.
        if left(&certificate, now).is_some_and(|left| left < AUTHORITY_YEARS * YEAR_SECONDS / 3) && is_own(&certificate, common_name) {
            certificate = Self::certify(&key, &certificate_file, common_name, now)?;
        }
        let issuer =
            Issuer::from_ca_cert_pem(&certificate, key).with_context(|| format!("{} is not a certificate", certificate_file.display()))?;
        Ok(Self { certificate, issuer })
    }

    /// Signs the authority's certificate with its own key.
    fn certify(key: &KeyPair, file: &Path, common_name: &str, now: i64) -> Result<String> {
        let mut params = params(common_name, None, now, AUTHORITY_YEARS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key).context("cannot sign the authority's certificate")?.pem();
        write_private(file, certificate.as_bytes())?;
        Ok(certificate)
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

/// Seconds until a certificate ends.
fn left(pem: &str, now: i64) -> Option<i64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(certificate.validity().not_after.timestamp() - now)
}

/// Whether an authority is one that was made here: its name is its common name alone, signed by itself.
fn is_own(pem: &str, common_name: &str) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&pem.contents) else { return false };
    certificate.subject() == certificate.issuer() && certificate.subject().to_string() == format!("CN={common_name}")
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

    /// Makes what is missing, and tells the API server's certificate and the front proxies' authority beside the rest.
    fn made(folder: &tempfile::TempDir, server: &[&str], now: i64) -> (Certificates, String, String) {
        let made = load_or_make(folder.path(), &names(server), now).unwrap();
        let file = |name: &str| read(&folder.path().join(name)).unwrap();
        (made, file("server.crt"), file("front-proxy-ca.crt"))
    }

    #[test]
    fn a_second_start_finds_the_same_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let first = made(&folder, &["localhost", "127.0.0.1"], 1_800_000_000);
        let second = made(&folder, &["127.0.0.1"], 1_800_000_000);
        assert_eq!(first.1, second.1);
        assert_eq!(first.0.token_key, second.0.token_key);
    }

    #[test]
    fn an_authority_near_its_end_is_renewed_with_its_key_and_what_it_signed_stays_good() {
        let folder = tempfile::tempdir().unwrap();
        let first = made(&folder, &["127.0.0.1"], 1_800_000_000);
        let key = read(&folder.path().join("ca.key")).unwrap();
        let later = made(&folder, &["127.0.0.1"], 1_800_000_000 + 7 * YEAR_SECONDS);
        assert_ne!(first.0.authority, later.0.authority);
        assert_ne!(first.2, later.2);
        assert_eq!(read(&folder.path().join("ca.key")).unwrap(), key);
        let of = |pem: &str| x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
        let (old, new) = (of(&later.0.admin.certificate), of(&later.0.authority));
        let (_, old) = X509Certificate::from_der(&old).unwrap();
        let (_, new) = X509Certificate::from_der(&new).unwrap();
        assert_eq!(old.verify_signature(Some(new.public_key())), Ok(()));
    }

    #[test]
    fn a_clock_that_is_wrong_at_the_first_start_leaves_nothing_that_ended_long_ago() {
        let folder = tempfile::tempdir().unwrap();
        let first = made(&folder, &["127.0.0.1"], 0);
        assert!(left(&first.1, WRITTEN).unwrap() > YEAR_SECONDS / 2);
        assert!(left(&first.0.authority, WRITTEN).unwrap() > 9 * YEAR_SECONDS);
        let right = made(&folder, &["127.0.0.1"], 1_795_000_000);
        assert_eq!(first.0.authority, right.0.authority);
        assert!(left(&right.1, 1_795_000_000).unwrap() > YEAR_SECONDS / 3);
    }

    #[test]
    fn a_first_start_that_broke_off_after_a_key_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let first = made(&folder, &["127.0.0.1"], 1_800_000_000);
        let key = read(&folder.path().join("ca.key")).unwrap();
        std::fs::remove_file(folder.path().join("ca.crt")).unwrap();
        let second = made(&folder, &["127.0.0.1"], 1_800_000_000);
        assert_ne!(first.0.authority, second.0.authority);
        assert_eq!(read(&folder.path().join("ca.key")).unwrap(), key);
        std::fs::remove_file(folder.path().join("ca.key")).unwrap();
        assert!(load_or_make(folder.path(), &names(&[]), 1_800_000_000).is_err(), "what somebody's authority signed is not replaced");
    }

    #[test]
    fn a_new_address_or_a_near_end_renews_the_leaf_but_never_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let first = made(&folder, &["127.0.0.1"], 1_800_000_000);
        let moved = made(&folder, &["127.0.0.1", "192.0.2.7"], 1_800_000_000);
        assert_ne!(first.1, moved.1);
        let later = made(&folder, &["192.0.2.7"], 1_800_000_000 + YEAR_SECONDS * 3 / 4);
        assert_ne!(later.0.admin.certificate, moved.0.admin.certificate);
        assert_eq!(first.0.authority, later.0.authority);
    }
}
