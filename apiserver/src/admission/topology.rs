//! PodTopologyLabels: a pod that is bound learns zone and region of its node (`plugin/pkg/admission/podtopologylabels`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::{Map, Value};

use super::{Admission, Attempt, Operation, look};
use crate::{
    registry::{Object, Reader},
    wire::Status,
};

/// The labels copied.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
pub struct PodTopologyLabels {
    /// Where nodes are looked up.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        let binding = matches!((request.resource.as_str(), request.subresource.as_str()), ("pods", "binding") | ("bindings", ""));
        let bound_at_once = look::is(attempt, "", "pods");
        attempt.operation == Operation::Create && request.group.is_empty() && (binding || bound_at_once)
    }

    async fn mutate(&self, _attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(new) = new else { return Ok(()) };
        // A binding names the node as its target, a pod that is made bound in its spec.
        let node = match new.text("/target/name") {
            "" => new.text("/spec/nodeName"),
            target => target,
        };
        if node.is_empty() {
            return Ok(());
        }
        let found: Option<Value> = look::one(&*self.reader, "", "nodes", "", node).await?;
        let labels = found.as_ref().and_then(|n| n.pointer("/metadata/labels")).and_then(Value::as_object);
        let copied = LABELS.iter().filter_map(|l| Some((*l, labels?.get(l)?.clone())));
        let copied: Map = copied.collect();
        if copied.is_empty() {
            return Ok(());
        }
        let own = new.metadata_mut().entry("labels").or_insert_with(|| Value::Object(Map::new()));
        if let Some(own) = own.as_object_mut() {
            own.extend(copied);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::Bench;

    #[tokio::test]
    async fn zone_and_region_of_the_node_are_copied() {
        let b = Bench::new();
        let labels = json!({(LABELS[0]): "z", (LABELS[1]): "r", "other": "x"});
        b.reader.put("", "nodes", json!({"metadata": {"name": "a", "labels": labels}}));
        let plugin = PodTopologyLabels { reader: b.reader.clone() };
        let binding = |node: &str| json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": node}});
        let bound = b.create(&plugin, "pods/binding live web", binding("a")).await.unwrap();
        assert_eq!(bound["metadata"]["labels"], json!({(LABELS[0]): "z", (LABELS[1]): "r"}));
        assert_eq!(b.create(&plugin, "pods/binding live web", binding("b")).await.unwrap(), binding("b"));
    }
}
