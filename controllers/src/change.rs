//! What a plan may ask for. Plans are values: they are made by pure functions, compared in tests and carried out by
//! [`crate::apply`] alone.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::params::PropagationPolicy;
use serde::Serialize;
use serde_json::Value;

use crate::object::{Key, Kind, Resource, reference, tree};

/// One write to the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The kind written.
    pub resource: Resource,
    /// The object; its name is empty for creations with `generateName`.
    pub key: Key,
    /// What is done to it.
    pub verb: Verb,
    /// Told when it worked. `{name}` in the message becomes the object's name.
    pub on_success: Option<Arc<Note>>,
    /// Told when it failed. `{error}` in the message becomes the server's message.
    pub on_failure: Option<Arc<Note>>,
    /// Answers that count as success.
    pub tolerate: Tolerate,
}

/// What is done to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// POST of these bytes; shared, since a hundred pods of one set have the same.
    Create(Arc<[u8]>),
    /// PUT of the object, or of a subresource.
    Update {
        /// The whole object, with the resource version it was read at.
        object: Value,
        /// `status`, or another subresource.
        subresource: Option<&'static str>,
    },
    /// PATCH.
    Patch {
        /// Which kind of patch.
        kind: PatchKind,
        /// The patch.
        body: Value,
        /// `status`, or another subresource.
        subresource: Option<&'static str>,
    },
    /// DELETE, only if the uid still is this one.
    Delete {
        /// The uid, unless it does not matter.
        uid: Option<String>,
        /// The resource version it must still have.
        version: Option<String>,
        /// What becomes of dependents; `None`: the kind's default.
        propagation: Option<PropagationPolicy>,
        /// Seconds of grace; `None`: the object's own.
        grace_seconds: Option<u32>,
    },
}

/// The media types of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge.
    Strategic,
}

/// Which failures are no failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tolerate {
    /// None.
    #[default]
    Nothing,
    /// The object is gone already.
    NotFound,
    /// The object is there already.
    AlreadyExists,
    /// Gone, or changed meanwhile: whoever changed it will wake the key again.
    Races,
}

/// An event to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The object it is about.
    pub regarding: ObjectReference,
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// The reason, a CamelCase word of upstream's.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

impl Note {
    /// An event of type `Normal` about `object`.
    pub fn normal<K: Kind>(object: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self { regarding: reference(object), warning: false, reason, message: message.into() }
    }

    /// An event of type `Warning` about `object`.
    pub fn warning<K: Kind>(object: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self { regarding: reference(object), warning: true, reason, message: message.into() }
    }
}

impl Change {
    /// A change of an object of any kind.
    #[must_use]
    pub fn new(resource: Resource, key: Key, verb: Verb) -> Self {
        Self { resource, key, verb, on_success: None, on_failure: None, tolerate: Tolerate::Nothing }
    }

    /// Creates `object`, which must serialize with `apiVersion` and `kind`.
    pub fn create<K: Kind + Serialize>(object: &K) -> Self {
        let body = serde_json::to_vec(object).unwrap_or_default();
        Self::new(K::RESOURCE, Key::of(object), Verb::Create(body.into()))
    }

    /// Creates an object from bytes that several creations may share.
    #[must_use]
    pub fn create_bytes(resource: Resource, key: Key, body: Arc<[u8]>) -> Self {
        Self::new(resource, key, Verb::Create(body))
    }

    /// Replaces `object`.
    pub fn update<K: Kind + Serialize>(object: &K) -> Self {
        let verb = Verb::Update { object: tree(object), subresource: None };
        Self::new(K::RESOURCE, Key::of(object), verb)
    }

    /// Replaces the status of `object`.
    pub fn update_status<K: Kind + Serialize>(object: &K) -> Self {
        let verb = Verb::Update { object: tree(object), subresource: Some("status") };
        Self::new(K::RESOURCE, Key::of(object), verb)
    }

    /// Patches the object of this kind and key.
    #[must_use]
    pub fn patch<K: Kind>(key: Key, kind: PatchKind, body: Value) -> Self {
        Self::new(K::RESOURCE, key, Verb::Patch { kind, body, subresource: None })
    }

