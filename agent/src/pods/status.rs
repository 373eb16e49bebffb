//! The pod's status as the API shows it: a pure function. Rules from kubelet `kubelet_pods.go` (`getPhase`, `convertToAPIContainerStatuses`),
//! `status/generate.go` (conditions) and `kubelet_pods.go` (`sortPodIPs`).

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState as ApiState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus as ApiStatus,
    HostIP, PodCondition, PodIP, PodStatus,
};

use super::object::{BoundPod, Role};
use super::plan::{PULL_ERROR_SHOWN, restarts};
use super::qos;
use super::state::{Container, ImageState, Seen};
use crate::clock::{after, time};
use crate::runtime::ContainerState;

/// Facts about the node that appear in every pod's status.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Addresses of the node, primary first.
    pub addresses: Vec<IpAddr>,
    /// Name of the runtime: the scheme of container ids.
    pub scheme: String,
}

/// Makes the status. `previous` is what was last written: transition times and others' conditions come from it.
#[must_use]
pub fn status(pod: &BoundPod, seen: &Seen, node: &NodeFacts, previous: &PodStatus, now: Timestamp) -> PodStatus {
    let mut init = Vec::new();
    let mut apps = Vec::new();
    let mut ephemeral = Vec::new();
    let initialized = is_initialized(pod, seen);
    for (container, (role, spec)) in seen.containers.iter().zip(pod.containers()) {
        let one = container_status(pod, seen, container, spec, initialized, &node.scheme, now);
        match role {
            Role::Init | Role::Sidecar => init.push(one),
            Role::App => apps.push(one),
            Role::Ephemeral => ephemeral.push(one),
        }
    }
    let phase = phase(pod, seen, &apps, initialized);
    let mut out = PodStatus {
        phase: Some(phase.to_owned()),
        reason: seen.verdict.as_ref().map(|v| v.reason.clone()),
        message: seen.verdict.as_ref().map(|v| v.message.clone()),
        start_time: seen.started_at.map(time),
        qos_class: Some(previous.qos_class.clone().unwrap_or_else(|| qos::class(&pod.spec).to_string())),
        observed_generation: (pod.metadata.generation > 0).then_some(pod.metadata.generation),
        // Kept as they are: not the agent's to say.
        nominated_node_name: previous.nominated_node_name.clone(),
        resource_claim_statuses: previous.resource_claim_statuses.clone(),
        resize: previous.resize.clone(),
        ..PodStatus::default()
    };
    addresses(&mut out, pod, seen, node, previous);
    out.conditions = Some(conditions(pod, seen, phase, initialized, &init, &apps, previous, now));
    out.init_container_statuses = (!init.is_empty()).then_some(init);
    out.container_statuses = (!apps.is_empty()).then_some(apps);
    out.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    if seen.verdict.is_some() && seen.sandbox.is_none() && !seen.containers.iter().any(|c| c.current.is_some()) {
        // Rejected before anything ran: kubelet reports no containers.
        out.container_statuses = None;
        out.init_container_statuses = None;
    }
    out
}

