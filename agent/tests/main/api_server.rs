//! As much of an API server as the agent talks to: pods with watch and status patches, nodes, leases, events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// Collection, name of the one object wanted, where to.
type Watch = (String, Option<String>, mpsc::UnboundedSender<Bytes>);

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    watches: Vec<Watch>,
    requests: Vec<String>,
    events: Vec<(String, String)>,
}

/// The server; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl ApiServer {
    /// A client whose transport is this server.
    pub(crate) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Creates or replaces an object and tells the watches.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.tell(path, kind, &object);
        state.objects.insert(path.to_owned(), object);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Creates a pod with the given spec and metadata fields merged in.
    pub(crate) fn pod(&self, name: &str, node: &str, spec: &Value) {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
            "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app:1"}]},
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        });
        merge(&mut object["spec"], spec);
        self.put(&pod_path(name), object);
    }

    /// Marks a pod as being deleted with a grace period.
    pub(crate) fn delete_gracefully(&self, name: &str, seconds: i64) {
        let mut pod = self.get(&pod_path(name)).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(seconds);
        self.put(&pod_path(name), pod);
    }

    /// An object.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Waits until the condition holds for an object (or its absence).
    pub(crate) async fn wait_for(&self, path: &str, holds: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let limit = tokio::time::timeout(std::time::Duration::from_secs(600), async {
            loop {
                let changed = self.changed.notified();
                let now = self.get(path);
                if holds(now.as_ref()) {
                    return now;
                }
                changed.await;
            }
        });
        match limit.await {
            Ok(found) => found,
            Err(_) => panic!("{path} never became so; it is {:#?}, requests {:#?}", self.get(path), self.requests("")),
        }
    }

    /// Waits for a pod's status.
    pub(crate) async fn wait_for_pod(&self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(&pod_path(name), |pod| pod.is_some_and(|p| holds(&p["status"]))).await.unwrap()
    }

    /// Requests whose line (`METHOD path`) contains `part`.
    pub(crate) fn requests(&self, part: &str) -> Vec<String> {
        self.state.lock().requests.iter().filter(|line| line.contains(part)).cloned().collect()
    }

    /// Reasons of the events about an object, in order.
    pub(crate) fn events(&self, name: &str) -> Vec<String> {
        self.state.lock().events.iter().filter(|(object, _)| object == name).map(|(_, reason)| reason.clone()).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        self.state.lock().requests.push(format!("{} {path}", parts.method));
        match parts.method {
            Method::GET if query.contains("watch=") => self.watch(&path, named(&query)),
            Method::GET => self.read(&path, named(&query).as_deref()),
            Method::POST => self.create(&path, body),
            Method::PATCH => self.patch(&path, &body),
            Method::DELETE => self.remove(&path),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn read(&self, path: &str, name: Option<&str>) -> Answer {
        let state = self.state.lock();
        if let Some(object) = state.objects.get(path) {
            return answer(StatusCode::OK, object);
        }
        let under = format!("{path}/");
        let everywhere = path.rsplit_once('/').map(|(group, kind)| (format!("{group}/namespaces/"), format!("/{kind}/"))).unwrap();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(at, _)| at.starts_with(&under) || at.starts_with(&everywhere.0) && at.contains(&everywhere.1))
            .map(|(_, object)| object)
            .filter(|object| name.is_none() || object["metadata"]["name"].as_str() == name)
            .collect();
        let last = path.rsplit('/').next().unwrap();
        if items.is_empty() && !last.ends_with('s') {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}, "items": items});
        answer(StatusCode::OK, &list)
    }

    fn watch(&self, path: &str, name: Option<String>) -> Answer {
        let (tx, rx) = mpsc::unbounded();
        self.state.lock().watches.push((path.to_owned(), name, tx));
        let frames = rx.map(|line| Ok::<_, Infallible>(Frame::data(line)));
        Response::new(BoxBody::new(StreamBody::new(sync(frames))))
    }

    fn create(&self, path: &str, body: Value) -> Answer {
        if path.ends_with("/events") {
            let name = body["involvedObject"]["name"].as_str().unwrap_or_default().to_owned();
            let reason = body["reason"].as_str().unwrap_or_default().to_owned();
            self.state.lock().events.push((name, reason));
            return answer(StatusCode::CREATED, &body);
        }
        if let Some(account) = path.strip_suffix("/token") {
            let pod = body["spec"]["boundObjectRef"]["name"].as_str().unwrap();
            let token = format!("token-of-{}-for-{pod}", account.rsplit('/').next().unwrap());
            return answer(StatusCode::CREATED, &json!({"status": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}}));
        }
        if path.ends_with("/subjectaccessreviews") {
            let allowed = body["spec"]["user"] == "friend";
            return answer(StatusCode::CREATED, &json!({"status": {"allowed": allowed}}));
        }
        let at = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
        if self.get(&at).is_some() {
            return failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        self.put(&at, body);
        answer(StatusCode::CREATED, &self.get(&at).unwrap())
    }

    fn patch(&self, path: &str, change: &Value) -> Answer {
        let at = path.strip_suffix("/status").unwrap_or(path);
        let Some(mut object) = self.get(at) else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        merge(&mut object, change);
        self.put(at, object.clone());
        answer(StatusCode::OK, &object)
    }

    fn remove(&self, path: &str) -> Answer {
        let mut state = self.state.lock();
        let Some(object) = state.objects.remove(path) else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        state.version += 1;
        state.tell(path, "DELETED", &object);
        drop(state);
        self.changed.notify_waiters();
        answer(StatusCode::OK, &object)
    }
}

