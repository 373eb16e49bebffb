//! Watches: all writes under a prefix after a revision, over as many connections as it takes.
//!
//! A task reads from etcd and hands over whole revisions. When the connection breaks, it goes on with another where it was: a revision is
//! handed over once it is complete, and the next connection begins behind it. It ends when that cannot be: history is compacted, or etcd was
//! restored from an older backup.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Shared,
    client::Effect,
    faults,
    fresh::Fresh,
    messages::{self, Changed, Watched},
    version,
};
use crate::{Entry, Event, Revision, Step, Steps, StoreError, grpc::Fault};

/// Steps read before they are taken.
const QUEUE: usize = 256;
/// Pauses between attempts to connect again.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// When somebody waits for a revision, the writes before it are most likely on their way; after so long etcd is asked whether there are any.
const ON_THE_WAY: Duration = Duration::from_millis(10);
/// And asked again, for it may not answer while it is busy.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A member that tells nothing for so long while somebody waits is left: it may be cut off without the connection being broken.
const SILENT: Duration = Duration::from_secs(2);
/// A key of ours that is written to make a watch move, where etcd's own word on how far it is cannot be relied on.
const TOUCHED: &str = "/coracle/progress";

/// Everything after `from`.
pub(super) fn steps(shared: Arc<Shared>, fresh: Fresh, prefix: &str, from: Revision, stop: CancellationToken) -> Steps {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let (start, end) = shared.keys.range(prefix);
    let cluster = shared.cluster.load(Ordering::Relaxed);
    let mut following = Following { shared, fresh, cluster, start, end, reached: from, queue };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => following.hand(Err(StoreError::Unavailable("the store is closed".to_owned()))).await,
            () = following.run() => true,
        };
    });
    stream::unfold(waiting, |mut waiting| async move { waiting.recv().await.map(|step| (step, waiting)) }).boxed()
}

struct Following {
    shared: Arc<Shared>,
    fresh: Fresh,
    /// Which etcd it began with. Every watch sees for itself that it is another one now.
    cluster: u64,
    start: Vec<u8>,
    end: Vec<u8>,
    /// All writes up to here were handed over.
    reached: Revision,
    queue: mpsc::Sender<Result<Step, StoreError>>,
}

/// Why a connection's life ended.
enum End {
    /// Nobody listens any more, or they were told why there is no more.
    Over,
    /// The connection or the member failed; another may do.
    Broken(usize, Fault),
    /// No member was reached.
    Unreached(Fault),
}

