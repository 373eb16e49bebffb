//! Room on the disk: a ballast file that is given up when the disk is full, so that deletes and compaction can go on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
};

/// The ballast file and whether the disk is known to be full.
pub(super) struct Room {
    ballast: Option<PathBuf>,
    size: u64,
    full: bool,
}

impl Room {
    /// `ballast`: where the file stands; `None`, or a size of 0: there is none.
    pub(super) fn new(ballast: Option<PathBuf>, size: u64) -> Self {
        Self { ballast: ballast.filter(|_| size > 0), size, full: false }
    }

    /// Whether only deletes are taken at present.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// The disk is full: gives the ballast up.
    pub(super) fn release(&mut self) {
        self.full = true;
        if let Some(path) = &self.ballast {
            // Nothing to do about an error here: the commit that is tried next tells.
            let _ = fs::remove_file(path);
        }
    }

    /// Sets the ballast aside (again), unless it is there. When that succeeds, the disk is not full any more.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        if let Some(path) = &self.ballast {
            let there = fs::metadata(path).is_ok_and(|found| found.len() >= self.size);
            if !there && let Err(err) = allocate(path, self.size) {
                let _ = fs::remove_file(path);
                return Err(err);
            }
        }
        self.full = false;
        Ok(())
    }
}

/// Makes a file whose blocks really exist.
fn allocate(path: &PathBuf, size: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeros(&mut file, size),
        result => Ok(result?),
    }
}

fn write_zeros(file: &mut File, size: u64) -> io::Result<()> {
    let zeros = [0; 1 << 16];
    let mut left = size;
    while left > 0 {
        let step = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(step).unwrap_or(zeros.len())])?;
        left -= step;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_takes_its_bytes_and_gives_them_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        let mut room = Room::new(Some(path.clone()), 1 << 20);
        room.restore().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
        room.release();
        assert!(room.is_full() && !path.exists());
        room.restore().unwrap();
        assert!(!room.is_full() && path.exists());
    }

    #[test]
    fn a_disk_without_room_for_the_ballast_stays_full() {
        let dir = tempfile::tempdir().unwrap();
        let mut room = Room::new(Some(dir.path().join("missing/ballast")), 1 << 20);
        room.release();
        assert!(room.restore().is_err());
        assert!(room.is_full());
    }
}
