//! GET of one object.

use coracle_store::{Revision, cache::Freshness};

use super::{Api, Call, history, render};
use crate::{
    registry::Kind,
    wire::{Answer, Status},
};

/// Answers with the object; 404 when it is not there.
pub async fn get(api: &Api, call: &Call, kind: &Kind) -> Result<Answer, Status> {
    if call.query.text(history::PARAMETER) == "true" {
        return history::history(api, call, kind).await;
    }
    if call.query.flag("export") {
        return Err(Status::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    let wanted = render::wanted(call, kind)?;
    let found = api.storage.cached(kind, call.namespace_of(kind), &call.info.name, freshness(call.query.text("resourceVersion"))?).await?;
    let cached = found.ok_or_else(|| Status::not_found(kind.subject(&call.info.name)))?;
    render::object(api, call, kind, wanted, &cached).await
}

/// `resourceVersion` of a get: unset is the latest, 0 is anything, else not older than that.
fn freshness(version: &str) -> Result<Freshness, Status> {
    match version {
        "" => Ok(Freshness::Latest),
        "0" => Ok(Freshness::Any),
        text => {
            // Upstream's storage refuses it, of which nobody makes a bad request.
            let invalid = || format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            let at = text.parse().map_err(|_| Status::new(500, "", invalid()))?;
            Ok(Freshness::NotOlderThan(Revision(at)))
        }
    }
}
