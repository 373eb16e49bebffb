//! What checks see of a pod, and how they speak of it.

use std::collections::BTreeSet;

use coracle_tree::Value;

/// A pod, or the template of one.
pub(super) struct Pod<'a> {
    /// `metadata`
    pub(super) metadata: &'a Value,
    /// `spec`
    pub(super) spec: &'a Value,
}

/// Why a check refuses a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// In a few words, the same for all pods that break the check so.
    pub(super) reason: &'static str,
    /// Which parts of this pod, and what they should be.
    pub(super) detail: String,
}

impl<'a> Pod<'a> {
    /// The pod in an object that has `metadata` and `spec`.
    pub(super) fn of(object: &'a Value) -> Self {
        Self { metadata: &object["metadata"], spec: &object["spec"] }
    }

    /// Containers of every sort, in the order in which checks name them.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().filter_map(|member| self.spec[member].as_array()).flatten()
    }

    /// Names of the containers of which `bad` is true.
    pub(super) fn containers_that(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| bad(c)).map(|c| c["name"].as_str().unwrap_or_default()).collect()
    }

    /// Annotations that are texts.
    pub(super) fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.metadata["annotations"].as_object();
        all.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// `spec.os.name` is windows: such pods cannot set what some checks ask for.
    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// `spec.hostUsers` is false: root in the pod is nobody on the node (KEP-127).
    pub(super) fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }
}

/// `"a", "b"`
pub(super) fn quoted<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.into_iter().collect();
    format!("\"{}\"", texts.join("\", \""))
}

/// `one` or `many`, by a count.
pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `containers "a", "b"`
pub(super) fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers.iter().copied()))
}

/// `pod and container "a"`: who sets what it must not; `None` when nobody does.
pub(super) fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    match (pod, containers.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(named(containers)),
        (true, false) => Some(format!("pod and {}", named(containers))),
    }
}

/// Looks at one member of the security contexts of pod and containers: whether the pod's is bad, and which containers' are.
pub(super) fn contexts<'a>(pod: &Pod<'a>, mut bad: impl FnMut(&'a Value) -> bool) -> (bool, Vec<&'a str>) {
    let whole = bad(&pod.spec["securityContext"]);
    (whole, pod.containers_that(|c| bad(&c["securityContext"])))
}

/// A sorted set of texts.
pub(super) type Texts<'a> = BTreeSet<&'a str>;
