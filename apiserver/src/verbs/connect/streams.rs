//! `log`, and the streams that leave HTTP: `exec`, `attach`, `portforward` (kube-apiserver `registry/core/pod/{strategy,rest}`).

use std::sync::Arc;

use bytes::Bytes;
use coracle_schema::FieldErrors;
use coracle_store::cache::Freshness;
use coracle_tree::Value;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::agent::{Over, Target, failure, kept, passed_on};
use crate::{
    authn::bearer,
    registry::{Kind, Object},
    request::{Query, RequestInfo},
    verbs::{Api, Call},
    wire::{Answer, Status, answer, status::Subject, tunnel},
};

/// Query of a log request: our name is the agent's, too.
const LOG: [&str; 9] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream", "insecureSkipTLSVerifyBackend"];

/// Where containers are listed in a pod.
const CONTAINERS: [&str; 3] = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];

/// The log of a container, as the agent sends it.
pub(super) async fn log(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    check_log(&call.query, &call.info.name)?;
    let pod = pod(api, call, kind).await?;
    let container = container(&pod, call.query.text("container"))?;
    let (namespace, name) = (pod.namespace(), pod.name());
    let pairs = LOG.iter().filter_map(|key| Some((*key, call.query.get(key)?))).collect::<Vec<_>>();
    let path = format!("/containerLogs/{namespace}/{name}/{container}{}", query(&pairs));
    let Some(mut target) = agent_of(api, &pod).await? else {
        // A pod without a node has no log yet: an empty one, as upstream answers.
        return Ok(answer::text(StatusCode::OK, ""));
    };
    if call.query.flag("insecureSkipTLSVerifyBackend") {
        target.over = Over::Unverified;
    }
    let url = format!("https://{}{path}", target.authority());
    let request = Request::get(path).body(Full::default()).map_err(|e| Status::internal(e.to_string()))?;
    let said = api.agents.send(&target, request).await.map_err(|why| Status::new(500, "", format!("Get {url:?}: {why}")))?;
    if !said.status().is_success() {
        return Err(failure(said, "log", name).await);
    }
    Ok(answer::bytes(StatusCode::OK, "text/plain", passed_on(said.into_body())))
}

/// Refuses options of a log that mean nothing (`ValidatePodLogOptions`).
fn check_log(query: &Query, pod: &str) -> Result<(), Status> {
    let mut errors = FieldErrors::none();
    if let Some(lines) = query.number("tailLines")?.filter(|lines| *lines < 0) {
        errors.invalid("tailLines", lines, "must be greater than or equal to 0");
    }
    let since_time = !query.text("sinceTime").is_empty();
    for (field, counts) in [("limitBytes", true), ("sinceSeconds", !since_time)] {
        if let Some(few) = query.number(field)?.filter(|n| *n < 1 && counts) {
            errors.invalid(field, few, "must be greater than 0");
        }
    }
    if since_time && query.number("sinceSeconds")?.is_some() {
        errors.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(Subject { group: "", resource: "PodLogOptions", name: pod }, &errors))
}

/// Passes an upgrade on to the agent, and then bytes both ways until one side ends.
pub(super) async fn upgrade(api: &Api, mut call: Call, kind: &Arc<Kind>, part: &str) -> Result<Answer, Status> {
    // A WebSocket starts with GET, but to run something takes the right to create.
    if call.method == Method::GET {
        let mut info = RequestInfo::clone(&call.info);
        "create".clone_into(&mut info.verb);
        let verdict = api.authorizer.decide(&call.user, &info).await;
        if !verdict.is_allowed() {
            // In fewer words than the authorization filter, as upstream (`registry/core/pod/rest/authorize.go`).
            return Err(Status::forbidden(kind.subject(&info.name), verdict.reason()));
        }
    }
    let pod = pod(api, &call, kind).await?;
    let path = agent_path(&pod, &call, part)?;
    let no_host = || Status::bad_request(format!("pod {} does not have a host assigned", pod.name()));
    let target = agent_of(api, &pod).await?.ok_or_else(no_host)?;
    if !call.headers.contains_key(header::UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let ours = call.upgrade.take().ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let mut request = Request::builder().method(call.method.clone()).uri(path);
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&call.headers);
        bearer::remove(headers);
    }
    let request = request.body(Full::new(Bytes::new())).map_err(|e| Status::internal(e.to_string()))?;
    let said = api.agents.send(&target, request).await;
    let mut said = said.map_err(|why| Status::internal(format!("error dialing backend: {why}")))?;
    if said.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(failure(said, part, pod.name()).await);
    }
    let theirs = hyper::upgrade::on(&mut said);
    let mut made = Response::new(tunnel::join(ours, theirs, api.drain.clone(), "an agent"));
    *made.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *made.headers_mut() = kept(said.headers());
    made.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    Ok(made)
}

