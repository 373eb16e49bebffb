//! What of the program is in memory while it waits.
//!
//! Starting runs through much code that is not needed again: definitions of the API, bootstrap, certificates. Its pages are the file's and
//! cost nothing to get back, but count as this process's as long as they are mapped.

use std::{convert::Infallible, time::Duration};

/// When the code is let go of that ran so far: once the server is ready, and when what follows that has been done.
const AFTER: [Duration; 2] = [Duration::ZERO, Duration::from_secs(10)];

/// Lets go of the code that starting needed. Never ends: to be raced with what ends.
pub(crate) async fn forget_starting() -> Infallible {
    for pause in AFTER {
        tokio::time::sleep(pause).await;
        coracle_agent::embedded::forget_program_pages();
    }
    std::future::pending().await
}