impl State {
    fn tell(&mut self, path: &str, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"));
        let collection = path.rsplit_once('/').map_or("", |(collection, _)| collection).to_owned();
        let everywhere =
            collection.split_once("/namespaces/").map(|(group, rest)| format!("{group}/{}", rest.split_once('/').map_or("", |r| r.1)));
        let own = object["metadata"]["name"].as_str().map(str::to_owned);
        self.watches.retain(|(watched, name, tx)| {
            let meant = (*watched == collection || Some(watched) == everywhere.as_ref()) && (name.is_none() || *name == own);
            !meant || tx.unbounded_send(line.clone()).is_ok()
        });
    }
}

/// The name a field selector asks for.
fn named(query: &str) -> Option<String> {
    let (_, rest) = query.split_once("metadata.name%3D")?;
    rest.split('&').next().map(str::to_owned)
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

fn answer(code: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(BoxBody::new(Full::new(Bytes::from(body.to_string()))));
    *response.status_mut() = code;
    response
}

fn failure(code: StatusCode, reason: &str) -> Answer {
    answer(code, &json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": reason}))
}

/// Strategic merge, as far as status needs it: conditions by type, addresses by address, the rest as JSON merge.
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in change {
        let by = match key.as_str() {
            "conditions" => Some("type"),
            "podIPs" | "hostIPs" => Some("ip"),
            _ => None,
        };
        match (value, by) {
            (Value::Null, _) => {
                target.as_object_mut().unwrap().remove(key);
            }
            (Value::Array(items), Some(by)) => merge_list(&mut target[key], items, by),
            _ => merge(&mut target[key], value),
        }
    }
}

fn merge_list(target: &mut Value, items: &[Value], by: &str) {
    if !target.is_array() {
        *target = json!([]);
    }
    let list = target.as_array_mut().unwrap();
    for item in items {
        let found = list.iter().position(|old| old[by] == item[by]);
        match (found, item["$patch"].as_str()) {
            (Some(at), Some("delete")) => {
                list.remove(at);
            }
            (_, Some(_)) => {}
            (Some(at), None) => merge(&mut list[at], item),
            (None, None) => list.push(item.clone()),
        }
    }
}

/// `StreamBody` in a `BoxBody` has to be `Sync`.
fn sync<S: Stream + Send + Unpin>(stream: S) -> SyncStream<S> {
    SyncStream(Mutex::new(stream))
}

struct SyncStream<S>(Mutex<S>);

impl<S: Stream + Unpin> Stream for SyncStream<S> {
    type Item = S::Item;
    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<S::Item>> {
        self.get_mut().0.get_mut().poll_next_unpin(cx)
    }
}
