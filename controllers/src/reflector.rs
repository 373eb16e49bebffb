//! Keeps a [`Store`] equal to the server's collection: list once in pages, then watch, and list again only when the server
//! no longer has the history (410).

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{ListParams, WatchParams},
    },
};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{object::Kind, store::Store};

/// Objects per page of a list: bounds the memory of a start on a large cluster.
const PAGE: u32 = 500;
/// How long one watch lasts, and how much longer we wait for its end before we call it dead.
const WATCH: Duration = Duration::from_secs(290);
const GRACE: Duration = Duration::from_secs(15);
/// Back-off between attempts.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

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

/// Runs until `stop`.
pub async fn run<K: Kind>(store: Arc<Store<K>>, client: Client, stop: CancellationToken) {
    let mut pause = FIRST;
    while !stop.is_cancelled() {
        let worked = tokio::select! {
            () = stop.cancelled() => return,
            result = follow(&store, &client) => result,
        };
        pause = match worked {
            Ok(()) => FIRST,
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                // The server does not serve this kind (yet): for its readers there are no objects of it.
                store.replace(Vec::new(), 0);
                LONGEST
            }
            Err(error) => {
                tracing::warn!(kind = %K::RESOURCE.kind, %error, retry_in = ?pause, "cannot list");
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
async fn follow<K: Kind>(store: &Store<K>, client: &Client) -> Result<(), kube::Error> {
    let mut version = list(store, client).await?;
    let mut pause = FIRST;
    loop {
        let began = Instant::now();
        match watch(store, client, &mut version).await {
            Ok(End::Again) => {}
            Ok(End::Gone) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 410 || status.is_not_found() => return Ok(()),
            Err(error) => tracing::debug!(kind = %K::RESOURCE.kind, %error, "watch ended"),
        }
        if began.elapsed() > LONGEST {
            pause = FIRST;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

async fn list<K: Kind>(store: &Store<K>, client: &Client) -> Result<String, kube::Error> {
    let request = Request::new(K::RESOURCE.path(""));
    let mut params = ListParams::default().limit(PAGE);
    params.field_selector = K::FIELDS.map(str::to_owned);
    let mut objects = Vec::new();
    loop {
        let call = if K::METADATA_ONLY { request.list_metadata(&params) } else { request.list(&params) };
        let page: List<K> = client.request(call.map_err(kube::Error::BuildRequest)?).await?;
        objects.extend(page.items.unwrap_or_default().into_iter().map(|mut object| {
            object.trim();
            object
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let version = page.metadata.resource_version.unwrap_or_default();
                store.replace(objects, version.parse().unwrap_or_default());
                return Ok(version);
            }
        }
    }
}

async fn watch<K: Kind>(store: &Store<K>, client: &Client, version: &mut String) -> Result<End, kube::Error> {
    let request = Request::new(K::RESOURCE.path(""));
    let mut params = WatchParams::default().timeout(u32::try_from(WATCH.as_secs()).unwrap_or(290));
    params.field_selector = K::FIELDS.map(str::to_owned);
    let call = if K::METADATA_ONLY { request.watch_metadata(&params, version) } else { request.watch(&params, version) };
    let deadline = Instant::now() + WATCH + GRACE;
    let mut events = std::pin::pin!(client.request_events::<K>(call.map_err(kube::Error::BuildRequest)?).await?);
    loop {
        let event: Result<Option<WatchEvent<K>>, kube::Error> = match tokio::time::timeout_at(deadline, events.try_next()).await {
            Ok(event) => event,
            Err(_) => return Ok(End::Again),
        };
        let Some(event) = event? else { return Ok(End::Again) };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                object.resource_version().clone_into(version);
                store.put(object);
            }
            WatchEvent::Deleted(object) => {
                object.resource_version().clone_into(version);
                store.remove(&object, object.resource_version().parse().unwrap_or_default());
            }
            WatchEvent::Bookmark(bookmark) => {
                store.advance(bookmark.metadata.resource_version.parse().unwrap_or_default());
                *version = bookmark.metadata.resource_version;
            }
            WatchEvent::Error(status) if status.code == 410 => return Ok(End::Gone),
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
}
