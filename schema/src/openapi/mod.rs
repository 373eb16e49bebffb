//! OpenAPI v3: one document for each group and version, and the index of them. Made on demand from the tables; nothing is kept here.
//!
//! Complete enough for `kubectl explain`, client-side and dry-run checks, and for clients that build schemas from it: every path with its
//! action and kind, every message reachable from them with list, map and patch semantics. The tables hold no descriptions.

mod definitions;
mod paths;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    discovery::{Discovery, Entry},
    tables::Tables,
};

pub use definitions::definition_name;

/// `/openapi/v3`: where each document is. `seed` changes whenever anything beyond the entries does (the server's version).
pub fn index(discovery: &Discovery, seed: &str) -> Value {
    let mut paths = Map::new();
    for (group, version) in discovery.group_versions() {
        let entries = discovery.entries(group, version).unwrap_or_default();
        let path = document_path(group, version);
        let url = format!("/openapi/v3/{path}?hash={}", hash(entries, seed));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// Where a group and version's document is below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Tells documents apart: equal entries under one seed give equal hashes, so clients may cache for ever.
pub fn hash(entries: &[Entry], seed: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(seed);
    for entry in entries {
        digest.update(format!("{entry:?}"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The document of one group and version, from its built-in resources. `server` is the version in `info`, `v1.37.1`.
pub fn document(tables: &Tables, group: &str, version: &str, entries: &[Entry], server: &str) -> Value {
    let mut definitions = definitions::Definitions::new(tables);
    let mut all_paths = paths::Paths::new(tables, group, version, &mut definitions);
    for entry in entries {
        all_paths.add(entry);
    }
    let paths = all_paths.finish();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": server},
        "paths": paths,
        "components": {
            "schemas": definitions.finish(),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            }},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::built_in;

    fn documents() -> Vec<(String, Value)> {
        let tables = Tables::load().unwrap();
        let discovery = Discovery::new(built_in(&tables));
        let versions: Vec<(String, String)> = discovery.group_versions().map(|(g, v)| (g.to_owned(), v.to_owned())).collect();
        versions
            .into_iter()
            .map(|(g, v)| (document_path(&g, &v), document(&tables, &g, &v, discovery.entries(&g, &v).unwrap(), "v1.37.1")))
            .collect()
    }

    fn references<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                into.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|v| references(v, into));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, into)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_of_every_document_leads_to_a_definition() {
        for (path, document) in documents() {
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty(), "{path}");
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(schemas.contains_key(name), "{path}: {name}");
            }
        }
    }

    #[test]
    fn a_deployments_paths_carry_what_kubectl_looks_for() {
        let documents = documents();
        let (_, apps) = documents.iter().find(|(path, _)| path == "apis/apps/v1").unwrap();
        let one = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!((&one["patch"]["x-kubernetes-action"], &one["patch"]["x-kubernetes-group-version-kind"]), (&json!("patch"), &kind));
        let parameters: Vec<&str> = one["patch"]["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(parameters, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        assert_eq!(apps["paths"]["/apis/apps/v1/deployments"]["get"]["x-kubernetes-action"], "list");
        let spec = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
        assert_eq!(spec["required"], json!(["selector", "template"]));
        assert_eq!(spec["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
        let pod = &apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!((&pod["x-kubernetes-list-type"], &pod["x-kubernetes-list-map-keys"]), (&json!("map"), &json!(["name"])));
        assert_eq!((&pod["x-kubernetes-patch-strategy"], &pod["x-kubernetes-patch-merge-key"]), (&json!("merge"), &json!("name")));
    }

    #[test]
    fn the_index_names_every_document_and_its_hash_follows_the_resources() {
        let tables = Tables::load().unwrap();
        let discovery = Discovery::new(built_in(&tables));
        let first = index(&discovery, "a");
        let url = first["paths"]["apis/batch/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/batch/v1?hash="));
        assert_ne!(first, index(&discovery, "b"));
        assert_eq!(first, index(&discovery, "a"));
    }
}
