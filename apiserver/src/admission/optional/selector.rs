//! PodNodeSelector: a namespace says on which nodes its pods run (`plugin/pkg/admission/podnodeselector`).

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;

use super::{annotation, namespace};
use crate::{
    admission::{Admission, Attempt, Operation, look},
    registry::{Object, Reader},
    wire::Status,
};

/// Where a namespace says so.
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// The plugin.
pub struct PodNodeSelector {
    /// Where namespaces are looked up.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl Admission for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, "", "pods")
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let wanted = self.wanted(attempt).await?;
        check(attempt, pod, &wanted)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let mut selector = own(pod);
        for (key, value) in wanted {
            selector.entry(key).or_insert(value);
        }
        let selector: serde_json::Map<String, Value> = selector.into_iter().map(|(key, value)| (key, value.into())).collect();
        pod.member_mut("spec").insert("nodeSelector".into(), selector.into());
        Ok(())
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        check(attempt, pod, &self.wanted(attempt).await?)
    }
}

impl PodNodeSelector {
    /// What the namespace wants.
    async fn wanted(&self, attempt: &Attempt<'_>) -> Result<BTreeMap<String, String>, Status> {
        let namespace = namespace(&*self.reader, &attempt.request.namespace).await?;
        parse(annotation(&namespace, ANNOTATION).unwrap_or_default()).map_err(|why| Status::new(500, "", why))
    }
}

/// `a=b,c=d` (`labels.ConvertSelectorToLabelsMap`).
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
    let pair = |term: &str| {
        let (key, value) = term.split_once('=').ok_or_else(|| format!("invalid selector: {text}"))?;
        Ok((key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()))
    };
    terms.map(pair).collect()
}

fn own(pod: &Object) -> BTreeMap<String, String> {
    let given = pod.value().pointer("/spec/nodeSelector").and_then(Value::as_object).into_iter().flatten();
    given.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn check(attempt: &Attempt<'_>, pod: &Object, wanted: &BTreeMap<String, String>) -> Result<(), Status> {
    let own = own(pod);
    if wanted.iter().any(|(key, value)| own.get(key).is_some_and(|given| given != value)) {
        let why = "pod node label selector conflicts with its namespace node label selector";
        return Err(Status::forbidden(attempt.kind.subject(pod.name()), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn the_namespaces_selector_is_added_and_may_not_be_contradicted() {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live", "annotations": {ANNOTATION: "tier=gold, disk==ssd"}}}));
        let plugin = PodNodeSelector { reader: bench.reader.clone() };
        let create = async |selector: Value| {
            let mut pod = pod();
            pod["spec"]["nodeSelector"] = selector;
            bench.create(&plugin, "pods live web", pod).await
        };
        let made = create(json!({"own": "1"})).await.unwrap();
        assert_eq!(made["spec"]["nodeSelector"], json!({"tier": "gold", "disk": "ssd", "own": "1"}));
        let status = create(json!({"tier": "tin"})).await.unwrap_err();
        let why = "pod node label selector conflicts with its namespace node label selector";
        assert_eq!(status.message, format!("pods \"web\" is forbidden: {why}"));
    }
}
