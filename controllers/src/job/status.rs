//! The conditions of a job.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};

use crate::time;

/// The job will fail once its pods are gone.
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
/// The job will be complete once its pods are gone.
pub(super) const SUCCESS_CRITERIA: &str = "SuccessCriteriaMet";
pub(super) const SUSPENDED: &str = "Suspended";

/// A reason with its message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Why {
    pub(super) reason: String,
    pub(super) message: String,
}

impl Why {
    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }

    pub(super) fn of(condition: &JobCondition) -> Self {
        Self { reason: condition.reason.clone().unwrap_or_default(), message: condition.message.clone().unwrap_or_default() }
    }
}

/// Sets a condition; whether its status or reason is news.
pub(super) fn set(status: &mut JobStatus, type_: &str, value: bool, why: &Why, now: Timestamp) -> bool {
    let condition = JobCondition {
        type_: type_.to_owned(),
        status: if value { "True" } else { "False" }.to_owned(),
        reason: Some(why.reason.clone()),
        message: Some(why.message.clone()),
        last_probe_time: Some(time::api(now)),
        last_transition_time: Some(time::api(now)),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|found| found.type_ == type_) {
        Some(found) if found.status == condition.status => false,
        Some(found) => {
            *found = condition;
            true
        }
        // That something is not the case needs no saying before it ever was.
        None if !value => false,
        None => {
            conditions.push(condition);
            true
        }
    }
}
