//! What the agent knows about one pod: the input of [`super::plan`] and [`super::status`], plain data without I/O.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStateTerminated;

use super::object::{BoundPod, Role};
use crate::clock::{after, time, until};
use crate::runtime::{ContainerState, ContainerStatus, Image};

/// Waiting times between attempts, as client-go `util/flowcontrol/backoff.go`: doubling, forgotten after twice the longest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    delay: Duration,
    updated: Option<Timestamp>,
}

impl Backoff {
    /// First delay of containers and pulls.
    pub const FIRST: Duration = Duration::from_secs(10);
    /// Longest delay of containers and pulls.
    pub const LONGEST: Duration = Duration::from_secs(300);

    /// When the next attempt may begin after one that ended at `ended`; `None` = at once.
    #[must_use]
    pub fn next_attempt(&self, ended: Timestamp) -> Option<Timestamp> {
        let updated = self.updated?;
        (until(updated, ended) <= Self::LONGEST * 2).then(|| after(ended, self.delay))
    }

    /// The delay that applies now.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Notes an attempt at `now` that follows one that ended at `ended`.
    pub fn step(&mut self, ended: Timestamp, now: Timestamp) {
        self.delay = match self.updated {
            Some(updated) if until(updated, ended) <= Self::LONGEST * 2 => (self.delay * 2).min(Self::LONGEST),
            _ => Self::FIRST,
        };
        self.updated = Some(now);
    }
}

/// One container of the runtime that belongs to a container of the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The runtime's id.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// Restart count when it was made.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code when ended.
    pub exit_code: i32,
    /// The runtime's reason, else empty.
    pub reason: String,
    /// Termination message, else the runtime's words.
    pub message: String,
    /// Image as written in the spec it was made from.
    pub image: String,
    /// Image id.
    pub image_id: String,
    /// Hash of the spec it was made from.
    pub hash: String,
    /// Its log file.
    pub log_path: PathBuf,
}

impl Instance {
    /// Reads what the runtime reports.
    #[must_use]
    pub fn of(status: &ContainerStatus) -> Self {
        Self {
            id: status.id.clone(),
            sandbox_id: status.sandbox_id.clone(),
            attempt: status.attempt,
            state: status.state,
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            image: status.image.clone(),
            image_id: status.image_id.clone(),
            hash: status.annotations.get(super::HASH_ANNOTATION).cloned().unwrap_or_default(),
            log_path: status.log_path.clone(),
        }
    }

    /// Whether it may hold a process.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, ContainerState::Running | ContainerState::Created)
    }

    /// Whether it ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, ContainerState::Exited | ContainerState::Unknown)
    }

    /// When it ended, for back-off.
    #[must_use]
    pub fn ended_at(&self) -> Timestamp {
        self.finished_at.or(self.started_at).unwrap_or(self.created_at)
    }

    /// Its end in API terms, with kubelet's reasons.
    #[must_use]
    pub fn terminated(&self, scheme: &str) -> ContainerStateTerminated {
        let reason = match (self.reason.as_str(), self.state, self.exit_code) {
            ("", ContainerState::Unknown, _) => "ContainerStatusUnknown",
            ("", _, 0) => "Completed",
            ("", ..) => "Error",
            (given, ..) => given,
        };
        ContainerStateTerminated {
            container_id: Some(format!("{scheme}://{}", self.id)),
            exit_code: if self.state == ContainerState::Unknown && self.exit_code == 0 { 137 } else { self.exit_code },
            finished_at: Some(time(self.ended_at())),
            message: (!self.message.is_empty()).then(|| self.message.clone()),
            reason: Some(reason.to_owned()),
            signal: None,
            started_at: Some(time(self.started_at.unwrap_or(self.created_at))),
        }
    }
}

/// Where a container's image stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ImageState {
    /// Not looked at for the coming attempt.
    #[default]
    Unknown,
    /// Being fetched.
    Pulling,
    /// Here.
    Present(Arc<Image>),
    /// Could not be had; tried again at `retry_at`.
    Failed {
        /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`, `ImageInspectError`.
        reason: &'static str,
        /// Words for the user.
        message: String,
        /// When it failed.
        at: Timestamp,
        /// When to try again.
        retry_at: Timestamp,
    },
}

/// Why a container could not be made or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`, …
    pub reason: &'static str,
    /// Words for the user.
    pub message: String,
    /// When to try again; `None` when the restart rules decide.
    pub retry_at: Option<Timestamp>,
}