    /// Patches the status of the object of this kind and key.
    #[must_use]
    pub fn patch_status<K: Kind>(key: Key, kind: PatchKind, body: Value) -> Self {
        Self::new(K::RESOURCE, key, Verb::Patch { kind, body, subresource: Some("status") })
    }

    /// Deletes `object`, and no namesake; that it is gone already is fine.
    pub fn delete<K: Kind>(object: &K) -> Self {
        let verb = Verb::Delete { uid: Some(object.uid().to_owned()), version: None, propagation: None, grace_seconds: None };
        Self::new(K::RESOURCE, Key::of(object), verb).tolerate(Tolerate::NotFound)
    }

    /// Deletes `object` with the given treatment of dependents.
    pub fn delete_with<K: Kind>(object: &K, propagation: PropagationPolicy) -> Self {
        let mut change = Self::delete(object);
        if let Verb::Delete { propagation: slot, .. } = &mut change.verb {
            *slot = Some(propagation);
        }
        change
    }

    /// Deletes `object` without grace.
    pub fn delete_now<K: Kind>(object: &K) -> Self {
        let mut change = Self::delete(object);
        if let Verb::Delete { grace_seconds, .. } = &mut change.verb {
            *grace_seconds = Some(0);
        }
        change
    }

    /// With an event for success.
    #[must_use]
    pub fn on_success(mut self, note: Note) -> Self {
        self.on_success = Some(Arc::new(note));
        self
    }

    /// With an event for failure.
    #[must_use]
    pub fn on_failure(mut self, note: Note) -> Self {
        self.on_failure = Some(Arc::new(note));
        self
    }

    /// With failures that are none.
    #[must_use]
    pub fn tolerate(mut self, tolerate: Tolerate) -> Self {
        self.tolerate = tolerate;
        self
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// One change; if it fails the rest of the plan is dropped and the key comes back after its back-off.
    One(Change),
    /// Many changes at once; failures are counted and the plan goes on.
    Parallel(Vec<Change>),
    /// Many creations in batches of 1, 2, 4, …: when the first fails (a quota, an admission rule) the others are not even tried.
    SlowStart(Vec<Change>),
    /// An event.
    Tell(Note),
}

/// What comes of carrying out the steps of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How many creations worked.
    pub created: usize,
    /// How many deletions worked.
    pub deleted: usize,
    /// The first failure of a creation, in the server's words.
    pub create_error: Option<String>,
    /// The first failure of a deletion, in the server's words.
    pub delete_error: Option<String>,
}

/// What must be known of the outcome before the last changes can be stated.
type Finally = Box<dyn FnOnce(&Outcome) -> Vec<Change> + Send>;

/// What a controller wants done for one key.
#[derive(Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Made from the outcome of the steps, after all of them, even after failed ones.
    pub finally: Option<Finally>,
    /// Look at the key again after this long.
    pub again: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds one change.
    pub fn push(&mut self, change: Change) {
        self.steps.push(Step::One(change));
    }

    /// Adds an event.
    pub fn tell(&mut self, note: Note) {
        self.steps.push(Step::Tell(note));
    }

    /// Adds changes made at once.
    pub fn parallel(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.steps.push(Step::Parallel(changes));
        }
    }

    /// Looks at the key again at `at`, or sooner if it was so planned.
    pub fn again_at(&mut self, at: Timestamp, now: Timestamp) {
        // A little later than the second: upstream's objects carry whole seconds and must be past them.
        self.again_after(crate::time::between(now, at) + Duration::from_millis(10));
    }

    /// Looks at the key again after `delay`, or sooner if it was so planned.
    pub fn again_after(&mut self, delay: Duration) {
        self.again = crate::time::sooner(self.again, Some(delay));
    }

    /// All changes of all steps, for tests and logs.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.steps.iter().flat_map(|step| match step {
            Step::One(change) => std::slice::from_ref(change).iter(),
            Step::Parallel(changes) | Step::SlowStart(changes) => changes.iter(),
            Step::Tell(_) => [].iter(),
        })
    }
}

impl From<Change> for Plan {
    fn from(change: Change) -> Self {
        Self { steps: vec![Step::One(change)], ..Self::default() }
    }
}
