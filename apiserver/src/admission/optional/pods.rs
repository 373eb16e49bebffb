//! LimitPodHardAntiAffinityTopology and ExtendedResourceToleration (`plugin/pkg/admission/{antiaffinity,extendedresourcetoleration}`).

use std::collections::BTreeSet;

use async_trait::async_trait;
use coracle_tree::{Map, Value, json};

use crate::{
    admission::{
        Admission, Attempt, Operation,
        look::{self, list, list_mut, text},
    },
    registry::{Object, names},
    wire::Status,
};

/// Lets pods keep others away from their node only, not from whole zones.
pub struct LimitPodHardAntiAffinityTopology;

/// Lets pods that ask for an extended resource onto the nodes that are kept for them.
pub struct ExtendedResourceToleration;

fn is_pod(attempt: &Attempt<'_>) -> bool {
    matches!(attempt.operation, Operation::Create | Operation::Update) && look::is(attempt, "", "pods")
}

#[async_trait]
impl Admission for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        is_pod(attempt)
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        const HOSTNAME: &str = "kubernetes.io/hostname";
        let Some(pod) = new else { return Ok(()) };
        let terms = list(pod.value(), "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution");
        let Some(other) = terms.iter().map(|term| text(term, "topologyKey")).find(|key| *key != HOSTNAME) else { return Ok(()) };
        let head = "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey";
        Err(Status::forbidden(attempt.kind.subject(pod.name()), &format!("{head} {other} but only key {HOSTNAME} is allowed")))
    }
}

#[async_trait]
impl Admission for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        is_pod(attempt)
    }

    async fn mutate(&self, _attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let containers = look::CONTAINERS.iter().flat_map(|name| list(pod.value(), &format!("/spec/{name}")).iter());
        let requests = containers.filter_map(|container| container.pointer("/resources/requests").and_then(Value::as_object));
        let wanted: BTreeSet<String> = requests.flat_map(Map::keys).filter(|name| is_extended(name)).map(ToString::to_string).collect();
        for key in wanted {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
            let Some(all) = list_mut(&mut pod.value_mut()["spec"], "tolerations") else { continue };
            // The same taint may be tolerated already, for a while only.
            let same =
                |other: &Value| ["key", "operator", "effect", "value"].iter().all(|field| text(other, field) == text(&toleration, field));
            match all.iter_mut().find(|other| same(other)) {
                Some(known) => *known = toleration.clone(),
                None => all.push(toleration.clone()),
            }
        }
        Ok(())
    }
}

/// Whether a resource is of somebody's own (`IsExtendedResourceName`).
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn pods_keep_others_from_their_node_only() {
        let create = async |key: &str| {
            let mut pod = pod();
            pod["spec"]["affinity"] =
                json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}});
            Bench::new().create(&LimitPodHardAntiAffinityTopology, "pods live web", pod).await
        };
        assert!(create("kubernetes.io/hostname").await.is_ok());
        let why = "has TopologyKey zone but only key kubernetes.io/hostname is allowed";
        assert!(create("zone").await.unwrap_err().message.ends_with(why));
    }

    #[tokio::test]
    async fn who_asks_for_a_resource_tolerates_its_taint() {
        let mut asking = pod();
        asking["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1", "example.com/gpu": "1", "kubernetes.io/x": "1"}});
        let made = Bench::new().create(&ExtendedResourceToleration, "pods live web", asking).await.unwrap();
        assert_eq!(made["spec"]["tolerations"], json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]));
        let again = Bench::new().create(&ExtendedResourceToleration, "pods live web", made.clone()).await.unwrap();
        assert_eq!(again, made);
    }
}
