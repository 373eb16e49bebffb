//! The store over etcd 3.4 and later: for several servers on one set of data, laid out as kube-apiserver lays it out.
//!
//! Map: `place` (members, TLS), `client` (calls to whichever member answers), `messages` (etcd's API by hand, over [`crate::grpc`]), `faults`
//! (what errors mean), `pages` (how large those of a list are), `fresh` (the latest revision, asked for once for all who wait), `follow` (watches), `leases` (times to live),
//! `compactor`.
//!
//! Invariants: reads are linearizable; a write is one transaction that compares the revision of the key's last write; a watch goes on
//! after a lost connection where it was, and ends with an error when it cannot (history compacted, or rewound by a restored backup).
//! Keys begin with [`Options::root`] here and with [`Options::prefix`] in etcd.

mod client;
mod compactor;
mod faults;
mod follow;
mod fresh;
mod keys;
mod leases;
mod messages;
mod pages;
mod place;

#[cfg(test)]
pub(crate) mod peer;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

pub use self::place::TlsFiles;
use self::{
    client::{Client, Effect},
    fresh::Fresh,
    keys::Keys,
    leases::Leases,
    messages::{Compared, Decided, KeyValue, Operation, Range, Ranged},
    pages::Pages,
};
use crate::{At, Each, Entry, Events, Expect, Key, Page, Revision, Step, Steps, Store, StoreError, Write};

/// How often a list is begun again when compaction overtook it.
const ATTEMPTS: usize = 4;
/// How often sizes and alarms are asked for.
const POLL: Duration = Duration::from_secs(30);
/// Pause between attempts to reach etcd at the start, and how long the last may take however little time is left.
const RETRY: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(1);
/// Largest answer. A page of a list stays far below it, unless its objects are large.
const ANSWER: usize = 512 << 20;

/// How to reach etcd and what to expect of it.
#[derive(Clone, Debug)]
pub struct Options {
    /// URLs of its members (`--etcd-servers`).
    pub endpoints: Vec<String>,
    /// TLS towards them.
    pub tls: TlsFiles,
    /// A user of etcd and the password.
    pub user: Option<(String, String)>,
    /// What keys begin with in etcd (`--etcd-prefix`): `/registry`.
    pub prefix: String,
    /// What stands for it here. Keys that do not begin with it have `prefix` before them.
    pub root: String,
    /// How often versions older than that are forgotten (`--etcd-compaction-interval`); zero: never by us.
    pub compact_every: Duration,
    /// The largest value taken, in bytes. etcd has a limit of its own, which may be smaller.
    pub value_limit: usize,
    /// The largest answer taken, in bytes. Lists whose pages are larger come in smaller ones.
    pub answer_limit: usize,
    /// What a call may take, all attempts together.
    pub timeout: Duration,
    /// How long etcd is waited for at the start.
    pub patience: Duration,
}

impl Options {
    /// As kube-apiserver has it.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: TlsFiles::default(),
            user: None,
            prefix: "/registry".to_owned(),
            root: "/registry".to_owned(),
            compact_every: Duration::from_secs(300),
            value_limit: 3 << 20,
            answer_limit: ANSWER,
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(20),
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong; says which and what is allowed.
    #[error("{0}")]
    Options(String),
    /// etcd did not answer in time.
    #[error("etcd at {servers} does not answer: {why}")]
    Unreachable {
        /// The members that were tried.
        servers: String,
        /// What the last attempt said.
        why: StoreError,
    },
    /// etcd answered that it will not.
    #[error("etcd at {servers} refuses: {why}")]
    Refused {
        /// The members that were tried.
        servers: String,
        /// What it said.
        why: StoreError,
    },
    /// It is too old.
    #[error("etcd {version} is too old: 3.4 or later is needed")]
    Version {
        /// What it says it is.
        version: String,
    },
}

