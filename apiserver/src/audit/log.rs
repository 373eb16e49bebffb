//! Events as lines of a file that is put aside when it is full (`plugin/pkg/audit/log`; file names as lumberjack makes them).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
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

/// Lines on their way, how many they are, and who waits for them.
struct Line {
    text: Bytes,
    events: u64,
    written: Option<oneshot::Sender<bool>>,
}

/// The file and its queue.
pub(super) struct Log {
    place: Arc<Place>,
    /// Those that nobody waits for.
    queue: Option<Queue>,
    pub(super) mode: Mode,
    pub(super) truncation: Option<Truncation>,
    pub(super) format: Format,
}

/// Where lines go. Those that have to wait go through a thread, which ends when this is dropped, after all of them were written.
struct Place {
    output: Arc<Mutex<Output>>,
    /// Neither a pipe nor a device, whose writers wait for readers.
    regular: bool,
    lines: mpsc::Sender<Line>,
}

/// Lines that are written at once at most.
const GROUP: usize = 256;
/// Another request's copy to the kernel is over by then; a file that is put aside is not.
const MOMENT: Duration = Duration::from_micros(50);
/// Lines on their way to the file.
const LINES: usize = 1024;
/// What is held back is in the file after this, if nothing was written before.
const HELD: Duration = Duration::from_millis(10);

impl Log {
    /// Opens the file. The error names it.
    pub(super) fn open(options: LogOptions) -> Result<Self, String> {
        let LogOptions { mode, mut batch, truncation, format, .. } = options;
        let place = Arc::new(Place::open(options)?);
        if batch.wait.is_zero() && batch.throttle.is_none() {
            // Where one batch ends and the next begins cannot be seen in a file.
            batch.size = batch.size.max(GROUP);
        }
        let queue = (mode == Mode::Batch).then(|| {
            let place = Arc::clone(&place);
            let deliver: Deliver = Arc::new(move |events| {
                let place = Arc::clone(&place);
                Box::pin(async move {
                    place.write(events.concat().into(), events.len() as u64).await;
                })
            });
            Queue::start(batch, false, deliver)
        });
        Ok(Self { place, queue, mode, truncation, format })
    }

    /// Takes an event; in blocking modes returns when it is written. Whether it is.
    pub(super) async fn take(&self, text: Bytes) -> bool {
        match &self.queue {
            Some(queue) => {
                queue.take(text);
                true
            }
            None => self.place.write(text, 1).await,
        }
    }

    /// Takes an event that may be written with the next one, or a moment later, where that costs less. Whether it is taken.
    pub(super) fn hold(&self, text: &[u8]) -> bool {
        // The next one may turn out too large to be written.
        self.mode == Mode::Blocking && self.truncation.is_none() && self.place.hold(text)
    }

    /// Takes an event for which nobody waits.
    pub(super) fn leave(&self, text: Bytes) {
        match &self.queue {
            Some(queue) => queue.take(text),
            None => self.place.leave(text),
        }
    }

    /// Ends when all is written.
    pub(super) async fn close(&self) {
        if let Some(queue) = &self.queue {
            queue.close().await;
        }
        // Lines go one after the other: when the last is written, all are.
        self.place.hand_over(Bytes::new(), 0).await;
    }
}

impl Place {
    fn open(options: LogOptions) -> Result<Self, String> {
        let place = options.path.display().to_string();
        let output = Output::open(options).map_err(|e| format!("audit log {place}: {e}"))?;
        let regular = output.is_regular();
        let output = Arc::new(Mutex::new(output));
        let (lines, mut queued) = mpsc::channel(LINES);
        let to = Arc::clone(&output);
        let run = move || {
            let mut group: Vec<Line> = Vec::new();
            while queued.blocking_recv_many(&mut group, GROUP) > 0 {
                let texts: Vec<&[u8]> = group.iter().map(|line| &*line.text).collect();
                let good = to.lock().write(&texts.concat(), group.iter().map(|line| line.events).sum());
                for waiting in group.drain(..).filter_map(|line| line.written) {
                    // Whoever gave up waiting does not want to know.
                    let _ = waiting.send(good);
                }
            }
        };
        thread::Builder::new().name("audit-log".into()).spawn(run).map_err(|e| format!("audit log {place}: {e}"))?;
        Ok(Self { output, regular, lines })
    }

