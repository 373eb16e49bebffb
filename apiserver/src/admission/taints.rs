//! TaintNodesByCondition: a new node takes no pods before it says it is ready (`plugin/pkg/admission/nodetaint`).

use async_trait::async_trait;
use coracle_tree::json;

use super::{
    Admission, Attempt, Operation,
    look::{self, list, list_mut, text},
};
use crate::{registry::Object, wire::Status};

const TAINT: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, "", "nodes")
    }

    async fn mutate(&self, _attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(node) = new else { return Ok(()) };
        let there = list(node.value(), "/spec/taints").iter().any(|t| text(t, "key") == TAINT && text(t, "effect") == "NoSchedule");
        if there {
            return Ok(());
        }
        node.member_mut("spec");
        if let Some(taints) = list_mut(&mut node.value_mut()["spec"], "taints") {
            taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::Bench;

    #[tokio::test]
    async fn a_new_node_is_tainted_once() {
        let b = Bench::new();
        let node = b.create(&TaintNodesByCondition, "nodes - n", json!({"metadata": {"name": "n"}})).await.unwrap();
        assert_eq!(node["spec"]["taints"], json!([{"key": TAINT, "effect": "NoSchedule"}]));
        assert_eq!(b.create(&TaintNodesByCondition, "nodes - n", node.clone()).await.unwrap(), node);
    }
}