impl Following {
    async fn run(&mut self) {
        let (mut backoff, mut unreached) = (BACKOFF_MIN, 0);
        loop {
            let started = Instant::now();
            let ended = tokio::select! {
                () = self.queue.closed() => return,
                ended = Self::life(&self.shared, &self.fresh, (self.cluster, &self.start, &self.end), &mut self.reached, &self.queue) => ended,
            };
            let fault = match ended {
                End::Over => return,
                // The client has turned to another member already.
                End::Unreached(fault) => {
                    unreached += 1;
                    // One of several was told when it was left.
                    if unreached >= self.shared.client.members() && !self.shared.away.swap(true, Ordering::Relaxed) {
                        warn!(%fault, servers = self.shared.client.urls(), "etcd cannot be reached; watches wait for it");
                    }
                    fault
                }
                End::Broken(member, fault) => {
                    unreached = 0;
                    self.shared.client.left(member, &fault);
                    fault
                }
            };
            debug!(%fault, from = self.reached.0, "the watch of etcd goes on with another connection");
            if started.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF_MIN;
            }
            tokio::select! {
                () = self.queue.closed() => return,
                () = sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
    }

    /// Hands over a last word; whether anybody took it.
    async fn hand(&self, step: Result<Step, StoreError>) -> bool {
        self.queue.send(step).await.is_ok()
    }

    /// One connection: from its opening to its end.
    async fn life(
        shared: &Arc<Shared>,
        fresh: &Fresh,
        (cluster, start, end): (u64, &[u8], &[u8]),
        reached: &mut Revision,
        queue: &mpsc::Sender<Result<Step, StoreError>>,
    ) -> End {
        let (at, outbox, mut inbox) = match shared.client.open(messages::WATCH, &messages::watch(start, end, reached.0 + 1)).await {
            Ok(open) => open,
            Err(fault) => return End::Unreached(fault),
        };
        let reliable = match shared.client.status_of(&at).await {
            Ok(status) if status.cluster != cluster => {
                let why = "another etcd answers now, or one restored from a backup: everything is read again".to_owned();
                if shared.cluster.swap(status.cluster, Ordering::Relaxed) != status.cluster {
                    warn!("{why}");
                }
                // What was waited for was a revision of the other one.
                shared.wanted.send_replace(Revision(0));
                let _ = queue.send(Err(StoreError::Unavailable(why))).await;
                return End::Over;
            }
            Ok(status) => tells_progress(&status.version),
            Err(fault) => return End::Broken(at.member, fault),
        };
        if shared.away.swap(false, Ordering::Relaxed) {
            info!(member = shared.client.url(at.member), "etcd is reached again");
        }
        let mut wanted = shared.wanted.subscribe();
        let mut changes: Vec<Changed> = Vec::new();
        let mut ask_at: Option<Instant> = None;
        // Since when there was no message although one was waited for.
        let mut silent_since = Instant::now();
        loop {
            if *wanted.borrow_and_update() <= *reached {
                ask_at = None;
            } else if ask_at.is_none() {
                silent_since = Instant::now();
                ask_at = Some(silent_since + ON_THE_WAY);
            }
            let message = tokio::select! {
                message = inbox.next() => message,
                Ok(()) = wanted.changed() => continue,
                () = sleep_until(ask_at.unwrap_or_else(Instant::now)), if ask_at.is_some() => {
                    if silent_since.elapsed() > SILENT {
                        return End::Broken(at.member, Fault::new("DeadlineExceeded", "the member tells nothing"));
                    }
                    ask_at = Some(Instant::now() + ASK_AGAIN);
                    let asked = if reliable { outbox.send(&messages::progress()).await } else { touch(shared).await };
                    match asked {
                        Ok(()) => continue,
                        Err(fault) => return End::Broken(at.member, fault),
                    }
                }
            };
            let watched = match message.and_then(|message| message.as_ref().map(Watched::read).transpose()) {
                Ok(Some(watched)) => watched,
                Ok(None) => return End::Broken(at.member, Fault::new("Unavailable", "etcd ended the watch")),
                Err(fault) => return End::Broken(at.member, fault),
            };
            if watched.canceled {
                return cancelled(at.member, watched, *reached, queue).await;
            }
            if watched.created {
                if watched.revision < reached.0
                    && let Err(end) = is_rewound(fresh, at.member, *reached, queue).await
                {
                    shared.wanted.send_replace(Revision(0));
                    return end;
                }
                continue;
            }
            let fragment = watched.fragment;
            let progress = watched.changes.is_empty() && !fragment;
            changes.extend(watched.changes);
            if progress && changes.is_empty() {
                if watched.revision > reached.0 {
                    *reached = Revision(watched.revision);
                    if queue.send(Ok(Step::Reached(*reached))).await.is_err() {
                        return End::Over;
                    }
                }
            } else if !fragment && !hand_over(shared, std::mem::take(&mut changes), reached, queue).await {
                return End::Over;
            }
            // Only now: what is handed over may have had to wait for its taker.
            silent_since = Instant::now();
        }
    }
}

/// Hands over writes, revision by revision; whether anybody takes them.
async fn hand_over(shared: &Shared, changes: Vec<Changed>, reached: &mut Revision, queue: &mpsc::Sender<Result<Step, StoreError>>) -> bool {
    let mut changes = changes.into_iter().peekable();
    while let Some(first) = changes.next() {
        let revision = first.entry.modified;
        let more = changes.peek().is_some_and(|next| next.entry.modified == revision);
        let step = if more {
            let mut group = vec![event(shared, first)];
            while let Some(next) = changes.next_if(|next| next.entry.modified == revision) {
                group.push(event(shared, next));
            }
            group.into_iter().collect::<Result<Vec<_>, _>>().map(Step::Writes)
        } else {
            event(shared, first).map(Step::Write)
        };
        // A member that was asked again from where we were may tell what was told.
        if revision <= reached.0 {
            continue;
        }
        let failed = step.is_err();
        if queue.send(step).await.is_err() || failed {
            return false;
        }
        *reached = Revision(revision);
    }
    true
}

fn event(shared: &Shared, changed: Changed) -> Result<Event, StoreError> {
    let Changed { deleted, entry } = changed;
    let revision = Revision(entry.modified);
    let Entry { key, value, created, .. } = shared.entry(entry)?;
    let after = (!deleted).then(|| Entry { key: key.clone(), value, revision, created });
    Ok(Event { key, revision, after })
}

/// etcd ended the watch itself: because what was asked for is compacted, or because we may not or it cannot.
async fn cancelled(member: usize, watched: Watched, reached: Revision, queue: &mpsc::Sender<Result<Step, StoreError>>) -> End {
    if watched.compacted > reached.0 {
        let _ = queue.send(Err(StoreError::Compacted { oldest: Revision(watched.compacted) })).await;
        return End::Over;
    }
    let code = if watched.reason.contains("permission denied") { "PermissionDenied" } else { "Unavailable" };
    let fault = Fault::new(code, watched.reason);
    if faults::is_of_member(&fault) || faults::is_stale_token(&fault) {
        return End::Broken(member, fault);
    }
    let _ = queue.send(Err(faults::store_error(&fault, 0))).await;
    End::Over
}

/// A member is behind what we have seen: it may only be slow, but when etcd as a whole is, it is not the etcd it was.
async fn is_rewound(fresh: &Fresh, member: usize, reached: Revision, queue: &mpsc::Sender<Result<Step, StoreError>>) -> Result<(), End> {
    match fresh.revision().await {
        Ok(latest) if latest < reached => {
            warn!(
                latest = latest.0,
                seen = reached.0,
                "etcd has gone back: was it restored from an older backup? Everything is read again"
            );
            let why = format!("etcd has gone back from revision {reached} to {latest}: everything is read again");
            let _ = queue.send(Err(StoreError::Unavailable(why))).await;
            Err(End::Over)
        }
        Ok(_) => Ok(()),
        Err(error) => Err(End::Broken(member, Fault::new("Unavailable", error))),
    }
}

/// Whether etcd's word on how far a watch is comes after the writes before it: older ones say it too early (etcd issue 15220; upstream's
/// `feature_support_checker.go`).
fn tells_progress(text: &str) -> bool {
    match version(text) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        other => other >= (3, 6, 0),
    }
}

/// Writes a key of ours: the watch moves to that revision at least.
async fn touch(shared: &Shared) -> Result<(), Fault> {
    let key = shared.keys.there(&shared.keys.of_ours(TOUCHED));
    // To do it twice is as good as once.
    shared.client.call(messages::PUT, &messages::put(&key, b"1"), Effect::None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_tell_progress_in_order_are_believed() {
        for (version, believed) in
            [("3.4.23", false), ("3.4.31", true), ("3.5.0", false), ("3.5.12", false), ("3.5.13", true), ("3.6.0", true), ("3.7.3", true)]
        {
            assert_eq!(tells_progress(version), believed, "{version}");
        }
    }
}
