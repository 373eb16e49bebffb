//! Volumes: one file per type. Each is set up as a directory (or is a host path) that containers bind; setting up again is how they are refreshed
//! and how they are found after a restart. Persistent claims, CSI, ephemeral and image volumes have their place in [`mount`].

pub mod config_map;
pub mod downward_api;
pub mod empty_dir;
pub mod host_path;
pub mod payload;
pub mod projected;
pub mod secret;
pub mod sub_path;
pub mod tmpfs;
pub mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Volume};

use crate::context::Context;
use crate::env;
use crate::pods::object::BoundPod;
use crate::runtime::{Mount, Propagation};

/// The volumes of a pod, ready to be mounted into its containers.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// Host path by volume name.
    pub paths: Arc<BTreeMap<String, PathBuf>>,
    /// When a token in them has to be renewed.
    pub refresh_at: Option<Timestamp>,
    /// Some show labels or annotations, which may change.
    pub shows_metadata: bool,
}

/// What setting up one volume needs to know.
pub(crate) struct Setup<'a> {
    pub(crate) ctx: &'a Arc<Context>,
    pub(crate) pod: &'a Arc<BoundPod>,
    /// Directory of this volume.
    pub(crate) dir: PathBuf,
    /// `securityContext.fsGroup`.
    pub(crate) fs_group: Option<u32>,
    /// The one user all containers run as, if so.
    pub(crate) fs_user: Option<u32>,
}

/// What became of one volume.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) path: PathBuf,
    pub(crate) refresh_at: Option<Timestamp>,
    pub(crate) shows_metadata: bool,
}

impl Ready {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, refresh_at: None, shows_metadata: false }
    }
}

/// Sets up (or refreshes) all volumes of a pod.
///
/// # Errors
/// With the text of kubelet's FailedMount event for the first that cannot be set up.
pub async fn mount(ctx: &Arc<Context>, pod: &Arc<BoundPod>) -> Result<Mounted, String> {
    let mut paths = BTreeMap::new();
    let mut refresh_at: Option<Timestamp> = None;
    let mut shows_metadata = false;
    if !ctx.options.materialize {
        return Ok(Mounted::default());
    }
    for volume in pod.spec.volumes.iter().flatten() {
        let ready = mount_one(ctx, pod, volume).await;
        let ready = ready.map_err(|e| format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name))?;
        refresh_at = refresh_at.into_iter().chain(ready.refresh_at).min();
        shows_metadata |= ready.shows_metadata;
        paths.insert(volume.name.clone(), ready.path);
    }
    Ok(Mounted { paths: Arc::new(paths), refresh_at, shows_metadata })
}

async fn mount_one(ctx: &Arc<Context>, pod: &Arc<BoundPod>, volume: &Volume) -> Result<Ready, String> {
    let plugin = plugin(volume)?;
    let security = pod.spec.security_context.as_ref();
    let setup = Setup {
        ctx,
        pod,
        dir: volume_dir(ctx, pod, plugin, &volume.name),
        fs_group: security.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok()),
        fs_user: common_user(pod),
    };
    if let Some(source) = &volume.empty_dir {
        return empty_dir::set_up(&setup, source).await;
    }
    if let Some(source) = &volume.config_map {
        return config_map::set_up(&setup, source).await;
    }
    if let Some(source) = &volume.secret {
        return secret::set_up(&setup, source).await;
    }
    if let Some(source) = &volume.projected {
        return projected::set_up(&setup, source).await;
    }
    if let Some(source) = &volume.downward_api {
        return downward_api::set_up(&setup, source).await;
    }
    if let Some(source) = &volume.host_path {
        return host_path::set_up(source).await;
    }
    Err(format!("no volume plugin matched: {plugin} is not supported by this node yet"))
}

/// Directory name of the volume's type, as upstream names it.
fn plugin(volume: &Volume) -> Result<&'static str, String> {
    Ok(match volume {
        Volume { empty_dir: Some(_), .. } => "kubernetes.io~empty-dir",
        Volume { config_map: Some(_), .. } => "kubernetes.io~configmap",
        Volume { secret: Some(_), .. } => "kubernetes.io~secret",
        Volume { projected: Some(_), .. } => "kubernetes.io~projected",
        Volume { downward_api: Some(_), .. } => "kubernetes.io~downward-api",
        Volume { host_path: Some(_), .. } => "kubernetes.io~host-path",
        Volume { persistent_volume_claim: Some(_), .. } => "persistentVolumeClaim",
        Volume { csi: Some(_), .. } => "kubernetes.io~csi",
        Volume { ephemeral: Some(_), .. } => "ephemeral",
        Volume { image: Some(_), .. } => "kubernetes.io~image",
        Volume { nfs: Some(_), .. } => "kubernetes.io~nfs",
        _ => return Err("no volume plugin matched".to_owned()),
    })
}

