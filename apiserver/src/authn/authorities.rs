//! Whose client certificates count: the authorities of clients and those of front proxies, replaced while running when their files change.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::{
    Error,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    User,
    certificates::{self, CertificateError},
    possession::ClientCertificates,
};

/// A certificate that was verified is taken as good for this long, in seconds, if it lasts as long.
const VERIFIED: i64 = 60;
/// One that was not is looked at again after this long, in seconds.
const REFUSED: i64 = 1;

/// The authorities as they are now.
#[derive(Default)]
pub struct Authorities(RwLock<Arc<Current>>);

/// The authorities of one moment.
#[derive(Default)]
pub(super) struct Current {
    generation: u64,
    clients: Option<ClientCertificates>,
    proxies: Option<ClientCertificates>,
    /// PEM, as given.
    pub(super) client_bundle: String,
    /// PEM, as given.
    pub(super) proxy_bundle: String,
}

impl Authorities {
    /// Takes others from now on (PEM; empty: none). The error says which is unusable; then nothing changes.
    pub fn replace(&self, clients: &str, proxies: &str) -> Result<(), String> {
        let verifier = |name: &str, pem: &str| match pem.is_empty() {
            true => Ok(None),
            false => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let bundle = crate::webhook::pem_certificates(pem.as_bytes()).map_err(|why| format!("{name}: {why}"))?;
                ClientCertificates::new(bundle, provider).map(Some).map_err(|why| format!("{name}: {why}"))
            }
        };
        let (clients, proxies) =
            ((verifier("client-ca-file", clients)?, clients), (verifier("requestheader-client-ca-file", proxies)?, proxies));
        let mut current = self.0.write();
        *current = Arc::new(Current {
            generation: current.generation + 1,
            clients: clients.0,
            proxies: proxies.0,
            client_bundle: clients.1.to_owned(),
            proxy_bundle: proxies.1.to_owned(),
        });
        Ok(())
    }

    pub(super) fn now(&self) -> Arc<Current> {
        self.0.read().clone()
    }

    /// What asks clients for certificates during the handshake, hinting at all authorities; `None` when there are none.
    pub fn handshake(&self, provider: Arc<CryptoProvider>) -> Result<Option<super::possession::Shown>, Error> {
        let current = self.now();
        let all = [&current.clients, &current.proxies].into_iter().flatten().flat_map(ClientCertificates::authorities);
        let all: Vec<_> = all.cloned().collect();
        if all.is_empty() { Ok(None) } else { super::possession::Shown::new(all, provider).map(Some) }
    }
}

/// A certificate chain a client showed on its connection, and whose key it has proven to have.
pub struct Peer {
    leaf: CertificateDer<'static>,
    rest: Vec<CertificateDer<'static>>,
    known: Mutex<Option<Arc<Known>>>,
}

/// What the chain is worth for a while.
pub(super) struct Known {
    generation: u64,
    from: i64,
    until: i64,
    /// The user, when it stands under the authorities of clients. `None`: there are none, or it names nobody.
    pub(super) user: Option<Result<Arc<User>, String>>,
    /// The common name, when it stands under the authorities of front proxies. `None`: there are none.
    pub(super) proxy: Option<Result<String, String>>,
}

#[cfg(test)]
impl Known {
    /// What a front proxy's certificate is worth, for tests.
    pub(super) fn of_proxy(proxy: Option<Result<String, String>>) -> Self {
        Self { generation: 0, from: 0, until: 0, user: None, proxy }
    }
}

