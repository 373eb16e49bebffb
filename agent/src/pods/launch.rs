//! From a pod's spec to what the runtime is asked for: sandbox and container configurations (kubelet `kuberuntime_sandbox.go`,
//! `kuberuntime_container.go`, `security_context.go`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, SeccompProfile};

use super::object::BoundPod;
use super::state::{Failure, Instance, SandboxView, Seen};
use super::{CONTAINER_NAME_LABEL, GRACE_ANNOTATION, HASH_ANNOTATION, MESSAGE_PATH_ANNOTATION, RESTARTS_ANNOTATION, identity_labels};
use crate::context::Context;
use crate::runtime::{
    ContainerConfig, ContainerState, GroupsPolicy, Image, Mount, NamespaceMode, Namespaces, PortMapping, Protocol, RuntimeError, Sandbox,
    SandboxConfig, Seccomp, SecurityContext,
};
use crate::volumes::{self, Mounted};
use crate::{dns, env};

/// A container to launch.
#[derive(Debug)]
pub struct Request {
    /// Its spec.
    pub spec: ContainerSpec,
    /// Its restart count.
    pub attempt: u32,
    /// Hash of its spec.
    pub hash: String,
    /// Its image, present.
    pub image: Arc<Image>,
    /// Where it runs.
    pub sandbox: SandboxView,
}

/// How a launch ended.
#[derive(Debug)]
pub enum Launched {
    /// It runs (or ran already: its end is reported separately).
    Running(Instance),
    /// It was made but could not be started: counts as a run that failed.
    Broken(Instance, Failure),
    /// It could not be made.
    Refused {
        /// `CreateContainerConfigError` or `CreateContainerError`.
        reason: &'static str,
        /// Words for the user.
        message: String,
    },
}

/// Makes the pod's sandbox.
///
/// # Errors
/// The runtime's, or a failure to prepare directories or the cgroup.
pub async fn sandbox(ctx: &Context, pod: &BoundPod, attempt: u32) -> Result<Sandbox, RuntimeError> {
    let meta = &pod.metadata;
    let log_directory = ctx.log_dir(&meta.namespace, &meta.name, &meta.uid);
    let mut config = SandboxConfig {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        attempt,
        labels: super::sandbox_labels(pod),
        log_directory,
        ..SandboxConfig::default()
    };
    if ctx.options.materialize {
        tokio::fs::create_dir_all(&config.log_directory).await.map_err(|e| failed("log directory", &e))?;
        tokio::fs::create_dir_all(ctx.pod_dir(&meta.uid)).await.map_err(|e| failed("pod directory", &e))?;
        if let Some(cgroups) = &ctx.cgroups {
            config.cgroup_parent = cgroups.create_pod(pod).await.map_err(|e| failed("pod cgroup", &e))?;
        }
        config.annotations.clone_from(&meta.annotations);
        config.dns = dns::config(&ctx.options, pod).await;
        config.hostname = if pod.host_network() { String::new() } else { hostname(ctx, pod) };
        config.port_mappings = port_mappings(pod);
        config.privileged = pod.containers().any(|(_, c)| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true)));
        let sysctls = pod.spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
        config.sysctls = sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect();
    }
    config.namespaces = namespaces(pod);
    ctx.runtime.run_sandbox(config).await
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> RuntimeError {
    RuntimeError::Failed(format!("{what}: {error}"))
}

fn namespaces(pod: &BoundPod) -> Namespaces {
    let mode = |host: Option<bool>, otherwise| if host == Some(true) { NamespaceMode::Node } else { otherwise };
    let shared = if pod.spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    Namespaces {
        network: mode(pod.spec.host_network, NamespaceMode::Pod),
        pid: mode(pod.spec.host_pid, shared),
        ipc: mode(pod.spec.host_ipc, NamespaceMode::Pod),
    }
}

