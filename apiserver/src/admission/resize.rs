//! PodResizeValidator and NodeDeclaredFeatureValidator: a pod that is on a node changes only to what the node can do
//! (`plugin/pkg/admission/{podresize,nodedeclaredfeatures}`, KEP-1287, KEP-5328).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_schema::Quantity;
use coracle_tree::{Value, json};

use super::{
    Admission, Attempt, Operation,
    look::{self, list, text},
    resources::{self, Half, List},
};
use crate::{
    registry::{Object, Reader},
    wire::Status,
};

/// Refuses to give a pod more than its node has.
pub struct PodResizeValidator {
    /// Where nodes are looked up.
    pub reader: Arc<dyn Reader>,
}

/// Refuses changes of a pod that its node does not say it can make.
pub struct NodeDeclaredFeatureValidator {
    /// Where nodes are looked up.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl Admission for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        is_of_pods(attempt, &["resize"])
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new.filter(|pod| changes(attempt, pod)) else { return Ok(()) };
        let node = node_of(&*self.reader, attempt, pod).await?;
        let (name, system) = (pod.text("/spec/nodeName"), node.pointer("/metadata/labels/kubernetes.io~1os").and_then(Value::as_str));
        if let Some(system) = system.filter(|system| *system != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
            return Err(refused(attempt, pod, &why, "UnsupportedPlatform"));
        }
        let allocatable = resources::of(node.pointer("/status/allocatable"));
        let over = too_much(&resources::of_pod(pod.value(), Half::Requests), &allocatable);
        if over.is_empty() {
            return Ok(());
        }
        let why = format!("node didn't have enough allocatable resources: {}", over.join("; "));
        Err(refused(attempt, pod, &why, "NodeCapacity"))
    }
}

#[async_trait]
impl Admission for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        is_of_pods(attempt, &["", "resize"])
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let (Some(pod), Some(old)) = (new.filter(|pod| changes(attempt, pod)), attempt.old) else { return Ok(()) };
        let needed = features(old.value(), pod.value());
        if needed.is_empty() {
            return Ok(());
        }
        let node = node_of(&*self.reader, attempt, pod).await?;
        let declared = list(&node, "/status/declaredFeatures");
        let missing: Vec<&str> = needed.into_iter().filter(|feature| !declared.iter().any(|known| known == feature)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (missing, name) = (missing.join(", "), pod.text("/spec/nodeName"));
        let why = format!("pod update requires features {missing} which are not available on node {name:?}");
        Err(look::forbidden(attempt, new, &why))
    }
}

fn is_of_pods(attempt: &Attempt<'_>, parts: &[&str]) -> bool {
    let request = attempt.request;
    attempt.operation == Operation::Update
        && request.group.is_empty()
        && request.resource == "pods"
        && parts.contains(&request.subresource.as_str())
}

/// Whether a pod that is on a node is to be another. Its generation counts changes of its spec.
fn changes(attempt: &Attempt<'_>, pod: &Object) -> bool {
    !pod.text("/spec/nodeName").is_empty() && attempt.old.is_some_and(|old| old.value().get("spec") != pod.value().get("spec"))
}

async fn node_of(reader: &dyn Reader, attempt: &Attempt<'_>, pod: &Object) -> Result<Value, Status> {
    let name = pod.text("/spec/nodeName");
    match look::one(reader, "", "nodes", "", name).await {
        Ok(Some(node)) => Ok(node),
        Ok(None) => Err(look::forbidden(attempt, Some(pod), &format!("node {name:?} not found"))),
        Err(status) => Err(look::forbidden(attempt, Some(pod), &format!("failed to get node {name:?}: {}", status.message))),
    }
}

/// 403 with a cause of its own.
fn refused(attempt: &Attempt<'_>, pod: &Object, why: &str, cause: &str) -> Status {
    let mut status = look::forbidden(attempt, Some(pod), why);
    status.details["causes"] = json!([{"reason": cause}]);
    status
}

/// What is asked for and not there, in upstream's words.
fn too_much(requests: &List, allocatable: &List) -> Vec<String> {
    let zero = Quantity::from_milli(0);
    let amount = |of: &List, name: &str| of.get(name).copied().unwrap_or(zero);
    let mut over = Vec::new();
    for (name, count) in [("cpu", Quantity::milli_value as fn(Quantity) -> i64), ("memory", Quantity::value)] {
        let (requested, there) = (amount(requests, name), amount(allocatable, name));
        if requested > there {
            over.push(format!("{name}, requested: {}, allocatable: {}", count(requested), count(there)));
        }
    }
    over
}

