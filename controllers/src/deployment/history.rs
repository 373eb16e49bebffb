//! Old replica sets are kept for rollbacks, up to the limit of history.

use super::{
    annotations, condition,
    rollout::Rollout,
    strategy::{actual, size},
};
use crate::object::Object;

impl Rollout<'_> {
    /// Cleans up once the last status said the rollout is complete.
    pub(super) fn clean_up_if_complete(&mut self) {
        let status = self.deployment.status.clone().unwrap_or_default();
        if condition::is_complete(&self.deployment, &status) {
            self.clean_up();
        }
    }

    /// Deletes the oldest revisions above the limit that are empty and settled.
    pub(super) fn clean_up(&mut self) {
        let limit = self.deployment.spec.revision_history_limit;
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX).and_then(|limit| usize::try_from(limit).ok()) else { return };
        let mut alive: Vec<_> = self.old.iter_mut().filter(|set| set.now.deleted().is_none()).collect();
        let Some(excess) = alive.len().checked_sub(limit) else { return };
        alive.sort_by_key(|set| (annotations::revision(&set.now), set.now.created()));
        for set in alive.into_iter().take(excess) {
            let observed = set.now.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
            set.doomed = actual(&set.now) == 0 && size(&set.now) == 0 && set.now.generation() <= observed;
        }
    }
}
