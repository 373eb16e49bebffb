//! Flags of what every request passes first and of what other API servers answer, under upstream's names.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgAction, Args};
use coracle_apiserver::{Connections, Egress, Origins, aggregator, flow};
use http::HeaderValue;
use tokio::net::{TcpListener, TcpSocket};

use crate::{
    authn::read,
    dropin::{
        features,
        flags::{positive_span, span, truth},
    },
};

/// Connections that wait to be taken, as many as the standard library asks for.
const BACKLOG: u32 = 4096;

/// Limits, fairness, and how other API servers are spoken to.
#[derive(Args, Debug, Clone)]
pub(crate) struct FrontFlags {
    /// Reads in flight at most; 0: no limit. With fairness it is one limit together with that of writes.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub(crate) max_requests_inflight: usize,

    /// Writes in flight at most; 0: no limit.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) max_mutating_requests_inflight: usize,

    /// Share what may be in flight by FlowSchemas and PriorityLevelConfigurations.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) enable_priority_and_fairness: bool,

    /// How long a request may take that is neither a watch nor a stream.
    #[arg(long, value_name = "DURATION", default_value = "1m0s", value_parser = positive_span)]
    pub(crate) request_timeout: Duration,

    /// Watches that do not say how long they are to last end after this many seconds and up to as many again.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub(crate) min_request_timeout: u32,

    /// Streams of one HTTP/2 connection at most; 0: 250.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) http2_max_streams_per_connection: u32,

    /// How likely a request over HTTP/2 is the last of its connection, so that clients come to other servers, too: from 0 to 0.02.
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0)]
    pub(crate) goaway_chance: f64,

    /// What browsers are told to insist on: max-age=SECONDS, includeSubDomains, preload. None: nothing.
    #[arg(long, value_name = "DIRECTIVE,…", value_delimiter = ',')]
    pub(crate) strict_transport_security_directives: Vec<String>,

    /// Origins whose pages may ask from a browser: expressions that say where the host begins and ends, such as //example\\.com(:|$).
    #[arg(long, value_name = "EXPRESSION,…")]
    pub(crate) cors_allowed_origins: Vec<String>,

    /// Versions to serve beside the finished ones: GROUP/VERSION=true, or api/beta=true for all.
    #[arg(long, value_name = "VERSION=BOOL,…", value_delimiter = ',')]
    pub(crate) runtime_config: Vec<String>,

    /// How long events are kept; 0: for ever.
    #[arg(long, value_name = "DURATION", default_value = "1h0m0s", value_parser = span)]
    pub(crate) event_ttl: Duration,

    /// After the order to stop the server is no longer ready, and answers for so long.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = span)]
    pub(crate) shutdown_delay_duration: Duration,

    /// Listen on a port that others listen on, too (SO_REUSEPORT).
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) permit_port_sharing: bool,

    /// Listen on an address that an earlier process has not quite left (SO_REUSEADDR); this server does either way.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) permit_address_sharing: bool,

    /// Client certificate shown to API servers behind APIServices, read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy_client_cert_file: Option<PathBuf>,

    /// Its key.
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy_client_key_file: Option<PathBuf>,

    /// Ask API servers at their endpoints instead of their service's address; this server does either way.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) enable_aggregator_routing: bool,

    /// Refuse answers of API servers that send clients elsewhere.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) aggregator_reject_forwarding_redirect: bool,

    /// By which way others are reached: an EgressSelectorConfiguration with Direct and HTTPConnect.
    #[arg(long, value_name = "FILE")]
    pub(crate) egress_selector_config_file: Option<PathBuf>,
}

impl FrontFlags {
    /// What is shared how.
    pub(crate) fn flow(&self) -> Result<flow::Options> {
        let limits = [self.max_requests_inflight, self.max_mutating_requests_inflight];
        if self.enable_priority_and_fairness && limits == [0, 0] {
            bail!(
                "--max-requests-inflight=0 and --max-mutating-requests-inflight=0 must add up to something positive with --enable-priority-and-fairness"
            );
        }
        // 0 is no limit, as upstream.
        let [max_reads, max_writes] = limits;
        let watches = Duration::from_secs(self.min_request_timeout.into());
        Ok(flow::Options { max_reads, max_writes, fair: self.enable_priority_and_fairness, timeout: self.request_timeout, watches })
    }

