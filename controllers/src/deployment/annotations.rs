//! The annotations by which a deployment keeps book on its replica sets.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::strategy::{max_surge, wanted};
use crate::{object::Object, pod::LAST_APPLIED};

/// Number of the rollout a set belongs to; of a deployment, that of its newest set.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const ROLLBACK: &str = "deprecated.deployment.rollback.to";
/// Characters of past revisions kept.
const HISTORY_LENGTH: usize = 2000;

/// The revision of a set, 0 if it has none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or_default()
}

/// The number of pods the deployment wanted when it last scaled the set.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    set.annotations().get(DESIRED)?.parse().ok()
}

/// The number of pods the deployment allowed when it last scaled the set.
pub(super) fn max(set: &ReplicaSet) -> Option<i32> {
    set.annotations().get(MAX)?.parse().ok()
}

/// Notes on the set what the deployment wants and allows now; whether that is news.
pub(super) fn set_sizes(set: &mut ReplicaSet, deployment: &Deployment) -> bool {
    let (wanted, max) = (wanted(deployment), wanted(deployment).saturating_add(max_surge(deployment)));
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED, wanted.to_string()), (MAX, max.to_string())] {
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}

/// Brings the annotations of the newest set up to date; whether anything changed.
pub(super) fn set_newest(set: &mut ReplicaSet, deployment: &Deployment, newest: i64, exists: bool) -> bool {
    let mut changed = false;
    let old = set.annotations().get(REVISION).cloned();
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.annotations() {
        if ![LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX, ROLLBACK].contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old_number = old.as_deref().and_then(|revision| revision.parse::<i64>().ok()).unwrap_or_default();
    if old_number < newest {
        annotations.insert(REVISION.to_owned(), newest.to_string());
        changed = true;
        if let Some(old) = old {
            remember(annotations, &old);
        }
    }
    if !exists && set_sizes(set, deployment) {
        changed = true;
    }
    changed
}

/// Appends a revision the set had before (it was rolled back to), dropping the oldest when there are too many.
fn remember(annotations: &mut crate::object::Labels, old: &str) {
    let mut history = annotations.get(HISTORY).map(|history| format!("{history},{old}")).unwrap_or_else(|| old.to_owned());
    while history.len() > HISTORY_LENGTH {
        let Some(comma) = history.find(',') else { break };
        history.drain(..=comma);
    }
    annotations.insert(HISTORY.to_owned(), history);
}
