//! Runs a kube-apiserver by its settings, and beside it what was asked for of the controllers and hollow nodes.

use std::{
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use coracle_apiserver::{CertificateAndKey, Clock, Material, Server, Serving, agent_tls, bootstrap, kinds::capabilities, presence};
use coracle_controllers::Controllers;
use coracle_scheduler::Scheduler;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    apiserver::Settings,
    keys,
    objects::{self, Places},
};
use crate::{
    authn::{AuthenticationFlags, read},
    certs::{self, Pair},
    clients::InProcess,
    logging, machine,
    nodes::Nodes,
    options::{self, Cidr, ServerOptions},
    pages,
    renewal::Renewal,
    setup::Setup,
    stop::{Orders, Rooms},
    store::{self, Opened, telling},
    version,
};

/// The rooms have this long to finish what they began: tests wait for the end.
const ROOMS_GRACE: Duration = Duration::from_millis(500);

/// Serves until it is told to stop.
pub(crate) async fn run(settings: Settings, started: Instant) -> Result<()> {
    let listener = settings.front.listen(settings.listen);
    let listener = listener.with_context(|| format!("--secure-port: cannot listen on {}", settings.listen))?;
    let hollow = Hollow::new(&settings)?;
    let certificate = settings.serving.read()?.certificate;
    let tls = serving(&settings)?;
    let opening = objects::open(&settings.etcd, &settings.overrides);
    let Places { main: store, elsewhere, sole: _sole } = telling(&settings.etcd.etcd_servers, store::warn, opening).await?;
    capabilities::set(settings.capabilities);
    let delay = settings.front.shutdown_delay_duration;
    let rooms_wanted = (settings.controllers.clone(), certificate);
    let server = Arc::new(Server::build(options_of(settings, (&store, &elsewhere), hollow.as_ref())?).await?);

    let (stop, rooms) = (CancellationToken::new(), Rooms::default());
    let network = tokio::spawn({
        let (server, stop) = (server.clone(), stop.clone());
        async move { server.run(listener, tls, stop).await }
    });
    let clients = InProcess::new(server.service());
    start_controllers(rooms_wanted, &clients, &rooms.tasks, &rooms.stop).context("--controllers")?;
    let nodes = match &hollow {
        Some(hollow) => Some(hollow.start(&clients, &rooms.tasks, &rooms.stop).await?),
        None => None,
    };
    tracing::info!(after_ms = started.elapsed().as_millis(), "ready");

    let mut orders = Orders::listen()?;
    until_told(&mut orders).await;
    let _ = rooms.end(server.leave(), delay, orders.next(), ROOMS_GRACE).await;
    if let Some(nodes) = nodes {
        nodes.stop().await;
    }
    stop.cancel();
    network.await.context("the server's task ended badly")?;
    server.close().await;
    store.close().await;
    for (.., store) in elsewhere {
        store.close().await;
    }
    Ok(())
}

/// TLS by the files the flags name, read again when they change.
fn serving(settings: &Settings) -> Result<Arc<Serving>> {
    let (files, users) = (settings.serving.clone(), settings.users.clone());
    let load = Box::new(move || material(&files, &users).map_err(|error| format!("{error:#}")));
    Serving::new(load, settings.tls.clone(), settings.authentication.authorities.clone())
        .map_err(|why| anyhow!("--tls-cert-file, --client-ca-file: {why}"))
}

/// What the files hold now.
pub(super) fn material(files: &keys::Files, users: &AuthenticationFlags) -> Result<Material> {
    let bundle = |flag: &str, file: &Option<PathBuf>| file.as_ref().map_or(Ok(String::new()), |file| read(flag, file));
    let Pair { certificate, key } = files.read()?;
    Ok(Material {
        serving: CertificateAndKey { certificate, key, names: Vec::new() },
        others: users.named_certificates()?,
        client_authorities: bundle("client-ca-file", &users.client_ca_file)?,
        proxy_authorities: bundle("requestheader-client-ca-file", &users.requestheader_client_ca_file)?,
    })
}

/// SIGTERM and Ctrl-C are good ends.
pub(crate) async fn until_told(orders: &mut Orders) {
    tokio::select! {
        () = orders.next() => {}
        never = pages::forget_idle() => match never {},
    }
}

