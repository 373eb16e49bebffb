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
    let mut turns = Turns::default();
    loop {
        sleep(every).await;
        if let Err(error) = turns.take(&shared.client).await {
            warn!(%error, key = %KEY.escape_ascii(), "etcd could not be compacted{}", advice(&error));
        }
    }
}

/// What is to be done about it. The key is none under the prefix, so a role may well not have it.
fn advice(fault: &Fault) -> &'static str {
    match fault.code {
        "PermissionDenied" => ": grant the user of --etcd-username readwrite on that key, or give --etcd-compaction-interval=0",
        _ => "",
    }
}

/// What one of those knows who take turns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    /// How often it was done, as was seen last.
    pub(super) times: u64,
    /// The latest revision at that time.
    pub(super) revision: u64,
}

impl Turns {
    /// Takes a turn if nobody took it since the last.
    pub(super) async fn take(&mut self, client: &Client) -> Result<(), Fault> {
        let (old, value) = (self.revision, self.revision.to_string());
        let put = Operation::Put { value: value.as_bytes(), lease: 0 };
        let message = messages::transaction(KEY, Compared::Version(self.times), put);
        let decided = Decided::read(&client.call(messages::TXN, &message, Effect::Write).await?)?;
        self.revision = decided.revision;
        if !decided.succeeded {
            self.times = decided.found.map_or(0, |found| found.version);
            return Ok(());
        }
        // Also when it fails now: it is counted, and the next turn is a new one.
        self.times += 1;
        // The first time there is no telling how old what is.
        if old > 0 {
            compact(client, old).await?;
            debug!(revision = old, "etcd is compacted");
        }
        Ok(())
    }
}

/// Compacts to a revision that is there; to one that is compacted already there is nothing to do.
pub(super) async fn compact(client: &Client, to: u64) -> Result<(), Fault> {
    match client.call(messages::COMPACT, &messages::compaction(to), Effect::None).await {
        Err(fault) if !faults::is_compacted(&fault) => Err(fault),
        _ => Ok(()),
    }
}
