//! Getting images: pull policy, credentials, one fetch for all pods that want the same (kubelet `images/image_manager.go`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use k8s_openapi::api::core::v1::Container as ContainerSpec;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::credentials;
use crate::pods::object::BoundPod;
use crate::pods::registry::{PodHandle, Signal};
use crate::runtime::{Credentials, Image, RuntimeError};

/// Pulls that run at the same time on one node.
const PARALLEL: usize = 3;
/// Longest time one pull may take; runtimes give up sooner when nothing moves.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Outcome of looking for an image.
#[derive(Debug)]
pub enum Presence {
    /// It is here and the policy is content.
    Here(Arc<Image>),
    /// It has to be fetched.
    Pull,
    /// It cannot be had: reason and words.
    Refused(&'static str, String),
}

type Outcome = Result<(Arc<Image>, Duration), RuntimeError>;
type Fetch = Shared<BoxFuture<'static, Outcome>>;

/// Pulls in progress on one node.
pub struct Puller {
    running: Mutex<HashMap<String, Fetch>>,
    slots: Arc<Semaphore>,
}

impl Default for Puller {
    fn default() -> Self {
        Self { running: Mutex::default(), slots: Arc::new(Semaphore::new(PARALLEL)) }
    }
}

/// The pull policy, defaulted as the API server does.
#[must_use]
pub fn policy(container: &ContainerSpec) -> &str {
    container.image_pull_policy.as_deref().unwrap_or_else(|| {
        let image = container.image.as_deref().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        let latest = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
        if latest { "Always" } else { "IfNotPresent" }
    })
}

/// Looks whether the image is here and may be used.
pub async fn look(ctx: &Context, pod: &Arc<BoundPod>, container: &ContainerSpec) -> Presence {
    let image = container.image.as_deref().unwrap_or_default();
    let refuse = |reason: &'static str, message: String| {
        ctx.recorder.warning(
            pod,
            Some(&container.name),
            if reason == "InvalidImageName" { "InspectFailed" } else { "Failed" },
            message.clone(),
        );
        if reason == "InvalidImageName" {
            ctx.recorder.warning(pod, Some(&container.name), "Failed", format!("Error: {reason}"));
        }
        Presence::Refused(reason, message)
    };
    let found = match ctx.images.status(image).await {
        Ok(found) => found,
        Err(RuntimeError::InvalidReference { reason, .. }) => {
            return refuse(
                "InvalidImageName",
                format!("Failed to apply default image tag \"{image}\": couldn't parse image name: {reason}"),
            );
        }
        Err(error) => return refuse("ImageInspectError", format!("Failed to inspect image \"{image}\": {error}")),
    };
    match (found, policy(container)) {
        (Some(found), "IfNotPresent" | "Never") => {
            ctx.recorder.normal(pod, Some(&container.name), "Pulled", || {
                format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
            });
            Presence::Here(Arc::new(found))
        }
        (None, "Never") => {
            ctx.recorder.warning(
                pod,
                Some(&container.name),
                "ErrImageNeverPull",
                format!("Container image \"{image}\" is not present with pull policy of Never"),
            );
            Presence::Refused("ErrImageNeverPull", format!("Container image \"{image}\" is not present with pull policy of Never"))
        }
        _ => Presence::Pull,
    }
}

/// Fetches an image in a task of its own, which reports to the pod.
pub fn begin(ctx: &Arc<Context>, handle: &Arc<PodHandle>, pod: &Arc<BoundPod>, container: &str) {
    let (ctx, handle, pod, container) = (ctx.clone(), handle.clone(), pod.clone(), container.to_owned());
    ctx.clone().tasks.spawn(async move {
        let image = pod.container(&container).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
        ctx.recorder.normal(&pod, Some(&container), "Pulling", || format!("Pulling image \"{image}\""));
        let began = tokio::time::Instant::now();
        let keys = credentials::for_image(&ctx, &pod, &image).await;
        let result = match fetch(&ctx, &image, keys).await {
            Ok((found, alone)) => {
                let (alone, waited) = (seconds(alone), seconds(began.elapsed()));
                ctx.recorder.normal(&pod, Some(&container), "Pulled", || {
                    let size = found.size_bytes;
                    format!("Successfully pulled image \"{image}\" in {alone} ({waited} including waiting). Image size: {size} bytes.")
                });
                Ok(found)
            }
            Err(error) => {
                let reason = match &error {
                    RuntimeError::InvalidReference { .. } => "InvalidImageName",
                    _ => "ErrImagePull",
                };
                ctx.recorder.warning(&pod, Some(&container), "Failed", format!("Failed to pull image \"{image}\": {error}"));
                ctx.recorder.warning(&pod, Some(&container), "Failed", format!("Error: {reason}"));
                Err((reason, error.to_string()))
            }
        };
        handle.signal(Signal::Pulled { container, result });
    });
}

/// Joins a pull of the same image with the same credentials, or begins one.
async fn fetch(ctx: &Arc<Context>, image: &str, keys: Vec<Credentials>) -> Outcome {
    let key =
        format!("{image}\n{}", keys.iter().map(|k| format!("{}:{}:{}", k.username, k.password, k.identity_token)).collect::<String>());
    let fetch = {
        let mut running = ctx.puller.running.lock();
        running.entry(key.clone()).or_insert_with(|| start(ctx, image.to_owned(), key, keys)).clone()
    };
    fetch.await
}

fn start(ctx: &Arc<Context>, image: String, key: String, keys: Vec<Credentials>) -> Fetch {
    let (ctx, slots) = (ctx.clone(), ctx.puller.slots.clone());
    // In a task: it goes on when the pod that asked first is deleted, because others may wait for it.
    let task = ctx.clone().tasks.spawn(async move {
        let _slot = slots.acquire_owned().await;
        let began = tokio::time::Instant::now();
        let pulled = tokio::time::timeout(LIMIT, ctx.images.pull(&image, &keys)).await.unwrap_or(Err(RuntimeError::Timeout(LIMIT)));
        ctx.puller.running.lock().remove(&key);
        pulled.map(|image| (Arc::new(image), began.elapsed()))
    });
    async move { task.await.unwrap_or_else(|_| Err(RuntimeError::Failed("the pull was interrupted".to_owned()))) }.boxed().shared()
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{}ms", time.as_millis()) } else { format!("{:.3}s", time.as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_always_pulled_by_default() {
        for (image, wanted) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            let container = ContainerSpec { image: Some(image.to_owned()), ..ContainerSpec::default() };
            assert_eq!(policy(&container), wanted, "{image}");
        }
    }
}
