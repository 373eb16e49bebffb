//! The policies there are, with their bindings.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use coracle_tree::Value;
use tokio::sync::Mutex;

use super::compile::Policy;
use crate::{
    admission::{
        look::{self, text},
        manifests::Manifests,
        matching::Criteria,
        mirror::{self, Behind, Changes, GROUP},
        reach::{Hooks, Reach},
    },
    registry::Reader,
    wire::Status,
};

/// A binding of a policy.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) spec: Value,
    /// It names parameters.
    pub(super) gives_params: bool,
    pub(super) criteria: Option<Criteria>,
}

impl Binding {
    /// Whether it must see the namespace of what is written.
    pub(super) fn asks_namespace(&self) -> bool {
        self.criteria.as_ref().is_some_and(Criteria::asks_namespace)
    }
}

/// Policies of one kind with their bindings, by name.
pub(in crate::admission) struct Set {
    mutating: bool,
    /// All there are, bound or not. Who holds them is the one who reads, so that nobody puts back what was before.
    known: Mutex<BTreeMap<String, Arc<Policy>>>,
    behind: Behind,
    /// What is asked: the policies that are bound, by name.
    hooks: Hooks<Hook>,
    /// Those of files; said before any are read.
    manifests: OnceLock<Arc<Manifests>>,
}

/// A policy and its bindings.
pub(super) type Hook = (Arc<Policy>, Vec<Arc<Binding>>);

impl Set {
    fn new(mutating: bool) -> Self {
        Self { mutating, known: Mutex::default(), behind: Behind::default(), hooks: Hooks::default(), manifests: OnceLock::new() }
    }

    /// Takes up the policies of files. The error says what is wrong with them.
    pub(in crate::admission) fn configure(&self, manifests: Manifests) -> Result<(), String> {
        self.take_files(&manifests.load()?.unwrap_or_default());
        // Nobody else says it.
        let _ = self.manifests.set(Arc::new(manifests));
        Ok(())
    }

    fn take_files(&self, objects: &[Value]) {
        let bindings = objects.iter().filter(|object| text(object, "kind").ends_with("Binding"));
        let policies = objects.iter().filter(|object| !text(object, "kind").ends_with("Binding"));
        let mut bound = bound(bindings);
        let made =
            policies.map(|object| (Arc::new(Policy::of(object, self.mutating)), bound.remove(mirror::name(object)).unwrap_or_default()));
        self.hooks.set_files(made.collect());
    }

    async fn follow_files(&self) {
        if let Some(manifests) = self.manifests.get().cloned() {
            manifests.follow(|objects| self.take_files(&objects)).await;
        }
    }

    /// Whether there is somebody to ask about a write.
    pub(super) fn any(&self, reach: impl FnOnce() -> Reach) -> bool {
        self.hooks.any(reach)
    }

    /// The policies that are bound, those of files first, by name; nothing while they are not known.
    pub(super) fn hooks(&self, reach: Reach) -> Option<Arc<[Hook]>> {
        self.hooks.within(reach)
    }

    pub(in crate::admission) fn resources(&self) -> [&'static str; 2] {
        if self.mutating {
            ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"]
        } else {
            ["validatingadmissionpolicies", "validatingadmissionpolicybindings"]
        }
    }

    /// Reads all policies and bindings as they are now; should that fail, those known stay in force.
    pub(super) async fn refresh(&self, reader: &dyn Reader) {
        // How it went is noted before anybody else reads.
        let mut known = self.known.lock().await;
        self.behind.note(self.resources()[0], self.read(&mut known, reader).await);
    }

    /// Reads all policies and bindings. What did not change is not compiled again.
    async fn read(&self, known: &mut BTreeMap<String, Arc<Policy>>, reader: &dyn Reader) -> Result<(), Status> {
        let [policies, bindings] = self.resources();
        let all: Vec<Value> = look::all(reader, GROUP, policies, "").await?;
        let made = all.iter().map(|object| {
            let policy = known.get(mirror::name(object)).filter(|known| known.version == mirror::version(object)).cloned();
            (mirror::name(object).to_owned(), policy.unwrap_or_else(|| Arc::new(Policy::of(object, self.mutating))))
        });
        let made: BTreeMap<String, Arc<Policy>> = made.collect();
        let all: Vec<Value> = look::all(reader, GROUP, bindings, "").await?;
        let mut bound = bound(all.iter());
        self.hooks.set_api(made.iter().filter_map(|(name, policy)| Some((policy.clone(), bound.remove(name)?))).collect());
        *known = made;
        Ok(())
    }
}

/// Bindings by their policies' names, in order.
fn bound<'o>(bindings: impl Iterator<Item = &'o Value>) -> BTreeMap<String, Vec<Arc<Binding>>> {
    let mut bound: BTreeMap<String, Vec<Arc<Binding>>> = BTreeMap::new();
    for object in bindings {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let criteria = Criteria::of(spec.get("matchResources"), "/resourceRules");
        let policy = text(&spec, "policyName").to_owned();
        let gives_params = spec.get("paramRef").is_some_and(Value::is_object);
        let binding = Binding { name: mirror::name(object).to_owned(), spec, gives_params, criteria };
        bound.entry(policy).or_default().push(Arc::new(binding));
    }
    bound.values_mut().for_each(|bindings| bindings.sort_by(|a, b| a.name.cmp(&b.name)));
    bound
}

/// All policies.
pub struct Policies {
    pub(in crate::admission) validating: Set,
    pub(in crate::admission) mutating: Set,
}

impl Default for Policies {
    fn default() -> Self {
        Self { validating: Set::new(false), mutating: Set::new(true) }
    }
}

impl Policies {
    /// Reads all policies and bindings; where that fails, writes are refused until it succeeds. [`Policies::follow`] keeps them as they are.
    pub async fn load(&self, reader: &dyn Reader) -> Changes {
        let resources = [self.validating.resources(), self.mutating.resources()].concat();
        let changes = Changes::begin(reader, &resources);
        for set in self.sets() {
            set.refresh(reader).await;
            if set.behind.is_so() {
                set.hooks.await_api();
            }
        }
        changes
    }

    /// Takes up changes of files until the server stops; run it as a task.
    pub async fn follow_files(self: Arc<Self>) {
        tokio::join!(self.validating.follow_files(), self.mutating.follow_files());
    }

    /// Takes up changes until the server stops; run it as a task.
    pub async fn follow(self: Arc<Self>, reader: Arc<dyn Reader>, mut changes: Changes) {
        loop {
            let behind = self.sets().iter().any(|set| set.behind.is_so());
            let Some(changed) = changes.next(behind).await else { return };
            for set in self.sets() {
                if changed.map_or(set.behind.is_so(), |resource| set.resources().contains(&resource)) {
                    set.refresh(&*reader).await;
                }
            }
        }
    }

    fn sets(&self) -> [&Set; 2] {
        [&self.validating, &self.mutating]
    }
}
