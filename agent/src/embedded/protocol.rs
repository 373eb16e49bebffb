//! What agent and shim say to each other: JSON frames with a length before them over a unix socket, one connection per request; an exec
//! carries its standard streams along as file descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::Status;

/// Frames are small; a longer one is an error.
pub(super) const MAX_FRAME_BYTES: usize = 1 << 20;

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Answer all statuses, then every change, until the connection closes.
    Subscribe,
    /// Make and start a container whose record is on disk. Answer: `Done` or `Failed`.
    Run {
        /// Container id.
        id: String,
    },
    /// Send a signal to a container's first process. Answer: `Done`, also when it has ended.
    Signal {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Run a process in a container; its three streams come along. Answer: `Failed`, or `Done` when it runs and `Ended` later. Closing
    /// the connection kills it.
    Exec {
        /// Container id.
        id: String,
        /// Name of the request file in the container's directory.
        file: String,
    },
    /// Open the log file anew.
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// Forget an ended or never started container.
    Forget {
        /// Container id.
        id: String,
    },
    /// End the shim. The agent has stopped everything before.
    Shutdown,
}

/// From the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It is done.
    Done,
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
    },
    /// A container's status: its present one, or a change.
    Status {
        /// Container id.
        id: String,
        /// The status.
        status: Status,
    },
    /// All present statuses were sent.
    Current,
    /// The exec'd process ended.
    Ended {
        /// Exit code, 128+n for signal n.
        code: i32,
    },
}

fn frame(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Writes a frame.
pub(super) fn send(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    stream.write_all(&frame(value)?)
}

/// Writes a frame with file descriptors.
pub(super) fn send_with(stream: &UnixStream, value: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = frame(value)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many file descriptors in one frame"));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("frame was cut")) }
}

/// Reads a frame and the file descriptors that came with it.
pub(super) fn receive_with<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    let mut fds = Vec::new();
    {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if got.bytes != head.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
    }
    let mut stream = stream;
    Ok((body(&mut stream, head)?, fds))
}

/// Reads a frame; `None` at a clean end.
pub(super) fn receive<T: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
        Ok(()) => body(&mut stream, head).map(Some),
    }
}

fn body<T: DeserializeOwned>(stream: &mut impl Read, head: [u8; 4]) -> io::Result<T> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!("frame of {length} bytes, at most {MAX_FRAME_BYTES} are allowed")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// One file descriptor sent over a console socket.
pub(super) fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or_else(|| io::Error::other("no terminal came over the console socket"))
}

/// Binds a socket in a directory however long its path is (a socket address holds 108 bytes).
pub(super) fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let at = std::fs::File::open(dir)?;
    let _ = std::fs::remove_file(dir.join(name));
    UnixListener::bind(short(at.as_fd(), name))
}

/// Connects to a socket in a directory.
pub(super) fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let at = std::fs::File::open(dir)?;
    UnixStream::connect(short(at.as_fd(), name))
}

fn short(dir: BorrowedFd<'_>, name: &str) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_file_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let request = Request::Exec { id: "c".to_owned(), file: "f".to_owned() };
        send_with(&a, &request, &[writer.as_fd()]).unwrap();
        drop(writer);
        let (request, fds) = receive_with::<Request>(&b).unwrap();
        assert!(matches!(request, Request::Exec { id, .. } if id == "c"));
        for fd in fds {
            std::fs::File::from(fd).write_all(b"hi").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        drop(a);
        assert!(receive::<Reply>(&b).unwrap().is_none());
    }

    #[test]
    fn a_socket_in_a_deep_directory_can_be_bound() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let _listener = listen(&deep, "shim.sock").unwrap();
        connect(&deep, "shim.sock").unwrap();
    }
}
