//! The latest revision, linearizable: one question on the way at a time, and whoever comes meanwhile shares the next.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::{mpsc, oneshot};

use super::{Shared, messages::Range};
use crate::{Revision, StoreError};

/// Reads that may wait for the next question; more wait to be queued.
const QUEUE: usize = 4096;

type Answer = oneshot::Sender<Result<Revision, StoreError>>;

/// Asks for the latest revision.
#[derive(Clone)]
pub(super) struct Fresh(mpsc::Sender<Answer>);

/// The handle, and the task that asks.
pub(super) fn start(shared: Arc<Shared>) -> (Fresh, impl Future<Output = ()> + Send) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    (Fresh(queue), ask(shared, waiting))
}

impl Fresh {
    /// A revision at or after every write that was acknowledged before this call.
    pub(super) async fn revision(&self) -> Result<Revision, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let (answer, told) = oneshot::channel();
        self.0.send(answer).await.map_err(|_| closed())?;
        told.await.map_err(|_| closed())?
    }
}

async fn ask(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Answer>) {
    let mut asking: Vec<Answer> = Vec::new();
    // A key of ours that is never there: etcd makes sure that it is up to date, and has nothing to read.
    let key = shared.keys.there("/\0");
    while waiting.recv_many(&mut asking, QUEUE).await > 0 {
        let range = Range { key: &key, limit: 1, count_only: true, ..Range::default() };
        shared.asked.fetch_add(1, Ordering::Relaxed);
        let told = shared.ranged(&range).await.map(|ranged| Revision(ranged.revision));
        for answer in asking.drain(..) {
            // Whoever asked may have gone.
            let _ = answer.send(told.clone());
        }
    }
}
