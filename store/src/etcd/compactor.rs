//! History is forgotten after a while (`storage/etcd3/compact.go`): every server tries, and by a key of etcd that counts the times one of
//! them does it for all. Upstream's servers take part with the same key.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    Shared,
    client::{Client, Effect},
    faults,
    messages::{self, Compared, Decided, Operation},
};
use crate::grpc::Fault;

/// Where the last revision that was compacted stands. Its version counts how often that was done.
const KEY: &[u8] = b"compact_rev_key";

/// Compacts to where the store was an interval ago, in each interval in which nobody else did.
pub(super) async fn run(shared: Arc<Shared>, every: Duration) {
    let (mut times, mut revision) = (0, 0);
    loop {
        sleep(every).await;
        match turn(&shared.client, times, revision).await {
            Ok((now, latest)) => (times, revision) = (now, latest),
            Err(error) => warn!(%error, "etcd could not be compacted"),
        }
    }
}

/// Takes a turn if nobody took it: how often it was done since, and the latest revision.
pub(super) async fn turn(client: &Client, times: u64, revision: u64) -> Result<(u64, u64), Fault> {
    let value = revision.to_string();
    let put = Operation::Put { value: value.as_bytes(), lease: 0 };
    let message = messages::transaction(KEY, Compared::Version(times), put);
    let decided = Decided::read(&client.call(messages::TXN, &message, Effect::Write).await?)?;
    if !decided.succeeded {
        return Ok((decided.found.map_or(0, |found| found.version), decided.revision));
    }
    // The first time there is no telling how old what is.
    if revision > 0 {
        compact(client, revision).await?;
        debug!(revision, "etcd is compacted");
    }
    Ok((times + 1, decided.revision))
}

/// Compacts to a revision that is there; to one that is compacted already there is nothing to do.
pub(super) async fn compact(client: &Client, to: u64) -> Result<(), Fault> {
    match client.call(messages::COMPACT, &messages::compaction(to), Effect::None).await {
        Err(fault) if !faults::is_compacted(&fault) => Err(fault),
        _ => Ok(()),
    }
}
