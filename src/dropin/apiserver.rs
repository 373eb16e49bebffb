//! What kube-apiserver's flags mean here: read, checked and decided before anything starts.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use coracle_apiserver::{
    Connections, Egress, Family, Gates, Network, Protocol, Ranges, TracingOptions, admission, aggregator, atrest, audit,
    authn::{self, keys::VerifyingKey},
    authz::{self, Mode, configuration::Configured},
    kinds::capabilities::Capabilities,
};

use super::{
    features,
    flags::{Flags, duration, group},
    keys,
    objects::Override,
};
use crate::{
    admission::AdmissionFlags,
    audit::AuditFlags,
    authn::{AuthenticationFlags, restrain},
    authorization::AuthorizationFlags,
    encryption::EncryptionFlags,
    etcd::EtcdFlags,
    front::FrontFlags,
    logging, machine,
    tls::TlsFlags,
};

/// Upstream's defaults.
const SERVICE_RANGE: &str = "10.0.0.0/24";
const NODE_PORTS: &str = "30000-32767";
const PORT: u16 = 6443;
/// Addresses a network of services has at least.
const FEWEST: u128 = 8;

/// A kube-apiserver's settings with nothing left open.
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) serving: keys::Files,
    /// Whose certificates count, and what is shown to whom.
    pub(crate) users: AuthenticationFlags,
    pub(crate) authentication: authn::Options,
    pub(crate) authorization: authz::Options,
    pub(crate) capabilities: Capabilities,
    pub(crate) ranges: Ranges,
    pub(crate) admission: admission::Settings,
    pub(crate) audit: audit::Options,
    pub(crate) encryption: Option<atrest::Options>,
    pub(crate) tracing: Option<TracingOptions>,
    /// What is offered in handshakes.
    pub(crate) tls: Protocol,
    pub(crate) agent_tls: Option<Arc<rustls::ClientConfig>>,
    /// By which way others are reached.
    pub(crate) egress: Egress,
    pub(crate) aggregator: aggregator::Options,
    /// Limits, and what connections are told.
    pub(crate) front: FrontFlags,
    /// Feature gates that are switched off.
    pub(crate) gates: Gates,
    /// Families of metrics that nobody is told.
    pub(crate) metrics_off: BTreeSet<String>,
    pub(crate) connections: Connections,
    /// Versions served beside the finished ones.
    pub(crate) versions: BTreeSet<(String, String)>,
    /// Whether the service `kubernetes` leads to this server (`--endpoint-reconciler-type`).
    pub(crate) endpoints: bool,
    /// Where objects are.
    pub(crate) etcd: EtcdFlags,
    /// `--etcd-servers-overrides`
    pub(super) overrides: Vec<Override>,
    /// As kube-controller-manager's `--controllers`; empty: none run.
    pub(crate) controllers: Vec<String>,
    pub(crate) hollow_nodes: u32,
    /// What holds of each flag, given or not.
    pub(crate) flags: coracle_apiserver::Flags,
}