/// What a node must be able to do for a change, in order of names (component-helpers `nodedeclaredfeatures/features`). Features that only
/// matter where a pod is put are the scheduler's.
fn features(old: &Value, new: &Value) -> Vec<&'static str> {
    let mut needed = Vec::new();
    if old.pointer("/spec/resources") != new.pointer("/spec/resources") {
        needed.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let (before, after) = (list(old, "/spec/initContainers"), list(new, "/spec/initContainers"));
    let is_resized = |(old, new): (&Value, &Value)| text(old, "restartPolicy") != "Always" && old.get("resources") != new.get("resources");
    if before.iter().zip(after).any(is_resized) {
        needed.push("InPlacePodVerticalScalingInitContainers");
    }
    let (before, after) = (list(old, "/spec/volumes"), list(new, "/spec/volumes"));
    let limit = |volume: &Value| volume.pointer("/emptyDir/sizeLimit").and_then(Value::as_str)?.parse::<Quantity>().ok();
    let is_grown = |(old, new): (&Value, &Value)| {
        let in_memory = new.pointer("/emptyDir/medium").is_some_and(|medium| medium == "Memory");
        let limits = limit(old).zip(limit(new));
        text(old, "name") == text(new, "name") && in_memory && limits.is_some_and(|(old, new)| old != new)
    };
    if before.len() == after.len() && before.iter().zip(after).any(is_grown) {
        needed.push("InPlacePodVerticalScalingMemoryBackedVolumes");
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::Bench;

    fn pod(cpu: &str) -> Value {
        let requests = json!({"requests": {"cpu": cpu, "memory": "1Gi"}});
        json!({"metadata": {"name": "web", "namespace": "live"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": requests}]}})
    }

    fn node(bench: &Bench, system: &str, features: &[&str]) {
        let metadata = json!({"name": "n", "labels": {"kubernetes.io/os": system}});
        let status = json!({"allocatable": {"cpu": "2", "memory": "1Gi"}, "declaredFeatures": features});
        bench.reader.put("", "nodes", json!({"metadata": metadata, "status": status}));
    }

    #[tokio::test]
    async fn a_pod_is_not_resized_beyond_its_node() {
        let bench = Bench::new();
        let plugin = PodResizeValidator { reader: bench.reader.clone() };
        let resize = async |cpu: &str| bench.update(&plugin, "pods/resize live web", pod("1"), pod(cpu)).await;
        assert_eq!(resize("2").await.unwrap_err().message, r#"pods "web" is forbidden: node "n" not found"#);
        node(&bench, "linux", &[]);
        resize("2").await.unwrap();
        let refused = resize("3").await.unwrap_err();
        assert_eq!(
            refused.message,
            r#"pods "web" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"#
        );
        assert_eq!(refused.details["causes"], json!([{"reason": "NodeCapacity"}]));
        node(&bench, "windows", &[]);
        let refused = resize("2").await.unwrap_err();
        assert!(refused.message.ends_with(r#"pod resize is only supported on linux nodes, node "n" is "windows""#), "{}", refused.message);
        assert_eq!(refused.details["causes"][0]["reason"], "UnsupportedPlatform");
        resize("1").await.unwrap();
    }

    #[tokio::test]
    async fn a_pod_that_is_nowhere_may_be_anything() {
        let bench = Bench::new();
        let plugin = PodResizeValidator { reader: bench.reader.clone() };
        let (mut old, mut new) = (pod("1"), pod("30"));
        for pod in [&mut old, &mut new] {
            pod["spec"].as_object_mut().unwrap().remove("nodeName");
        }
        bench.update(&plugin, "pods/resize live web", old, new).await.unwrap();
    }

    #[tokio::test]
    async fn a_node_must_have_declared_what_a_change_needs() {
        let bench = Bench::new();
        let plugin = NodeDeclaredFeatureValidator { reader: bench.reader.clone() };
        let whole = |cpu: &str| {
            let mut pod = pod("1");
            pod["spec"]["resources"] = json!({"requests": {"cpu": cpu}});
            pod["spec"]["initContainers"] = json!([{"name": "i", "resources": {"requests": {"cpu": cpu}}}]);
            pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": cpu}}]);
            pod
        };
        let resize = async || bench.update(&plugin, "pods/resize live web", whole("1"), whole("2")).await;
        node(&bench, "linux", &["InPlacePodVerticalScalingMemoryBackedVolumes"]);
        assert_eq!(
            resize().await.unwrap_err().message,
            "pods \"web\" is forbidden: pod update requires features InPlacePodLevelResourcesVerticalScaling, \
             InPlacePodVerticalScalingInitContainers which are not available on node \"n\""
        );
        let all = ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"];
        node(&bench, "linux", &[&all[..], &["InPlacePodVerticalScalingMemoryBackedVolumes"]].concat());
        resize().await.unwrap();
        // What needs nothing of the node asks nobody.
        bench.reader.remove("", "nodes", "", "n");
        bench.update(&plugin, "pods/resize live web", pod("1"), pod("2")).await.unwrap();
    }
}
