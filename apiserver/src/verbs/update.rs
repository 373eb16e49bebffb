//! PUT of an object or of one of its parts.

use std::sync::Arc;

use super::{
    Api, Call,
    write::{Made, Writing},
};
use crate::{
    registry::{Kind, Part},
    request::query::WriteOptions,
    wire::{Answer, Status},
};

/// Replaces the object, or the part the subresource is, with what the body says.
pub async fn update(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, call.user_agent(), "UpdateOptions")?;
    let mut writing = Writing::new(api, call, kind, options);
    let sent = writing.decode_body()?;
    if sent.name().is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    let creates = writing.part == Part::Whole && kind.rules.policy().create_on_update;
    let outcome = writing.change(creates, |_, _| Ok(Made { object: sent.clone(), owned: false })).await?;
    writing.answer(&outcome)
}
