//! Carries out plans. The only place of the room that writes to the API on behalf of a plan.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream};
use kube::{
    Client,
    core::{
        Request,
        params::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    },
};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::{
    change::{Change, Note, Outcome, PatchKind, Plan, Step, Tolerate, Verb},
    events::Recorder,
    expectations::Expectations,
    object::{Key, Resource},
    store::AnyStore,
};

/// The field manager of every write, as upstream's.
pub const FIELD_MANAGER: &str = "kube-controller-manager";
/// Writes of one plan under way at once.
const AT_ONCE: usize = 128;

/// Why a plan was not carried out in full.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Someone else changed or removed the object first: plan again from the newer state.
    #[error("{resource} {key}: changed meanwhile")]
    Conflict {
        /// The kind.
        resource: String,
        /// The object.
        key: Key,
    },
    /// The server refused.
    #[error("{verb} {resource} {key}: {source}")]
    Refused {
        /// What was tried.
        verb: &'static str,
        /// The kind.
        resource: String,
        /// The object.
        key: Key,
        /// The server's answer.
        source: Box<kube::Error>,
    },
    /// Some of many changes made at once failed; the first of them.
    #[error("{0}")]
    Some(String),
}

/// Carries out the plans of one controller under its identity.
pub struct Executor {
    client: Client,
    recorder: Recorder,
    stores: HashMap<Resource, Arc<dyn AnyStore>>,
    /// What each key waits to see.
    pub expectations: Expectations,
}

/// What is read of the answer to a write.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMeta {
    name: String,
    resource_version: String,
}

/// How one change ended when it did not fail.
enum Done {
    Created,
    Deleted,
    Other,
    /// The namespace is going away: nothing can be created in it, and nothing need be.
    Terminating,
}

/// One run of one plan: remembers the versions it wrote, so that a later change of the same plan builds on them.
struct Run<'a> {
    executor: &'a Executor,
    key: &'a Key,
    versions: Mutex<HashMap<(Resource, Key), String>>,
}

impl Executor {
    /// An executor writing with `client`; `stores` are the caches that will show the writes.
    #[must_use]
    pub fn new(client: Client, recorder: Recorder, stores: &[Arc<dyn AnyStore>]) -> Self {
        let stores = stores.iter().filter(|store| store.is_needed()).map(|store| (store.resource(), store.clone())).collect();
        Self { client, recorder, stores, expectations: Expectations::default() }
    }

    /// The client with the controller's identity.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Records an event.
    pub fn tell(&self, note: Note) {
        self.recorder.record(note);
    }

    /// Carries out `plan`, made for `key`.
    ///
    /// # Errors
    /// The first failure that its change does not tolerate.
    pub async fn execute(&self, key: &Key, plan: Plan) -> Result<Outcome, Error> {
        let run = Run { executor: self, key, versions: Mutex::default() };
        let mut outcome = Outcome::default();
        let mut result = Ok(());
        for step in plan.steps {
            result = run.step(step, &mut outcome).await;
            if result.is_err() {
                break;
            }
        }
        if let Some(finally) = plan.finally {
            for change in finally(&outcome) {
                if let Err(error) = run.one(change).await {
                    result = result.and(Err(error));
                }
            }
        }
        let failed = outcome.create_error.clone().or_else(|| outcome.delete_error.clone());
        result?;
        failed.map_or(Ok(outcome), |message| Err(Error::Some(message)))
    }
}

