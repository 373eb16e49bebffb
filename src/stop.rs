//! The order to stop, and what comes before the server itself stops.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{error::Elapsed, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// SIGTERM and Ctrl-C.
pub(crate) struct Orders {
    terminate: Signal,
    interrupt: Signal,
}

impl Orders {
    /// Those from now on.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Scheduler and controllers.
#[derive(Default)]
pub(crate) struct Rooms {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Rooms {
    /// Ends them after `delay`, within which the server answers still while its clients `leave` it. The next order ends the delay.
    pub(crate) async fn end(
        &self,
        leave: impl Future<Output = ()>,
        delay: Duration,
        order: impl Future<Output = ()>,
        grace: Duration,
    ) -> Result<(), Elapsed> {
        let rooms = async {
            tokio::select! {
                () = sleep(delay) => {}
                () = order => {}
            }
            self.stop.cancel();
            self.tasks.close();
            timeout(grace, self.tasks.wait()).await
        };
        tokio::join!(leave, rooms).1
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn clients_leave_beside_the_delay_which_a_second_order_ends() {
        let rooms = Rooms::default();
        rooms.tasks.spawn(rooms.stop.clone().cancelled_owned());
        let (left, seen) = oneshot::channel();
        let leave = async { left.send(()).unwrap() };
        // It comes when the server was left, which is before the delay is over.
        let order = async { seen.await.unwrap() };
        rooms.end(leave, Duration::MAX, order, Duration::MAX).await.unwrap();
        let rooms = Rooms::default();
        rooms.end(async {}, Duration::ZERO, std::future::pending(), Duration::MAX).await.unwrap();
        assert!(rooms.stop.is_cancelled());
    }
}
