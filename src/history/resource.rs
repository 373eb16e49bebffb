//! Which resource a word of kubectl's means: plural, singular, short name or kind, with a group or without.

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::Value;

/// Discovery in one document (KEP-3352).
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource in one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    group: String,
    version: String,
    plural: String,
    pub(super) namespaced: bool,
}

impl Resource {
    /// Asks the server what it serves.
    pub(super) async fn find(client: &Client, word: &str) -> Result<Self> {
        for root in ["/api", "/apis"] {
            let request = http::Request::get(root).header(http::header::ACCEPT, ACCEPT).body(Vec::new())?;
            let groups: Value = client.request(request).await.context("cannot ask the server what it serves")?;
            if let Some(found) = pick(&groups, word) {
                return Ok(found);
            }
        }
        bail!("the server has no resource {word:?}; `kubectl api-resources` lists what it has")
    }

    /// The path of an object.
    pub(super) fn path(&self, namespace: &str, name: &str) -> String {
        let Self { group, version, plural, namespaced } = self;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        if *namespaced { format!("{root}/namespaces/{namespace}/{plural}/{name}") } else { format!("{root}/{plural}/{name}") }
    }
}

/// The first resource that is called so, in the order of the server, which is that of preference.
fn pick(groups: &Value, word: &str) -> Option<Resource> {
    let word = word.to_lowercase();
    let (word, wanted) = word.split_once('.').map_or((word.as_str(), None), |(word, group)| (word, Some(group)));
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for group in list(groups, "items") {
        let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        for version in list(&group, "versions") {
            for resource in list(&version, "resources") {
                let text = |at: &str| resource.pointer(at).and_then(Value::as_str).unwrap_or_default();
                let mut names = vec![text("/resource").to_owned(), text("/singularResource").to_owned()];
                names.push(text("/responseKind/kind").to_lowercase());
                names.extend(list(&resource, "shortNames").iter().filter_map(Value::as_str).map(str::to_owned));
                let gets = list(&resource, "verbs").iter().any(|verb| verb == "get");
                if gets && names.iter().any(|name| name == word) {
                    return Some(Resource {
                        group: name.to_owned(),
                        version: version.get("version").and_then(Value::as_str).unwrap_or_default().to_owned(),
                        plural: text("/resource").to_owned(),
                        namespaced: text("/scope") == "Namespaced",
                    });
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_name_of_a_resource_finds_it() {
        let groups = json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
            {"resource": "deployments", "singularResource": "deployment", "shortNames": ["deploy"], "scope": "Namespaced",
             "responseKind": {"kind": "Deployment"}, "verbs": ["get", "list"]},
            {"resource": "things", "scope": "Cluster", "verbs": ["create"]}]}]}]});
        for word in ["deployments", "deployment", "Deployment", "deploy", "deploy.apps"] {
            let path = pick(&groups, word).map(|found| found.path("shop", "web"));
            assert_eq!(path.as_deref(), Some("/apis/apps/v1/namespaces/shop/deployments/web"), "{word}");
        }
        assert_eq!(pick(&groups, "deploy.batch"), None);
        assert_eq!(pick(&groups, "things"), None, "cannot be read");
    }
}
