//! Small durable steps on the file system, and digests of what passes by.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{ImageError, Result};

/// Makes a directory entry durable.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(ImageError::io(format!("sync {}", path.display())))
}

/// Writes a file so that after a power cut it is there whole, or as it was before.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(ImageError::io(format!("write {}", path.display())))?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// The 64 hex digits of a `sha256:` digest.
pub(super) fn hex_of(digest: &str) -> Result<&str> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => Ok(hex),
        _ => Err(ImageError::Corrupt(format!("unsupported digest {digest:?}: only sha256 with 64 lower-case hex digits is supported"))),
    }
}

/// `sha256:…` of some bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    name_of(Sha256::new_with_prefix(bytes))
}

/// `sha256:…` of what a hasher has seen.
pub(super) fn name_of(hasher: Sha256) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(71);
    name.push_str("sha256:");
    for byte in hasher.finalize() {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Counts and hashes what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    /// Bytes so far.
    pub(super) count: u64,
}

impl<R: Read> Hashing<R> {
    /// Starts with nothing seen.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    /// Reads to the end and answers the digest of everything.
    pub(super) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(name_of(self.hasher))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

/// Bytes that a tree occupies, hard links once.
pub(super) fn tree_size(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    let mut seen = std::collections::HashSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.nlink() < 2 || meta.is_dir() || seen.insert(meta.ino()) {
                total += meta.blocks() * 512;
            }
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn hashing_covers_bytes_that_nobody_read() {
        let mut hashing = Hashing::new(&b"hello world"[..]);
        let mut five = [0; 5];
        hashing.read_exact(&mut five).unwrap();
        assert_eq!(hashing.finish().unwrap(), digest_of(b"hello world"));
    }

    #[test]
    fn only_plain_sha256_digests_become_file_names() {
        assert!(hex_of(&format!("sha256:{}", "a".repeat(64))).is_ok());
        for bad in ["sha256:..", "sha512:00", "sha256:", &format!("sha256:{}", "A".repeat(64))] {
            assert!(hex_of(bad).is_err(), "{bad}");
        }
    }
}