/// A handle to etcd. Dropping it ends its tasks.
pub struct Etcd {
    shared: Arc<Shared>,
    fresh: Fresh,
    leases: Leases,
    value_limit: usize,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// What the handle shares with its watches and tasks.
struct Shared {
    client: Client,
    keys: Keys,
    /// The revision that somebody waits for a watch to reach.
    wanted: watch::Sender<Revision>,
    /// Bytes of the database, as told last.
    size: AtomicU64,
    /// How often the latest revision was asked for.
    asked: AtomicU64,
    /// Which etcd it is.
    cluster: AtomicU64,
    /// Whether watches cannot reach it.
    away: AtomicBool,
}

impl Etcd {
    /// Opens the store: waits until a member answers, for as long as the options say, but not where waiting cannot help. Must be called
    /// within a tokio runtime.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let client = Client::new(options).map_err(OpenError::Options)?;
        let keys = Keys::new(&options.root, &options.prefix).map_err(OpenError::Options)?;
        if options.tls.certificate.is_some() != options.tls.key.is_some() {
            return Err(OpenError::Options("the client certificate and its key must be given together".to_owned()));
        }
        client.check_files().await.map_err(|why| OpenError::Options(format!("TLS towards etcd: {why}")))?;
        let until = Instant::now() + options.patience;
        let status = loop {
            let left = until.saturating_duration_since(Instant::now());
            match client.status_within(left.max(LAST).min(options.timeout)).await {
                Ok(status) => break status,
                // Of the unknown nobody can say that it will stay.
                Err(fault) if !faults::is_of_member(&fault) && fault.code != "Unknown" => {
                    return Err(OpenError::Refused { servers: client.urls(), why: faults::store_error(&fault, 0) });
                }
                Err(fault) if Instant::now() + RETRY >= until => {
                    return Err(OpenError::Unreachable { servers: client.urls(), why: faults::store_error(&fault, 0) });
                }
                Err(_) => sleep(RETRY).await,
            }
        };
        if version(&status.version) < (3, 4, 0) {
            return Err(OpenError::Version { version: status.version });
        }
        info!(servers = client.urls(), version = status.version, "objects are in etcd");
        let shared = Arc::new(Shared {
            client,
            keys,
            wanted: watch::Sender::new(Revision(0)),
            size: AtomicU64::new(status.size),
            asked: AtomicU64::new(0),
            cluster: AtomicU64::new(status.cluster),
            away: AtomicBool::new(false),
        });
        let stop = CancellationToken::new();
        let (fresh, asking) = fresh::start(shared.clone());
        let tasks = [spawned(&stop, asking), spawned(&stop, poll(shared.clone()))];
        tasks.into_iter().for_each(drop);
        if !options.compact_every.is_zero() {
            spawned(&stop, compactor::run(shared.clone(), options.compact_every));
        }
        let leases = Leases::default();
        Ok(Self { shared, fresh, leases, value_limit: options.value_limit, _guard: stop.clone().drop_guard(), stop })
    }

    /// Ends what runs beside the calls.
    pub fn close(&self) {
        self.stop.cancel();
    }

    async fn write(&self, key: &[u8], compared: Compared, write: &Write) -> Result<Decided, StoreError> {
        let (size, mut renewed) = (value_size(write), false);
        loop {
            let operation = match write {
                Write::Delete => Operation::Delete,
                Write::Put { value, ttl: None, .. } => Operation::Put { value, lease: 0 },
                Write::Put { value, ttl: Some(ttl), .. } => {
                    Operation::Put { value, lease: self.leases.of(&self.shared.client, *ttl).await? }
                }
            };
            let message = messages::transaction(key, compared, operation);
            match self.shared.client.call(messages::TXN, &message, Effect::Write).await {
                Ok(answer) => return Decided::read(&answer).map_err(|fault| faults::store_error(&fault, size)),
                Err(fault) if faults::is_lease_gone(&fault) && !renewed => {
                    renewed = true;
                    self.leases.forget().await;
                }
                Err(fault) => return Err(faults::store_error(&fault, size)),
            }
        }
    }
}

/// Runs a task until the store is closed.
fn spawned(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    })
}

/// Keeps the size known, and tells alarms when they are raised.
async fn poll(shared: Arc<Shared>) {
    let mut told = Vec::new();
    loop {
        sleep(POLL).await;
        let Ok(status) = shared.client.status().await else { continue };
        shared.size.store(status.size, Ordering::Relaxed);
        if status.errors != told {
            for error in &status.errors {
                warn!(error, size = status.size, "etcd raises an alarm");
            }
            told = status.errors;
        }
    }
}

impl Shared {
    async fn ranged(&self, range: &Range<'_>) -> Result<Ranged, StoreError> {
        let answer = self.client.call(messages::RANGE, &range.message(), Effect::None).await;
        answer.and_then(|answer| Ranged::read(&answer)).map_err(|fault| faults::store_error(&fault, 0))
    }

    fn entry(&self, found: KeyValue) -> Result<Entry, StoreError> {
        let KeyValue { key, value, created, modified, .. } = found;
        Ok(Entry { key: self.keys.here(&key)?, value, revision: Revision(modified), created: Revision(created) })
    }

    /// Everything from `start` on and before `end`, at one revision.
    async fn all(&self, start: &[u8], end: &[u8], limit: Option<usize>) -> Result<At<Vec<Entry>>, StoreError> {
        let mut entries = Vec::new();
        let revision = self.pages(start, end, limit, &mut |page| entries.extend(page)).await?;
        Ok(At { value: entries, revision })
    }

