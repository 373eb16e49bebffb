//! Under which addresses servers are there: one key each, which ends by itself.

use std::{net::IpAddr, sync::Arc, time::Duration};

use coracle_store::{Entry, Events, Expect, Key, Page, Revision, StoreError, Write};
use coracle_tree::{Value, json};

use crate::{
    registry::{Object, Storage, items, storage::store_error},
    wire::Status,
};

/// Where upstream keeps them: `Endpoints` that are not served.
const PREFIX: &str = "/registry/masterleases/";
/// Lost races before the next sign of life.
const RETRIES: usize = 5;

/// The addresses, and this server's own.
pub(super) struct Addresses {
    storage: Arc<Storage>,
    own: IpAddr,
    lasts: Duration,
}

impl Addresses {
    pub(super) fn new(storage: Arc<Storage>, own: IpAddr, lasts: Duration) -> Self {
        Self { storage, own, lasts }
    }

    /// Says that this server is there, for a while.
    pub(super) async fn renew(&self) -> Result<(), Status> {
        for _ in 0..RETRIES {
            let found = self.find().await?;
            let before = found.as_ref().and_then(|entry| generation(&entry.value)).unwrap_or_default();
            let object = json!({
                "apiVersion": "v1", "kind": "Endpoints", "metadata": {"generation": before + 1},
                "subsets": [{"addresses": [{"ip": self.own.to_string()}]}],
            });
            let object = Object::new(object).ok_or_else(|| Status::internal("an address is no object"))?;
            let value = items::stored_bytes(&object).map_err(|error| Status::internal(error.to_string()))?;
            let expect = found.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            match self.storage.store().commit(&self.key(), expect, Write::put_for(value, self.lasts)).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Moved { .. } | StoreError::Exists { .. } | StoreError::Absent) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
        Err(Status::unavailable("somebody else writes this server's address: --advertise-address must be its own"))
    }

    /// Says that this server goes.
    pub(super) async fn remove(&self) -> Result<(), Status> {
        for _ in 0..RETRIES {
            let Some(entry) = self.find().await? else { return Ok(()) };
            match self.storage.store().commit(&self.key(), Expect::At(entry.revision), Write::Delete).await {
                Ok(_) | Err(StoreError::Absent) => return Ok(()),
                Err(StoreError::Moved { .. }) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
        Ok(())
    }

    /// The addresses of all that are there, in the order of their texts: upstream's servers, which may work on the same store, write them so
    /// (`RepackSubsets`), and every other order they would change.
    pub(super) async fn list(&self) -> Result<Vec<IpAddr>, Status> {
        let found = self.storage.store().range(PREFIX, Page::default()).await.map_err(|error| store_error(&error))?;
        let mut all: Vec<IpAddr> = found.value.iter().filter_map(|entry| address(&entry.value)).collect();
        all.sort_by_cached_key(ToString::to_string);
        all.dedup();
        Ok(all)
    }

    /// What changes from now on.
    pub(super) async fn changes(&self, otherwise: Revision) -> Events {
        let now = self.storage.store().revision().await.unwrap_or(otherwise);
        self.storage.store().watch(PREFIX, now)
    }

    async fn find(&self) -> Result<Option<Entry>, Status> {
        Ok(self.storage.store().get(&self.key()).await.map_err(|error| store_error(&error))?.value)
    }

    fn key(&self) -> Key {
        Key::from(format!("{PREFIX}{}", self.own))
    }
}

fn generation(value: &[u8]) -> Option<i64> {
    serde_json::from_slice::<Value>(value).ok()?.pointer("/metadata/generation")?.as_i64()
}

fn address(value: &[u8]) -> Option<IpAddr> {
    serde_json::from_slice::<Value>(value).ok()?.pointer("/subsets/0/addresses/0/ip")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use coracle_schema::Tables;
    use coracle_store::embedded;

    use super::*;
    use crate::registry::catalog::{self, Odd};

    #[tokio::test]
    async fn addresses_come_in_the_order_upstream_writes_them_in() {
        let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
        let catalog = catalog::built_in(&Tables::load().unwrap(), odd);
        let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
        let storage = Storage::start(store, catalog);
        let of = |address: &str| Addresses::new(storage.clone(), address.parse().unwrap(), Duration::from_secs(15));
        for address in ["10.0.0.9", "9.0.0.1", "10.0.0.10"] {
            of(address).renew().await.unwrap();
        }
        let listed: Vec<String> = of("9.0.0.1").list().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["10.0.0.10", "10.0.0.9", "9.0.0.1"]);
    }
}
