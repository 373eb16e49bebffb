//! Waiting for a file to change, by inotify.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::embedded::sys::poll_async;

/// Changes of one file.
pub(crate) struct Changes {
    fd: AsyncFd<OwnedFd>,
}

fn interest() -> WatchFlags {
    WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF | WatchFlags::ATTRIB
}

impl Changes {
    /// Watches a file that exists.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, path, interest())?;
        Ok(Self { fd: poll_async(fd)? })
    }

    /// Watches the file that is now at the path.
    pub(crate) fn again(&mut self, path: &Path) -> io::Result<()> {
        inotify::add_watch(self.fd.get_ref(), path, interest())?;
        Ok(())
    }

    /// Waits for a change; true when the file was moved or removed (rotated).
    pub(crate) async fn wait(&mut self) -> io::Result<bool> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        loop {
            let mut ready = self.fd.readable_mut().await?;
            let read = ready.try_io(|fd| {
                let mut rotated = false;
                let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
                let first = reader.next()?;
                rotated |= moved(first.events());
                while !reader.is_buffer_empty() {
                    rotated |= moved(reader.next()?.events());
                }
                Ok(rotated)
            });
            match read {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

fn moved(events: inotify::ReadFlags) -> bool {
    events.intersects(inotify::ReadFlags::MOVE_SELF | inotify::ReadFlags::DELETE_SELF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writing_and_rotating_are_told_apart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "a").expect("write");
        let mut changes = Changes::of(&path).expect("watch");
        std::fs::write(&path, "ab").expect("write");
        assert!(!changes.wait().await.expect("changed"));
        std::fs::rename(&path, dir.path().join("0.log.1")).expect("rename");
        while !changes.wait().await.expect("changed") {}
        std::fs::write(&path, "new").expect("write");
        changes.again(&path).expect("watch");
    }
}
