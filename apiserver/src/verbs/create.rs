//! POST to a collection.

use std::sync::Arc;

use super::{Api, Call, write::Writing};
use crate::{
    registry::Kind,
    request::query::WriteOptions,
    wire::{Answer, Status},
};

/// Creates the object in the body; 201.
pub async fn create(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?;
    let mut writing = Writing::new(api, call, kind, options);
    let object = writing.decode_body()?;
    let made = writing.create(object).await;
    writing.settle(made)
}
