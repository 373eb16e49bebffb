//! The API as a server describes it in its OpenAPI v3 documents: resources, and the schemas of their bodies.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use serde_json::Value;

use super::http::Connection;

/// What a server serves.
pub(crate) struct Api {
    resources: Vec<Resource>,
}

/// A resource with a collection.
#[derive(Clone)]
pub(crate) struct Resource {
    /// `apps/v1`, `v1`
    pub(crate) api_version: String,
    /// `Deployment`
    pub(crate) kind: String,
    /// `deployments`
    pub(crate) plural: String,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Subresources and the methods they take.
    pub(crate) subresources: BTreeMap<String, Vec<String>>,
    /// Methods of one object.
    pub(crate) methods: Vec<String>,
    document: Arc<Value>,
    schema: String,
}

impl Api {
    /// Reads all documents.
    pub(crate) async fn read(connection: &mut Connection) -> Result<Self> {
        let index = connection.get("/openapi/v3").await;
        let paths = index.body.get("paths").and_then(Value::as_object).context("/openapi/v3 names no documents")?;
        let mut resources = Vec::new();
        for (path, document) in paths {
            let Some(version) = path.strip_prefix("api/").or_else(|| path.strip_prefix("apis/")) else { continue };
            let Some(url) = document.get("serverRelativeURL").and_then(Value::as_str) else { continue };
            if path.starts_with("apis/") != version.contains('/') {
                continue;
            }
            let document = Arc::new(connection.get(url).await.body);
            resources.extend(resources_of(&document, &format!("/{path}/"), version));
        }
        Ok(Self { resources })
    }

    /// The resource of a kind.
    pub(crate) fn resource(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| r.api_version == api_version && r.kind == kind)
    }

    /// All resources.
    pub(crate) fn resources(&self) -> &[Resource] {
        &self.resources
    }
}

fn resources_of(document: &Arc<Value>, prefix: &str, api_version: &str) -> Vec<Resource> {
    let empty = serde_json::Map::new();
    let paths = document.get("paths").and_then(Value::as_object).unwrap_or(&empty);
    let mut found: BTreeMap<String, Resource> = BTreeMap::new();
    for (path, item) in paths {
        let Some(rest) = path.strip_prefix(prefix) else { continue };
        let inner = rest.strip_prefix("namespaces/{namespace}/");
        let plural = inner.unwrap_or(rest);
        let Some(post) = item.get("post").filter(|_| !plural.contains('/')) else { continue };
        let Some(kind) = post.pointer("/x-kubernetes-group-version-kind/kind").and_then(Value::as_str) else { continue };
        let content = post.pointer("/requestBody/content").and_then(Value::as_object).and_then(|c| c.values().next());
        let reference = content.and_then(|c| c.pointer("/schema/$ref")).and_then(Value::as_str).unwrap_or_default();
        found.insert(
            plural.to_owned(),
            Resource {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                plural: plural.to_owned(),
                namespaced: inner.is_some(),
                subresources: BTreeMap::new(),
                methods: Vec::new(),
                document: Arc::clone(document),
                schema: reference.rsplit('/').next().unwrap_or_default().to_owned(),
            },
        );
    }
    for (path, item) in paths {
        let Some(rest) = path.strip_prefix(prefix) else { continue };
        let rest = rest.strip_prefix("namespaces/{namespace}/").unwrap_or(rest);
        let Some((plural, rest)) = rest.split_once("/{name}") else { continue };
        let Some(resource) = found.get_mut(plural) else { continue };
        let methods = item.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase()).filter(|m| m != "PARAMETERS");
        match rest.strip_prefix('/') {
            None => resource.methods = methods.collect(),
            Some(name) if !name.contains('/') => {
                resource.subresources.insert(name.to_owned(), methods.collect());
            }
            Some(_) => {}
        }
    }
    found.into_values().collect()
}

impl Resource {
    /// `apps/v1/deployments`
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.api_version, self.plural)
    }

    /// The path of the collection.
    pub(crate) fn collection(&self, namespace: &str) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        if self.namespaced {
            format!("/{root}/{}/namespaces/{namespace}/{}", self.api_version, self.plural)
        } else {
            format!("/{root}/{}/{}", self.api_version, self.plural)
        }
    }

    /// The path of all its objects, in whatever namespace.
    pub(crate) fn everywhere(&self) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/{}", self.api_version, self.plural)
    }

    /// Whether one of its objects takes a method.
    pub(crate) fn takes(&self, method: &str) -> bool {
        self.methods.iter().any(|m| m == method)
    }

    /// The schema of its objects.
    pub(crate) fn schema(&self) -> Option<&Value> {
        self.component(&self.schema)
    }

    /// A named schema.
    pub(crate) fn component(&self, name: &str) -> Option<&Value> {
        self.document.get("components")?.get("schemas")?.get(name)
    }

    /// A schema with its reference followed, and the name of what it referred to.
    pub(crate) fn follow<'a>(&'a self, schema: &'a Value) -> (&'a Value, Option<&'a str>) {
        let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref")).and_then(Value::as_str);
        let name = reference.and_then(|r| r.rsplit('/').next());
        match name.and_then(|n| self.component(n)) {
            Some(target) => (target, name),
            None => (schema, None),
        }
    }
}
