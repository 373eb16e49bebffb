//! Keeps a [`Sink`] equal to the server's collection: list once in pages, then watch, and list again only when the server
//! no longer has the history (410).

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{AsyncBufReadExt, TryStreamExt};
use http::{HeaderValue, header::ACCEPT_ENCODING};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{
    Client,
    core::{
        Request, Status,
        params::{ListParams, WatchParams},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    object::{Kind, Object, Resource},
    store::Store,
};

/// Objects per page of a list: bounds the memory of a start on a large cluster.
const PAGE: u32 = 500;
/// Seconds one watch lasts, and how much longer we wait for its end before we call it dead.
const WATCH_SECONDS: u32 = 290;
const GRACE: Duration = Duration::from_secs(15);
/// Back-off between attempts.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// Go's zero time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Where a reflector puts what it reads.
pub trait Sink<K>: Send + Sync {
    /// Takes the whole of the collection as read at `version`.
    fn replace(&self, objects: Vec<K>, version: u64);
    /// Takes one new or changed object.
    fn put(&self, object: K);
    /// Takes one deletion, seen at `version`.
    fn remove(&self, object: &K, version: u64);
    /// All changes up to `version` are in.
    fn advance(&self, version: u64);
}

impl<K: Kind> Sink<K> for Store<K> {
    fn replace(&self, objects: Vec<K>, version: u64) {
        self.replace(objects, version);
    }
    fn put(&self, object: K) {
        self.put(object);
    }
    fn remove(&self, object: &K, version: u64) {
        self.remove(object, version);
    }
    fn advance(&self, version: u64) {
        self.advance(version);
    }
}

/// What is read.
#[derive(Clone, Debug)]
pub struct Collection {
    /// The kind.
    pub resource: Resource,
    /// Only the objects this field selector chooses.
    pub fields: Option<&'static str>,
    /// Only their metadata.
    pub metadata_only: bool,
}

impl Collection {
    /// All objects of a kind, in all namespaces.
    #[must_use]
    pub fn of<K: Kind>() -> Self {
        Self { resource: K::RESOURCE, fields: K::FIELDS, metadata_only: false }
    }

    fn list(&self, after: Option<String>) -> Result<http::Request<Vec<u8>>, kube::Error> {
        let request = Request::new(self.resource.path(""));
        let mut params = ListParams::default().limit(PAGE);
        (params.field_selector, params.continue_token) = (self.fields.map(str::to_owned), after);
        if self.metadata_only { request.list_metadata(&params) } else { request.list(&params) }.map_err(kube::Error::BuildRequest)
    }

    fn watch(&self, version: &str) -> Result<http::Request<Vec<u8>>, kube::Error> {
        let request = Request::new(self.resource.path(""));
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector = self.fields.map(str::to_owned);
        let mut request = if self.metadata_only { request.watch_metadata(&params, version) } else { request.watch(&params, version) }
            .map_err(kube::Error::BuildRequest)?;
        // Compressed, events would wait for one another.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(request)
    }
}

#[derive(Deserialize)]
struct List<K> {
    #[serde(default)]
    metadata: ListMeta,
    // A list without items may be sent as null.
    items: Option<Vec<K>>,
}

/// One line of a watch. `kube`'s own type would read every kind in a second way, for objects that stand before their type.
#[derive(Deserialize)]
struct Event<K> {
    #[serde(rename = "type")]
    what: What,
    object: K,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "UPPERCASE")]
