//! The Kubernetes API server: requests in, answers out. One path for every kind.
//!
//! Map: `request` (path grammar, layers) → `verbs` (one file per verb) → `admission`, `registry`, schema crate → store crate.
//! `kinds` holds the odd rules of single kinds and depends on `registry` only; `wire` (encodings) is a leaf.

pub mod admission;
pub mod aggregator;
pub mod atrest;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod extensions;
pub mod flow;
pub mod kinds;
pub mod presence;
pub mod registry;
pub mod request;
pub mod verbs;
pub mod wire;

mod build;
mod gates;
mod metrics;
mod trace;
mod user;
mod webhook;

use std::sync::Arc;

use coracle_store::Store;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use gates::Gates;
pub use metrics::FEATURE_GATES;
pub use registry::claims::{Family, Network, Ranges};
pub use registry::values::{Codec as StorageCodec, MediaType as StorageMediaType};
pub use request::cors::Origins;
pub use request::flags::LogLevels;
pub use request::paths::BuildInfo;
pub use request::protocol::Protocol;
pub use request::serve::{Connections, Service};
pub use request::serving::{CertificateAndKey, Material, Serving, certified};
pub use request::zpages::Flags;
pub use trace::Options as TracingOptions;
pub use verbs::{Clock, connect::agent_tls};
pub use webhook::{Egress, Kubeconfig};

use presence::Presence;
use request::layers::Layers;

/// What a server is built of.
pub struct Options {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Resources whose objects are in other stores than that (`--etcd-servers-overrides`): group, plural, store.
    pub elsewhere: Vec<(String, String, Arc<dyn Store>)>,
    /// In which form objects are kept there, where that is shared with kube-apiserver (`--storage-media-type`); `None`: in our own.
    pub media_type: Option<StorageMediaType>,
    /// How users are recognised, and how tokens are issued.
    pub authentication: authn::Options,
    /// Who may what, in order (`--authorization-mode`, `--authorization-config`).
    pub authorization: authz::Options,
    /// Addresses and ports of services.
    pub service_ranges: Ranges,
    /// What the system objects of a first start tell.
    pub facts: bootstrap::Facts,
    /// Which admission plugins run, and what is configured of them.
    pub admission: admission::Settings,
    /// What is written down of requests.
    pub audit: audit::Options,
    /// Where spans of requests are sent (`--tracing-config-file`); `None`: nowhere.
    pub tracing: Option<TracingOptions>,
    /// What changes the levels of the log while the server runs (`/debug/flags`).
    pub log_levels: Option<Arc<dyn LogLevels>>,
    /// The flags the program runs with, by name (`/flagz`); secrets are none of it.
    pub flags: Flags,
    /// What is encrypted in the store; `None`: nothing (`--encryption-provider-config`).
    pub encryption: Option<atrest::Options>,
    /// How node agents are reached for logs, exec and proxies: client certificate and authority; `None`: plain verification fails closed.
    pub agent_tls: Option<Arc<rustls::ClientConfig>>,
    /// By which way others are reached (`--egress-selector-config-file`).
    pub egress: Egress,
    /// How other API servers are spoken to.
    pub aggregator: aggregator::Options,
    /// Families of metrics that nobody is told (`--disabled-metrics`).
    pub metrics_off: std::collections::BTreeSet<String>,
    /// How many requests at a time, and who goes first.
    pub flow: flow::Options,
    /// What connections are allowed and told.
    pub connections: Connections,
    /// Which versions are served that are not unless they are asked for: group and version of [`unfinished`].
    pub versions: std::collections::BTreeSet<(String, String)>,
    /// Feature gates that are switched off.
    pub gates: Gates,
    /// How long events are kept (`--event-ttl`); 0: for ever.
    pub events_last: std::time::Duration,
    /// Of what the program was built: what `/version` tells.
    pub build: BuildInfo,
    /// How this server is known to others on the same store; `None`: there are none.
    pub presence: Option<presence::Options>,
    /// The time.
    pub clock: Clock,
}

/// Audit events that wait have this long to be written at the end.
const AUDIT_GRACE: std::time::Duration = std::time::Duration::from_secs(5);
/// And spans that wait this long to be sent.
const TRACE_GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// Why a server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in the built-in tables.
    #[error("built-in API: {0}")]
    Tables(#[from] coracle_schema::tables::TableError),
    /// An option is wrong; says which and what is allowed.
    #[error("{0}")]
    Options(String),
    /// What encrypts the store's values cannot.
    #[error("{0}")]
    Encryption(String),
    /// The store did not answer, or refused what every start writes.
    #[error("start: {0}")]
    Start(#[from] wire::Status),
}

/// What makes the values kube-apiserver keeps of those a store of our own keeps, and back; for tools that look into stores.
pub fn storage_codec() -> Result<StorageCodec, Error> {
    build::codec()
}

/// Groups and versions that are served only if they are asked for (`--runtime-config`).
pub fn unfinished() -> impl Iterator<Item = (&'static str, &'static str)> {
    coracle_schema::tables::betas()
}

/// A server: ready to answer in-process; serves the network while [`Server::run`] runs.
pub struct Server {
    layers: Arc<Layers>,
    presence: Option<Arc<Presence>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Builds the server over its store: loads roles, writes what every cluster has, starts what follows changes.
    pub async fn build(options: Options) -> Result<Self, Error> {
        build::server(options).await
    }

    /// The server as a service inside this process. The caller is the `User` (or `Arc<User>`) in a request's extensions.
    pub fn service(&self) -> Service {
        Service::new(Arc::clone(&self.layers))
    }

    /// Whose client certificates count: those of whom [`Serving`] keeps current.
    pub fn authorities(&self) -> &Arc<authn::Authorities> {
        self.layers.api.authenticator.authorities()
    }

    /// Whether it is ready: what `/readyz` answers.
    pub fn ready(&self) -> bool {
        self.layers.paths.is_ready()
    }

    /// Ends the readiness without ending anything else.
    pub fn unready(&self) {
        self.layers.paths.set_stopping();
    }

    /// The same, and clients are led to other servers, if there are others; takes seconds at most.
    pub async fn leave(&self) {
        self.unready();
        if let Some(presence) = &self.presence {
            presence.leave().await;
        }
    }

    /// Ends all watches, each with a last bookmark: clients go on elsewhere or later where they were.
    pub fn close_watches(&self) {
        self.layers.api.drain.cancel();
    }

    /// Serves a listener until `stop`; then not ready, watches closed, requests ended (within seconds).
    pub fn run(&self, listener: TcpListener, tls: Arc<Serving>, stop: CancellationToken) -> BoxFuture<'_, ()> {
        let serving = stop.child_token();
        let end = async move {
            stop.cancelled().await;
            self.unready();
            self.close_watches();
        };
        Box::pin(async move {
            tokio::join!(request::serve::run(Arc::clone(&self.layers), listener, tls, serving), end);
        })
    }

    /// Ends the server's own tasks. In-process callers get errors afterwards only where they need those tasks.
    pub async fn close(&self) {
        self.unready();
        self.close_watches();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(audit) = &self.layers.audit
            && tokio::time::timeout(AUDIT_GRACE, audit.close()).await.is_err()
        {
            tracing::warn!("audit events are lost: they could not be written in {AUDIT_GRACE:?}");
        }
        if let Some(tracer) = &self.layers.tracer
            && tokio::time::timeout(TRACE_GRACE, tracer.close()).await.is_err()
        {
            tracing::debug!("spans are lost: they could not be sent in {TRACE_GRACE:?}");
        }
        self.layers.api.storage.close();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
