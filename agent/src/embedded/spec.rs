//! From a container's configuration to an OCI runtime specification (`config.json`). Pure: what has to be read is passed in.

use std::path::Path;

use serde_json::{Value, json};

use super::devices;
use super::record::{ContainerRecord, SandboxDir, SandboxRecord};
use super::user::User;
use crate::runtime::{Mount, NamespaceMode, Propagation};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Open files a container may have, as far as this process may give them.
const MAX_FILES: u64 = 1_048_576;

/// What the machine offers.
pub(super) struct Host {
    /// Hard limit of open files of this process.
    pub(super) max_files: u64,
    /// Devices for privileged containers: type, major, minor, path.
    pub(super) devices: Vec<(char, u32, u32, String)>,
}

/// Program and arguments, from pod and image.
///
/// # Errors
/// When neither names a program.
pub(super) fn command(record: &ContainerRecord) -> Result<Vec<String>, String> {
    let (config, image) = (&record.config, &record.image);
    let command = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
        (true, false) => [image.entrypoint.clone(), config.args.clone()].concat(),
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    };
    if command.is_empty() { Err("no command specified".to_owned()) } else { Ok(command) }
}

/// The environment in order, each name once; later ones win.
pub(super) fn environment(record: &ContainerRecord, user: &User) -> Vec<String> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match all.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => value.clone_into(old),
        None => all.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", DEFAULT_PATH);
    if !record.config.hostname.is_empty() {
        set("HOSTNAME", &record.config.hostname);
    }
    if record.config.tty {
        set("TERM", "xterm");
    }
    set("HOME", &user.home);
    for (name, value) in record.image.env.iter().filter_map(|variable| variable.split_once('=')) {
        set(name, value);
    }
    for (name, value) in &record.config.env {
        set(name, value);
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The working directory.
pub(super) fn working_dir(record: &ContainerRecord) -> String {
    let wanted = [&record.config.working_dir, &record.image.working_dir].into_iter().find(|dir| !dir.is_empty());
    let dir = wanted.map_or("/", String::as_str);
    if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") }
}

/// The process section, also for exec.
pub(super) fn process(record: &ContainerRecord, user: &User, args: &[String], tty: bool, host: &Host) -> Value {
    let security = &record.config.security;
    let mut process = json!({
        "terminal": tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": environment(record, user),
        "cwd": working_dir(record),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": host.max_files.min(MAX_FILES), "soft": host.max_files.min(MAX_FILES)}],
    });
    if security.no_new_privs && !security.privileged {
        process["noNewPrivileges"] = json!(true);
    }
    process
}

/// The whole specification.
pub(super) fn specification(
    record: &ContainerRecord,
    sandbox: &SandboxRecord,
    dir: &SandboxDir,
    user: &User,
    host: &Host,
) -> Result<Value, String> {
    let config = &record.config;
    let security = &config.security;
    let privileged = security.privileged;
    let mut linux = json!({
        "cgroupsPath": format!("{}/{}", sandbox.cgroup_parent(), record.id),
        "namespaces": namespaces(sandbox, dir),
        "resources": resources(record),
        "rootfsPropagation": propagation(&config.mounts),
    });
    if !privileged && !security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READONLY);
    }
    if privileged {
        let device = |(kind, major, minor, path): &(char, u32, u32, String)| json!({"path": path, "type": kind.to_string(), "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0});
        linux["devices"] = host.devices.iter().map(device).collect();
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process(record, user, &command(record)?, config.tty, host),
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "mounts": mounts(record, sandbox, dir),
        "linux": linux,
    }))
}

fn namespaces(sandbox: &SandboxRecord, dir: &SandboxDir) -> Vec<Value> {
    let pinned = |kind: &str, file: &str| json!({"type": kind, "path": dir.namespace(file)});
    let mut all = vec![json!({"type": "mount"})];
    match sandbox.config.namespaces.pid {
        NamespaceMode::Container => all.push(json!({"type": "pid"})),
        NamespaceMode::Pod => all.push(pinned("pid", "pid")),
        NamespaceMode::Node => {}
    }
    if sandbox.own_network() {
        all.push(pinned("network", "net"));
        all.push(pinned("uts", "uts"));
    }
    if sandbox.own_ipc() {
        all.push(pinned("ipc", "ipc"));
    }
    all
}

fn mounts(record: &ContainerRecord, sandbox: &SandboxRecord, dir: &SandboxDir) -> Vec<Value> {
    let privileged = record.config.security.privileged;
    let writable = if privileged { "rw" } else { "ro" };
    let given = |path: &str| record.config.mounts.iter().any(|m| m.container_path == Path::new(path));
    let mount =
        |to: &str, kind: &str, from: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": from, "options": options});
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", writable]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", writable]),
    ];
    if !given("/dev/shm") {
        let shm = if sandbox.own_ipc() { dir.shm() } else { "/dev/shm".into() };
        all.push(mount("/dev/shm", "bind", &shm.to_string_lossy(), &["rbind", "rprivate", "rw"]));
    }
    all.extend(record.config.mounts.iter().map(bind));
    all
}

