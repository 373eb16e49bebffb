//! Lifecycle hooks: after start and before stop (kubelet `lifecycle/handlers.go`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, LifecycleHandler};

use super::object::BoundPod;
use super::registry::{PodHandle, Signal};
use super::state::Instance;
use crate::context::Context;
use crate::probes;

/// A hook after start has no limit of its own upstream; here it has this one, so that nothing waits for ever.
const AFTER_START_LIMIT: Duration = Duration::from_secs(600);

/// Runs the hook after start beside the container; when it fails, the container is told to go.
pub fn after_start(
    ctx: &Arc<Context>,
    handle: &Arc<PodHandle>,
    pod: &Arc<BoundPod>,
    spec: &ContainerSpec,
    id: &str,
    address: Option<IpAddr>,
) {
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.clone()).filter(|_| ctx.options.materialize) else { return };
    let (ctx, handle, pod, spec, id) = (ctx.clone(), handle.clone(), pod.clone(), spec.clone(), id.to_owned());
    ctx.clone().tasks.spawn(async move {
        if let Err(error) = run(&ctx, &spec, &hook, &id, address, AFTER_START_LIMIT).await {
            ctx.recorder.warning(&pod, Some(&spec.name), "FailedPostStartHook", format!("PostStartHook failed: {error}"));
            handle.signal(Signal::HookFailed { id, message: "FailedPostStartHook".to_owned() });
        }
    });
}

/// Runs the hook before stop and returns how much of the grace period is left, at least two seconds as kubelet gives.
pub async fn before_stop(
    ctx: &Context,
    pod: &Arc<BoundPod>,
    spec: &ContainerSpec,
    instance: &Instance,
    address: Option<IpAddr>,
    grace: Duration,
) -> Duration {
    let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()).filter(|_| ctx.options.materialize && !grace.is_zero())
    else {
        return grace;
    };
    let began = tokio::time::Instant::now();
    if let Err(error) = run(ctx, spec, hook, &instance.id, address, grace).await {
        ctx.recorder.warning(pod, Some(&spec.name), "FailedPreStopHook", format!("PreStopHook failed: {error}"));
    }
    grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2))
}

async fn run(
    ctx: &Context,
    spec: &ContainerSpec,
    hook: &LifecycleHandler,
    id: &str,
    address: Option<IpAddr>,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
            return Ok(());
        }
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let output = ctx.runtime.exec_sync(id, &command, limit).await.map_err(|e| e.to_string())?;
            return if output.exit_code == 0 {
                Ok(())
            } else {
                let words = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr }).into_owned();
                Err(format!("command '{}' exited with {}: {words}", command.join(" "), output.exit_code))
            };
        }
        if let Some(get) = &hook.http_get {
            return probes::http::get(get, spec, address).await.map(drop);
        }
        Ok(())
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(format!("not done after {limit:?}")))
}