    /// Writes lines, of so many events; whether they are written.
    async fn write(&self, text: Bytes, events: u64) -> bool {
        match self.write_now(&text, events) {
            Some(written) => written,
            None => self.hand_over(text, events).await,
        }
    }

    /// Writes to a file that is free in a moment and not full: a copy to the kernel, which costs a tenth of handing the line to a thread and waiting for
    /// it. `None`: it has to wait; of other things it is not known how long writing takes.
    fn write_now(&self, text: &[u8], events: u64) -> Option<bool> {
        if !self.regular {
            return None;
        }
        let mut output = self.output.try_lock_for(MOMENT).filter(|output| output.has_room(text.len()))?;
        Some(output.write(text, events))
    }

    /// Holds a line back until the next is written, but not for long.
    fn hold(&self, text: &[u8]) -> bool {
        if !self.regular {
            return false;
        }
        let Some(mut output) = self.output.try_lock() else { return false };
        output.held.extend_from_slice(text);
        output.held_events += 1;
        if !std::mem::replace(&mut output.awaited, true) {
            let output = Arc::clone(&self.output);
            tokio::spawn(async move {
                tokio::time::sleep(HELD).await;
                let mut output = output.lock();
                output.awaited = false;
                output.write(&[], 0);
            });
        }
        true
    }

    /// Has the thread write lines; whether it has.
    async fn hand_over(&self, text: Bytes, events: u64) -> bool {
        let (written, done) = oneshot::channel();
        self.lines.send(Line { text, events, written: Some(written) }).await.is_ok() && done.await.unwrap_or(false)
    }

    /// Writes a line, or has it written without anybody waiting for it.
    fn leave(&self, text: Bytes) {
        if self.write_now(&text, 1).is_none() && self.lines.try_send(Line { text, events: 1, written: None }).is_err() {
            AUDIT_ERRORS.inc(["log"]);
            warn!("an audit event was lost: too many wait to be written");
        }
    }
}

/// Where lines go, and those that go there with the next ones.
struct Output {
    target: Target,
    held: Vec<u8>,
    held_events: u64,
    /// Somebody will write what is held.
    awaited: bool,
}

/// Standard output or a file.
enum Target {
    Standard,
    File {
        file: File,
        size: u64,
        options: Arc<LogOptions>,
        /// Held by who looks after files put aside.
        tidying: Arc<Mutex<()>>,
    },
}

impl Output {
    fn open(options: LogOptions) -> io::Result<Self> {
        Ok(Self { target: Target::open(options)?, held: Vec::new(), held_events: 0, awaited: false })
    }

    fn is_regular(&self) -> bool {
        matches!(&self.target, Target::File { file, .. } if file.metadata().is_ok_and(|about| about.is_file()))
    }

    /// Whether so many bytes go to the file as it is.
    fn has_room(&self, more: usize) -> bool {
        let more = (more + self.held.len()) as u64;
        matches!(&self.target, Target::File { size, options, .. } if *size + more <= most(options))
    }

    /// Writes what is held, and lines of so many events. Whether they are written; if not, their events are counted as lost.
    fn write(&mut self, text: &[u8], events: u64) -> bool {
        let done = if self.held.is_empty() {
            self.target.write(text)
        } else {
            self.held.extend_from_slice(text);
            self.target.write(&self.held)
        };
        let events = events + std::mem::take(&mut self.held_events);
        self.held.clear();
        if let Err(fault) = &done {
            AUDIT_ERRORS.add(["log"], events);
            error!(error = %fault, events, "audit events could not be written");
        }
        done.is_ok()
    }
}

