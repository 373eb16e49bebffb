//! Which pods of a namespace a stricter level would not let in again.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use coracle_tree::Value;

use super::{
    checks::{evaluate, reasons},
    pod::Pod,
    standard::LevelVersion,
};

/// So many pods are looked at, of each controller one first.
const MOST: usize = 3000;

/// Pods that break a level in the same way.
struct Alike {
    /// The first by name.
    first: String,
    count: usize,
}

/// The warnings for whoever makes a namespace stricter. `pods` are the namespace's, as JSON; those of exempt runtime classes do not count.
pub(super) fn warnings(namespace: &str, enforce: LevelVersion, pods: &[Bytes], exempt: &[String]) -> Vec<String> {
    let pods = pods.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok());
    let is_exempt = |pod: &Value| pod["spec"]["runtimeClassName"].as_str().is_some_and(|class| exempt.iter().any(|known| known == class));
    let pods: Vec<Value> = pods.filter(|pod| !is_exempt(pod)).collect();
    let mut alike: BTreeMap<String, Alike> = BTreeMap::new();
    for pod in one_of_each_first(&pods).into_iter().take(MOST) {
        let violations = evaluate(enforce, &Pod::of(pod));
        if violations.is_empty() {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let same = alike.entry(reasons(&violations)).or_insert_with(|| Alike { first: name.to_owned(), count: 0 });
        same.count += 1;
        if name < same.first.as_str() {
            name.clone_into(&mut same.first);
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MOST {
        let total = pods.len();
        warnings.push(format!("new PodSecurity enforce level only checked against the first {MOST} of {total} existing pods"));
    }
    if !alike.is_empty() {
        warnings.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""));
    }
    let mut told: Vec<String> = alike.iter().map(|(reason, pods)| format!("{}: {reason}", pods.text())).collect();
    told.sort();
    warnings.extend(told);
    warnings
}

impl Alike {
    fn text(&self) -> String {
        match self.count {
            1 => self.first.clone(),
            2 => format!("{} (and 1 other pod)", self.first),
            more => format!("{} (and {} other pods)", self.first, more - 1),
        }
    }
}

/// The pods, those last whose controller has one before them: they are most likely the same.
fn one_of_each_first(pods: &[Value]) -> Vec<&Value> {
    let mut seen = HashSet::new();
    let is_repeated = |pod: &&Value| {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.filter(|o| o["controller"] == true).find_map(|o| o["uid"].as_str());
        controller.is_some_and(|uid| !seen.insert(uid.to_owned()))
    };
    let (repeated, mut first): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(is_repeated);
    first.extend(repeated);
    first
}
