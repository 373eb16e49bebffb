//! Cgroups of containers, version 1 and 2, by their files: limits while they run, use, kills for memory, removal.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::runtime::Resources;

/// Where the hierarchies are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// Version 2, when it has the controllers (not the hybrid's empty one).
    unified: Option<PathBuf>,
    /// Version 1: controller to mount point.
    controllers: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    /// Finds them.
    pub(super) fn detect() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Reads a mountinfo.
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1));
            match kind {
                Some("cgroup2") => found.unified = Some(point.into()),
                Some("cgroup") => {
                    for option in options.unwrap_or_default().split(',').filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "noprefix")) {
                        found.controllers.insert(option.to_owned(), point.into());
                    }
                }
                _ => {}
            }
        }
        // In the hybrid layout the controllers are in version 1.
        if found.controllers.contains_key("memory") {
            found.unified = None;
        }
        found
    }

    /// Whether version 2 is in use.
    pub(super) fn is_unified(&self) -> bool {
        self.unified.is_some()
    }

    /// Directory of a cgroup of version 2; `None` on version 1.
    pub(super) fn unified_dir(&self, path: &str) -> Option<PathBuf> {
        Some(self.unified.as_ref()?.join(path.trim_start_matches('/')))
    }

    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let root = self.unified.as_ref().or_else(|| self.controllers.get(controller))?;
        Some(root.join(path.trim_start_matches('/')))
    }

    /// All directories of a cgroup.
    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let roots = match &self.unified {
            Some(root) => vec![root],
            None => self.controllers.values().collect(),
        };
        let mut dirs: Vec<PathBuf> = roots.into_iter().map(|root| root.join(path.trim_start_matches('/'))).collect();
        dirs.dedup();
        dirs
    }

    /// How often the kernel killed something in it for memory.
    pub(super) fn oom_kills(&self, path: &str) -> u64 {
        let Some(dir) = self.dir("memory", path) else { return 0 };
        let file = dir.join(if self.is_unified() { "memory.events" } else { "memory.oom_control" });
        field(&fs::read_to_string(file).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// Processes in it and below.
    pub(super) fn processes(&self, path: &str) -> Vec<i32> {
        let Some(dir) = self.dir("pids", path).or_else(|| self.dirs(path).into_iter().next()) else { return Vec::new() };
        let mut found = Vec::new();
        let mut todo = vec![dir];
        while let Some(dir) = todo.pop() {
            let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(processes.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
            let inner = fs::read_dir(&dir).into_iter().flatten().flatten();
            todo.extend(inner.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        found
    }

    /// Kills everything in it, until nothing is left or the time is over.
    pub(super) fn kill(&self, path: &str, patience: Duration) {
        if let Some(root) = &self.unified {
            // One write, and nothing can fork away (kernel 5.14).
            let _ = fs::write(root.join(path.trim_start_matches('/')).join("cgroup.kill"), "1");
        }
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        loop {
            let processes = self.processes(path);
            for pid in &processes {
                if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if processes.is_empty() || waited >= patience {
                return;
            }
            std::thread::sleep(step);
            waited += step;
        }
    }

    /// Removes it and what is below. The kernel may need a moment after the last process: tried for a while.
    pub(super) fn remove(&self, path: &str, patience: Duration) -> io::Result<()> {
        let mut result = Ok(());
        for dir in self.dirs(path) {
            if let Err(e) = remove_tree(&dir, patience) {
                result = Err(io::Error::new(e.kind(), format!("remove cgroup {}: {e}", dir.display())));
            }
        }
        result
    }

    /// Sets limits of a running container.
    pub(super) fn update(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let write = |controller: &str, file: &str, value: String| -> io::Result<()> {
            let Some(dir) = self.dir(controller, path) else { return Ok(()) };
            let file = dir.join(file);
            fs::write(&file, &value).map_err(|e| io::Error::new(e.kind(), format!("write {value} to {}: {e}", file.display())))
        };
        let unified = self.is_unified();
        if let Some(shares) = resources.cpu_shares.filter(|s| *s > 0) {
            match unified {
                true => write("cpu", "cpu.weight", weight_of(shares).to_string())?,
                false => write("cpu", "cpu.shares", shares.to_string())?,
            }
        }
        if let Some(quota) = resources.cpu_quota_us.filter(|q| *q != 0) {
            let period = resources.cpu_period_us.filter(|p| *p > 0).unwrap_or(100_000);
            let limit = if quota < 0 { "max".to_owned() } else { quota.to_string() };
            match unified {
                true => write("cpu", "cpu.max", format!("{limit} {period}"))?,
                false => {
                    write("cpu", "cpu.cfs_period_us", period.to_string())?;
                    write("cpu", "cpu.cfs_quota_us", quota.to_string())?;
                }
            }
        }
        if let Some(limit) = resources.memory_limit_bytes.filter(|l| *l != 0) {
            let (file, none) = if unified { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
            write("memory", file, if limit < 0 { none.to_owned() } else { limit.to_string() })?;
        }
        if let Some(limit) = resources.pids_limit.filter(|l| *l != 0) {
            write("pids", "pids.max", if limit < 0 { "max".to_owned() } else { limit.to_string() })?;
        }
        if unified {
            for (file, value) in resources.unified.iter().filter(|(file, _)| !file.contains('/')) {
                write("", file, value.clone())?;
            }
        }
        Ok(())
    }

    /// Processor time in nanoseconds, working set and anonymous memory in bytes.
    pub(super) fn usage(&self, path: &str) -> Option<(u64, u64, u64)> {
        let read = |controller: &str, file: &str| fs::read_to_string(self.dir(controller, path)?.join(file)).ok();
        let number = |text: String| text.trim().parse::<u64>().ok();
        let (cpu, total, stat, inactive, anonymous) = if self.is_unified() {
            let cpu = field(&read("", "cpu.stat")?, "usage_usec")?.saturating_mul(1000);
            (cpu, number(read("", "memory.current")?)?, read("", "memory.stat")?, "inactive_file", "anon")
        } else {
            let cpu = number(read("cpuacct", "cpuacct.usage")?)?;
            (cpu, number(read("memory", "memory.usage_in_bytes")?)?, read("memory", "memory.stat")?, "total_inactive_file", "total_rss")
        };
        let working_set = total.saturating_sub(field(&stat, inactive).unwrap_or(0));
        Some((cpu, working_set, field(&stat, anonymous).unwrap_or(0)))
    }
}

/// A cgroup v1 share count as a v2 weight: 2..=262144 onto 1..=10000, as runc and kubelet do it.
pub(super) fn weight_of(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn remove_tree(dir: &Path, patience: Duration) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path(), patience)?;
        }
    }
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && waited < patience => {
                std::thread::sleep(step);
                waited += step;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_layout_is_version_1_and_the_pure_one_version_2() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let found = Hierarchies::parse(hybrid);
        assert!(!found.is_unified());
        assert_eq!(found.dir("cpuacct", "/a/b"), Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into()));
        assert_eq!(found.dirs("x").len(), 2, "a directory of two controllers counts once");
        let pure = Hierarchies::parse("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(pure.dir("memory", "/a"), Some("/sys/fs/cgroup/a".into()));
    }

    #[test]
    fn shares_become_weights_as_runc_has_them() {
        assert_eq!([2, 1024, 262_144, 0].map(weight_of), [1, 39, 10000, 1]);
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        assert_eq!(field("oom 3\noom_kill 2\noom_kill_disable 0\n", "oom_kill"), Some(2));
        assert_eq!(field("anon_thp 5\nanon 7\n", "anon"), Some(7));
    }
}
