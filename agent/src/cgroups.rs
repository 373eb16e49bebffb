//! Pod cgroups: `/kubepods[/burstable|/besteffort]/pod<uid>` with shares, quota and memory limit from the pod's requests and limits (kubelet
//! `cm/pod_container_manager_linux.go`, `cm/helpers_linux.go`). Written as plain files, on cgroup v1 and v2.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container as ContainerSpec, PodSpec};

use crate::pods::object::BoundPod;
use crate::pods::qos::{self, Class};
use crate::quantity::{milli_of, value_of};
use crate::runtime::Resources;

/// CFS period in microseconds.
const PERIOD_US: u64 = 100_000;
/// The smallest share and quota the kernel takes.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_QUOTA_US: i64 = 1000;
/// Controllers of v1 in which pods get a directory of their own.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "cpuset"];

/// Where cgroups are made.
#[derive(Debug, Clone)]
pub struct Cgroups {
    layout: Layout,
    /// Path of `kubepods` below the hierarchy root, begins with `/`.
    base: String,
}

#[derive(Debug, Clone)]
enum Layout {
    /// One hierarchy.
    Unified(PathBuf),
    /// One directory per controller: name and mount point.
    Legacy(Vec<(String, PathBuf)>),
}

impl Cgroups {
    /// Finds the hierarchy under `/sys/fs/cgroup` and makes the class directories below `parent` (`""` for the root).
    ///
    /// # Errors
    /// When there is none or it cannot be written: the node then runs pods without cgroups of their own.
    pub fn detect(parent: &str) -> io::Result<Self> {
        Self::at(Path::new("/sys/fs/cgroup"), parent)
    }