fn port_mappings(pod: &BoundPod) -> Vec<PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let ports = pod.containers().flat_map(|(_, c)| c.ports.iter().flatten());
    let mapped = ports.filter_map(|port| {
        Some(PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            container_port: u16::try_from(port.container_port).ok()?,
            host_port: u16::try_from(port.host_port?).ok().filter(|p| *p != 0)?,
            host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
        })
    });
    mapped.collect()
}

/// The pod's hostname: at most 63 bytes, as kubelet `GeneratePodHostNameAndDomain`.
#[must_use]
pub fn hostname(ctx: &Context, pod: &BoundPod) -> String {
    if let Some(over) = pod.spec.hostname_override.as_ref().filter(|h| !h.is_empty()) {
        return over.clone();
    }
    let name = pod.spec.hostname.as_ref().filter(|h| !h.is_empty()).unwrap_or(&pod.metadata.name);
    let short = name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned();
    match domain(ctx, pod) {
        Some(domain) if pod.spec.set_hostname_as_fqdn == Some(true) => format!("{short}.{domain}"),
        _ => short,
    }
}

/// The pod's DNS domain when it has a subdomain.
#[must_use]
pub fn domain(ctx: &Context, pod: &BoundPod) -> Option<String> {
    let subdomain = pod.spec.subdomain.as_ref().filter(|s| !s.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{}", pod.metadata.namespace, ctx.options.cluster_domain))
}

/// Makes and starts a container.
pub async fn container(ctx: &Arc<Context>, pod: &Arc<BoundPod>, mounted: &Mounted, request: Request) -> Launched {
    let name = request.spec.name.clone();
    let refuse = |reason: &'static str, message: String| {
        ctx.recorder.warning(pod, Some(&name), "Failed", format!("Error: {message}"));
        Launched::Refused { reason, message }
    };
    let config = match configure(ctx, pod, mounted, &request).await {
        Ok(config) => config,
        Err(message) => return refuse("CreateContainerConfigError", message),
    };
    let log_path = config.log_path.clone();
    let id = match ctx.runtime.create_container(&request.sandbox.id, config).await {
        Ok(id) => id,
        Err(error) => return refuse("CreateContainerError", error.to_string()),
    };
    ctx.recorder.normal(pod, Some(&name), "Created", || "Container created".to_owned());
    let started = ctx.runtime.start_container(&id).await;
    let mut instance = match ctx.runtime.container_status(&id).await {
        Ok(status) => Instance::of(&status),
        Err(_) => made(ctx, &request, &id, log_path),
    };
    instance.attempt = request.attempt;
    match started {
        Ok(()) => {
            ctx.recorder.normal(pod, Some(&name), "Started", || "Container started".to_owned());
            // Should it have ended already, the runtime's event says so; it is then handled like any end.
            instance.state = ContainerState::Running;
            instance.finished_at = None;
            Launched::Running(instance)
        }
        Err(error) => {
            let message = error.to_string();
            ctx.recorder.warning(pod, Some(&name), "Failed", format!("Error: {message}"));
            instance.state = ContainerState::Exited;
            if instance.exit_code == 0 {
                instance.exit_code = 128;
            }
            "StartError".clone_into(&mut instance.reason);
            instance.message.clone_from(&message);
            instance.finished_at = instance.finished_at.or(Some(ctx.options.clock.now()));
            Launched::Broken(instance, Failure { reason: "RunContainerError", message, retry_at: None })
        }
    }
}

fn made(ctx: &Context, request: &Request, id: &str, log_path: PathBuf) -> Instance {
    let now = ctx.options.clock.now();
    Instance {
        id: id.to_owned(),
        sandbox_id: request.sandbox.id.clone(),
        attempt: request.attempt,
        state: ContainerState::Created,
        created_at: now,
        started_at: Some(now),
        finished_at: None,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: request.spec.image.clone().unwrap_or_default(),
        image_id: request.image.id.clone(),
        hash: request.hash.clone(),
        log_path,
    }
}

