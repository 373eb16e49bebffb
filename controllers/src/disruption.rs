//! What disruption budgets allow right now (upstream `pkg/controller/disruption`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};

use crate::{
    caches::Caches,
    change::{Change, Note, Plan, Tolerate},
    deployment::scaled,
    object::{Key, Object},
    pod::Pod,
    run::{Controller, Named, Wake},
    selector, time,
};

/// An evicted pod that is still there after this long was not evicted after all.
const FORGIVEN_SECONDS: i64 = 120;

/// The controller.
pub(crate) struct Budgets {
    caches: Arc<Caches>,
}

impl Budgets {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }

    /// How many pods the owners of these pods want in all; an owner without a known scale is an error.
    fn expected(&self, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = pod.controller() else {
                return Err(format!("found no controller ref for pod {:?}", pod.name()));
            };
            let namespace = pod.namespace();
            let scale = match owner.kind.as_str() {
                "ReplicaSet" => {
                    let Some(set) = self.caches.replica_sets.get(namespace, &owner.name) else { continue };
                    match set.controller().and_then(|owner| self.caches.deployments.get(namespace, &owner.name)) {
                        Some(deployment) => (deployment.uid().to_owned(), replicas(&deployment)),
                        None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
                    }
                }
                "StatefulSet" => {
                    let Some(set) = self.caches.stateful_sets.get(namespace, &owner.name) else { continue };
                    (owner.uid.clone(), set.spec.replicas.unwrap_or(1))
                }
                "ReplicationController" => {
                    let Some(set) = self.caches.replication_controllers.get(namespace, &owner.name) else { continue };
                    (owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                }
                kind => return Err(format!("{kind} {:?} does not implement the scale subresource", owner.name)),
            };
            scales.insert(scale.0, scale.1);
        }
        Ok(scales.values().sum())
    }
}

fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

impl Named for Budgets {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }
    fn identity(&self) -> &'static str {
        "disruption-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.budgets);
        for_scale(&self.caches);
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            if let (Some(old), Some(new)) = (delta.old, delta.new)
                && old.is_ready() == new.is_ready()
                && old.labels() == new.labels()
                && old.deleted() == new.deleted()
                && old.controller() == new.controller()
            {
                return;
            }
            let Some(pod) = delta.last() else { return };
            for budget in caches.budgets.list(pod.namespace()) {
                if delta.both().any(|pod| selects(&budget, pod)) {
                    wake(Key::of(budget.as_ref()));
                }
            }
        });
        // A new size changes what is expected before any pod does.
        let caches = self.caches.clone();
        wake.on(&self.caches.deployments, move |delta, wake| {
            if let (Some(old), Some(new)) = (delta.old, delta.new)
                && replicas(old) != replicas(new)
            {
                caches.budgets.list(new.namespace()).iter().for_each(|budget| wake(Key::of(budget.as_ref())));
            }
        });
    }
    fn pace(&self) -> std::time::Duration {
        std::time::Duration::from_millis(50)
    }
}

fn for_scale(caches: &Caches) {
    caches.replica_sets.need();
    caches.stateful_sets.need();
    caches.replication_controllers.need();
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|wanted| selector::selects(wanted, pod.labels()))
}

impl Controller for Budgets {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(budget) = self.caches.budgets.at(key) else { return Plan::nothing() };
        let mut pods = self.caches.pods.list(&key.namespace);
        pods.retain(|pod| selects(&budget, pod) && !pod.is_terminal());
        let mut plan = Plan::nothing();
        if pods.is_empty() {
            plan.tell(Note::normal(budget.as_ref(), "NoPods", "No matching pods found"));
        }
        let old = budget.status.clone().unwrap_or_default();
        let (status, next) = match needed(&budget, &pods, |pods| self.expected(pods)) {
            Ok((expected, desired)) => {
                let (mut status, next) = count(&old, &pods, expected, desired, now);
                let enough = status.disruptions_allowed.unwrap_or_default() > 0;
                set_condition(&mut status, if enough { "SufficientPods" } else { "InsufficientPods" }, "", &budget, now);
                (status, next)
            }
            Err(message) => {
                plan.tell(Note::warning(
                    budget.as_ref(),
                    "CalculateExpectedPodCountFailed",
                    format!("Failed to calculate the number of expected pods: {message}"),
                ));
                // Without a number nothing may be disrupted.
                let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() };
                set_condition(&mut status, "SyncFailed", &message, &budget, now);
                (status, None)
            }
        };
        let status = PodDisruptionBudgetStatus { observed_generation: budget.metadata.generation, ..status };
        if let Some(at) = next {
            plan.again_at(at, now);
        }
        if budget.status.as_ref() != Some(&status) {
            let after = PodDisruptionBudget { status: Some(status), ..budget.as_ref().clone() };
            plan.push(Change::update_status(&after).tolerate(Tolerate::NotFound));
        }
        plan
    }
}

