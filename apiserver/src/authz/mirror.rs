//! Following a resource without missing what was deleted before the following began.

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};

use crate::{
    registry::{Change, Reader},
    wire::Status,
};

/// What is there now, and a stream of changes that began before it was read: it repeats some of it, and misses nothing.
pub(crate) async fn begin(reader: &dyn Reader, group: &str, resource: &str) -> Result<(Vec<Bytes>, BoxStream<'static, Change>), Status> {
    let changes = begun(reader, group, resource).await;
    Ok((reader.list(group, resource, "").await?, changes))
}

/// The same, without those that cannot be read: one broken pod does not keep a server from its work.
pub(crate) async fn begin_readable(
    reader: &dyn Reader,
    group: &str,
    resource: &str,
) -> Result<(Vec<Bytes>, BoxStream<'static, Change>), Status> {
    let changes = begun(reader, group, resource).await;
    Ok((reader.list_readable(group, resource, "").await?, changes))
}

async fn begun(reader: &dyn Reader, group: &str, resource: &str) -> BoxStream<'static, Change> {
    let mut changes = reader.follow(group, resource);
    // Streams start when first polled.
    let first = futures::poll!(changes.next());
    match first {
        std::task::Poll::Ready(Some(change)) => futures::stream::once(std::future::ready(change)).chain(changes).boxed(),
        _ => changes,
    }
}
