//! The write path for the server's own parts: the verbs themselves, as `system:apiserver`, without HTTP.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use coracle_tree::Value;

use crate::{
    registry::{Kind, Writer},
    request::query::DeleteOptions,
    verbs::{
        Api, Call,
        delete::{self, Admitted},
        write::{Made, Outcome, Writing},
    },
    wire::Status,
};

/// Writes through an [`Api`]. Made before the API, because admission plugins need it, and connected afterwards.
#[derive(Default)]
pub struct ApiWriter {
    api: OnceLock<Weak<Api>>,
}

impl ApiWriter {
    /// From here on writes go through this API; only the first call counts.
    pub fn connect(&self, api: &Arc<Api>) {
        // A second connection would be to the same API: there is one in a server.
        let _ = self.api.set(Arc::downgrade(api));
    }

    fn api(&self) -> Result<Arc<Api>, Status> {
        self.api.get().and_then(Weak::upgrade).ok_or_else(|| Status::unavailable("the server is starting or stopping"))
    }
}

#[async_trait]
impl Writer for ApiWriter {
    async fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
        let api = self.api()?;
        let kind = kind_of(&api, resource, &object)?;
        let call = Call::of_server("create", &kind, namespace, "", "");
        let mut writing = Writing::of_server(&api, &call, &kind);
        let object = writing.decode_value(object)?;
        read(&writing.create(object).await?)
    }

    async fn update(&self, resource: &str, subresource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
        let api = self.api()?;
        let kind = kind_of(&api, resource, &object)?;
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let call = Call::of_server("update", &kind, namespace, &name, subresource);
        let mut writing = Writing::of_server(&api, &call, &kind);
        let object = writing.decode_value(object)?;
        read(&writing.change(false, |_, _| Ok(Made { object: object.clone(), owned: false })).await?)
    }

    async fn delete(&self, resource: &str, namespace: &str, object: &Value) -> Result<(), Status> {
        let api = self.api()?;
        let kind = kind_of(&api, resource, object)?;
        let text = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
        let name = text("name").unwrap_or_default();
        let call = Call::of_server("delete", &kind, namespace, &name, "");
        let options = DeleteOptions { uid: text("uid"), resource_version: text("resourceVersion"), ..DeleteOptions::default() };
        delete::remove(&api, &call, &kind, &name, &options, Admitted::Now, &mut Vec::new()).await.map(drop)
    }
}

/// The kind an object says it is.
fn kind_of(api: &Api, resource: &str, object: &Value) -> Result<Arc<Kind>, Status> {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    api.storage.catalog().get(group, version, resource).cloned().ok_or_else(Status::no_such_path)
}

fn read(outcome: &Outcome) -> Result<Value, Status> {
    serde_json::from_slice(&outcome.wire).map_err(|e| Status::internal(format!("a written object cannot be read: {e}")))
}
