//! PodTolerationRestriction: a namespace says which taints its pods tolerate, and which they may (`plugin/pkg/admission/podtolerationrestriction`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_schema::FieldErrors;
use coracle_tree::{Value, json};
use serde::Deserialize;

use super::{annotation, namespace};
use crate::{
    admission::{
        Admission, Attempt, Operation,
        look::{self, list, text},
        resources::{self, Half},
    },
    kinds,
    registry::{Object, Reader},
    wire::{Status, configuration::Format},
};

/// Where a namespace says what is added.
const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
/// Where it says what is allowed.
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

const FORMAT: Format = Format {
    group: "podtolerationrestriction.admission.k8s.io",
    versions: &["v1alpha1"],
    kind: "Configuration",
    others: &[],
    // As upstream, other fields are not looked at.
    fields: &[],
};

/// The plugin.
pub struct PodTolerationRestriction {
    reader: Arc<dyn Reader>,
    configured: Configuration,
}

/// For namespaces that say nothing.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Configuration {
    default: Vec<Value>,
    whitelist: Vec<Value>,
}

impl PodTolerationRestriction {
    /// Looks namespaces up through `reader`. The error says what is wrong with the configuration.
    pub fn new(reader: Arc<dyn Reader>, configuration: Option<&[u8]>) -> Result<Self, String> {
        let configured: Configuration = configuration.map_or_else(|| Ok(Configuration::default()), |bytes| FORMAT.read(bytes))?;
        let mut errors = FieldErrors::none();
        kinds::tolerations(&configured.default, &"podtolerationrestriction.default", &mut errors);
        kinds::tolerations(&configured.whitelist, &"podtolerationrestriction.whitelist", &mut errors);
        if !errors.is_empty() {
            let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            return Err(format!("invalid config: [{}]", texts.join(", ")));
        }
        Ok(Self { reader, configured })
    }

    fn check(&self, namespace: &Value, pod: &Object) -> Result<(), Status> {
        let tolerations = list(pod.value(), "/spec/tolerations");
        if tolerations.is_empty() {
            return Ok(());
        }
        let own = read(namespace, ALLOWED)?;
        let whose = if own.is_some() { "namespace" } else { "cluster" };
        let allowed = own.as_ref().unwrap_or(&self.configured.whitelist);
        if allowed.is_empty() || tolerations.iter().all(|one| allowed.iter().any(|wider| includes(wider, one))) {
            return Ok(());
        }
        let why = format!("pod tolerations (possibly merged with namespace default tolerations) conflict with its {whose} whitelist");
        Err(Status::new(500, "", why))
    }
}

#[async_trait]
impl Admission for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && look::is(attempt, "", "pods")
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let namespace = namespace(&*self.reader, &attempt.request.namespace).await?;
        let mut added = match attempt.operation {
            Operation::Create => read(&namespace, DEFAULTS)?.unwrap_or_else(|| self.configured.default.clone()),
            _ => Vec::new(),
        };
        if !is_best_effort(pod.value()) {
            added.push(json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}));
        }
        if !added.is_empty() {
            let mut all = list(pod.value(), "/spec/tolerations").to_vec();
            all.extend(added);
            pod.member_mut("spec").insert("tolerations", merged(&all).into());
        }
        self.check(&namespace, pod)
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        self.check(&namespace(&*self.reader, &attempt.request.namespace).await?, pod)
    }
}

/// What an annotation lists; `None` when it is not there.
fn read(namespace: &Value, name: &str) -> Result<Option<Vec<Value>>, Status> {
    match annotation(namespace, name) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| Status::new(500, "", error.to_string())),
    }
}

/// Without what others say already; of equal ones the first stays.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let said = kept.iter().any(|wider| includes(wider, one));
        if !said && !all[at + 1..].iter().any(|wider| wider != one && includes(wider, one)) {
            kept.push(one.clone());
        }
    }
    kept
}