/// How many pods are expected, and how many must be healthy.
fn needed(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: impl Fn(&[Arc<Pod>]) -> Result<i32, String>,
) -> Result<(i32, i32), String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let here = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = expected(pods)?;
            Ok((expected, (expected - scaled(most, expected, true)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((here, *least)),
        (None, Some(least)) => {
            let expected = expected(pods)?;
            Ok((expected, scaled(least, expected, true)))
        }
        (None, None) => Ok((here, 0)),
    }
}

fn count(
    old: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    expected: i32,
    desired: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Timestamp>) {
    let by_name: HashMap<&str, &Arc<Pod>> = pods.iter().map(|pod| (pod.name(), pod)).collect();
    let end = |since: &Time| time::plus(since.0, FORGIVEN_SECONDS);
    let mut disrupted: BTreeMap<String, Time> = old.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|name, since| by_name.get(name.as_str()).is_some_and(|pod| pod.deleted().is_none()) && end(since) > now);
    let healthy = pods.iter().filter(|pod| pod.deleted().is_none() && pod.is_ready() && !disrupted.contains_key(pod.name())).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let next = disrupted.values().map(end).min();
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|map| !map.is_empty()),
        conditions: old.conditions.clone(),
        observed_generation: old.observed_generation,
    };
    (status, next)
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, reason: &str, message: &str, budget: &PodDisruptionBudget, now: Timestamp) {
    let value = if reason == "SufficientPods" { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|condition| condition.type_ == "DisruptionAllowed");
    let since = old.filter(|old| old.status == value).map_or_else(|| time::api(now), |old| old.last_transition_time.clone());
    let new = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since,
    };
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(new);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::change::Verb;

    fn status(spec: &Value, ready: &[bool]) -> Value {
        let caches = Arc::new(Caches::default());
        let mut spec = spec.clone();
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        let budget = json!({"metadata": {"name": "b", "namespace": "a", "uid": "b", "generation": 2}, "spec": spec});
        caches.budgets.put(serde_json::from_value(budget).unwrap());
        let set = json!({"metadata": {"name": "set", "namespace": "a", "uid": "set"}, "spec": {"replicas": 4, "selector": {}}});
        caches.replica_sets.put(serde_json::from_value(set).unwrap());
        for (number, ready) in ready.iter().enumerate() {
            let pod = json!({
                "metadata": {"name": format!("p{number}"), "namespace": "a", "uid": format!("p{number}"), "labels": {"app": "web"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "set", "controller": true}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if *ready { "True" } else { "False" }}]},
            });
            caches.pods.put(serde_json::from_value(pod).unwrap());
        }
        let plan = Budgets::new(caches).plan(&Key::new("a", "b"), Timestamp::UNIX_EPOCH);
        let Some(Verb::Update { object, .. }) = plan.changes().next().map(|change| change.verb.clone()) else { panic!("no status") };
        object["status"].clone()
    }

    #[test]
    fn what_may_be_disrupted_follows_health_and_the_size_wanted() {
        let cases = [
            (json!({"minAvailable": 2}), vec![true, true, true], (3, 2, 1)),
            (json!({"minAvailable": "50%"}), vec![true, true, true], (4, 2, 1)),
            (json!({"maxUnavailable": 1}), vec![true, true, true, true], (4, 3, 1)),
            (json!({"maxUnavailable": 1}), vec![true, true, false], (4, 3, 0)),
            (json!({"maxUnavailable": "50%"}), vec![], (0, 0, 0)),
        ];
        for (spec, ready, (expected, desired, allowed)) in cases {
            let status = status(&spec, &ready);
            let found = (status["expectedPods"].as_i64(), status["desiredHealthy"].as_i64(), status["disruptionsAllowed"].as_i64());
            assert_eq!(found, (Some(expected), Some(desired), Some(allowed)), "{spec} {ready:?}");
            let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(status["conditions"][0]["reason"], reason);
        }
    }
}