    /// What connections are allowed and told.
    pub(crate) fn connections(&self) -> Result<Connections> {
        if !(0.0..=0.02).contains(&self.goaway_chance) {
            bail!("--goaway-chance can not be less than 0 or greater than 0.02");
        }
        let directives: Vec<&str> = self.strict_transport_security_directives.iter().map(String::as_str).collect();
        let transport_security = match &directives[..] {
            [] => None,
            given => Some(transport_security(given)?),
        };
        let standard = Connections::default();
        let streams = if self.http2_max_streams_per_connection == 0 { standard.streams } else { self.http2_max_streams_per_connection };
        let origins = self.cors_allowed_origins.iter().map(|given| fields(given)).collect::<Result<Vec<_>>>();
        let origins = origins.context("--cors-allowed-origins")?.concat();
        let origins = Origins::new(&origins).map_err(|why| anyhow!("--cors-allowed-origins: {why}"))?;
        Ok(Connections { streams, goaway_chance: self.goaway_chance, transport_security, origins })
    }

    /// Versions served beside the finished ones. What cannot be is warned of.
    pub(crate) fn versions(&self) -> Result<BTreeSet<(String, String)>> {
        let settings: Vec<&str> = self.runtime_config.iter().map(|setting| setting.trim()).filter(|setting| !setting.is_empty()).collect();
        let versions = features::versions(&settings)?;
        for warning in &versions.warnings {
            tracing::warn!("{warning}");
        }
        Ok(versions.served)
    }

    /// Listens; the port may be others', too, where that is allowed.
    pub(crate) fn listen(&self, address: SocketAddr) -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As the standard library does, and Go's.
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(self.permit_port_sharing)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// By which way others are reached.
    pub(crate) fn egress(&self) -> Result<Egress> {
        let Some(file) = &self.egress_selector_config_file else { return Ok(Egress::default()) };
        let bytes = read("egress-selector-config-file", file)?;
        Egress::read(bytes.as_bytes()).map_err(|why| anyhow!("--egress-selector-config-file: {why}"))
    }

    /// How other API servers are spoken to. `made` are the certificate and key that are there without flags.
    pub(crate) fn aggregator(&self, made: Option<(PathBuf, PathBuf)>) -> Result<aggregator::Options> {
        let client = match (&self.proxy_client_cert_file, &self.proxy_client_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => made,
            _ => bail!("--proxy-client-cert-file and --proxy-client-key-file must be given together"),
        };
        Ok(aggregator::Options { client, reject_redirects: self.aggregator_reject_forwarding_redirect })
    }
}

/// What a flag's value lists between commas. In quotes a comma is part of it (`pflag` reads lists as lines of CSV).
fn fields(line: &str) -> Result<Vec<String>> {
    let mut all = vec![String::new()];
    let (mut quoted, mut letters) = (false, line.chars().peekable());
    while let Some(letter) = letters.next() {
        let last = all.len() - 1;
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => all[last].push('"'),
            '"' if quoted && matches!(letters.peek(), None | Some(',')) => quoted = false,
            '"' if !quoted && all[last].is_empty() => quoted = true,
            '"' => bail!(
                "a quote stands in the middle of an item of {line:?}; items with commas or quotes stand in quotes, in which a quote is doubled"
            ),
            ',' if !quoted => all.push(String::new()),
            _ => all[last].push(letter),
        }
    }
    if quoted {
        bail!("a quote is not closed in {line:?}");
    }
    Ok(all)
}

