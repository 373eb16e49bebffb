//! Container logs in CRI format: `time stream F|P line`, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// A log file is put aside when it has this size (kubelet's `containerLogMaxSize`).
const MAX_BYTES: u64 = 10 << 20;
/// Files kept, the current one among them (kubelet's `containerLogMaxFiles`).
const MAX_FILES: usize = 5;
/// A longer line is written in parts.
const MAX_LINE: usize = 16 << 10;

/// The log file of one container.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    /// Opens it for appending; makes its directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }

    /// Opens it anew after somebody moved it away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Writes whole entries. A full disk loses them: the container must not stand still for it.
    pub(super) fn write(&mut self, entries: &[u8], now: Timestamp) {
        if self.size > 0 && self.size + entries.len() as u64 > MAX_BYTES {
            let _ = self.rotate(now);
        }
        if self.file.write_all(entries).is_ok() {
            self.size += entries.len() as u64;
        }
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let aside = self.path.with_file_name(format!("{name}.{}", now.strftime("%Y%m%d-%H%M%S.%f")));
        fs::rename(&self.path, aside)?;
        self.reopen()?;
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let old = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}.")));
        let mut all: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|e| e.path()).filter(old).collect();
        all.sort();
        let surplus = all.len().saturating_sub(MAX_FILES - 1);
        for path in &all[..surplus] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Cuts a stream into log entries.
#[derive(Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Adds bytes as they came; whole lines, and parts of too long ones, are appended to `out`.
    pub(super) fn push(&mut self, stream: &str, bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            self.take(stream, line, now, out);
            entry(stream, 'F', &self.pending, now, out);
            self.pending.clear();
        }
        self.take(stream, rest, now, out);
        if self.pending.is_empty() {
            // Quiet containers hold no memory.
            self.pending = Vec::new();
        }
    }

    /// The stream ended: what is left is a line.
    pub(super) fn finish(&mut self, stream: &str, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            entry(stream, 'F', &self.pending, now, out);
            self.pending = Vec::new();
        }
    }

    fn take(&mut self, stream: &str, mut bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while self.pending.len() + bytes.len() > MAX_LINE {
            let (part, rest) = bytes.split_at(MAX_LINE - self.pending.len());
            self.pending.extend_from_slice(part);
            entry(stream, 'P', &self.pending, now, out);
            self.pending.clear();
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
    }
}

fn entry(stream: &str, tag: char, line: &[u8], now: Timestamp, out: &mut Vec<u8>) {
    let _ = write!(out, "{now:.9} {stream} {tag} ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lines: &mut Lines, text: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        lines.push("stdout", text, Timestamp::UNIX_EPOCH, &mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut lines = Lines::default();
        assert!(push(&mut lines, b"hel").is_empty());
        assert_eq!(
            push(&mut lines, b"lo\n\nx"),
            ["1970-01-01T00:00:00.000000000Z stdout F hello", "1970-01-01T00:00:00.000000000Z stdout F "]
        );
        let mut out = Vec::new();
        lines.finish("stdout", Timestamp::UNIX_EPOCH, &mut out);
        assert!(out.ends_with(b" F x\n"));
    }

    #[test]
    fn a_long_line_comes_in_parts_of_16_kib() {
        let mut lines = Lines::default();
        let parts = push(&mut lines, &[b'a'; 40_000]);
        assert_eq!(parts.iter().map(|p| p.len() - 40).collect::<Vec<_>>(), [16384, 16384]);
        assert!(parts.iter().all(|p| p.contains(" P ")));
        assert_eq!(push(&mut lines, b"\n")[0].len() - 40, 40_000 - 2 * 16384);
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod/0.log");
        let mut log = Log::open(&path).unwrap();
        let chunk = vec![b'x'; 6 << 20];
        for second in 0..8 {
            log.write(&chunk, Timestamp::from_second(second).unwrap());
        }
        let mut names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), MAX_FILES, "{names:?}");
        assert_eq!((names[0].as_str(), names[1].as_str()), ("0.log", "0.log.19700101-000004.0"));
    }
}
