//! The writer: one thread that owns all changes. It takes what is waiting, decides it against the index, writes it in one transaction,
//! and then, in this order, moves the index on, publishes the events, answers. A group of relaxed writes skips the transaction: its rows wait for the next one.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior, config::DbConfig, ffi::SQLITE_IOERR_SHMSIZE};
use tokio::sync::{OwnedSemaphorePermit, broadcast, oneshot};
use tracing::{debug, error, info, warn};

use super::{
    OpenError, Options, Shared,
    compaction::{Compaction, Keeping, Stood},
    expiry::Expiry,
    group::{Answer, Group},
    log,
    open::Engine,
};
use crate::{Event, Expect, Key, Revision, StoreError, Write};

/// After a group of so many writes, the next one waits for others.
const CROWD: usize = 4;
/// How long: a fraction of what syncing to disk takes, for which so many more share it.
const GATHERING: Duration = Duration::from_micros(500);
/// Deletes of expired keys in one group.
const EXPIRED: usize = 64;
/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The ballast is made this long after start, away from what must be fast.
const BALLAST_DELAY: Duration = Duration::from_secs(5);
/// Free pages in the file before some are given back, and how many at a time.
const FREE_PAGES: u32 = 1024;
const VACUUM_PAGES: u32 = 128;
/// Revisions reserved on disk at a time for relaxed writes.
const RESERVED: u64 = 4096;
/// Bytes of relaxed writes that wait at most: what a full disk must still take with a delete, and the ballast is larger.
const WAITING: usize = 1 << 20;
/// Pages in the write-ahead log from which on they are moved into the database: 8 MiB.
const FRAMES: u32 = 1000;
/// Such steps at one go when the disk is full: 16 MiB.
const SHRINK_STEPS: u32 = 16;

/// What the writer is asked.
pub(super) enum Ask {
    Commit { key: Key, expect: Expect, write: Write, answer: Answer, permit: OwnedSemaphorePermit },
    Compact { to: Revision, answer: oneshot::Sender<Result<(), StoreError>> },
    Flush { answer: oneshot::Sender<Result<(), StoreError>> },
    Close { answer: oneshot::Sender<()> },
}

/// Why a transaction failed.
enum Trouble {
    /// There is no room; nothing counts as written.
    Full(String),
    /// Somebody else holds the database; nothing was written.
    Busy(String),
    /// The disk or the database cannot be trusted any more.
    Fatal(String),
}

struct Writer {
    shared: Arc<Shared>,
    engine: Engine,
    inbox: mpsc::Receiver<Ask>,
    /// Dropped when the writer fails or ends, and with it all watches.
    events: Option<broadcast::Sender<Arc<[Event]>>>,
    expiry: Expiry,
    compaction: Compaction,
    compacted: Revision,
    /// Relaxed writes may be told revisions up to here.
    reserved: Revision,
    /// Zero where nothing waits.
    relaxed_interval: Duration,
    /// When what waits in the index is to be written, and its bytes.
    flush_at: Option<Instant>,
    waiting: usize,
    /// Those who asked for compaction, and up to where.
    compactors: Vec<(Revision, oneshot::Sender<Result<(), StoreError>>)>,
    /// Those who asked for what waits to be written.
    flushers: Vec<oneshot::Sender<Result<(), StoreError>>>,
    clock: fn() -> SystemTime,
    /// The last group had many writes.
    crowded: bool,
    /// The last transaction found no room, or the database busy: what remains is not tried again at once.
    stuck: bool,
    /// When to see to the ballast next.
    ballast_at: Option<Instant>,
    closing: Option<oneshot::Sender<()>>,
}

