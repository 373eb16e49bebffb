//! The policies there are, with their bindings.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    StreamExt,
    stream::{BoxStream, select_all},
};
use parking_lot::RwLock;
use serde_json::Value;
use tracing::warn;

use super::compile::Policy;
use crate::{
    authz::mirror,
    registry::{Change, Reader},
    wire::Status,
};

const GROUP: &str = "admissionregistration.k8s.io";

/// A binding of a policy.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) spec: Value,
}

/// Policies of one kind with their bindings, by name.
#[derive(Default)]
pub(super) struct Set {
    policies: RwLock<BTreeMap<String, Arc<Policy>>>,
    /// By policy, then by name.
    bindings: RwLock<BTreeMap<String, BTreeMap<String, Arc<Binding>>>>,
    /// Something is bound: else nothing need be looked up.
    bound: AtomicBool,
}

/// A policy and its bindings.
pub(super) type Hook = (Arc<Policy>, Vec<Arc<Binding>>);

impl Set {
    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        !self.bound.load(Ordering::Relaxed)
    }

    /// The policies that are bound, by name.
    pub(super) fn hooks(&self) -> Vec<Hook> {
        let (policies, bindings) = (self.policies.read(), self.bindings.read());
        let bound = policies.iter().filter_map(|(name, policy)| Some((policy, bindings.get(name)?)));
        bound.map(|(policy, bindings)| (policy.clone(), bindings.values().cloned().collect())).collect()
    }

    fn put_policy(&self, name: &str, object: Option<&Value>, mutating: bool) {
        let mut policies = self.policies.write();
        match object {
            Some(object) => policies.insert(name.to_owned(), Arc::new(Policy::of(object, mutating))),
            None => policies.remove(name),
        };
    }

    fn put_binding(&self, name: &str, object: Option<&Value>) {
        let mut bindings = self.bindings.write();
        bindings.retain(|_, named| {
            named.remove(name);
            !named.is_empty()
        });
        if let Some(object) = object {
            let spec = object.get("spec").cloned().unwrap_or_default();
            let policy = spec.get("policyName").and_then(Value::as_str).unwrap_or_default().to_owned();
            bindings.entry(policy).or_default().insert(name.to_owned(), Arc::new(Binding { name: name.to_owned(), spec }));
        }
        self.bound.store(!bindings.is_empty(), Ordering::Relaxed);
    }
}

/// All policies.
#[derive(Default)]
pub struct Policies {
    pub(super) validating: Set,
    pub(super) mutating: Set,
}

#[derive(Clone, Copy)]
enum Source {
    Validating,
    ValidatingBindings,
    Mutating,
    MutatingBindings,
}

const SOURCES: [(Source, &str); 4] = [
    (Source::Validating, "validatingadmissionpolicies"),
    (Source::ValidatingBindings, "validatingadmissionpolicybindings"),
    (Source::Mutating, "mutatingadmissionpolicies"),
    (Source::MutatingBindings, "mutatingadmissionpolicybindings"),
];

/// The changes still to come after [`Policies::load`].
pub struct Changes(Vec<(Source, BoxStream<'static, Change>)>);

impl Policies {
    /// Reads all policies and bindings. [`Policies::follow`] keeps them as they are.
    pub async fn load(&self, reader: &dyn Reader) -> Result<Changes, Status> {
        let mut streams = Vec::new();
        for (source, resource) in SOURCES {
            let (now, changes) = mirror::begin(reader, GROUP, resource).await?;
            for object in now.iter().filter_map(|bytes| read(bytes)) {
                let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
                self.put(source, &name, Some(&object));
            }
            streams.push((source, changes));
        }
        Ok(Changes(streams))
    }

    /// Applies changes until the server stops; run it as a task.
    pub async fn follow(self: Arc<Self>, changes: Changes) {
        let tagged = changes.0.into_iter().map(|(source, stream)| stream.map(move |change| (source, change)).boxed());
        let mut all = select_all(tagged);
        while let Some((source, change)) = all.next().await {
            let object = change.object.as_ref().and_then(|bytes| read(bytes));
            self.put(source, &change.name, object.as_ref());
        }
    }

    fn put(&self, source: Source, name: &str, object: Option<&Value>) {
        match source {
            Source::Validating => self.validating.put_policy(name, object, false),
            Source::Mutating => self.mutating.put_policy(name, object, true),
            Source::ValidatingBindings => self.validating.put_binding(name, object),
            Source::MutatingBindings => self.mutating.put_binding(name, object),
        }
    }
}

fn read(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).inspect_err(|error| warn!(%error, "an admission policy cannot be read")).ok()
}
