//! One task per pod. It collects what happened, asks [`mod@super::plan`] what to do, does it, and when nothing is left writes the status and
//! sleeps until the next signal or timer. Nothing long is waited for here: pulls, stops, hooks and probes are tasks that report back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, PodStatus};
use serde_json::json;

use super::launch::{self, Launched};
use super::object::{BoundPod, Role};
use super::plan::{Action, plan};
use super::registry::{ContainerRef, PodHandle, PodView, Signal};
use super::state::{Backoff, Cause, Ending, Failure, ImageState, Instance, SandboxView, Seen, Verdict, VolumeState};
use super::{hooks, publish, status, termination};
use crate::api;
use crate::clock::{after, until};
use crate::context::Context;
use crate::probes::{self, Kind, Probes};
use crate::pull::{self, Presence};
use crate::runtime::{ContainerState, ContainerStatus, Sandbox, SandboxState};
use crate::volumes::{self, Mounted};

/// An action that takes longer than this lets the status be written first (`ContainerCreating`); a quicker one saves that write.
const PATIENCE: Duration = Duration::from_millis(40);
/// Delay before what failed for reasons outside the pod is tried again (kubelet's pod sync back-off).
const RETRY: Duration = Duration::from_secs(10);

/// What the runtime already has of a pod when its worker starts.
#[derive(Debug, Default)]
pub struct Found {
    /// Its sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Its containers.
    pub containers: Vec<ContainerStatus>,
}

/// Runs one pod from first sight to removal.
pub struct Worker {
    ctx: Arc<Context>,
    handle: Arc<PodHandle>,
    pod: Arc<BoundPod>,
    seen: Seen,
    published: Arc<PodStatus>,
    /// The pod's version as of the last write of its status.
    published_version: u64,
    publish_after: Option<Timestamp>,
    publish_delay: Duration,
    probes: HashMap<String, Probes>,
    mounted: Mounted,
    volume_delay: Duration,
    sandbox_delay: Duration,
    finish_after: Option<Timestamp>,
    removed: bool,
    finished: bool,
}

impl Worker {
    /// A worker for a pod that was admitted, or rejected with `verdict`; `found` is what the runtime has of it.
    #[must_use]
    pub fn new(ctx: Arc<Context>, handle: Arc<PodHandle>, pod: Arc<BoundPod>, found: Found, verdict: Option<Verdict>) -> Self {
        let now = ctx.options.clock.now();
        let published = Arc::new(pod.status.clone());
        let published_version = pod.version();
        let started_at = Some(published.start_time.as_ref().map_or(now, |t| t.0));
        let terminal = pod.is_terminal() || verdict.is_some();
        let mut seen = Seen { started_at, terminal, verdict, ..Seen::default() };
        seen.follow(&pod);
        let mut worker = Self {
            ctx,
            handle,
            pod,
            seen,
            published,
            published_version,
            publish_after: None,
            publish_delay: Duration::ZERO,
            probes: HashMap::new(),
            mounted: Mounted::default(),
            volume_delay: Duration::ZERO,
            sandbox_delay: Duration::ZERO,
            finish_after: None,
            removed: false,
            finished: false,
        };
        worker.adopt(found);
        worker.note_deletion();
        worker
    }

    /// Runs until the pod is gone or the agent stops.
    pub async fn run(mut self) {
        let stop = self.ctx.stop.clone();
        let mut rounds = 0_u32;
        loop {
            self.absorb().await;
            let now = self.now();
            let next = plan(&self.pod, &self.seen, now);
            let mut actions = next.actions;
            if self.finish_after.is_some_and(|at| at > now) {
                actions.retain(|a| *a != Action::Finish);
            }
            rounds += 1;
            if !actions.is_empty() && rounds < 100 {
                for action in actions {
                    // On the heap: a waiting pod should cost no more than its state.
                    Box::pin(self.perform(action)).await;
                }
                if self.finished || stop.is_cancelled() {
                    break;
                }
                continue;
            }
            Box::pin(self.publish()).await;
            let wake = [next.wake_at, self.publish_after, self.mounted.refresh_at, self.finish_after];
            // A plan that finds no rest would spin: it is slowed down instead.
            let wake = if rounds >= 100 { Some(after(now, Duration::from_secs(1))) } else { wake.into_iter().flatten().min() };
            rounds = 0;
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep(until(self.now(), at).max(Duration::from_millis(1))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.handle.wait() => {}
                () = timer => {}
            }
        }
        if stop.is_cancelled() {
            // What is true now is said before the agent goes; containers go on.
            let _ = tokio::time::timeout(Duration::from_secs(2), self.publish()).await;
        }
    }

