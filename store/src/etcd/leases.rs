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
/// Leases that are kept to be used again; the oldest goes.
const KEPT: usize = 64;

/// The leases that can be used again.
#[derive(Default)]
pub(super) struct Leases(Mutex<Vec<Lease>>);

struct Lease {
    id: u64,
    ends: Instant,
    objects: usize,
}

impl Lease {
    /// Whether an object that shall live for so long may have it: it must not go early, and not later than with a lease of its own.
    fn fits(&self, ttl: Duration, now: Instant) -> bool {
        self.objects < OBJECTS && now + ttl < self.ends && self.ends <= now + Duration::from_secs(granted_for(ttl))
    }
}

/// Seconds of a lease for objects that live so long, some of them written a little later. etcd counts in seconds, and knows none shorter.
fn granted_for(ttl: Duration) -> u64 {
    let wanted = ttl + (ttl / SHARE).min(SHARED);
    (wanted.as_secs() + u64::from(wanted.subsec_nanos() > 0)).max(1)
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
        kept.retain(|lease| lease.ends > now && lease.objects < OBJECTS);
        let answer = client.call(messages::GRANT, &messages::grant(granted_for(ttl)), Effect::None).await;
        let (id, granted) = answer.and_then(|answer| messages::granted(&answer)).map_err(|fault| faults::store_error(&fault, 0))?;
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Lease { id, ends: now + Duration::from_secs(granted), objects: 1 });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_for_all_that_should_go_at_about_its_end() {
        let (now, hour, second) = (Instant::now(), Duration::from_secs(3600), Duration::from_secs(1));
        let lease = |objects| Lease { id: 1, ends: now + Duration::from_secs(granted_for(hour)), objects };
        assert_eq!(granted_for(hour), 3660);
        for (ttl, later, fits) in [
            (hour, Duration::ZERO, true),
            (hour, 59 * second, true),
            (hour, 61 * second, false),
            // Whatever time it has left itself: a copy of many events gives each another.
            (hour - Duration::from_millis(123), Duration::ZERO, true),
            (hour - 2 * second, Duration::ZERO, false),
            (hour - 2 * second, 2 * second, true),
            (hour - 30 * second, 50 * second, true),
            (hour / 2, Duration::ZERO, false),
            (hour / 2, hour / 2, true),
        ] {
            assert_eq!(lease(1).fits(ttl, now + later), fits, "{ttl:?} after {later:?}");
        }
        assert!(!lease(OBJECTS).fits(hour, now + second), "all of them go in one transaction");
    }
}
