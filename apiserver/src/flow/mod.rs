//! How many requests at a time, and who goes first: API Priority and Fairness (KEP-1040, upstream `util/flowcontrol`).
//!
//! | file | |
//! |---|---|
//! | `rule` | flow schemas, compiled: whose a request is |
//! | `level` | priority levels and schemas as they are in force |
//! | `digest` | from objects to what is in force; seats, lent and borrowed |
//! | `queues`, `hand` | pure: who waits where, and who is next |
//! | `estimate`, `watches` | what a request will take |
//! | `allocation`, `demand` | pure: how seats are shared, what was wanted |
//! | `seat` | a request on its way through |
//! | `follow`, `ensure` | the task: objects are followed, their statuses and the mandatory and suggested ones kept |
//! | `dump`, `metrics`, `dropped` | what is told of it |
//!
//! Parts of this process are not limited: they limit themselves, and the requests of others must not keep them waiting.

mod allocation;
mod demand;
mod digest;
mod dropped;
mod dump;
mod ensure;
mod estimate;
mod follow;
mod hand;
mod level;
mod metrics;
mod queues;
mod rule;
mod seat;
mod watches;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub(crate) use follow::Follower;
#[cfg(test)]
pub(crate) use metrics::FAMILIES;
pub(crate) use seat::{Refused, Seat, Ticket, refusal};
pub(crate) use watches::Registered;

use self::{
    digest::{AllCounts, Config, GivenLevel, GivenSchema},
    dropped::Dropped,
    estimate::{Estimate, Stats},
    level::Schema,
    watches::Watches,
};
use crate::{
    authn::User,
    metrics::page::Page,
    registry::Storage,
    request::{Query, RequestInfo},
};

/// Group of the objects.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// A request may wait for a part of its time.
const WAIT: u32 = 4;
/// And no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How many requests at a time, and who goes first.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Reads in flight at most (`--max-requests-inflight`); 0: no limit, where levels do not share it.
    pub max_reads: usize,
    /// Writes in flight at most (`--max-mutating-requests-inflight`); 0: no limit, where levels do not share it.
    pub max_writes: usize,
    /// Whether both are shared by priority levels instead (`--enable-priority-and-fairness`).
    pub fair: bool,
    /// How long a request may take that is neither a watch nor a stream (`--request-timeout`).
    pub timeout: Duration,
    /// Watches that do not say how long they are to last end after this long and up to as much again (`--min-request-timeout`).
    pub watches: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_reads: 400, max_writes: 200, fair: true, timeout: Duration::from_secs(60), watches: Duration::from_secs(1800) }
    }
}

/// What is in force, and what is counted.
pub struct Flow {
    limit: usize,
    /// How long a request may wait.
    patience: Duration,
    config: RwLock<Arc<Config>>,
    watches: Arc<Watches>,
    dropped: Mutex<BTreeMap<String, Dropped>>,
    counts: Mutex<AllCounts>,
    fair: Mutex<f64>,
}

impl Flow {
    /// With the mandatory configuration; the objects come later.
    pub fn new(options: &Options) -> Self {
        let flow = Self {
            limit: options.max_reads.saturating_add(options.max_writes).max(1),
            patience: (options.timeout / WAIT).min(LONGEST_WAIT),
            config: RwLock::new(Arc::new(Config::new(Instant::now()))),
            watches: Arc::default(),
            dropped: Mutex::default(),
            counts: Mutex::default(),
            fair: Mutex::default(),
        };
        flow.set(&[], &[], Instant::now());
        flow
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    /// These objects are in force from now on.
    fn set(&self, levels: &[GivenLevel], schemas: &[GivenSchema], now: Instant) {
        let before = self.config();
        let (config, fair) = digest::digest(&before, levels, schemas, self.limit, &mut self.counts.lock(), now);
        *self.config.write() = Arc::new(config);
        *self.fair.lock() = fair;
    }

    /// Seats are lent and borrowed anew.
    fn rebalance(&self, now: Instant) {
        *self.fair.lock() = digest::borrow(&self.config(), now);
    }

    /// Whose a request is. Nothing is allocated for it. What no schema matches is the catch-all's: a user may be in no group at all.
    fn classify(&self, user: &User, info: &RequestInfo) -> Arc<Schema> {
        let config = self.config.read();
        Arc::clone(config.schemas.iter().find(|schema| schema.spec.matches(user, info)).unwrap_or(&config.catch_all))
    }

    /// What a request will take.
    fn estimate(&self, storage: &Storage, schema: &Schema, info: &RequestInfo, query: &Query) -> Estimate {
        if schema.exempt || !info.is_resource {
            return Estimate::ONE;
        }
        match info.verb.as_str() {
            "list" | "watch" => Estimate::list(info, query, stats(storage, info), schema.level.state.lock().widest),
            "create" | "update" | "patch" | "delete" => {
                let watches = self.watches.interested(info);
                schema.counts.watched(watches);
                if watches == 0 { Estimate::ONE } else { Estimate::write(info, watches, schema.level.state.lock().widest) }
            }
            _ => Estimate::ONE,
        }
    }

    /// What refused clients of a level are told to wait, in seconds.
    fn pause(&self, level: &str, second: i64) -> i64 {
        let mut dropped = self.dropped.lock();
        match dropped.get_mut(level) {
            Some(dropped) => dropped.note(second),
            None => dropped.entry(level.to_owned()).or_default().note(second),
        }
    }

    /// Its part of `/metrics`.
    pub(crate) fn metrics(&self, page: &mut Page) {
        metrics::write_schemas(page, &self.counts.lock());
        let figures = |level: &level::Level| {
            let state = level.state.lock();
            metrics::Figures {
                nominal: state.nominal,
                lower: state.lower,
                upper: state.upper,
                current: state.current,
                demand: state.demand,
                target: state.target,
            }
        };
        let config = self.config();
        let levels: Vec<_> = config.levels.iter().map(|(name, level)| (name.clone(), figures(level))).collect();
        metrics::write_levels(page, &levels, *self.fair.lock());
    }
}

/// How many objects there are of a resource, and how large the first ones are; `None` when none were asked for yet.
fn stats(storage: &Storage, info: &RequestInfo) -> Option<Stats> {
    const LOOKED_AT: usize = 16;
    let catalog = storage.catalog();
    let kind = catalog.get(&info.group, &info.version, &info.resource)?;
    let snapshot = storage.collection(kind).ok()?.current()?;
    let (mut bytes, mut looked_at) = (0, 0);
    for cached in snapshot.iter().take(LOOKED_AT) {
        bytes += cached.wire().len() as u64;
        looked_at += 1;
    }
    Some(Stats { count: snapshot.len() as u64, size: bytes.checked_div(looked_at).unwrap_or_default() })
}
