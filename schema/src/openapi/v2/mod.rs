//! OpenAPI v2: one document of everything, for clients older than version 3. It is made of the documents of version 3, one at a time, so
//! built-in, custom and other servers' kinds come into it alike, and only one of them is in memory beside it.

mod convert;
mod merge;
mod proto;
mod upward;

use coracle_tree::{Map, Value, json};

pub use merge::{filtered, merge};
pub use proto::protobuf;
pub use upward::to_v3;

/// The media types of the protobuf form: how it is answered, and how old clients ask for it, which is no media type in Go's eyes.
pub const PROTOBUF_TYPES: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// A document in the making.
pub struct Document {
    version: String,
    paths: Map,
    definitions: Map,
    parameters: Map,
}

impl Document {
    /// An empty one. `server` is the version in `info`, `v1.37.1`.
    pub fn new(server: &str) -> Self {
        let version = super::short_version(server).to_owned();
        Self { version, paths: Map::new(), definitions: Map::new(), parameters: Map::new() }
    }

    /// Adds what a document of version 3 tells. What was there under the same name stays.
    pub fn add(&mut self, v3: &Value) {
        for (path, item) in v3["paths"].as_object().into_iter().flatten() {
            let made = convert::path(item, &mut self.parameters);
            self.paths.entry(path.clone()).or_insert(made);
        }
        for (name, schema) in v3["components"]["schemas"].as_object().into_iter().flatten() {
            match self.definitions.get_mut(name) {
                Some(there) => add_kinds(there, schema),
                None => {
                    let made = convert::definition(name, schema);
                    self.definitions.insert(name.clone(), made);
                }
            }
        }
    }

    /// The document.
    pub fn finish(self) -> Value {
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": self.version},
            "paths": self.paths,
            "definitions": self.definitions,
            "parameters": self.parameters,
            "securityDefinitions": {"BearerToken": {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
            }},
            "security": [{"BearerToken": []}],
        })
    }
}

/// Messages that every group and version takes are of the kinds that each document says.
fn add_kinds(there: &mut Value, schema: &Value) {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    let Some(known) = there.get_mut(KINDS).and_then(Value::as_array_mut) else { return };
    for kind in schema[KINDS].as_array().into_iter().flatten() {
        if !known.contains(kind) {
            known.push(kind.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Value {
        let mut all = Document::new("v1.37.1");
        for (_, document) in crate::openapi::documents() {
            all.add(&document);
        }
        all.finish()
    }

    fn walk(value: &Value, see: &mut impl FnMut(&Map)) {
        match value {
            Value::Object(members) => {
                see(members);
                members.values().for_each(|v| walk(v, see));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, see)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_nothing_of_version_three_is_left() {
        let all = everything();
        let mut references = Vec::new();
        walk(&all["paths"], &mut |members| {
            references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            assert!(!members.contains_key("requestBody") && !members.contains_key("content"), "{members:?}");
        });
        walk(&all["definitions"], &mut |members| references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned)));
        assert!(references.len() > 1000);
        for reference in references {
            let (place, name) = reference.strip_prefix("#/").and_then(|r| r.split_once('/')).unwrap();
            assert!(all[place].get(name).is_some(), "{reference}");
        }
    }

    #[test]
    fn a_pods_definition_is_what_old_clients_read() {
        let all = everything();
        let spec = &all["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["affinity"]["$ref"], "#/definitions/io.k8s.api.core.v1.Affinity");
        assert!(spec["affinity"]["description"].is_string());
        assert!(spec["containers"].get("default").is_none());
        assert_eq!(all["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
        let intstr = &all["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!((&intstr["type"], &intstr["format"]), (&json!("string"), &json!("int-or-string")));
        let kinds = &all["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
        assert!(kinds.as_array().unwrap().len() > 20);
    }

    #[test]
    fn a_patch_says_what_it_consumes_and_takes_its_body_as_a_parameter() {
        let all = everything();
        let patch = &all["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["consumes"].as_array().unwrap().len(), 4);
        assert!(patch["consumes"].as_array().unwrap().contains(&json!("application/strategic-merge-patch+json")));
        let body = patch["parameters"][0]["$ref"].as_str().unwrap().strip_prefix("#/parameters/").unwrap();
        assert_eq!(all["parameters"][body]["in"], "body");
        assert_eq!(patch["responses"]["200"]["schema"]["$ref"], "#/definitions/io.k8s.api.apps.v1.Deployment");
        let list = &all["paths"]["/api/v1/pods"]["get"]["produces"];
        assert!(list.as_array().unwrap().contains(&json!("application/json;stream=watch")));
    }

    #[test]
    fn the_protobuf_form_begins_as_gnostic_documents_do() {
        let bytes = protobuf(&everything());
        assert_eq!(&bytes[..5], b"\x0a\x032.0");
        assert!(bytes.len() > 100_000);
    }
}
