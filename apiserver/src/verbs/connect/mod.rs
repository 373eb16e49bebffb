//! Subresources that lead out of the server: logs, exec, attach and port-forward at node agents, proxies to pods, services and nodes.
//!
//! Nothing of a stream is understood here: the client's upgrade goes to the agent as it is, and then bytes pass both ways.

mod agent;
mod proxy;
mod streams;

use std::sync::Arc;

pub use agent::{Agents, Over, Target, agent_tls};
use coracle_schema::decode;
use http::Method;

use super::{Api, Call};
use crate::{
    admission::{self, Operation},
    registry::{Kind, Object, Subresource},
    wire::{Answer, Status, answer},
};

/// Whether a subresource is one of these.
pub fn leads_out(part: &Subresource) -> bool {
    matches!(&*part.name, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers a request for such a subresource.
pub async fn connect(api: &Arc<Api>, call: Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let part = call.info.subresource.clone();
    if part == "log" && call.method == Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    if part != "log" {
        if call.query.all("dryRun").any(|value| !value.is_empty()) {
            return Err(Status::bad_request("dryRun is not supported"));
        }
        let mut warnings = Vec::new();
        let made = match admit(api, &call, kind, &mut warnings).await {
            Ok(()) => lead(api, call, kind, &part).await,
            Err(status) => Err(status),
        };
        return answer::warned(made, warnings);
    }
    streams::log(api, &call, kind).await
}

async fn lead(api: &Arc<Api>, call: Call, kind: &Arc<Kind>, part: &str) -> Result<Answer, Status> {
    match part {
        "proxy" => proxy::proxy(api, call, kind).await,
        _ => streams::upgrade(api, call, kind, part).await,
    }
}

async fn admit(api: &Api, call: &Call, kind: &Kind, warnings: &mut Vec<String>) -> Result<(), Status> {
    let mut attempt = call.attempt(Operation::Connect, kind);
    let mut options = kind.subresource(&call.info.subresource).map(|part| options(call, part)).transpose()?;
    admission::pass(&api.admission, &mut attempt, options.as_mut(), warnings).await
}

/// The options of a connection as the object they are in upstream (`PodExecOptions`): admission sees them.
fn options(call: &Call, part: &Subresource) -> Result<Object, Status> {
    let mut given = coracle_tree::Map::new();
    for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| call.query.get(flag).is_some()) {
        given.insert(flag, call.query.flag(flag).into());
    }
    if let Some(container) = call.query.get("container") {
        given.insert("container", container.into());
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        given.insert("command", command.into());
    }
    let ports: Vec<i64> = call.query.all("ports").filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        given.insert("ports", ports.into());
    }
    if &*part.name == "proxy" {
        let rest = call.info.rest.join("/");
        let path = if rest.is_empty() { call.query.text("path").to_owned() } else { format!("/{rest}") };
        given.insert("path", path.into());
    }
    let mut value = coracle_tree::Value::Object(given);
    if let Some(schema) = &part.schema {
        let decoded = decode::from_value(value, schema, decode::FieldValidation::Ignore);
        value = decoded.map_err(|error| Status::bad_request(error.to_string()))?.value;
    }
    (value["apiVersion"], value["kind"]) = (part.gvk.api_version().into(), (*part.gvk.kind).into());
    Object::new(value).ok_or_else(|| Status::internal("options are not an object"))
}
