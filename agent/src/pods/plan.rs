//! What a pod needs next: a pure function of spec, observation and time. Rules from kubelet `kuberuntime_manager.go` (`computePodActions`),
//! `kuberuntime_container.go` (init containers, KEP-753 sidecars) and `active_deadline.go`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

use super::object::{BoundPod, Role};
use super::state::{Cause, Container, ImageState, Seen, VolumeState};
use crate::clock::{after, until};
use crate::runtime::ContainerState;

/// How long a failed pull reads `ErrImagePull` before it reads `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// One thing to do. Indices are into [`Seen::containers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set up volumes.
    MountVolumes,
    /// Make a sandbox, the `attempt`-th.
    CreateSandbox {
        /// How many there were before.
        attempt: u32,
    },
    /// See that the image is there, by the pull policy.
    EnsureImage {
        /// Container.
        index: usize,
    },
    /// Make and start a container.
    Start {
        /// Container.
        index: usize,
    },
    /// Say once that a container or its pull is in back-off.
    AnnounceBackoff {
        /// Container.
        index: usize,
    },
    /// Ask a container to stop and kill it after `grace`; it is not waited for.
    Stop {
        /// Container.
        index: usize,
        /// Time it has.
        grace: Duration,
        /// Why, for the Killing event.
        message: String,
    },
    /// The active deadline passed: the pod fails.
    Expire,
    /// All ended: note that nothing will be started again.
    Conclude,
    /// Release network and namespaces.
    StopSandbox,
    /// Take down volumes and cgroup.
    CleanUp,
    /// Remove the object from the API server and everything from this node.
    Finish,
}

/// What to do now and when to look again without being woken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// `None`: only when something happens.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }

    fn act(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }
}

/// Decides.
#[must_use]
pub fn plan(pod: &BoundPod, seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if seen.ending.is_some() || seen.terminal {
        return wind_down(pod, seen, now);
    }
    if let (Some(limit), Some(start)) = (pod.spec.active_deadline_seconds, seen.started_at) {
        let deadline = after(start, Duration::from_secs(limit.unsigned_abs()));
        if deadline <= now {
            return plan.act(Action::Expire);
        }
        plan.wake(deadline);
    }
    if concluded(pod, seen) {
        return plan.act(Action::Conclude);
    }
    match seen.volumes {
        VolumeState::Mounted => {}
        VolumeState::Failed { retry_at } if retry_at > now => {
            plan.wake(retry_at);
            return plan;
        }
        _ => return plan.act(Action::MountVolumes),
    }
    let Some(sandbox) = seen.sandbox.as_ref().filter(|s| s.ready) else {
        return plan_sandbox(seen, plan, now);
    };
    if plan_init(pod, seen, &sandbox.id, &mut plan, now) {
        for (index, (container, (_, spec))) in seen.containers.iter().zip(pod.containers()).enumerate() {
            if container.role == Role::App {
                keep_running(pod, spec, container, index, &sandbox.id, &mut plan, now);
            }
        }
    }
    for (index, container) in seen.containers.iter().enumerate() {
        if container.role == Role::Ephemeral && container.current.is_none() && container.restarts == 0 {
            launch(container, index, &mut plan, now);
        }
    }
    plan
}

fn plan_sandbox(seen: &Seen, mut plan: Plan, now: Timestamp) -> Plan {
    if let Some(retry_at) = seen.sandbox_retry.filter(|at| *at > now) {
        plan.wake(retry_at);
        return plan;
    }
    let attempt = seen.sandbox.as_ref().map_or(0, |s| s.attempt + 1);
    plan.act(Action::CreateSandbox { attempt })
}

