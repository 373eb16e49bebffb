//! An API server in memory, just enough to run the room against: objects, resource versions, conflicts, watches that may lag.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What it sends.
type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// The server.
pub(crate) struct Fake {
    state: Mutex<State>,
    changed: watch::Sender<usize>,
    /// How long watchers wait for news.
    lag: Duration,
    /// Creations of this plural are refused.
    refused: Option<&'static str>,
    /// Lists asked for, as path and query.
    pub(crate) lists: Mutex<Vec<String>>,
    /// Creations tried.
    pub(crate) creations: AtomicUsize,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    log: Vec<(String, &'static str, Value)>,
    version: usize,
}

/// A path, taken apart: the collection, the namespace, the name, the subresource.
struct Place {
    collection: String,
    namespace: String,
    name: Option<String>,
    status: bool,
}

impl Place {
    fn parse(path: &str) -> Self {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let root: Vec<&str> = parts.drain(..if parts[0] == "api" { 2 } else { 3 }).collect();
        let namespaced = parts[0] == "namespaces" && parts.len() >= 3;
        let namespace = if namespaced { parts.drain(..2).nth(1).unwrap_or_default() } else { "" };
        Self {
            collection: format!("{}/{}", root.join("/"), parts[0]),
            namespace: namespace.to_owned(),
            name: parts.get(1).map(|name| (*name).to_owned()),
            status: parts.get(2) == Some(&"status"),
        }
    }

    fn key(&self, name: &str) -> (String, String) {
        (self.collection.clone(), format!("{}/{name}", self.namespace))
    }
}

impl Fake {
    pub(crate) fn new(lag: Duration, refused: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            lag,
            refused,
            lists: Mutex::default(),
            creations: AtomicUsize::new(0),
        })
    }

    /// A client of it.
    pub(crate) fn client(self: &Arc<Self>) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Puts an object there.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.create(&Place::parse(path), object);
    }

    /// The objects of a collection.
    pub(crate) fn list(&self, collection: &str) -> Vec<Value> {
        self.state.lock().objects.iter().filter(|((found, _), _)| found == collection).map(|(_, object)| object.clone()).collect()
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Sent> {
        let (parts, body) = request.into_parts();
        let place = Place::parse(parts.uri.path());
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        match (parts.method, &place.name) {
            (Method::GET, None) if query.contains("watch=true") => self.watch(place.collection, &query),
            (Method::GET, None) => {
                self.lists.lock().push(parts.uri.to_string());
                let version = self.state.lock().version.to_string();
                answer(200, &json!({"metadata": {"resourceVersion": version}, "items": self.list(&place.collection)}))
            }
            (Method::GET, Some(name)) => {
                self.state.lock().objects.get(&place.key(name)).map_or_else(|| failure(404, "NotFound"), |object| answer(200, object))
            }
            (Method::POST, _) => {
                self.creations.fetch_add(1, Ordering::Relaxed);
                if self.refused.is_some_and(|plural| place.collection.ends_with(plural)) {
                    return failure(403, "Forbidden");
                }
                answer(201, &self.create(&place, sent))
            }
            (Method::PUT, Some(name)) => self.update(&place, name, |_| sent),
            (Method::PATCH, Some(name)) => self.update(&place, name, |old| merge(old, sent)),
            (Method::DELETE, Some(name)) => self.delete(&place, name),
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn create(&self, place: &Place, mut object: Value) -> Value {
        let mut state = self.state.lock();
        let serial = state.version + 1;
        let meta = &mut object["metadata"];
        if meta["name"].is_null() {
            meta["name"] = format!("{}{serial}", meta["generateName"].as_str().unwrap_or_default()).into();
        }
        meta["uid"] = format!("uid-{serial}").into();
        meta["generation"] = 1.into();
        meta["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        if !place.namespace.is_empty() {
            meta["namespace"] = place.namespace.clone().into();
        }
        let key = place.key(meta["name"].as_str().unwrap_or_default());
        self.write(&mut state, key, "ADDED", object)
    }

    fn update(&self, place: &Place, name: &str, change: impl FnOnce(Value) -> Value) -> Response<Sent> {
        let mut state = self.state.lock();
        let key = place.key(name);
        let Some(old) = state.objects.get(&key).cloned() else { return failure(404, "NotFound") };
        let mut new = change(old.clone());
        let wanted = &new["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != old["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        if place.status {
            new["spec"] = old["spec"].clone();
        } else if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or_default() + 1).into();
        }
        new["metadata"]["uid"] = old["metadata"]["uid"].clone();
        answer(200, &self.write(&mut state, key, "MODIFIED", new))
    }

    fn delete(&self, place: &Place, name: &str) -> Response<Sent> {
        let mut state = self.state.lock();
        let key = place.key(name);
        let Some(object) = state.objects.get(&key).cloned() else { return failure(404, "NotFound") };
        let object = self.write(&mut state, key.clone(), "DELETED", object);
        state.objects.remove(&key);
        answer(200, &object)
    }

    fn write(&self, state: &mut State, key: (String, String), what: &'static str, mut object: Value) -> Value {
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.log.push((key.0.clone(), what, object.clone()));
        state.objects.insert(key, object.clone());
        self.changed.send_replace(state.version);
        object
    }

    fn watch(self: Arc<Self>, collection: String, query: &str) -> Response<Sent> {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).and_then(|version| version.parse().ok());
        let events = stream::unfold((self.clone(), from.unwrap_or(0), self.changed.subscribe()), move |(fake, mut next, mut changed)| {
            let collection = collection.clone();
            async move {
                loop {
                    let found = fake.state.lock().log.get(next).cloned();
                    match found {
                        Some((of, what, object)) => {
                            next += 1;
                            if of == collection {
                                let line = format!("{}\n", json!({"type": what, "object": object}));
                                return Some((line, (fake, next, changed)));
                            }
                        }
                        None => {
                            changed.changed().await.ok()?;
                            tokio::time::sleep(fake.lag).await;
                        }
                    }
                }
            }
        });
        let frames = events.map(|line| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(line))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// RFC 7386, which is near enough to a strategic merge for maps.
fn merge(mut old: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    for (key, value) in patch {
        if value.is_null() {
            if let Some(map) = old.as_object_mut() {
                map.remove(&key);
            }
        } else {
            old[&key] = merge(old[&key].take(), value);
        }
    }
    old
}

fn answer(code: u16, body: &Value) -> Response<Sent> {
    let mut response = Response::new(Full::from(body.to_string()).boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

fn failure(code: u16, reason: &str) -> Response<Sent> {
    answer(
        code,
        &json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": format!("{reason} by the fake")}),
    )
}