impl Target {
    fn open(options: LogOptions) -> io::Result<Self> {
        if options.path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if let Some(folder) = options.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let (file, size) = open(&options.path)?;
        Ok(Self::File { file, size, options: Arc::new(options), tidying: Arc::default() })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => io::stdout().lock().write_all(bytes),
            Self::File { .. } if bytes.is_empty() => Ok(()),
            Self::File { file, size, options, tidying, .. } => {
                if *size > 0 && *size + bytes.len() as u64 > most(options) {
                    match fs::rename(&options.path, set_aside(&options.path, Timestamp::now())) {
                        Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
                        // Who took the file away wants a new one.
                        _ => (*file, *size) = open(&options.path)?,
                    }
                    tidy_aside(options, tidying);
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
    if options.max_size == 0 { u64::MAX } else { options.max_size.saturating_mul(1 << 20) }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// The time in the name of a file put aside.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.f";

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

/// A file that was put aside.
struct Aside {
    at: Timestamp,
    compressed: bool,
    path: PathBuf,
}

/// Looks after files put aside, while events go on being written.
fn tidy_aside(options: &Arc<LogOptions>, tidying: &Arc<Mutex<()>>) {
    let (options, tidying) = (Arc::clone(options), Arc::clone(tidying));
    let run = move || {
        let _alone = tidying.lock();
        // What is wrong with old files does not keep new events from being written.
        if let Err(fault) = tidy(&options, Timestamp::now()) {
            warn!(error = %fault, "old audit logs could not be compressed or removed");
        }
    };
    if let Err(fault) = thread::Builder::new().name("audit-tidy".into()).spawn(run) {
        warn!(error = %fault, "old audit logs could not be compressed or removed");
    }
}

/// Removes what is too old or too much of what was put aside, and compresses the rest.
fn tidy(options: &LogOptions, now: Timestamp) -> io::Result<()> {
    let mut kept = aside(&options.path)?;
    kept.sort_by_key(|file| std::cmp::Reverse(file.at));
    let longest = options.max_age.saturating_mul(24 * 60 * 60);
    for (nth, file) in kept.iter().enumerate() {
        let old = options.max_age > 0 && now.duration_since(file.at).as_secs() > i64::try_from(longest).unwrap_or(i64::MAX);
        if old || (options.max_backups > 0 && nth >= options.max_backups) {
            fs::remove_file(&file.path)?;
        } else if options.compress && !file.compressed {
            compress(&file.path)?;
        }
    }
    Ok(())
}

/// The files that were put aside: their names tell when. Others of the folder are somebody else's.
fn aside(log: &Path) -> io::Result<Vec<Aside>> {
    let (stem, extension) = parts(log);
    let folder = log.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz");
        let time = plain.unwrap_or(&name).strip_prefix(&stem).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(&extension));
        let at = time.and_then(|time| DateTime::strptime(TIME, time).ok()?.to_zoned(TimeZone::UTC).ok());
        if let Some(at) = at {
            found.push(Aside { at: at.timestamp(), compressed: plain.is_some(), path });
        }
    }
    Ok(found)
}

/// Compresses a file. What an earlier attempt left half done is written over.
fn compress(path: &Path) -> io::Result<()> {
    let mut source = File::open(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let compressed = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&name)?;
    let mut encoder = GzEncoder::new(compressed, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of a log in a folder of its own.
    pub(in crate::audit) fn options(folder: &Path) -> LogOptions {
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
    async fn what_is_held_stands_before_the_next_line_or_comes_soon() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(options(folder.path())).unwrap();
        let text = || fs::read_to_string(folder.path().join("deep/audit.log")).unwrap();
        assert!(log.hold(b"one\n") && log.hold(b"two\n"));
        assert_eq!(text(), "");
        assert!(log.take(Bytes::from_static(b"three\n")).await);
        assert_eq!(text(), "one\ntwo\nthree\n");
        assert!(log.hold(b"four\n"));
        tokio::time::timeout(Duration::from_secs(5), async {
            while !text().ends_with("four\n") {
                tokio::time::sleep(HELD).await;
            }
        })
        .await
        .unwrap();
        assert!(log.hold(b"five\n"));
        log.close().await;
        assert!(text().ends_with("four\nfive\n"));
        let strict = Log::open(LogOptions { mode: Mode::BlockingStrict, ..options(folder.path()) }).unwrap();
        assert!(!strict.hold(b"six\n"), "its requests wait for their events");
    }

    #[tokio::test]
    async fn a_device_is_written_by_the_thread_alone() {
        let log = Log::open(LogOptions { path: "/dev/null".into(), ..options(Path::new("/")) }).unwrap();
        assert!(!log.place.regular);
        assert_eq!(log.place.write_now(b"one\n", 1), None, "the thread writes");
        assert!(log.take(Bytes::from_static(b"one\n")).await);
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

    #[tokio::test]
    async fn at_the_end_all_is_written_that_nobody_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(options(folder.path())).unwrap();
        let busy = log.place.output.lock();
        log.leave(Bytes::from_static(b"one\n"));
        assert_eq!(fs::read_to_string(folder.path().join("deep/audit.log")).unwrap(), "");
        drop(busy);
        log.close().await;
        assert_eq!(fs::read_to_string(folder.path().join("deep/audit.log")).unwrap(), "one\n");
        log.leave(Bytes::from_static(b"two\n"));
        assert_eq!(fs::read_to_string(folder.path().join("deep/audit.log")).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_full_file_is_put_aside_the_oldest_go_and_files_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep");
        fs::create_dir(&deep).unwrap();
        for day in ["01", "02", "03"] {
            fs::write(deep.join(format!("audit-2026-01-{day}T00-00-00.000.log")), "old").unwrap();
        }
        for others in ["other.log", "audit-archive.log", "audit-2026.log.gz"] {
            fs::write(deep.join(others), "other").unwrap();
        }
        let mut output = Output::open(options(folder.path())).unwrap();
        assert!(output.write(&vec![b'x'; 900_000], 1));
        assert!(output.write(&vec![b'y'; 200_000], 1));
        let Target::File { options, tidying, .. } = &output.target else { panic!("a file") };
        let _alone = tidying.lock();
        // The thread may have been first, or not: the outcome is the same.
        tidy(options, Timestamp::now()).unwrap();
        let left = names(folder.path());
        assert_eq!(left.len(), 6, "{left:?}");
        assert_eq!(left[0], "audit-2026-01-03T00-00-00.000.log");
        assert_eq!(&left[2..], ["audit-2026.log.gz", "audit-archive.log", "audit.log", "other.log"]);
        assert_eq!(fs::metadata(deep.join("audit.log")).unwrap().len(), 200_000);
        assert_eq!(fs::metadata(deep.join(&left[1])).unwrap().len(), 900_000);
    }

    #[test]
    fn what_is_older_than_its_name_may_be_goes() {
        let folder = tempfile::tempdir().unwrap();
        let options = LogOptions { max_age: 2, ..options(folder.path()) };
        fs::create_dir(folder.path().join("deep")).unwrap();
        for day in ["01", "03"] {
            fs::write(folder.path().join(format!("deep/audit-2026-01-{day}T00-00-00.000.log")), "old").unwrap();
        }
        tidy(&options, "2026-01-04T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(names(folder.path()), ["audit-2026-01-03T00-00-00.000.log"]);
    }

    #[test]
    fn what_is_put_aside_may_be_compressed_and_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/audit-2026-01-03T00-00-00.000.log");
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(&path, "x".repeat(900_000)).unwrap();
        let options = LogOptions { compress: true, ..options(folder.path()) };
        tidy(&options, "2026-01-04T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(names(folder.path()), ["audit-2026-01-03T00-00-00.000.log.gz"]);
        let packed = File::open(path.with_extension("log.gz")).unwrap();
        assert_eq!(packed.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut text = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text.len(), 900_000);
    }

    #[test]
    fn a_file_that_somebody_took_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::open(options(folder.path())).unwrap();
        assert!(output.write(&vec![b'x'; 900_000], 1));
        fs::remove_file(folder.path().join("deep/audit.log")).unwrap();
        assert!(output.write(&vec![b'y'; 200_000], 1));
        assert_eq!(fs::metadata(folder.path().join("deep/audit.log")).unwrap().len(), 200_000);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = Log::open(LogOptions { path: folder.path().to_owned(), ..options(folder.path()) }).err().unwrap();
        assert!(wrong.starts_with(&format!("audit log {}: ", folder.path().display())), "{wrong}");
    }
}