enum What {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// A line whose object is a Status.
#[derive(Deserialize)]
struct Failure {
    object: Status,
}

/// Reads JSON in which null is absence, as it is to Go: upstream's types write it for empty lists and for the zero time, even where the
/// published schema has no null. The generated types take it for some of these only.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| {
        let mut value: Value = serde_json::from_str(text)?;
        drop_nulls(&mut value);
        // As text again, although it is a tree: reading from trees, too, would be a second copy of the code of every type.
        serde_json::from_str(&value.to_string()).map_err(|_| error)
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            // The one time that must be there, and is zero when its writer set none (`metav1.Condition`).
            if let Some(at) = members.get_mut("lastTransitionTime").filter(|at| at.is_null()) {
                *at = ZERO_TIME.into();
            }
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn event<K: DeserializeOwned>(line: &str) -> Result<Event<K>, kube::Error> {
    match read::<Event<K>>(line) {
        Ok(event) if event.what != What::Error => Ok(event),
        Ok(_) => Err(failure(line).unwrap_or_else(kube::Error::SerdeError)),
        Err(error) => Err(failure(line).unwrap_or(kube::Error::SerdeError(error))),
    }
}

fn failure(line: &str) -> Result<kube::Error, serde_json::Error> {
    serde_json::from_str::<Failure>(line).map(|failure| kube::Error::Api(Box::new(failure.object)))
}

/// How one watch ended.
enum End {
    /// Time is up, or the connection broke: watch again from the last version.
    Again,
    /// The history is gone: list again.
    Gone,
}

/// Reads `collection` into `sink` until `stop`.
pub async fn run<K, S>(collection: Collection, sink: Arc<S>, client: Client, stop: CancellationToken)
where
    K: Object + DeserializeOwned + Clone + Debug,
    S: Sink<K>,
{
    let mut pause = FIRST;
    while !stop.is_cancelled() {
        let worked = tokio::select! {
            () = stop.cancelled() => return,
            result = follow::<K, S>(&collection, &sink, &client) => result,
        };
        pause = match worked {
            Ok(()) => FIRST,
            // Where a kind was that is gone, the answer is plain text: the code is all there is to go by.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {
                // The server does not serve this kind (yet): for its readers there are no objects of it.
                sink.replace(Vec::new(), 0);
                LONGEST
            }
            Err(error) => {
                tracing::warn!(kind = %collection.resource.kind, %error, retry_in = ?pause, "cannot list");
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// Lists, then watches for as long as the history holds.
async fn follow<K, S>(collection: &Collection, sink: &S, client: &Client) -> Result<(), kube::Error>
where
    K: Object + DeserializeOwned + Clone + Debug,
    S: Sink<K>,
{
    let mut version = list(collection, sink, client).await?;
    let mut pause = FIRST;
    loop {
        let began = Instant::now();
        match watch(collection, sink, client, &mut version).await {
            Ok(End::Again) => {}
            Ok(End::Gone) => return Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 410) => return Ok(()),
            Err(kube::Error::SerdeError(error)) => tracing::warn!(kind = %collection.resource.kind, %error, "cannot read what changed"),
            Err(error) => tracing::debug!(kind = %collection.resource.kind, %error, "watch ended"),
        }
        if began.elapsed() > LONGEST {
            pause = FIRST;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

async fn list<K, S>(collection: &Collection, sink: &S, client: &Client) -> Result<String, kube::Error>
where
    K: DeserializeOwned,
    S: Sink<K>,
{
    let (mut objects, mut after) = (Vec::new(), None);
    loop {
        let page: List<K> = read(&client.request_text(collection.list(after)?).await?).map_err(kube::Error::SerdeError)?;
        objects.extend(page.items.unwrap_or_default());
        after = page.metadata.continue_.filter(|token| !token.is_empty());
        if after.is_none() {
            let version = page.metadata.resource_version.unwrap_or_default();
            sink.replace(objects, version.parse().unwrap_or_default());
            return Ok(version);
        }
    }
}

async fn watch<K, S>(collection: &Collection, sink: &S, client: &Client, version: &mut String) -> Result<End, kube::Error>
where
    K: Object + DeserializeOwned + Clone + Debug,
    S: Sink<K>,
{
    let deadline = Instant::now() + Duration::from_secs(WATCH_SECONDS.into()) + GRACE;
    let stream = std::pin::pin!(client.request_stream(collection.watch(version)?).await?);
    let mut lines = stream.lines();
    loop {
        let line = match tokio::time::timeout_at(deadline, lines.try_next()).await {
            Ok(line) => line.map_err(kube::Error::ReadEvents)?,
            Err(_) => return Ok(End::Again),
        };
        let Some(line) = line else { return Ok(End::Again) };
        let Event { what, object } = match event::<K>(&line) {
            Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Gone),
            event => event?,
        };
        object.resource_version().clone_into(version);
        let number = object.resource_version().parse().unwrap_or_default();
        match what {
            What::Bookmark => sink.advance(number),
            What::Deleted => sink.remove(&object, number),
            _ => sink.put(object),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Service};

    use super::*;

    #[test]
    fn an_event_is_read_in_any_order_and_an_error_is_one_even_of_a_status_that_looks_like_the_kind() {
        for line in [
            r#"{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"7"}}}"#,
            r#"{"object":{"metadata":{"name":"a","resourceVersion":"7"}},"type":"ADDED"}"#,
        ] {
            let event = event::<ConfigMap>(line).unwrap();
            assert_eq!((event.what, event.object.resource_version()), (What::Added, "7"));
        }
        for kind in [r#""kind":"Status","apiVersion":"v1","#, ""] {
            let line = format!(r#"{{"type":"ERROR","object":{{{kind}"metadata":{{}},"code":410,"reason":"Expired","message":"old"}}}}"#);
            assert!(matches!(event::<ConfigMap>(&line), Err(kube::Error::Api(status)) if status.code == 410));
        }
        assert!(matches!(event::<ConfigMap>("{"), Err(kube::Error::SerdeError(_))));
    }

    #[test]
    fn null_is_absence_wherever_it_stands() {
        let condition = r#"{"type":"Ready","status":"True","reason":"a","message":"b","lastTransitionTime":null}"#;
        let service = format!(r#"{{"metadata":{{"name":"a","resourceVersion":"7"}},"status":{{"conditions":[{condition}]}}}}"#);
        let line = format!(r#"{{"type":"MODIFIED","object":{service}}}"#);
        let changed = event::<Service>(&line).unwrap();
        assert_eq!((changed.what, changed.object.resource_version()), (What::Modified, "7"));
        let mark =
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","creationTimestamp":null},"spec":{"containers":null}}}"#;
        assert_eq!(event::<crate::pod::Pod>(mark).unwrap().object.resource_version(), "9");
        let page: List<Service> = read(&format!(r#"{{"metadata":{{}},"items":[{service}]}}"#)).unwrap();
        assert_eq!(page.items.unwrap().len(), 1);
    }
}