    fn now(&self) -> Timestamp {
        self.ctx.options.clock.now()
    }

    fn spec(&self, index: usize) -> Option<(Role, &ContainerSpec)> {
        let name = &self.seen.containers.get(index)?.name;
        self.pod.container(name)
    }

    /// Takes over what the runtime has from before the agent started.
    fn adopt(&mut self, mut found: Found) {
        found.sandboxes.sort_by_key(|s| s.attempt);
        if let Some(sandbox) = found.sandboxes.last() {
            self.seen.sandbox = Some(view_of(sandbox));
        }
        found.containers.sort_by_key(|c| c.attempt);
        let stored = self.published.clone();
        let all = [&stored.init_container_statuses, &stored.container_statuses, &stored.ephemeral_container_statuses];
        for old in all.into_iter().flatten().flatten() {
            if let Some(container) = self.seen.container_mut(&old.name) {
                container.restarts = u32::try_from(old.restart_count).unwrap_or(0);
                container.last = old.last_state.as_ref().and_then(|s| s.terminated.clone());
                container.started = old.started == Some(true);
                container.ready = old.ready;
            }
        }
        let scheme = self.ctx.facts.scheme.clone();
        for status in &found.containers {
            if let Some(container) = self.seen.container_mut(&status.name) {
                if let Some(before) = container.current.take() {
                    container.last = Some(before.terminated(&scheme));
                    container.previous = Some((before.id, before.log_path));
                }
                container.current = Some(Instance::of(status));
            }
        }
        for index in 0..self.seen.containers.len() {
            let container = &self.seen.containers[index];
            if container.is_running() {
                let (started, ready) = (container.started, container.ready);
                self.start_probes(index, started, ready);
            }
        }
        self.show();
    }

    /// Reads the inbox.
    async fn absorb(&mut self) {
        let mail = self.handle.collect();
        if let Some(pod) = mail.pod {
            self.follow(pod);
        }
        if mail.removed && !self.removed {
            self.removed = true;
            self.note_deletion();
        }
        for signal in mail.signals {
            Box::pin(self.take(signal)).await;
        }
        let now = self.now();
        if self.mounted.refresh_at.is_some_and(|at| at <= now) {
            Box::pin(self.refresh_volumes()).await;
        }
    }

    fn follow(&mut self, pod: Arc<BoundPod>) {
        let metadata_changed = pod.metadata.labels != self.pod.metadata.labels || pod.metadata.annotations != self.pod.metadata.annotations;
        self.keep_foreign_conditions(&pod);
        self.note_denied_readiness(&pod);
        self.pod = pod;
        self.seen.follow(&self.pod);
        self.note_deletion();
        if metadata_changed && self.mounted.shows_metadata {
            self.handle.signal(Signal::ObjectChanged);
        }
        self.show();
    }

    /// Conditions others wrote are carried along, so that they are neither forgotten nor overwritten.
    fn keep_foreign_conditions(&mut self, pod: &BoundPod) {
        let gates: Vec<&str> = pod.spec.readiness_gates.iter().flatten().map(|g| g.condition_type.as_str()).collect();
        if gates.is_empty() {
            return;
        }
        let published = Arc::make_mut(&mut self.published);
        let conditions = published.conditions.get_or_insert_default();
        for theirs in pod.status.conditions.iter().flatten().filter(|c| gates.contains(&c.type_.as_str())) {
            conditions.retain(|c| c.type_ != theirs.type_);
            conditions.push(theirs.clone());
        }
    }

    /// Readiness that somebody else wrote since is what the next status is compared with: so it is put right (kubelet's `needsReconcile`).
    fn note_denied_readiness(&mut self, pod: &BoundPod) {
        let ready = |status: &PodStatus| status.conditions.iter().flatten().find(|c| c.type_ == "Ready").cloned();
        let (Some(theirs), ours) = (ready(&pod.status), ready(&self.published)) else { return };
        // An older version only shows what was written from here before the last time.
        if pod.version() <= self.published_version || ours.is_none_or(|ours| ours.status == theirs.status) {
            return;
        }
        let conditions = Arc::make_mut(&mut self.published).conditions.get_or_insert_default();
        conditions.retain(|c| c.type_ != "Ready");
        conditions.push(theirs);
    }