/// Plans init containers; true when ordinary containers may run.
fn plan_init(pod: &BoundPod, seen: &Seen, sandbox: &str, plan: &mut Plan, now: Timestamp) -> bool {
    // Once an ordinary container ran in this sandbox, initialization is over, even if its traces were removed since.
    let initialized = seen.containers.iter().any(|c| c.role == Role::App && c.current.as_ref().is_some_and(|i| i.sandbox_id == sandbox));
    for (index, (container, (_, spec))) in seen.containers.iter().zip(pod.containers()).enumerate() {
        match container.role {
            Role::Sidecar => {
                keep_running(pod, spec, container, index, sandbox, plan, now);
                if !(initialized || container.is_running() && container.started) {
                    return false;
                }
            }
            Role::Init if !initialized => {
                let here = container.current.as_ref().filter(|i| i.sandbox_id == sandbox);
                let done = here.is_some_and(|i| i.state == ContainerState::Exited && i.exit_code == 0);
                if !done {
                    keep_running(pod, spec, container, index, sandbox, plan, now);
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}

/// Keeps one container as its restart policy wants it.
fn keep_running(pod: &BoundPod, spec: &ContainerSpec, c: &Container, index: usize, sandbox: &str, plan: &mut Plan, now: Timestamp) {
    let Some(instance) = &c.current else {
        return launch(c, index, plan, now);
    };
    if instance.is_live() {
        if c.stopping.is_some() {
            return;
        }
        let message = if instance.hash != c.hash && !instance.hash.is_empty() {
            Some(format!("Container {} definition changed, will be restarted", c.name))
        } else {
            c.unhealthy.clone()
        };
        if let Some(message) = message {
            let own = [&spec.startup_probe, &spec.liveness_probe].into_iter().flatten().find_map(|p| p.termination_grace_period_seconds);
            let grace = own.filter(|_| c.unhealthy.is_some()).or(pod.spec.termination_grace_period_seconds).unwrap_or(30);
            plan.actions.push(Action::Stop { index, grace: Duration::from_secs(grace.unsigned_abs()), message });
        }
        return;
    }
    let changed = instance.hash != c.hash && !instance.hash.is_empty();
    let same_sandbox = instance.sandbox_id == sandbox;
    if !changed && !restarts(pod, spec, c.role, instance.exit_code) && (same_sandbox || c.role != Role::Init) {
        return;
    }
    if let Some(at) = c.backoff.next_attempt(instance.ended_at()).filter(|at| *at > now && same_sandbox && !changed) {
        plan.wake(at);
        if c.announced != Some(instance.attempt) {
            plan.actions.push(Action::AnnounceBackoff { index });
        }
        return;
    }
    launch(c, index, plan, now);
}

/// Image first, then the container.
fn launch(c: &Container, index: usize, plan: &mut Plan, now: Timestamp) {
    match &c.image {
        ImageState::Unknown => plan.actions.push(Action::EnsureImage { index }),
        ImageState::Pulling => {}
        ImageState::Failed { at, retry_at, .. } => {
            let shown = after(*at, PULL_ERROR_SHOWN);
            if *retry_at <= now {
                plan.actions.push(Action::EnsureImage { index });
            } else if shown > now {
                plan.wake(shown.min(*retry_at));
            } else {
                plan.wake(*retry_at);
                if c.announced.is_none() {
                    plan.actions.push(Action::AnnounceBackoff { index });
                }
            }
        }
        ImageState::Present(_) => match c.failure.as_ref().and_then(|f| f.retry_at).filter(|at| *at > now) {
            Some(retry_at) => plan.wake(retry_at),
            None => plan.actions.push(Action::Start { index }),
        },
    }
}

/// Whether a container that ended so is started again.
#[must_use]
pub fn restarts(pod: &BoundPod, spec: &ContainerSpec, role: Role, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::App => {}
    }
    for rule in spec.restart_policy_rules.iter().flatten().filter(|r| r.action == "Restart") {
        if let Some(codes) = &rule.exit_codes {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            if listed == (codes.operator == "In") {
                return true;
            }
        }
    }
    match (spec.restart_policy.as_deref().unwrap_or_else(|| pod.restart_policy()), role) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, Role::Init) => exit_code != 0,
        _ => true,
    }
}

/// Whether nothing of the pod will ever run again by its own rules: all ordinary containers ended for good, or an init container failed for good.
#[must_use]
pub fn concluded(pod: &BoundPod, seen: &Seen) -> bool {
    let mut apps = 0;
    let mut ended = 0;
    for (container, (_, spec)) in seen.containers.iter().zip(pod.containers()) {
        let over = container.ended().filter(|i| !restarts(pod, spec, container.role, i.exit_code));
        match container.role {
            Role::Init if over.is_some_and(|i| i.exit_code != 0) => return true,
            Role::App => {
                apps += 1;
                ended += usize::from(over.is_some());
            }
            _ => {}
        }
    }
    apps > 0 && apps == ended
}

/// Stops what runs (ordinary containers together, then sidecars in reverse order), then the sandbox, then the rest.
fn wind_down(pod: &BoundPod, seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let own_grace = Duration::from_secs(pod.spec.termination_grace_period_seconds.unwrap_or(30).unsigned_abs());
    let deadline = seen.ending.as_ref().map_or_else(|| after(now, own_grace), |e| e.deadline);
    let grace = until(now, deadline);
    let forced = seen.ending.is_some() && grace.is_zero();
    let ordinary_live = seen.containers.iter().any(|c| c.role != Role::Sidecar && c.is_live());
    let last_sidecar = seen.containers.iter().rposition(|c| c.role == Role::Sidecar && c.is_live());
    for (index, c) in seen.containers.iter().enumerate().filter(|(_, c)| c.is_live()) {
        let its_turn = forced || if ordinary_live { c.role != Role::Sidecar } else { Some(index) == last_sidecar };
        // A second request is only worth it when it leaves clearly less time than the first.
        let asked = c.stopping.is_some_and(|by| by <= after(deadline, Duration::from_secs(1)));
        if its_turn && !asked {
            plan.actions.push(Action::Stop { index, grace, message: format!("Stopping container {}", c.name) });
        }
    }
    if seen.any_live() {
        if !forced && seen.ending.is_some() {
            plan.wake(deadline);
        }
        return plan;
    }
    if seen.sandbox.as_ref().is_some_and(|s| s.ready) {
        return plan.act(Action::StopSandbox);
    }
    if !seen.cleaned {
        return plan.act(Action::CleanUp);
    }
    match &seen.ending {
        Some(ending) if ending.cause == Cause::Deleted => plan.act(Action::Finish),
        _ => plan,
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Ending, Instance, SandboxView};
    use super::*;
    use crate::runtime::Image;
    use std::path::PathBuf;
    use std::sync::Arc;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    fn pod(spec: &str) -> BoundPod {
        BoundPod::decode(format!("{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{spec}}}").as_bytes()).expect("a pod")
    }

    /// A state in one line: `name:state` words, where state is `-` (nothing), `run`, `exit<code>@<second>`; `!` begins a kill request.
    fn seen(pod: &BoundPod, words: &str) -> Seen {
        let mut seen = Seen { volumes: VolumeState::Mounted, started_at: Some(at(0)), ..Seen::default() };
        seen.sandbox = Some(SandboxView { id: "s1".to_owned(), attempt: 0, ready: true, addresses: Vec::new() });
        seen.follow(pod);
        for word in words.split_whitespace() {
            let (name, state) = word.split_once(':').expect("name:state");
            let container = seen.container_mut(name).expect("in the spec");
            container.image = ImageState::Present(Arc::new(Image::default()));
            let instance = |state: ContainerState, exit_code: i32, end: i64| Instance {
                id: format!("c-{name}"),
                sandbox_id: "s1".to_owned(),
                attempt: 0,
                state,
                created_at: at(0),
                started_at: Some(at(0)),
                finished_at: Some(at(end)),
                exit_code,
                reason: String::new(),
                message: String::new(),
                image: String::new(),
                image_id: String::new(),
                hash: String::new(),
                log_path: PathBuf::new(),
            };
            if state.starts_with("run") {
                container.current = Some(instance(ContainerState::Running, 0, 0));
                container.started = true;
            }
            if let Some((code, end)) = state.strip_prefix("exit").and_then(|s| s.split_once('@')) {
                container.current = Some(instance(ContainerState::Exited, code.parse().expect("code"), end.parse().expect("second")));
            }
            if state.ends_with('!') {
                container.unhealthy = Some("unhealthy".to_owned());
            }
        }
        seen
    }

    /// Actions in one line.
    fn decided(pod: &BoundPod, seen: &Seen, now: i64) -> String {
        let plan = plan(pod, seen, at(now));
        let name = |index: usize| seen.containers[index].name.clone();
        let actions = plan.actions.iter().map(|action| match action {
            Action::EnsureImage { index } => format!("image {}", name(*index)),
            Action::Start { index } => format!("start {}", name(*index)),
            Action::AnnounceBackoff { index } => format!("announce {}", name(*index)),
            Action::Stop { index, grace, .. } => format!("stop {} {}", name(*index), grace.as_secs()),
            other => format!("{other:?}").to_lowercase(),
        });
        let wake = plan.wake_at.map(|at| format!("wake {}", at.as_second()));
        actions.chain(wake).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn containers_are_kept_as_their_restart_policy_wants() {
        let always = r#"{"containers":[{"name":"a"},{"name":"b"}]}"#;
        let on_failure = r#"{"restartPolicy":"OnFailure","containers":[{"name":"a"},{"name":"b"}]}"#;
        let never = r#"{"restartPolicy":"Never","containers":[{"name":"a"},{"name":"b"}]}"#;
        let own = r#"{"restartPolicy":"Never","containers":[{"name":"a","restartPolicy":"Never","restartPolicyRules":[{"action":"Restart","exitCodes":{"operator":"In","values":[42]}}]},{"name":"b"}]}"#;
        for (spec, state, wanted) in [
            (always, "a:- b:-", "start a, start b"),
            (always, "a:run b:run", ""),
            (always, "a:run b:exit0@5", "start b"),
            (always, "a:run! b:run", "stop a 30"),
            (on_failure, "a:exit0@5 b:exit1@5", "start b"),
            (on_failure, "a:exit0@5 b:run", ""),
            (on_failure, "a:exit0@5 b:exit0@5", "conclude"),
            (never, "a:exit1@5 b:run", ""),
            (never, "a:exit1@5 b:exit0@5", "conclude"),
            (own, "a:exit42@5 b:exit1@5", "start a"),
            (own, "a:exit41@5 b:exit1@5", "conclude"),
        ] {
            let pod = pod(spec);
            assert_eq!(decided(&pod, &seen(&pod, state), 10), wanted, "{spec} {state}");
        }
    }

    #[test]
    fn init_containers_run_in_order_and_sidecars_stay() {
        let spec = r#"{"initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"},{"name":"j"}],"containers":[{"name":"a"}]}"#;
        let never = r#"{"restartPolicy":"Never","initContainers":[{"name":"i"}],"containers":[{"name":"a"}]}"#;
        for (spec, state, wanted) in [
            (spec, "i:- s:- j:- a:-", "start i"),
            (spec, "i:run s:- j:- a:-", ""),
            (spec, "i:exit1@5 s:- j:- a:-", "start i"),
            (spec, "i:exit0@5 s:- j:- a:-", "start s"),
            (spec, "i:exit0@5 s:run j:- a:-", "start j"),
            (spec, "i:exit0@5 s:run j:exit0@6 a:-", "start a"),
            (spec, "i:exit0@5 s:exit1@9 j:exit0@6 a:run", "start s"),
            (spec, "i:- s:run j:- a:run", ""),
            (never, "i:exit1@5 a:-", "conclude"),
        ] {
            let pod = pod(spec);
            assert_eq!(decided(&pod, &seen(&pod, state), 10), wanted, "{state}");
        }
    }

    #[test]
    fn a_restart_waits_for_its_back_off_and_is_announced_once() {
        let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
        let mut seen = seen(&pod, "a:exit1@100");
        seen.containers[0].backoff.step(at(90), at(90));
        assert_eq!(decided(&pod, &seen, 101), "announce a, wake 110");
        seen.containers[0].announced = Some(0);
        assert_eq!(decided(&pod, &seen, 101), "wake 110");
        assert_eq!(decided(&pod, &seen, 110), "start a");
    }

    #[test]
    fn what_a_pod_stands_on_comes_first() {
        let pod = pod(r#"{"activeDeadlineSeconds":60,"containers":[{"name":"a"}]}"#);
        let mut state = seen(&pod, "");
        assert_eq!(decided(&pod, &state, 1), "image a, wake 60");
        state.sandbox = None;
        assert_eq!(decided(&pod, &state, 1), "createsandbox { attempt: 0 }, wake 60");
        state.sandbox_retry = Some(at(9));
        assert_eq!(decided(&pod, &state, 1), "wake 9");
        state.volumes = VolumeState::Failed { retry_at: at(5) };
        assert_eq!(decided(&pod, &state, 1), "wake 5");
        assert_eq!(decided(&pod, &state, 5), "mountvolumes, wake 60");
        assert_eq!(decided(&pod, &state, 60), "expire");
    }

    #[test]
    fn a_lost_sandbox_is_replaced_and_everything_runs_again_in_order() {
        let pod = pod(r#"{"initContainers":[{"name":"i"}],"containers":[{"name":"a"}]}"#);
        let mut state = seen(&pod, "i:exit0@5 a:exit137@50");
        if let Some(sandbox) = &mut state.sandbox {
            sandbox.ready = false;
        }
        assert_eq!(decided(&pod, &state, 60), "createsandbox { attempt: 1 }");
        state.sandbox = Some(SandboxView { id: "s2".to_owned(), attempt: 1, ready: true, addresses: Vec::new() });
        assert_eq!(decided(&pod, &state, 60), "start i");
    }

    #[test]
    fn a_pod_ends_with_its_containers_then_sidecars_backwards_then_the_rest() {
        let spec = r#"{"initContainers":[{"name":"s","restartPolicy":"Always"},{"name":"t","restartPolicy":"Always"}],"containers":[{"name":"a"},{"name":"b"}]}"#;
        let pod = pod(spec);
        let ending = |state: &str| {
            let mut seen = seen(&pod, state);
            seen.ending = Some(Ending { cause: Cause::Deleted, deadline: at(130) });
            seen
        };
        assert_eq!(decided(&pod, &ending("s:run t:run a:run b:run"), 100), "stop a 30, stop b 30, wake 130");
        assert_eq!(decided(&pod, &ending("s:run t:run a:exit0@1 b:exit0@1"), 110), "stop t 20, wake 130");
        assert_eq!(decided(&pod, &ending("s:run t:exit0@1 a:exit0@1 b:exit0@1"), 120), "stop s 10, wake 130");
        assert_eq!(decided(&pod, &ending("s:run t:run a:run b:run"), 130), "stop s 0, stop t 0, stop a 0, stop b 0");
        let mut done = ending("s:exit0@1 t:exit0@1 a:exit0@1 b:exit0@1");
        assert_eq!(decided(&pod, &done, 121), "stopsandbox");
        done.sandbox = None;
        assert_eq!(decided(&pod, &done, 121), "cleanup");
        done.cleaned = true;
        assert_eq!(decided(&pod, &done, 121), "finish");
    }

    #[test]
    fn a_shorter_grace_period_is_passed_on() {
        let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
        let mut state = seen(&pod, "a:run");
        state.containers[0].stopping = Some(at(130));
        state.ending = Some(Ending { cause: Cause::Deleted, deadline: at(130) });
        assert_eq!(decided(&pod, &state, 100), "wake 130");
        state.ending = Some(Ending { cause: Cause::Deleted, deadline: at(103) });
        assert_eq!(decided(&pod, &state, 100), "stop a 3, wake 103");
    }

    #[test]
    fn failed_pulls_are_shown_announced_and_tried_again() {
        let pod = pod(r#"{"containers":[{"name":"a"}]}"#);
        let mut state = seen(&pod, "");
        state.containers[0].image = ImageState::Failed { reason: "ErrImagePull", message: String::new(), at: at(10), retry_at: at(20) };
        assert_eq!(decided(&pod, &state, 10), "wake 12");
        assert_eq!(decided(&pod, &state, 12), "announce a, wake 20");
        assert_eq!(decided(&pod, &state, 20), "image a");
        state.containers[0].image = ImageState::Pulling;
        assert_eq!(decided(&pod, &state, 20), "");
    }
}
