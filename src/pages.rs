//! What of the program is in memory while it waits.
//!
//! Starting runs through much code that is not needed again: definitions of the API, bootstrap, certificates. Its pages are the file's and
//! cost nothing to get back, but count as this process's as long as they are mapped.

use std::{convert::Infallible, time::Duration};

/// When code is let go of: once the server is ready, when what follows that has been done, and from then on what was not run for a while.
const FIRST: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];
const EVERY: Duration = Duration::from_secs(60);

/// Lets go of code that is not run any more. Never ends: to be raced with what ends.
pub(crate) async fn forget_idle() -> Infallible {
    let mut first = FIRST.into_iter();
    loop {
        tokio::time::sleep(first.next().unwrap_or(EVERY)).await;
        coracle_agent::embedded::forget_program_pages();
    }
}
