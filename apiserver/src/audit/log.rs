//! Events as lines of a file that is put aside when it is full (`plugin/pkg/audit/log`; file names as lumberjack makes them).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::{
    Batch, Truncation,
    batch::{Deliver, Queue},
};
use crate::metrics::access::AUDIT_ERRORS;

/// Where events go, and how long files are kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// A full file is put aside, in megabytes (of 1024 KiB, as upstream's); 0: never.
    pub max_size: u64,
    /// Days that files put aside are kept; 0: forever.
    pub max_age: u64,
    /// Files put aside that are kept; 0: all.
    pub max_backups: usize,
    /// Whether files put aside are compressed.
    pub compress: bool,
    /// Whether requests wait until their events are written.
    pub mode: Mode,
    /// How events are gathered when nobody waits for them.
    pub batch: Batch,
    /// What is too large.
    pub truncation: Option<Truncation>,
    /// How an event is written (`--audit-log-format`).
    pub format: Format,
}

/// How an event is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// As JSON.
    #[default]
    Json,
    /// The most important of it, as text.
    Legacy,
}

/// Whether requests wait for their events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// No; when too many wait, they are lost.
    Batch,
    /// Yes.
    #[default]
    Blocking,
    /// Yes, and a request of which nothing can be written is refused.
    BlockingStrict,
}

/// A line on its way, and who waits for it.
struct Line {
    text: Bytes,
    written: Option<oneshot::Sender<bool>>,
}

/// The file and its queue. The queue's thread ends when the queue is dropped, after all that waits was written.
pub(super) struct Log {
    output: Arc<Mutex<Output>>,
    lines: mpsc::Sender<Line>,
    /// Those that nobody waits for.
    queue: Option<Queue>,
    pub(super) mode: Mode,
    pub(super) truncation: Option<Truncation>,
    pub(super) format: Format,
}

/// Lines that are written at once at most.
const GROUP: usize = 256;
/// Lines on their way to the file.
const LINES: usize = 1024;

impl Log {
    /// Opens the file. The error names it.
    pub(super) fn open(options: LogOptions) -> Result<Self, String> {
        let place = options.path.display().to_string();
        let LogOptions { mode, batch, truncation, format, .. } = options;
        let (lines, mut queued) = mpsc::channel(LINES);
        let output = Output::open(options).map_err(|e| format!("audit log {place}: {e}"))?;
        let output = Arc::new(Mutex::new(output));
        let to = Arc::clone(&output);
        let run = move || {
            let mut group: Vec<Line> = Vec::new();
            while queued.blocking_recv_many(&mut group, GROUP) > 0 {
                let texts: Vec<&[u8]> = group.iter().map(|line| &*line.text).collect();
                let done = to.lock().write(&texts.concat());
                if let Err(fault) = &done {
                    AUDIT_ERRORS.add(["log"], group.len() as u64);
                    error!(error = %fault, "audit events could not be written");
                }
                for waiting in group.drain(..).filter_map(|line| line.written) {
                    // Whoever gave up waiting does not want to know.
                    let _ = waiting.send(done.is_ok());
                }
            }
        };
        thread::Builder::new().name("audit-log".into()).spawn(run).map_err(|e| format!("audit log {place}: {e}"))?;
        let queue = (mode == Mode::Batch).then(|| Queue::start(batch, false, delivering(lines.clone())));
        Ok(Self { output, lines, queue, mode, truncation, format })
    }

    /// Takes an event; in blocking modes returns when it is written. Whether it is.
    pub(super) async fn take(&self, text: Bytes) -> bool {
        match &self.queue {
            Some(queue) => {
                queue.take(text);
                true
            }
            None => match self.write_now(&text) {
                Some(written) => written,
                None => write(&self.lines, text).await,
            },
        }
    }

    /// Writes to a file that is free and not full: a copy to the kernel, which costs a tenth of handing the line to a thread and waiting for
    /// it. `None`: it has to wait.
    fn write_now(&self, text: &[u8]) -> Option<bool> {
        let mut output = self.output.try_lock().filter(|output| output.has_room(text.len()))?;
        let done = output.write(text);
        drop(output);
        if let Err(fault) = &done {
            AUDIT_ERRORS.inc(["log"]);
            error!(error = %fault, "an audit event could not be written");
        }
        Some(done.is_ok())
    }

    /// Takes an event for which nobody waits.
    pub(super) fn leave(&self, text: Bytes) {
        match &self.queue {
            Some(queue) => queue.take(text),
            None => {
                if self.lines.try_send(Line { text, written: None }).is_err() {
                    AUDIT_ERRORS.inc(["log"]);
                    warn!("an audit event was lost: too many wait to be written");
                }
            }
        }
    }

    /// Ends when all is written.
    pub(super) async fn close(&self) {
        if let Some(queue) = &self.queue {
            queue.close().await;
        }
    }
}

/// Has a line written; whether it was.
async fn write(lines: &mpsc::Sender<Line>, text: Bytes) -> bool {
    let (written, done) = oneshot::channel();
    lines.send(Line { text, written: Some(written) }).await.is_ok() && done.await.unwrap_or(false)
}

/// What takes batches: their lines go to the file in one piece.
fn delivering(lines: mpsc::Sender<Line>) -> Deliver {
    Arc::new(move |events: Vec<Bytes>| {
        let (lines, text) = (lines.clone(), Bytes::from(events.concat()));
        Box::pin(async move {
            write(&lines, text).await;
        })
    })
}

