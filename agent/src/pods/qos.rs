//! Quality of service and what follows from requests and limits; rules from `pkg/apis/core/v1/helper/qos`, `component-helpers/resource` and
//! kubelet `qos/policy.go`.

use std::fmt;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::quantity::{milli_of, value_of};

/// Quality-of-service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Every container has limits equal to its requests for cpu and memory.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// Nobody asks for anything.
    BestEffort,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

/// Amounts a pod asks for, in the units the scheduler uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of node-local disk.
    pub ephemeral_storage: i64,
}

impl Amounts {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: self.memory.saturating_add(other.memory),
            ephemeral_storage: self.ephemeral_storage.saturating_add(other.ephemeral_storage),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory: self.memory.max(other.memory),
            ephemeral_storage: self.ephemeral_storage.max(other.ephemeral_storage),
        }
    }
}

/// The pod's class.
#[must_use]
pub fn class(spec: &PodSpec) -> Class {
    if let Some(resources) = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some()) {
        let equal = ["cpu", "memory"].into_iter().all(|name| {
            let limit = milli_of(resources.limits.as_ref(), name);
            limit > 0 && limit == milli_of(resources.requests.as_ref().or(resources.limits.as_ref()), name)
        });
        return if equal { Class::Guaranteed } else { Class::Burstable };
    }
    let mut anything = false;
    let mut guaranteed = true;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for name in ["cpu", "memory"] {
            let limit = limit_milli(container, name);
            let request = request_milli(container, name);
            anything |= limit > 0 || request > 0;
            guaranteed &= limit > 0 && limit == request;
        }
    }
    match (anything, guaranteed) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

/// A container's request in thousandths; an absent request equals the limit.
#[must_use]
pub fn request_milli(container: &Container, name: &str) -> i64 {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref()).filter(|r| r.contains_key(name));
    milli_of(requests.or_else(|| resources.and_then(|r| r.limits.as_ref())), name)
}

/// A container's limit in thousandths, 0 when there is none.
#[must_use]
pub fn limit_milli(container: &Container, name: &str) -> i64 {
    milli_of(container.resources.as_ref().and_then(|r| r.limits.as_ref()), name)
}

/// What one container asks for.
#[must_use]
pub fn container_requests(c: &Container) -> Amounts {
    let whole = |name| (request_milli(c, name) + 999) / 1000;
    Amounts { cpu_milli: request_milli(c, "cpu"), memory: whole("memory"), ephemeral_storage: whole("ephemeral-storage") }
}

/// What the pod asks for in all: ordinary containers and sidecars together, or the largest init container on top of the sidecars before it,
/// whichever is more; pod-level requests replace the sum; overhead is added.
#[must_use]
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    let mut sum = spec.containers.iter().map(container_requests).fold(Amounts::default(), Amounts::plus);
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for init in spec.init_containers.iter().flatten() {
        let own = container_requests(init);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(own);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.plus(own));
        }
    }
    sum = sum.plus(sidecars).max(peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        if requests.contains_key("cpu") {
            sum.cpu_milli = milli_of(Some(requests), "cpu");
        }
        if requests.contains_key("memory") {
            sum.memory = value_of(Some(requests), "memory");
        }
    }
    let overhead = spec.overhead.as_ref();
    sum.plus(Amounts {
        cpu_milli: milli_of(overhead, "cpu"),
        memory: value_of(overhead, "memory"),
        ephemeral_storage: value_of(overhead, "ephemeral-storage"),
    })
}

/// `oom_score_adj` of a container, as kubelet `GetContainerOOMScoreAdjust`: the more of its memory request a burstable container is likely to
/// exceed, the sooner it goes.
#[must_use]
pub fn oom_score_adj(spec: &PodSpec, container: &Container, memory_capacity: i64) -> i32 {
    if spec.priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match class(spec) {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let request = container_requests(container).memory;
            let adjust = 1000 - 1000_i64.saturating_mul(request) / memory_capacity.max(1);
            i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> PodSpec {
        serde_json::from_str(json).expect("a pod spec")
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        for (containers, class_wanted) in [
            (r#"[{"name":"a"}]"#, Class::BestEffort),
            (r#"[{"name":"a","resources":{"requests":{"cpu":"1m"}}}]"#, Class::Burstable),
            (r#"[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]"#, Class::Guaranteed),
            (r#"[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"}}},{"name":"b"}]"#, Class::Burstable),
            (r#"[{"name":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m"}}}]"#, Class::Burstable),
        ] {
            assert_eq!(class(&spec(&format!("{{\"containers\":{containers}}}"))), class_wanted, "{containers}");
        }
    }

    #[test]
    fn a_sidecar_counts_beside_ordinary_containers_and_below_later_init_containers() {
        let one = spec(
            r#"{"initContainers":[{"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"100m"}}},
                {"name":"i","resources":{"requests":{"cpu":"1"}}}],"containers":[{"name":"a","resources":{"requests":{"cpu":"500m"}}}]}"#,
        );
        assert_eq!(pod_requests(&one).cpu_milli, 1100);
    }

    #[test]
    fn oom_scores_rank_guaranteed_before_burstable_before_best_effort() {
        let gib = 1 << 30;
        let burst = spec(r#"{"containers":[{"name":"a","resources":{"requests":{"memory":"512Mi"}}}]}"#);
        assert_eq!(oom_score_adj(&burst, &burst.containers[0], gib), 500);
        let best = spec(r#"{"containers":[{"name":"a"}]}"#);
        assert_eq!(oom_score_adj(&best, &best.containers[0], gib), 1000);
    }
}