    /// As [`Cgroups::detect`] with the mount point given.
    ///
    /// # Errors
    /// As there.
    pub fn at(root: &Path, parent: &str) -> io::Result<Self> {
        let layout = if root.join("cgroup.controllers").exists() {
            Layout::Unified(root.to_owned())
        } else {
            let found: Vec<_> = V1_CONTROLLERS.iter().map(|c| ((*c).to_owned(), root.join(c))).filter(|(_, dir)| dir.is_dir()).collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup hierarchy at {}", root.display())));
            }
            Layout::Legacy(found)
        };
        let this = Self { layout, base: format!("{parent}/kubepods") };
        for class in ["", "/burstable", "/besteffort"] {
            this.make(&format!("{}{class}", this.base))?;
        }
        // Best effort gets the smallest share there is.
        this.write(&format!("{}/besteffort", this.base), "cpu", "cpu.shares", "cpu.weight", MIN_SHARES, weight(MIN_SHARES))?;
        Ok(this)
    }

    /// The pod's path below the hierarchy root.
    #[must_use]
    pub fn pod_path(&self, pod: &BoundPod) -> String {
        let class = match qos::class(&pod.spec) {
            Class::Guaranteed => "",
            Class::Burstable => "/burstable",
            Class::BestEffort => "/besteffort",
        };
        format!("{}{class}/pod{}", self.base, pod.metadata.uid)
    }

    /// Makes the pod's cgroup and returns its path for the runtime.
    ///
    /// # Errors
    /// When the hierarchy cannot be written.
    pub async fn create_pod(&self, pod: &BoundPod) -> io::Result<String> {
        let path = self.pod_path(pod);
        let limits = pod_resources(&pod.spec);
        self.make(&path)?;
        let shares = limits.cpu_shares.unwrap_or(MIN_SHARES);
        self.write(&path, "cpu", "cpu.shares", "cpu.weight", shares, weight(shares))?;
        if let Some(quota) = limits.cpu_quota_us {
            self.write(&path, "cpu", "cpu.cfs_period_us", "cpu.max", PERIOD_US, format!("{quota} {PERIOD_US}"))?;
            self.write_v1(&path, "cpu", "cpu.cfs_quota_us", quota)?;
        }
        if let Some(limit) = limits.memory_limit_bytes {
            self.write(&path, "memory", "memory.limit_in_bytes", "memory.max", limit, limit)?;
        }
        Ok(path)
    }

    /// Removes the pod's cgroup and what is left below it. Directories that are still busy stay and are told in the log.
    pub async fn remove_pod(&self, pod: &BoundPod) {
        let path = self.pod_path(pod);
        for dir in self.dirs(&path) {
            for attempt in 0..5_u32 {
                match remove_tree(&dir) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if attempt == 4 => tracing::warn!(dir = %dir.display(), %error, "cgroup not removed"),
                    // Processes that were just killed leave a little later.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20 << attempt)).await,
                }
            }
        }
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let below = path.trim_start_matches('/');
        match &self.layout {
            Layout::Unified(root) => vec![root.join(below)],
            // cpu and cpuacct are often one directory under two names.
            Layout::Legacy(roots) => {
                let mut seen: Vec<PathBuf> = Vec::new();
                for (_, root) in roots {
                    let real = root.canonicalize().unwrap_or_else(|_| root.clone());
                    if !seen.contains(&real) {
                        seen.push(real);
                    }
                }
                seen.into_iter().map(|root| root.join(below)).collect()
            }
        }
    }

    fn make(&self, path: &str) -> io::Result<()> {
        if let Layout::Unified(root) = &self.layout {
            let mut dir = root.clone();
            for part in path.trim_start_matches('/').split('/') {
                // Each level hands its controllers on to the next.
                for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
                    let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
                }
                dir.push(part);
                make_dir(&dir)?;
            }
            for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
                let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            return Ok(());
        }
        for dir in self.dirs(path) {
            std::fs::create_dir_all(&dir)?;
        }
        self.inherit_cpuset(path);
        Ok(())
    }

    /// A new v1 cpuset is empty and takes no process until it has cpus and memory nodes.
    fn inherit_cpuset(&self, path: &str) {
        let Layout::Legacy(roots) = &self.layout else { return };
        let Some((_, root)) = roots.iter().find(|(name, _)| name == "cpuset") else { return };
        let mut dir = root.clone();
        for part in path.trim_start_matches('/').split('/') {
            let parent = dir.clone();
            dir.push(part);
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
                if own.trim().is_empty()
                    && let Ok(inherited) = std::fs::read_to_string(parent.join(file))
                {
                    let _ = std::fs::write(dir.join(file), inherited.trim());
                }
            }
        }
    }

    fn write(
        &self,
        path: &str,
        controller: &str,
        v1: &str,
        v2: &str,
        old: impl std::fmt::Display,
        new: impl std::fmt::Display,
    ) -> io::Result<()> {
        match &self.layout {
            Layout::Unified(root) => write_file(&root.join(path.trim_start_matches('/')).join(v2), &new.to_string()),
            Layout::Legacy(_) => self.write_v1(path, controller, v1, old),
        }
    }

    fn write_v1(&self, path: &str, controller: &str, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
        let Layout::Legacy(roots) = &self.layout else { return Ok(()) };
        match roots.iter().find(|(name, _)| name == controller) {
            Some((_, root)) => write_file(&root.join(path.trim_start_matches('/')).join(file), &value.to_string()),
            None => Ok(()),
        }
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    std::fs::write(path, text).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Cgroup directories are removed from the leaves up, each by rmdir.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}

/// Shares of v1 for thousandths of a core.
#[must_use]
pub fn shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Weight of v2 for shares of v1, by the conversion of runc 1.3 and later (equal at the default: 1024 <-> 100).
#[must_use]
pub fn weight(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    #[allow(clippy::cast_precision_loss)] // shares are at most 2^18
    let l = (shares.clamp(MIN_SHARES, MAX_SHARES) as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 1 and 10,000 by construction
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

/// Quota in microseconds for thousandths of a core.
fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(PERIOD_US.cast_signed()) / 1000).max(MIN_QUOTA_US)
}

/// Limits of one container.
#[must_use]
pub fn container_resources(pod: &PodSpec, spec: &ContainerSpec, memory_capacity: i64) -> Resources {
    let limit_cpu = qos::limit_milli(spec, "cpu");
    let limit_memory = value_of(spec.resources.as_ref().and_then(|r| r.limits.as_ref()), "memory");
    Resources {
        cpu_shares: Some(shares(qos::request_milli(spec, "cpu"))),
        cpu_quota_us: (limit_cpu > 0).then(|| quota(limit_cpu)),
        cpu_period_us: (limit_cpu > 0).then_some(PERIOD_US),
        memory_limit_bytes: (limit_memory > 0).then_some(limit_memory),
        pids_limit: None,
        oom_score_adj: Some(qos::oom_score_adj(pod, spec, memory_capacity)),
        unified: std::collections::BTreeMap::new(),
    }
}

