//! Following a resource without missing what was deleted before the following began.

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};

use crate::{
    registry::{Change, Reader},
    wire::Status,
};

/// What is there now, all of it readable, and a stream of changes that began before it was read: it repeats some of it, and misses nothing.
pub(crate) async fn begin(reader: &dyn Reader, group: &str, resource: &str) -> Result<(Vec<Bytes>, BoxStream<'static, Change>), Status> {
    let changes = follow(reader, group, resource);
    Ok((reader.list(group, resource, "").await?, changes))
}

/// A stream of changes that has begun.
pub(crate) fn follow(reader: &dyn Reader, group: &str, resource: &str) -> BoxStream<'static, Change> {
    let mut changes = reader.follow(group, resource);
    // Streams start when first polled.
    match changes.next().now_or_never() {
        Some(Some(change)) => futures::stream::once(std::future::ready(change)).chain(changes).boxed(),
        _ => changes,
    }
}