    /// Begins (or hastens) the end when the object says so.
    fn note_deletion(&mut self) {
        let meta = &self.pod.metadata;
        if !self.removed && meta.deletion_timestamp.is_none() {
            return;
        }
        let now = self.now();
        let own = self.pod.spec.termination_grace_period_seconds.unwrap_or(30);
        // kubelet gives even force-deleted pods a second.
        let seconds = meta.deletion_grace_period_seconds.unwrap_or(if self.removed { 1 } else { own }).max(1).unsigned_abs();
        let mut deadline = after(now, Duration::from_secs(seconds));
        if let Some(Ending { cause: Cause::Deleted, deadline: old }) = &self.seen.ending {
            deadline = deadline.min(*old);
        }
        self.seen.ending = Some(Ending { cause: Cause::Deleted, deadline });
    }

    async fn take(&mut self, signal: Signal) {
        match signal {
            Signal::Exited(status) => self.note_exit(&status).await,
            Signal::SandboxLost(id) => {
                if let Some(sandbox) = self.seen.sandbox.as_mut().filter(|s| s.id == id) {
                    sandbox.ready = false;
                }
                Box::pin(self.relist()).await;
            }
            Signal::Probed { id, kind, passed, message } => self.note_probe(&id, kind, passed, message),
            Signal::Pulled { container, result } => self.note_pull(&container, result),
            Signal::StopFailed(id) => {
                let found = self.seen.containers.iter_mut().find(|c| c.current.as_ref().is_some_and(|i| i.id == id));
                if let Some(container) = found {
                    container.stopping = None;
                }
            }
            Signal::HookFailed { id, message } => {
                let found = self.seen.containers.iter_mut().find(|c| c.current.as_ref().is_some_and(|i| i.id == id && i.is_live()));
                if let Some(container) = found {
                    container.unhealthy = Some(message);
                }
            }
            Signal::ObjectChanged => match self.seen.volumes {
                VolumeState::Mounted => Box::pin(self.refresh_volumes()).await,
                VolumeState::Failed { .. } => self.seen.volumes = VolumeState::Absent,
                VolumeState::Absent => {}
            },
            Signal::Evict(verdict) => self.condemn(verdict),
            Signal::Relist => Box::pin(self.relist()).await,
        }
    }

    fn condemn(&mut self, verdict: Verdict) {
        if self.seen.terminal || self.seen.ending.is_some() {
            return;
        }
        let grace = self.pod.spec.termination_grace_period_seconds.unwrap_or(30).unsigned_abs();
        self.seen.verdict = Some(verdict);
        self.seen.terminal = true;
        self.seen.ending = Some(Ending { cause: Cause::Verdict, deadline: after(self.now(), Duration::from_secs(grace)) });
    }

    async fn note_exit(&mut self, status: &ContainerStatus) {
        if matches!(status.state, ContainerState::Running | ContainerState::Created) {
            return;
        }
        let (name, id) = (status.name.clone(), &status.id);
        let Some(container) = self.seen.container_mut(&name).filter(|c| c.current.as_ref().is_some_and(|i| i.id == *id && i.is_live()))
        else {
            return;
        };
        container.current = Some(Instance::of(status));
        container.image = ImageState::Unknown;
        container.stopping = None;
        container.unhealthy = None;
        container.started = false;
        container.ready = false;
        self.probes.remove(&name);
        if self.ctx.options.materialize
            && let Some((_, spec)) = self.pod.container(&name)
        {
            let message = termination::message(&self.ctx, &self.pod, spec, status).await;
            if let (Some(message), Some(instance)) = (message, self.seen.container_mut(&name).and_then(|c| c.current.as_mut())) {
                instance.message = message;
            }
        }
        self.show();
    }

