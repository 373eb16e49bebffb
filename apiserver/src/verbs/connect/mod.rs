//! Subresources that lead out of the server: logs, exec, attach and port-forward at node agents, proxies to pods, services and nodes.
//!
//! Nothing of a stream is understood here: the client's upgrade goes to the agent as it is, and then bytes pass both ways.

mod agent;
mod proxy;
mod streams;

use std::sync::Arc;

pub use agent::{Agents, Target};

use super::{Api, Call};
use crate::{
    admission::{self, Attempt, Operation},
    registry::{Kind, Subresource},
    wire::{Answer, Status},
};

/// Whether a subresource is one of these.
pub fn leads_out(part: &Subresource) -> bool {
    matches!(&*part.name, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers a request for such a subresource.
pub async fn connect(api: &Arc<Api>, call: Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let part = call.info.subresource.clone();
    if part != "log" {
        admit(api, &call, kind).await?;
    }
    match part.as_str() {
        "log" => streams::log(api, &call, kind).await,
        "proxy" => proxy::proxy(api, call, kind).await,
        _ => streams::upgrade(api, call, kind, &part).await,
    }
}

async fn admit(api: &Api, call: &Call, kind: &Kind) -> Result<(), Status> {
    let mut attempt = Attempt {
        operation: Operation::Connect,
        request: &call.info,
        kind,
        user: &call.user,
        old: None,
        dry_run: false,
        warnings: Vec::new(),
    };
    admission::mutate(&api.admission, &mut attempt, None).await?;
    admission::validate(&api.admission, &mut attempt, None).await
}
