//! What of the program is in memory while it waits.
//!
//! Starting runs through much code that is not needed again: definitions of the API, bootstrap, certificates. Its pages are the file's and
//! cost nothing to get back, but count as this process's as long as they are mapped.

use std::{convert::Infallible, time::Duration};

/// When code is let go of: once the server is ready, when what follows that has been done, and from then on what was not run for a while.
/// Getting back what is still needed takes less than a millisecond in all.
const FIRST: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];
const EVERY: Duration = Duration::from_secs(60);

/// Lets go of code that is not run any more. Never ends: to be raced with what ends.
pub(crate) async fn forget_idle() -> Infallible {
    for pause in FIRST.into_iter().chain(std::iter::repeat(EVERY)) {
        tokio::time::sleep(pause).await;
        coracle_agent::embedded::forget_program_pages();
    }
    std::future::pending().await
}
