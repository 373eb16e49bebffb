//! PUT of an object or of one of its parts.

use std::sync::Arc;

use super::{
    Api, Call,
    routes::may_be_named,
    write::{Made, Writing},
};
use crate::{
    registry::{Kind, Part, meta},
    request::query::WriteOptions,
    wire::{Answer, Status},
};

/// Replaces the object, or the part the subresource is, with what the body says.
pub async fn update(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, call.user_agent(), "UpdateOptions")?;
    let mut writing = Writing::new(api, call, kind, options);
    let sent = writing.decode_body()?;
    if sent.name().is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.info.name
        )));
    }
    meta::match_name(&sent, &call.info.name)?;
    may_be_named(kind, &call.info)?;
    let creates = writing.part == Part::Whole && kind.rules.policy().create_on_update;
    let mut first = Some(sent);
    let made = writing
        .change(creates, |writing, _| {
            // A second try, after a lost race, reads the body again; most writes have only one.
            let object = first.take().map_or_else(|| writing.decode_body(), Ok)?;
            Ok(Made { object, owned: false })
        })
        .await;
    writing.settle(made)
}
