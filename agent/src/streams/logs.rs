//! Container logs in the CRI format, `time stream tag content` (kubelet `kuberuntime/logs/logs.go`): the end of the file is found from behind,
//! lines are sent as they come, rotation is followed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

use super::follow::Changes;
use super::routes::Query;
use super::{Answer, State, text};
use crate::pods::registry::{ContainerRef, PodHandle, PodView};

const BLOCK: u64 = 64 * 1024;
/// Pieces on their way to a slow reader.
const QUEUE: usize = 16;

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// Whether it came from standard error.
    pub stderr: bool,
    /// The line goes on in the next.
    pub partial: bool,
    /// Without the line break.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line; `None` when it is not in the format.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok().filter(|t| t.len() >= 20)?;
        let stderr = match parts.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = parts.next()?.split(|b| *b == b':').next()? == b"P";
        Some(Self { time, stderr, partial, content: parts.next().unwrap_or_default() })
    }
}

/// What is asked for (`PodLogOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<u64>,
    limit: Option<u64>,
    since: Option<Timestamp>,
    stdout: bool,
    stderr: bool,
}

impl Wanted {
    /// Reads the query.
    pub(crate) fn read(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str, least: i64| match query.get(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(value) => match value.parse::<i64>() {
                Ok(number) if number >= least => Ok(Some(number.unsigned_abs())),
                _ => Err(format!("{name} {value:?}: must be a number of at least {least}")),
            },
        };
        let seconds = number("sinceSeconds", 1)?;
        let time = match query.get("sinceTime").filter(|v| !v.is_empty()) {
            Some(value) => Some(value.parse::<Timestamp>().map_err(|e| format!("sinceTime {value:?}: {e}"))?),
            None => None,
        };
        let ago = seconds.and_then(|s| now.checked_sub(jiff::SignedDuration::from_secs(s.cast_signed())).ok());
        let stream = query.get("stream").unwrap_or("All");
        if !matches!(stream, "" | "All" | "Stdout" | "Stderr") {
            return Err(format!("stream {stream:?}: must be All, Stdout or Stderr"));
        }
        Ok(Self {
            follow: query.flag(&["follow"]),
            previous: query.flag(&["previous"]),
            timestamps: query.flag(&["timestamps"]),
            tail: number("tailLines", 0)?,
            limit: number("limitBytes", 1)?,
            since: ago.or(time),
            stdout: stream != "Stderr",
            stderr: stream != "Stdout",
        })
    }
}

/// Answers with a container's log.
pub(crate) async fn answer(state: &Arc<State>, pod: &Arc<PodHandle>, view: &PodView, container: &ContainerRef, query: &Query) -> Answer {
    let bad = |words: String| text(StatusCode::BAD_REQUEST, words);
    let wanted = match Wanted::read(query, pod.context.options.clock.now()) {
        Ok(wanted) => wanted,
        Err(words) => return bad(words),
    };
    let name = &view.pod.metadata.name;
    let (id, path) = match (wanted.previous, &container.previous, &container.id) {
        (true, Some((id, path)), _) => (id.clone(), path.clone()),
        (true, None, _) => return bad(format!("previous terminated container \"{}\" in pod \"{name}\" not found", container.name)),
        (false, _, Some(id)) => (id.clone(), container.log_path.clone()),
        (false, ..) => {
            return bad(format!("container \"{}\" in pod \"{name}\" is waiting to start: {}", container.name, container.waiting));
        }
    };
    let (tx, rx) = mpsc::channel(QUEUE);
    let reader = Reader { pod: pod.clone(), container: container.name.clone(), id, path, wanted, sent: 0, midline: false, tx };
    state.tasks.spawn(reader.run());
    let frames =
        futures::stream::unfold(
            rx,
            |mut rx| async move { rx.recv().await.map(|bytes: Bytes| (Ok::<_, io::Error>(Frame::data(bytes)), rx)) },
        );
    let mut answer = Answer::new(StreamBody::new(frames).boxed_unsync());
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    answer
}

struct Reader {
    pod: Arc<PodHandle>,
    container: String,
    id: String,
    path: PathBuf,
    wanted: Wanted,
    sent: u64,
    /// The last piece sent did not end its line: the next gets no timestamp.
    midline: bool,
    tx: mpsc::Sender<Bytes>,
}

/// The reader went away or has enough.
struct Enough;

impl Reader {
    async fn run(mut self) {
        let closed = self.tx.clone();
        tokio::select! {
            () = closed.closed() => {}
            _ = self.read() => {}
        }
    }