/// Limits of the whole pod: shares from its requests; quota and memory limit only when every container has one (or the pod itself).
#[must_use]
pub fn pod_resources(spec: &PodSpec) -> Resources {
    let requests = qos::pod_requests(spec);
    let own = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let sum = |name: &str, of: fn(&ContainerSpec, &str) -> i64| -> Option<i64> {
        let amounts: Vec<i64> = spec.containers.iter().map(|c| of(c, name)).collect();
        let init = spec.init_containers.iter().flatten().map(|c| of(c, name)).collect::<Vec<_>>();
        let bounded = amounts.iter().chain(&init).all(|a| *a > 0);
        let sidecars: i64 = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.is_some()).map(|c| of(c, name)).sum();
        bounded.then(|| (amounts.iter().sum::<i64>() + sidecars).max(init.into_iter().max().unwrap_or(0)))
    };
    let cpu = Some(milli_of(own, "cpu")).filter(|v| *v > 0).or_else(|| sum("cpu", qos::limit_milli));
    let memory = Some(value_of(own, "memory")).filter(|v| *v > 0).or_else(|| sum("memory", |c, n| (qos::limit_milli(c, n) + 999) / 1000));
    Resources {
        cpu_shares: Some(shares(requests.cpu_milli)),
        cpu_quota_us: cpu.map(quota),
        cpu_period_us: cpu.map(|_| PERIOD_US),
        memory_limit_bytes: memory,
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: &str) -> BoundPod {
        BoundPod::decode(json.as_bytes()).expect("a pod")
    }

    #[test]
    fn shares_weights_and_quotas_follow_the_kernel_limits() {
        assert_eq!([shares(0), shares(1), shares(500), shares(1000)], [2, 2, 512, 1024]);
        assert_eq!([weight(2), weight(1024), weight(262_144)], [1, 100, 10_000]);
        assert_eq!([quota(1), quota(500), quota(2000)], [1000, 50_000, 200_000]);
    }

    #[tokio::test]
    async fn a_burstable_pod_gets_its_directory_with_limits_on_v2() {
        let root = tempfile::tempdir().expect("tempdir");
        std::fs::write(root.path().join("cgroup.controllers"), "cpu memory").expect("write");
        let cgroups = Cgroups::at(root.path(), "").expect("detected");
        let pod = pod(
            r#"{"metadata":{"uid":"u1"},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"500m"},"limits":{"cpu":"1","memory":"64Mi"}}}]}}"#,
        );
        let path = cgroups.create_pod(&pod).await.expect("created");
        assert_eq!(path, "/kubepods/burstable/podu1");
        let read = |file: &str| std::fs::read_to_string(root.path().join("kubepods/burstable/podu1").join(file)).expect("written");
        assert_eq!(
            (read("cpu.weight").as_str(), read("cpu.max").as_str(), read("memory.max").as_str()),
            ("59", "100000 100000", "67108864")
        );
    }

    #[tokio::test]
    async fn a_best_effort_pod_has_no_limits_on_v1() {
        let root = tempfile::tempdir().expect("tempdir");
        for controller in ["cpu", "memory"] {
            std::fs::create_dir(root.path().join(controller)).expect("mkdir");
        }
        let cgroups = Cgroups::at(root.path(), "/x").expect("detected");
        let path = cgroups.create_pod(&pod(r#"{"metadata":{"uid":"u2"},"spec":{"containers":[{"name":"a"}]}}"#)).await.expect("created");
        assert_eq!(path, "/x/kubepods/besteffort/podu2");
        let dir = root.path().join("cpu/x/kubepods/besteffort/podu2");
        assert_eq!(std::fs::read_to_string(dir.join("cpu.shares")).expect("written"), "2");
        assert!(!dir.join("cpu.cfs_quota_us").exists());
    }
}