/// The header of these directives (`validateHSTSDirectives`).
fn transport_security(directives: &[&str]) -> Result<HeaderValue> {
    for directive in directives {
        if directive.trim().is_empty() {
            bail!("empty value in strict-transport-security-directives");
        }
        let age = directive.strip_prefix("max-age=").is_some_and(|rest| !rest.contains('='));
        if !age && !["includeSubDomains", "preload"].contains(directive) {
            bail!(
                "--strict-transport-security-directives invalid, allowed values: max-age=expireTime, includeSubDomains, preload. see https://tools.ietf.org/html/rfc6797#section-6.1 for more information"
            );
        }
    }
    HeaderValue::try_from(directives.join("; ")).context("--strict-transport-security-directives")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::flags::group;

    fn of<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<FrontFlags> {
        group(|name| given(name).into_iter().collect())
    }

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let given = |name: &str| match name {
            "max-requests-inflight" => Some("5"),
            "enable-priority-and-fairness" => Some("false"),
            "request-timeout" => Some("90s"),
            "min-request-timeout" => Some("7"),
            "proxy-client-cert-file" => Some("/c"),
            "proxy-client-key-file" => Some("/k"),
            "aggregator-reject-forwarding-redirect" => Some("false"),
            _ => None,
        };
        let flags = of(given).unwrap();
        let flow = flags.flow().unwrap();
        assert_eq!((flow.max_reads, flow.max_writes, flow.fair, flow.timeout), (5, 200, false, Duration::from_secs(90)));
        assert_eq!(flow.watches, Duration::from_secs(7));
        let aggregator = flags.aggregator(None).unwrap();
        assert_eq!((aggregator.client, aggregator.reject_redirects), (Some(("/c".into(), "/k".into())), false));
        let defaults = of(|_| None).unwrap();
        let connections = defaults.connections().unwrap();
        assert_eq!((connections.streams, connections.transport_security, defaults.event_ttl.as_secs()), (250, None, 3600));
        assert!(defaults.flow().unwrap().fair && defaults.aggregator(None).unwrap().reject_redirects);
    }

    #[test]
    fn a_comma_in_quotes_is_no_end() {
        assert_eq!(fields(r#"a,"b,{1,2}","e""f""#).unwrap(), ["a", "b,{1,2}", "e\"f"]);
        assert_eq!(fields("a,,b").unwrap(), ["a", "", "b"]);
        for wrong in [r#"c"d"#, r#""a,b"#, r#""a"b"#] {
            assert!(fields(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_flags_name() {
        let refused = |name: &'static str, value: &'static str| of(move |n| (n == name).then_some(value)).unwrap_err().to_string();
        assert!(refused("request-timeout", "0s").contains("--request-timeout"));
        assert!(refused("max-requests-inflight", "-1").contains("--max-requests-inflight"));
        let odd = |name: &'static str, value: &'static str| {
            of(move |n| (n == name).then_some(value)).and_then(|flags| flags.connections()).map_err(|why| why.to_string())
        };
        assert!(odd("goaway-chance", "0.03").unwrap_err().contains("greater than 0.02"));
        assert!(
            odd("strict-transport-security-directives", "max-age=1,always").unwrap_err().contains("allowed values: max-age=expireTime")
        );
        let all = odd("strict-transport-security-directives", "max-age=1,includeSubDomains,preload").unwrap();
        assert_eq!(all.transport_security.unwrap(), "max-age=1; includeSubDomains; preload");
        let loose = odd("cors-allowed-origins", "//example\\.com(:|$),example.com").unwrap_err();
        assert!(loose.starts_with("--cors-allowed-origins: has an invalid regular expression: "), "{loose}");
        odd("cors-allowed-origins", r#""//[a-z]{1,9}\.com(:|$)",^https://b$"#).unwrap();
        assert_eq!(odd("http2-max-streams-per-connection", "7").unwrap().streams, 7);
        let away = of(|name| (name == "egress-selector-config-file").then_some("/nowhere")).unwrap();
        assert!(away.egress().unwrap_err().to_string().starts_with("--egress-selector-config-file: cannot read /nowhere"));
        let half = of(|name| (name == "proxy-client-key-file").then_some("/k")).unwrap();
        assert!(half.aggregator(None).unwrap_err().to_string().contains("--proxy-client-cert-file"));
        let none = of(|name| name.ends_with("inflight").then_some("0")).unwrap();
        assert!(none.flow().unwrap_err().to_string().contains("add up to something positive"));
    }
}