impl Settings {
    /// Reads the flags, and the files and environment they name. Warnings are told in the log.
    pub(crate) fn new(flags: &Flags) -> Result<Self> {
        let (gates, warnings) = features::gates(&flags.list("feature-gates"))?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if !gates.is_on("RemoteRequestHeaderUID") && !flags.list("requestheader-uid-headers").is_empty() {
            bail!("--requestheader-uid-headers requires the \"RemoteRequestHeaderUID\" feature to be enabled");
        }
        if let Some(backend) = flags.last("storage-backend").filter(|backend| !["", "etcd3"].contains(backend)) {
            bail!("--storage-backend: {backend:?} is not known; allowed: etcd3");
        }
        let listen = listen(flags)?;
        let advertise = match flags.last("advertise-address") {
            Some(address) => address.parse().context("--advertise-address")?,
            // A service cannot lead to a loopback address.
            None if listen.ip().is_unspecified() || listen.ip().is_loopback() => machine::address(),
            None => listen.ip(),
        };
        let (first, second) = service_ranges(flags)?;
        let ranges = Ranges { addresses: first, second, ports: node_ports(flags)? };
        let endpoints = match flags.last("endpoint-reconciler-type") {
            None | Some("" | "lease" | "master-count") => true,
            Some("none") => false,
            Some(other) => bail!("--endpoint-reconciler-type: {other:?} is not known; allowed: lease, none"),
        };
        if endpoints {
            same_family(first, advertise)?;
        }
        let addresses = [listen.ip(), advertise, ranges.first(), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let addresses: Vec<IpAddr> = addresses.into_iter().filter(|address| !address.is_unspecified()).collect();
        let users: AuthenticationFlags = group(|name| flags.all(name))?;
        let front: FrontFlags = group(|name| flags.all(name))?;
        // As upstream, everything is allowed when nothing is said.
        let mut authorization = AuthorizationFlags::of(|name| flags.all(name))?.options(&[Mode::AlwaysAllow])?;
        let hollow_nodes = hollow_nodes(flags)?;
        if hollow_nodes > 0 && !authorization.has(Mode::Node) {
            // Roles alone let no node do anything; the nodes of this process are nodes like any.
            authorization.configuration.authorizers.insert(0, Configured::of(Mode::Node));
        }
        let mut told = flags.in_effect();
        for (name, default) in [("service-cluster-ip-range", SERVICE_RANGE), ("service-node-port-range", NODE_PORTS)] {
            told.entry(name.to_owned()).or_insert_with(|| default.to_owned());
        }
        told.insert("secure-port".to_owned(), listen.port().to_string());
        told.insert("advertise-address".to_owned(), advertise.to_string());
        Ok(Self {
            flags: told,
            listen,
            advertise,
            serving: keys::serving(flags, &addresses)?,
            authentication: authentication(flags, &users, &authorization)?,
            users,
            authorization,
            capabilities: Capabilities { allow_privileged: flags.on("allow-privileged") },
            ranges,
            admission: admission_settings(flags, &gates)?,
            audit: group::<AuditFlags>(|name| flags.all(name))?.options()?,
            tracing: logging::tracing(flags.last("tracing-config-file").map(Path::new))?,
            encryption: group::<EncryptionFlags>(|name| flags.all(name))?.options()?,
            tls: group::<TlsFlags>(|name| flags.all(name))?.protocol()?,
            agent_tls: keys::to_agents(flags)?,
            egress: front.egress()?,
            aggregator: front.aggregator(None)?,
            connections: front.connections()?,
            gates,
            metrics_off: owned(&flags.list("disabled-metrics")).into_iter().collect(),
            versions: front.versions()?,
            front,
            endpoints,
            etcd: group(|name| flags.all(name))?,
            overrides: flags.list("etcd-servers-overrides").into_iter().map(Override::parse).collect::<Result<_>>()?,
            controllers: owned(&flags_or_environment(flags, "controllers", "CORACLE_CONTROLLERS")),
            hollow_nodes,
        })
    }
}

/// `--admission-control`, of old, names all plugins there are to be.
fn admission_settings(flags: &Flags, gates: &Gates) -> Result<admission::Settings> {
    let only = flags.last("admission-control").map(|_| owned(&flags.list("admission-control")));
    let mut settings = admission::Settings { only, ..group::<AdmissionFlags>(|name| flags.all(name))?.settings()? };
    if !gates.is_on("PodTopologyLabelsAdmission") {
        settings.gated.push("PodTopologyLabels");
    }
    Ok(settings)
}

fn hollow_nodes(flags: &Flags) -> Result<u32> {
    match flags_or_environment(flags, "hollow-nodes", "CORACLE_HOLLOW_NODES").last() {
        Some(count) => count.parse().with_context(|| format!("--hollow-nodes: {count:?} is not a number of nodes")),
        None => Ok(0),
    }
}

/// A list by its flag, or by a variable for those who cannot pass flags.
fn flags_or_environment(flags: &Flags, flag: &str, variable: &str) -> Vec<String> {
    let given = flags.list(flag);
    if !given.is_empty() {
        return owned(&given);
    }
    let value = std::env::var(variable).unwrap_or_default();
    value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn owned(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn listen(flags: &Flags) -> Result<SocketAddr> {
    let address: IpAddr = flags.last("bind-address").map_or(Ok(Ipv4Addr::UNSPECIFIED.into()), str::parse).context("--bind-address")?;
    let port = match flags.last("secure-port") {
        None => PORT,
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => bail!("--secure-port {text} must be between 1 and 65535, inclusive. It cannot be turned off with 0"),
        },
    };
    Ok(SocketAddr::new(address, port))
}

/// `--service-cluster-ip-range`: one network, or one of each family (`getServiceIPAndRanges` and `validateClusterIPFlags` of
/// `cmd/kube-apiserver/app/options`).
fn service_ranges(flags: &Flags) -> Result<(Network, Option<Network>)> {
    let given = flags.last("service-cluster-ip-range").filter(|text| !text.is_empty()).unwrap_or(SERVICE_RANGE);
    let mut parts = given.split(',');
    let mut next = |why: &'static str| parts.next().map(|text| text.parse::<Network>().map_err(|_| anyhow!(why))).transpose();
    let first = next("service-cluster-ip-range[0] is not a valid cidr")?.context("--service-cluster-ip-range")?;
    if first.span_at_most(FEWEST) < FEWEST {
        bail!(
            "error determining service IP ranges for primary service cidr: the service cluster IP range must be at least {FEWEST} IP addresses"
        );
    }
    let second = next("service-cluster-ip-range[1] is not an ip net")?;
    if parts.next().is_some() {
        bail!("--service-cluster-ip-range must not contain more than two entries");
    }
    if second.is_some_and(|second| second.family() == first.family()) {
        bail!("--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family");
    }
    Ok((first, second))
}

/// Who is led to the API server by the service `kubernetes` finds it in the service's own family
/// (`validatePublicIPServiceClusterIPRangeIPFamilies`).
fn same_family(first: Network, advertise: IpAddr) -> Result<()> {
    if first.family() != Family::of(advertise) {
        bail!("service IP family {:?} must match public address family {:?}", first.to_string(), advertise.to_string());
    }
    Ok(())
}

/// `30000-32767` or `30000+2767`.
fn node_ports(flags: &Flags) -> Result<RangeInclusive<u16>> {
    let text = flags.last("service-node-port-range").unwrap_or(NODE_PORTS);
    let wanted = || format!("--service-node-port-range: {text:?} is not a range such as {NODE_PORTS} or 30000+2767");
    let (first, last) = match (text.split_once('-'), text.split_once('+')) {
        (Some((first, last)), _) => (first.parse().with_context(wanted)?, last.parse().with_context(wanted)?),
        (None, Some((first, more))) => {
            let first: u16 = first.parse().with_context(wanted)?;
            (first, first.saturating_add(more.parse().with_context(wanted)?))
        }
        (None, None) => bail!(wanted()),
    };
    if first == 0 || first > last {
        bail!(wanted());
    }
    Ok(first..=last)
}

fn authentication(flags: &Flags, users: &AuthenticationFlags, authorization: &authz::Options) -> Result<authn::Options> {
    let (signing_key, verifying_keys): (_, Vec<VerifyingKey>) = keys::of_tokens(flags)?;
    let issuers = owned(&flags.all("service-account-issuer"));
    if issuers.is_empty() && signing_key.is_some() {
        bail!(
            "service-account-issuer is a required flag, --service-account-signing-key-file and --service-account-issuer are required flags"
        );
    }
    let signing_endpoint = keys::endpoint(flags)?;
    let longest_token = match flags.last("service-account-max-token-expiration").and_then(duration) {
        None | Some(0.0) => None,
        Some(seconds) if !(3600.0..=4_294_967_296.0).contains(&seconds) => {
            bail!("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds")
        }
        Some(seconds) => Some(jiff::SignedDuration::from_secs(seconds as i64)),
    };
    let mut options = users.options()?;
    if let Some(jwt) = &options.jwt {
        jwt.configuration.refuse(&issuers).map_err(anyhow::Error::msg)?;
    }
    restrain(&mut options.anonymous, authorization);
    Ok(authn::Options {
        issuers,
        audiences: owned(&flags.list("api-audiences")),
        signing_key,
        signing_endpoint,
        verifying_keys,
        longest_token,
        extend_tokens: flags.switch("service-account-extend-token-expiration").unwrap_or(true),
        ..options
    })
}

#[cfg(test)]
mod tests {
    use coracle_apiserver::authn::Anonymous;

    use super::*;
    use crate::certs;
    use crate::dropin::flags::KUBE_APISERVER;

    fn flags(line: &str) -> Flags {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Flags::parse(&KUBE_APISERVER, &arguments).unwrap()
    }

    #[test]
    fn what_envtest_passes_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let names = certs::Names { server: vec!["127.0.0.1".into()], agent: Vec::new() };
        let made = certs::load_or_make(folder.path(), &names, 1_800_000_000).unwrap();
        let line = format!(
            "--allow-privileged=true --authorization-mode=RBAC --bind-address=127.0.0.1 --cert-dir={0} --client-ca-file={0}/ca.crt
             --disable-admission-plugins=ServiceAccount --etcd-servers=http://127.0.0.1:2379 --secure-port=6443
             --service-account-issuer=https://127.0.0.1:6443/ --service-account-key-file={0}/server.crt
             --service-account-signing-key-file={0}/server.key --service-cluster-ip-range=10.0.0.0/24",
            folder.path().display()
        );
        let flags = flags(&line);
        assert_eq!(flags.without_effect(), None);
        let settings = Settings::new(&flags).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:6443".parse().unwrap());
        assert_eq!((settings.ranges.texts(), settings.ranges.first()), (vec!["10.0.0.0/24".to_owned()], "10.0.0.1".parse().unwrap()));
        assert_eq!(settings.admission.disable, ["ServiceAccount"]);
        assert_eq!(settings.authorization.configuration.authorizers, [Configured::of(Mode::Rbac)]);
        assert!(settings.authentication.anonymous == Anonymous::On && settings.authentication.signing_key.is_some());
        let material = super::super::run::material(&settings.serving, &settings.users).unwrap();
        assert_eq!((material.client_authorities, settings.authentication.verifying_keys.len()), (made.authority, 1));
        assert!(material.serving.certificate.contains("BEGIN CERTIFICATE"), "made in --cert-dir when it is not there");
    }

    #[test]
    fn nobody_is_anonymous_where_everything_is_allowed() {
        let of = |mode| authentication(&flags(""), &group(|_| Vec::new()).unwrap(), &authz::Options::of(&[mode])).unwrap().anonymous;
        assert_eq!((of(Mode::AlwaysAllow), of(Mode::Rbac)), (Anonymous::Off, Anonymous::On));
    }

    #[test]
    fn the_old_flag_of_admission_names_all_plugins_there_are_to_be() {
        let only = |line: &str| admission_settings(&flags(line), &Gates::default()).unwrap().only;
        let two = vec!["A".to_owned(), "B".to_owned()];
        assert_eq!((only("--admission-control=A,B"), only("--enable-admission-plugins=A")), (Some(two), None));
    }

    #[test]
    fn ranges_and_ports_are_checked() {
        let ranges = |text: &str| {
            let (first, second) = service_ranges(&flags(&format!("--service-cluster-ip-range={text}"))).map_err(|e| e.to_string())?;
            Ok::<_, String>(Ranges { addresses: first, second, ..Ranges::default() }.texts().join(" "))
        };
        assert_eq!(ranges("10.96.7.0/16").unwrap(), "10.96.0.0/16");
        assert_eq!(ranges("2001:DB8::/64,10.0.0.0/29").unwrap(), "2001:db8::/64 10.0.0.0/29");
        for (wrong, why) in [
            ("10.0.0.0", "service-cluster-ip-range[0] is not a valid cidr"),
            ("10.0.0.0/16,x", "service-cluster-ip-range[1] is not an ip net"),
            ("10.0.0.0/30", "the service cluster IP range must be at least 8 IP addresses"),
            ("10.0.0.0/16,fd00::/108,fd01::/108", "--service-cluster-ip-range must not contain more than two entries"),
            ("fd00::/108,fd01::/108", "must be of different IP family"),
        ] {
            assert!(ranges(wrong).unwrap_err().contains(why), "{wrong}");
        }
        let of_six = "fd00::/108".parse().unwrap();
        let why = same_family(of_six, Ipv4Addr::LOCALHOST.into()).unwrap_err().to_string();
        assert_eq!(why, "service IP family \"fd00::/108\" must match public address family \"127.0.0.1\"");
        assert!(same_family(of_six, "::1".parse().unwrap()).is_ok());
        let ports = |text: &str| node_ports(&flags(&format!("--service-node-port-range={text}"))).map_err(|e| e.to_string());
        assert_eq!((ports("30000+10"), ports("1-2")), (Ok(30000..=30010), Ok(1..=2)));
        assert!(ports("2-1").is_err() && ports("30000").is_err());
        assert!(listen(&flags("--secure-port=0")).is_err());
    }
}
