//! The decision of one stateful set. In order means: one at a time, and nothing while a predecessor is not ready.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::PodTemplateSpec,
};

use super::pods;
use crate::{
    caches::Caches,
    change::{Change, Note, Plan, Step},
    history::{self, History},
    object::Object,
    pod::Pod,
};

/// One look at one set.
struct Look<'a> {
    set: &'a StatefulSet,
    caches: &'a Caches,
    now: Timestamp,
    /// The pods by number.
    pods: BTreeMap<i32, &'a Arc<Pod>>,
    /// The numbers that shall exist.
    wanted: std::ops::Range<i32>,
    /// The revision pods are made from until it is their turn to be updated.
    current: String,
    current_template: PodTemplateSpec,
    /// The revision of the present template.
    update: String,
}

/// Plans one set; `mine` are its pods.
pub(super) fn set(set: &StatefulSet, mine: &[Arc<Pod>], caches: &Caches, now: Timestamp, plan: &mut Plan) {
    let old = set.status.clone().unwrap_or_default();
    let mut history = History::read(set, &set.spec.template, old.collision_count, caches);
    plan.steps.extend(history.change.take().map(Step::One));
    let current = old.current_revision.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| history.name.clone());
    let remembered = history.all.iter().find(|revision| revision.name() == current).and_then(|revision| history::template(revision));
    let start = set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default();
    let look = Look {
        set,
        caches,
        now,
        pods: mine.iter().filter_map(|pod| Some((pods::parent(pod.name())?.1, pod))).collect(),
        wanted: start..start.saturating_add(set.spec.replicas.unwrap_or(1)),
        current_template: remembered.unwrap_or_else(|| set.spec.template.clone()),
        current,
        update: history.name.clone(),
    };
    if set.deleted().is_none() && !history.collided {
        look.steer(plan);
    }
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or_default();
    let used = |name: &str| name == look.current || mine.iter().any(|pod| pods::revision(pod) == name);
    plan.parallel(history.surplus(limit, |revision| used(revision.name())));
    let mut status = look.status(&old, plan);
    if history.collided {
        status.collision_count = Some(old.collision_count.unwrap_or_default() + 1);
    }
    if set.status.as_ref() != Some(&status) {
        let after = StatefulSet { status: Some(status), ..set.clone() };
        plan.finally = Some(Box::new(move |_| vec![Change::update_status(&after)]));
    }
}

