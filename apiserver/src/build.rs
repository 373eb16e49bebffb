//! From options to a running server: everything is put together here, in order.

use std::sync::Arc;

use coracle_schema::{Tables, discovery};
use coracle_store::{
    Store,
    split::{Elsewhere, Split},
};
use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    Error, Options, Server,
    admission::{self, matching::Equivalents, policy, webhook},
    aggregator::{self, Aggregator},
    atrest::{self, AtRest},
    audit::Audit,
    authn::{self, Authenticator, published, tracking::Tracking},
    authz::{Authorizers, Chain, aggregation, node::NodeAuthorizer, rbac::Rbac},
    bootstrap::{self, ApiWriter},
    extensions::Follower,
    flow::{self, Flow},
    kinds,
    presence::{self, Presence},
    registry::{
        Catalog, Reader, Storage, Writer,
        catalog::{self, Odd},
        claims::{Claims, Family, repair::Repair},
        values::Codec,
    },
    request::{impersonate::Modes, layers::Layers, limits::Limits, paths::Paths},
    trace::Tracer,
    verbs::{Api, connect::Agents, runs::Runs},
};

/// Builds the server.
pub(crate) async fn server(mut options: Options) -> Result<Server, Error> {
    let audit = Audit::open(&options.audit, &options.egress).map_err(Error::Options)?;
    let is_asked_for = |group: &str, version: &str| options.versions.iter().any(|(g, v)| (&**g, &**v) == (group, version));
    let tables = Arc::new(Tables::load_with(is_asked_for)?);
    let of_six = options.service_ranges.addresses.family() == Family::Six;
    let events = kinds::events(options.events_last);
    let kinds = catalog::built_in(&tables, |group, resource| match (group, resource) {
        ("" | "events.k8s.io", "events") => Odd { rules: events, ..odd(group, resource) },
        ("", "services") if of_six => Odd { rules: kinds::SERVICES_OF_SIX, ..odd(group, resource) },
        _ => odd(group, resource),
    });
    let elsewhere = elsewhere(options.elsewhere, &kinds);
    let store: Arc<dyn Store> = match elsewhere.is_empty() {
        true => options.store,
        false => Arc::new(Split::new(options.store, elsewhere.clone())),
    };
    let at_rest = match options.encryption {
        Some(encryption) => Some(AtRest::open(encryption, store.clone(), &kinds).await.map_err(Error::Encryption)?),
        None => None,
    };
    let values = options.media_type.map(|media| (Codec::new(tables.clone(), &kinds), media));
    let storage = Storage::start_over((store, elsewhere), at_rest, values, kinds);
    let reader: Arc<dyn Reader> = storage.clone();
    let rows = bootstrap::table::rows().map_err(Error::Options)?;
    let rbac = Arc::new(Rbac::default());
    let nodes = Arc::new(NodeAuthorizer::new(bootstrap::table::rules_of(&rows, "system:node")));
    let writer = Arc::new(ApiWriter::default());
    #[cfg(feature = "cedar")]
    let cedar = cedar(&options.authorization)?;
    let authorizers = Authorizers {
        #[cfg(feature = "cedar")]
        cedar: cedar.clone(),
        nodes: nodes.clone(),
        rbac: rbac.clone(),
        policies: options.authorization.policies.clone().map(Arc::new),
        egress: options.egress.clone(),
        clock: options.clock.clone(),
    };
    let (authorizer, reload) = authorizers.start(options.authorization).map_err(Error::Options)?;
    let equivalents = equivalents(&storage);
    let policies = policies(&storage, &authorizer, equivalents.clone());
    let no_review = || Error::Options("the tables have no AdmissionReview".to_owned());
    let webhooks = webhook::Engine {
        webhooks: Arc::default(),
        reader: reader.clone(),
        authorizer: authorizer.clone(),
        equivalents,
        review: tables.message("admission.AdmissionReview").ok_or_else(no_review)?,
    };
    webhooks.webhooks.reach_by(&options.egress);
    let plugins = admission::Options {
        policies: policies.clone(),
        webhooks: webhooks.clone(),
        reader: reader.clone(),
        writer: writer.clone(),
        authorizer: authorizer.clone(),
        rbac: rbac.clone(),
        #[cfg(feature = "cedar")]
        cedar: cedar.clone(),
        settings: options.admission,
        catalog: storage.catalog(),
        server: options.presence.as_ref().map(|presence| presence::name(&presence.host)),
    };
    let signer = signer(&mut options.authentication).await.map_err(Error::Options)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let api = Arc::new(Api {
        admission: admission::chain(&plugins).map_err(Error::Options)?,
        authenticator: Arc::new(
            Authenticator::new(
                authn::Options {
                    writer: Some(writer.clone()),
                    egress: options.egress.clone(),
                    signer: signer.clone(),
                    ..options.authentication
                },
                reader.clone(),
            )
            .map_err(Error::Options)?,
        ),
        authorizer,
        agents: Agents::new(options.agent_tls, options.egress.cluster.clone()),
        egress: options.egress.clone(),
        gates: options.gates,
        claims: Claims::new(options.service_ranges, storage.clone(), writer.clone(), tasks.clone()),
        runs: Runs::default(),
        watches_last: options.flow.watches,
        clock: options.clock,
        drain: CancellationToken::new(),
        tables: tables.clone(),
        storage: storage.clone(),
    });
    writer.connect(&api);
    let published = published::Publisher { authenticator: api.authenticator.clone(), reader: reader.clone(), writer: writer.clone() };
    let cidrs = api.claims.ranges().texts();
    let mut default_range = bootstrap::range::DefaultRange::new(cidrs, reader.clone(), writer.clone(), api.clock.clone());
    if let Err(status) = default_range.settle().await {
        warn!(%status, "the ServiceCIDR of the cluster is not there yet");
    }
    bootstrap::run(&*reader, &*writer, &options.facts, options.presence.is_none(), &tables.groups, rows).await?;

    published.publish(api.now()).await?;
    let tracking = Tracking { reader: reader.clone(), writer: writer.clone() };
    let tracked = tracking.look(None, api.now()).await?;
    let mut repair = Repair::new(api.claims.clone(), reader.clone(), writer.clone(), api.clock.clone());
    if let Err(status) = repair.once().await {
        warn!(%status, "addresses and ports of services are not checked yet");
    }

    let spawn = |task: futures::future::BoxFuture<'static, ()>| {
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    };
    spawn(published.follow(api.clock.clone()).boxed());
    spawn(tracking.follow(tracked, api.clock.clone()).boxed());
    spawn(repair.run().boxed());
    spawn(default_range.run().boxed());
    spawn(api.clone().forget_encodings().boxed());
    if let Some(at_rest) = storage.at_rest() {
        spawn(atrest::follow(at_rest.clone(), storage.clone()).boxed());
    }
    let authenticator = api.authenticator.clone();
    spawn(async move { authenticator.follow().await }.boxed());
    if let Some(signer) = signer {
        spawn(signer.follow().boxed());
    }
    let role_changes = rbac.load(&*reader).await?;
    spawn(rbac.clone().follow(role_changes).boxed());
    let node_changes = nodes.load(&*reader).await?;
    spawn(nodes.clone().follow(node_changes).boxed());
    if let Some(reload) = reload {
        spawn(reload.follow().boxed());
    }
    let policy_changes = policies.policies.load(&*reader).await;
    spawn(policies.policies.clone().follow(reader.clone(), policy_changes).boxed());
    spawn(policies.policies.follow_files().boxed());
    let webhook_changes = webhooks.webhooks.load(&reader).await;
    spawn(webhooks.webhooks.clone().follow_files(reader.clone()).boxed());
    spawn(webhooks.webhooks.follow(reader.clone(), webhook_changes).boxed());
    let (aggregating, signing, following): (Arc<dyn Writer>, Arc<dyn Writer>, Arc<dyn Writer>) = (writer.clone(), writer.clone(), writer);
    spawn(aggregation::follow(reader.clone(), aggregating).boxed());

    let registering = following.clone();
    let (follower, definitions) = Follower::start(api.clone(), reader.clone(), following).await?;
    spawn(follower.run(definitions).boxed());
    #[cfg(feature = "cedar")]
    if let Some(cedar) = cedar {
        cedar.read_objects(&*reader).await;
        spawn(crate::authz::cedar::follow(cedar, reader.clone()).boxed());
    }
    let flow = if options.flow.fair {
        let flow = Arc::new(Flow::new(&options.flow));
        let (follower, changes) = flow::Follower::start(flow.clone(), api.clone(), &*reader, registering.clone()).await?;
        spawn(follower.run(changes).boxed());
        Some(flow)
    } else {
        None
    };
    let aggregator = Arc::new(Aggregator::new(options.aggregator, options.egress.cluster, reader.clone()).map_err(Error::Options)?);
    let (follower, services) = aggregator::Follower::start(aggregator.clone(), api.clone(), registering).await?;
    spawn(follower.run(services).boxed());

    let presence = options.presence.as_ref().map(|presence| {
        let clock = api.clock.clone();
        Arc::new(Presence::new(presence, options.facts.clone(), storage.clone(), signing, clock))
    });
    let address = std::net::SocketAddr::new(options.facts.advertise_address, options.facts.secure_port).to_string();
    let layers = Arc::new(Layers {
        aggregator,
        api,
        audit,
        flow,
        connections: options.connections,
        limits: Limits::new(options.flow.max_reads, options.flow.max_writes),
        timeout: options.flow.timeout,
        modes: Modes::default(),
        paths: Paths::new(discovery::built_in(&tables), address, options.log_levels, options.flags, options.build),
        metrics_off: options.metrics_off,
        tracer: options.tracing.as_ref().map(|tracing| Arc::new(Tracer::start(tracing))),
    });
    layers.paths.set_started();
    if let Some(presence) = &presence {
        tasks.spawn({
            let (stop, presence) = (stop.clone(), presence.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = presence.run() => {}
                }
            }
        });
    }
    Ok(Server { layers, presence, tasks, stop })
}

