//! The shim: one small process per pod that stands between agent and containers, so that containers outlive the agent. It starts them
//! through one-shots, writes their logs, knows their exit codes. Single thread, one `poll`, no async runtime.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions};

use super::cgroup::Hierarchies;
use super::log::{Lines, Log};
use super::oneshot::Outcome;
use super::protocol::{self, Reply, Request};
use super::record::{self, ContainerDir, ContainerRecord, Phase, SandboxDir, SandboxRecord, Status, now_ns};
use super::{pause, report, sys};
use crate::runtime::NamespaceMode;

/// Exit codes of processes that ended before it was known whose they are.
const MAX_STRAYS: usize = 256;
/// The agent answers and asks at once, or is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long without work a shim waits for the next with as little memory as it can.
const QUIET: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// Exit code of a container that never ran, as containerd has it.
const START_FAILED: i32 = 128;

/// A container in the shim's care.
#[derive(Default)]
struct Unit {
    status: Status,
    log: Option<Log>,
    streams: Vec<Stream>,
    /// The writing end of the container's stdin, when it shall stay open.
    _stdin: Option<OwnedFd>,
    /// Where the terminal of a starting container arrives.
    console: Option<UnixListener>,
    /// What the processes that make the container say about failures; ends when its program runs.
    report: Option<Report>,
    /// Who asked for the start and waits.
    asker: Option<UnixStream>,
}

/// The report pipe of a starting container and what came through it.
struct Report {
    pipe: File,
    text: Vec<u8>,
}

