//! Config maps, secrets and services that pods refer to. Each config map or secret is watched by name for as long as a pod on this node uses it
//! (that is all a node may read), so that volumes follow changes and a missing one is noticed when it appears. Services are watched once, when
//! the first container needs their variables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::{ServiceAddress, service_variables};
use crate::pods::registry::{Directory, Signal};

/// How long a pod waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Pauses between attempts to watch. The first are short: the authorizer may learn a moment after the agent that a pod of this node refers to
/// the object.
#[derive(Debug, Default)]
struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = (self.0 + 1).min(10);
        Some((Duration::from_millis(25) * 2_u32.pow(self.0)).min(Duration::from_secs(20)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Which kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// `v1/ConfigMap`.
    ConfigMap,
    /// `v1/Secret`.
    Secret,
}

impl Source {
    /// Kind, as in messages.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// The words for an object that does not exist.
    #[must_use]
    pub fn not_found(self, name: &str) -> String {
        format!("{} \"{name}\" not found", self.kind().to_lowercase())
    }
}

/// Content of a config map or secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Keys and values, text and binary alike.
    pub entries: BTreeMap<String, Bytes>,
    /// Secret type, empty for config maps.
    pub kind: String,
}

type Key = (Source, String, String);
type State = Option<Option<Arc<Data>>>;

struct Watched {
    users: HashSet<String>,
    state: watch::Receiver<State>,
    stop: CancellationToken,
}

/// The cache of one node.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    directory: Arc<Directory>,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    services: Arc<Services>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Services {
    known: RwLock<BTreeMap<(String, String), ServiceAddress>>,
    synced: Mutex<Option<watch::Receiver<bool>>>,
}

impl Objects {
    /// A cache that reads through `client` and tells the pods of `directory` about changes.
    #[must_use]
    pub fn new(client: Client, directory: Arc<Directory>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { client, directory, watched: Arc::default(), services: Arc::default(), tasks, stop }
    }

    /// The object's content as of now, `None` when it does not exist. From now until [`Objects::release`] the pod is told about changes.
    ///
    /// # Errors
    /// When the API server gave no answer in time.
    pub async fn get(&self, user: &str, source: Source, namespace: &str, name: &str) -> Result<Option<Arc<Data>>, String> {
        let key = (source, namespace.to_owned(), name.to_owned());
        let mut state = self.subscribe(user, &key);
        let answer = tokio::time::timeout(FIRST_ANSWER, state.wait_for(Option::is_some)).await;
        match answer {
            Ok(Ok(state)) => Ok(state.clone().flatten()),
            _ => Err(format!("failed to sync {} cache: timed out waiting for the condition", source.kind().to_lowercase())),
        }
    }

    /// The pod needs nothing any more.
    pub fn release(&self, user: &str) {
        self.watched.lock().retain(|_, watched| {
            watched.users.remove(user);
            let wanted = !watched.users.is_empty();
            if !wanted {
                watched.stop.cancel();
            }
            wanted
        });
    }