/// Starts the writer's thread; it ends when asked to, or when every sender to `inbox` is gone.
pub(super) fn spawn(
    engine: Engine,
    (compacted, reserved, stood): (Revision, Revision, Stood),
    options: &Options,
    inbox: mpsc::Receiver<Ask>,
    events: broadcast::Sender<Arc<[Event]>>,
    shared: Arc<Shared>,
) -> Result<(), OpenError> {
    let mut expiry = Expiry::default();
    for (key, slot) in shared.index.read().iter() {
        if let Some(deadline) = slot.expires {
            expiry.add(key.clone(), slot.revision, deadline);
        }
    }
    let now = Instant::now();
    let keeping = Keeping { least: options.keep, most: options.history.max(options.keep), bytes: options.history_bytes };
    let marks = stood.marks(now, unix_ms(options.clock));
    let writer = Writer {
        relaxed_interval: if engine.on_disk { options.relaxed_interval } else { Duration::ZERO },
        ballast_at: (engine.on_disk && options.ballast > 0).then_some(now + BALLAST_DELAY),
        shared,
        engine,
        inbox,
        events: Some(events),
        expiry,
        compaction: Compaction::new(options.compact_every, keeping, compacted, marks, now),
        compacted,
        reserved,
        flush_at: None,
        waiting: 0,
        compactors: Vec::new(),
        flushers: Vec::new(),
        clock: options.clock,
        crowded: false,
        stuck: false,
        closing: None,
    };
    let path = options.path.clone().unwrap_or_default();
    let spawned = thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run());
    spawned.map(drop).map_err(|source| OpenError::Io { path, source })
}