/// One container of the spec and what became of it.
#[derive(Debug, Clone)]
pub struct Container {
    /// Name in the spec.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Hash of its spec.
    pub hash: String,
    /// The latest instance.
    pub current: Option<Instance>,
    /// How the one before ended.
    pub last: Option<ContainerStateTerminated>,
    /// Id and log of the one before, kept for `logs --previous`.
    pub previous: Option<(String, PathBuf)>,
    /// Restarts so far, at least what the API server remembers.
    pub restarts: u32,
    /// Image.
    pub image: ImageState,
    /// Why the last attempt to make or start it failed.
    pub failure: Option<Failure>,
    /// Back-off between restarts.
    pub backoff: Backoff,
    /// Back-off between pulls.
    pub pull_backoff: Backoff,
    /// Attempt (restart or pull) whose back-off was announced by an event.
    pub announced: Option<u32>,
    /// Startup probe passed (or there is none and it runs).
    pub started: bool,
    /// Readiness probe passes (or there is none and it is started).
    pub ready: bool,
    /// Why it must be stopped and made anew: a failed probe, a failed hook.
    pub unhealthy: Option<String>,
    /// It is being stopped and will be killed by then.
    pub stopping: Option<Timestamp>,
}

impl Container {
    /// A container nothing is known about yet.
    #[must_use]
    pub fn new(name: &str, role: Role, hash: String) -> Self {
        Self {
            name: name.to_owned(),
            role,
            hash,
            current: None,
            last: None,
            previous: None,
            restarts: 0,
            image: ImageState::Unknown,
            failure: None,
            backoff: Backoff::default(),
            pull_backoff: Backoff::default(),
            announced: None,
            started: false,
            ready: false,
            unhealthy: None,
            stopping: None,
        }
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|c| c.state == ContainerState::Running)
    }

    /// Whether the runtime may hold a process for it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.current.as_ref().is_some_and(Instance::is_live)
    }

    /// The latest instance if it ended.
    #[must_use]
    pub fn ended(&self) -> Option<&Instance> {
        self.current.as_ref().filter(|c| c.has_ended())
    }

    /// Restart count the next instance gets.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        self.current.as_ref().map_or(self.restarts, |c| c.attempt.max(self.restarts) + 1)
    }
}

/// The pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxView {
    /// The runtime's id.
    pub id: String,
    /// How many there were before.
    pub attempt: u32,
    /// Whether it can take containers.
    pub ready: bool,
    /// Addresses, primary first.
    pub addresses: Vec<IpAddr>,
}

/// Where the pod's volumes stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum VolumeState {
    /// Not set up.
    #[default]
    Absent,
    /// Usable.
    Mounted,
    /// Setting up failed; tried again then.
    Failed {
        /// When to try again.
        retry_at: Timestamp,
    },
}

/// Why everything of the pod is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its object has a deletion timestamp or is gone.
    Deleted,
    /// The agent decided: deadline exceeded, evicted.
    Verdict,
}

/// The end of a pod in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub cause: Cause,
    /// When the last container is to be killed at the latest.
    pub deadline: Timestamp,
}

/// A reason for the whole pod to be `Failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `Evicted`, `OutOfcpu`, `NodeAffinity`, …
    pub reason: String,
    /// Words for the user.
    pub message: String,
}

/// Everything observed about one pod.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Containers in the order of [`BoundPod::containers`].
    pub containers: Vec<Container>,
    /// The latest sandbox.
    pub sandbox: Option<SandboxView>,
    /// After a failed attempt to make one: when to try again.
    pub sandbox_retry: Option<Timestamp>,
    /// Volumes.
    pub volumes: VolumeState,
    /// When the agent first saw the pod (or what the API server remembers).
    pub started_at: Option<Timestamp>,
    /// Everything is to stop.
    pub ending: Option<Ending>,
    /// The pod as a whole failed.
    pub verdict: Option<Verdict>,
    /// Nothing will ever be started again.
    pub terminal: bool,
    /// Volumes and cgroup are gone.
    pub cleaned: bool,
}

impl Seen {
    /// Whether any process may still run.
    #[must_use]
    pub fn any_live(&self) -> bool {
        self.containers.iter().any(Container::is_live)
    }

    /// Makes the container list match the pod's spec, keeping what is known; called whenever the spec changes.
    pub fn follow(&mut self, pod: &BoundPod) {
        let mut old = std::mem::take(&mut self.containers);
        for (role, spec) in pod.containers() {
            let hash = super::container_hash(spec);
            let container = match old.iter().position(|c| c.name == spec.name) {
                Some(at) => {
                    let mut kept = old.swap_remove(at);
                    if kept.hash != hash && !matches!(kept.image, ImageState::Pulling) {
                        kept.image = ImageState::Unknown;
                        kept.failure = None;
                    }
                    Container { role, hash, ..kept }
                }
                None => Container::new(&spec.name, role, hash),
            };
            self.containers.push(container);
        }
    }

    /// The container of that name.
    pub fn container_mut(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    #[test]
    fn back_off_doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_attempt(at(0)), None, "the first restart is immediate");
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.step(at(now), at(now));
            delays.push(backoff.delay().as_secs());
            now += i64::try_from(backoff.delay().as_secs()).expect("small");
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.next_attempt(at(now)), Some(at(now + 300)));
        assert_eq!(backoff.next_attempt(at(now + 601)), None, "a container that ran for ten minutes starts afresh");
    }
}
