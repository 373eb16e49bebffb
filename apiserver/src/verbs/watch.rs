//! Watches: frames of cached slices, each encoded once however many watch.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_store::{
    Revision,
    cache::{Batch, Cached, Change, Error, Freshness, Snapshot, Watcher},
};
use futures::stream::StreamExt;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::{Api, Call, filter::Filter, render};
use crate::{
    registry::{Kind, Storage, items::Facts, storage::read_error},
    request::query::ListOptions,
    wire::{Answer, Body, Encoding, Form, Status, answer, negotiate},
};

/// Time between bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Watches without `timeoutSeconds` end after this long and up to as much again (`--min-request-timeout`).
const SHORTEST: Duration = Duration::from_secs(1800);

/// Event types, in the order of their slots among a change's kept frames.
#[derive(Clone, Copy)]
enum Type {
    Added,
    Modified,
    Deleted,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Streams the changes of the objects the request selects.
pub async fn watch(api: &Arc<Api>, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = negotiate::accept(&call.headers)?;
    if wanted.encoding != Encoding::Json {
        return Err(Status::new(406, "NotAcceptable", "only the following media types are accepted: application/json;stream=watch"));
    }
    let options = ListOptions::parse(&call.query, true)?;
    let filter = Filter::new(kind, call, &options)?;
    let printer = Printer { kind: Arc::clone(kind), form: wanted.form, rows: render::rows(api, call, kind, wanted.form)? };
    let mut session = Session {
        filter,
        printer,
        watcher: None,
        first: None,
        bookmarks: options.bookmarks.then(ticks),
        end: Instant::now() + duration(&options),
        drain: api.drain.clone(),
        ended: false,
    };
    match session.start(api, &options).await {
        Ok(()) => {}
        // Upstream, too, has answered 200 by the time it knows.
        Err(Error::Expired { oldest }) => {
            let from = options.resource_version.unwrap_or_default();
            session.fail(&Status::expired(format!("too old resource version: {from} ({oldest})")));
        }
        Err(error) => return Err(read_error(error)),
    }
    let frames = futures::stream::unfold(session, |mut session| async move {
        let frame = session.next().await?;
        Some((frame, session))
    });
    Ok(answer::bytes(StatusCode::OK, "application/json", Body::stream(frames.boxed())))
}

fn duration(options: &ListOptions) -> Duration {
    match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => {
            let spread = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * SHORTEST.as_secs() / 256;
            SHORTEST + Duration::from_secs(spread)
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// One watch.
struct Session {
    filter: Filter,
    printer: Printer,
    watcher: Option<Watcher<Facts>>,
    /// What is sent before any change: the initial state, or an error.
    first: Option<Bytes>,
    bookmarks: Option<Interval>,
    end: Instant,
    drain: tokio_util::sync::CancellationToken,
    ended: bool,
}

impl Session {
    /// Finds the starting point (the table "Semantics for watch" of upstream's API concepts page).
    async fn start(&mut self, api: &Api, options: &ListOptions) -> Result<(), Error> {
        let collection = api.storage.collection(&self.printer.kind).map_err(|s| Error::Unavailable(s.message))?;
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
                    let marked = options.initial_events == Some(true) && options.bookmarks;
                    self.first = Some(self.initial(&snapshot, marked));
                }
                self.watcher = Some(watcher);
            }
        }
        Ok(())
    }

    /// The state at the start as ADDED events, and the mark at its end.
    fn initial(&mut self, snapshot: &Snapshot<Facts>, marked: bool) -> Bytes {
        let mut out = BytesMut::new();
        for cached in self.filter.pick(snapshot, None) {
            out.put(self.printer.synthetic(cached));
        }
        if marked {
            out.put(self.printer.bookmark(snapshot.revision, true));
        }
        out.freeze()
    }

