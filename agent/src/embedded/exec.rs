//! Running processes in containers, and connections into pods.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::oneshot::ExecFile;
use super::pod::{Container, Pod};
use super::protocol::{Reply, Request};
use super::streams::{self, Terminal};
use super::{client, failed, protocol, record};
use crate::runtime::{ExecOutput, ExecRequest, Result, RuntimeError, StreamSession, TerminalSize, Writer};

/// What is kept of each output of a process run to its end.
const MAX_OUTPUT: usize = 16 << 10;
/// A process may leave others behind that hold its pipes: they are not waited for longer.
const LINGER: Duration = Duration::from_millis(500);
/// Starting a process may take this long.
const START: Duration = Duration::from_secs(120);

impl Pod {
    /// Runs a command to its end.
    pub(super) async fn exec_sync(&self, container: &Container, command: &[String], limit: Duration) -> Result<ExecOutput> {
        let request = ExecRequest { command: command.to_vec(), stdout: true, stderr: true, ..ExecRequest::default() };
        let run = async {
            let session = self.exec(container, &request).await?;
            let (Some(stdout), Some(stderr)) = (session.stdout, session.stderr) else {
                return Err(RuntimeError::Failed("exec without streams".to_owned()));
            };
            let out = tokio::spawn(streams::read_limited(stdout, MAX_OUTPUT));
            let err = tokio::spawn(streams::read_limited(stderr, MAX_OUTPUT));
            let exit_code = session.exit.await?;
            let (stop_out, stop_err) = (out.abort_handle(), err.abort_handle());
            let both = tokio::time::timeout(LINGER, futures::future::join(out, err)).await;
            stop_out.abort();
            stop_err.abort();
            let (stdout, stderr) = both.map(|(o, e)| (o.unwrap_or_default(), e.unwrap_or_default())).unwrap_or_default();
            Ok(ExecOutput { stdout, stderr, exit_code })
        };
        tokio::time::timeout(limit, run).await.unwrap_or(Err(RuntimeError::Timeout(limit)))
    }

    /// Runs a command with streams.
    pub(super) async fn exec(&self, container: &Container, request: &ExecRequest) -> Result<StreamSession> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = &container.record.id;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("exec-{}-{number}", std::process::id());
        let dir = self.dir.container(id);
        let console = request.tty.then(|| format!("{name}.sock"));
        let what = "prepare exec";
        let listener = console.as_ref().map(|console| protocol::listen(&dir.0, console)).transpose().map_err(failed(what))?;
        let file = format!("{name}.json");
        let content = ExecFile { command: request.command.clone(), console: console.clone(), size: request.size };
        record::write(&dir.0.join(&file), &content).map_err(failed(what))?;
        let (theirs, ours) = if request.tty { (Vec::new(), Pipes::default()) } else { Pipes::make(request).map_err(failed(what))? };
        let ask = Request::Exec { id: id.clone(), file: file.clone() };
        let lost = |e: io::Error| RuntimeError::Failed(format!("the pod's shim does not answer: {e}"));
        let mut stream = client::open(&self.dir.0, &ask, &theirs).map_err(lost)?;
        drop(theirs);
        let started = tokio::time::timeout(START, client::next(&mut stream)).await;
        let terminal = listener.map(|listener| take_terminal(&listener));
        if let Some(console) = console {
            let _ = std::fs::remove_file(dir.0.join(console));
        }
        let _ = std::fs::remove_file(dir.0.join(file));
        match started {
            Ok(Ok(Some(Reply::Done))) => {}
            Ok(Ok(Some(Reply::Failed { message }))) => return Err(RuntimeError::Failed(format!("failed to exec in container: {message}"))),
            Ok(Ok(other)) => return Err(RuntimeError::Failed(format!("unexpected answer of the pod's shim: {other:?}"))),
            Ok(Err(e)) => return Err(lost(e)),
            Err(_) => return Err(RuntimeError::Timeout(START)),
        }
        let exit = end_of(stream).boxed();
        match terminal {
            Some(terminal) => {
                let terminal = terminal.map_err(failed("terminal of the exec"))?;
                Ok(StreamSession {
                    stdin: request.stdin.then(|| Box::new(terminal.clone()) as Writer),
                    resize: Some(resizer(terminal.clone())),
                    stdout: Some(Box::new(terminal)),
                    stderr: None,
                    exit,
                })
            }
            None => {
                let pipes = "pipes of the exec";
                let stdin = ours.stdin.map(streams::writer).transpose().map_err(failed(pipes))?;
                let stdout = ours.stdout.map(streams::reader).transpose().map_err(failed(pipes))?;
                let stderr = ours.stderr.map(streams::reader).transpose().map_err(failed(pipes))?;
                Ok(StreamSession { stdin, stdout, stderr, resize: None, exit })
            }
        }
    }
}

/// Our ends of a process's pipes.
#[derive(Default)]
struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    /// The process's three ends, and ours of those that are wanted; the others lead nowhere.
    fn make(request: &ExecRequest) -> io::Result<(Vec<OwnedFd>, Self)> {
        let null = || io::Result::Ok(OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null")?));
        let mut ours = Self::default();
        let mut theirs = Vec::with_capacity(3);
        if request.stdin {
            let (reader, writer) = io::pipe()?;
            theirs.push(reader.into());
            ours.stdin = Some(writer.into());
        } else {
            theirs.push(null()?);
        }
        for (wanted, end) in [(request.stdout, &mut ours.stdout), (request.stderr, &mut ours.stderr)] {
            if wanted {
                let (reader, writer) = io::pipe()?;
                theirs.push(writer.into());
                *end = Some(reader.into());
            } else {
                theirs.push(null()?);
            }
        }
        Ok((theirs, ours))
    }
}

/// The terminal arrived before the answer, or never will.
fn take_terminal(listener: &UnixListener) -> io::Result<Terminal> {
    listener.set_nonblocking(true)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Terminal::new(protocol::receive_fd(&stream)?)
}

/// Takes sizes until nobody sends any more; only the last counts.
fn resizer(terminal: Terminal) -> mpsc::Sender<TerminalSize> {
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            if let Err(e) = terminal.resize(size) {
                tracing::debug!(error = %e, "terminal cannot be resized");
            }
        }
    });
    sender
}

async fn end_of(mut stream: UnixStream) -> Result<i32> {
    match client::next(&mut stream).await {
        Ok(Some(Reply::Ended { code })) => Ok(code),
        Ok(_) => Err(RuntimeError::Failed("the pod's shim is gone".to_owned())),
        Err(e) => Err(failed("wait for the end of the exec")(e)),
    }
}
