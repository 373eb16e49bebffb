//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or out of reach
//! (`plugin/pkg/admission/defaulttolerationseconds`).

use async_trait::async_trait;
use coracle_tree::{Value, json};

use super::{
    Admission, Attempt, Operation,
    look::{self, list, list_mut, text},
};
use crate::{registry::Object, wire::Status};

/// The taints, in upstream's order.
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plugin.
pub struct DefaultTolerationSeconds {
    /// Seconds for each of the two taints.
    pub seconds: [i64; 2],
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { seconds: [300, 300] }
    }
}

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && look::is(attempt, "", "pods")
    }

    async fn mutate(&self, _attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        for (taint, seconds) in TAINTS.iter().zip(self.seconds) {
            let tolerates = |t: &Value| (text(t, "key").is_empty() || text(t, "key") == *taint) && any_effect(t);
            let tolerated = list(pod.value(), "/spec/tolerations").iter().any(tolerates);
            if tolerated {
                continue;
            }
            pod.member_mut("spec");
            if let Some(tolerations) = list_mut(&mut pod.value_mut()["spec"], "tolerations") {
                tolerations.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}));
            }
        }
        Ok(())
    }
}

fn any_effect(toleration: &Value) -> bool {
    matches!(text(toleration, "effect"), "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn both_tolerations_are_added_where_they_are_missing() {
        let plugin = DefaultTolerationSeconds::default();
        let keys = async |given: Value| {
            let mut new = pod();
            new["spec"]["tolerations"] = given;
            let pod = Bench::new().create(&plugin, "pods live web", new).await.unwrap();
            list(&pod, "/spec/tolerations").iter().map(|t| text(t, "key").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(keys(Value::Null).await, TAINTS);
        let own = json!([{"key": TAINTS[1], "operator": "Exists", "effect": "NoExecute"}]);
        assert_eq!(keys(own).await, [TAINTS[1], TAINTS[0]]);
        assert_eq!(keys(json!([{"operator": "Exists"}])).await, [""]);
        let other_effect = json!([{"key": TAINTS[0], "effect": "NoSchedule"}]);
        assert_eq!(keys(other_effect).await.len(), 3);
    }
}