    /// The next frames; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take().filter(|f| !f.is_empty()) {
            return Some(first);
        }
        loop {
            if self.ended {
                return None;
            }
            let Some(watcher) = &mut self.watcher else { return None };
            let tick = async {
                match &mut self.bookmarks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                batch = watcher.next_batch() => {
                    let frames = match batch {
                        Ok(batch) => self.frames(&batch),
                        Err(error) => self.broken(&error),
                    };
                    if !frames.is_empty() {
                        return Some(frames);
                    }
                }
                _ = tick => return Some(self.mark()),
                () = sleep_until(self.end) => return self.finish(),
                () = self.drain.cancelled() => return self.finish(),
            }
        }
    }

    /// A last bookmark, so that the client can go on where it was.
    fn finish(&mut self) -> Option<Bytes> {
        self.ended = true;
        self.bookmarks.is_some().then(|| self.mark())
    }

    fn mark(&mut self) -> Bytes {
        match self.watcher.as_mut().map(Watcher::reached) {
            Some(Ok(revision)) => self.printer.bookmark(revision, false),
            _ => Bytes::new(),
        }
    }

    fn frames(&mut self, batch: &Batch<Facts>) -> Bytes {
        let mut single = None;
        let mut many: Option<BytesMut> = None;
        for change in &batch.changes {
            let Some(frame) = self.frame(change) else { continue };
            match (&mut many, single.take()) {
                (Some(many), _) => many.put(frame),
                (None, None) => single = Some(frame),
                (None, Some(before)) => many = Some(BytesMut::from_iter(before.into_iter().chain(frame))),
            }
        }
        many.map(BytesMut::freeze).or(single).unwrap_or_default()
    }

    /// What a change is to this watcher: objects enter and leave its selection.
    fn frame(&mut self, change: &Change<Facts>) -> Option<Bytes> {
        let was = change.before.as_ref().is_some_and(|c| self.filter.selects(c));
        let is = change.after.as_ref().filter(|c| self.filter.selects(c));
        match (was, is) {
            (false, None) => None,
            (false, Some(cached)) => Some(self.printer.event(change, Type::Added, &cached.wire)),
            (true, Some(cached)) => Some(self.printer.event(change, Type::Modified, &cached.wire)),
            (true, None) => Some(self.printer.event(change, Type::Deleted, &change.departed()?)),
        }
    }

    fn broken(&mut self, error: &Error) -> Bytes {
        let status = match error {
            Error::Expired { oldest } => Status::expired(format!("too old resource version: the oldest kept is {oldest}")),
            other => Status::internal(other.to_string()),
        };
        self.fail(&status);
        self.first.take().unwrap_or_default()
    }

    /// Ends the watch with an ERROR event.
    fn fail(&mut self, status: &Status) {
        self.first = Some(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status.to_value()).into());
        self.watcher = None;
        self.ended = true;
    }
}

/// Writes events in the form the client asked for.
struct Printer {
    kind: Arc<Kind>,
    form: Form,
    rows: Option<render::Rows>,
}

impl Printer {
    /// The event of a change; made once for all watchers, where all see the same.
    fn event(&mut self, change: &Change<Facts>, of: Type, wire: &Bytes) -> Bytes {
        let slot = match self.form {
            Form::Metadata => 3 + of as usize,
            _ => of as usize,
        };
        if self.kind.conversion.is_some() || self.rows.is_some() {
            return self.write(of.name(), wire);
        }
        change.frames.get_or_make(slot, || self.write_plain(of.name(), wire))
    }

    /// An ADDED event of the initial state.
    fn synthetic(&mut self, cached: &Cached<Facts>) -> Bytes {
        self.write(Type::Added.name(), &cached.wire)
    }

    fn write(&mut self, of: &str, wire: &Bytes) -> Bytes {
        let Ok(wire) = Storage::wire_of(&self.kind, wire) else { return Bytes::new() };
        match &mut self.rows {
            Some(rows) => match rows.one(&wire) {
                Ok(table) => frame(of, &table),
                Err(_) => Bytes::new(),
            },
            None => self.write_plain(of, &wire),
        }
    }

    fn write_plain(&self, of: &str, wire: &Bytes) -> Bytes {
        if self.form == Form::Metadata { frame(of, &render::partial(wire)) } else { frame(of, wire) }
    }

    /// A bookmark: everything up to `revision` was sent.
    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object: Value = match self.form {
            Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [], "rows": []}),
            Form::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}),
            _ => json!({"kind": &*self.kind.gvk.kind, "apiVersion": self.kind.api_version(), "metadata": meta}),
        };
        frame("BOOKMARK", object.to_string().as_bytes())
    }
}

fn frame(of: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 36);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(of.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object.trim_ascii_end());
    out.put_slice(b"}\n");
    out.freeze()
}
