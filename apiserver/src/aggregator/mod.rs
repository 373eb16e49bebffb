//! Groups and versions that other API servers serve: `APIService` objects with a service (kube-aggregator).
//!
//! | file | |
//! |---|---|
//! | `remote` | one group and version of another server: where it is, how it is asked, what it told |
//! | `proxy` | a request passed on, and its answer |
//! | `identity` | the front-proxy certificate, and the headers that say who asks |
//! | `availability` | pure: what the condition `Available` should say |
//! | `told` | what other servers tell of themselves: discovery and OpenAPI |
//! | `register` | the `APIService` objects of what is served here |
//! | `follow` | the task: every change of an `APIService`, of its service and its endpoints is looked at |
//!
//! Requests were authenticated, written down and authorized before they come here.

mod availability;
mod follow;
mod identity;
mod proxy;
mod register;
mod remote;
mod told;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};

pub use follow::Follower;
pub(crate) use proxy::Arrival;
pub(crate) use remote::Remote;

use self::identity::ClientFiles;
use crate::{
    extensions::discovery::Others,
    metrics::page::{Page, Type},
    registry::Reader,
    request::RequestInfo,
    webhook::Way,
};

/// Group and resource of the objects.
pub(crate) const SERVICES: (&str, &str) = ("apiregistration.k8s.io", "apiservices");

/// What is counted of them (kube-aggregator `controllers/status/metrics`).
pub(crate) const FAMILIES: [(&str, &str); 2] = [
    ("aggregator_unavailable_apiservice", "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name."),
    (
        "aggregator_unavailable_apiservice_total",
        "[ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
    ),
];

/// Who keeps an `APIService` object, and when: `onstart` (of a built-in version) or `true` (of a custom one).
pub(crate) const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// How other servers are spoken to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Certificate and key shown to them (`--proxy-client-cert-file`, `--proxy-client-key-file`); read again when they change.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether answers that lead elsewhere are refused (`--aggregator-reject-forwarding-redirect`).
    pub reject_redirects: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { client: None, reject_redirects: true }
    }
}

/// The groups and versions of others.
pub struct Aggregator {
    reader: Arc<dyn Reader>,
    reject_redirects: bool,
    files: ClientFiles,
    /// The way to the others.
    way: Way,
    /// Whether there are any: most servers have none, and no request shall look for them.
    any: AtomicBool,
    state: RwLock<Arc<State>>,
    counts: Mutex<Counts>,
}

/// Those there are at one moment.
#[derive(Clone, Default)]
struct State {
    /// By group, then version.
    remotes: HashMap<String, BTreeMap<String, Arc<Remote>>>,
    others: Others,
}

/// What metrics tell of them.
#[derive(Default)]
struct Counts {
    /// Whether each is available.
    available: BTreeMap<String, bool>,
    /// By name and reason: how often one became unavailable.
    lost: BTreeMap<(String, String), u64>,
}

impl Aggregator {
    /// Knows of none yet. The error names the file that cannot be used.
    pub(crate) fn new(options: Options, way: Way, reader: Arc<dyn Reader>) -> Result<Self, String> {
        Ok(Self {
            reader,
            way,
            reject_redirects: options.reject_redirects,
            files: ClientFiles::new(options.client)?,
            any: AtomicBool::new(false),
            state: RwLock::default(),
            counts: Mutex::default(),
        })
    }

    /// The server that answers this request, if it is not this one.
    pub(crate) fn route(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        if info.is_resource {
            return self.remote(&info.group, &info.version);
        }
        if let Some(document) = info.path.strip_prefix("/openapi/v3/") {
            return self.documented(document.trim_end_matches('/'));
        }
        let mut segments = info.path.trim_matches('/').split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("apis"), Some(group), Some(version), None) => self.remote(group, version),
            (Some("api"), Some(version), None, None) => self.remote("", version),
            _ => None,
        }
    }

    fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        self.state.read().remotes.get(group)?.get(version).cloned()
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read())
    }

    /// All of them.
    fn remotes(&self) -> Vec<Arc<Remote>> {
        self.state().remotes.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// What discovery shows of them.
    pub fn others(&self) -> Others {
        if self.any.load(Ordering::Relaxed) {
            self.state().others.clone()
        } else {
            Others { revision: self.state().others.revision, ..Others::default() }
        }
    }

    /// Puts one in the place of what was there under its name, or takes that away.
    fn put(&self, before: Option<&Remote>, now: Option<Arc<Remote>>) {
        self.change(|state| {
            if let Some(old) = before
                && let Some(versions) = state.remotes.get_mut(&old.group)
            {
                versions.remove(&old.version);
                if versions.is_empty() {
                    state.remotes.remove(&old.group);
                }
            }
            if let Some(remote) = now {
                state.remotes.entry(remote.group.clone()).or_default().insert(remote.version.clone(), remote);
            }
        });
    }

    /// What one of them tells has changed.
    fn retold(&self) {
        self.change(|_| {});
    }

    fn change(&self, make: impl FnOnce(&mut State)) {
        let mut slot = self.state.write();
        let mut state = State::clone(&slot);
        make(&mut state);
        let all = state.remotes.values().flat_map(BTreeMap::values);
        state.others = Others { revision: state.others.revision + 1, versions: all.map(|remote| remote.shown()).collect() };
        self.any.store(!state.remotes.is_empty(), Ordering::Relaxed);
        *slot = Arc::new(state);
    }

    /// Notes whether one is available; `was` is what its object said before.
    fn count(&self, name: &str, available: bool, was: bool, reason: &str) {
        let mut counts = self.counts.lock();
        counts.available.insert(name.to_owned(), available);
        if was && !available {
            *counts.lost.entry((name.to_owned(), reason.to_owned())).or_default() += 1;
        }
    }

    fn uncount(&self, name: &str) {
        self.counts.lock().available.remove(name);
    }

    /// Their part of `/metrics`.
    pub(crate) fn metrics(&self, page: &mut Page) {
        let counts = self.counts.lock();
        let [(unavailable, unavailable_help), (total, total_help)] = FAMILIES;
        for (name, available) in &counts.available {
            page.gauge(unavailable, unavailable_help, &[("name", name)], f64::from(u8::from(!available)));
        }
        for ((name, reason), count) in &counts.lost {
            page.family(total, Type::Counter, total_help).pairs(&[("name", name), ("reason", reason)], *count as f64);
        }
    }
}
