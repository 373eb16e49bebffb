//! Objects that are there and cannot be read. A list that would lack them fails and names them. A DELETE looks at nothing of such an object,
//! neither finalizers nor what admission would say, so it has to be asked for by name and allowed by itself (apiserver
//! `registry/generic/registry/corrupt_obj_deleter.go`).

use std::sync::Arc;

use coracle_store::{Revision, cache::Cached};
use coracle_tree::json;
use http::StatusCode;

use super::{Api, Call, delete, filter::Filter, render};
use crate::{
    authz::Decision,
    registry::{Kind, items::Facts},
    request::{
        RequestInfo,
        query::{DeleteOptions, UNREADABLE},
    },
    wire::{Answer, Status},
};

/// What has to be allowed.
const VERB: &str = "unsafe-delete-ignore-read-errors";

/// Refuses a list at a revision that would lack what cannot be read. `items` are those found behind `after`; where there are more, upstream's
/// store reads as many as the page takes, whether they can be read or not, and what lies behind them is told with a later page.
pub(super) fn complete(
    api: &Api,
    kind: &Kind,
    filter: &Filter,
    revision: Revision,
    after: Option<&str>,
    (items, more): (&[Arc<Cached<Facts>>], bool),
) -> Result<(), Status> {
    let mut faults = api.storage.faults(filter.prefix());
    if faults.is_empty() {
        return Ok(());
    }
    let meant = |key: &str| after.is_none_or(|after| key > after) && filter.key().is_none_or(|only| only == key);
    faults.retain(|fault| fault.at <= revision && meant(fault.key.as_str()));
    if more && filter.is_open() {
        let mut before = 0;
        faults.retain(|fault| {
            let good = items.partition_point(|item| item.key < fault.key);
            before += 1;
            good + before <= items.len()
        });
    }
    if faults.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = faults.iter().map(|fault| (fault.key.to_string(), fault.says(fault.key.as_str()))).collect();
    Err(Status::unread(kind.subject(""), &told))
}

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
