//! What a pod asks for: the sums that quality of service and pod-level defaults are made from (upstream `component-helpers/resource`).

use std::collections::BTreeMap;

use coracle_schema::{FieldErrors, Quantity};
use coracle_tree::{Map, Value};

use crate::kinds::view;

/// Resource name -> amount.
type Amounts = BTreeMap<String, Quantity>;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits for cpu and memory.
pub(crate) fn quality(spec: &Value) -> &'static str {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut guaranteed = true;
    let pod_level = view::member(spec, "resources");
    let set = ["requests", "limits"].iter().any(|list| !view::map(pod_level, list).is_empty());
    let holders: Vec<&Value> = if set {
        vec![pod_level]
    } else {
        let containers = view::list(spec, "containers").iter().chain(view::list(spec, "initContainers"));
        containers.map(|c| view::member(c, "resources")).collect()
    };
    for holder in holders {
        add(&mut requests, view::map(holder, "requests"));
        let mut own = Amounts::new();
        add(&mut own, view::map(holder, "limits"));
        guaranteed &= own.len() == 2;
        add(&mut limits, view::map(holder, "limits"));
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let covered = requests.iter().all(|(name, amount)| limits.get(name) == Some(amount));
    if guaranteed && covered && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

/// Adds the cpu and memory of a resource list; zero counts as absent.
fn add(to: &mut Amounts, list: &Map) {
    for name in ["cpu", "memory"] {
        if let Some(amount) = list.get(name).and_then(view::quantity)
            && amount > Quantity::ZERO
        {
            *to.entry(name.to_owned()).or_default() += amount;
        }
    }
}

/// Requests and limits of the whole pod that follow from its containers', where the pod names some but not all of its own (KEP-2837).
pub(super) fn default_pod_level(spec: &mut Value) {
    let Some(resources) = view::get(spec, "resources") else { return };
    let (mut limits, mut requests) = (view::map(resources, "limits").clone(), view::map(resources, "requests").clone());
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for (name, amount) in sum(spec, "limits") {
        if name.starts_with("hugepages-") && !requests.contains_key(&name) && !limits.contains_key(&name) {
            limits.insert(name, amount.to_string().into());
        }
    }
    for (name, amount) in sum(spec, "requests") {
        if ["cpu", "memory"].contains(&name.as_str()) && !requests.contains_key(&name) {
            requests.insert(name, amount.to_string().into());
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| is_pod_level(name)) {
        requests.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    // Only where every container is limited is the pod, and not below what it asks for.
    let all_limit = |name: &str| {
        let all = ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(|list| view::list(spec, list));
        all.into_iter().all(|container| view::map(view::member(container, "resources"), "limits").contains_key(name))
    };
    for (name, amount) in sum(spec, "limits").into_iter().filter(|(name, _)| is_pod_level(name) && all_limit(name)) {
        if let Some(asked) = requests.get(&name).filter(|_| !limits.contains_key(&name)) {
            let more = view::quantity(asked).is_some_and(|least| least > amount);
            let limit = if more { asked.clone() } else { amount.to_string().into() };
            limits.insert(name, limit);
        }
    }
    for (name, list) in [("limits", limits), ("requests", requests)] {
        if !list.is_empty() {
            spec["resources"][name] = Value::Object(list);
        }
    }
}

/// Whether a pod may name the resource for itself as a whole.
pub(super) fn is_pod_level(name: &str) -> bool {
    ["cpu", "memory"].contains(&name) || name.starts_with("hugepages-")
}

/// What the pod has as a whole is enough for its containers: requests for all of them, limits for each, huge pages for both
/// (upstream `validatePodResourceConsistency`).
pub(super) fn covers_containers(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let own = view::member(spec, "resources");
    let of_pod = |which: &str, name: &str| view::map(own, which).get(name).and_then(view::quantity);
    for (name, asked) in sum(spec, "requests") {
        if let Some(given) = of_pod("requests", &name).filter(|given| asked > *given) {
            let detail = format!("must be greater than or equal to aggregate container requests of {asked}");
            errors.invalid(format_args!("{path}.requests[{name}]"), view::quoted(&given.to_string()), &detail);
        }
    }
    for (name, all) in sum(spec, "limits").into_iter().filter(|(name, _)| name.starts_with("hugepages-")) {
        if let Some(given) = of_pod("limits", &name).filter(|given| all > *given) {
            let detail = format!("must be greater than or equal to aggregate container limits of {all}");
            errors.invalid(format_args!("{path}.limits[{name}]"), view::quoted(&given.to_string()), &detail);
        }
    }
    for (at, container) in view::list(spec, "containers").iter().enumerate() {
        for (name, limit) in view::map(view::member(container, "resources"), "limits") {
            let (Some(limit), Some(given)) = (view::quantity(limit), of_pod("limits", name)) else { continue };
            if limit > given {
                let detail = format!("must be less than or equal to pod limits of {given}");
                errors.invalid(format_args!("{path}.containers[{at}][{name}].limits"), view::quoted(&limit.to_string()), &detail);
            }
        }
    }
}

/// What the pod's containers come to: those that run side by side added up, but no less than any init container at its turn.
fn sum(spec: &Value, which: &str) -> Amounts {
    let amounts = |container: &Value| -> Amounts {
        let list = view::map(view::member(container, "resources"), which);
        list.iter().filter_map(|(name, amount)| Some((name.to_string(), view::quantity(amount)?))).collect()
    };
    let mut total = Amounts::new();
    let include =
        |total: &mut Amounts, more: Amounts| more.into_iter().for_each(|(name, amount)| *total.entry(name).or_default() += amount);
    for container in view::list(spec, "containers") {
        include(&mut total, amounts(container));
    }
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in view::list(spec, "initContainers") {
        let own = amounts(container);
        let mut at_its_turn = sidecars.clone();
        include(&mut at_its_turn, own.clone());
        if view::text(container, "restartPolicy") == "Always" {
            include(&mut sidecars, own.clone());
            include(&mut total, own);
        }
        for (name, amount) in at_its_turn {
            let most = highest.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in highest {
        let all = total.entry(name).or_default();
        *all = (*all).max(amount);
    }
    total
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn quality_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(quality(&pod(json!({}))), "BestEffort");
        assert_eq!(quality(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(quality(&pod(json!({"requests": both, "limits": {"cpu": "1000m", "memory": "1024Mi"}}))), "Guaranteed");
        assert_eq!(quality(&pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}))), "Burstable");
        let mixed = json!({"containers": [{"resources": {"requests": both, "limits": both}}, {"resources": {}}]});
        assert_eq!(quality(&mixed), "Burstable");
        assert_eq!(quality(&json!({"resources": {"requests": both, "limits": both}, "containers": [{}]})), "Guaranteed");
    }

    #[test]
    fn a_pods_own_requests_follow_from_its_containers() {
        let mut spec = json!({"resources": {"limits": {"cpu": "4", "memory": "1Gi"}}, "containers": [
            {"resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "500m"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "2"}}}]});
        default_pod_level(&mut spec);
        assert_eq!(spec["resources"]["requests"], json!({"cpu": "2", "memory": "1Gi"}));
    }

    #[test]
    fn a_pods_own_limits_follow_where_every_container_has_one() {
        let of = |own: Value, containers: Value| {
            let mut spec = json!({"resources": own, "containers": containers});
            default_pod_level(&mut spec);
            spec["resources"].clone()
        };
        let both = |cpu: &str, limit: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": limit}}});
        let asks = json!({"requests": {"cpu": "3"}});
        let given = of(asks.clone(), json!([both("1", "2"), both("1", "2")]));
        assert_eq!(given, json!({"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}));
        let raised = of(asks.clone(), json!([both("1", "2")]));
        assert_eq!(raised["limits"], json!({"cpu": "3"}));
        assert_eq!(of(asks.clone(), json!([both("1", "2"), {}])), asks);
        let memory = json!({"resources": {"requests": {"memory": "1Mi"}, "limits": {"memory": "2Mi"}}});
        let joined = of(asks, json!([memory]));
        assert_eq!(joined, json!({"requests": {"cpu": "3", "memory": "1Mi"}, "limits": {"memory": "2Mi"}}));
    }
}