    /// Asks the runtime for this pod's containers, after signals were lost.
    async fn relist(&mut self) {
        let Some(sandbox) = self.seen.sandbox.as_ref().map(|s| s.id.clone()) else { return };
        match self.ctx.runtime.list_containers(Some(&sandbox)).await {
            Ok(list) => {
                for status in &list {
                    self.note_exit(status).await;
                }
                let lost: Vec<Instance> = self.seen.containers.iter().filter_map(|c| c.current.clone()).filter(Instance::is_live).collect();
                for instance in lost.iter().filter(|i| !list.iter().any(|s| s.id == i.id)) {
                    let found = self.seen.containers.iter_mut().filter_map(|c| c.current.as_mut()).find(|i| i.id == instance.id);
                    if let Some(gone) = found {
                        gone.state = ContainerState::Unknown;
                        gone.finished_at = Some(self.ctx.options.clock.now());
                        "The container could not be located when the pod was terminated".clone_into(&mut gone.message);
                    }
                }
            }
            Err(error) => tracing::warn!(pod = self.pod.full_name(), %error, "containers could not be listed"),
        }
    }

    fn note_probe(&mut self, id: &str, kind: Kind, passed: bool, message: String) {
        let running = |c: &super::state::Container| c.current.as_ref().is_some_and(|i| i.id == id && i.state == ContainerState::Running);
        let Some(index) = self.seen.containers.iter().position(running) else { return };
        let container = &mut self.seen.containers[index];
        match (kind, passed) {
            (Kind::Readiness, _) => container.ready = passed,
            (Kind::Startup, true) => self.start_probes(index, true, false),
            (Kind::Startup | Kind::Liveness, false) => container.unhealthy = Some(message),
            (Kind::Liveness, true) => {}
        }
        self.show();
    }

