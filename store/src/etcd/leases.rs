//! Times to live: a lease that ends at about the right time is shared by the objects of a minute (`storage/etcd3/lease_manager.go`).

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

use super::{
    client::{Client, Effect},
    faults, messages,
};
use crate::StoreError;

/// A lease is given to objects for this long, or for a twentieth of their time to live where that is shorter.
const SHARED: Duration = Duration::from_secs(60);
const SHARE: u32 = 20;
/// Objects of one lease at most: they are all deleted in one transaction.
const OBJECTS: usize = 1000;
/// Times to live for which a lease is kept; the least used goes.
const KEPT: usize = 16;

/// The leases that can be used again.
#[derive(Default)]
pub(super) struct Leases(Mutex<Vec<Lease>>);

struct Lease {
    id: u64,
    ttl: Duration,
    ends: Instant,
    objects: usize,
}

impl Lease {
    /// Whether an object that shall live for so long may have it: it must not go early, and not much too late.
    fn fits(&self, ttl: Duration, now: Instant) -> bool {
        self.ttl == ttl && self.objects < OBJECTS && now + ttl < self.ends
    }
}

impl Leases {
    /// A lease that ends when an object written now should go, or a little later.
    pub(super) async fn of(&self, client: &Client, ttl: Duration) -> Result<u64, StoreError> {
        let mut kept = self.0.lock().await;
        let now = Instant::now();
        if let Some(lease) = kept.iter_mut().find(|lease| lease.fits(ttl, now)) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        kept.retain(|lease| lease.ttl != ttl && lease.ends > now);
        let wanted = ttl + (ttl / SHARE).min(SHARED);
        // etcd counts in seconds, and knows none shorter.
        let seconds = wanted.as_secs() + u64::from(wanted.subsec_nanos() > 0);
        let answer = client.call(messages::GRANT, &messages::grant(seconds.max(1)), Effect::None).await;
        let (id, granted) = answer.and_then(|answer| messages::granted(&answer)).map_err(|fault| faults::store_error(&fault, 0))?;
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Lease { id, ttl, ends: now + Duration::from_secs(granted), objects: 1 });
        Ok(id)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) async fn len(&self) -> usize {
        self.0.lock().await.len()
    }

    /// Makes all of them leases that etcd does not know.
    #[cfg(test)]
    pub(super) async fn spoil(&self) {
        self.0.lock().await.iter_mut().for_each(|lease| lease.id += 1);
    }

    /// One of them is gone: none is used again.
    pub(super) async fn forget(&self) {
        self.0.lock().await.clear();
    }
}
