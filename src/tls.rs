//! Flags of how TLS is served, under upstream's names.

use anyhow::{Result, anyhow};
use clap::{ArgAction, Args};
use coracle_apiserver::Protocol;

use crate::dropin::flags::truth;

/// What is offered in handshakes.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct TlsFlags {
    /// Oldest version of TLS that is spoken: VersionTLS12 or VersionTLS13; there is none older.
    #[arg(long, value_name = "VERSION", default_value = "")]
    pub(crate) tls_min_version: String,

    /// Cipher suites of TLS 1.2 that are spoken, by their registered names; those of 1.3 always are.
    #[arg(long, value_name = "SUITE,…", value_delimiter = ',')]
    pub(crate) tls_cipher_suites: Vec<String>,

    /// Groups that keys are agreed on in, by their registered numbers, such as 29 for X25519.
    #[arg(long, value_name = "NUMBER,…", value_delimiter = ',')]
    pub(crate) tls_curve_preferences: Vec<u16>,

    /// Speak HTTP/1.1 only.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) disable_http2_serving: bool,
}

impl TlsFlags {
    /// As the server takes them. The error names the flag and says what is allowed.
    pub(crate) fn protocol(&self) -> Result<Protocol> {
        let of = |flag: &'static str| move |why: String| anyhow!("--{flag}: {why}");
        let mut protocol = Protocol::default().at_least(&self.tls_min_version).map_err(of("tls-min-version"))?;
        if !self.tls_cipher_suites.is_empty() {
            let (chosen, not_spoken) = protocol.with_suites(&self.tls_cipher_suites).map_err(of("tls-cipher-suites"))?;
            if !not_spoken.is_empty() {
                tracing::warn!(suites = not_spoken.join(","), "--tls-cipher-suites: not spoken here, as they are weak");
            }
            protocol = chosen;
        }
        if !self.tls_curve_preferences.is_empty() {
            let (chosen, unknown) = protocol.with_groups(&self.tls_curve_preferences).map_err(of("tls-curve-preferences"))?;
            if !unknown.is_empty() {
                tracing::warn!(groups = ?unknown, "--tls-curve-preferences: not spoken here");
            }
            protocol = chosen;
        }
        protocol.http2 = !self.disable_http2_serving;
        Ok(protocol)
    }
}
