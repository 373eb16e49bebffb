//! The root file system of a container: overlayfs over the image's layers, and looking inside it without being led outside.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::record::{ContainerDir, ContainerRecord};

/// Account files are small; of a larger one only the beginning is read.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// Mounts the root file system. Changes the working directory of this process.
///
/// # Errors
/// Words with the remedy when the file system cannot carry an overlay.
pub(super) fn mount_overlay(record: &ContainerRecord, dir: &ContainerDir) -> Result<(), String> {
    let make = |name: &str| -> Result<OwnedFd, String> {
        let path = dir.0.join(name);
        fs::create_dir_all(&path)
            .and_then(|()| Ok(open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
            .map_err(|e| format!("create {}: {e}", path.display()))
    };
    let (rootfs, upper, work, empty) = (make("rootfs")?, make("upper")?, make("work")?, make("empty")?);
    // Layers by their short names from their directory, the rest by descriptors: `mount` takes one page of options, and commas and colons
    // in paths mean nothing then.
    std::env::set_current_dir(&record.layers_dir).map_err(|e| format!("open {}: {e}", record.layers_dir.display()))?;
    let mut layers: Vec<&str> = record.layers.iter().rev().map(String::as_str).collect();
    let nothing = fd_path(&empty);
    if layers.is_empty() {
        layers.push(&nothing);
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), fd_path(&upper), fd_path(&work));
    let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
    let result = mount("overlay", fd_path(&rootfs), "overlay", MountFlags::empty(), Some(options.as_c_str()));
    let _ = std::env::set_current_dir("/");
    result.map_err(|e| {
        let remedy = match e {
            rustix::io::Errno::INVAL => {
                "; the data directory must be on a file system that overlayfs can write to (ext4, xfs, tmpfs, not overlayfs)"
            }
            rustix::io::Errno::NODEV => "; the kernel needs overlayfs: load the module `overlay`",
            _ => "",
        };
        format!("mount overlay of {} layers: {e}{remedy}", record.layers.len())
    })
}

/// Unmounts it; not mounted is fine.
pub(super) fn unmount_overlay(dir: &ContainerDir) {
    while unmount(dir.rootfs(), UnmountFlags::DETACH).is_ok() {}
}

fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The inside of a container's root.
pub(super) struct Root(OwnedFd);

impl Root {
    /// Opens it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Reads a file as the container would see it; empty when it is not there.
    pub(super) fn read(&self, path: &str) -> String {
        let opened = openat2(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty(), ResolveFlags::IN_ROOT);
        let mut text = Vec::new();
        if let Ok(fd) = opened {
            let _ = File::from(fd).take(MAX_ACCOUNTS_BYTES).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Makes a directory and those above it, for a working directory that the image does not have.
    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok() {
            return Ok(());
        }
        let mut at = openat2(&self.0, ".", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let mut sofar = std::path::PathBuf::new();
        for part in path.components() {
            let std::path::Component::Normal(part) = part else { continue };
            match mkdirat(at.as_fd(), part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            sofar.push(part);
            at = openat2(&self.0, &sofar, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        }
        Ok(())
    }
}