async fn configure(ctx: &Arc<Context>, pod: &Arc<BoundPod>, mounted: &Mounted, request: &Request) -> Result<ContainerConfig, String> {
    let spec = &request.spec;
    let mut labels = identity_labels(pod);
    labels.insert(CONTAINER_NAME_LABEL.to_owned(), spec.name.clone());
    let annotations = BTreeMap::from([
        (HASH_ANNOTATION.to_owned(), request.hash.clone()),
        (RESTARTS_ANNOTATION.to_owned(), request.attempt.to_string()),
        (MESSAGE_PATH_ANNOTATION.to_owned(), spec.termination_message_path.clone().unwrap_or_default()),
        (GRACE_ANNOTATION.to_owned(), pod.spec.termination_grace_period_seconds.unwrap_or(30).to_string()),
    ]);
    let mut config = ContainerConfig {
        name: spec.name.clone(),
        attempt: request.attempt,
        image_id: request.image.id.clone(),
        image: spec.image.clone().unwrap_or_default(),
        labels,
        annotations,
        ..ContainerConfig::default()
    };
    if !ctx.options.materialize {
        return Ok(config);
    }
    config.security = security(ctx, pod, spec, &request.image)?;
    config.env = env::variables(ctx, pod, spec, &request.sandbox.addresses).await?;
    let expand = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| env::expand(text, &config.env)).collect::<Vec<_>>();
    config.command = expand(&spec.command);
    config.args = expand(&spec.args);
    config.working_dir = spec.working_dir.clone().unwrap_or_default();
    config.stdin = spec.stdin == Some(true);
    config.stdin_once = spec.stdin_once == Some(true);
    config.tty = spec.tty == Some(true);
    config.stop_signal = spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    config.hostname = if pod.host_network() { ctx.options.node_name.clone() } else { hostname(ctx, pod) };
    let capacity = ctx.node.read().memory_capacity;
    config.resources = crate::cgroups::container_resources(&pod.spec, spec, capacity);
    let meta = &pod.metadata;
    let log_dir = ctx.log_dir(&meta.namespace, &meta.name, &meta.uid).join(&spec.name);
    tokio::fs::create_dir_all(&log_dir).await.map_err(|e| format!("log directory: {e}"))?;
    config.log_path = log_dir.join(format!("{}.log", request.attempt));
    config.mounts = volumes::container_mounts(pod, spec, mounted, &config.env).await?;
    config.mounts.extend(own_files(ctx, pod, request, &config.mounts).await?);
    Ok(config)
}

/// `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname` and the termination log, unless the pod mounts something there itself.
async fn own_files(ctx: &Context, pod: &BoundPod, request: &Request, given: &[Mount]) -> Result<Vec<Mount>, String> {
    let dir = ctx.pod_dir(&pod.metadata.uid);
    let mut files: Vec<(PathBuf, String, String)> = Vec::new();
    if !pod.host_network() {
        let hostname = hostname(ctx, pod);
        files.push((dir.join("hostname"), "/etc/hostname".to_owned(), format!("{hostname}\n")));
    }
    files.push((dir.join("etc-hosts"), "/etc/hosts".to_owned(), dns::hosts_file(ctx, pod, &request.sandbox.addresses).await));
    files.push((dir.join("resolv.conf"), "/etc/resolv.conf".to_owned(), dns::resolv_conf(&dns::config(&ctx.options, pod).await)));
    let mut mounts = Vec::new();
    for (host_path, container_path, content) in files {
        if given.iter().any(|m| m.container_path == Path::new(&container_path)) {
            continue;
        }
        // Rewritten in place: running containers have this very file mounted.
        if tokio::fs::read_to_string(&host_path).await.ok().as_deref() != Some(&content) {
            tokio::fs::write(&host_path, content).await.map_err(|e| format!("{}: {e}", host_path.display()))?;
        }
        let readonly = request.spec.security_context.as_ref().is_some_and(|s| s.read_only_root_filesystem == Some(true));
        mounts.push(Mount { host_path, container_path: container_path.into(), readonly, ..Mount::default() });
    }
    let message_path = request.spec.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log");
    if !given.iter().any(|m| m.container_path == Path::new(message_path)) {
        let host_path = super::termination::file(ctx, &pod.metadata.uid, &request.spec.name, request.attempt);
        super::termination::prepare(&host_path).await.map_err(|e| format!("termination log: {e}"))?;
        mounts.push(Mount { host_path, container_path: message_path.into(), ..Mount::default() });
    }
    Ok(mounts)
}

