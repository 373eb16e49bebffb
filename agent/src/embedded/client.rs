//! The agent's side of the shim protocol.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::protocol::{self, MAX_FRAME_BYTES, Reply, Request};
use crate::runtime::RuntimeError;

/// A shim answers in milliseconds; starting a container on a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
const SOCKET: &str = "shim.sock";

/// Sends a request with file descriptors and answers the connection for the replies.
pub(super) fn open(dir: &Path, request: &Request, fds: &[OwnedFd]) -> io::Result<UnixStream> {
    let stream: StdStream = protocol::connect(dir, SOCKET)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    // A frame this small fits any socket buffer: it does not block.
    protocol::send_with(&stream, request, &fds)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The next reply; `None` when the shim closed the connection.
pub(super) async fn next(stream: &mut UnixStream) -> io::Result<Option<Reply>> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other("reply is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Asks for something that is done or not.
pub(super) async fn ask(dir: &Path, request: &Request) -> Result<(), RuntimeError> {
    let lost = |e: io::Error| RuntimeError::Failed(format!("the pod's shim does not answer: {e}"));
    let mut stream = open(dir, request, &[]).map_err(lost)?;
    match tokio::time::timeout(PATIENCE, next(&mut stream)).await {
        Ok(Ok(Some(Reply::Done))) => Ok(()),
        Ok(Ok(Some(Reply::Failed { message }))) => Err(RuntimeError::Failed(message)),
        Ok(Ok(other)) => Err(RuntimeError::Failed(format!("unexpected answer of the pod's shim: {other:?}"))),
        Ok(Err(e)) => Err(lost(e)),
        Err(_) => Err(RuntimeError::Timeout(PATIENCE)),
    }
}

/// Asks without a runtime, for cleaning up.
pub(super) fn ask_blocking(dir: &Path, request: &Request) -> io::Result<()> {
    let stream = protocol::connect(dir, SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    protocol::send_with(&stream, request, &[])?;
    let _: Option<Reply> = protocol::receive(&stream)?;
    Ok(())
}