    fn subscribe(&self, user: &str, key: &Key) -> watch::Receiver<State> {
        let mut all = self.watched.lock();
        if let Some(watched) = all.get_mut(key) {
            watched.users.insert(user.to_owned());
            return watched.state.clone();
        }
        let (tx, state) = watch::channel(None);
        let stop = self.stop.child_token();
        all.insert(key.clone(), Watched { users: HashSet::from([user.to_owned()]), state: state.clone(), stop: stop.clone() });
        drop(all);
        let (this, key) = (self.clone(), key.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow(&key, tx) => {}
            }
        });
        state
    }

    async fn follow(&self, key: &Key, tx: watch::Sender<State>) {
        let (source, namespace, name) = key;
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        match source {
            Source::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                let events = watcher(api, config).backoff(Pauses::default()).map_ok(|event| event_of(event, config_map_data));
                self.apply(key, events, &tx).await;
            }
            Source::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                let events = watcher(api, config).backoff(Pauses::default()).map_ok(|event| event_of(event, secret_data));
                self.apply(key, events, &tx).await;
            }
        }
    }

    async fn apply(&self, key: &Key, events: impl futures::Stream<Item = Result<Change, watcher::Error>>, tx: &watch::Sender<State>) {
        let mut events = std::pin::pin!(events);
        let mut listed = None;
        while let Some(event) = events.next().await {
            let next = match event {
                Ok(Change::ListBegins) => {
                    listed = None;
                    continue;
                }
                Ok(Change::Listed(data)) => {
                    listed = Some(data);
                    continue;
                }
                Ok(Change::ListEnds) => listed.take(),
                Ok(Change::Is(data)) => Some(data),
                Ok(Change::Gone) => None,
                Err(error) => {
                    tracing::debug!(kind = key.0.kind(), namespace = key.1, name = key.2, %error, "watch interrupted");
                    continue;
                }
            };
            let next = next.map(Arc::new);
            let first = tx.borrow().is_none();
            let changed = tx.send_if_modified(|state| {
                let differs = state.as_ref() != Some(&next);
                *state = Some(next);
                differs
            });
            if changed && !first {
                self.tell(key);
            }
        }
    }

    fn tell(&self, key: &Key) {
        let users: Vec<String> = self.watched.lock().get(key).map(|w| w.users.iter().cloned().collect()).unwrap_or_default();
        for user in users {
            if let Some(pod) = self.directory.get(&user) {
                pod.signal(Signal::ObjectChanged);
            }
        }
    }

    /// The variables of the services a pod in `namespace` sees: with links all of its namespace, always the API server's.
    ///
    /// # Errors
    /// When services were not read in time.
    pub async fn service_variables(&self, namespace: &str, links: bool) -> Result<BTreeMap<String, String>, String> {
        let mut synced = self.watch_services();
        if !matches!(tokio::time::timeout(FIRST_ANSWER, synced.wait_for(|ready| *ready)).await, Ok(Ok(_))) {
            return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
        }
        let mut out = BTreeMap::new();
        let known = self.services.known.read();
        if let Some(api) = known.get(&("default".to_owned(), "kubernetes".to_owned())) {
            service_variables(api, &mut out);
        }
        if links {
            for ((of, _), service) in known.range((namespace.to_owned(), String::new())..) {
                if of != namespace {
                    break;
                }
                service_variables(service, &mut out);
            }
        }
        Ok(out)
    }

    fn watch_services(&self) -> watch::Receiver<bool> {
        let mut synced = self.services.synced.lock();
        if let Some(receiver) = &*synced {
            return receiver.clone();
        }
        let (tx, rx) = watch::channel(false);
        *synced = Some(rx.clone());
        let (this, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow_services(&tx) => {}
            }
        });
        rx
    }

    async fn follow_services(&self, synced: &watch::Sender<bool>) {
        let api: Api<Service> = Api::all(self.client.clone());
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(service)) => {
                    listed.extend(address_of(&service));
                }
                Ok(watcher::Event::InitDone) => {
                    *self.services.known.write() = std::mem::take(&mut listed);
                    let _ = synced.send(true);
                }
                Ok(watcher::Event::Apply(service)) => {
                    let mut known = self.services.known.write();
                    known.remove(&key_of(&service));
                    known.extend(address_of(&service));
                }
                Ok(watcher::Event::Delete(service)) => {
                    self.services.known.write().remove(&key_of(&service));
                }
                Err(error) => tracing::debug!(%error, "watch of services interrupted"),
            }
        }
    }
}

enum Change {
    ListBegins,
    Listed(Data),
    ListEnds,
    Is(Data),
    Gone,
}

fn event_of<K>(event: watcher::Event<K>, read: impl Fn(K) -> Data) -> Change {
    match event {
        watcher::Event::Init => Change::ListBegins,
        watcher::Event::InitApply(object) => Change::Listed(read(object)),
        watcher::Event::InitDone => Change::ListEnds,
        watcher::Event::Apply(object) => Change::Is(read(object)),
        watcher::Event::Delete(_) => Change::Gone,
    }
}

fn config_map_data(map: ConfigMap) -> Data {
    let text = map.data.into_iter().flatten().map(|(k, v)| (k, Bytes::from(v)));
    let binary = map.binary_data.into_iter().flatten().map(|(k, v)| (k, Bytes::from(v.0)));
    Data { entries: text.chain(binary).collect(), kind: String::new() }
}

fn secret_data(secret: Secret) -> Data {
    let entries = secret.data.into_iter().flatten().map(|(k, v)| (k, Bytes::from(v.0))).collect();
    Data { entries, kind: secret.type_.unwrap_or_default() }
}

fn key_of(service: &Service) -> (String, String) {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

/// Only services with an address have variables.
fn address_of(service: &Service) -> Option<((String, String), ServiceAddress)> {
    let spec = service.spec.as_ref()?;
    let ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None")?;
    let key = key_of(service);
    let ports = spec
        .ports
        .iter()
        .flatten()
        .map(|port| (port.name.clone().unwrap_or_default(), port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())));
    let address = ServiceAddress { name: key.1.clone(), ip, ports: ports.collect() };
    Some((key, address))
}