fn security(ctx: &Context, pod: &BoundPod, spec: &ContainerSpec, image: &Image) -> Result<SecurityContext, String> {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let own = spec.security_context.clone().unwrap_or_default();
    let uid = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        let place = format!("(pod: \"{}({})\", container: {})", pod.full_name(), pod.metadata.uid, spec.name);
        match uid.or(image.uid) {
            Some(0) if uid.is_some() => return Err(format!("container's runAsUser breaks non-root policy {place}")),
            Some(0) => return Err(format!("container has runAsNonRoot and image will run as root {place}")),
            None if !image.username.is_empty() => {
                let user = &image.username;
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
                ));
            }
            None => return Err(format!("container has runAsNonRoot and image will run as root {place}")),
            Some(_) => {}
        }
    }
    let privileged = own.privileged == Some(true);
    let names =
        |list: Option<Vec<String>>| list.unwrap_or_default().into_iter().map(|c| c.to_uppercase().trim_start_matches("CAP_").to_owned());
    let capabilities = own.capabilities.unwrap_or_default();
    let add: Vec<String> = names(capabilities.add).collect();
    let admin = privileged || add.iter().any(|c| c == "SYS_ADMIN" || c == "ALL");
    let mut groups = of_pod.supplemental_groups.unwrap_or_default();
    groups.extend(of_pod.fs_group);
    Ok(SecurityContext {
        uid,
        gid: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups: groups,
        groups_policy: match of_pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => GroupsPolicy::Strict,
            _ => GroupsPolicy::Merge,
        },
        add_capabilities: add,
        drop_capabilities: names(capabilities.drop).collect(),
        privileged,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        // securitycontext/util.go AddNoNewPrivileges: only an explicit false asks for it.
        no_new_privs: own.allow_privilege_escalation == Some(false) && !admin,
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(ctx, own.seccomp_profile.or(of_pod.seccomp_profile))? },
        unmasked_proc: privileged || own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn seccomp(ctx: &Context, profile: Option<SeccompProfile>) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(Seccomp::Unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = profile.localhost_profile.unwrap_or_default();
            if name.is_empty() || Path::new(&name).is_absolute() || name.split('/').any(|part| part == "..") {
                return Err(format!("seccomp localhostProfile {name:?} must be a path below the node's seccomp directory"));
            }
            Ok(Seccomp::Localhost(ctx.options.data_dir.join("seccomp").join(name)))
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

/// Removes everything a pod left in the runtime and on disk, once its object is gone.
pub async fn remove_all(ctx: &Context, pod: &BoundPod, seen: &Seen) {
    for container in &seen.containers {
        let previous = container.previous.as_ref().map(|(id, _)| id);
        for id in container.current.as_ref().map(|i| &i.id).into_iter().chain(previous) {
            if let Err(error) = ctx.runtime.remove_container(id).await {
                tracing::warn!(pod = pod.full_name(), container = container.name, %error, "container not removed");
            }
        }
    }
    if let Some(sandbox) = &seen.sandbox
        && let Err(error) = ctx.runtime.remove_sandbox(&sandbox.id).await
    {
        tracing::warn!(pod = pod.full_name(), %error, "sandbox not removed");
    }
    if ctx.options.materialize {
        let meta = &pod.metadata;
        for dir in [ctx.pod_dir(&meta.uid), ctx.log_dir(&meta.namespace, &meta.name, &meta.uid)] {
            if let Err(error) = tokio::fs::remove_dir_all(&dir).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(pod = pod.full_name(), dir = %dir.display(), %error, "directory not removed");
            }
        }
    }
}
