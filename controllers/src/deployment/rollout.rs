//! One look at one deployment: its sets as they are, as they shall be, and the changes between.
//!
//! The rollout works on copies of the replica sets; whatever differs at the end is written, each set once.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    HASH_LABEL, annotations, condition,
    strategy::{self, deadline_seconds, size, wanted},
};
use crate::{
    caches::Caches,
    change::{Change, Note, Plan},
    hash,
    object::{Object, controller_reference},
};

/// A replica set in the course of a rollout.
pub(super) struct Set {
    /// As it shall be.
    pub(super) now: ReplicaSet,
    /// As it is; `None` for one that is still to be created.
    before: Option<Arc<ReplicaSet>>,
    /// What to say when it is written.
    note: Option<Note>,
    /// It is to be deleted.
    pub(super) doomed: bool,
}

/// One look at one deployment.
pub(super) struct Rollout<'a> {
    /// As it shall be; its status is written if it differs at the end.
    pub(super) deployment: Deployment,
    before: &'a Deployment,
    /// All its sets but the newest, oldest first.
    pub(super) old: Vec<Set>,
    /// The set of the present template.
    pub(super) new: Option<Set>,
    pub(super) caches: &'a Caches,
    pub(super) now: Timestamp,
    /// Another set has the name we need: the hash must be salted.
    collided: bool,
}

impl<'a> Rollout<'a> {
    /// The rollout of `deployment` over `sets`, all of which are its own.
    pub(super) fn new(deployment: &'a Deployment, mut sets: Vec<Arc<ReplicaSet>>, caches: &'a Caches, now: Timestamp) -> Self {
        sets.sort_by(|a, b| a.created().cmp(&b.created()).then_with(|| a.name().cmp(b.name())));
        let same =
            |set: &Arc<ReplicaSet>| set.spec.template.as_ref().is_some_and(|theirs| hash::same_template(&deployment.spec.template, theirs));
        let new = sets.iter().position(same).map(|at| sets.remove(at)).map(Set::existing);
        let old = sets.into_iter().map(Set::existing).collect();
        Self { deployment: deployment.clone(), before: deployment, old, new, caches, now, collided: false }
    }

    /// Decides, and states the changes after those already in `plan`.
    pub(super) fn plan(mut self, plan: Plan) -> Plan {
        if self.deployment.deleted().is_some() {
            self.sync_revision(false);
            let status = self.status();
            return self.finish(status, plan);
        }
        self.mark_paused();
        let paused = self.deployment.spec.paused.unwrap_or_default();
        if paused || self.is_scaling() {
            self.sync_revision(false);
            self.scale();
            if paused {
                self.clean_up();
            }
            let status = self.status();
            return self.finish(status, plan);
        }
        if strategy::is_recreate(&self.deployment) {
            self.recreate();
        } else {
            self.roll();
        }
        let status = if self.collided { self.deployment.status.clone().unwrap_or_default() } else { self.rollout_status() };
        self.finish(status, plan)
    }

