//! The task: objects of flow control are followed and put in force, seats are lent and borrowed every ten seconds, and what every cluster
//! has of these objects is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use coracle_tree::Value;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::{
    Flow, GROUP,
    digest::{GivenLevel, GivenSchema},
    ensure,
};
use crate::{
    bootstrap::{flow, settle::Wanted},
    registry::{
        Change, Reader, Writer,
        condition::{self, Condition},
        meta,
        writer::failed,
    },
    verbs::{Api, delete},
    wire::Status,
};

/// The condition of a schema whose level is not there.
const DANGLING: &str = "Dangling";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// What is written, for the log.
const OBJECT: &str = "an object of flow control";
/// How often seats are lent and borrowed.
const BORROWING: Duration = Duration::from_secs(10);
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Changes taken together at most.
const BATCH: usize = 256;

/// Follows the objects.
pub(crate) struct Follower {
    flow: Arc<Flow>,
    api: Arc<Api>,
    writer: Arc<dyn Writer>,
    /// By resource and name.
    objects: BTreeMap<(&'static str, String), Value>,
    wanted: Vec<Wanted>,
}

/// The changes of both kinds.
pub(crate) type Changes = BoxStream<'static, (&'static str, Change)>;

impl Follower {
    /// Puts in force what is there. Afterwards [`Follower::run`] is to be run with the changes returned.
    pub(crate) async fn start(
        flow: Arc<Flow>,
        api: Arc<Api>,
        reader: &dyn Reader,
        writer: Arc<dyn Writer>,
    ) -> Result<(Self, Changes), Status> {
        let wanted = flow::all(&meta::time_text(api.now()));
        let mut follower = Self { flow, api, writer, objects: BTreeMap::new(), wanted };
        let mut streams = Vec::new();
        for resource in [LEVELS, SCHEMAS] {
            let (now, changes) = reader.begin_readable(GROUP, resource).await?;
            for bytes in now {
                follower.note(resource, &bytes);
            }
            streams.push(changes.map(move |change| (resource, change)).boxed());
        }
        follower.apply();
        Ok((follower, futures::stream::select_all(streams).boxed()))
    }

    /// Follows until the server stops; run it as a task.
    pub(crate) async fn run(mut self, mut changes: Changes) {
        let mut borrowing = Instant::now() + BORROWING;
        let mut again = self.keep().await.then(|| Instant::now() + RETRY);
        loop {
            let next = again.map_or(borrowing, |at| at.min(borrowing));
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else { return };
                    self.take(change);
                    for _ in 0..BATCH {
                        let Some(Some(change)) = changes.next().now_or_never() else { break };
                        self.take(change);
                    }
                    self.apply();
                    again = self.keep().await.then(|| Instant::now() + RETRY);
                }
                () = sleep_until(next) => {
                    let now = Instant::now();
                    if now >= borrowing {
                        borrowing = now + BORROWING;
                        self.borrow(now);
                    }
                    if again.is_some_and(|at| now >= at) {
                        again = self.keep().await.then(|| now + RETRY);
                    }
                }
            }
        }
    }

    fn take(&mut self, (resource, change): (&'static str, Change)) {
        match change.object {
            Some(bytes) => self.note(resource, &bytes),
            None => drop(self.objects.remove(&(resource, change.name))),
        }
    }

    fn note(&mut self, resource: &'static str, bytes: &[u8]) {
        if let Ok(object) = serde_json::from_slice::<Value>(bytes) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.objects.insert((resource, name), object);
        }
    }

    fn all<'o, T: serde::Deserialize<'o>>(&'o self, resource: &str) -> Vec<T> {
        let of = self.objects.iter().filter(|((of, _), _)| *of == resource);
        of.filter_map(|((_, name), object)| {
            let read = T::deserialize(object);
            read.inspect_err(|error| warn!(resource, name, %error, "what flow control is told by an object cannot be read")).ok()
        })
        .collect()
    }

    /// Puts the objects in force.
    fn apply(&self) {
        let (levels, schemas): (Vec<GivenLevel>, Vec<GivenSchema>) = (self.all(LEVELS), self.all(SCHEMAS));
        self.flow.set(&levels, &schemas, Instant::now());
    }

    fn borrow(&self, now: Instant) {
        let quiescing = self.flow.config().levels.values().any(|level| level.state.lock().quiescing);
        if quiescing {
            // They go when nobody waits there any more.
            self.apply();
        }
        self.flow.rebalance(now);
    }

    /// Writes what is not as it should be; whether something could not be written.
    async fn keep(&mut self) -> bool {
        let mut again = false;
        let mut known = BTreeSet::new();
        for wanted in &self.wanted {
            let name = wanted.object["metadata"]["name"].as_str().unwrap_or_default();
            known.insert((wanted.resource, name));
            let done = match self.objects.get(&(wanted.resource, name.to_owned())) {
                None => self.writer.create(wanted.resource, "", wanted.object.clone()).await.map(|_| ()),
                Some(now) => match ensure::revised(now, &wanted.object) {
                    Some(next) => self.update(wanted.resource, "", next).await,
                    None => Ok(()),
                },
            };
            again |= failed(OBJECT, name, done);
        }
        for ((resource, name), object) in &self.objects {
            if !known.contains(&(*resource, name.as_str())) && ensure::is_unwanted(object) {
                again |= failed(OBJECT, name, self.delete(resource, name).await);
            } else if *resource == SCHEMAS
                && let Some(next) = self.with_condition(object)
            {
                again |= failed(OBJECT, name, self.update(SCHEMAS, "status", next).await);
            }
        }
        again
    }

    /// The schema with a condition that says whether its level is there; `None` when it says so already.
    fn with_condition(&self, schema: &Value) -> Option<Value> {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let found = self.objects.get(&(LEVELS, level.to_owned())).is_some_and(|object| {
            let given = <GivenLevel as serde::Deserialize>::deserialize(object);
            given.is_ok_and(|given| given.spec.mode(level).is_some())
        });
        let (status, reason, end) =
            if found { ("False", "Found", "and it exists") } else { ("True", "NotFound", "but there is no such object") };
        let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
        let said = schema["status"]["conditions"].as_array().and_then(|all| all.iter().find(|condition| condition["type"] == DANGLING));
        if said.is_some_and(|said| said["status"] == status && said["reason"] == reason && said["message"] == message) {
            return None;
        }
        let mut next = schema.clone();
        let condition = Condition { kind: DANGLING.to_owned(), status: status.to_owned(), reason: reason.to_owned(), message };
        condition::set(&mut next, &condition, &meta::time_text(self.api.now()));
        Some(next)
    }

    async fn update(&self, resource: &str, part: &str, mut object: Value) -> Result<(), Status> {
        object["apiVersion"] = format!("{GROUP}/v1").into();
        object["kind"] = if resource == SCHEMAS { "FlowSchema" } else { "PriorityLevelConfiguration" }.into();
        self.writer.update(resource, part, "", object).await.map(|_| ())
    }

    async fn delete(&self, resource: &str, name: &str) -> Result<(), Status> {
        let catalog = self.api.storage.catalog();
        let kind = catalog.stored(GROUP, resource).ok_or_else(Status::no_such_path)?;
        delete::discard(&self.api, kind, "", name).await
    }
}
