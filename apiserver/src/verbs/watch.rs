//! Watches: what changes for a selection of objects, over HTTP or over a WebSocket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use coracle_store::{
    Revision,
    cache::{Batch, Cached, Change, Error, Freshness, Interest, Watcher},
};
use futures::{
    FutureExt,
    future::BoxFuture,
    stream::{BoxStream, StreamExt},
};
use http::StatusCode;
use tokio::{
    sync::oneshot,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Api, Call,
    events::{Printer, Type},
    filter::Filter,
    render,
    websocket::{self, Socket},
};
use crate::{
    flow::Seat,
    metrics::{requests, series::Histogram},
    registry::{Kind, items::Facts, storage::read_error},
    request::query::ListOptions,
    wire::{Answer, Body, Status, Wanted, answer},
};

/// Time between bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch that lasts no longer than this ends without a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Objects of the initial state that are written at once, at most: what is written waits in memory until the client takes it.
const AT_ONCE: usize = 64;

/// Batches of changes that are looked through before a bookmark, at most.
const BATCHES: usize = 16;

/// Events ready to be sent, in order.
pub type Frames = BoxStream<'static, Vec<Bytes>>;

/// Streams the changes of the objects the request selects.
pub async fn watch(api: &Arc<Api>, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    let socket = websocket::asked_for(call)?;
    let options = ListOptions::parse_gated(&call.query, true, api.gates.is_on("WatchList"))?;
    let filter = Filter::new(kind, call, &options)?;
    let Some(lasts) = duration(&options, api.watches_last) else { return ended(api, socket, wanted) };
    let mut session = Session {
        api: Arc::clone(api),
        filter,
        printer: Printer::new(api, call, kind, wanted)?,
        watcher: None,
        initial: None,
        bookmarks: options.bookmarks.then(ticks),
        parts_with_bookmark: options.bookmarks && lasts > LAST_BOOKMARK,
        over: over(Instant::now() + lasts, api.drain.clone()),
        error: None,
        ended: false,
        beginning: call.beginning.lock().take().filter(|_| begins_with_objects(&options)).map(Seat::while_beginning),
        started: Instant::now(),
        counts: Counts::of(kind, call),
    };
    match session.start(&options).await {
        Ok(()) => api.storage.readable(kind)?,
        // Upstream, too, has answered 200 by the time it knows.
        Err(Error::Expired { oldest }) => {
            let from = options.resource_version.unwrap_or_default();
            session.fail(&Status::expired(format!("too old resource version: {from} ({oldest})")));
        }
        Err(error) => return Err(read_error(error)),
    }
    let frames = futures::stream::unfold(session, |mut session| async move {
        let frames = session.next().await?;
        session.counts.sent(&frames);
        Some((frames, session))
    });
    if let Some(socket) = socket {
        return websocket::send(api, socket, wanted.encoding, frames.boxed());
    }
    let body = Body::stream(frames.map(join).boxed());
    Ok(answer::bytes(StatusCode::OK, wanted.encoding.stream_type()?, body))
}

/// Whether a watch first tells what is there: that costs what a list costs.
fn begins_with_objects(options: &ListOptions) -> bool {
    options.initial_events.unwrap_or(matches!(options.resource_version, None | Some(0)))
}

/// Events one after another; a single one is passed on as it is, shared with whoever else watches.
fn join(mut frames: Vec<Bytes>) -> Bytes {
    match frames.len() {
        1 => frames.swap_remove(0),
        _ => {
            let mut out = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
            frames.iter().for_each(|frame| out.extend_from_slice(frame));
            out.freeze()
        }
    }
}

/// How long a watch lasts; `None` if it is over already. `shortest` is for those that do not say: they last up to as much again, so that not
/// all come back at once. Upstream counts in nanoseconds that wrap around, and so do we.
fn duration(options: &ListOptions, shortest: Duration) -> Option<Duration> {
    const SECOND: i64 = 1_000_000_000;
    match options.timeout_seconds.unwrap_or_default().wrapping_mul(SECOND) {
        0 => {
            let spread = shortest * u32::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256;
            Some(shortest + spread).filter(|lasts| !lasts.is_zero())
        }
        lasts => u64::try_from(lasts).ok().map(Duration::from_nanos),
    }
}

/// The answer to a watch that is over before it begins.
fn ended(api: &Api, socket: Option<Socket>, wanted: Wanted) -> Result<Answer, Status> {
    if let Some(socket) = socket {
        return websocket::send(api, socket, wanted.encoding, futures::stream::empty().boxed());
    }
    Ok(answer::bytes(StatusCode::OK, wanted.encoding.stream_type()?, Body::empty()))
}

/// Ends at this time, or when the server drains.
fn over(at: Instant, drain: CancellationToken) -> BoxFuture<'static, ()> {
    let over = async move {
        tokio::select! {
            () = sleep_until(at) => {}
            () = drain.cancelled() => {}
        }
    };
    over.boxed()
}

fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// One watch.
struct Session {
    api: Arc<Api>,
    filter: Filter,
    printer: Printer,
    watcher: Option<Watcher<Facts>>,
    initial: Option<Initial>,
    bookmarks: Option<Interval>,
    parts_with_bookmark: bool,
    /// Its time is over, or the server drains. Waited for once: a new wait for each event would take locks that all watches share.
    over: BoxFuture<'static, ()>,
    /// The event to end with.
    error: Option<Bytes>,
    ended: bool,
    /// Its seats are taken until this is dropped.
    beginning: Option<oneshot::Sender<()>>,
    started: Instant,
    counts: Counts,
}

/// Where a watch counts what it sends.
struct Counts {
    kind: Arc<Kind>,
    scope: &'static str,
    events: Option<&'static AtomicU64>,
    sizes: Option<&'static Histogram>,
    /// Objects of the state at the start.
    initial: Option<&'static AtomicU64>,
}

impl Counts {
    fn of(kind: &Arc<Kind>, call: &Call) -> Self {
        let (group, version, resource) = (&*kind.gvk.group, &*kind.gvk.version, &*kind.id.resource);
        let scope = match (call.info.name.is_empty(), call.info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Self {
            kind: Arc::clone(kind),
            scope,
            events: requests::WATCH_EVENTS.of([group, version, resource]),
            sizes: requests::WATCH_EVENT_SIZES.of_bytes([group, version, resource]),
            initial: requests::INIT_EVENTS.of([group, resource]),
        }
    }

    fn sent(&self, frames: &[Bytes]) {
        let (Some(events), Some(sizes)) = (self.events, self.sizes) else { return };
        events.fetch_add(frames.len() as u64, Ordering::Relaxed);
        frames.iter().for_each(|frame| sizes.bytes(frame.len() as u64));
    }

    /// So many objects of the state at the start.
    fn began(&self, objects: usize) {
        if let Some(initial) = self.initial {
            initial.fetch_add(objects as u64, Ordering::Relaxed);
        }
    }

    /// The state at the start has been sent to a client that asked for it.
    fn listed(&self, took: Duration) {
        let Kind { gvk, id, .. } = &*self.kind;
        requests::WATCH_LISTS.took([&gvk.group, &gvk.version, &id.resource, self.scope], took);
    }
}

/// What is left to send of the state at the start.
struct Initial {
    objects: std::vec::IntoIter<Arc<Cached<Facts>>>,
    /// Its end is marked with a bookmark of this revision.
    mark: Option<Revision>,
}

impl Session {
    /// Finds the starting point (the table "Semantics for watch" of upstream's API concepts page).
    async fn start(&mut self, options: &ListOptions) -> Result<(), Error> {
        let collection = self.api.storage.collection(self.printer.kind()).map_err(|s| Error::Unavailable(s.message))?;
        let initial = match (options.initial_events, options.resource_version) {
            (Some(initial), _) => initial,
            (None, None | Some(0)) => true,
            (None, Some(_)) => false,
        };
        let freshness = match options.resource_version {
            None => Freshness::Latest,
            Some(0) => Freshness::Any,
            Some(at) => Freshness::NotOlderThan(Revision(at)),
        };
        match options.resource_version {
            Some(at) if at > 0 && !initial => self.watcher = Some(collection.watch(Revision(at)).await?),
            _ => {
                let (snapshot, watcher) = collection.snapshot_and_watch(freshness).await?;
                if initial {
                    let objects: Vec<_> = self.filter.pick(&snapshot, None).cloned().collect();
                    let marked = options.initial_events == Some(true) && options.bookmarks;
                    self.initial = Some(Initial { objects: objects.into_iter(), mark: marked.then_some(snapshot.revision) });
                }
                self.watcher = Some(watcher);
            }
        }
        let interest = self.filter.interest();
        if let Some(watcher) = self.watcher.as_mut().filter(|_| interest != Interest::All) {
            watcher.narrow(interest);
        }
        Ok(())
    }

    /// Some objects of the state at the start as ADDED events; with the last ones the mark at its end.
    async fn some_of(&mut self, mut initial: Initial) -> Result<Vec<Bytes>, Status> {
        let some: Vec<_> = initial.objects.by_ref().take(AT_ONCE).collect();
        self.printer.learn(some.iter().map(|cached| cached.wire())).await?;
        let mut frames = Vec::with_capacity(some.len() + 1);
        self.counts.began(some.len());
        for cached in &some {
            if !self.filter.needs_wire() || self.filter.selects_wire(self.printer.seen(&cached.wire())) {
                frames.push(self.printer.initial(&self.api, cached).await?);
            }
        }
        if !initial.objects.as_slice().is_empty() {
            self.initial = Some(initial);
        } else if let Some(revision) = initial.mark {
            frames.push(self.printer.bookmark(revision, true)?);
            self.counts.listed(self.started.elapsed());
        }
        Ok(frames)
    }

