//! Keeps a [`Sink`] equal to the server's collection: list once in pages, then watch, and list again only when the server
//! no longer has the history (410).

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::TryStreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{ListParams, WatchParams},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
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
        if self.metadata_only { request.watch_metadata(&params, version) } else { request.watch(&params, version) }
            .map_err(kube::Error::BuildRequest)
    }
}

#[derive(Deserialize)]
struct List<K> {
    #[serde(default)]
    metadata: ListMeta,
    // A list without items may be sent as null.
    items: Option<Vec<K>>,
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
            Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 405 => {
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
            Err(kube::Error::Api(status)) if status.code == 410 || status.is_not_found() => return Ok(()),
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
        let page: List<K> = client.request(collection.list(after)?).await?;
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
    let mut events = std::pin::pin!(client.request_events::<K>(collection.watch(version)?).await?);
    loop {
        let event: Result<Option<WatchEvent<K>>, kube::Error> = match tokio::time::timeout_at(deadline, events.try_next()).await {
            Ok(event) => event,
            Err(_) => return Ok(End::Again),
        };
        let Some(event) = event? else { return Ok(End::Again) };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                object.resource_version().clone_into(version);
                sink.put(object);
            }
            WatchEvent::Deleted(object) => {
                object.resource_version().clone_into(version);
                sink.remove(&object, object.resource_version().parse().unwrap_or_default());
            }
            WatchEvent::Bookmark(bookmark) => {
                sink.advance(bookmark.metadata.resource_version.parse().unwrap_or_default());
                *version = bookmark.metadata.resource_version;
            }
            WatchEvent::Error(status) if status.code == 410 => return Ok(End::Gone),
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
}
