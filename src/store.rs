//! Where objects are, whichever store was chosen.

use std::sync::Arc;

use anyhow::{Context, Result};
use coracle_apiserver::StorageMediaType;
use coracle_store::{
    Store,
    embedded::{self, Embedded},
    etcd::{self, Etcd},
};

/// An open store and what only its kind has.
#[derive(Clone)]
pub(crate) enum Opened {
    /// In a file, or in memory.
    Embedded(Arc<Embedded>),
    /// In etcd, with upstream's values in this form.
    Etcd(Arc<Etcd>, StorageMediaType),
}

impl Opened {
    /// Opens a store of our own; an error names what `flag` says.
    pub(crate) fn embedded(options: &embedded::Options, flag: &'static str) -> Result<Self> {
        Embedded::open(options).map(|store| Self::Embedded(Arc::new(store))).context(flag)
    }

    /// Opens etcd; waits for it a while.
    pub(crate) async fn etcd(options: &etcd::Options, media: StorageMediaType) -> Result<Self> {
        Etcd::open(options).await.map(|store| Self::Etcd(Arc::new(store), media)).context("--etcd-servers")
    }

    /// What the API server works on.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => store.clone(),
            Self::Etcd(store, _) => store.clone(),
        }
    }

    /// In which form objects are kept; `None`: in our own.
    pub(crate) fn media_type(&self) -> Option<StorageMediaType> {
        match self {
            Self::Embedded(_) => None,
            Self::Etcd(_, media) => Some(*media),
        }
    }

    /// Waits until the store can do nothing more in this process, and says why. An etcd that is away may come back.
    pub(crate) async fn failed(&self) -> String {
        match self {
            Self::Embedded(store) => store.failed().await,
            Self::Etcd(..) => std::future::pending().await,
        }
    }

    /// Writes what is queued and lets go.
    pub(crate) async fn close(&self) {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Etcd(store, _) => store.close(),
        }
    }
}