fn addresses(out: &mut PodStatus, pod: &BoundPod, seen: &Seen, node: &NodeFacts, previous: &PodStatus) {
    if seen.started_at.is_some() {
        out.host_ip = node.addresses.first().map(ToString::to_string);
        out.host_ips = Some(node.addresses.iter().map(|ip| HostIP { ip: ip.to_string() }).collect());
    }
    let own: Vec<IpAddr> = match &seen.sandbox {
        Some(_) if pod.host_network() => node.addresses.clone(),
        Some(sandbox) => sandbox.addresses.clone(),
        None => Vec::new(),
    };
    if own.is_empty() {
        // Kubelet keeps the addresses of a pod that ended.
        out.pod_ip.clone_from(&previous.pod_ip);
        out.pod_ips.clone_from(&previous.pod_ips);
    } else {
        out.pod_ip = own.first().map(ToString::to_string);
        out.pod_ips = Some(own.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
}

/// Whether all init containers did their part.
fn is_initialized(pod: &BoundPod, seen: &Seen) -> bool {
    let app_began = seen.containers.iter().any(|c| c.role == Role::App && (c.current.is_some() || c.last.is_some()));
    app_began
        || seen.containers.iter().zip(pod.containers()).all(|(c, _)| match c.role {
            Role::Init => c.current.as_ref().is_some_and(|i| i.state == ContainerState::Exited && i.exit_code == 0),
            Role::Sidecar => c.is_running() && c.started,
            Role::App | Role::Ephemeral => true,
        })
}

fn container_status(
    pod: &BoundPod,
    seen: &Seen,
    c: &Container,
    spec: &ContainerSpec,
    initialized: bool,
    scheme: &str,
    now: Timestamp,
) -> ApiStatus {
    let stopping_all = seen.ending.is_some() || seen.terminal;
    let mut out = ApiStatus {
        name: c.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        restart_count: i32::try_from(c.current.as_ref().map_or(c.restarts, |i| i.attempt)).unwrap_or(i32::MAX),
        last_state: c.last.clone().map(|end| ApiState { terminated: Some(end), ..ApiState::default() }),
        started: Some(false),
        ..ApiStatus::default()
    };
    let Some(instance) = &c.current else {
        out.state = Some(if stopping_all && seen.verdict.is_none() && seen.sandbox.is_none() {
            waiting("ContainerCreating", None)
        } else {
            waiting_to_begin(c, initialized, now)
        });
        return out;
    };
    out.container_id = Some(format!("{scheme}://{}", instance.id));
    out.image_id.clone_from(&instance.image_id);
    if !instance.image.is_empty() {
        out.image.clone_from(&instance.image);
    }
    match instance.state {
        ContainerState::Running => {
            out.state = Some(ApiState {
                running: Some(ContainerStateRunning { started_at: Some(time(instance.started_at.unwrap_or(instance.created_at))) }),
                ..ApiState::default()
            });
            out.started = Some(c.started);
            out.ready = c.ready && c.role != Role::Ephemeral;
            out.resources.clone_from(&spec.resources);
            out.allocated_resources = spec.resources.as_ref().and_then(|r| r.requests.clone());
        }
        ContainerState::Created => out.state = Some(waiting_to_begin(c, true, now)),
        ContainerState::Exited | ContainerState::Unknown => {
            let ended = instance.terminated(scheme);
            let again = !stopping_all && restarts(pod, spec, c.role, instance.exit_code);
            out.ready = c.role == Role::Init && instance.exit_code == 0 && instance.state == ContainerState::Exited;
            match again.then(|| waiting_again(pod, c, now)).flatten() {
                Some(waiting) => {
                    out.last_state = Some(ApiState { terminated: Some(ended), ..ApiState::default() });
                    out.state = Some(waiting);
                }
                None => out.state = Some(ApiState { terminated: Some(ended), ..ApiState::default() }),
            }
        }
    }
    out
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    ApiState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..ApiState::default() }
}

/// State of a container that has no instance yet.
fn waiting_to_begin(c: &Container, initialized: bool, now: Timestamp) -> ApiState {
    if let ImageState::Failed { .. } = &c.image {
        return image_failure(c, now);
    }
    if let Some(failure) = &c.failure {
        return waiting(failure.reason, Some(failure.message.clone()));
    }
    let creating = initialized && c.role == Role::App || c.role == Role::Ephemeral;
    waiting(if creating { "ContainerCreating" } else { "PodInitializing" }, None)
}

fn image_failure(c: &Container, now: Timestamp) -> ApiState {
    let ImageState::Failed { reason, message, at, .. } = &c.image else {
        return waiting("ContainerCreating", None);
    };
    if *reason != "ErrImagePull" || after(*at, PULL_ERROR_SHOWN) > now {
        return waiting(reason, Some(message.clone()));
    }
    waiting("ImagePullBackOff", Some(message.clone()))
}

/// State of a container that ended and is to run again, when it has to wait for that.
fn waiting_again(pod: &BoundPod, c: &Container, now: Timestamp) -> Option<ApiState> {
    if matches!(c.image, ImageState::Failed { .. }) {
        return Some(image_failure(c, now));
    }
    let ended = c.ended()?;
    // Once announced it stays until the new container runs: in between there is nothing else to say.
    let announced = c.announced == Some(ended.attempt);
    let in_backoff = c.backoff.next_attempt(ended.ended_at()).is_some_and(|at| at > now || announced);
    if in_backoff {
        let message = format!(
            "back-off {} restarting failed container={} pod={}({})",
            go_duration(c.backoff.delay().as_secs()),
            c.name,
            pod.full_name(),
            pod.metadata.uid
        );
        return Some(waiting("CrashLoopBackOff", Some(message)));
    }
    c.failure.as_ref().map(|f| waiting(f.reason, Some(f.message.clone())))
}

/// Seconds as Go prints a duration (`10s`, `1m20s`, `5m0s`): people match on these words.
#[must_use]
pub fn go_duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

fn phase(pod: &BoundPod, seen: &Seen, apps: &[ApiStatus], initialized: bool) -> &'static str {
    if seen.verdict.is_some() && !seen.any_live() {
        return "Failed";
    }
    let over = (seen.terminal || seen.ending.is_some()) && !seen.any_live();
    let init_failed = seen.containers.iter().zip(pod.containers()).any(|(c, (_, spec))| {
        c.role == Role::Init && c.ended().is_some_and(|i| i.exit_code != 0 && !restarts(pod, spec, Role::Init, i.exit_code))
    });
    if init_failed && !initialized {
        return if seen.any_live() { "Pending" } else { "Failed" };
    }
    if !initialized {
        // A pod taken away before all its containers ran counts as failed.
        return if over && seen.ending.is_some() { "Failed" } else { "Pending" };
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for one in apps {
        let state = one.state.as_ref();
        let last = one.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        if state.is_some_and(|s| s.running.is_some()) {
            running += 1;
        } else if let Some(end) = state.and_then(|s| s.terminated.as_ref()) {
            stopped += 1;
            succeeded += i32::from(end.exit_code == 0);
        } else if last.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    match (waiting, running, stopped) {
        (1.., ..) if over => "Failed",
        (1.., ..) => "Pending",
        (0, 1.., _) => "Running",
        (0, 0, 1..) if over && stopped == succeeded => "Succeeded",
        (0, 0, 1..) if over => "Failed",
        // The next restart is due, or the last sidecar is still to stop.
        (0, 0, 1..) => "Running",
        _ => "Pending",
    }
}

#[allow(clippy::too_many_arguments)] // one value per line of upstream's generate.go
fn conditions(
    pod: &BoundPod,
    seen: &Seen,
    phase: &str,
    initialized: bool,
    init: &[ApiStatus],
    apps: &[ApiStatus],
    previous: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let sandbox_ready = seen.sandbox.as_ref().is_some_and(|s| s.ready && (pod.host_network() || !s.addresses.is_empty()));
    let containers_ready = containers_ready(pod, phase, init, apps);
    let ready = pod_ready(pod, &containers_ready, previous);
    let mut own = vec![
        ("PodReadyToStartContainers", (sandbox_ready, None, None)),
        ("Initialized", initialized_condition(pod, phase, initialized, init)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    let scheduled = previous.conditions.iter().flatten().any(|c| c.type_ == "PodScheduled");
    if !scheduled {
        own.push(("PodScheduled", (true, None, None)));
    }
    let generation = (pod.metadata.generation > 0).then_some(pod.metadata.generation);
    let mut out = Vec::with_capacity(6);
    for (kind, (holds, reason, message)) in own {
        let state = if holds { "True" } else { "False" };
        let old = previous.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = old.filter(|c| c.status == state).and_then(|c| c.last_transition_time.clone());
        out.push(PodCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_probe_time: None,
            last_transition_time: Some(since.unwrap_or_else(|| time(now))),
            observed_generation: generation,
        });
    }
    let foreign = previous.conditions.iter().flatten().filter(|c| !out.iter().any(|o| o.type_ == c.type_)).cloned().collect::<Vec<_>>();
    out.extend(foreign);
    out
}

type Verdict = (bool, Option<&'static str>, Option<String>);

fn containers_ready(pod: &BoundPod, phase: &str, init: &[ApiStatus], apps: &[ApiStatus]) -> Verdict {
    if phase == "Succeeded" {
        return (false, Some("PodCompleted"), None);
    }
    if phase == "Failed" {
        return (false, Some("PodFailed"), None);
    }
    let ready = |name: &str| init.iter().chain(apps).any(|s| s.name == name && s.ready);
    let counted = pod.containers().filter(|(role, _)| matches!(role, Role::Sidecar | Role::App));
    let unready: Vec<&str> = counted.filter(|(_, c)| !ready(&c.name)).map(|(_, c)| c.name.as_str()).collect();
    if unready.is_empty() {
        return (true, None, None);
    }
    (false, Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" "))))
}

fn pod_ready(pod: &BoundPod, containers: &Verdict, previous: &PodStatus) -> Verdict {
    if !containers.0 {
        return containers.clone();
    }
    let mut missing = Vec::new();
    for gate in pod.spec.readiness_gates.iter().flatten() {
        // Others write these: the stored copy is newer than what was last written from here.
        let all = pod.status.conditions.iter().flatten().chain(previous.conditions.iter().flatten());
        match all.into_iter().find(|c| c.type_ == gate.condition_type) {
            None => missing.push(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, c.status));
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() { (true, None, None) } else { (false, Some("ReadinessGatesNotReady"), Some(missing.join(", "))) }
}

fn initialized_condition(pod: &BoundPod, phase: &str, initialized: bool, init: &[ApiStatus]) -> Verdict {
    if phase == "Succeeded" {
        return (true, Some("PodCompleted"), None);
    }
    if initialized {
        return (true, None, None);
    }
    let done = |name: &str, role: Role| {
        init.iter().any(|s| s.name == name && if role == Role::Sidecar { s.started == Some(true) } else { s.ready })
    };
    let counted = pod.containers().filter(|(role, _)| matches!(role, Role::Sidecar | Role::Init));
    let open: Vec<&str> = counted.filter(|(role, c)| !done(&c.name, *role)).map(|(_, c)| c.name.as_str()).collect();
    (false, Some("ContainersNotInitialized"), Some(format!("containers with incomplete status: [{}]", open.join(" "))))
}