    /// The next events; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        while let Some(initial) = self.initial.take() {
            let made = self.some_of(initial).await;
            let frames = self.or_error(made);
            if !frames.is_empty() {
                return Some(frames);
            }
        }
        self.beginning = None;
        loop {
            if let Some(error) = self.error.take() {
                return Some(vec![error]);
            }
            if self.ended {
                return None;
            }
            let watcher = self.watcher.as_mut()?;
            let tick = async {
                match &mut self.bookmarks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            let made = tokio::select! {
                batch = watcher.next_batch() => match batch {
                    Ok(batch) => self.converted_frames(&batch).await,
                    Err(Error::Ended) => {
                        self.ended = true;
                        Ok(Vec::new())
                    }
                    Err(error) => Err(broken(&error)),
                },
                _ = tick => self.mark().await,
                () = &mut self.over => self.finish().await,
            };
            let frames = self.or_error(made);
            if !frames.is_empty() {
                return Some(frames);
            }
        }
    }

    /// A last bookmark, so that the client can go on where it was.
    async fn finish(&mut self) -> Result<Vec<Bytes>, Status> {
        self.ended = true;
        if self.parts_with_bookmark { self.mark().await } else { Ok(Vec::new()) }
    }

    /// A bookmark, and before it what this watch was not woken for; without one where that cannot be told: the next turn says why.
    async fn mark(&mut self) -> Result<Vec<Bytes>, Status> {
        let mut frames = Vec::new();
        for _ in 0..BATCHES {
            let Some(watcher) = &mut self.watcher else { break };
            match watcher.try_batch() {
                Ok(Some(batch)) => frames.extend(self.converted_frames(&batch).await?),
                Ok(None) => break,
                Err(_) => return Ok(frames),
            }
        }
        if let Some(Ok(revision)) = self.watcher.as_mut().map(Watcher::reached) {
            frames.push(self.printer.bookmark(revision, false)?);
        }
        Ok(frames)
    }

    /// The events of a batch, whose objects are converted first where that is needed.
    async fn converted_frames(&mut self, batch: &Batch<Facts>) -> Result<Vec<Bytes>, Status> {
        let mut wires = Vec::new();
        for change in &batch.changes {
            let before = change.before.as_ref().filter(|c| self.filter.selects(c));
            let after = change.after.as_ref().filter(|c| self.filter.selects(c));
            wires.extend(after.map(|c| c.wire()));
            if self.filter.needs_wire() {
                wires.extend(before.map(|c| c.wire()));
            }
            if before.is_some() && (after.is_none() || self.filter.needs_wire()) {
                wires.extend(change.departed());
            }
        }
        self.printer.learn(wires.into_iter()).await?;
        batch.changes.iter().filter_map(|change| self.frame(change).transpose()).collect()
    }

    /// Whether the watcher means this object.
    fn selects(&self, cached: &Cached<Facts>) -> bool {
        self.filter.selects(cached) && (!self.filter.needs_wire() || self.filter.selects_wire(self.printer.seen(&cached.wire())))
    }

    /// What a change is to this watcher: objects enter and leave its selection.
    fn frame(&mut self, change: &Change<Facts>) -> Result<Option<Bytes>, Status> {
        let was = change.before.as_ref().is_some_and(|c| self.selects(c));
        let is = change.after.as_ref().filter(|c| self.selects(c));
        let (of, wire) = match (was, is) {
            (false, None) => return Ok(None),
            (false, Some(cached)) => (Type::Added, cached.wire()),
            (true, Some(cached)) => (Type::Modified, cached.wire()),
            (true, None) => match change.departed() {
                Some(departed) => (Type::Deleted, departed),
                None => return Ok(None),
            },
        };
        self.printer.event(change, of, &wire).map(Some)
    }

    fn or_error(&mut self, made: Result<Vec<Bytes>, Status>) -> Vec<Bytes> {
        made.unwrap_or_else(|status| {
            self.fail(&status);
            Vec::new()
        })
    }

    /// Ends the watch with an ERROR event.
    fn fail(&mut self, status: &Status) {
        self.error = Some(self.printer.error(status));
        self.initial = None;
        self.watcher = None;
        self.ended = true;
    }
}

fn broken(error: &Error) -> Status {
    match error {
        Error::Expired { oldest } => Status::expired(format!("too old resource version: the oldest kept is {oldest}")),
        other => Status::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_lasts_as_long_as_is_asked_and_not_at_all_when_that_is_negative() {
        let shortest = Duration::from_secs(7);
        let lasts = |seconds| duration(&ListOptions { timeout_seconds: seconds, ..ListOptions::default() }, shortest);
        assert_eq!(lasts(Some(5)), Some(Duration::from_secs(5)));
        for over in [-1, -5, i64::MAX] {
            assert_eq!(lasts(Some(over)), None, "{over}");
        }
        for open in [None, Some(0)] {
            assert!(lasts(open).is_some_and(|lasts| (shortest..shortest * 2).contains(&lasts)));
        }
    }
}
