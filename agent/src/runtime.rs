//! The seam between the agent and whatever runs containers: shaped like CRI (`k8s.io/cri-api`, runtime/v1), free of Kubernetes API types.
//!
//! Three implementations stand behind it: `embedded` (one shim per pod, the same binary re-executed), `hollow` (no containers at all)
//! and, later, `cri` (containerd, CRI-O over gRPC). Rules for all of them:
//!
//! - Everything created survives the agent. After a restart [`Runtime::list_sandboxes`] and [`Runtime::list_containers`] return it with
//!   the labels and annotations given at creation; the agent adopts by those and by nothing else.
//! - Stop and remove are idempotent: asking for what is already stopped or gone succeeds.
//! - A container that ends is reported once through [`Runtime::events`]; the agent never polls. A receiver that lags lists again.
//! - Paths in configurations are host paths as the agent sees them, absolute, and exist before the call (except log files).
//! - No call blocks the async runtime; every call ends within a bounded time of its own (pulls: no progress for a minute is an error).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc};

/// What a runtime answers when it cannot do what was asked. The text of each is shown to users in events and pod status.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// No sandbox, container or image of that id or reference.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        what: &'static str,
        /// The id or reference asked for.
        id: String,
    },
    /// The image reference cannot be parsed.
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidReference {
        /// The reference as written.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry refused the credentials, or the repository does not exist for them.
    #[error("failed to pull and unpack image {image:?}: {message}")]
    PullDenied {
        /// The image asked for.
        image: String,
        /// The registry's words.
        message: String,
    },
    /// The registry cannot be reached at all (kubelet's reason `RegistryUnavailable`).
    #[error("failed to pull image {image:?}: registry unavailable: {message}")]
    RegistryUnavailable {
        /// The image asked for.
        image: String,
        /// The transport's words.
        message: String,
    },
    /// Any other failure of a pull: no such tag, bad digest, disk full, unpacking.
    #[error("failed to pull and unpack image {image:?}: {message}")]
    PullFailed {
        /// The image asked for.
        image: String,
        /// What went wrong.
        message: String,
    },
    /// The container's configuration cannot be honoured (unknown user, bad capability, missing command): trying again will not help.
    #[error("{0}")]
    InvalidConfig(String),
    /// The call did not end in the time allowed.
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    /// The runtime does not offer this (hollow: exec; embedded: attach, for now).
    #[error("{0} is not supported by this container runtime")]
    Unsupported(&'static str),
    /// The sandbox or container is in a state that does not allow the call.
    #[error("{0}")]
    WrongState(String),
    /// Everything else.
    #[error("{0}")]
    Failed(String),
}

/// Shorthand for results of this seam.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Which namespace a sandbox or container shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One for the pod, shared by its containers (network, ipc; pid with `shareProcessNamespace`).
    #[default]
    Pod,
    /// One for each container (pid, by default).
    Container,
    /// The host's own.
    Node,
}

/// Namespaces of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `Pod` or `Node` (hostNetwork).
    pub network: NamespaceMode,
    /// `Container`, `Pod` or `Node` (hostPID).
    pub pid: NamespaceMode,
    /// `Pod` or `Node` (hostIPC).
    pub ipc: NamespaceMode,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { network: NamespaceMode::Pod, pid: NamespaceMode::Container, ipc: NamespaceMode::Pod }
    }
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A host port that leads to a pod's port. Absent for host-network pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol of both ports.
    pub protocol: Protocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the host, never 0.
    pub host_port: u16,
    /// Host address to listen on; `None` = all.
    pub host_ip: Option<IpAddr>,
}

/// Content of the pod's `/etc/resolv.conf`. The agent also mounts the file itself; runtimes that write their own use this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` line.
    pub searches: Vec<String>,
    /// `options` line, each `name` or `name:value`.
    pub options: Vec<String>,
}

/// Everything needed to make a pod's sandbox: namespaces, address, cgroup.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod uid: with `attempt` the identity of the sandbox.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
    /// Hostname in the pod's UTS namespace, at most 63 bytes; empty with the host's network.
    pub hostname: String,
    /// Directory of the pod's log files; exists.
    pub log_directory: PathBuf,
    /// Resolver configuration.
    pub dns: DnsConfig,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Kept and returned verbatim; the agent finds its pods by `io.kubernetes.pod.*`.
    pub labels: BTreeMap<String, String>,
    /// Kept and returned verbatim (also the pod's own annotations, for runtimes and CNI plugins that read them).
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup relative to the hierarchy root, for example `/kubepods/burstable/pod<uid>`. The agent has made it (v1: in every
    /// controller it uses). Containers become its children. Empty = the runtime chooses.
    pub cgroup_parent: String,
    /// Namespaces shared in the pod.
    pub namespaces: Namespaces,
    /// Sysctls to set in the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Whether any container of the pod is privileged, for runtimes that must know early.
    pub privileged: bool,
}