/// Who signs tokens instead of a key of ours, if somebody does. The longest lifetime he gives to them is the longest there is.
async fn signer(options: &mut authn::Options) -> Result<Option<Arc<authn::Signer>>, String> {
    let Some(endpoint) = options.signing_endpoint.as_deref().filter(|_| !options.issuers.is_empty()) else { return Ok(None) };
    let signer = authn::Signer::open(endpoint).await?;
    let longest = jiff::SignedDuration::from_secs(signer.longest());
    if let Some(wanted) = options.longest_token.filter(|wanted| *wanted > longest) {
        let (wanted, longest) = (wanted.as_secs(), longest.as_secs());
        return Err(format!(
            "service-account-max-token-expiration cannot be set longer than the token expiration supported by service-account-signing-endpoint: {wanted}s > {longest}s"
        ));
    }
    options.longest_token.get_or_insert(longest);
    Ok(Some(Arc::new(signer)))
}

/// The prefixes of resources that are in other stores. Those that are not built in are not kept there, as upstream.
fn elsewhere(given: Vec<(String, String, Arc<dyn Store>)>, kinds: &Catalog) -> Elsewhere {
    let place = |(group, resource, store): (String, String, _)| {
        let prefix = kinds.stored(&group, &resource).and_then(|kind| kind.prefix.clone());
        if prefix.is_none() {
            warn!(group, resource, "--etcd-servers-overrides names what is not built in");
        }
        Some((prefix?.to_string(), store))
    };
    given.into_iter().filter_map(place).collect()
}

