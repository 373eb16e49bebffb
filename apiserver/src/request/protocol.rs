//! Which TLS is spoken: versions, cipher suites, curves, and whether HTTP/2 is offered (component-base `cli/flag/ciphersuites_flag.go`).

use std::{cmp::Reverse, sync::Arc};

use rustls::{
    CipherSuite, NamedGroup, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    version::{TLS12, TLS13},
};

/// Suites that upstream knows and this server does not speak: none of them has both forward secrecy and authenticated encryption.
const NOT_SPOKEN: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// What is offered in the handshake. The default is everything from TLS 1.2 on, HTTP/2 before HTTP/1.1.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// Whether HTTP/2 is offered (not so with `--disable-http2-serving`).
    pub http2: bool,
}

impl Default for Protocol {
    fn default() -> Self {
        let mut provider = ring::default_provider();
        order(&mut provider.cipher_suites, has_aes());
        Self { provider: Arc::new(provider), versions: vec![&TLS13, &TLS12], http2: true }
    }
}

impl Protocol {
    /// Nothing older than `version` (`VersionTLS12`, `VersionTLS13`; older names mean 1.2, the oldest there is).
    /// The error says what is allowed.
    pub fn at_least(mut self, version: &str) -> Result<Self, String> {
        match version {
            "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => {}
            "VersionTLS13" => self.versions.retain(|one| one.version == TLS13.version),
            other => return Err(format!("unknown tls version {other:?}; allowed: VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13")),
        }
        Ok(self)
    }

    /// Of TLS 1.2 these suites only; those of 1.3 are not chosen among, as in Go. Beside the protocol come the names that upstream knows and
    /// this server does not speak. The error names a suite that nobody knows.
    pub fn with_suites(mut self, names: &[String]) -> Result<(Self, Vec<String>), String> {
        // The two names without a hash are of before RFC 7905.
        let full = |name: &str| if name.ends_with("_CHACHA20_POLY1305") { format!("{name}_SHA256") } else { name.to_owned() };
        let wanted: Vec<String> = names.iter().map(|name| full(name)).collect();
        let mut not_spoken = Vec::new();
        for name in &wanted {
            let known = self.provider.cipher_suites.iter().any(|suite| iana(suite.suite()).is_some_and(|spoken| spoken == *name));
            if NOT_SPOKEN.contains(&name.as_str()) {
                not_spoken.push(name.clone());
            } else if !known {
                return Err(format!("Cipher suite {name} not supported or doesn't exist"));
            }
        }
        let provider = Arc::make_mut(&mut self.provider);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || iana(suite.suite()).is_some_and(|name| wanted.contains(&name)));
        // A version without a suite is not offered.
        if provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()) {
            self.versions.retain(|one| one.version == TLS13.version);
        }
        Ok((self, not_spoken))
    }

    /// These groups only, by their numbers (IANA, TLS Supported Groups). Beside the protocol come the numbers that it does not know.
    /// The error says which there are, when none is left.
    pub fn with_groups(mut self, numbers: &[u16]) -> Result<(Self, Vec<u16>), String> {
        let provider = Arc::make_mut(&mut self.provider);
        let is = |number: u16, group: NamedGroup| u16::from(group) == number;
        let spoken: Vec<u16> = provider.kx_groups.iter().map(|group| u16::from(group.name())).collect();
        provider.kx_groups.retain(|group| numbers.iter().any(|number| is(*number, group.name())));
        if provider.kx_groups.is_empty() {
            return Err(format!("none of {numbers:?} is spoken here; there are {spoken:?}"));
        }
        Ok((self, numbers.iter().copied().filter(|number| !spoken.contains(number)).collect()))
    }
}

/// Go's order: of suites that nobody has broken the one that costs less.
fn order(suites: &mut [SupportedCipherSuite], aes: bool) {
    let cheap = if aes { "AES_128" } else { "CHACHA20" };
    suites.sort_by_key(|suite| Reverse(suite.suite().as_str().is_some_and(|name| name.contains(cheap))));
}

/// Whether this machine has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// The registered name: those of 1.3 have a prefix of their own in the library.
fn iana(suite: CipherSuite) -> Option<String> {
    suite.as_str().map(|name| name.replacen("TLS13_", "TLS_", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites(protocol: &Protocol) -> Vec<String> {
        protocol.provider.cipher_suites.iter().filter_map(|suite| iana(suite.suite())).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn versions_are_upstreams_names() {
        let versions = |name: &str| Protocol::default().at_least(name).map(|protocol| protocol.versions.len());
        assert_eq!(["", "VersionTLS11", "VersionTLS12", "VersionTLS13"].map(versions), [Ok(2), Ok(2), Ok(2), Ok(1)]);
        assert!(versions("TLS1.3").unwrap_err().starts_with("unknown tls version \"TLS1.3\"; allowed: VersionTLS10"));
    }

    #[test]
    fn suites_of_1_2_are_chosen_by_name_and_those_of_1_3_stay() {
        let mut ordered = Protocol::default();
        for (aes, first) in [(true, "TLS_AES_128_GCM_SHA256"), (false, "TLS_CHACHA20_POLY1305_SHA256")] {
            order(&mut Arc::make_mut(&mut ordered.provider).cipher_suites, aes);
            assert_eq!(suites(&ordered)[0], first);
        }
        let wanted =
            names(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_RSA_WITH_AES_128_CBC_SHA"]);
        let (protocol, not_spoken) = Protocol::default().with_suites(&wanted).unwrap();
        let mut left = suites(&protocol);
        left.retain(|name| name.contains("ECDHE"));
        assert_eq!(left, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
        assert_eq!((suites(&protocol).len(), protocol.versions.len()), (5, 2));
        assert_eq!(not_spoken, ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        let (only_new, _) = Protocol::default().with_suites(&names(&["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"])).unwrap();
        assert_eq!(only_new.versions.len(), 1);
        let wrong = Protocol::default().with_suites(&names(&["TLS_NULL"])).unwrap_err();
        assert_eq!(wrong, "Cipher suite TLS_NULL not supported or doesn't exist");
    }

    #[test]
    fn groups_are_chosen_by_number() {
        let (protocol, unknown) = Protocol::default().with_groups(&[4588, 23]).unwrap();
        assert_eq!((protocol.provider.kx_groups.len(), unknown), (1, vec![4588]));
        assert!(Protocol::default().with_groups(&[25]).unwrap_err().starts_with("none of [25] is spoken here"));
    }
}