fn volume_dir(ctx: &Context, pod: &BoundPod, plugin: &str, name: &str) -> PathBuf {
    ctx.pod_dir(&pod.metadata.uid).join("volumes").join(plugin).join(name)
}

/// The user every container runs as, when it is one and the same (`util.FsUserFrom`).
fn common_user(pod: &BoundPod) -> Option<u32> {
    let of_pod = pod.spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = pod.containers().map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// Takes down all volumes of a pod and what was fetched for them.
pub async fn unmount(ctx: &Arc<Context>, pod: &Arc<BoundPod>) {
    let uid = &pod.metadata.uid;
    ctx.objects.release(uid);
    ctx.tokens.forget(uid);
    if !ctx.options.materialize {
        return;
    }
    let base = ctx.pod_dir(uid).join("volumes");
    for volume in pod.spec.volumes.iter().flatten() {
        let Ok(plugin) = plugin(volume) else { continue };
        let dir = base.join(plugin).join(&volume.name);
        if let Err(error) = tmpfs::release(&dir).await {
            ctx.recorder.warning(
                pod,
                None,
                "FailedUnmount",
                format!("UnmountVolume.TearDown failed for volume \"{}\" : {error}", volume.name),
            );
        }
    }
    if let Err(error) = tokio::fs::remove_dir_all(&base).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pod = pod.full_name(), %error, "volumes not removed");
    }
}

/// The bind mounts of one container.
///
/// # Errors
/// When a mount names no volume of the pod, or a sub-path leads outside.
pub async fn container_mounts(
    pod: &BoundPod,
    spec: &ContainerSpec,
    mounted: &Mounted,
    variables: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    for mount in spec.volume_mounts.iter().flatten() {
        let Some(path) = mounted.paths.get(&mount.name) else {
            return Err(format!("cannot find volume {:?} to mount into container {:?}", mount.name, spec.name));
        };
        let expanded = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()).map(|e| env::expand(e, variables));
        let sub_path = expanded.or_else(|| mount.sub_path.clone()).filter(|p| !p.is_empty());
        let host_path = match sub_path {
            Some(sub) => sub_path::resolve(path, &sub).await?,
            None => path.clone(),
        };
        let container_path = if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
        let volume = pod.spec.volumes.iter().flatten().find(|v| v.name == mount.name);
        // What the agent rewrites may not be written by the container (kubelet mounts these read-only since 1.9).
        let managed =
            volume.is_some_and(|v| v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some());
        out.push(Mount {
            host_path,
            container_path: Path::new(&container_path).to_owned(),
            readonly: mount.read_only == Some(true) || managed,
            recursive_readonly: matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    Ok(out)
}

/// Removes the directory of a pod nobody knows any more, memory file systems included.
pub async fn remove_stale(pod_dir: &Path) {
    let volumes = pod_dir.join("volumes");
    if let Ok(mut plugins) = tokio::fs::read_dir(&volumes).await {
        while let Ok(Some(plugin)) = plugins.next_entry().await {
            let Ok(mut dirs) = tokio::fs::read_dir(plugin.path()).await else { continue };
            while let Ok(Some(dir)) = dirs.next_entry().await {
                if let Err(error) = tmpfs::release(&dir.path()).await {
                    tracing::warn!(dir = %dir.path().display(), error, "volume of a vanished pod not unmounted");
                    return;
                }
            }
        }
    }
    if let Err(error) = tokio::fs::remove_dir_all(pod_dir).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %pod_dir.display(), %error, "directory of a vanished pod not removed");
    }
}

/// Takes down the volumes of all pods below an agent's data directory, when no agent runs: memory file systems first, then the directories.
///
/// # Errors
/// With the first that cannot be taken down.
pub fn teardown(data_dir: &Path) -> Result<(), String> {
    let pods = data_dir.join("pods");
    let children = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    for pod in children(&pods) {
        for volume in children(&pod.join("volumes")).iter().flat_map(|plugin| children(plugin)) {
            tmpfs::release_now(&volume)?;
        }
    }
    match std::fs::remove_dir_all(&pods) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", pods.display())),
        _ => Ok(()),
    }
}
