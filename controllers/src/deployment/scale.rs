//! How many pods each set shall have: rolling, recreating, scaling in proportion.

use super::{
    annotations,
    rollout::{Rollout, Set},
    strategy::{actual, available, is_recreate, max_surge, max_unavailable, size, wanted},
};
use crate::object::Object;

impl Rollout<'_> {
    /// One step of a rolling update: up with the new set, or else down with the old ones.
    pub(super) fn roll(&mut self) {
        self.sync_revision(true);
        let count = self.new_size();
        let Some(new) = &mut self.new else { return };
        if Self::resize(new, count, &self.deployment) || self.scale_down_old() {
            return;
        }
        self.clean_up_if_complete();
    }

    /// One step of a replacement without overlap: down with all old pods, then up with the new ones.
    pub(super) fn recreate(&mut self) {
        self.sync_revision(false);
        let mut scaled = false;
        for set in self.old.iter_mut().filter(|set| size(&set.now) > 0) {
            scaled |= Self::resize(set, 0, &self.deployment);
        }
        if scaled || self.old_pods_run() {
            return;
        }
        if self.new.is_none() {
            self.sync_revision(true);
        }
        let count = wanted(&self.deployment);
        if let Some(new) = &mut self.new {
            Self::resize(new, count, &self.deployment);
        }
        self.clean_up_if_complete();
    }

    /// The size the strategy allows the new set now.
    pub(super) fn new_size(&self) -> i32 {
        let (wanted, mine) = (wanted(&self.deployment), self.new.as_ref().map(|set| size(&set.now)).unwrap_or_default());
        if is_recreate(&self.deployment) || mine > wanted {
            return wanted;
        }
        let room = wanted + max_surge(&self.deployment) - self.total();
        if room <= 0 { mine } else { mine + room.min(wanted - mine) }
    }

    /// Takes pods from the old sets, unhealthy ones first; whether any were taken.
    fn scale_down_old(&mut self) -> bool {
        let old_pods: i32 = self.old.iter().map(|set| size(&set.now)).sum();
        if old_pods == 0 {
            return false;
        }
        let min_available = wanted(&self.deployment) - max_unavailable(&self.deployment);
        let new_unavailable = self.new.as_ref().map(|set| size(&set.now) - available(&set.now)).unwrap_or_default();
        let removable = self.total() - min_available - new_unavailable;
        if removable <= 0 {
            return false;
        }
        let unhealthy = self.take_from_old(removable, |set| size(set) - available(set));
        let spare = self.all().map(available).sum::<i32>() - min_available;
        let healthy = self.take_from_old(spare, size);
        unhealthy + healthy > 0
    }

    /// Takes up to `budget` pods from the old sets, oldest set first, from each at most `share`; how many were taken.
    fn take_from_old(&mut self, budget: i32, share: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSet) -> i32) -> i32 {
        let mut taken = 0;
        for set in self.old.iter_mut().filter(|set| size(&set.now) > 0) {
            let count = share(&set.now).min(budget - taken).min(size(&set.now));
            if count > 0 {
                let left = size(&set.now) - count;
                Self::resize(set, left, &self.deployment);
                taken += count;
            }
        }
        taken
    }

    fn old_pods_run(&self) -> bool {
        self.old.iter().any(|set| actual(&set.now) > 0)
            || self.old.iter().any(|set| self.caches.pods.owned_by(set.now.uid()).iter().any(|pod| !pod.is_terminal()))
    }

    /// Brings the sets to the wanted number without rolling: the deployment is paused, or only its size changed.
    pub(super) fn scale(&mut self) {
        let goal = wanted(&self.deployment);
        let active = self.all().filter(|set| size(set) > 0).count();
        if active <= 1 {
            // With no active set the new one is scaled, or else the latest of the old ones.
            let in_old = self.old.iter().position(|set| size(&set.now) > 0);
            let latest = self.old.len().checked_sub(1);
            let index = if active == 1 {
                in_old
            } else if self.new.is_some() {
                None
            } else {
                latest
            };
            let set = match index {
                Some(index) => self.old.get_mut(index),
                None => self.new.as_mut(),
            };
            if let Some(set) = set.filter(|set| size(&set.now) != goal) {
                Self::resize(set, goal, &self.deployment);
            }
            return;
        }
        if self.is_saturated() {
            for set in self.old.iter_mut().filter(|set| size(&set.now) > 0) {
                Self::resize(set, 0, &self.deployment);
            }
        } else if !is_recreate(&self.deployment) {
            self.scale_in_proportion();
        }
    }

    /// Whether the new set has all pods that are wanted, available.
    fn is_saturated(&self) -> bool {
        let wanted = wanted(&self.deployment);
        self.new
            .as_ref()
            .is_some_and(|set| size(&set.now) == wanted && annotations::desired(&set.now) == Some(wanted) && available(&set.now) == wanted)
    }

    /// Spreads a change of size over all active sets by their sizes, so that a rollout that hangs half-way keeps its risk.
    fn scale_in_proportion(&mut self) {
        let goal = wanted(&self.deployment);
        let allowed = if goal > 0 { goal + max_surge(&self.deployment) } else { 0 };
        let add = allowed - self.total();
        let before_scale = self.before_scale();
        let mut sets: Vec<&mut Set> = self.old.iter_mut().chain(&mut self.new).filter(|set| size(&set.now) > 0).collect();
        // Largest first; among equals the newer first when growing, the older first when shrinking.
        sets.sort_by(|a, b| {
            let age = a.now.metadata.creation_timestamp.cmp(&b.now.metadata.creation_timestamp);
            size(&b.now).cmp(&size(&a.now)).then(if add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let mut sizes = Vec::with_capacity(sets.len());
        for set in &sets {
            let share =
                proportion(size(&set.now), annotations::max(&set.now).filter(|max| *max > 0).unwrap_or(before_scale), allowed, goal);
            let left = add - added;
            let share = if left == 0 {
                0
            } else if add > 0 {
                share.min(left)
            } else {
                share.max(left)
            };
            added += share;
            sizes.push(size(&set.now) + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + add - added).max(0);
        }
        for (set, count) in sets.into_iter().zip(sizes) {
            Self::resize(set, count, &self.deployment);
        }
    }

    fn before_scale(&self) -> i32 {
        self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default()
    }
}

/// By how much a set of `size` grows when what was allowed goes from `before` to `allowed`.
fn proportion(size: i32, before: i32, allowed: i32, goal: i32) -> i32 {
    if goal == 0 {
        return -size;
    }
    if before == 0 {
        return 0;
    }
    let scaled = f64::from(size) * f64::from(allowed) / f64::from(before);
    // Both factors are counts of pods: the result fits and is not negative.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = scaled.round() as i32;
    rounded - size
}
