//! PodNodeSelector: a namespace says on which nodes its pods run (`plugin/pkg/admission/podnodeselector`).

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use coracle_tree::Value;
use serde::Deserialize;

use super::{annotation, namespace};
use crate::{
    admission::{Admission, Attempt, Operation, look},
    registry::{Object, Reader},
    wire::{Status, yaml},
};

/// Where a namespace says so.
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// What is configured for namespaces that say nothing.
const DEFAULT: &str = "clusterDefaultNodeSelector";

/// The plugin.
pub struct PodNodeSelector {
    reader: Arc<dyn Reader>,
    /// By namespace: the labels its pods may select by; and the default.
    configured: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "podNodeSelectorPluginConfig", default)]
    selectors: BTreeMap<String, String>,
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
        if !wanted.is_empty() && self.check(attempt, pod, &wanted).is_ok() {
            let mut selector = own(pod);
            for (key, value) in &wanted {
                selector.entry(key.clone()).or_insert_with(|| value.clone());
            }
            let selector: coracle_tree::Map = selector.into_iter().collect();
            pod.member_mut("spec").insert("nodeSelector", selector.into());
        }
        self.check(attempt, pod, &wanted)
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        self.check(attempt, pod, &self.wanted(attempt).await?)
    }
}

impl PodNodeSelector {
    /// Looks namespaces up through `reader`. The error says what of the configuration cannot be read.
    pub fn new(reader: Arc<dyn Reader>, configuration: Option<&[u8]>) -> Result<Self, String> {
        let mut configured = BTreeMap::new();
        if let Some(bytes) = configuration {
            let file: Configuration = coracle_tree::from_value(yaml::read(bytes)?.value).map_err(|e| e.to_string())?;
            for (namespace, selector) in file.selectors {
                configured.insert(namespace, parse(&selector)?);
            }
        }
        Ok(Self { reader, configured })
    }

    /// What the namespace wants.
    async fn wanted(&self, attempt: &Attempt<'_>) -> Result<BTreeMap<String, String>, Status> {
        let namespace = namespace(&*self.reader, &attempt.request.namespace).await?;
        match annotation(&namespace, ANNOTATION) {
            Some(selector) => parse(selector).map_err(|why| Status::new(500, "", why)),
            None => Ok(self.configured.get(DEFAULT).cloned().unwrap_or_default()),
        }
    }

    fn check(&self, attempt: &Attempt<'_>, pod: &Object, wanted: &BTreeMap<String, String>) -> Result<(), Status> {
        let own = own(pod);
        let refuse = |why| Err(Status::forbidden(attempt.kind.subject(pod.name()), why));
        if wanted.iter().any(|(key, value)| own.get(key).is_some_and(|given| given != value)) {
            return refuse("pod node label selector conflicts with its namespace node label selector");
        }
        match self.configured.get(&attempt.request.namespace) {
            Some(allowed) if !allowed.is_empty() && own.iter().any(|(key, value)| allowed.get(key) != Some(value)) => {
                refuse("pod node label selector labels conflict with its namespace whitelist")
            }
            _ => Ok(()),
        }
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
    given.filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn the_namespaces_selector_is_added_and_may_not_be_contradicted() {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live", "annotations": {ANNOTATION: "tier=gold, disk==ssd"}}}));
        let plugin = PodNodeSelector::new(bench.reader.clone(), None).unwrap();
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

    #[tokio::test]
    async fn the_configuration_has_a_default_and_what_namespaces_may_select_by() {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live"}}));
        let configuration = "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: tier=gold\n  live: tier=gold,disk=ssd\n";
        let plugin = PodNodeSelector::new(bench.reader.clone(), Some(configuration.as_bytes())).unwrap();
        let create = async |selector: Value| {
            let mut pod = pod();
            pod["spec"]["nodeSelector"] = selector;
            bench.create(&plugin, "pods live web", pod).await
        };
        assert_eq!(create(json!({"disk": "ssd"})).await.unwrap()["spec"]["nodeSelector"], json!({"tier": "gold", "disk": "ssd"}));
        let refused = create(json!({"other": "1"})).await.unwrap_err();
        assert_eq!(refused.message, r#"pods "web" is forbidden: pod node label selector labels conflict with its namespace whitelist"#);
        assert!(PodNodeSelector::new(bench.reader.clone(), Some(b"podNodeSelectorPluginConfig: {a: b}")).is_err());
    }
}
