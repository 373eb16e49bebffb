//! A request on its way through: it gets a seat at once, after a wait, or not at all (upstream `server/filters/priority-and-fairness.go`).

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{Flow, hand, level::Schema, metrics::Reason, queues::Started, watches::Registered};
use crate::{
    authn::User,
    metrics::requests::{self, Wait},
    registry::Storage,
    request::{Query, RequestInfo},
    wire::{Answer, answer},
};

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A watch that tells what was there first has a seat until then, but not longer: its client may be slow.
const BEGINNING: Duration = Duration::from_secs(60);

/// The seats of a request that is executed; free when this is dropped.
pub(crate) struct Seat {
    schema: Arc<Schema>,
    slot: usize,
    began: Instant,
    watch: bool,
}

/// A request that waits; it leaves its queue when this is dropped.
struct Waiting {
    schema: Arc<Schema>,
    slot: usize,
    over: bool,
}

impl Flow {
    /// Lets a request in, maybe after a wait; else its refusal.
    pub(crate) async fn enter(
        &self,
        storage: &Storage,
        user: &Arc<User>,
        info: &Arc<RequestInfo>,
        query: &Query,
        second: impl Fn() -> i64,
    ) -> Result<Seat, Refused> {
        let schema = self.classify(user, info);
        let estimate = self.estimate(storage, &schema, info, query);
        schema.counts.estimated(estimate.seats());
        let hash = if schema.distinguished { hand::hash(&schema.begun, schema.distinguisher(user, info)) } else { 0 };
        let now = Instant::now();
        let (started, length) = {
            let mut state = schema.level.state.lock();
            let started = state.queues.start(&schema, (user, info), estimate, hash, now);
            let length = if let Started::Waiting(slot, _) = &started { state.queues.length_at(*slot) } else { 0 };
            (started, length)
        };
        if schema.distinguished {
            schema.counts.length(length);
        }
        let (result, waited) = match started {
            Started::Now(slot) => (Ok((slot, now)), Duration::ZERO),
            Started::Refused(reason) => (Err(reason), Duration::ZERO),
            Started::Waiting(slot, going) => {
                let result = self.wait(&schema, slot, going).await;
                let waited = now.elapsed();
                requests::waited(Wait::Queue, waited);
                (result, waited)
            }
        };
        if !schema.exempt {
            schema.counts.waited(result.is_ok(), waited);
        }
        match result {
            Ok((slot, began)) => {
                schema.counts.dispatched();
                Ok(Seat { schema, slot, began, watch: info.verb == "watch" })
            }
            Err(reason) => {
                schema.counts.rejected(reason);
                Err(Refused { answer: refusal(self.pause(&schema.level.name, second())), ticket: Ticket::of(&schema) })
            }
        }
    }

    async fn wait(&self, schema: &Arc<Schema>, slot: usize, going: oneshot::Receiver<()>) -> Result<(usize, Instant), Reason> {
        let mut waiting = Waiting { schema: Arc::clone(schema), slot, over: false };
        let gone = timeout(self.patience, going).await;
        waiting.over = true;
        let now = Instant::now();
        if matches!(gone, Ok(Ok(()))) || !schema.level.state.lock().queues.leave(slot, true, now) {
            return Ok((slot, now));
        }
        Err(Reason::TimeOut)
    }

    /// Counts a watch for as long as what is returned is kept.
    pub(crate) fn register(&self, info: &RequestInfo) -> Option<Registered> {
        self.watches.register(info)
    }
}

impl Schema {
    /// What tells the flow of a request from others.
    fn distinguisher<'r>(&self, user: &'r User, info: &'r RequestInfo) -> &'r str {
        match self.spec.distinguisher_method.as_ref().map(|method| method.kind.as_str()) {
            Some("ByUser") => &user.name,
            Some("ByNamespace") => &info.namespace,
            _ => "",
        }
    }

    /// What tells a request's flow, for a dump.
    pub(super) fn flow<'r>(&self, user: &'r User, info: &'r RequestInfo) -> &'r str {
        if self.distinguished { self.distinguisher(user, info) } else { "" }
    }
}

/// Whose a request is.
#[derive(Debug)]
pub(crate) struct Ticket([HeaderValue; 2]);

impl Ticket {
    fn of(schema: &Schema) -> Self {
        Self(schema.uids.clone())
    }

    /// Says so in its answer.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let [schema, level] = self.0;
        headers.insert(SCHEMA, schema);
        headers.insert(LEVEL, level);
    }
}

/// The answer to a request that is not let in, and whose it was.
pub(crate) struct Refused {
    pub answer: Answer,
    pub ticket: Ticket,
}

/// The refusal, in upstream's words.
pub(crate) fn refusal(seconds: i64) -> Answer {
    let mut made = answer::text(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
    made.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    made
}

impl Seat {
    /// Whose the request is.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket::of(&self.schema)
    }

    /// The same seat, which is free at the latest when a watch has had time to begin; dropping what is returned frees it before.
    pub(crate) fn while_beginning(self) -> oneshot::Sender<()> {
        let (begun, beginning) = oneshot::channel::<()>();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                // It has begun, or its client is gone.
                let _ = timeout(BEGINNING, beginning).await;
                drop(self);
            });
        }
        begun
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = Instant::now();
        self.schema.counts.executed(self.watch, now.saturating_duration_since(self.began));
        finish(&self.schema, self.slot, now);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.over || self.schema.level.state.lock().queues.leave(self.slot, false, now) {
            if !self.over {
                self.schema.counts.rejected(Reason::Cancelled);
            }
            return;
        }
        // It was let in when its client was gone already.
        finish(&self.schema, self.slot, now);
    }
}

/// A request has ended. Its seats may be taken a little longer.
fn finish(schema: &Arc<Schema>, slot: usize, now: Instant) {
    let lingers = schema.level.state.lock().queues.finish(slot, now);
    let Some(lingers) = lingers else { return };
    let Ok(runtime) = Handle::try_current() else {
        return schema.level.state.lock().queues.release(slot, now);
    };
    let schema = Arc::clone(schema);
    runtime.spawn(async move {
        sleep(lingers).await;
        schema.level.state.lock().queues.release(slot, Instant::now());
    });
}
