//! The one-shot process: makes one container, or runs one process in it, and ends. Everything libcontainer does to its process
//! (`oom_score_adj`, working directory, dumpable) stays here. Its standard streams are the container's.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchies;
use super::executor::Exec;
use super::record::{self, ContainerDir, ContainerRecord, SandboxDir, SandboxRecord};
use super::rootfs::{self, Root};
use super::spec::{self, Host};
use super::{capabilities, devices, pause, report, seccomp, user};
use crate::runtime::{Seccomp, TerminalSize};

/// What a one-shot answers, in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The process made.
    pub(super) pid: i32,
    /// Why there is none; empty when there is.
    pub(super) error: String,
}

/// A process to run in a container, in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecFile {
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Whether it gets a terminal; its master end goes to the socket of that name in the container's directory.
    pub(super) console: Option<String>,
    /// How large the terminal is, when known.
    pub(super) size: Option<TerminalSize>,
}

/// Runs `shim-exec run <container dir>` or `shim-exec exec <container dir> <request file>`.
pub(super) fn main(args: &[OsString]) -> ExitCode {
    let (result, outcome) = match args {
        [verb, dir] if verb == "run" => {
            let dir = ContainerDir(PathBuf::from(dir));
            (dir.result(), run(&dir))
        }
        [verb, dir, file] if verb == "exec" => {
            let dir = ContainerDir(PathBuf::from(dir));
            let file = dir.0.join(file);
            (file.with_extension("result"), exec(&dir, &file))
        }
        [verb, dir] if verb == "pause-make" => return made(pause::make(&SandboxDir(PathBuf::from(dir)))),
        [verb] if verb == "pause" => return pause::main(),
        _ => return ExitCode::from(2),
    };
    let outcome = match outcome {
        Ok(pid) => Outcome { pid, error: String::new() },
        Err(error) => Outcome { pid: 0, error },
    };
    match record::write(&result, &outcome) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The words go to the shim's log.
fn made(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("make the pod's PID namespace: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &ContainerDir) -> Result<i32, String> {
    let pipe = fs::OpenOptions::new().write(true).open(dir.report()).map_err(|e| format!("open report pipe: {e}"))?;
    let pipe = Arc::new(pipe);
    report::log_errors_to(pipe.clone());
    let (record, sandbox_dir, sandbox) = records(dir)?;
    adjust_oom(record.config.resources.oom_score_adj);
    rootfs::mount_overlay(&record, dir)?;
    let made = make(dir, &record, &sandbox_dir, &sandbox, pipe);
    if made.is_err() {
        rootfs::unmount_overlay(dir);
        let _ = fs::remove_dir_all(dir.oci());
    }
    made
}

fn records(dir: &ContainerDir) -> Result<(ContainerRecord, SandboxDir, SandboxRecord), String> {
    let record: ContainerRecord = record::read(&dir.record()).map_err(|e| format!("read container record: {e}"))?;
    let above = dir.0.parent().and_then(Path::parent).ok_or("the container's directory has no sandbox above it")?;
    let sandbox_dir = SandboxDir(above.to_owned());
    let sandbox: SandboxRecord = record::read(&sandbox_dir.record()).map_err(|e| format!("read sandbox record: {e}"))?;
    Ok((record, sandbox_dir, sandbox))
}

fn make(
    dir: &ContainerDir,
    record: &ContainerRecord,
    sandbox_dir: &SandboxDir,
    sandbox: &SandboxRecord,
    pipe: Arc<File>,
) -> Result<i32, String> {
    let root = Root::open(&dir.rootfs()).map_err(|e| format!("open root file system: {e}"))?;
    let user = resolve_user(&root, record)?;
    let cwd = spec::working_dir(record);
    root.make_dir(Path::new(&cwd)).map_err(|e| format!("make working directory {cwd}: {e}"))?;
    let host = host(record.config.security.privileged);
    let spec = spec::specification(record, sandbox, sandbox_dir, &user, &host)?;
    record::write(&dir.0.join("config.json"), &spec).map_err(|e| format!("write config.json: {e}"))?;
    fs::create_dir_all(dir.oci()).map_err(|e| format!("create {}: {e}", dir.oci().display()))?;
    let mut executor = executor(record, pipe)?;
    let devices = device_program(record, sandbox, &mut executor);
    let builder = builder(dir, record, executor)?;
    let builder = if record.config.tty { builder.with_console_socket(Some(dir.0.join("console.sock"))) } else { builder };
    let built = builder.as_init(&dir.0).with_systemd(false).as_sibling(true).with_detach(true).build();
    let mut container: Container = built.map_err(|e| chain(&e))?;
    let pid = container.pid().ok_or("the container has no process")?.as_raw();
    // It waits for the start: nothing of the image has run yet.
    if let Some((program, cgroup)) = devices {
        devices::confine(&program, &cgroup).map_err(|e| format!("confine devices of {}: {e}", cgroup.display()))?;
    }
    container.start().map_err(|e| chain(&e))?;
    Ok(pid)
}

/// On cgroup v2: the program that confines the container's devices, and where to attach it. A kernel that does not take it leaves only
/// one way to keep a container from other devices: that it cannot make their nodes.
fn device_program(record: &ContainerRecord, sandbox: &SandboxRecord, executor: &mut Exec) -> Option<(OwnedFd, PathBuf)> {
    if record.config.security.privileged {
        return None;
    }
    let cgroup = Hierarchies::detect().unified_dir(&format!("{}/{}", sandbox.cgroup_parent(), record.id))?;
    match devices::load() {
        Ok(program) => Some((program, cgroup)),
        Err(error) => {
            tracing::warn!(%error, "no device programs in this kernel: containers get no CAP_MKNOD");
            executor.capabilities.remove(&caps::Capability::CAP_MKNOD);
            None
        }
    }
}

fn exec(dir: &ContainerDir, file: &Path) -> Result<i32, String> {
    let (mut reader, writer) = std::io::pipe().map_err(|e| format!("make report pipe: {e}"))?;
    let pipe = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
    report::log_errors_to(pipe.clone());
    let request: ExecFile = record::read(file).map_err(|e| format!("read exec request: {e}"))?;
    let (record, _, _) = records(dir)?;
    adjust_oom(record.config.resources.oom_score_adj);
    let root = Root::open(&dir.rootfs()).map_err(|e| format!("open root file system: {e}"))?;
    let user = resolve_user(&root, &record)?;
    let process = spec::process(&record, &user, &request.command, request.console.is_some(), &host(false));
    let process_file = file.with_extension("process");
    record::write(&process_file, &process).map_err(|e| format!("write process: {e}"))?;
    let mut builder = builder(dir, &record, Exec { size: request.size, ..executor(&record, pipe)? })?;
    if let Some(console) = &request.console {
        builder = builder.with_console_socket(Some(dir.0.join(console)));
    }
    let built = builder.as_tenant().with_process(Some(&process_file)).with_detach(true).as_sibling(true).build();
    let _ = fs::remove_file(process_file);
    let _ = fs::remove_file(file);
    match built {
        Ok(pid) => Ok(pid.as_raw()),
        Err(e) => {
            // The subscriber and the builder still hold writing ends: take what is there.
            let mut text = vec![0; 4096];
            let _ = rustix::io::ioctl_fionbio(&reader, true);
            let n = std::io::Read::read(&mut reader, &mut text).unwrap_or(0);
            Err(report::verdict(&String::from_utf8_lossy(&text[..n])).unwrap_or_else(|| chain(&e)))
        }
    }
}

fn builder(dir: &ContainerDir, record: &ContainerRecord, executor: Exec) -> Result<ContainerBuilder, String> {
    let builder = ContainerBuilder::new(record.id.clone(), SyscallType::default()).with_executor(executor);
    builder.with_root_path(dir.oci()).map_err(|e| chain(&e))
}

fn executor(record: &ContainerRecord, report: Arc<File>) -> Result<Exec, String> {
    let security = &record.config.security;
    let capabilities = capabilities::of(security, &capabilities::own())?;
    let filters = match &security.seccomp {
        _ if security.privileged => Vec::new(),
        Seccomp::Unconfined => Vec::new(),
        Seccomp::RuntimeDefault => seccomp::runtime_default(&capabilities)?,
        Seccomp::Localhost(path) => return Err(format!("seccomp profile {}: localhost profiles are not supported yet", path.display())),
    };
    Ok(Exec { capabilities, filters, size: None, report })
}

fn resolve_user(root: &Root, record: &ContainerRecord) -> Result<user::User, String> {
    user::resolve(&record.image.user, &record.config.security, &root.read("etc/passwd"), &root.read("etc/group"))
}

/// A lower value needs a right this process may lack: then the container gets the lowest it can have.
fn adjust_oom(score: Option<i32>) {
    if let Some(score) = score
        && fs::write("/proc/self/oom_score_adj", score.to_string()).is_err()
    {
        tracing::warn!(score, "oom_score_adj was refused");
    }
}

fn host(privileged: bool) -> Host {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Host { max_files: limit.maximum.unwrap_or(u64::MAX), devices: if privileged { host_devices(Path::new("/dev")) } else { Vec::new() } }
}

/// All device nodes of the host, except those a container has of its own.
fn host_devices(dir: &Path) -> Vec<(char, u32, u32, String)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    const OWN: [&str; 12] = ["pts", "shm", "mqueue", "fd", "console", "null", "zero", "full", "random", "urandom", "tty", "ptmx"];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(meta)) = (entry.path(), fs::symlink_metadata(entry.path())) else { continue };
        if dir == Path::new("/dev") && OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        let kind = meta.file_type();
        if kind.is_dir() {
            found.extend(host_devices(&path));
        } else if kind.is_char_device() || kind.is_block_device() {
            let device = meta.rdev();
            let letter = if kind.is_char_device() { 'c' } else { 'b' };
            found.push((letter, rustix::fs::major(device), rustix::fs::minor(device), path.to_string_lossy().into_owned()));
        }
    }
    found
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = cause.source();
    }
    words
}
