//! `coracle server`: builds the parts in order, runs them, stops them in order.
//!
//! Stop order: not ready, and clients are led to other servers → scheduler and controllers → agents flush their statuses → watches closed, requests drained → store.

use std::{
    io::Write,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use coracle_apiserver::{Clock, Network, Ranges, Server, authn, authz, bootstrap, presence};
use coracle_store::Store;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_util::sync::CancellationToken;

use crate::{
    authn::{AuthenticationFlags, restrain},
    certs::{self, Certificates, Pair},
    clients::InProcess,
    fork::{self, Fork},
    lock, logging,
    nodes::Nodes,
    options::{ServerOptions, StoreChoice, store_dir},
    pages, peers,
    renewal::Renewal,
    rooms,
    setup::Setup,
    shared,
    stop::{Orders, Rooms},
    store::{self, Opened, telling},
    version,
};

/// The rooms have this long to finish what they began.
const ROOMS_GRACE: Duration = Duration::from_secs(2);

/// The stack of a thread: for the deepest expressions, schemas and bodies that are allowed, also in unoptimized builds. What is not used
/// costs no memory.
pub(crate) const STACK: usize = 8 << 20;

/// Runs a server until it is told to stop.
pub(crate) fn main(options: &ServerOptions, started: Instant) -> Result<()> {
    logging::start(&options.log).context("--log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("coracle").thread_stack_size(STACK).build();
    let runtime = runtime.context("cannot start threads")?;
    let result = runtime.block_on(run(options, started));
    // Blocking work that hangs (a pull, a stopped disk) must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn run(options: &ServerOptions, started: Instant) -> Result<()> {
    let mut setup = Setup::new(options)?;
    let _lock = lock::take(&options.data_dir)?;
    let listener = options.front.listen(setup.listen).with_context(|| format!("--listen: cannot listen on {}", setup.listen))?;
    // Port 0 asks for any that is free.
    setup.listen = listener.local_addr().context("--listen")?;
    if setup.is_out_of_reach() {
        let (listens, told) = (setup.listen, setup.advertise);
        tracing::warn!(%listens, %told, "other servers, and pods, are told an address that this server does not listen on: set --listen");
    }
    let now = jiff::Timestamp::now().as_second();
    let election = options.leadership.times(setup.shared)?;
    let protocol = options.tls.protocol()?;
    let opening = Instant::now();
    let store = open_store(options).await?;
    if let Some(fork) = &options.fork {
        say_forked(fork, &*store.store(), opening).await?;
        fork::isolate(&*store.store(), fork).await?;
    }
    let make = || certs::load_or_make(&options.data_dir.join("pki"), &setup.names(&options.tls_san), now);
    if setup.shared {
        let token = shared::token(options.token.as_deref(), options.token_file.as_deref(), &options.data_dir)?;
        shared::agree(&*store.store(), &options.data_dir, token, || make().map(drop)).await?;
    }
    let certificates = make()?;
    let renewal = Arc::new(Renewal::new(options, &setup, &certificates)?);
    let api = server_options(options, &setup, &certificates, &renewal, &store)?;
    let tls = renewal.serving(&options.users, protocol, api.authentication.authorities.clone())?;
    let server = Arc::new(Server::build(api).await?);
    renewal.write_kubeconfig(&certificates)?;

    let serving_stop = CancellationToken::new();
    let network = tokio::spawn({
        let (server, stop) = (server.clone(), serving_stop.clone());
        async move { server.run(listener, tls, stop).await }
    });
    let rooms = Rooms::default();
    let clients = InProcess::new(server.service());
    rooms::start(options, &setup, &certificates, election, &clients, &rooms.tasks, &rooms.stop)?;
    if setup.shared {
        let own = format!("https://{}", std::net::SocketAddr::new(setup.advertise, setup.listen.port()));
        let client = clients.user("system:apiserver", &["system:masters"]);
        rooms.tasks.spawn(peers::follow(client, own, renewal.clone(), rooms.stop.clone()));
    }
    rooms.tasks.spawn(renewal.clone().run(rooms.stop.clone()));
    if let (Opened::Embedded(store), StoreChoice::Embedded) = (&store, options.store) {
        let keeping = options.keeping.clone();
        rooms.tasks.spawn(keeping.run(options.data_dir.clone(), store.clone(), rooms.stop.clone()));
    }
    let nodes = Nodes::start(options, &setup, renewal.agent_server(), &clients).await?;
    say_started(options, &setup, &nodes, started)?;

    let lifetime = options.fork.as_ref().and_then(|fork| fork.lifetime);
    let mut orders = Orders::listen()?;
    let result = until_told(&mut orders, &store, lifetime).await;
    // Without a store there is nothing to answer.
    let delay = if result.is_ok() { options.front.shutdown_delay_duration } else { Duration::ZERO };
    if rooms.end(server.leave(), delay, orders.next(), ROOMS_GRACE).await.is_err() {
        tracing::warn!("scheduler or controllers did not end in {ROOMS_GRACE:?}");
    }
    nodes.stop().await;
    serving_stop.cancel();
    network.await.context("the server's task ended badly")?;
    server.close().await;
    store.close().await;
    result
}

async fn open_store(options: &ServerOptions) -> Result<Opened> {
    use coracle_store::embedded::Options;
    if let Some(fork) = &options.fork {
        return Opened::embedded(&Options::copy_of(&fork.of), "--data-dir");
    }
    match options.store {
        StoreChoice::Memory => Opened::embedded(&Options::memory(), "--store"),
        StoreChoice::Embedded => {
            let relaxed_interval = options.relaxed_writes_interval;
            Opened::embedded(&Options { relaxed_interval, ..options.keeping.options(store_dir(&options.data_dir)) }, "--data-dir")
        }
        StoreChoice::Etcd => {
            let etcd = options.etcd.options()?;
            telling(&etcd.endpoints, store::warn, Opened::etcd(&etcd, options.etcd.media())).await
        }
    }
}

fn server_options(
    options: &ServerOptions,
    setup: &Setup,
    certificates: &Certificates,
    renewal: &Renewal,
    store: &Opened,
) -> Result<coracle_apiserver::Options> {
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let signing_key = authn::keys::SigningKey::from_pem(certificates.token_key.as_bytes()).context("pki/token.key")?;
    let authorization = options.authorization.options(&[authz::Mode::Node, authz::Mode::Rbac])?;
    let users = users(&options.users, &certificates.authority, &authorization)?;
    if let Some(jwt) = &users.jwt {
        jwt.configuration.refuse(std::slice::from_ref(&issuer)).map_err(anyhow::Error::msg)?;
    }
    let authentication = authn::Options {
        issuers: vec![issuer],
        signing_key: Some(signing_key),
        extend_tokens: true,
        front_proxy: Some(front_proxy(&options.users)),
        ..users
    };
    if !authorization.has(authz::Mode::Node) && !authorization.has(authz::Mode::AlwaysAllow) {
        tracing::warn!("Node is not among the authorizers: nodes may do only what others allow them");
    }
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    Ok(coracle_apiserver::Options {
        store: store.store(),
        elsewhere: Vec::new(),
        media_type: store.media_type(),
        authentication,
        authorization,
        service_ranges: Ranges {
            addresses: Network::of_four(options.service_cidr.base, options.service_cidr.bits),
            second: None,
            ports: options.node_port_range.first..=options.node_port_range.last,
        },
        facts: bootstrap::Facts {
            advertise_address: setup.advertise,
            secure_port: setup.listen.port(),
            service_address: IpAddr::V4(setup.service_address),
            now: clock(),
        },
        admission: options.admission.settings()?,
        audit: options.audit.clone().options()?,
        log_levels: logging::levels(),
        flags: options.flags.clone(),
        tracing: logging::tracing(options.tracing_config_file.as_deref())?,
        encryption: options.encryption.clone().options()?,
        // A fork reaches no agent: what runs there is another cluster's.
        agent_tls: options.fork.is_none().then(|| renewal.agent_client()),
        egress: options.front.egress()?,
        aggregator: options.front.aggregator(Some(front_proxy_files(options)))?,
        flow: options.front.flow()?,
        connections: options.front.connections()?,
        gates: Default::default(),
        metrics_off: Default::default(),
        versions: options.front.versions()?,
        events_last: options.front.event_ttl,
        build: version::build(),
        presence: setup.shared.then(|| presence::Options { host: setup.node_name.clone(), leads: true }),
        clock,
    })
}

/// How users are recognised, by the flags. `authority` (PEM) signs the cluster's own clients, whatever the flags say.
fn users(flags: &AuthenticationFlags, authority: &str, authorization: &authz::Options) -> Result<authn::Options> {
    let mut users = flags.options()?;
    flags.overlap(authority)?;
    restrain(&mut users.anonymous, authorization);
    Ok(users)
}

/// The certificate and key the aggregator shows to other API servers when no flags name others.
fn front_proxy_files(options: &ServerOptions) -> (PathBuf, PathBuf) {
    let file = |extension: &str| options.data_dir.join("pki").join(certs::FRONT_PROXY).with_extension(extension);
    (file("crt"), file("key"))
}

/// What front proxies may say: the aggregator's own, and those of the flags.
fn front_proxy(flags: &AuthenticationFlags) -> authn::FrontProxy {
    let or = |given: &[String], standard: &str| if given.is_empty() { vec![standard.to_owned()] } else { given.to_vec() };
    let mut allowed_names = flags.requestheader_allowed_names.clone();
    if flags.requestheader_client_ca_file.is_none() || !allowed_names.is_empty() {
        allowed_names.push(certs::FRONT_PROXY.to_owned());
    }
    authn::FrontProxy {
        allowed_names,
        username_headers: or(&flags.requestheader_username_headers, "X-Remote-User"),
        uid_headers: or(&flags.requestheader_uid_headers, "X-Remote-Uid"),
        group_headers: or(&flags.requestheader_group_headers, "X-Remote-Group"),
        extra_prefixes: or(&flags.requestheader_extra_headers_prefix, "X-Remote-Extra-"),
    }
}

/// SIGTERM, Ctrl-C or the end of its time is a good end, a store that failed for good is not.
async fn until_told(orders: &mut Orders, store: &Opened, lifetime: Option<Duration>) -> Result<()> {
    tokio::select! {
        () = orders.next() => Ok(()),
        () = tokio::time::sleep(lifetime.unwrap_or(Duration::MAX)), if lifetime.is_some() => Ok(()),
        why = store.failed() => bail!("the store stopped: {why}"),
        never = pages::forget_idle() => match never {},
    }
}

/// TLS for a client with a certificate, that trusts one authority.
pub(crate) fn client(authority: &str, pair: &Pair) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in chain(authority)? {
        roots.add(authority).context("the authority's certificate is unusable")?;
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).context("the private key is unreadable")?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(&pair.certificate)?, key)
        .context("the client certificate is unusable")
}