impl Peer {
    /// The chain, its leaf first; `None` without any.
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (leaf, rest) = chain.split_first()?;
        let rest = rest.iter().map(|c| c.clone().into_owned()).collect();
        Some(Self { leaf: leaf.clone().into_owned(), rest, known: Mutex::default() })
    }

    /// What it is worth now: verified once, and again when time has passed or the authorities are others.
    pub(super) fn known(&self, authorities: &Authorities, now: i64) -> Arc<Known> {
        let current = authorities.now();
        let mut known = self.known.lock();
        if let Some(known) = known.as_ref().filter(|k| k.generation == current.generation && (k.from..k.until).contains(&now)) {
            return known.clone();
        }
        known.insert(Arc::new(self.look(&current, now))).clone()
    }

    fn look(&self, current: &Current, now: i64) -> Known {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        let (leaf, rest) = (&self.leaf, &self.rest);
        let verify = |authorities: &ClientCertificates| authorities.verify(leaf, rest, time).map_err(|why| why.to_string());
        let user = current.clients.as_ref().and_then(|clients| match verify(clients).map(|()| certificates::user(leaf)) {
            // A good certificate without a name is as if none was shown.
            Ok(Err(CertificateError::NoCommonName)) => None,
            Ok(user) => Some(user.map(Arc::new).map_err(|why| why.to_string())),
            Err(why) => Some(Err(why)),
        });
        let proxy = current.proxies.as_ref().map(|proxies| verify(proxies).map(|()| common_name(leaf)));
        let good = matches!(user, Some(Ok(_))) || matches!(proxy, Some(Ok(_)));
        let end =
            rest.iter().chain([leaf]).filter_map(|c| Some(X509Certificate::from_der(c).ok()?.1.validity().not_after.timestamp())).min();
        let until = if good { end.unwrap_or(now).saturating_add(1).min(now + VERIFIED) } else { now + REFUSED };
        Known { generation: current.generation, from: now, until, user, proxy }
    }
}

fn common_name(leaf: &CertificateDer<'_>) -> String {
    let parsed = X509Certificate::from_der(leaf).ok();
    let name = parsed.as_ref().and_then(|(_, c)| c.subject().iter_common_name().find_map(|n| n.as_str().ok()));
    name.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    /// 2026-01-01
    const NOW: i64 = 1_767_225_600;

    struct Authority(String, Issuer<'static, KeyPair>);

    fn authority() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    impl Authority {
        fn leaf(&self, usage: ExtendedKeyUsagePurpose, (from, to): (i32, i32)) -> Peer {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, "jane");
            params.extended_key_usages.push(usage);
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
            Peer::new(&[params.signed_by(&KeyPair::generate().unwrap(), &self.1).unwrap().der().clone()]).unwrap()
        }
    }

    fn name(peer: &Peer, authorities: &Authorities, now: i64) -> Result<String, String> {
        peer.known(authorities, now).user.clone().unwrap().map(|user| user.name.to_string())
    }

    #[test]
    fn several_authorities_count_and_others_do_not_after_they_are_replaced() {
        let (a, b) = (authority(), authority());
        let authorities = Authorities::default();
        authorities.replace(&format!("{}{}", a.0, b.0), "").unwrap();
        let peers = [&a, &b].map(|of| of.leaf(ExtendedKeyUsagePurpose::ClientAuth, (2020, 2030)));
        assert!(peers.iter().all(|peer| name(peer, &authorities, NOW) == Ok("jane".to_owned())));
        assert!(authorities.replace("nonsense", "").unwrap_err().starts_with("client-ca-file: "));
        assert!(name(&peers[0], &authorities, NOW).is_ok(), "what is wrong changes nothing");
        authorities.replace(&b.0, "").unwrap();
        assert!(name(&peers[0], &authorities, NOW).is_err() && name(&peers[1], &authorities, NOW).is_ok());
        authorities.replace("", &a.0).unwrap();
        let known = peers[0].known(&authorities, NOW);
        assert!(known.user.is_none());
        assert_eq!(known.proxy, Some(Ok("jane".to_owned())));
    }

    #[test]
    fn a_certificate_ends_on_a_connection_that_stands() {
        let of = authority();
        let authorities = Authorities::default();
        authorities.replace(&of.0, "").unwrap();
        let peer = of.leaf(ExtendedKeyUsagePurpose::ClientAuth, (2020, 2026));
        assert!(name(&peer, &authorities, NOW - 30).is_ok());
        assert!(name(&peer, &authorities, NOW + 1).is_err());
        let later = of.leaf(ExtendedKeyUsagePurpose::ClientAuth, (2027, 2030));
        assert!(name(&later, &authorities, NOW).is_err());
        assert!(name(&later, &authorities, NOW + 400 * 24 * 3600).is_ok());
        let serving = of.leaf(ExtendedKeyUsagePurpose::ServerAuth, (2020, 2030));
        assert!(name(&serving, &authorities, NOW).is_err(), "a certificate for servers names no client");
    }
}
