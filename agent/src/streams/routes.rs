//! From a request to who answers it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::auth::{self, Identity};
use super::{Answer, State, exec, logs, port_forward, stats, text, with_type};
use crate::pods::registry::{ContainerRef, PodHandle, PodView};

/// A parsed query string; keys may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// Whether one of the names is there and true (`1`, `true`).
    pub(crate) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true")))
    }
}

/// Percent-decoding as in forms.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Answers one request.
pub(crate) async fn answer(state: &Arc<State>, identity: Option<&Identity>, request: Request<Incoming>) -> Answer {
    let path = decode(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let Some(identity) = identity else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    let target = match parts.as_slice() {
        ["containerLogs" | "exec" | "attach" | "portForward", namespace, pod, ..] => state.directory.find(namespace, pod),
        _ => None,
    };
    let node = target.as_ref().map_or_else(|| some_node(state), |pod| pod.context.options.node_name.clone());
    if !auth::allows(state, identity, request.method(), &path, &node).await {
        let what = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])",
            identity.user,
            request.method().as_str().to_lowercase(),
            auth::subresource(&path)
        );
        return text(StatusCode::FORBIDDEN, what);
    }
    match parts.as_slice() {
        ["healthz", ..] => text(StatusCode::OK, "ok"),
        ["pods"] => with_type(StatusCode::OK, "application/json", stats::pods(state)),
        ["metrics"] => with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", stats::metrics(state)),
        ["stats", "summary"] => with_type(StatusCode::OK, "application/json", stats::summary(state, query.get("node")).await),
        ["containerLogs", _, name, container] => match find(target, name, container, None) {
            Ok((pod, view, found)) => logs::answer(state, &pod, &view, &found, &query).await,
            Err(answer) => *answer,
        },
        // The uid between pod and container is optional.
        ["exec", _, name, container] => exec::exec(state, find(target, name, container, None), &query, request).await,
        ["exec", _, name, uid, container] => exec::exec(state, find(target, name, container, Some(uid)), &query, request).await,
        ["attach", _, name, container] => exec::attach(state, find(target, name, container, None), &query, request).await,
        ["attach", _, name, uid, container] => exec::attach(state, find(target, name, container, Some(uid)), &query, request).await,
        ["portForward", _, name] | ["portForward", _, name, _] => match target {
            Some(pod) => port_forward::answer(state, &pod, &query, request),
            None => text(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")),
        },
        _ => text(StatusCode::NOT_FOUND, Bytes::from_static(b"404 page not found\n")),
    }
}

pub(crate) type Found = Result<(Arc<PodHandle>, PodView, ContainerRef), Box<Answer>>;

fn find(target: Option<Arc<PodHandle>>, name: &str, container: &str, uid: Option<&str>) -> Found {
    let missing = |words: String| Err(Box::new(text(StatusCode::NOT_FOUND, words)));
    let Some(pod) = target.filter(|pod| uid.is_none_or(|uid| uid == pod.uid)) else {
        return missing(format!("pod \"{name}\" does not exist"));
    };
    let view = pod.view();
    match view.containers.iter().find(|c| c.name == container).cloned() {
        Some(found) => Ok((pod, view, found)),
        None => missing(format!("container \"{container}\" not found in pod \"{name}\"")),
    }
}

fn some_node(state: &State) -> String {
    state.directory.list(None).first().map(|pod| pod.context.options.node_name.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_repeat_keys_and_decode() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20%26+b&tty=1&input=true&x=%zz");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a & b"]);
        assert!(query.flag(&["tty"]) && query.flag(&["stdin", "input"]) && !query.flag(&["error"]));
        assert_eq!(query.get("x"), Some("%zz"));
    }
}