/// Whether a sandbox can take containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// Namespaces and network exist.
    Ready,
    /// Stopped, or its shim died, or the machine restarted since.
    NotReady,
}

/// A sandbox as the runtime sees it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// As given at creation.
    pub attempt: u32,
    /// Usable or not.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Addresses of the pod, primary first; empty for host-network pods.
    pub addresses: Vec<IpAddr>,
    /// As given at creation.
    pub labels: BTreeMap<String, String>,
    /// As given at creation.
    pub annotations: BTreeMap<String, String>,
}

/// How mounts made on one side appear on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// `rprivate`.
    #[default]
    Private,
    /// `rslave`.
    HostToContainer,
    /// `rshared`.
    Bidirectional,
}

/// A bind mount into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File or directory on the host; exists.
    pub host_path: PathBuf,
    /// Absolute path in the container; made if absent.
    pub container_path: PathBuf,
    /// Mounted read-only.
    pub readonly: bool,
    /// Sub-mounts are read-only too (only with `readonly`).
    pub recursive_readonly: bool,
    /// Propagation between host and container.
    pub propagation: Propagation,
}

/// Limits of one container. `None` and 0 mean: not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS shares in cgroup v1 terms (1024 = one core, at least 2); v2 runtimes convert to a weight.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds per period.
    pub cpu_quota_us: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Largest number of processes and threads.
    pub pids_limit: Option<i64>,
    /// `oom_score_adj` of the first process.
    pub oom_score_adj: Option<i32>,
    /// Further cgroup v2 files and their values (`memory.min`, `memory.high`); ignored on v1.
    pub unified: BTreeMap<String, String>,
}

/// Which system-call filter applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None (kubelet's default when nothing is asked for).
    #[default]
    Unconfined,
    /// The runtime's own profile.
    RuntimeDefault,
    /// A profile file in the OCI JSON format on the host.
    Localhost(PathBuf),
}

/// How groups of the image's `/etc/group` and the given supplemental groups combine (KEP-3619).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Both.
    #[default]
    Merge,
    /// Only the given ones.
    Strict,
}