impl Report {
    /// Reads what is there; true at its end.
    fn read(&mut self) -> bool {
        let mut chunk = [0; 1024];
        loop {
            match self.pipe.read(&mut chunk) {
                Ok(0) => return true,
                Ok(n) => self.text.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// One output of a container.
struct Stream {
    name: &'static str,
    fd: OwnedFd,
    lines: Lines,
}

/// A one-shot at work.
struct Job {
    pid: i32,
    id: String,
    /// The exec it is for; `None`: a container's start.
    exec: Option<(String, UnixStream)>,
}

/// A process run in a container.
struct Session {
    pid: i32,
    /// Who waits for its end; `None` when that one went away.
    asker: Option<UnixStream>,
}

struct Shim {
    dir: SandboxDir,
    cgroup_parent: String,
    /// Whether the first process takes all others of the container along when it ends.
    own_pid: bool,
    hierarchies: Hierarchies,
    units: BTreeMap<String, Unit>,
    jobs: Vec<Job>,
    sessions: Vec<Session>,
    subscribers: Vec<UnixStream>,
    strays: VecDeque<(i32, i32)>,
    buffer: Vec<u8>,
    over: bool,
}

/// Runs a shim until it is told to end. Its standard input is the listening socket.
pub(super) fn main(dir: &Path) -> ExitCode {
    match serve(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("shim of {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn serve(dir: &Path) -> io::Result<()> {
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let listener = UnixListener::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    listener.set_nonblocking(true)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut ended = SigSet::empty();
    ended.add(NixSignal::SIGCHLD);
    ended.thread_block()?;
    let mut signals = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let dir = SandboxDir(dir.to_owned());
    let sandbox: SandboxRecord = record::read(&dir.record())?;
    let mut shim = Shim {
        cgroup_parent: sandbox.cgroup_parent(),
        own_pid: sandbox.config.namespaces.pid == NamespaceMode::Container,
        dir,
        hierarchies: Hierarchies::detect(),
        units: BTreeMap::new(),
        jobs: Vec::new(),
        sessions: Vec::new(),
        subscribers: Vec::new(),
        strays: VecDeque::new(),
        buffer: vec![0; 16 << 10],
        over: false,
    };
    let shared_pid = sandbox.config.namespaces.pid == NamespaceMode::Pod;
    drop(sandbox);
    // Held until the shim ends.
    let _pause = shared_pid.then(|| pause::start(&shim.dir)).transpose()?;
    while !shim.over {
        shim.turn(&listener, &mut signals)?;
    }
    Ok(())
}

/// What a place in the poll list is.
enum Source {
    Signal,
    Listener,
    Stream(String, usize),
    Console(String),
    Report(String),
    Session(usize),
    Subscriber(usize),
}

impl Shim {
    /// Waits for something to happen and deals with it.
    fn turn(&mut self, listener: &UnixListener, signals: &mut SignalFd) -> io::Result<()> {
        let ready = self.wait(listener, signals)?;
        let mut gone = (Vec::new(), Vec::new());
        for source in ready {
            match source {
                Source::Signal => {
                    while signals.read_signal()?.is_some() {}
                    self.reap();
                }
                Source::Listener => {
                    while let Ok((stream, _)) = listener.accept() {
                        self.accept(stream);
                    }
                }
                Source::Stream(id, index) => self.pump(&id, index),
                Source::Console(id) => self.take_console(&id),
                Source::Report(id) => self.read_report(&id),
                Source::Session(index) => gone.0.push(index),
                Source::Subscriber(index) => gone.1.push(index),
            }
        }
        for index in gone.0 {
            // The asker went away: end what it asked for. It is reaped, and the session removed, like any other.
            if let Some(session) = self.sessions.get_mut(index) {
                kill(session.pid, libc::SIGKILL);
                session.asker = None;
            }
        }
        for index in gone.1.into_iter().rev() {
            self.subscribers.remove(index);
        }
        self.units.values_mut().for_each(|unit| unit.streams.retain(|stream| !stream.name.is_empty()));
        Ok(())
    }

    fn wait(&self, listener: &UnixListener, signals: &SignalFd) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Signal, Source::Listener];
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        for (id, unit) in &self.units {
            for (index, stream) in unit.streams.iter().enumerate() {
                sources.push(Source::Stream(id.clone(), index));
                fds.push(PollFd::new(&stream.fd, PollFlags::IN));
            }
            if let Some(console) = &unit.console {
                sources.push(Source::Console(id.clone()));
                fds.push(PollFd::new(console, PollFlags::IN));
            }
            // Before the one-shot answered, the report is its own affair.
            if let (Some(report), true) = (&unit.report, unit.status.pid != 0) {
                sources.push(Source::Report(id.clone()));
                fds.push(PollFd::new(&report.pipe, PollFlags::IN));
            }
        }
        for (index, session) in self.sessions.iter().enumerate() {
            if let Some(asker) = &session.asker {
                sources.push(Source::Session(index));
                fds.push(PollFd::new(asker, PollFlags::IN | PollFlags::RDHUP));
            }
        }
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            sources.push(Source::Subscriber(index));
            fds.push(PollFd::new(subscriber, PollFlags::IN | PollFlags::RDHUP));
        }
        let mut ready = poll(&mut fds, Some(&QUIET));
        if ready == Ok(0) {
            // Nothing goes on: what the last work touched is not kept for the long wait that follows.
            sys::forget_program_pages();
            ready = poll(&mut fds, None);
        }
        match ready {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(sources.into_iter().zip(happened).filter(|(_, happened)| *happened).map(|(source, _)| source).collect())
    }

    fn accept(&mut self, mut stream: UnixStream) {
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let Ok((request, fds)) = protocol::receive_with::<Request>(&stream) else { return };
        match request {
            Request::Subscribe => {
                let all: Vec<Reply> = self.units.iter().map(|(id, u)| Reply::Status { id: id.clone(), status: u.status.clone() }).collect();
                let sent = all.iter().chain([&Reply::Current]).all(|reply| protocol::send(&mut stream, reply).is_ok());
                if sent {
                    self.subscribers.push(stream);
                }
            }
            Request::Run { id } => match self.start(&id) {
                Ok(()) => self.units.entry(id).or_default().asker = Some(stream),
                Err(e) => self.start_failed(&id, &e.to_string(), Some(stream)),
            },
            Request::Signal { id, signal } => {
                if let Some(unit) = self.units.get(&id).filter(|unit| unit.status.phase == Phase::Running) {
                    kill(unit.status.pid, signal);
                }
                answer(stream, &Reply::Done);
            }
            Request::Exec { id, file } => {
                if let Err((stream, words)) = self.exec(&id, file, fds, stream) {
                    answer(stream, &Reply::Failed { message: words });
                }
            }
            Request::ReopenLog { id } => {
                let result = self.units.get_mut(&id).and_then(|unit| unit.log.as_mut()).map_or(Ok(()), Log::reopen);
                answer(stream, &result.map_or_else(|e| Reply::Failed { message: e.to_string() }, |()| Reply::Done));
            }
            Request::Forget { id } => {
                self.units.remove(&id);
                answer(stream, &Reply::Done);
            }
            Request::Shutdown => {
                answer(stream, &Reply::Done);
                self.over = true;
            }
        }
    }

    /// Begins to start a container: its streams, then a one-shot with them.
    fn start(&mut self, id: &str) -> io::Result<()> {
        let dir = self.dir.container(id);
        if self.units.get(id).is_some_and(|unit| unit.status.phase != Phase::Created || unit.asker.is_some()) {
            return Err(io::Error::other(format!("container {id} was started before")));
        }
        let container: ContainerRecord = record::read(&dir.record())?;
        let config = &container.config;
        let mut unit = Unit { log: Some(Log::open(&config.log_path)?), ..Unit::default() };
        let (mut stdin, mut stdout, mut stderr) = (Stdio::null(), Stdio::null(), Stdio::null());
        if config.tty {
            let console = protocol::listen(&dir.0, "console.sock")?;
            console.set_nonblocking(true)?;
            unit.console = Some(console);
        } else {
            for (name, end) in [("stdout", &mut stdout), ("stderr", &mut stderr)] {
                let (reader, writer) = io::pipe()?;
                let fd = OwnedFd::from(reader);
                rustix::io::ioctl_fionbio(&fd, true)?;
                unit.streams.push(Stream { name, fd, lines: Lines::default() });
                *end = writer.into();
            }
            if config.stdin {
                let (reader, writer) = io::pipe()?;
                stdin = reader.into();
                unit._stdin = Some(writer.into());
            }
        }
        let _ = fs::remove_file(dir.report());
        let _ = fs::remove_file(dir.result());
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.report(), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let pipe = File::from(rustix::fs::open(dir.report(), flags, rustix::fs::Mode::empty())?);
        unit.report = Some(Report { pipe, text: Vec::new() });
        let mut command = oneshot(&["run"], &dir);
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
        self.jobs.push(Job { pid: child.id().cast_signed(), id: id.to_owned(), exec: None });
        self.units.insert(id.to_owned(), unit);
        Ok(())
    }

    fn exec(&mut self, id: &str, file: String, fds: Vec<OwnedFd>, asker: UnixStream) -> Result<(), (UnixStream, String)> {
        if self.units.get(id).is_none_or(|unit| unit.status.phase != Phase::Running) {
            return Err((asker, format!("container {id} is not running")));
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().map_or_else(Stdio::null, Stdio::from);
        let mut command = oneshot(&["exec"], &self.dir.container(id));
        match command.arg(&file).stdin(next()).stdout(next()).stderr(next()).spawn() {
            Ok(child) => {
                self.jobs.push(Job { pid: child.id().cast_signed(), id: id.to_owned(), exec: Some((file, asker)) });
                Ok(())
            }
            Err(e) => Err((asker, format!("start one-shot: {e}"))),
        }
    }

    /// Collects ended processes: one-shots, containers, exec'd processes, and orphans of all of them.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let code = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s)).unwrap_or(255);
            if let Some(index) = self.jobs.iter().position(|job| job.pid == pid) {
                let job = self.jobs.remove(index);
                self.finish_job(job, code);
            } else if !self.ended(pid, code) {
                if self.strays.len() == MAX_STRAYS {
                    self.strays.pop_front();
                }
                self.strays.push_back((pid, code));
            }
        }
    }

    /// Whether an ended process was one of ours.
    fn ended(&mut self, pid: i32, code: i32) -> bool {
        if let Some(index) = self.sessions.iter().position(|session| session.pid == pid) {
            if let Some(asker) = self.sessions.remove(index).asker {
                answer(asker, &Reply::Ended { code });
            }
            return true;
        }
        let Some(id) = self.units.iter().find(|(_, unit)| unit.status.pid == pid).map(|(id, _)| id.clone()) else { return false };
        // It may have failed to execute its program: the report says so, and ends now at the latest.
        self.read_report(&id);
        self.exited(&id, code);
        true
    }

    fn finish_job(&mut self, job: Job, code: i32) {
        let dir = self.dir.container(&job.id);
        let result = match &job.exec {
            Some((file, _)) => dir.0.join(file).with_extension("result"),
            None => dir.result(),
        };
        let outcome: io::Result<Outcome> = record::read(&result);
        let _ = fs::remove_file(&result);
        let outcome = match outcome {
            Ok(outcome) if outcome.error.is_empty() => Ok(outcome.pid),
            Ok(outcome) => Err(outcome.error),
            Err(_) => Err(format!("the one-shot ended with code {code} without an answer")),
        };
        match (job.exec, outcome) {
            (Some((_, asker)), Err(message)) => answer(asker, &Reply::Failed { message }),
            (Some((_, mut asker)), Ok(pid)) => {
                let _ = protocol::send(&mut asker, &Reply::Done);
                self.sessions.push(Session { pid, asker: Some(asker) });
                self.look_among_strays(pid);
            }
            (None, Err(words)) => {
                let report = self.units.get_mut(&job.id).and_then(|unit| unit.report.take());
                let told = report.and_then(|mut report| {
                    report.read();
                    report::verdict(&report.text())
                });
                let words = told.unwrap_or(words);
                let asker = self.units.get_mut(&job.id).and_then(|unit| unit.asker.take());
                self.start_failed(&job.id, &words, asker);
            }
            (None, Ok(pid)) => {
                self.take_console(&job.id);
                if let Some(unit) = self.units.get_mut(&job.id) {
                    unit.console = None;
                    unit.status.pid = pid;
                }
                self.look_among_strays(pid);
            }
        }
    }

    fn look_among_strays(&mut self, pid: i32) {
        if let Some(index) = self.strays.iter().position(|(stray, _)| *stray == pid)
            && let Some((pid, code)) = self.strays.remove(index)
        {
            self.ended(pid, code);
        }
    }

    /// The report of a started container: at its end without words the program runs.
    fn read_report(&mut self, id: &str) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let Some(report) = &mut unit.report else { return };
        if !report.read() {
            return;
        }
        let text = report.text();
        unit.report = None;
        let asker = unit.asker.take();
        // Errors that libcontainer logged and went on after are no verdict.
        let failed = text.lines().any(|line| line.starts_with(super::executor::VERDICT));
        if failed {
            let words = report::verdict(&text).unwrap_or_default();
            self.start_failed(id, &words, asker);
            return;
        }
        unit.status.phase = Phase::Running;
        unit.status.started_ns = now_ns();
        self.publish(id);
        if let Some(asker) = asker {
            answer(asker, &Reply::Done);
        }
    }

    /// The container never ran.
    fn start_failed(&mut self, id: &str, words: &str, asker: Option<UnixStream>) {
        let message = format!("failed to start container: unable to start container process: {words}");
        let unit = self.units.entry(id.to_owned()).or_default();
        if unit.status.phase == Phase::Created {
            let now = now_ns();
            unit.status = Status {
                phase: Phase::Exited,
                pid: 0,
                started_ns: 0,
                finished_ns: now,
                exit_code: START_FAILED,
                reason: "StartError".to_owned(),
                message: message.clone(),
            };
            unit.report = None;
            unit.console = None;
            self.publish(id);
        }
        if let Some(asker) = asker {
            answer(asker, &Reply::Failed { message });
        }
    }

    fn exited(&mut self, id: &str, code: i32) {
        let cgroup = format!("{}/{id}", self.cgroup_parent);
        let streams = self.units.get(id).map_or(0, |unit| unit.streams.len());
        for index in 0..streams {
            self.pump(id, index);
        }
        if !self.own_pid {
            self.hierarchies.kill(&cgroup, Duration::ZERO);
        }
        let killed_for_memory = code != 0 && self.hierarchies.oom_kills(&cgroup) > 0;
        let Some(unit) = self.units.get_mut(id) else { return };
        if unit.status.phase == Phase::Running {
            unit.status.phase = Phase::Exited;
            unit.status.finished_ns = now_ns();
            unit.status.exit_code = code;
            if killed_for_memory {
                "OOMKilled".clone_into(&mut unit.status.reason);
            }
            unit.status.pid = 0;
            unit._stdin = None;
            self.publish(id);
        }
    }

    /// Keeps a status on disk and tells everybody who listens.
    fn publish(&mut self, id: &str) {
        let Some(unit) = self.units.get(id) else { return };
        if let Err(e) = record::write(&self.dir.container(id).status(), &unit.status) {
            eprintln!("write status of {id}: {e}");
        }
        let news = Reply::Status { id: id.to_owned(), status: unit.status.clone() };
        self.subscribers.retain_mut(|subscriber| protocol::send(subscriber, &news).is_ok());
    }

    /// The terminal of a starting container, if it has arrived.
    fn take_console(&mut self, id: &str) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let Some(Ok((stream, _))) = unit.console.as_ref().map(UnixListener::accept) else { return };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        if let Ok(fd) = protocol::receive_fd(&stream)
            && rustix::io::ioctl_fionbio(&fd, true).is_ok()
        {
            unit.streams.push(Stream { name: "stdout", fd, lines: Lines::default() });
        }
        unit.console = None;
    }

    /// Writes what a container said to its log. An ended stream loses its name and is removed after the turn.
    fn pump(&mut self, id: &str, index: usize) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let Some(stream) = unit.streams.get_mut(index).filter(|stream| !stream.name.is_empty()) else { return };
        let mut entries = Vec::new();
        // Bounded, so that a loud container does not keep the others waiting.
        for _ in 0..16 {
            let now = Timestamp::now();
            match rustix::io::read(&stream.fd, &mut self.buffer[..]) {
                Ok(n) if n > 0 => stream.lines.push(stream.name, &self.buffer[..n], now, &mut entries),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                // A terminal whose last process ended answers EIO.
                Ok(_) | Err(_) => {
                    stream.lines.finish(stream.name, now, &mut entries);
                    stream.name = "";
                    break;
                }
            }
        }
        if let (Some(log), false) = (&mut unit.log, entries.is_empty()) {
            log.write(&entries, Timestamp::now());
        }
    }
}

fn oneshot(verb: &[&str], dir: &ContainerDir) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("shim-exec").args(verb).arg(&dir.0).env_clear();
    command
}

fn answer(mut stream: UnixStream, reply: &Reply) {
    let _ = protocol::send(&mut stream, reply);
}

/// The process is our child and not yet reaped, so the number is still its own.
fn kill(pid: i32, signal: i32) {
    if let Some(pid) = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 1) {
        let _ = sys::kill(pid, signal);
    }
}
