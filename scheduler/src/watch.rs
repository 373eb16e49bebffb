//! A list and a watch that never end: every object as it is now, then every change, through failures and expired revisions.

use std::{collections::HashMap, time::Duration};

use futures::{AsyncBufReadExt, TryStreamExt, pin_mut};
use kube::{Client, core::Status};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::view::{Metadata, Watched};

/// One change of a watched object.
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// It is there, like this.
    Applied(T),
    /// It is gone.
    Deleted {
        /// Its uid.
        uid: String,
        /// Its name.
        name: String,
    },
    /// Everything that was there at the start has been told.
    Synced,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// Follows one resource into `out` until the receiver is dropped. Falls behind only as far as the channel's bound.
pub(crate) async fn follow<T: Watched>(client: Client, out: mpsc::Sender<Change<T>>) {
    let mut known = HashMap::new();
    let mut backoff = FIRST_BACKOFF;
    loop {
        match list_and_watch(&client, &out, &mut known, &mut backoff).await {
            Ok(()) => return,
            Err(kube::Error::SerdeError(error)) => tracing::warn!(path = T::PATH, %error, "cannot read what changed"),
            Err(error) => tracing::debug!(path = T::PATH, %error, "watch ended, starting over"),
        }
        if out.is_closed() {
            return;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

#[derive(Deserialize)]
struct List<T> {
    metadata: Metadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// One line of a watch. `kube`'s own type would read every kind in a second way, for objects that stand before their type.
#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    what: What,
    object: T,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy, Debug)]
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

/// Reads JSON in which null is absence, as it is to Go: upstream's types write it for empty lists and for the zero time.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| {
        let mut value: Value = serde_json::from_str(text)?;
        drop_nulls(&mut value);
        serde_json::from_value(value).map_err(|_| error)
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn event<T: Watched>(line: &str) -> Result<Event<T>, kube::Error> {
    match read::<Event<T>>(line) {
        Ok(event) if event.what != What::Error => Ok(event),
        // A view may or may not be able to read a Status.
        unread => Err(match (serde_json::from_str::<Failure>(line), unread) {
            (Ok(failure), _) => kube::Error::Api(Box::new(failure.object)),
            (Err(_), Err(error)) | (Err(error), Ok(_)) => kube::Error::SerdeError(error),
        }),
    }
}

/// `Ok` when nobody listens any more.
async fn list_and_watch<T: Watched>(
    client: &Client,
    out: &mpsc::Sender<Change<T>>,
    // uid -> name of all that was told and not taken back.
    known: &mut HashMap<String, String>,
    backoff: &mut Duration,
) -> Result<(), kube::Error> {
    // resourceVersion=0: whatever the server has at hand; the watch brings the rest.
    let list = client.request_text(get(&format!("{}?resourceVersion=0", T::PATH))).await?;
    let list: List<T> = read(&list).map_err(kube::Error::SerdeError)?;
    let mut gone = std::mem::take(known);
    for item in list.items {
        gone.remove(&item.metadata().uid);
        known.insert(item.metadata().uid.clone(), item.metadata().name.clone());
        if out.send(Change::Applied(item)).await.is_err() {
            return Ok(());
        }
    }
    for (uid, name) in gone {
        if out.send(Change::Deleted { uid, name }).await.is_err() {
            return Ok(());
        }
    }
    if out.send(Change::Synced).await.is_err() {
        return Ok(());
    }
    let mut version = list.metadata.resource_version;
    loop {
        let path = format!("{}?watch=true&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={version}", T::PATH);
        let lines = client.request_stream(get(&path)).await?;
        *backoff = FIRST_BACKOFF;
        pin_mut!(lines);
        let mut lines = lines.lines();
        while let Some(line) = lines.try_next().await.map_err(kube::Error::ReadEvents)? {
            let Event { what, object } = event::<T>(&line)?;
            version.clone_from(&object.metadata().resource_version);
            let Metadata { uid, name, .. } = object.metadata();
            let change = match what {
                What::Added | What::Modified => {
                    known.insert(uid.clone(), name.clone());
                    Change::Applied(object)
                }
                What::Deleted => {
                    known.remove(uid);
                    Change::Deleted { uid: uid.clone(), name: name.clone() }
                }
                What::Bookmark | What::Error => continue,
            };
            if out.send(change).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn get(path: &str) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(Vec::new());
    // Our own constant paths and decimal revisions always parse; a foreign revision that does not is answered 404 by the server.
    *request.uri_mut() = path.parse().unwrap_or_default();
    // Compressed, events would wait for one another.
    request.headers_mut().insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Node, Pod};

    #[test]
    fn null_is_absence_wherever_it_stands() {
        let pod = r#"{"metadata":{"name":"a","uid":"1","resourceVersion":"7","labels":null,"deletionTimestamp":null},
            "spec":{"containers":[{"resources":{"requests":null},"ports":null}],"initContainers":null,"nodeName":null,"tolerations":null},"status":null}"#;
        let line = format!(r#"{{"type":"MODIFIED","object":{pod}}}"#);
        let changed = event::<Pod>(&line).unwrap();
        assert_eq!((changed.what, changed.object.spec.containers.len()), (What::Modified, 1));
        let mark =
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","creationTimestamp":null},"spec":{"containers":null}}}"#;
        assert_eq!(event::<Pod>(mark).unwrap().object.metadata.resource_version, "9");
        let list: List<Pod> = read(&format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{pod}]}}"#)).unwrap();
        assert_eq!(list.items[0].metadata.name, "a");
        let node =
            r#"{"type":"ADDED","object":{"metadata":{"name":"n"},"spec":{"taints":null},"status":{"images":null,"allocatable":null}}}"#;
        assert_eq!(event::<Node>(node).unwrap().object.metadata.name, "n");
        assert!(matches!(event::<Pod>("{"), Err(kube::Error::SerdeError(_))));
    }

    #[test]
    fn a_status_is_an_error_whatever_the_view_makes_of_it() {
        let line =
            r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"code":410,"reason":"Expired","message":"old"}}"#;
        assert!(matches!(event::<Pod>(line), Err(kube::Error::Api(status)) if status.code == 410));
    }
}
