//! RuntimeClass: overhead and placement of pods that name one (`plugin/pkg/admission/runtimeclass`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::Value;

use super::{
    Admission, Attempt, Operation,
    look::{self, list, list_mut, text},
    resources,
};
use crate::{
    registry::{Object, Reader},
    wire::Status,
};

/// The plugin.
pub struct RuntimeClass {
    /// Where classes are looked up.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, "", "pods")
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let Some(class) = self.class(attempt, pod).await? else { return Ok(()) };
        let overhead = class.pointer("/overhead/podFixed").filter(|o| o.is_object());
        if let Some(overhead) = overhead.filter(|_| pod.value().pointer("/spec/overhead").is_none()) {
            pod.member_mut("spec").insert("overhead", overhead.clone());
        }
        let result = place(pod, &class);
        result.map_err(|why| look::forbidden(attempt, Some(pod), &why))
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let class = self.class(attempt, pod).await?;
        let asked = resources::of(pod.value().pointer("/spec/overhead"));
        let defined = resources::of(class.as_ref().and_then(|c| c.pointer("/overhead/podFixed")));
        let why = match (&class, asked == defined) {
            (_, true) => return Ok(()),
            (None, _) => "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            (Some(_), _) => "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        };
        Err(look::forbidden(attempt, new, why))
    }
}

impl RuntimeClass {
    /// The class the pod names; `None` when it names none.
    async fn class(&self, attempt: &Attempt<'_>, pod: &Object) -> Result<Option<Value>, Status> {
        let name = pod.text("/spec/runtimeClassName");
        if name.is_empty() {
            return Ok(None);
        }
        let found = look::one(&*self.reader, "node.k8s.io", "runtimeclasses", "", name).await?;
        let missing = || look::forbidden(attempt, Some(pod), &format!("pod rejected: RuntimeClass {name:?} not found"));
        found.map(Some).ok_or_else(missing)
    }
}

/// Merges the class's node selector and tolerations into the pod.
fn place(pod: &mut Object, class: &Value) -> Result<(), String> {
    for (key, value) in class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        let own = pod.value().get("spec").and_then(|s| s.get("nodeSelector")?.get(key));
        if let Some(own) = own.filter(|o| *o != value) {
            let (wanted, own) = (value.as_str().unwrap_or_default(), own.as_str().unwrap_or_default());
            return Err(format!(
                "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        let selector = pod.member_mut("spec").entry("nodeSelector").or_insert_with(|| Value::Object(Default::default()));
        selector[key] = value.clone();
    }
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|m| text(a, m) == text(b, m));
    let missing: Vec<Value> = list(class, "/scheduling/tolerations")
        .iter()
        .filter(|t| !list(pod.value(), "/spec/tolerations").iter().any(|own| same(own, t)))
        .cloned()
        .collect();
    if !missing.is_empty()
        && let Some(tolerations) = list_mut(&mut pod.value_mut()["spec"], "tolerations")
    {
        tolerations.extend(missing);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench() -> (Bench, RuntimeClass) {
        let bench = Bench::new();
        let class = json!({
            "metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
        });
        bench.reader.put("node.k8s.io", "runtimeclasses", class);
        let plugin = RuntimeClass { reader: bench.reader.clone() };
        (bench, plugin)
    }

    fn of(class: &str) -> Value {
        let mut pod = pod();
        pod["spec"]["runtimeClassName"] = class.into();
        pod
    }

    #[tokio::test]
    async fn overhead_and_placement_come_from_the_class() {
        let (b, plugin) = bench();
        let pod = b.create(&plugin, "pods live web", of("vm")).await.unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "250m"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"vm": "yes"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "vm", "operator": "Exists"}]));
    }

    #[tokio::test]
    async fn unknown_classes_and_other_overheads_are_refused() {
        let (b, plugin) = bench();
        let refusal = async |pod: Value| b.create(&plugin, "pods live web", pod).await.unwrap_err().message;
        assert!(refusal(of("none")).await.contains(r#"RuntimeClass "none" not found"#));
        let mut other = of("vm");
        other["spec"]["overhead"] = json!({"cpu": "1"});
        assert!(refusal(other.clone()).await.contains("doesn't match"));
        other["spec"]["runtimeClassName"] = "".into();
        assert!(refusal(other).await.contains("without corresponding"));
        let mut elsewhere = of("vm");
        elsewhere["spec"]["nodeSelector"] = json!({"vm": "no"});
        assert!(refusal(elsewhere).await.contains("runtimeClass.scheduling.nodeSelector[vm] = yes"));
    }
}