    async fn read(&mut self) -> Result<(), Enough> {
        if let Some(all) = self.pod.context.runtime.inline_log(&self.id) {
            for line in all.split_inclusive(|b| *b == b'\n') {
                self.send_line(line).await?;
            }
            while self.wanted.follow && self.is_running() {
                self.pod.changed().await;
            }
            return Ok(());
        }
        match self.read_file().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let words = format!("failed to read log {}: {error}\n", self.path.display());
                self.tx.send(words.into()).await.map_err(|_| Enough)
            }
        }
    }

    fn is_running(&self) -> bool {
        self.pod.view().containers.iter().any(|c| c.name == self.container && c.running && c.id.as_deref() == Some(&self.id))
    }

    async fn read_file(&mut self) -> io::Result<()> {
        let mut file = self.open().await?;
        if let Some(tail) = self.wanted.tail {
            let start = tail_offset(&mut file, tail).await?;
            file.seek(io::SeekFrom::Start(start)).await?;
        }
        // Watched before the end is reached, so that nothing written in between is missed.
        let mut changes = if self.wanted.follow { Some(Changes::of(&self.path)?) } else { None };
        let mut reader = BufReader::with_capacity(32 * 1024, file);
        let mut line = Vec::new();
        loop {
            let read = reader.read_until(b'\n', &mut line).await?;
            if read > 0 && line.ends_with(b"\n") {
                if self.send_line(&line).await.is_err() {
                    return Ok(());
                }
                line.clear();
                continue;
            }
            let Some(watch) = &mut changes else {
                // A line being written right now ends the log all the same.
                if !line.is_empty() {
                    let _ = self.send_line(&line).await;
                }
                return Ok(());
            };
            if read > 0 {
                continue;
            }
            let pod = self.pod.clone();
            let ended = pod.changed();
            if !self.is_running() {
                // What was written last is read once more.
                if reader.read_until(b'\n', &mut line).await? == 0 {
                    return Ok(());
                }
                if self.send_line(&line).await.is_err() {
                    return Ok(());
                }
                line.clear();
                continue;
            }
            let rotated = tokio::select! {
                rotated = watch.wait() => rotated?,
                () = ended => false,
            };
            if rotated && let Some(fresh) = self.reopened(watch).await {
                // The old file is read to its end first: the runtime wrote to it until it reopened.
                while reader.read_until(b'\n', &mut line).await? > 0 {
                    if self.send_line(&line).await.is_err() {
                        return Ok(());
                    }
                    line.clear();
                }
                reader = BufReader::with_capacity(32 * 1024, fresh);
            }
        }
    }

    async fn open(&self) -> io::Result<File> {
        File::open(&self.path).await
    }

    /// The new file after a rotation; the runtime makes it a moment later.
    async fn reopened(&self, watch: &mut Changes) -> Option<File> {
        for _ in 0..50 {
            if let Ok(file) = File::open(&self.path).await {
                watch.again(&self.path).ok()?;
                return Some(file);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }

    async fn send_line(&mut self, raw: &[u8]) -> Result<(), Enough> {
        let Some(line) = Line::parse(raw) else { return Ok(()) };
        if line.stderr && !self.wanted.stderr || !line.stderr && !self.wanted.stdout {
            return Ok(());
        }
        if self.wanted.since.is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|at| at < since)) {
            return Ok(());
        }
        let mut out = Vec::with_capacity(line.content.len() + 40);
        if self.wanted.timestamps && !self.midline {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if !line.partial {
            out.push(b'\n');
        }
        self.midline = line.partial;
        let left = self.wanted.limit.map_or(u64::MAX, |limit| limit - self.sent);
        out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.sent += out.len() as u64;
        self.tx.send(out.into()).await.map_err(|_| Enough)?;
        if self.wanted.limit.is_some_and(|limit| self.sent >= limit) { Err(Enough) } else { Ok(()) }
    }
}

/// Where the last `lines` lines begin.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut found = 0;
    let mut end = length;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(io::SeekFrom::Start(start)).await?;
        block.clear();
        (&mut *file).take(end - start).read_to_end(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let offset = start + at as u64;
            // The break that ends the file begins no line.
            if offset + 1 == length {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(offset + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_stream_and_tag() {
        let line = Line::parse(b"2026-11-21T08:00:00.123456789Z stderr P half a \n").expect("a line");
        assert_eq!((line.time, line.stderr, line.partial, line.content), ("2026-11-21T08:00:00.123456789Z", true, true, &b"half a "[..]));
        let empty = Line::parse(b"2026-11-21T08:00:00Z stdout F \n").expect("a line");
        assert_eq!((empty.stderr, empty.partial, empty.content), (false, false, &b""[..]));
        assert_eq!(Line::parse(b"garbage\n"), None);
        assert_eq!(Line::parse(b"2026-11-21T08:00:00Z stdin F x\n"), None);
    }

    #[tokio::test]
    async fn the_tail_is_found_from_behind_over_block_borders() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let text: String = (0..20_000).map(|n| format!("line {n:05}\n")).collect();
        std::fs::write(&path, &text).expect("write");
        let mut file = File::open(&path).await.expect("open");
        for (lines, first) in [(0, None), (1, Some(19_999)), (3, Some(19_997)), (15_000, Some(5_000)), (30_000, Some(0))] {
            let offset = usize::try_from(tail_offset(&mut file, lines).await.expect("found")).expect("small");
            let wanted = first.map(|n: u32| format!("line {n:05}"));
            assert_eq!(text[offset..].lines().next().map(str::to_owned), wanted, "{lines}");
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused_by_name() {
        let now = Timestamp::from_second(1000).expect("valid");
        for (query, word) in
            [("tailLines=-1", "tailLines"), ("limitBytes=0", "limitBytes"), ("sinceTime=x", "sinceTime"), ("stream=x", "stream")]
        {
            let error = Wanted::read(&Query::parse(query), now).expect_err(query);
            assert!(error.starts_with(word), "{error}");
        }
        let wanted = Wanted::read(&Query::parse("follow=true&sinceSeconds=10&stream=Stdout"), now).expect("fine");
        assert_eq!(wanted.since.map(Timestamp::as_second), Some(990));
        assert!(wanted.follow && wanted.stdout && !wanted.stderr);
    }
}