fn options_of(
    settings: Settings,
    (store, elsewhere): (&Opened, &[(String, String, Opened)]),
    hollow: Option<&Hollow>,
) -> Result<coracle_apiserver::Options> {
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let agent_tls = match (settings.agent_tls, hollow) {
        (None, Some(hollow)) => hollow.renewal.agent_client(),
        (None, None) => Arc::new(agent_tls(None, None).map_err(|why| anyhow!(why))?),
        (Some(given), _) => given,
    };
    Ok(coracle_apiserver::Options {
        store: store.store(),
        elsewhere: elsewhere.iter().map(|(group, resource, store)| (group.clone(), resource.clone(), store.store())).collect(),
        media_type: store.media_type(),
        authentication: settings.authentication,
        authorization: settings.authorization,
        facts: bootstrap::Facts {
            advertise_address: settings.advertise,
            secure_port: settings.listen.port(),
            service_address: settings.ranges.first(),
            now: clock(),
        },
        service_ranges: settings.ranges,
        admission: settings.admission,
        audit: settings.audit,
        log_levels: logging::levels(),
        flags: settings.flags,
        tracing: settings.tracing,
        encryption: settings.encryption,
        agent_tls: Some(agent_tls),
        egress: settings.egress,
        aggregator: settings.aggregator,
        flow: settings.front.flow()?,
        connections: settings.connections,
        gates: settings.gates,
        metrics_off: settings.metrics_off,
        versions: settings.versions,
        events_last: settings.front.event_ttl,
        build: version::build(),
        // In memory there is nobody else.
        presence: match store.media_type() {
            Some(_) => Some(presence::Options { host: machine::node_name()?, leads: settings.endpoints }),
            None => None,
        },
        clock,
    })
}

/// `wanted`: which controllers, and the certificate pods should trust.
fn start_controllers(wanted: (Vec<String>, String), clients: &InProcess, rooms: &TaskTracker, stop: &CancellationToken) -> Result<()> {
    let (controllers, certificate) = wanted;
    if controllers.is_empty() {
        return Ok(());
    }
    let settings = coracle_controllers::Options { controllers, root_ca: Some(certificate), ..Default::default() };
    let clients = clients.clone();
    let built = Controllers::build(&(Arc::new(move |name: &str| clients.controller(name)) as _), settings)?;
    tracing::info!(controllers = built.names().join(","), "running controllers");
    rooms.spawn(built.run(stop.clone()));
    Ok(())
}

/// Nodes without containers, and the scheduler that puts pods on them. Their files live in a folder that goes with the process.
struct Hollow {
    options: ServerOptions,
    setup: Setup,
    renewal: Arc<Renewal>,
    folder: PathBuf,
}

impl Hollow {
    fn new(settings: &Settings) -> Result<Option<Self>> {
        if settings.hollow_nodes == 0 {
            return Ok(None);
        }
        let folder = std::env::temp_dir().join(format!("coracle-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // Nodes know the services of IPv4.
        let networks = [Some(settings.ranges.addresses), settings.ranges.second];
        let of_four = networks.into_iter().flatten().find_map(|network| match network.address() {
            IpAddr::V4(base) => Some(Cidr { base, bits: network.bits() }),
            IpAddr::V6(_) => None,
        });
        let options = options::for_hollow_nodes(settings.hollow_nodes, &folder, settings.listen, of_four)?;
        let setup = Setup::new(&options)?;
        let now = jiff::Timestamp::now().as_second();
        let certificates = certs::load_or_make(&folder.join("pki"), &setup.names(&[]), now)?;
        let renewal = Arc::new(Renewal::new(&options, &setup, &certificates)?);
        Ok(Some(Self { options, setup, renewal, folder }))
    }

    async fn start(&self, clients: &InProcess, rooms: &TaskTracker, stop: &CancellationToken) -> Result<Nodes> {
        let scheduler = Scheduler::build(clients.user("system:kube-scheduler", &[]), coracle_scheduler::Options::default());
        rooms.spawn(scheduler.run(stop.clone()));
        rooms.spawn(self.renewal.clone().run(stop.clone()));
        Nodes::start(&self.options, &self.setup, self.renewal.agent_server(), clients).await
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