impl Look<'_> {
    fn in_order(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        let min_ready = self.set.spec.min_ready_seconds.unwrap_or_default();
        pod.deleted().is_none() && pod.status.phase == "Running" && pod.is_available(min_ready, self.now).0
    }

    /// Makes what is missing, then removes what is too many, then updates.
    fn steer(&self, plan: &mut Plan) {
        let mut missing = Vec::new();
        for number in self.wanted.clone() {
            match self.pods.get(&number) {
                None => {
                    let mut changes = pods::claims(self.set, number, self.caches);
                    let (template, revision) = self.source(number);
                    let pod = pods::create(self.set, template, revision, number);
                    if self.in_order() {
                        plan.parallel(changes);
                        plan.push(pod);
                        return;
                    }
                    plan.parallel(std::mem::take(&mut changes));
                    missing.push(pod);
                }
                Some(pod) if pod.is_terminal() => {
                    if pod.deleted().is_none() {
                        let message =
                            format!("StatefulSet {}/{} is recreating failed Pod {}", pod.namespace(), self.set.name(), pod.name());
                        plan.tell(Note::warning(self.set, "RecreatingFailedPod", message));
                        plan.push(pods::delete(self.set, pod));
                    }
                    return;
                }
                Some(pod) => {
                    // Claims that somebody removed before the pod could use them.
                    if pod.status.phase == "Pending" {
                        plan.parallel(pods::claims(self.set, number, self.caches));
                    }
                    if self.in_order() && !self.is_healthy(pod) {
                        return;
                    }
                }
            }
        }
        if !missing.is_empty() {
            plan.steps.push(Step::SlowStart(missing));
        }
        if !self.shrink(plan) {
            self.roll(plan);
        }
    }

    /// Which template a missing pod is made from.
    fn source(&self, number: i32) -> (&PodTemplateSpec, &str) {
        let strategy = self.set.spec.update_strategy.as_ref();
        let rolling = strategy.is_none_or(|strategy| strategy.type_.as_deref() != Some("OnDelete"));
        let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()).and_then(|rolling| rolling.partition);
        let current_replicas = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or_default();
        let bound = self.wanted.start + partition.filter(|_| rolling).unwrap_or(if rolling { current_replicas } else { 0 });
        if number < bound { (&self.current_template, &self.current) } else { (&self.set.spec.template, &self.update) }
    }

    /// Removes pods whose number is not wanted, the highest first; whether there are any.
    fn shrink(&self, plan: &mut Plan) -> bool {
        let mut condemned: Vec<(&i32, &&Arc<Pod>)> = self.pods.iter().filter(|(number, _)| !self.wanted.contains(number)).collect();
        condemned.sort_by_key(|(number, _)| Reverse(**number));
        let first_unhealthy = self.pods.values().find(|pod| !self.is_healthy(pod)).map(|pod| pod.uid());
        for (_, pod) in &condemned {
            if pod.deleted().is_some() {
                if self.in_order() {
                    return true;
                }
                continue;
            }
            if self.in_order() && !self.is_healthy(pod) && first_unhealthy != Some(pod.uid()) {
                return true;
            }
            plan.push(pods::delete(self.set, pod));
            if self.in_order() {
                return true;
            }
        }
        !condemned.is_empty() && self.in_order()
    }

    /// Deletes the highest pod of an old revision, once those above it are healthy.
    fn roll(&self, plan: &mut Plan) {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
            return;
        }
        let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()).and_then(|rolling| rolling.partition);
        let lowest = self.wanted.start + partition.unwrap_or_default();
        for number in self.wanted.clone().rev().filter(|number| *number >= lowest) {
            let Some(pod) = self.pods.get(&number) else { return };
            if pods::revision(pod) != self.update && pod.deleted().is_none() {
                plan.push(pods::delete(self.set, pod));
                return;
            }
            if !self.is_healthy(pod) {
                return;
            }
        }
    }

    fn status(&self, old: &StatefulSetStatus, plan: &mut Plan) -> StatefulSetStatus {
        let min_ready = self.set.spec.min_ready_seconds.unwrap_or_default();
        let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
        for pod in self.pods.values().filter(|pod| !pod.is_terminal()) {
            if pod.status.phase == "Running" && pod.is_ready() {
                ready += 1;
                let (is_available, at) = pod.is_available(min_ready, self.now);
                available += i32::from(is_available);
                if let Some(at) = at {
                    plan.again_at(at, self.now);
                }
            }
            if pod.deleted().is_none() {
                current += i32::from(pods::revision(pod) == self.current);
                updated += i32::from(pods::revision(pod) == self.update);
            }
        }
        let replicas = i32::try_from(self.pods.values().filter(|pod| !pod.is_terminal()).count()).unwrap_or(i32::MAX);
        let rolling = self.set.spec.update_strategy.as_ref().is_none_or(|strategy| strategy.type_.as_deref() != Some("OnDelete"));
        let wanted = self.set.spec.replicas.unwrap_or(1);
        let complete = rolling && updated == replicas && ready == replicas && replicas == wanted;
        let some = |count: i32| Some(count).filter(|count| *count > 0);
        StatefulSetStatus {
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(if complete { updated } else { current }),
            updated_replicas: some(updated),
            current_revision: Some(if complete { self.update.clone() } else { self.current.clone() }),
            update_revision: Some(self.update.clone()),
            collision_count: Some(old.collision_count.unwrap_or_default()),
            observed_generation: self.set.metadata.generation,
            conditions: old.conditions.clone(),
        }
    }
}
