//! Objects in a map, for tests of what reads and writes others.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_tree::Value;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Change, Reader, Writer};
use crate::wire::{Status, status::Subject};

type Key = (String, String, String, String);

/// A [`Reader`] and [`Writer`] over a map.
#[derive(Default)]
pub(crate) struct FakeReader(Mutex<State>);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    followers: Vec<(String, String, UnboundedSender<Change>)>,
    revision: u64,
}

impl FakeReader {
    /// Stores an object under its own name and namespace.
    pub(crate) fn put(&self, group: &str, resource: &str, mut object: Value) -> Value {
        let mut state = self.0.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let key = key(group, resource, &object);
        state.objects.insert(key.clone(), object.clone());
        state.tell(&key, Some(&object));
        object
    }

    /// Removes an object.
    pub(crate) fn remove(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        let mut state = self.0.lock();
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        state.objects.remove(&key);
        state.tell(&key, None);
    }

    /// One object.
    pub(crate) fn look(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.0.lock().objects.get(&key).cloned()
    }

    /// How many writes there were.
    pub(crate) fn writes(&self) -> u64 {
        self.0.lock().revision
    }
}

impl State {
    fn tell(&mut self, key: &Key, object: Option<&Value>) {
        let change = Change { namespace: key.2.clone(), name: key.3.clone(), object: object.map(|o| o.to_string().into()) };
        self.followers.retain(|(g, r, sender)| g != &key.0 || r != &key.1 || sender.send(change.clone()).is_ok());
    }
}

fn key(group: &str, resource: &str, object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (group.to_owned(), resource.to_owned(), text("namespace"), text("name"))
}

fn group_of(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    version.split_once('/').map(|(g, _)| g.to_owned()).unwrap_or_default()
}

#[async_trait]
impl Reader for FakeReader {
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Bytes>, Status> {
        Ok(self.look(group, resource, namespace, name).map(|o| o.to_string().into()))
    }

    async fn list_readable(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status> {
        self.list(group, resource, namespace).await
    }

    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Bytes>, Status> {
        let state = self.0.lock();
        let fits = |k: &Key| k.0 == group && k.1 == resource && (namespace.is_empty() || k.2 == namespace);
        Ok(state.objects.iter().filter(|(k, _)| fits(k)).map(|(_, o)| o.to_string().into()).collect())
    }

    async fn begin_readable(&self, group: &str, resource: &str) -> Result<(Vec<Bytes>, BoxStream<'static, Change>), Status> {
        let changes = self.follow(group, resource);
        Ok((self.list_readable(group, resource, "").await?, changes))
    }

    fn follow(&self, group: &str, resource: &str) -> BoxStream<'static, Change> {
        let (sender, mut receiver) = unbounded_channel();
        let mut state = self.0.lock();
        for (key, object) in state.objects.iter().filter(|(k, _)| k.0 == group && k.1 == resource) {
            let _ = sender.send(Change { namespace: key.2.clone(), name: key.3.clone(), object: Some(object.to_string().into()) });
        }
        state.followers.push((group.to_owned(), resource.to_owned(), sender));
        futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)).boxed()
    }
}

#[async_trait]
impl Writer for FakeReader {
    async fn create(&self, resource: &str, namespace: &str, mut object: Value) -> Result<Value, Status> {
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let group = group_of(&object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.look(&group, resource, namespace, &name).is_some() {
            return Err(Status::already_exists(Subject { group: &group, resource, name: &name }));
        }
        Ok(self.put(&group, resource, object))
    }

    async fn update(&self, resource: &str, _subresource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
        let group = group_of(&object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let subject = Subject { group: &group, resource, name: &name };
        let found = self.look(&group, resource, namespace, &name).ok_or_else(|| Status::not_found(subject))?;
        let expected = &object["metadata"]["resourceVersion"];
        if expected.is_string() && *expected != found["metadata"]["resourceVersion"] {
            return Err(Status::conflict(subject, "the object has been modified"));
        }
        Ok(self.put(&group, resource, object))
    }

    async fn delete(&self, resource: &str, namespace: &str, object: &Value) -> Result<(), Status> {
        let group = group_of(object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let subject = Subject { group: &group, resource, name };
        let found = self.look(&group, resource, namespace, name).ok_or_else(|| Status::not_found(subject))?;
        let expected = &object["metadata"]["resourceVersion"];
        if expected.is_string() && *expected != found["metadata"]["resourceVersion"] {
            return Err(Status::conflict(subject, "the object has been modified"));
        }
        self.remove(&group, resource, namespace, name);
        Ok(())
    }
}
