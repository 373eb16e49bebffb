//! Priority: a pod's number from its class (`plugin/pkg/admission/priority/admission.go`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::Value;
use memchr::memmem;
use serde::Deserialize;

use super::{Admission, Attempt, Operation, look};
use crate::{
    registry::{Object, Reader},
    wire::Status,
};

const GROUP: &str = "scheduling.k8s.io";
/// What the default class has in it.
const DEFAULT: &[u8] = b"\"globalDefault\":true";

/// The plugin.
pub struct Priority {
    /// Where classes are looked up.
    pub reader: Arc<dyn Reader>,
}

/// A PriorityClass.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Class {
    metadata: Metadata,
    #[serde(default)]
    value: i64,
    #[serde(default)]
    global_default: bool,
    preemption_policy: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update)
            && (look::is(attempt, "", "pods") || look::is(attempt, GROUP, "priorityclasses"))
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        match new {
            Some(pod) if attempt.request.resource == "pods" && attempt.operation == Operation::Create => self.admit(attempt, pod).await,
            Some(pod) if attempt.request.resource == "pods" => {
                keep(attempt.old, pod);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(class) = new.filter(|_| attempt.request.resource == "priorityclasses") else { return Ok(()) };
        if class.value().get("globalDefault").and_then(Value::as_bool) != Some(true) {
            return Ok(());
        }
        match self.default_class().await? {
            Some(other) if other.metadata.name != class.name() => {
                let why = format!("PriorityClass {} is already marked as default. Only one default can exist", other.metadata.name);
                Err(look::forbidden(attempt, new, &why))
            }
            _ => Ok(()),
        }
    }
}

impl Priority {
    async fn admit(&self, attempt: &Attempt<'_>, pod: &mut Object) -> Result<(), Status> {
        let class = match pod.text("/spec/priorityClassName") {
            "" => self.default_class().await?,
            name => {
                let found: Option<Class> = look::one(&*self.reader, GROUP, "priorityclasses", "", name).await?;
                let missing = || look::forbidden(attempt, Some(pod), &format!("no PriorityClass with name {name} was found"));
                Some(found.ok_or_else(missing)?)
            }
        };
        let (value, policy) = match &class {
            Some(class) => (class.value, class.preemption_policy.clone()),
            None => (0, Some("PreemptLowerPriority".to_owned())),
        };
        let spec = pod.value().get("spec").unwrap_or(&Value::Null);
        if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(look::forbidden(attempt, Some(pod), &why));
        }
        let given = spec.get("preemptionPolicy").and_then(Value::as_str);
        if let (Some(given), Some(policy)) = (given, policy.as_deref())
            && given != policy
        {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(look::forbidden(attempt, Some(pod), &why));
        }
        let spec = pod.member_mut("spec");
        if let Some(class) = class {
            spec.insert("priorityClassName", class.metadata.name.into());
        }
        spec.insert("priority", value.into());
        if let Some(policy) = policy {
            spec.insert("preemptionPolicy", policy.into());
        }
        Ok(())
    }

    /// The class of pods that name none; the lowest when there are several.
    async fn default_class(&self) -> Result<Option<Class>, Status> {
        let mut found = self.reader.list(GROUP, "priorityclasses", "").await?;
        // Most clusters have none, which is seen without reading the classes: this is asked for almost every pod.
        found.retain(|class| memmem::find(class, DEFAULT).is_some());
        let classes: Vec<Class> = look::read_all("priorityclasses", &found)?;
        Ok(classes.into_iter().filter(|c| c.global_default).min_by_key(|c| c.value))
    }
}

/// An update by a client that does not know the fields leaves them as they were.
fn keep(old: Option<&Object>, pod: &mut Object) {
    for name in ["priority", "preemptionPolicy"] {
        let before = old.and_then(|o| o.value().get("spec")?.get(name)).cloned();
        if let Some(before) = before {
            let slot = pod.member_mut("spec").entry(name).or_insert(Value::Null);
            if slot.is_null() {
                *slot = before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench() -> (Bench, Priority) {
        let bench = Bench::new();
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        bench.reader.put(GROUP, "priorityclasses", class("high", 1000, false));
        bench.reader.put(GROUP, "priorityclasses", class("usual", 10, true));
        let plugin = Priority { reader: bench.reader.clone() };
        (bench, plugin)
    }

    async fn admit(name: &str, priority: Value) -> Result<Value, Status> {
        let (b, plugin) = bench();
        let mut new = pod();
        new["spec"]["priorityClassName"] = name.into();
        if !priority.is_null() {
            new["spec"]["priority"] = priority;
        }
        b.create(&plugin, "pods live web", new).await.map(|p| p["spec"].clone())
    }

    #[tokio::test]
    async fn the_number_comes_from_the_named_or_the_default_class() {
        let named = admit("high", Value::Null).await.unwrap();
        assert_eq!((&named["priority"], &named["preemptionPolicy"]), (&json!(1000), &json!("Never")));
        let unnamed = admit("", Value::Null).await.unwrap();
        assert_eq!((&unnamed["priority"], &unnamed["priorityClassName"]), (&json!(10), &json!("usual")));
        let plain = Priority { reader: Bench::new().reader };
        let none = Bench::new().create(&plain, "pods live web", pod()).await.unwrap();
        assert_eq!((&none["spec"]["priority"], &none["spec"]["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    }

    #[tokio::test]
    async fn unknown_classes_and_other_numbers_are_refused() {
        let unknown = admit("none", Value::Null).await.unwrap_err();
        assert_eq!(unknown.message, r#"pods "web" is forbidden: no PriorityClass with name none was found"#);
        assert!(admit("high", json!(7)).await.unwrap_err().message.contains("(7) must not be provided"));
        assert!(admit("high", json!(1000)).await.is_ok());
    }

    #[tokio::test]
    async fn there_is_one_default_class() {
        let (b, plugin) = bench();
        let second = json!({"metadata": {"name": "second"}, "value": 5, "globalDefault": true});
        let refused = b.create(&plugin, "priorityclasses.scheduling.k8s.io - second", second).await.unwrap_err();
        assert!(refused.message.contains("PriorityClass usual is already marked as default"));
    }

    #[tokio::test]
    async fn updates_keep_the_number() {
        let (b, plugin) = bench();
        let mut old = pod();
        old["spec"]["priority"] = 1000.into();
        assert_eq!(b.update(&plugin, "pods live web", old, pod()).await.unwrap()["spec"]["priority"], 1000);
    }
}