pub(crate) fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("the certificate is unreadable")
}

/// How long the copy took.
async fn say_forked(fork: &Fork, store: &dyn Store, opening: Instant) -> Result<()> {
    let took = opening.elapsed();
    let (objects, revision) = (store.count("").await?, store.revision().await?);
    let millis = took.as_secs_f64() * 1e3;
    writeln!(std::io::stdout(), "forked {}: {objects} objects at revision {revision}, copied in {millis:.1} ms", fork.of.display())?;
    Ok(())
}

/// What runs, how long it took, and the line to copy.
fn say_started(options: &ServerOptions, setup: &Setup, nodes: &Nodes, started: Instant) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let store = match options.store {
        StoreChoice::Memory => "memory".to_owned(),
        StoreChoice::Embedded => options.data_dir.display().to_string(),
        StoreChoice::Etcd => format!("etcd at {}", options.etcd.etcd_servers.join(",")),
    };
    let parts = [("scheduler", setup.scheduler), ("controllers", setup.controllers)];
    let parts: Vec<&str> = parts.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    writeln!(out, "coracle {}: API server at {}, objects in {store}", env!("CARGO_PKG_VERSION"), setup.url())?;
    if !parts.is_empty() {
        writeln!(out, "with {}", parts.join(" and "))?;
    }
    for line in nodes.lines() {
        writeln!(out, "{line}")?;
    }
    if setup.shared && shared::kept(&options.data_dir).exists() {
        writeln!(out, "other servers join with --token-file={}", absolute(&shared::kept(&options.data_dir)).display())?;
    }
    writeln!(out, "ready after {} ms\n\nexport KUBECONFIG={}", started.elapsed().as_millis(), absolute(&setup.kubeconfig).display())?;
    Ok(())
}