fn bind(m: &Mount) -> Value {
    let propagation = match m.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (m.readonly, m.recursive_readonly) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    json!({"destination": m.container_path, "type": "bind", "source": m.host_path, "options": ["rbind", propagation, access]})
}

/// The root must let through what some mount wants to share.
fn propagation(mounts: &[Mount]) -> &'static str {
    if mounts.iter().any(|m| m.propagation == Propagation::Bidirectional) {
        "shared"
    } else if mounts.iter().any(|m| m.propagation == Propagation::HostToContainer) {
        "slave"
    } else {
        "private"
    }
}

fn resources(record: &ContainerRecord) -> Value {
    let limits = &record.config.resources;
    let mut all = json!({"devices": devices::rules(record.config.security.privileged)});
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
        cpu.insert("shares".to_owned(), json!(shares.max(2)));
    }
    if let Some(quota) = limits.cpu_quota_us.filter(|q| *q != 0) {
        cpu.insert("quota".to_owned(), json!(quota));
        cpu.insert("period".to_owned(), json!(limits.cpu_period_us.filter(|p| *p > 0).unwrap_or(100_000)));
    }
    all["cpu"] = Value::Object(cpu);
    if let Some(limit) = limits.memory_limit_bytes.filter(|l| *l > 0) {
        all["memory"] = json!({"limit": limit});
    }
    if let Some(limit) = limits.pids_limit.filter(|l| *l > 0) {
        all["pids"] = json!({"limit": limit});
    }
    if !limits.unified.is_empty() {
        all["unified"] = json!(limits.unified);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImageConfig;
    use crate::runtime::{ContainerConfig, SandboxConfig};

    pub(super) fn record(config: ContainerConfig, image: ImageConfig) -> ContainerRecord {
        ContainerRecord { id: "c".to_owned(), config, image, layers_dir: "/l".into(), layers: Vec::new(), created_ns: 0 }
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn root() -> User {
        User { uid: 0, gid: 0, groups: vec![0], home: "/root".to_owned() }
    }

    #[test]
    fn command_and_args_combine_with_the_image_as_documented() {
        let image = ImageConfig { entrypoint: strings(&["e"]), cmd: strings(&["c"]), ..ImageConfig::default() };
        for (command_given, args, wanted) in
            [(&[][..], &[][..], &["e", "c"][..]), (&[], &["a"], &["e", "a"]), (&["x"], &[], &["x"]), (&["x"], &["a"], &["x", "a"])]
        {
            let config = ContainerConfig { command: strings(command_given), args: strings(args), ..ContainerConfig::default() };
            assert_eq!(command(&record(config, image.clone())).unwrap(), wanted);
        }
        assert!(command(&record(ContainerConfig::default(), ImageConfig::default())).is_err());
    }

    #[test]
    fn the_pods_variables_win_over_the_images() {
        let config =
            ContainerConfig { env: vec![("A".to_owned(), "pod".to_owned())], hostname: "web-0".to_owned(), ..ContainerConfig::default() };
        let image = ImageConfig { env: strings(&["A=image", "PATH=/bin", "B=x=y"]), ..ImageConfig::default() };
        let env = environment(&record(config, image), &root());
        assert_eq!(env, ["PATH=/bin", "HOSTNAME=web-0", "HOME=/root", "A=pod", "B=x=y"]);
    }

    #[test]
    fn host_namespaces_are_left_out_and_limits_that_are_not_set_too() {
        let mut config = SandboxConfig::default();
        config.namespaces.network = NamespaceMode::Node;
        config.namespaces.pid = NamespaceMode::Node;
        let sandbox = SandboxRecord { id: "s".to_owned(), config, created_ns: 0, boot: String::new(), address: None, stopped: false };
        let host = Host { max_files: 1024, devices: Vec::new() };
        let container = record(ContainerConfig { command: strings(&["x"]), ..ContainerConfig::default() }, ImageConfig::default());
        let spec = specification(&container, &sandbox, &SandboxDir("/s".into()), &root(), &host).unwrap();
        let kinds: Vec<_> = spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["mount", "ipc"]);
        assert_eq!(spec["linux"]["cgroupsPath"], "/coracle/s/c");
        assert!(spec["linux"]["resources"].get("memory").is_none());
        assert_eq!(spec["process"]["rlimits"][0]["hard"], 1024);
        assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), 12);
    }

    #[test]
    fn shared_mounts_need_a_shared_root() {
        let with = |propagation| Mount { propagation, ..Mount::default() };
        assert_eq!(propagation(&[with(Propagation::Private)]), "private");
        assert_eq!(propagation(&[with(Propagation::Private), with(Propagation::HostToContainer)]), "slave");
        assert_eq!(propagation(&[with(Propagation::Bidirectional), with(Propagation::HostToContainer)]), "shared");
    }
}