fn unix_ms(clock: fn() -> SystemTime) -> i64 {
    let since = clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Writer {
    fn run(mut self) {
        loop {
            let first = match self.pause() {
                Some(pause) => self.inbox.recv_timeout(pause),
                None => self.inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            };
            let mut group = Group::default();
            let mut orphaned = false;
            match first {
                Ok(ask) => {
                    self.take(ask, &mut group);
                    if self.crowded {
                        thread::sleep(GATHERING);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => orphaned = true,
            }
            while group.has_room()
                && let Ok(ask) = self.inbox.try_recv()
            {
                self.take(ask, &mut group);
            }
            self.crowded = self.engine.on_disk && group.rows.len() >= CROWD;
            self.look_around(Instant::now(), &mut group);
            self.write(group);
            self.answer_compactors();
            self.answer_flushers();
            // Whoever asked has been answered.
            self.backfill();
            if orphaned || self.closing.is_some() {
                break;
            }
        }
        self.finish();
    }

    /// How long to wait for work at most; `None`: for ever.
    fn pause(&self) -> Option<Duration> {
        if self.has_failed() {
            return None;
        }
        if self.compaction.pending(self.compacted).is_some() {
            return Some(if self.stuck { RETRY } else { Duration::ZERO });
        }
        let now = Instant::now();
        let pauses = [
            self.compaction.pause(now, self.shared.head(), self.compacted),
            self.expiry.pause(self.now_ms()),
            self.ballast_at.map(|at| at.saturating_duration_since(now)),
            self.flush_at.map(|at| at.saturating_duration_since(now)),
        ];
        pauses.into_iter().flatten().min()
    }

    fn take(&mut self, ask: Ask, group: &mut Group) {
        match ask {
            Ask::Commit { key, expect, write, answer, permit } => {
                if let Err(error) = self.accepts(&write) {
                    group.refuse(error, (answer, permit));
                } else {
                    let now_ms = self.now_ms();
                    group.add(&self.shared.index.read(), (&key, expect, write), now_ms, (answer, permit));
                }
            }
            Ask::Compact { to, answer } => {
                let to = to.min(self.shared.head());
                self.compaction.ask(to);
                self.compactors.push((to, answer));
            }
            Ask::Flush { answer } => self.flushers.push(answer),
            Ask::Close { answer } => self.closing = Some(answer),
        }
    }

    fn accepts(&self, write: &Write) -> Result<(), StoreError> {
        self.shared.health()?;
        if self.engine.room.is_full() && matches!(write, Write::Put { .. }) {
            return Err(StoreError::Unavailable(self.shared.full()));
        }
        Ok(())
    }

    /// What time brings: keys that expire, the schedule of compaction, the ballast.
    fn look_around(&mut self, now: Instant, group: &mut Group) {
        if self.has_failed() {
            return;
        }
        self.compaction.tick(now, self.shared.head());
        let due = self.expiry.due(self.now_ms(), EXPIRED);
        if !due.is_empty() {
            let index = self.shared.index.read();
            for (key, revision) in due {
                group.expire(&index, &key, revision);
            }
        }
        if self.ballast_at.is_some_and(|at| at <= now) {
            self.see_to_room(now);
        }
    }

    /// Makes the ballast; on a full disk first gives back what deletes and compaction left free in the files.
    fn see_to_room(&mut self, now: Instant) {
        let was_full = self.engine.room.is_full();
        if was_full && self.engine.on_disk {
            let shrunk = log::shrink(&self.engine.writes.lock(), VACUUM_PAGES, SHRINK_STEPS);
            self.heed(shrunk);
            if self.has_failed() {
                return;
            }
        }
        self.ballast_at = match self.engine.room.restore() {
            Ok(()) => {
                self.shared.meters.set_full(false);
                if was_full {
                    info!(store = %self.shared.name, "there is room on the disk again, writes are taken");
                }
                None
            }
            Err(_) if was_full => Some(now + RETRY),
            Err(err) => {
                warn!(store = %self.shared.name, error = %err, "no room for the ballast file");
                None
            }
        };
    }

    /// Writes the group, with what waited and a piece of compaction; or, if it is relaxed, lets it wait.
    fn write(&mut self, group: Group) {
        let waits = self.flush_at.is_some() || !group.rows.is_empty();
        let flush = self.flush_at.is_some_and(|at| at <= Instant::now()) || (waits && !self.flushers.is_empty());
        let compact = self.compaction.pending(self.compacted).is_some();
        if let Err(err) = self.shared.health() {
            // Perhaps since the group was decided.
            return group.fail(&err);
        }
        if group.rows.is_empty() && !flush && !compact {
            return group.answer();
        }
        if !flush && !compact && self.may_wait(&group) {
            self.flush_at.get_or_insert_with(|| Instant::now() + self.relaxed_interval);
            self.waiting += group.bytes();
            self.publish(&group, false);
            return group.answer();
        }
        let reserve = self.reservation(&group);
        let result = self.transact_with_ballast(&group, reserve);
        self.stuck = result.is_err();
        match result {
            Ok(compacted) => {
                self.compacted = compacted;
                self.reserved = reserve.unwrap_or(self.reserved);
                (self.flush_at, self.waiting) = (None, 0);
                self.publish(&group, true);
                return group.answer();
            }
            Err(Trouble::Full(_)) => group.fail(&StoreError::Unavailable(self.shared.full())),
            Err(Trouble::Busy(reason)) => group.fail(&StoreError::Unavailable(format!("{}: {reason}", self.shared.name))),
            Err(Trouble::Fatal(reason)) => self.stop(&reason, group),
        }
        // What was acknowledged stays until it can be written.
        self.flush_at = self.flush_at.map(|_| Instant::now() + RETRY);
    }

    /// Whether the group can be told before it is on disk.
    fn may_wait(&self, group: &Group) -> bool {
        group.is_relaxed()
            && !self.relaxed_interval.is_zero()
            && group.last().is_some_and(|last| last <= self.reserved)
            && self.waiting + group.bytes() <= WAITING
    }

    /// Up to where revisions are to be reserved with a group; relaxed writes after it can then wait.
    fn reservation(&self, group: &Group) -> Option<Revision> {
        let last = group.last().filter(|last| group.has_relaxed() && !self.relaxed_interval.is_zero() && *last > self.reserved)?;
        Some(Revision(last.0 + RESERVED))
    }

    /// A transaction that, when there is no room for it, is tried once more with that of the ballast.
    fn transact_with_ballast(&mut self, group: &Group, reserve: Option<Revision>) -> Result<Revision, Trouble> {
        match self.transact(group, reserve) {
            Err(Trouble::Full(reason)) => {
                self.make_room(&reason);
                self.transact(group, reserve)
            }
            result => result,
        }
    }

    /// One transaction: what waited, and then the group, are on disk when this returns. Answers the revision the log is compacted to.
    fn transact(&self, group: &Group, reserve: Option<Revision>) -> Result<Revision, Trouble> {
        let target = self.compaction.pending(self.compacted);
        let at = Some(self.now_ms());
        let index = self.shared.index.read();
        let mut db = self.engine.writes.lock();
        let run = |db: &mut Connection| -> rusqlite::Result<Revision> {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for row in index.waiting().chain(&group.rows) {
                log::append(&transaction, row, at)?;
            }
            if let Some(to) = reserve {
                log::reserve(&transaction, to)?;
            }
            let mut compacted = self.compacted;
            if let Some(target) = target {
                compacted = log::compact_piece(&transaction, compacted, target)?;
                log::give_back(&transaction, FREE_PAGES, VACUUM_PAGES)?;
            }
            let started = Instant::now();
            transaction.commit()?;
            self.shared.meters.committed(started.elapsed());
            Ok(compacted)
        };
        run(&mut db).map_err(|err| classify(&err))
    }

    /// After the commit, or instead of it: the index, the events.
    fn publish(&mut self, group: &Group, logged: bool) {
        let mut index = self.shared.index.write();
        if logged {
            index.logged();
        } else {
            index.hold(&group.rows);
        }
        if group.rows.is_empty() {
            return;
        }
        self.compaction.wrote(group.rows.iter().map(|row| row.value.as_ref().map_or(0, bytes::Bytes::len) as u64).sum());
        for row in &group.rows {
            if let Some(old) = index.get(row.key.as_str())
                && let Some(deadline) = old.expires
            {
                self.expiry.remove(&row.key, old.revision, deadline);
            }
        }
        for row in &group.rows {
            index.apply(&row.key, row.value.is_some().then_some(row.slot), row.slot.revision);
        }
        let head = index.head();
        self.shared.head.store(head.0, Ordering::Release);
        // A version superseded within the group never gets a deadline.
        for row in &group.rows {
            if let (Some(deadline), Some(slot)) = (row.slot.expires, index.get(row.key.as_str()))
                && slot.revision == row.slot.revision
            {
                self.expiry.add(row.key.clone(), row.slot.revision, deadline);
            }
        }
        drop(index);
        if let Some(events) = &self.events {
            // Nobody watching is no error.
            let _ = events.send(group.events().into());
        }
    }

    fn answer_compactors(&mut self) {
        let failed = self.shared.health();
        let compacted = self.compacted;
        for (to, answer) in std::mem::take(&mut self.compactors) {
            match &failed {
                Err(err) => drop(answer.send(Err(err.clone()))),
                Ok(()) if to <= compacted => drop(answer.send(Ok(()))),
                Ok(()) => self.compactors.push((to, answer)),
            }
        }
    }

    /// What a full disk does not take must wait, and nobody is told so.
    fn answer_flushers(&mut self) {
        let waits = self.flush_at.is_some() && !self.engine.room.is_full();
        let outcome = self.shared.health().and_then(|()| match waits {
            true => Err(StoreError::Unavailable(format!("{}: what waits could not be written yet", self.shared.name))),
            false => Ok(()),
        });
        for answer in self.flushers.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }

    /// Moves what the write-ahead log holds into the database, once that is much. What somebody still reads there is tried again later.
    fn backfill(&mut self) {
        if self.has_failed() || self.engine.frames.load(Ordering::Relaxed) < FRAMES {
            return;
        }
        let moved = log::backfill(&self.engine.writes.lock());
        if matches!(moved, Ok(true)) {
            // The next commit begins the log anew, and counts it.
            self.engine.frames.store(0, Ordering::Relaxed);
        }
        self.heed(moved.map(drop));
    }

    /// The outcome of moving the write-ahead log into the database. After an error of the disk the pages that were moved may count as written
    /// without being it: the log must stay, as after a commit that failed.
    fn heed(&mut self, moved: rusqlite::Result<()>) {
        match moved.map_err(|err| classify(&err)) {
            Ok(()) => {}
            Err(Trouble::Full(reason) | Trouble::Busy(reason)) => {
                debug!(store = %self.shared.name, reason, "the write-ahead log stays for now");
            }
            Err(Trouble::Fatal(reason)) => self.stop(&format!("checkpoint: {reason}"), Group::default()),
        }
    }

    /// The disk is full: gives the ballast up and compacts everything that can be.
    fn make_room(&mut self, reason: &str) {
        if !self.engine.room.is_full() {
            warn!(reason, "{}", self.shared.full());
        }
        self.shared.meters.set_full(true);
        self.engine.room.release();
        self.compaction.ask(self.shared.head());
        self.ballast_at = Some(Instant::now() + RETRY);
    }

    /// After an I/O error nobody knows what is on disk: only reading it anew tells. Everything is refused from here on.
    fn stop(&mut self, reason: &str, group: Group) {
        let reason = format!("{}: stopped, it must be opened anew: {reason}", self.shared.name);
        error!(store = %self.shared.name, reason, "the store stops");
        self.shared.failure.send_replace(Some(reason.clone()));
        // SQLite would move the log into the database when it is closed, from a cache that the failed sync may have left unwritten, and
        // remove the log: what is on disk stays as it is for the next start.
        for db in [&self.engine.writes, &self.shared.reads] {
            if let Err(err) = db.lock().set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
                warn!(store = %self.shared.name, error = %err, "the write-ahead log may be moved on closing");
            }
        }
        self.events = None;
        group.fail(&StoreError::Unavailable(reason));
    }

    fn has_failed(&self) -> bool {
        self.events.is_none()
    }

    /// Moves the write-ahead log into the database, so that the next start has nothing to recover.
    fn finish(mut self) {
        if self.engine.on_disk && !self.has_failed() {
            self.settle();
        }
        if self.engine.on_disk && !self.has_failed() {
            let moved = log::checkpoint(&self.engine.writes.lock());
            self.heed(moved);
        }
        self.events = None;
        let closing = self.closing.take();
        drop(self);
        if let Some(answer) = closing {
            let _ = answer.send(());
        }
    }

    /// Writes what waits, and that no revision beyond was handed out.
    fn settle(&mut self) {
        let head = self.shared.head();
        let waits = self.shared.index.read().waiting().len() > 0;
        if !waits && self.reserved <= head {
            return;
        }
        match self.transact_with_ballast(&Group::default(), Some(head)) {
            Ok(compacted) => {
                self.compacted = compacted;
                self.shared.index.write().logged();
            }
            Err(Trouble::Full(reason) | Trouble::Busy(reason)) => {
                warn!(store = %self.shared.name, reason, "relaxed writes of the last moments could not be written");
            }
            Err(Trouble::Fatal(reason)) => self.stop(&reason, Group::default()),
        }
    }

    fn now_ms(&self) -> i64 {
        unix_ms(self.clock)
    }
}

fn classify(err: &rusqlite::Error) -> Trouble {
    match err.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Trouble::Full(err.to_string()),
        // The index of the write-ahead log could not grow: also for want of room. What was to be committed may be in the log by then, but
        // counts for nobody, and the next commit takes its place; only a crash before that brings it back, and nobody was told that it failed
        // for good.
        _ if err.sqlite_error().is_some_and(|err| err.extended_code == SQLITE_IOERR_SHMSIZE) => Trouble::Full(err.to_string()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Busy(err.to_string()),
        _ => Trouble::Fatal(err.to_string()),
    }
}
