//! A watch: the log from a revision on, then live events. A watch slower than the writer goes back to the log.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt, stream};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{Shared, closed, log};
use crate::{Event, Events, Revision, StoreError};

struct Tail {
    shared: Arc<Shared>,
    prefix: String,
    /// Everything up to here is delivered or in the queue.
    cursor: Revision,
    queue: VecDeque<Event>,
    /// `None` when the writer had already ended.
    live: Option<broadcast::Receiver<Arc<[Event]>>>,
    /// Events between the cursor and what is live must come from the log.
    behind: bool,
    ended: bool,
}

/// The stream of [`crate::Store::watch`].
pub(super) fn events(shared: Arc<Shared>, prefix: String, from: Revision) -> Events {
    // Subscribed before the revision is looked at: what comes after it arrives live.
    let live = shared.events.upgrade().map(|events| events.subscribe());
    let behind = from < shared.head();
    let tail = Tail { shared, prefix, cursor: from, queue: VecDeque::new(), live, behind, ended: false };
    stream::unfold(tail, |mut tail| async move { tail.next().await.map(|item| (item, tail)) }).boxed()
}

impl Tail {
    async fn next(&mut self) -> Option<Result<Event, StoreError>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            if let Err(err) = self.advance().await {
                self.ended = true;
                return Some(Err(err));
            }
        }
    }

    async fn advance(&mut self) -> Result<(), StoreError> {
        if self.behind {
            return self.read_log().await;
        }
        let Some(live) = &mut self.live else { return Err(closed()) };
        match live.recv().await {
            Ok(group) => self.take(group.iter().cloned()),
            Err(RecvError::Lagged(_)) => self.behind = true,
            Err(RecvError::Closed) => {
                self.shared.health()?;
                return Err(closed());
            }
        }
        Ok(())
    }

    async fn read_log(&mut self) -> Result<(), StoreError> {
        let (shared, from) = (self.shared.clone(), self.cursor);
        let (logged, head, waiting) = {
            let index = shared.index.read();
            (index.logged_to(), index.head(), index.waiting_after(from))
        };
        if from < logged {
            let read = move || log::history(&mut shared.reads.lock(), from, logged).map_err(|err| err.naming(&shared.name));
            let history = tokio::task::spawn_blocking(read).await.map_err(|err| StoreError::Unavailable(err.to_string()))??;
            if from < history.compacted {
                return Err(StoreError::Compacted { oldest: history.compacted });
            }
            self.take(history.events.into_iter());
            self.cursor = self.cursor.max(history.reached);
            if history.reached < logged {
                return Ok(());
            }
        }
        self.take(waiting.into_iter());
        self.cursor = self.cursor.max(head);
        self.behind = false;
        Ok(())
    }

    fn take(&mut self, events: impl Iterator<Item = Event>) {
        for event in events {
            if event.revision > self.cursor {
                self.cursor = event.revision;
                if event.key.as_str().starts_with(&self.prefix) {
                    self.queue.push_back(event);
                }
            }
        }
    }
}