impl Run<'_> {
    async fn step(&self, step: Step, outcome: &mut Outcome) -> Result<(), Error> {
        match step {
            Step::One(change) => {
                let creates = matches!(change.verb, Verb::Create(_));
                let result = self.one(change).await;
                note_outcome(outcome, result.as_ref().ok());
                if let (true, Err(error)) = (creates, &result) {
                    outcome.create_error = Some(server_words(error));
                }
                result.map(|_| ())
            }
            Step::Parallel(changes) => {
                self.many(changes, outcome).await;
                Ok(())
            }
            Step::SlowStart(mut changes) => {
                let mut batch = 1;
                while !changes.is_empty() && outcome.create_error.is_none() {
                    let rest = changes.split_off(batch.min(changes.len()));
                    self.many(changes, outcome).await;
                    changes = rest;
                    batch *= 2;
                }
                Ok(())
            }
            Step::Tell(note) => {
                self.executor.recorder.record(note);
                Ok(())
            }
        }
    }

    async fn many(&self, changes: Vec<Change>, outcome: &mut Outcome) {
        let mut results = stream::iter(changes.into_iter().map(|change| async move {
            let creates = matches!(change.verb, Verb::Create(_));
            (creates, self.one(change).await)
        }))
        .buffer_unordered(AT_ONCE);
        while let Some((creates, result)) = results.next().await {
            note_outcome(outcome, result.as_ref().ok());
            if let Err(error) = result {
                let slot = if creates { &mut outcome.create_error } else { &mut outcome.delete_error };
                slot.get_or_insert_with(|| server_words(&error));
            }
        }
    }

    async fn one(&self, mut change: Change) -> Result<Done, Error> {
        let (on_success, on_failure) = (change.on_success.take(), change.on_failure.take());
        match self.write(&mut change).await {
            Ok(written) => {
                self.expect(&change, &written);
                if let Some(note) = on_success {
                    let message = note.message.replace("{name}", &written.metadata.name);
                    self.executor.recorder.record(Note { message, ..note.as_ref().clone() });
                }
                Ok(match change.verb {
                    Verb::Create(_) => Done::Created,
                    Verb::Delete { .. } => Done::Deleted,
                    _ => Done::Other,
                })
            }
            Err(error) => self.judge(&change, error, on_failure),
        }
    }

    /// Whether a failure is one.
    fn judge(&self, change: &Change, error: kube::Error, on_failure: Option<Arc<Note>>) -> Result<Done, Error> {
        let deletes_by_uid = matches!(change.verb, Verb::Delete { uid: Some(_), version: None, .. });
        if let kube::Error::Api(status) = &error {
            let tolerated = match change.tolerate {
                Tolerate::Nothing => false,
                Tolerate::NotFound => status.is_not_found() || (deletes_by_uid && status.is_conflict()),
                Tolerate::AlreadyExists => status.is_already_exists(),
                Tolerate::Races => status.is_not_found() || status.is_conflict(),
            };
            if tolerated {
                return Ok(Done::Other);
            }
            let terminating = status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
            if terminating && matches!(change.verb, Verb::Create(_)) {
                return Ok(Done::Terminating);
            }
            // An answer that names the object says that it is gone; one that does not, that there is no such path.
            let gone = status.is_not_found() && status.details.as_ref().is_some_and(|details| *details.name == *change.key.name);
            if (status.is_conflict() || gone) && !matches!(change.verb, Verb::Create(_)) {
                return Err(Error::Conflict { resource: change.resource.plural.to_string(), key: change.key.clone() });
            }
        }
        if let Some(note) = on_failure {
            let message = note.message.replace("{error}", &words(&error));
            self.executor.recorder.record(Note { message, ..note.as_ref().clone() });
        }
        Err(Error::Refused {
            verb: match change.verb {
                Verb::Create(_) => "create",
                Verb::Update { .. } => "update",
                Verb::Patch { .. } => "patch",
                Verb::Delete { .. } => "delete",
            },
            resource: change.resource.plural.to_string(),
            key: change.key.clone(),
            source: Box::new(error),
        })
    }

    async fn write(&self, change: &mut Change) -> Result<Written, kube::Error> {
        let request = Request::new(change.resource.path(&change.key.namespace));
        let name = change.key.name.as_ref();
        let post = PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.to_owned()) };
        let http = match &mut change.verb {
            Verb::Create(body) => request.create(&post, body.to_vec()),
            Verb::Update { object, subresource } => {
                let place = (change.resource.clone(), change.key.clone());
                if let Some(version) = self.versions.lock().get(&place) {
                    object["metadata"]["resourceVersion"] = version.clone().into();
                }
                let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
                match subresource {
                    Some(subresource) => request.replace_subresource(subresource, name, &post, body),
                    None => request.replace(name, &post, body),
                }
            }
            Verb::Patch { kind, body, subresource } => {
                let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
                let patch = match kind {
                    PatchKind::Merge => Patch::Merge(&*body),
                    PatchKind::Strategic => Patch::Strategic(&*body),
                };
                match subresource {
                    Some(subresource) => request.patch_subresource(subresource, name, &params, &patch),
                    None => request.patch(name, &params, &patch),
                }
            }
            Verb::Delete { uid, version, propagation, grace_seconds } => {
                let preconditions =
                    (uid.is_some() || version.is_some()).then(|| Preconditions { resource_version: version.clone(), uid: uid.clone() });
                let params = DeleteParams {
                    dry_run: false,
                    grace_period_seconds: *grace_seconds,
                    propagation_policy: propagation.clone(),
                    preconditions,
                };
                request.delete(name, &params)
            }
        };
        self.executor.client.request(http.map_err(kube::Error::BuildRequest)?).await
    }

    /// Notes what the caches must show before the key is planned again.
    fn expect(&self, change: &Change, written: &Written) {
        let version = &written.metadata.resource_version;
        if !version.is_empty() && matches!(change.verb, Verb::Update { .. } | Verb::Patch { .. }) {
            self.versions.lock().insert((change.resource.clone(), change.key.clone()), version.clone());
        }
        let Some(store) = self.executor.stores.get(&change.resource) else { return };
        match &change.verb {
            Verb::Delete { uid: Some(uid), .. } => {
                self.executor.expectations.deleted(self.key, store, change.key.clone(), uid.clone());
            }
            Verb::Delete { .. } => {}
            _ => self.executor.expectations.wrote(self.key, store, version.parse().unwrap_or_default()),
        }
    }
}

fn note_outcome(outcome: &mut Outcome, done: Option<&Done>) {
    match done {
        Some(Done::Created) => outcome.created += 1,
        Some(Done::Deleted) => outcome.deleted += 1,
        Some(Done::Terminating | Done::Other) | None => {}
    }
}

/// An error in the server's own words, as upstream's events and conditions have it.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn server_words(error: &Error) -> String {
    match error {
        Error::Refused { source, .. } => words(source),
        other => other.to_string(),
    }
}
