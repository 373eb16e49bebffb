//! Failed pods are replaced later and later: 10 s, 20 s, 40 s … up to ten minutes, from the last failure on; a success in
//! between starts anew.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{pod::Pod, time};

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// How long the next pod must wait yet.
pub(super) fn remaining<'a>(pods: impl Iterator<Item = &'a Pod>, now: Timestamp) -> Duration {
    let (mut failures, mut last_success) = (Vec::new(), Timestamp::MIN);
    for pod in pods {
        let at = finished_at(pod, now);
        match pod.status.phase.as_str() {
            "Failed" => failures.push(at),
            "Succeeded" => last_success = last_success.max(at),
            _ => {}
        }
    }
    failures.retain(|at| *at > last_success);
    let Some(last) = failures.iter().max() else { return Duration::ZERO };
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
    let delay = (FIRST * 2u32.pow(doublings)).min(LONGEST);
    let due = last.checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX);
    time::between(now, due)
}

/// When the last container of a pod ended, or the best guess at it.
fn finished_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let ends = pod.status.container_statuses.iter().filter_map(|status| status.state.terminated.as_ref()?.finished_at);
    let ready = pod.condition("Ready").and_then(|ready| ready.last_transition_time);
    ends.max().or(pod.metadata.deletion_timestamp).or(ready).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{ContainerState, ContainerStatus, Terminated};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pod(phase: &str, second: i64) -> Pod {
        let mut pod = Pod::default();
        pod.status.phase = phase.into();
        let terminated = Some(Terminated { exit_code: 1, finished_at: Some(at(second)) });
        pod.status.container_statuses = vec![ContainerStatus { state: ContainerState { terminated }, ..ContainerStatus::default() }];
        pod
    }

    #[test]
    fn each_failure_doubles_the_wait_and_a_success_ends_it() {
        let wait = |pods: &[Pod]| remaining(pods.iter(), at(100)).as_secs();
        assert_eq!(wait(&[]), 0);
        assert_eq!(wait(&[pod("Failed", 95)]), 5);
        assert_eq!(wait(&[pod("Failed", 95), pod("Failed", 60)]), 15);
        assert_eq!(wait(&[pod("Failed", 95), pod("Failed", 60), pod("Succeeded", 99)]), 0);
        assert_eq!(wait(&[pod("Failed", 10)]), 0);
    }
}
