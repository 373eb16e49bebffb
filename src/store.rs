//! Where objects are, whichever store was chosen.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use coracle_apiserver::StorageMediaType;
use coracle_store::{
    Store,
    embedded::{self, Embedded},
    etcd::{self, Etcd},
};

/// After so long of waiting for etcd that is told.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Does what may have to wait for an etcd to answer; when that takes its time, one line says so.
pub(crate) async fn telling<T>(servers: &[String], tell: impl FnOnce(&str), work: impl Future<Output = T>) -> T {
    telling_after(FIRST_WORD, servers, tell, work).await
}

async fn telling_after<T>(pause: Duration, servers: &[String], tell: impl FnOnce(&str), work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(pause, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            tell(&format!("--etcd-servers={}: no answer yet, waiting for it", servers.join(",")));
            work.await
        }
    }
}

/// As a server says it.
pub(crate) fn warn(line: &str) {
    tracing::warn!("{line}");
}

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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_takes_long_is_told_once_and_what_does_not_is_not() {
        let servers = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        // It is done when it was told, and not before.
        let (told, telling) = oneshot::channel();
        let tell = |line: &str| told.send(line.to_owned()).unwrap();
        let line = telling_after(Duration::ZERO, &servers, tell, telling).await.unwrap();
        assert_eq!(line, "--etcd-servers=http://a:1,http://b:1: no answer yet, waiting for it");
        let seven = telling_after(Duration::MAX, &servers, |line| panic!("{line}"), async { 7 }).await;
        assert_eq!(seven, 7);
    }
}