/// Whether `wider` tolerates all that `one` does (`isSuperset`).
fn includes(wider: &Value, one: &Value) -> bool {
    let (key, operator, effect) = (text(wider, "key"), text(wider, "operator"), text(wider, "effect"));
    if wider == one {
        return true;
    }
    if key != text(one, "key") && (!key.is_empty() || operator != "Exists") {
        return false;
    }
    if effect != text(one, "effect") && !effect.is_empty() {
        return false;
    }
    let seconds = |of: &Value| of.get("tolerationSeconds").and_then(Value::as_i64);
    if effect == "NoExecute"
        && let Some(most) = seconds(wider)
        && seconds(one).is_none_or(|given| given > most)
    {
        return false;
    }
    match operator {
        "Exists" => true,
        "Equal" | "" => text(one, "operator") == "Equal" && text(one, "value") == text(wider, "value"),
        _ => false,
    }
}

/// Whether no container asks for cpu or memory.
fn is_best_effort(pod: &Value) -> bool {
    let asks = |half: Half| resources::of_pod(pod, half).keys().any(|name| matches!(name.as_str(), "cpu" | "memory"));
    !asks(Half::Requests) && !asks(Half::Limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn world(annotations: &Value) -> (Bench, PodTolerationRestriction) {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live", "annotations": annotations}}));
        let plugin = PodTolerationRestriction::new(bench.reader.clone(), None).unwrap();
        (bench, plugin)
    }

    #[tokio::test]
    async fn a_namespaces_tolerations_are_added_once() {
        let toleration = json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"});
        let (bench, plugin) = world(&json!({DEFAULTS: json!([toleration]).to_string()}));
        let made = bench.create(&plugin, "pods live web", pod()).await.unwrap();
        assert_eq!(made["spec"]["tolerations"], json!([toleration]));
        assert_eq!(bench.create(&plugin, "pods live web", made.clone()).await.unwrap(), made);
        let mut asking = pod();
        asking["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1Mi"}});
        let made = bench.create(&plugin, "pods live web", asking).await.unwrap();
        assert_eq!(made["spec"]["tolerations"][1]["key"], "node.kubernetes.io/memory-pressure");
    }

    #[tokio::test]
    async fn what_a_namespace_does_not_allow_is_refused() {
        let allowed = json!([{"key": "a", "operator": "Exists"}]);
        let (bench, plugin) = world(&json!({ALLOWED: allowed.to_string()}));
        let create = async |toleration: Value| {
            let mut pod = pod();
            pod["spec"]["tolerations"] = json!([toleration]);
            bench.create(&plugin, "pods live web", pod).await
        };
        assert!(create(json!({"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"})).await.is_ok());
        let status = create(json!({"key": "b", "operator": "Exists"})).await.unwrap_err();
        assert!(status.message.ends_with("conflict with its namespace whitelist"), "{}", status.message);
    }

    #[tokio::test]
    async fn a_namespace_that_says_nothing_has_what_is_configured() {
        let file = json!({
            "apiVersion": "podtolerationrestriction.admission.k8s.io/v1alpha1", "kind": "Configuration",
            "default": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}], "whitelist": [{"key": "a", "operator": "Exists"}],
        });
        let configured = |annotations: Value| {
            let (bench, _) = world(&annotations);
            let plugin = PodTolerationRestriction::new(bench.reader.clone(), Some(file.to_string().as_bytes())).unwrap();
            (bench, plugin)
        };
        let (bench, plugin) = configured(json!({}));
        let made = bench.create(&plugin, "pods live web", pod()).await.unwrap();
        assert_eq!(made["spec"]["tolerations"], file["default"]);
        let mut other = pod();
        other["spec"]["tolerations"] = json!([{"key": "b", "operator": "Exists"}]);
        let status = bench.create(&plugin, "pods live web", other.clone()).await.unwrap_err();
        assert!(status.message.ends_with("conflict with its cluster whitelist"), "{}", status.message);
        // An empty annotation is an answer, too.
        let (bench, plugin) = configured(json!({DEFAULTS: "", ALLOWED: ""}));
        assert_eq!(bench.create(&plugin, "pods live web", other).await.unwrap()["spec"]["tolerations"][1], Value::Null);
        let wrong = file.to_string().replace("Exists\"}", "Maybe\"}");
        assert!(PodTolerationRestriction::new(bench.reader, Some(wrong.as_bytes())).err().unwrap().starts_with("invalid config: ["));
    }
}
