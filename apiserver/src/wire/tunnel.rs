//! Connections that leave HTTP: bytes both ways between a client and whoever answers it.

use std::io;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Body;

/// Joins a client's connection with the one to whom it was passed on, until both sides have ended or the server drains; until then what the
/// returned body of the answer holds is held. `to` says who the other side is, for the log.
pub(crate) fn join(ours: OnUpgrade, theirs: OnUpgrade, drain: CancellationToken, to: &'static str) -> Body {
    let (body, beyond) = Body::leaving();
    tokio::spawn(async move {
        let joined = async {
            let (ours, theirs) = tokio::try_join!(ours, theirs).map_err(io::Error::other)?;
            copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await
        };
        tokio::select! {
            () = drain.cancelled() => {}
            ended = joined => {
                if let Err(error) = ended {
                    debug!(%error, to, "a stream ended");
                }
            }
        }
        drop(beyond);
    });
    body
}
