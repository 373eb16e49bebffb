//! Facts about the machine, from `/proc`, `/sys` and `/etc`.

use std::path::Path;

use crate::pods::qos::Amounts;

/// What a machine has and is.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Cores, memory, disk.
    pub capacity: Amounts,
    /// Stable id of the installation.
    pub machine_id: String,
    /// Firmware's id of the machine.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// Bytes of swap.
    pub swap: i64,
}

/// Reads them; what cannot be read stays empty.
#[must_use]
pub fn read(data_dir: &Path) -> Machine {
    let line = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let (memory, swap) = meminfo(&line("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let machine_id = line("/etc/machine-id");
    let system_uuid = line("/sys/class/dmi/id/product_uuid");
    let os_release = line("/etc/os-release");
    Machine {
        capacity: Amounts {
            cpu_milli: i64::try_from(cores).unwrap_or(1) * 1000,
            memory: cgroup_memory_limit().map_or(memory, |limit| limit.min(memory)),
            ephemeral_storage: disk(data_dir).map_or(0, |d| d.total),
        },
        system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
        machine_id,
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: field(&os_release, "PRETTY_NAME=").unwrap_or("Linux").to_owned(),
        swap,
    }
}

/// Bytes of memory and swap.
fn meminfo(text: &str) -> (i64, i64) {
    (meminfo_field(text, "MemTotal:"), meminfo_field(text, "SwapTotal:"))
}

fn meminfo_field(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) * 1024
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_matches('"'))
}

/// The memory limit of the agent's own cgroup, when it is in a container.
fn cgroup_memory_limit() -> Option<i64> {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let v1 = || std::fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes").ok();
    let limit: i64 = v2.or_else(v1)?.trim().parse().ok()?;
    (limit > 0).then_some(limit)
}

/// Size and free space of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Bytes in all.
    pub total: i64,
    /// Bytes an ordinary user may still write.
    pub free: i64,
    /// Inodes in all, 0 when the file system has no such limit.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// The file system a path is on.
#[must_use]
pub fn disk(path: &Path) -> Option<Disk> {
    let stat = path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok())?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    Some(Disk { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail), inodes: stat.f_files, inodes_free: stat.f_favail })
}

/// Bytes of memory that could be given to somebody now.
#[must_use]
pub fn available_memory() -> i64 {
    meminfo_field(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:")
}

/// Processes and threads now, and the most there can be.
#[must_use]
pub fn processes() -> Option<(u64, u64)> {
    let loadavg = std::fs::read_to_string("/proc/loadavg").ok()?;
    let running = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    Some((running, limit))
}

/// The architecture by its Go name.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemFree: 1 kB\nSwapTotal:       16 kB\n";
        assert_eq!(meminfo(text), (2_097_152, 16_384));
    }
}