    fn note_pull(&mut self, name: &str, result: Result<Arc<crate::runtime::Image>, (&'static str, String)>) {
        let now = self.now();
        let Some(container) = self.seen.container_mut(name) else { return };
        match result {
            Ok(image) => {
                container.image = ImageState::Present(image);
                container.pull_backoff = Backoff::default();
                container.announced = None;
            }
            Err((reason, message)) => {
                container.pull_backoff.step(now, now);
                container.announced = None;
                let retry_at = after(now, container.pull_backoff.delay());
                container.image = ImageState::Failed { reason, message, at: now, retry_at };
            }
        }
    }

    /// Starts the probes a running container has now, or says at once what they would say.
    fn start_probes(&mut self, index: usize, started: bool, ready: bool) {
        let Some((role, spec)) = self.spec(index) else { return };
        let spec = spec.clone();
        let addresses = self.pod_addresses();
        let container = &mut self.seen.containers[index];
        let Some(instance) = &container.current else { return };
        let virtual_or_plain = !self.ctx.options.materialize || !matches!(role, Role::App | Role::Sidecar);
        let wants = |probe: &Option<_>| probe.is_some() && !virtual_or_plain;
        container.started = started || !wants(&spec.startup_probe);
        container.ready = container.started && (ready || !wants(&spec.readiness_probe));
        if virtual_or_plain || spec.startup_probe.is_none() && spec.readiness_probe.is_none() && spec.liveness_probe.is_none() {
            return;
        }
        let target = probes::Target {
            id: instance.id.clone(),
            address: addresses,
            started_at: instance.started_at.unwrap_or(instance.created_at),
            ready: container.ready,
        };
        let probes = probes::start(&self.ctx, &self.handle, &self.pod, &spec, &target, container.started);
        self.probes.insert(container.name.clone(), probes);
    }

    fn pod_addresses(&self) -> Option<std::net::IpAddr> {
        if self.pod.host_network() {
            return self.ctx.facts.addresses.first().copied();
        }
        self.seen.sandbox.as_ref().and_then(|s| s.addresses.first().copied())
    }

    async fn perform(&mut self, action: Action) {
        tracing::trace!(pod = self.pod.full_name(), ?action, "pod action");
        match action {
            Action::MountVolumes => self.mount_volumes().await,
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            Action::EnsureImage { index } => self.ensure_image(index).await,
            Action::Start { index } => self.start(index).await,
            Action::AnnounceBackoff { index } => self.announce_backoff(index),
            Action::Stop { index, grace, message } => self.stop(index, grace, message),
            Action::Expire => self.condemn(Verdict {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            }),
            Action::Conclude => self.seen.terminal = true,
            Action::StopSandbox => self.stop_sandbox().await,
            Action::CleanUp => self.clean_up().await,
            Action::Finish => self.finish().await,
        }
        self.show();
    }

    async fn mount_volumes(&mut self) {
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        let mut mount = Box::pin(async move { volumes::mount(&ctx, &pod).await });
        let result = match tokio::time::timeout(PATIENCE, &mut mount).await {
            Ok(result) => result,
            Err(_) => {
                Box::pin(self.publish()).await;
                mount.await
            }
        };
        match result {
            Ok(mounted) => {
                self.mounted = mounted;
                self.volume_delay = Duration::ZERO;
                self.seen.volumes = VolumeState::Mounted;
            }
            Err(message) => {
                self.ctx.recorder.warning(&self.pod, None, "FailedMount", message);
                self.volume_delay = (self.volume_delay * 2).clamp(Duration::from_millis(500), Duration::from_secs(122));
                self.seen.volumes = VolumeState::Failed { retry_at: after(self.now(), self.volume_delay) };
            }
        }
    }

    async fn refresh_volumes(&mut self) {
        match volumes::mount(&self.ctx, &self.pod).await {
            Ok(mounted) => self.mounted = mounted,
            Err(message) => {
                tracing::debug!(pod = self.pod.full_name(), message, "volumes not refreshed");
                self.mounted.refresh_at = Some(after(self.now(), Duration::from_secs(30)));
            }
        }
    }

    async fn create_sandbox(&mut self, attempt: u32) {
        if let Some(old) = self.seen.sandbox.take() {
            let _ = self.ctx.runtime.stop_sandbox(&old.id).await;
            self.ctx
                .recorder
                .normal(&self.pod, None, "SandboxChanged", || "Pod sandbox changed, it will be killed and re-created.".to_owned());
        }
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        let mut create = Box::pin(async move { launch::sandbox(&ctx, &pod, attempt).await });
        let result = match tokio::time::timeout(PATIENCE, &mut create).await {
            Ok(result) => result,
            Err(_) => {
                Box::pin(self.publish()).await;
                create.await
            }
        };
        match result {
            Ok(sandbox) => {
                self.sandbox_delay = Duration::ZERO;
                self.seen.sandbox_retry = None;
                self.seen.sandbox = Some(view_of(&sandbox));
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.ctx.recorder.warning(&self.pod, None, "FailedCreatePodSandBox", message);
                self.sandbox_delay = (self.sandbox_delay * 2).clamp(Duration::from_secs(2), Duration::from_secs(60));
                self.seen.sandbox_retry = Some(after(self.now(), self.sandbox_delay));
                self.seen.sandbox = None;
            }
        }
    }

    async fn ensure_image(&mut self, index: usize) {
        let Some((_, spec)) = self.spec(index) else { return };
        let (name, presence) = (spec.name.clone(), pull::look(&self.ctx, &self.pod, spec).await);
        match presence {
            Presence::Here(image) => self.seen.containers[index].image = ImageState::Present(image),
            Presence::Refused(reason, message) => {
                let now = self.now();
                let retry_at = after(now, RETRY);
                self.seen.containers[index].image = ImageState::Failed { reason, message, at: now, retry_at };
            }
            Presence::Pull => {
                self.seen.containers[index].image = ImageState::Pulling;
                pull::begin(&self.ctx, &self.handle, &self.pod, &name);
            }
        }
    }

    async fn start(&mut self, index: usize) {
        let now = self.now();
        let Some(sandbox) = self.seen.sandbox.clone() else { return };
        let Some((_, spec)) = self.spec(index) else { return };
        let spec = spec.clone();
        let container = &self.seen.containers[index];
        let ImageState::Present(image) = container.image.clone() else { return };
        let request =
            launch::Request { spec: spec.clone(), attempt: container.next_attempt(), hash: container.hash.clone(), image, sandbox };
        let (ctx, pod, mounted) = (self.ctx.clone(), self.pod.clone(), self.mounted.clone());
        let mut run = Box::pin(async move { launch::container(&ctx, &pod, &mounted, request).await });
        let launched = match tokio::time::timeout(PATIENCE, &mut run).await {
            Ok(launched) => launched,
            Err(_) => {
                Box::pin(self.publish()).await;
                run.await
            }
        };
        self.note_launch(index, launched, now).await;
    }

    async fn note_launch(&mut self, index: usize, launched: Launched, now: Timestamp) {
        let scheme = self.ctx.facts.scheme.clone();
        let container = &mut self.seen.containers[index];
        container.announced = None;
        let (instance, failure) = match launched {
            Launched::Running(instance) => (instance, None),
            Launched::Broken(instance, failure) => (instance, Some(failure)),
            Launched::Refused { reason, message } => {
                container.failure = Some(Failure { reason, message, retry_at: Some(after(now, RETRY)) });
                return;
            }
        };
        let mut leftover = None;
        if let Some(before) = container.current.take() {
            container.backoff.step(before.ended_at(), now);
            container.last = Some(before.terminated(&scheme));
            leftover = container.previous.replace((before.id, before.log_path));
        }
        container.restarts = instance.attempt;
        container.failure = failure;
        container.unhealthy = None;
        container.stopping = None;
        container.image = if failure_of(container) { ImageState::Unknown } else { std::mem::take(&mut container.image) };
        let running = instance.state == ContainerState::Running;
        let id = instance.id.clone();
        container.current = Some(instance);
        if running {
            self.start_probes(index, false, false);
            if let Some((_, spec)) = self.spec(index) {
                hooks::after_start(&self.ctx, &self.handle, &self.pod, spec, &id, self.pod_addresses());
            }
        }
        // One ended instance is kept for `logs --previous`; the one before it goes.
        if let Some((id, log)) = leftover {
            let _ = self.ctx.runtime.remove_container(&id).await;
            let _ = tokio::fs::remove_file(log).await;
        }
    }

    fn announce_backoff(&mut self, index: usize) {
        let container = &mut self.seen.containers[index];
        let name = container.name.clone();
        if let ImageState::Failed { reason, message, .. } = &container.image {
            container.announced = Some(u32::MAX);
            let reason = *reason;
            let detail = message.clone();
            let image = self.pod.container(&name).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
            if let ImageState::Failed { reason: "ErrImagePull", message, .. } = &mut self.seen.containers[index].image {
                *message = format!("Back-off pulling image \"{image}\": ErrImagePull: {detail}");
                self.ctx.recorder.normal(&self.pod, Some(&name), "BackOff", || format!("Back-off pulling image \"{image}\""));
                self.ctx.recorder.warning(&self.pod, Some(&name), "Failed", "Error: ImagePullBackOff".to_owned());
            } else {
                self.ctx.recorder.warning(&self.pod, Some(&name), "Failed", format!("Error: {reason}"));
            }
            return;
        }
        container.announced = container.current.as_ref().map(|i| i.attempt);
        let message = format!("Back-off restarting failed container {name} in pod {}({})", self.pod.full_name(), self.pod.metadata.uid);
        self.ctx.recorder.warning(&self.pod, Some(&name), "BackOff", message);
    }

    fn stop(&mut self, index: usize, grace: Duration, message: String) {
        let now = self.now();
        let Some((_, spec)) = self.spec(index) else { return };
        let spec = spec.clone();
        let address = self.pod_addresses();
        let container = &mut self.seen.containers[index];
        let Some(instance) = container.current.clone() else { return };
        let first = container.stopping.is_none();
        container.stopping = Some(after(now, grace));
        if first {
            self.ctx.recorder.normal(&self.pod, Some(&spec.name), "Killing", || message);
        }
        let (ctx, handle, pod) = (self.ctx.clone(), self.handle.clone(), self.pod.clone());
        self.ctx.tasks.spawn(async move {
            let left = if first { hooks::before_stop(&ctx, &pod, &spec, &instance, address, grace).await } else { grace };
            let stopped = match ctx.runtime.stop_container(&instance.id, left).await {
                Ok(()) => ctx.runtime.container_status(&instance.id).await,
                Err(error) => Err(error),
            };
            match stopped {
                Ok(status) => handle.signal(Signal::Exited(Box::new(status))),
                Err(crate::runtime::RuntimeError::NotFound { .. }) => handle.signal(Signal::Relist),
                Err(error) => {
                    ctx.recorder.warning(&pod, Some(&spec.name), "FailedKillPod", format!("error killing pod: {error}"));
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    handle.signal(Signal::StopFailed(instance.id));
                }
            }
        });
    }

    async fn stop_sandbox(&mut self) {
        let Some(id) = self.seen.sandbox.as_ref().map(|s| s.id.clone()) else { return };
        if let Err(error) = self.ctx.runtime.stop_sandbox(&id).await {
            self.ctx.recorder.warning(&self.pod, None, "FailedKillPod", format!("error killing pod: failed to stop sandbox: {error}"));
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
        if let Some(sandbox) = &mut self.seen.sandbox {
            sandbox.ready = false;
        }
    }

    async fn clean_up(&mut self) {
        self.probes.clear();
        volumes::unmount(&self.ctx, &self.pod).await;
        self.mounted = Mounted::default();
        if let Some(cgroups) = self.ctx.cgroups.as_ref().filter(|_| self.ctx.options.materialize) {
            cgroups.remove_pod(&self.pod).await;
        }
        self.seen.cleaned = true;
    }

    /// The end: last status, object, runtime, files, in this order.
    async fn finish(&mut self) {
        if !self.removed {
            Box::pin(self.publish()).await;
            let meta = &self.pod.metadata;
            let path = format!("/api/v1/namespaces/{}/pods/{}", meta.namespace, meta.name);
            let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}});
            let bytes = serde_json::to_vec(&body).unwrap_or_default();
            match api::call(&self.ctx.client, Method::DELETE, &path, api::JSON, bytes).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    tracing::debug!(pod = self.pod.full_name(), %error, "pod object not removed, trying again");
                    self.finish_after = Some(after(self.now(), Duration::from_secs(2)));
                    return;
                }
            }
        }
        launch::remove_all(&self.ctx, &self.pod, &self.seen).await;
        self.finished = true;
    }

    /// Writes the status if something visible changed.
    async fn publish(&mut self) {
        let now = self.now();
        if self.removed || self.publish_after.is_some_and(|at| at > now) || self.pod.is_terminal() && self.seen.verdict.is_none() {
            return;
        }
        let next = status::status(&self.pod, &self.seen, &self.ctx.facts, &self.published, now);
        let Some(body) = publish::patch(&self.pod, &self.published, &next) else {
            self.publish_after = None;
            return;
        };
        let meta = &self.pod.metadata;
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", meta.namespace, meta.name);
        match api::patch_for_version(&self.ctx.client, &path, api::STRATEGIC_MERGE, &body).await {
            Ok(version) => {
                self.published_version = version;
                self.publish_after = None;
                self.publish_delay = Duration::ZERO;
                self.published = Arc::new(next);
                self.handle.show_status(self.published.clone());
            }
            // Gone, or another pod of that name: nobody is left to tell.
            Err(error) if error.is_not_found() || error.is_conflict() && error.message.contains("uid") => {
                self.removed = true;
                self.publish_after = None;
                self.note_deletion();
                self.handle.remove();
            }
            Err(error) => {
                self.publish_delay = (self.publish_delay * 2).clamp(Duration::from_millis(500), Duration::from_secs(30));
                self.publish_after = Some(after(now, self.publish_delay));
                tracing::warn!(pod = self.pod.full_name(), code = error.code, %error, "pod status not written, trying again");
            }
        }
    }

    /// Shows the streaming server what there is.
    fn show(&self) {
        if self.seen.terminal && !self.seen.any_live() {
            self.handle.set_over();
        }
        let containers = self.seen.containers.iter().map(|c| ContainerRef {
            name: c.name.clone(),
            id: c.current.as_ref().map(|i| i.id.clone()),
            running: c.is_running(),
            log_path: c.current.as_ref().map(|i| i.log_path.clone()).unwrap_or_default(),
            previous: c.previous.clone(),
            waiting: match (&c.image, &c.failure) {
                (ImageState::Failed { message, .. }, _) => format!("trying and failing to pull image: {message}"),
                (_, Some(failure)) => failure.reason.to_owned(),
                _ => if c.role == Role::App { "ContainerCreating" } else { "PodInitializing" }.to_owned(),
            },
        });
        self.handle.show(PodView {
            pod: self.pod.clone(),
            status: self.published.clone(),
            sandbox_id: self.seen.sandbox.as_ref().map(|s| s.id.clone()),
            containers: containers.collect(),
        });
    }
}

fn failure_of(container: &super::state::Container) -> bool {
    container.failure.is_some()
}

fn view_of(sandbox: &Sandbox) -> SandboxView {
    SandboxView {
        id: sandbox.id.clone(),
        attempt: sandbox.attempt,
        ready: sandbox.state == SandboxState::Ready,
        addresses: sandbox.addresses.clone(),
    }
}
