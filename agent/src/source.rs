//! The pods bound to a node (or to any node of this process), by list and watch. Most events are looked at only as far as needed to see that they
//! are of no concern: decoding a pod is what costs.

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt;
use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiError};
use crate::pods::object::{BoundPod, Glance};

const PAGE: usize = 500;
/// A watch event larger than this is not a pod.
const LINE_LIMIT: usize = 16 << 20;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where pods go.
pub trait Sink: Send + Sync {
    /// A pod as it is now; `decode` gives all of it.
    fn offer(&self, glance: &Glance<'_>, decode: &dyn Fn() -> Result<BoundPod, serde_json::Error>);
    /// A pod is gone from the API server.
    fn gone(&self, node: &str, uid: &str);
    /// These and no others exist now.
    fn synced(&self, uids: &HashSet<String>);
}

/// Which pods are wanted.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those of one node.
    Node(String),
    /// Those of all nodes.
    Bound,
}

impl Selection {
    fn path(&self) -> String {
        match self {
            Self::Node(name) => format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}"),
            Self::Bound => "/api/v1/pods?fieldSelector=spec.nodeName%21%3D".to_owned(),
        }
    }
}

/// Follows the pods until `stop`.
pub async fn run(client: &Client, selection: &Selection, sink: &dyn Sink, stop: &CancellationToken) {
    let mut pause = Duration::ZERO;
    let mut version: Option<String> = None;
    loop {
        let began = tokio::time::Instant::now();
        let round = async {
            let from = match version.take() {
                Some(version) => version,
                None => list(client, selection, sink).await?,
            };
            version = Some(from);
            follow(client, selection, sink, &mut version).await
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = round => ended,
        };
        match ended {
            Ok(()) => pause = Duration::ZERO,
            Err(error) => {
                if error.code == 410 {
                    version = None;
                }
                pause = if began.elapsed() > LONGEST_PAUSE { Duration::ZERO } else { pause };
                pause = (pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE);
                tracing::debug!(code = error.code, %error, ?pause, "pods cannot be watched, trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    more: String,
}

async fn list(client: &Client, selection: &Selection, sink: &dyn Sink) -> Result<String, ApiError> {
    let mut uids = HashSet::new();
    let mut more = String::new();
    loop {
        let path =
            format!("{}&limit={PAGE}{}", selection.path(), if more.is_empty() { String::new() } else { format!("&continue={more}") });
        let bytes = api::call(client, Method::GET, &path, api::JSON, Vec::new()).await?;
        let list: List<'_> = serde_json::from_slice(&bytes).map_err(|e| unreadable(&e))?;
        for item in list.items {
            // As bytes, as in events: code that reads texts would be a second copy of the code that reads pods.
            let item = item.get().as_bytes();
            let glance: Glance<'_> = serde_json::from_slice(item).map_err(|e| unreadable(&e))?;
            uids.insert(glance.uid().to_owned());
            sink.offer(&glance, &|| BoundPod::decode(item));
        }
        if list.metadata.more.is_empty() {
            sink.synced(&uids);
            return Ok(list.metadata.resource_version);
        }
        more = list.metadata.more;
    }
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    ApiError { code: 0, reason: String::new(), message: format!("the answer is not a list of pods: {error}") }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: Glance<'a>,
}

#[derive(Deserialize)]
struct Whole {
    object: BoundPod,
}

#[derive(Deserialize)]
struct Failure {
    object: FailureStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FailureStatus {
    code: u16,
    reason: String,
    message: String,
}

/// Reads watch events until the stream ends; `version` is where to go on from.
async fn follow(client: &Client, selection: &Selection, sink: &dyn Sink, version: &mut Option<String>) -> Result<(), ApiError> {
    let from = version.clone().unwrap_or_default();
    let path = format!("{}&watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds=540", selection.path());
    let mut body = api::open(client, Method::GET, &path, api::JSON, Vec::new()).await?.into_body();
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError { code: 0, reason: String::new(), message: e.to_string() })?;
        let Some(data) = frame.data_ref() else { continue };
        // Servers usually send one event per frame: then nothing is copied.
        if buffer.is_empty() && data.ends_with(b"\n") {
            for line in data.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                event(line, sink, version)?;
            }
            continue;
        }
        let scanned = buffer.len();
        buffer.extend_from_slice(data);
        let mut start = scanned;
        while let Some(end) = buffer[start..].iter().position(|b| *b == b'\n').map(|at| at + start) {
            let line = buffer.split_to(end + 1);
            start = 0;
            if line.len() > 1 {
                event(&line[..line.len() - 1], sink, version)?;
            }
        }
        if buffer.len() > LINE_LIMIT {
            return Err(ApiError { code: 0, reason: String::new(), message: "a watch event has no end".to_owned() });
        }
    }
    Ok(())
}

fn event(line: &[u8], sink: &dyn Sink, version: &mut Option<String>) -> Result<(), ApiError> {
    let parsed: Line<'_> = match serde_json::from_slice(line) {
        Ok(parsed) => parsed,
        Err(error) => {
            let failure = serde_json::from_slice::<Failure>(line).map(|f| f.object).unwrap_or_default();
            let message = if failure.message.is_empty() { format!("a watch event cannot be read: {error}") } else { failure.message };
            return Err(ApiError { code: failure.code, reason: failure.reason, message });
        }
    };
    match parsed.kind {
        "ADDED" | "MODIFIED" => sink.offer(&parsed.object, &|| serde_json::from_slice::<Whole>(line).map(|w| w.object.normalized())),
        "DELETED" => sink.gone(parsed.object.node(), parsed.object.uid()),
        "BOOKMARK" => {}
        _ => {
            let failure = serde_json::from_slice::<Failure>(line).map(|f| f.object).unwrap_or_default();
            return Err(ApiError { code: failure.code, reason: failure.reason, message: failure.message });
        }
    }
    if !parsed.object.resource_version().is_empty() {
        *version = Some(parsed.object.resource_version().to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Sink for Seen {
        fn offer(&self, glance: &Glance<'_>, decode: &dyn Fn() -> Result<BoundPod, serde_json::Error>) {
            let pod = decode().expect("decodes");
            self.0.lock().push(format!("{} {} on {}", glance.uid(), pod.metadata.name, glance.node()));
        }
        fn gone(&self, _node: &str, uid: &str) {
            self.0.lock().push(format!("{uid} gone"));
        }
        fn synced(&self, _uids: &HashSet<String>) {}
    }

    #[test]
    fn events_are_told_apart_and_move_the_version_on() {
        let sink = Seen::default();
        let mut version = None;
        for line in [
            r#"{"type":"ADDED","object":{"metadata":{"name":"p","uid":"u","resourceVersion":"5"},"spec":{"nodeName":"n","containers":[]}}}"#,
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"8"}}}"#,
            r#"{"type":"DELETED","object":{"metadata":{"name":"p","uid":"u","resourceVersion":"9"},"spec":{"nodeName":"n"}}}"#,
        ] {
            event(line.as_bytes(), &sink, &mut version).expect("understood");
        }
        assert_eq!(*sink.0.lock(), ["u p on n", "u gone"]);
        assert_eq!(version.as_deref(), Some("9"));
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        assert_eq!(event(gone.as_bytes(), &sink, &mut version).map_err(|e| e.code), Err(410));
    }
}