/// Standard output or a file.
enum Output {
    Standard,
    /// `regular`: neither a pipe nor a device, whose writers wait for readers.
    File {
        file: File,
        size: u64,
        regular: bool,
        options: LogOptions,
    },
}

impl Output {
    fn open(options: LogOptions) -> io::Result<Self> {
        if options.path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if let Some(folder) = options.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let (file, size) = open(&options.path)?;
        let regular = file.metadata()?.is_file();
        Ok(Self::File { file, size, regular, options })
    }

    /// Whether so many bytes go to a file as it is. Of other things it is not known how long writing takes.
    fn has_room(&self, more: usize) -> bool {
        matches!(self, Self::File { size, regular: true, options, .. } if *size + more as u64 <= most(options))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => io::stdout().lock().write_all(bytes),
            Self::File { file, size, options, .. } => {
                if *size > 0 && *size + bytes.len() as u64 > most(options) {
                    let aside = set_aside(&options.path, Timestamp::now());
                    fs::rename(&options.path, &aside)?;
                    (*file, *size) = open(&options.path)?;
                    // What is wrong with old files does not keep new events from being written.
                    if let Err(fault) = tidy(options, &aside) {
                        warn!(error = %fault, "old audit logs could not be compressed or removed");
                    }
                }
                file.write_all(bytes)?;
                *size += bytes.len() as u64;
                Ok(())
            }
        }
    }
}

/// Bytes a file holds before it is put aside.
fn most(options: &LogOptions) -> u64 {
    if options.max_size == 0 { u64::MAX } else { options.max_size << 20 }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;

    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// `audit.log` put aside: `audit-2026-01-02T15-04-05.000.log`
fn set_aside(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", now.strftime("%Y-%m-%dT%H-%M-%S%.3f")))
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (text(path.file_stem()), extension)
}

/// Compresses what was put aside, and removes what is too old or too much.
fn tidy(options: &LogOptions, aside: &Path) -> io::Result<()> {
    if options.compress {
        let compressed = PathBuf::from(format!("{}.gz", aside.display()));
        let mut encoder = GzEncoder::new(File::create(&compressed)?, Compression::default());
        io::copy(&mut File::open(aside)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::remove_file(aside)?;
    }
    let (stem, extension) = parts(&options.path);
    let folder = options.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut kept: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        if plain.starts_with(&format!("{stem}-")) && plain.ends_with(&extension) {
            kept.push(path);
        }
    }
    // Names are times: the newest first.
    kept.sort();
    kept.reverse();
    let age = Duration::from_secs(options.max_age * 24 * 60 * 60);
    for (at, path) in kept.iter().enumerate() {
        let modified = fs::metadata(path)?.modified()?;
        let old = options.max_age > 0 && SystemTime::now().duration_since(modified).unwrap_or_default() > age;
        if old || (options.max_backups > 0 && at >= options.max_backups) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path) -> LogOptions {
        let path = folder.join("deep/audit.log");
        LogOptions {
            path,
            max_size: 1,
            max_age: 0,
            max_backups: 2,
            compress: false,
            mode: Mode::Blocking,
            batch: BATCH,
            truncation: None,
            format: Format::Json,
        }
    }

    const BATCH: Batch = Batch { buffer: 10, size: 1, wait: Duration::ZERO, throttle: None };

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder.join("deep")).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn whoever_waits_finds_the_event_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(options(folder.path())).unwrap();
        assert!(log.take(Bytes::from_static(b"one\n")).await && log.take(Bytes::from_static(b"two\n")).await);
        assert_eq!(fs::read_to_string(folder.path().join("deep/audit.log")).unwrap(), "one\ntwo\n");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_in_the_file_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions { mode: Mode::Batch, ..options(folder.path()) }).unwrap();
        for line in ["one\n", "two\n"] {
            assert!(log.take(Bytes::from_static(line.as_bytes())).await);
        }
        log.close().await;
        assert_eq!(fs::read_to_string(folder.path().join("deep/audit.log")).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::open(options(folder.path())).unwrap();
        let deep = folder.path().join("deep");
        for day in ["01", "02", "03"] {
            fs::write(deep.join(format!("audit-2026-01-{day}T00-00-00.000.log")), "old").unwrap();
        }
        fs::write(deep.join("other.log"), "other").unwrap();
        output.write(&vec![b'x'; 900_000]).unwrap();
        output.write(&vec![b'y'; 200_000]).unwrap();
        let left = names(folder.path());
        assert_eq!((left.len(), &*left[0], &*left[2], &*left[3]), (4, "audit-2026-01-03T00-00-00.000.log", "audit.log", "other.log"));
        assert_eq!(fs::metadata(deep.join("audit.log")).unwrap().len(), 200_000);
        assert_eq!(fs::metadata(deep.join(&left[1])).unwrap().len(), 900_000);
    }

    #[test]
    fn what_is_put_aside_may_be_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::open(LogOptions { compress: true, ..options(folder.path()) }).unwrap();
        output.write(&vec![b'x'; 900_000]).unwrap();
        output.write(&vec![b'y'; 200_000]).unwrap();
        let name = names(folder.path()).into_iter().find(|n| n.ends_with(".log.gz")).unwrap();
        let mut text = Vec::new();
        let packed = File::open(folder.path().join("deep").join(name)).unwrap();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text.len(), 900_000);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = Log::open(LogOptions { path: folder.path().to_owned(), ..options(folder.path()) }).err().unwrap();
        assert!(wrong.starts_with(&format!("audit log {}: ", folder.path().display())), "{wrong}");
    }
}