    /// Old sets first, then the new one.
    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new).map(|set| &set.now)
    }

    /// The pods all sets shall have together.
    pub(super) fn total(&self) -> i32 {
        self.all().map(size).sum()
    }

    /// Gives the newest set its revision and annotations, and the deployment the same revision; creates the set if it is
    /// missing and `create` (upstream's `getAllReplicaSetsAndSyncRevision`).
    pub(super) fn sync_revision(&mut self, create: bool) {
        let newest = self.old.iter().map(|set| annotations::revision(&set.now)).max().unwrap_or_default() + 1;
        let min_ready = self.deployment.spec.min_ready_seconds;
        if let Some(set) = &mut self.new {
            annotations::set_newest(&mut set.now, &self.deployment, newest, set.before.is_some());
            let spec = &mut set.now.spec;
            if spec.min_ready_seconds.unwrap_or_default() != min_ready.unwrap_or_default() {
                spec.min_ready_seconds = min_ready;
            }
            let revision = annotations::revision(&set.now).to_string();
            let message = format!("Found new replica set {:?}", set.now.name());
            self.set_revision(revision);
            let status = self.deployment.status.get_or_insert_default();
            if deadline_seconds(self.before).is_some() && condition::find(status, condition::PROGRESSING).is_none() {
                condition::set(status, condition::new(condition::PROGRESSING, "True", "FoundNewReplicaSet", message, self.now));
            }
        } else if create {
            self.create(newest, min_ready);
        }
    }

    fn create(&mut self, revision: i64, min_ready: Option<i32>) {
        let spec = self.deployment.spec.clone();
        let status = self.deployment.status.get_or_insert_default();
        let hash = hash::word(&spec.template, status.collision_count);
        let name = format!("{}-{hash}", self.before.name());
        if let Some(other) = self.caches.replica_sets.get(self.before.namespace(), &name) {
            // Not ours, or ours with another template: the same word for two templates.
            tracing::debug!(%name, owner = ?other.controller().map(|owner| &owner.uid), "hash of the pod template collides");
            status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
            self.collided = true;
            return;
        }
        let mut template = spec.template;
        template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash);
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(self.before.namespace().to_owned()),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            owner_references: Some(vec![controller_reference(self.before)]),
            ..ObjectMeta::default()
        };
        let spec = ReplicaSetSpec { replicas: Some(0), min_ready_seconds: min_ready, selector, template: Some(template) };
        let mut set = Set { now: ReplicaSet { metadata, spec, status: None }, before: None, note: None, doomed: false };
        annotations::set_newest(&mut set.now, &self.deployment, revision, false);
        self.new = Some(set);
        let count = self.new_size();
        if let Some(set) = &mut self.new {
            set.now.spec.replicas = Some(count);
            if count > 0 {
                set.note = Some(Note::normal(self.before, "ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {count}")));
            }
        }
        self.set_revision(revision.to_string());
        if deadline_seconds(self.before).is_some() {
            let message = format!("Created new replica set {name:?}");
            let made = condition::new(condition::PROGRESSING, "True", "NewReplicaSetCreated", message, self.now);
            condition::set(self.deployment.status.get_or_insert_default(), made);
        }
    }

    fn set_revision(&mut self, revision: String) {
        self.deployment.metadata.annotations.get_or_insert_default().insert(annotations::REVISION.into(), revision);
    }

    /// `Progressing` says so while the deployment is paused, and when it was resumed.
    fn mark_paused(&mut self) {
        if deadline_seconds(self.before).is_none() {
            return;
        }
        let paused = self.before.spec.paused.unwrap_or_default();
        let status = self.deployment.status.get_or_insert_default();
        let reason = condition::find(status, condition::PROGRESSING).and_then(|condition| condition.reason.as_deref());
        let (reason, message) = match (paused, reason) {
            (_, Some(condition::TIMED_OUT)) => return,
            (true, reason) if reason != Some(condition::PAUSED) => (condition::PAUSED, "Deployment is paused"),
            (false, Some(condition::PAUSED)) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        condition::set(status, condition::new(condition::PROGRESSING, "Unknown", reason, message, self.now));
    }

    /// Whether the wanted number changed since the active sets were last scaled.
    fn is_scaling(&self) -> bool {
        let wanted = wanted(&self.deployment);
        self.all().filter(|set| size(set) > 0).filter_map(annotations::desired).any(|desired| desired != wanted)
    }

    /// Scales a set and notes the event; whether its size changed.
    pub(super) fn resize(set: &mut Set, count: i32, deployment: &Deployment) -> bool {
        let old = size(&set.now);
        annotations::set_sizes(&mut set.now, deployment);
        if old == count {
            return false;
        }
        set.now.spec.replicas = Some(count);
        let direction = if old < count { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {old} to {count}", set.now.name());
        set.note = Some(Note::normal(deployment, "ScalingReplicaSet", message));
        true
    }

    /// States the changes: sets first, the deployment's status last, knowing whether a new set could be made.
    fn finish(self, status: DeploymentStatus, mut plan: Plan) -> Plan {
        if let Some(at) = self.next_look(&status) {
            plan.again_at(at, self.now);
        }
        let name = self.new.as_ref().map(|set| set.now.name().to_owned()).unwrap_or_default();
        // The new set first: if it cannot be made, the old ones keep their pods.
        for set in self.new.into_iter().chain(self.old) {
            plan.steps.extend(set.change(self.before, &name).map(crate::change::Step::One));
        }
        let (mut after, before, now) = (Deployment { status: Some(status), ..self.deployment }, self.before.clone(), self.now);
        plan.finally = Some(Box::new(move |outcome| {
            if let Some(error) = &outcome.create_error {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                let failed = condition::new(condition::PROGRESSING, "False", "ReplicaSetCreateError", message, now);
                // Nothing else of what was planned came true.
                after = before.clone();
                if deadline_seconds(&before).is_none() {
                    return Vec::new();
                }
                condition::set(after.status.get_or_insert_default(), failed);
            }
            let unchanged = after.status.clone().unwrap_or_default() == before.status.clone().unwrap_or_default()
                && after.metadata.annotations == before.metadata.annotations;
            if unchanged { Vec::new() } else { vec![Change::update_status(&after)] }
        }));
        plan
    }
}

impl Set {
    fn existing(before: Arc<ReplicaSet>) -> Self {
        Self { now: before.as_ref().clone(), before: Some(before), note: None, doomed: false }
    }

    /// What must be written for it.
    fn change(self, deployment: &Deployment, new: &str) -> Option<Change> {
        let Some(before) = &self.before else {
            let failed = format!("Failed to create new replica set {new:?}: {{error}}");
            let mut change = Change::create(&self.now).on_failure(Note::warning(deployment, "ReplicaSetCreateError", failed));
            change.on_success = self.note.map(Arc::new);
            return Some(change);
        };
        if self.doomed {
            return Some(Change::delete(&self.now));
        }
        if *before.as_ref() == self.now {
            return None;
        }
        let mut change = Change::update(&self.now);
        change.on_success = self.note.map(Arc::new);
        Some(change)
    }
}
