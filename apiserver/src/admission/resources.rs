//! Resource lists, and what a pod as a whole asks for (`component-helpers/resource/helpers.go`).

use std::collections::BTreeMap;

use coracle_schema::Quantity;
use coracle_tree::Value;

use super::look::{list, text};

/// Resource name -> quantity.
pub(super) type List = BTreeMap<String, Quantity>;

/// Which half of resource requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Requests,
    Limits,
}

impl Half {
    /// `requests`
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// The resource list a value is; what is no quantity is left out, validation refuses it.
pub(super) fn of(value: Option<&Value>) -> List {
    let members = value.and_then(Value::as_object);
    let pairs = members.into_iter().flatten().filter_map(|(name, q)| {
        let text = q.as_str().map(str::to_owned).or_else(|| q.as_number().map(ToString::to_string))?;
        Some((name.to_string(), text.parse().ok()?))
    });
    pairs.collect()
}

/// As JSON.
pub(super) fn to_value(list: &List) -> Value {
    list.iter().map(|(name, q)| (name.as_str(), q.to_string())).collect()
}

/// `cpu=1,memory=1Gi`
pub(super) fn print(list: &List) -> String {
    list.iter().map(|(name, q)| format!("{name}={q}")).collect::<Vec<_>>().join(",")
}

/// Adds `more` to `sum`.
pub(super) fn add(sum: &mut List, more: &List) {
    for (name, quantity) in more {
        sum.entry(name.clone()).and_modify(|q| *q += *quantity).or_insert(*quantity);
    }
}

/// The larger of each.
fn raise(most: &mut List, other: &List) {
    for (name, quantity) in other {
        most.entry(name.clone()).and_modify(|q| *q = (*q).max(*quantity)).or_insert(*quantity);
    }
}

/// What a container asks for.
pub(super) fn of_container(container: &Value, half: Half) -> List {
    of(container.pointer(&format!("/resources/{}", half.name())))
}

/// What the pod asks for: its containers and sidecars together, or an init container with the sidecars before it if that is more; its own
/// word for the whole pod goes before that; and the overhead of its runtime class.
pub(super) fn of_pod(pod: &Value, half: Half) -> List {
    let (mut sum, mut sidecars, mut most) = (List::new(), List::new(), List::new());
    for container in list(pod, "/spec/containers") {
        add(&mut sum, &of_container(container, half));
    }
    for container in list(pod, "/spec/initContainers") {
        let mut during = of_container(container, half);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &during);
            add(&mut sidecars, &during);
            during.clone_from(&sidecars);
        } else {
            add(&mut during, &sidecars);
        }
        raise(&mut most, &during);
    }
    raise(&mut sum, &most);
    sum.extend(of(pod.pointer(&format!("/spec/resources/{}", half.name()))));
    let overhead = of(pod.pointer("/spec/overhead"));
    match half {
        Half::Requests => add(&mut sum, &overhead),
        // A limit that is not set stays so.
        Half::Limits => overhead.iter().for_each(|(name, q)| {
            sum.entry(name.clone()).and_modify(|s| *s += *q);
        }),
    }
    sum
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_the_larger_of_its_run_and_its_start() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}});
        let cpu = |spec: Value| print(&of_pod(&json!({"spec": spec}), Half::Requests));
        assert_eq!(cpu(json!({"containers": [container("250m"), container("250m")]})), "cpu=500m");
        assert_eq!(cpu(json!({"containers": [container("250m")], "initContainers": [container("2")]})), "cpu=2");
        assert_eq!(cpu(json!({"containers": [container("250m")], "initContainers": [sidecar, container("2")]})), "cpu=2100m");
        assert_eq!(cpu(json!({"containers": [container("1")], "overhead": {"cpu": "10m"}})), "cpu=1010m");
        assert_eq!(cpu(json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}})), "cpu=3");
    }
}
