//! DELETE of an object that is there and cannot be read: nothing of it is looked at, neither finalizers nor what admission would say, so it
//! has to be asked for by name and allowed by itself (apiserver `registry/generic/registry/corrupt_obj_deleter.go`).

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::{Api, Call, delete, render};
use crate::{
    authz::Decision,
    registry::Kind,
    request::{
        RequestInfo,
        query::{DeleteOptions, UNREADABLE},
    },
    wire::{Answer, Status},
};

/// What has to be allowed.
const VERB: &str = "unsafe-delete-ignore-read-errors";

/// Deletes it, if it cannot be read.
pub(super) async fn delete(api: &Api, call: &Call, kind: &Arc<Kind>, options: &DeleteOptions) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    if let Some(trail) = &call.trail {
        trail.annotate("apiserver.k8s.io/unsafe-delete-ignore-read-error", "");
    }
    let name = &call.info.name;
    if !call.info.subresource.is_empty() {
        let why = format!("{UNREADABLE} delete option is not allowed on a subresource or non-resource request");
        return Err(Status::forbidden(kind.subject(name), &why));
    }
    let asked = RequestInfo { verb: VERB.to_owned(), ..RequestInfo::clone(&call.info) };
    let verdict = api.authorizer.decide(&call.user, &asked).await;
    match (verdict.decision, verdict.error) {
        (Decision::Allow, _) => {}
        (_, Some(error)) => {
            let why = format!("error while checking permission for {VERB:?}, {error}");
            return Err(Status::forbidden(kind.subject(name), &why));
        }
        (Decision::Deny(reason) | Decision::NoOpinion(reason), None) => {
            let why = format!("not permitted to do {VERB:?}, reason: {reason}");
            return Err(Status::forbidden(kind.subject(name), &why));
        }
    }
    api.storage.remove_unreadable(kind, call.namespace_of(kind), name, options.dry_run).await?;
    let mut status = delete::success(Some(json!({"name": name, "kind": &*kind.gvk.kind})));
    status["code"] = 200.into();
    Ok(render::value(api, StatusCode::OK, wanted.encoding, &status))
}