/// Who a container runs as and what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// Numeric user; `None` = the image's user (name or number, resolved against the image's `/etc/passwd`), else root.
    pub uid: Option<i64>,
    /// Numeric group; `None` = the user's own group from the image, else 0.
    pub gid: Option<i64>,
    /// Further groups (fsGroup included).
    pub supplemental_groups: Vec<i64>,
    /// How those combine with the image's.
    pub groups_policy: GroupsPolicy,
    /// Capabilities to add to the runtime's default set, without `CAP_`, or `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop, without `CAP_`, or `ALL`; dropped before `add` applies.
    pub drop_capabilities: Vec<String>,
    /// All capabilities, all devices, no seccomp, no masked paths, `/sys` writable.
    pub privileged: bool,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// Sets `no_new_privs`.
    pub no_new_privs: bool,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`: do not mask or protect paths under `/proc`.
    pub unmasked_proc: bool,
}

/// Everything needed to make one container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name in the pod.
    pub name: String,
    /// How many containers of this name ran before (the restart count).
    pub attempt: u32,
    /// Image id (as [`Images::pull`] or [`Images::status`] returned it); present locally.
    pub image_id: String,
    /// Image reference as the user wrote it, for status.
    pub image: String,
    /// Replaces the image's entrypoint when not empty; then the image's arguments are not used.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Working directory; empty = the image's, else `/`. Made if absent.
    pub working_dir: String,
    /// Variables in order, added to (and overriding) the image's.
    pub env: Vec<(String, String)>,
    /// Bind mounts in order; `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname` and the termination log are among them.
    pub mounts: Vec<Mount>,
    /// Kept and returned verbatim.
    pub labels: BTreeMap<String, String>,
    /// Kept and returned verbatim.
    pub annotations: BTreeMap<String, String>,
    /// Absolute path of the log file in CRI format; its directory exists.
    pub log_path: PathBuf,
    /// Keep stdin open (for attach).
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
    /// Give the container a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Identity and rights.
    pub security: SecurityContext,
    /// Signal that asks it to stop, for example `SIGUSR1`; `None` = the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// The pod's hostname, for runtimes with a UTS namespace per container and for `HOSTNAME` in the environment.
    pub hostname: String,
}

/// Life of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running,
    /// Its first process ended.
    Exited,
    /// The runtime lost track of it (its shim died): the agent treats it as failed.
    Unknown,
}

/// A container as the runtime sees it.
#[derive(Debug, Clone)]
pub struct ContainerStatus {
    /// The runtime's id.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// As given at creation.
    pub name: String,
    /// As given at creation.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its process started.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code, 128+n when ended by signal n; meaningful when exited.
    pub exit_code: i32,
    /// `OOMKilled` when the kernel ended it for memory, `StartError`/`ContainerCannotRun` when it never ran, else empty (the agent then says
    /// `Completed` or `Error`).
    pub reason: String,
    /// Words about the end, may be empty.
    pub message: String,
    /// Image reference as given at creation.
    pub image: String,
    /// Image id.
    pub image_id: String,
    /// As given at creation.
    pub labels: BTreeMap<String, String>,
    /// As given at creation.
    pub annotations: BTreeMap<String, String>,
    /// As given at creation.
    pub log_path: PathBuf,
}

/// What happened in the runtime without being asked for. Not sent for what a call's own answer tells.
#[derive(Debug, Clone)]
pub enum RuntimeEvent {
    /// A container's first process ended, for whatever reason (also by [`Runtime::stop_container`]).
    ContainerExited {
        /// Uid of its pod.
        pod_uid: String,
        /// Its status after the end.
        container: Box<ContainerStatus>,
    },
    /// A sandbox became unusable (its shim died, its namespace vanished).
    SandboxLost {
        /// Uid of its pod.
        pod_uid: String,
        /// The sandbox.
        sandbox_id: String,
    },
}

/// Result of a command run to its end.
#[derive(Debug, Clone, Default)]
pub struct ExecOutput {
    /// At most 16 KiB of what it wrote; the rest is dropped.
    pub stdout: Vec<u8>,
    /// Likewise.
    pub stderr: Vec<u8>,
    /// Exit code, 128+n for signal n.
    pub exit_code: i32,
}

/// A command to run with streams.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Program and arguments, never empty; looked up in the container's PATH.
    pub command: Vec<String>,
    /// Give it a terminal; then there is no stderr.
    pub tty: bool,
    /// How large the terminal is when the command begins, when known.
    pub size: Option<TerminalSize>,
    /// Whether stdin is wanted.
    pub stdin: bool,
    /// Whether stdout is wanted.
    pub stdout: bool,
    /// Whether stderr is wanted (never with `tty`).
    pub stderr: bool,
}

/// Which streams of a running container to attach to.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachRequest {
    /// Whether stdin is wanted.
    pub stdin: bool,
    /// Whether stdout is wanted.
    pub stdout: bool,
    /// Whether stderr is wanted.
    pub stderr: bool,
}

/// Size of a terminal in characters; its JSON is what clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A readable stream of a process.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// A writable stream of a process; shutting it down or dropping it is end of file.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Streams of an exec or attach. Dropping all of it ends the session (an exec'd process is then killed).
pub struct StreamSession {
    /// Present when asked for.
    pub stdin: Option<Writer>,
    /// Present when asked for.
    pub stdout: Option<Reader>,
    /// Present when asked for and no terminal.
    pub stderr: Option<Reader>,
    /// Present with a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Ends with the exit code after the process ended (its output may still hold bytes). For attach: when the container ended.
    pub exit: BoxFuture<'static, Result<i32>>,
}

/// A byte stream both ways, for port-forward.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Use of resources by one container.
#[derive(Debug, Clone, Default)]
pub struct ContainerStats {
    /// The container.
    pub container_id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Processor time used since it started, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory that cannot be reclaimed easily, in bytes.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory in bytes.
    pub memory_rss_bytes: u64,
    /// Bytes of its writable layer, when known.
    pub writable_layer_bytes: Option<u64>,
}

/// What the runtime is.
#[derive(Debug, Clone, Default)]
pub struct Version {
    /// Name, for example `coracle` or `containerd`: the scheme in `containerRuntimeVersion` and container ids.
    pub name: String,
    /// Version, for example `0.1.0`.
    pub version: String,
}

/// Whether the runtime can run pods. Reasons are kubelet's when there is one.
#[derive(Debug, Clone, Default)]
pub struct RuntimeStatus {
    /// Why containers cannot be run; `None` = they can.
    pub not_ready: Option<String>,
    /// Why pods get no network (for example: no pod CIDR yet); `None` = they do.
    pub network_not_ready: Option<String>,
}

/// Runs pods. Object-safe; held as `Arc<dyn Runtime>`.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version; cheap, never fails.
    fn version(&self) -> Version;

    /// Whether pods can be run.
    async fn status(&self) -> RuntimeStatus;

    /// The image store that belongs to it.
    fn images(&self) -> Arc<dyn Images>;

    /// Unasked-for events from now on. A receiver that lags loses events and lists again.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;

    /// Tells the address ranges of this node's pods (CIDR notation, primary first). Called before the first sandbox when the node has
    /// them, and again when they change. Runtimes with their own network configuration ignore it.
    async fn set_pod_cidrs(&self, cidrs: &[String]) -> Result<()>;

    /// Makes and starts a sandbox, network included, and returns it with its addresses.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox>;

    /// Kills what still runs in it (without grace: the agent has stopped containers before), releases its network. Idempotent.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;

    /// Removes it and its containers' remains. Idempotent.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;

    /// All sandboxes, whatever their state.
    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>>;

    /// Makes a container (not started) and returns its id.
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String>;

    /// Starts a created container; its process runs when this returns.
    async fn start_container(&self, id: &str) -> Result<()>;

    /// Sends the stop signal, waits up to `grace`, then SIGKILL; returns when it ended. Zero grace kills at once. Idempotent. A second
    /// call with a shorter grace shortens the wait.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;

    /// Removes an ended or never started container (kills a running one). Its log file stays. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<()>;

    /// Status of one container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;

    /// All containers, whatever their state, of one sandbox or of all.
    async fn list_containers(&self, sandbox_id: Option<&str>) -> Result<Vec<ContainerStatus>>;

    /// Changes limits of a running container in place.
    async fn update_resources(&self, id: &str, resources: &Resources) -> Result<()>;

    /// Runs a command to its end (probes, hooks). After `timeout` it is killed and the answer is [`RuntimeError::Timeout`].
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;

    /// Runs a command with streams.
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<StreamSession>;

    /// Attaches to the container's own streams.
    async fn attach(&self, _id: &str, _request: AttachRequest) -> Result<StreamSession> {
        Err(RuntimeError::Unsupported("attach"))
    }

    /// Connects to `127.0.0.1:port` (then `[::1]:port`) inside the sandbox's network.
    async fn port_forward(&self, _sandbox_id: &str, _port: u16) -> Result<Box<dyn Connection>> {
        Err(RuntimeError::Unsupported("port-forward"))
    }

    /// Closes and reopens the log file after the agent rotated it.
    async fn reopen_log(&self, id: &str) -> Result<()>;

    /// The whole log when it is not in a file (hollow). `None`: read [`ContainerStatus::log_path`].
    fn inline_log(&self, _id: &str) -> Option<Bytes> {
        None
    }

    /// Use of resources of all running containers.
    async fn stats(&self) -> Result<Vec<ContainerStats>>;
}

/// Name and password for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// OAuth2 identity token (refresh token), used instead of the two above when not empty.
    pub identity_token: String,
    /// Bearer token to send as it is.
    pub registry_token: String,
}

/// A local image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration: the identity.
    pub id: String,
    /// References `host/repo:tag`, normalized (`docker.io/library/…`).
    pub tags: Vec<String>,
    /// References `host/repo@sha256:…`; may be empty for imported archives.
    pub digests: Vec<String>,
    /// Size on disk in bytes.
    pub size_bytes: u64,
    /// Numeric user of the image, if its configuration has one.
    pub uid: Option<i64>,
    /// User name of the image, if its configuration has a name.
    pub username: String,
    /// Never removed by the agent's garbage collection.
    pub pinned: bool,
}

/// Bytes used by the image store.
#[derive(Debug, Clone, Default)]
pub struct ImageFilesystem {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes used by images and writable layers.
    pub used_bytes: u64,
}

/// Keeps images.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Fetches the image (short names mean docker.io/library, missing tags `latest`), trying the credentials in turn, anonymous when there are
    /// none, and returns it.
    async fn pull(&self, reference: &str, credentials: &[Credentials]) -> Result<Image>;

    /// The local image a reference or id means, if present.
    async fn status(&self, reference: &str) -> Result<Option<Image>>;

    /// All local images.
    async fn list(&self) -> Result<Vec<Image>>;

    /// Removes an image by reference or id. Idempotent; images in use by containers are refused.
    async fn remove(&self, reference: &str) -> Result<()>;

    /// Where images are and what they use.
    async fn filesystem(&self) -> Result<ImageFilesystem>;
}