    /// The same in pages.
    async fn pages(
        &self,
        start: &[u8],
        end: &[u8],
        limit: Option<usize>,
        each: &mut (dyn FnMut(Vec<Entry>) + Send),
    ) -> Result<Revision, StoreError> {
        let (mut count, mut revision, mut start) = (0, 0, start.to_vec());
        let mut pages = Pages::default();
        loop {
            let wanted = limit.map_or(pages.size(), |limit| pages.size().min(limit - count));
            let range = Range { key: &start, end, limit: wanted as u64, revision, ..Range::default() };
            let answer = self.client.call(messages::RANGE, &range.message(), Effect::None).await;
            let ranged = match answer.and_then(|answer| Ranged::read(&answer)) {
                Ok(ranged) => ranged,
                Err(fault) if pages.shrink(wanted, &fault) => {
                    debug!(%fault, size = pages.size(), "a page of a list is too large");
                    continue;
                }
                Err(fault) => return Err(faults::store_error(&fault, 0)),
            };
            if revision == 0 {
                revision = ranged.revision;
            }
            let bytes: usize = ranged.entries.iter().map(|entry| entry.value.len()).sum();
            let Some(last) = ranged.entries.last() else { break };
            start = [&last.key[..], b"\0"].concat();
            pages.was_read(bytes);
            count += ranged.entries.len();
            each(ranged.entries.into_iter().map(|found| self.entry(found)).collect::<Result<_, _>>()?);
            if !ranged.more || limit.is_some_and(|limit| count >= limit) {
                break;
            }
        }
        Ok(Revision(revision))
    }
}

#[async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.fresh.revision().await
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        let key = self.shared.keys.there(key.as_str());
        let ranged = self.shared.ranged(&Range { key: &key, ..Range::default() }).await?;
        let found = ranged.entries.into_iter().next().map(|found| self.shared.entry(found)).transpose()?;
        Ok(At { value: found, revision: Revision(ranged.revision) })
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        let (mut start, end) = self.shared.keys.range(prefix);
        if let Some(after) = &page.after {
            start = start.max([&self.shared.keys.there(after.as_str())[..], b"\0"].concat());
        }
        if page.limit == Some(0) {
            return Ok(At { value: Vec::new(), revision: self.revision().await? });
        }
        let mut attempt = 1;
        loop {
            match self.shared.all(&start, &end, page.limit).await {
                Err(StoreError::Compacted { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(StoreError::Compacted { .. }) => {
                    return Err(StoreError::Unavailable("compaction of etcd overtook the list again and again".to_owned()));
                }
                answer => return answer,
            }
        }
    }

    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        let (start, end) = self.shared.keys.range(prefix);
        self.shared.pages(&start, &end, None, &mut |page| each(&page)).await
    }

    fn bound_to(&self, key: &Key) -> Vec<u8> {
        self.shared.keys.there(key.as_str())
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        let size = value_size(&write);
        if size > self.value_limit {
            return Err(StoreError::TooLarge { size, limit: self.value_limit });
        }
        if expect == Expect::Absent && write == Write::Delete {
            return Err(self.get(key).await?.value.map_or(StoreError::Absent, |entry| StoreError::Exists { now: entry.revision }));
        }
        let compared = match expect {
            Expect::Absent => Compared::Modified(0),
            Expect::At(revision) => Compared::Modified(revision.0),
        };
        let decided = self.write(&self.shared.keys.there(key.as_str()), compared, &write).await?;
        if decided.succeeded {
            return Ok(Revision(decided.revision));
        }
        Err(match (expect, decided.found) {
            (_, None) => StoreError::Absent,
            (Expect::Absent, Some(found)) => StoreError::Exists { now: Revision(found.modified) },
            (Expect::At(_), Some(found)) => StoreError::Moved { now: Revision(found.modified) },
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        let events = self.follow(prefix, from).flat_map(|step| {
            stream::iter(match step {
                Ok(Step::Write(event)) => vec![Ok(event)],
                Ok(Step::Writes(events)) => events.into_iter().map(Ok).collect(),
                Ok(Step::Reached(_) | Step::Unreadable(..)) => Vec::new(),
                Err(error) => vec![Err(error)],
            })
        });
        events.boxed()
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        follow::steps(self.shared.clone(), self.fresh.clone(), prefix, from, self.stop.clone())
    }

    fn expedite(&self, to: Revision) {
        self.shared.wanted.send_if_modified(|wanted| std::mem::replace(wanted, to.max(*wanted)) < to);
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        let (start, end) = self.shared.keys.range(prefix);
        let ranged = self.shared.ranged(&Range { key: &start, end: &end, count_only: true, ..Range::default() }).await?;
        Ok(usize::try_from(ranged.count).unwrap_or(usize::MAX))
    }

    fn size(&self) -> Option<u64> {
        Some(self.shared.size.load(Ordering::Relaxed))
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        let to = to.min(self.revision().await?);
        compactor::compact(&self.shared.client, to.0).await.map_err(|fault| faults::store_error(&fault, 0))
    }
}

fn value_size(write: &Write) -> usize {
    match write {
        Write::Put { value, .. } => value.len(),
        Write::Delete => 0,
    }
}

/// `3.5.13-rc.0` as numbers; what is none counts as 0.
fn version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}