async fn pod(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Object, Status> {
    let found = api.storage.read(kind, &call.info.namespace, &call.info.name, Freshness::Latest).await?;
    Ok(found.ok_or_else(|| Status::not_found(kind.subject(&call.info.name)))?.object)
}

/// The agent of the pod's node; `None` while it has none.
async fn agent_of(api: &Api, pod: &Object) -> Result<Option<Target>, Status> {
    let name = pod.text("/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let catalog = api.storage.catalog();
    let kind = catalog.get("", "v1", "nodes").ok_or_else(Status::no_such_path)?;
    let found = api.storage.read(kind, "", name, Freshness::Latest).await?;
    let node = found.ok_or_else(|| Status::not_found(kind.subject(name)))?;
    Target::of_node(&node.object).map(Some)
}

/// The agent's path for a stream, with its names for our options.
fn agent_path(pod: &Object, call: &Call, part: &str) -> Result<String, Status> {
    let (namespace, name) = (pod.namespace(), pod.name());
    if part == "portforward" {
        let ports: Vec<(&str, &str)> = call.query.all("ports").map(|p| ("port", p)).collect();
        return Ok(format!("/portForward/{namespace}/{name}{}", query(&ports)));
    }
    let container = container(pod, call.query.text("container"))?;
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.query.flag(ours) {
            pairs.push((theirs, "1"));
        }
    }
    if part == "exec" {
        pairs.extend(call.query.all("command").map(|c| ("command", c)));
    }
    Ok(format!("/{part}/{namespace}/{name}/{container}{}", query(&pairs)))
}

fn query(pairs: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, NON_ALPHANUMERIC))).collect();
    if encoded.is_empty() { String::new() } else { format!("?{}", encoded.join("&")) }
}

/// The container asked for, or the only one.
fn container(pod: &Object, wanted: &str) -> Result<String, Status> {
    let names = |pointer: &str| -> Vec<&str> {
        let list = pod.value().pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|c| c["name"].as_str()).collect()
    };
    if !wanted.is_empty() {
        if CONTAINERS.iter().any(|at| names(at).contains(&wanted)) {
            return Ok(wanted.to_owned());
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", pod.name())));
    }
    match names(CONTAINERS[0]).as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {}", pod.name()))),
        many => {
            let mut text = format!("a container name must be specified for pod {}, choose one of: [{}]", pod.name(), many.join(" "));
            let init = names(CONTAINERS[1]);
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn pod(containers: &[&str]) -> Object {
        let list: Vec<Value> = containers.iter().map(|n| json!({"name": n})).collect();
        Object::new(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": list, "initContainers": [{"name": "i"}]}}))
            .unwrap()
    }

    #[test]
    fn the_only_container_is_meant_and_of_many_one_must_be_named() {
        assert_eq!(container(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(container(&pod(&["a"]), "i").unwrap(), "i");
        let many = container(&pod(&["a", "b"]), "").unwrap_err().message;
        assert_eq!(many, "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]");
        assert_eq!(container(&pod(&["a"]), "x").unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(query(&[("command", "sh"), ("command", "a b&c")]), "?command=sh&command=a%20b%26c");
        assert_eq!(query(&[]), "");
    }
}
