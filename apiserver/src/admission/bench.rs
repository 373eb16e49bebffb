//! A stand for plugins in tests: one attempt from a line of text, over objects in a map.

use std::sync::Arc;

use coracle_schema::Tables;
use coracle_tree::{Value, json};

use super::{Admission, Annotations, Attempt, Operation};
use crate::{
    authn::User,
    registry::{Object, catalog, fake::FakeReader, rules::PLAIN},
    request::RequestInfo,
    wire::Status,
};

/// Objects around the attempt, and who makes it.
pub(crate) struct Bench {
    pub(crate) reader: Arc<FakeReader>,
    pub(crate) user: User,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { reader: Arc::new(FakeReader::default()), user: User::new("jane", &[]) }
    }

    /// `at` is `resource[.group][/subresource] namespace name`, `-` for empty. The object as it leaves the plugin.
    pub(crate) async fn create(&self, plugin: &dyn Admission, at: &str, new: Value) -> Result<Value, Status> {
        self.run(plugin, Operation::Create, at, Some(new), None).await
    }

    pub(crate) async fn update(&self, plugin: &dyn Admission, at: &str, old: Value, new: Value) -> Result<Value, Status> {
        self.run(plugin, Operation::Update, at, Some(new), Some(old)).await
    }

    pub(crate) async fn delete(&self, plugin: &dyn Admission, at: &str) -> Result<Value, Status> {
        self.run(plugin, Operation::Delete, at, None, Some(json!({}))).await
    }

    pub(crate) async fn run(
        &self,
        plugin: &dyn Admission,
        operation: Operation,
        at: &str,
        new: Option<Value>,
        old: Option<Value>,
    ) -> Result<Value, Status> {
        Ok(self.pass(plugin, operation, at, new, old).await?.0)
    }

    /// What the client is warned of.
    pub(crate) async fn warnings(
        &self,
        plugin: &dyn Admission,
        operation: Operation,
        at: &str,
        new: Option<Value>,
        old: Option<Value>,
    ) -> Result<Vec<String>, Status> {
        Ok(self.pass(plugin, operation, at, new, old).await?.1)
    }

    async fn pass(
        &self,
        plugin: &dyn Admission,
        operation: Operation,
        at: &str,
        new: Option<Value>,
        old: Option<Value>,
    ) -> Result<(Value, Vec<String>), Status> {
        let request = request(operation, at);
        let kinds = catalog::built_in(&Tables::load().unwrap(), |_, _| &PLAIN);
        let kind = kinds.get(&request.group, "v1", &request.resource).unwrap();
        let old = old.and_then(Object::new);
        let mut new = new.and_then(Object::new);
        let (request, user) = (&request, &self.user);
        let annotations = Annotations::default();
        let mut attempt = Attempt { old: old.as_ref(), ..Attempt::new(operation, request, kind, user, &annotations) };
        if plugin.concerns(&attempt) {
            plugin.mutate(&mut attempt, new.as_mut()).await?;
            plugin.validate(&mut attempt, new.as_ref()).await?;
        }
        Ok((new.map(Object::into_value).unwrap_or_default(), attempt.warnings))
    }
}

/// A small pod.
pub(crate) fn pod() -> Value {
    json!({"metadata": {"name": "web", "namespace": "live"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn request(operation: Operation, at: &str) -> RequestInfo {
    let parts: Vec<&str> = at.split(' ').map(|p| if p == "-" { "" } else { p }).collect();
    let (resource, subresource) = parts[0].split_once('/').unwrap_or((parts[0], ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let verb = match operation {
        Operation::Create | Operation::Connect => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
    };
    // As in real requests, a create tells no name unless it is of a subresource.
    let name = if operation == Operation::Create && subresource.is_empty() { "" } else { parts[2] };
    RequestInfo {
        is_resource: true,
        verb: verb.into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: parts[1].into(),
        name: name.into(),
        ..RequestInfo::default()
    }
}