fn absolute(path: &std::path::Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use coracle_apiserver::authn::Anonymous;

    use super::*;
    use crate::dropin::flags::group;

    #[test]
    fn nobody_is_anonymous_where_everything_is_allowed() {
        let of = |mode| users(&group(|_| Vec::new()).unwrap(), "", &authz::Options::of(&[mode])).unwrap().anonymous;
        assert_eq!((of(authz::Mode::AlwaysAllow), of(authz::Mode::Rbac)), (Anonymous::Off, Anonymous::On));
    }

    #[test]
    fn the_clusters_own_authority_signs_for_no_front_proxy() {
        let folder = tempfile::tempdir().unwrap();
        let names = certs::Names { server: Vec::new(), agent: Vec::new() };
        let made = certs::load_or_make(folder.path(), &names, 1_800_000_000).unwrap();
        let file = Some(folder.path().join("ca.crt"));
        let any = AuthenticationFlags { requestheader_client_ca_file: file, ..group(|_| Vec::new()).unwrap() };
        let node = authz::Options::of(&[authz::Mode::Node]);
        let refused = users(&any, &made.authority, &node).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("--requestheader-allowed-names must be specified"), "{refused}");
        let named = AuthenticationFlags { requestheader_allowed_names: vec!["front".into()], ..any };
        users(&named, &made.authority, &node).unwrap();
    }
}