/// Policies in Cedar, if they are asked; those in files are there from the start.
#[cfg(feature = "cedar")]
fn cedar(options: &crate::authz::Options) -> Result<Option<Arc<crate::authz::cedar::Cedar>>, Error> {
    if !options.has(crate::authz::Mode::Cedar) {
        return Ok(None);
    }
    let cedar = crate::authz::cedar::Cedar::new(options.cedar.clone()).map_err(Error::Options)?;
    cedar.read_files().map_err(Error::Options)?;
    Ok(Some(Arc::new(cedar)))
}

/// What admission policies are asked with.
fn policies(storage: &Arc<Storage>, authorizer: &Chain, equivalents: Equivalents) -> policy::Engine {
    let kinds = storage.clone();
    let resources = move |version: &str, kind: &str| {
        let catalog = kinds.catalog();
        let mut all = catalog.kinds().iter().chain(catalog.custom().flat_map(|served| &served.kinds));
        let found = all.find(|known| &*known.gvk.kind == kind && known.gvk.api_version() == version)?;
        Some((found.id.resource.to_string(), found.is_namespaced()))
    };
    policy::Engine {
        policies: Arc::default(),
        reader: storage.clone(),
        authorizer: authorizer.clone(),
        resources: Arc::new(resources),
        equivalents,
    }
}

/// The other kinds that serve the same objects: those kept in the same place.
fn equivalents(storage: &Arc<Storage>) -> Equivalents {
    let kinds = storage.clone();
    Arc::new(move |kind| {
        if kind.prefix.is_none() {
            return Vec::new();
        }
        let catalog = kinds.catalog();
        let all = catalog.kinds().iter().chain(catalog.custom().flat_map(|served| &served.kinds));
        all.filter(|other| other.prefix == kind.prefix && other.gvk != kind.gvk).cloned().collect()
    })
}

/// What makes the values kube-apiserver keeps of ours, and ours of them; for tools that look into stores.
pub(crate) fn codec() -> Result<Codec, Error> {
    let tables = Arc::new(Tables::load()?);
    let kinds = catalog::built_in(&tables, odd);
    Ok(Codec::new(tables, &kinds))
}

/// What the kinds have of their own.
fn odd(group: &str, resource: &str) -> Odd {
    Odd { rules: kinds::rules_for(group, resource), printer: Some(kinds::columns::columns_for(group, resource)) }
}
