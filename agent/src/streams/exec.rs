//! Exec and attach: a process's streams on WebSocket channels, its end as a Status on the error channel (kubelet `remotecommand`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::routes::{Found, Query};
use super::websocket::{self, CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, Socket};
use super::{Answer, State, text};
use crate::runtime::{AttachRequest, ExecRequest, Reader, Result as RuntimeResult, StreamSession, TerminalSize, Writer};

/// Messages on their way to a slow client.
const QUEUE: usize = 32;
const PIECE: usize = 32 * 1024;
/// How long a process with a terminal waits for the size of the client's. A program that asks at once should not see none.
const SIZE: Duration = Duration::from_millis(100);
/// After the process ended: how long its output may go on (a child may have kept it open).
const DRAIN: Duration = Duration::from_secs(10);

struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// Both spellings: kubelet's own and the API's.
    fn read(query: &Query) -> Result<Self, String> {
        let tty = query.flag(&["tty"]);
        let streams = Self {
            stdin: query.flag(&["input", "stdin"]),
            stdout: query.flag(&["output", "stdout"]),
            stderr: query.flag(&["error", "stderr"]) && !tty,
            tty,
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(streams)
    }
}

/// Runs a command in a container.
pub(crate) async fn exec(state: &Arc<State>, found: Found, query: &Query, request: Request<Incoming>) -> Answer {
    let (pod, _, container) = match found {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let streams = match Streams::read(query) {
        Ok(streams) => streams,
        Err(words) => return text(StatusCode::BAD_REQUEST, words),
    };
    let command = query.all("command");
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify a command");
    }
    let Some(id) = container.id.filter(|_| container.running) else {
        return text(StatusCode::BAD_REQUEST, format!("container not found (\"{}\")", container.name));
    };
    let runtime = pod.context.runtime.clone();
    let Streams { tty, stdin, stdout, stderr } = streams;
    let wanted = ExecRequest { command, tty, size: None, stdin, stdout, stderr };
    websocket::upgrade(state, request, move |mut socket, _| async move {
        let early = if tty { until_size(&mut socket).await } else { Vec::new() };
        let size = early.last().and_then(size);
        let session = runtime.exec(&id, ExecRequest { size, ..wanted }).await;
        serve(socket, early, session, "error executing command in container").await;
    })
}

/// Attaches to a container's own process.
pub(crate) async fn attach(state: &Arc<State>, found: Found, query: &Query, request: Request<Incoming>) -> Answer {
    let (pod, _, container) = match found {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let streams = match Streams::read(query) {
        Ok(streams) => streams,
        Err(words) => return text(StatusCode::BAD_REQUEST, words),
    };
    let Some(id) = container.id.filter(|_| container.running) else {
        return text(StatusCode::BAD_REQUEST, format!("container {} is not running", container.name));
    };
    let runtime = pod.context.runtime.clone();
    let wanted = AttachRequest { stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr };
    websocket::upgrade(state, request, move |socket, _| async move {
        let session = runtime.attach(&id, wanted).await;
        serve(socket, Vec::new(), session, "error attaching to container").await;
    })
}

/// What the client sends up to the size of its terminal, or in a moment if it has none.
async fn until_size(socket: &mut Socket) -> Vec<(u8, Bytes)> {
    let mut early = Vec::new();
    let gather = async {
        while early.len() < QUEUE
            && early.last().is_none_or(|(channel, _)| *channel != RESIZE)
            && let Some(message) = websocket::receive(socket).await
        {
            early.push(message);
        }
    };
    let _ = tokio::time::timeout(SIZE, gather).await;
    early
}

/// Joins a client and a session until either ends; `early` is what the client has sent already.
async fn serve(socket: Socket, early: Vec<(u8, Bytes)>, session: RuntimeResult<StreamSession>, what: &str) {
    let (mut sink, mut source) = socket.split();
    let StreamSession { stdin, stdout, stderr, resize, exit } = match session {
        Ok(session) => session,
        Err(error) => {
            let _ = sink.send(websocket::message(ERROR, &failure(&format!("{what}: {error}")))).await;
            return websocket::close(&mut sink).await;
        }
    };
    let (tx, mut rx) = mpsc::channel::<Message>(QUEUE);
    let output = futures::future::join(pump(stdout, STDOUT, tx.clone()), pump(stderr, STDERR, tx.clone()));
    let work = async move {
        let mut output = std::pin::pin!(output);
        let mut exit = std::pin::pin!(exit);
        let mut drained = false;
        let code = loop {
            tokio::select! {
                code = &mut exit => break code,
                _ = &mut output, if !drained => drained = true,
            }
        };
        if !drained {
            let _ = tokio::time::timeout(DRAIN, output).await;
        }
        let status = match code {
            Ok(code) => ended(code),
            Err(error) => failure(&format!("{what}: {error}")),
        };
        let _ = tx.send(websocket::message(ERROR, &status)).await;
    };
    let write = async {
        while let Some(message) = rx.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        websocket::close(&mut sink).await;
    };
    tokio::select! {
        _ = futures::future::join(work, write) => {}
        // The client went away: dropping the session ends the process.
        () = input(early, &mut source, stdin, resize) => {}
    }
}

async fn pump(stream: Option<Reader>, channel: u8, tx: mpsc::Sender<Message>) {
    let Some(mut stream) = stream else { return };
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                if tx.send(websocket::message(channel, &piece[..read])).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn size((channel, content): &(u8, Bytes)) -> Option<TerminalSize> {
    if *channel == RESIZE { serde_json::from_slice(content).ok() } else { None }
}

async fn input<S>(early: Vec<(u8, Bytes)>, source: &mut S, mut stdin: Option<Writer>, resize: Option<mpsc::Sender<TerminalSize>>)
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let mut early = early.into_iter();
    loop {
        let next = match early.next() {
            Some(message) => Some(message),
            None => websocket::receive(source).await,
        };
        let Some(message) = next else { return };
        if let (Some(resize), Some(size)) = (&resize, size(&message)) {
            let _ = resize.try_send(size);
        }
        let (channel, content) = message;
        match channel {
            STDIN => {
                if let Some(pipe) = &mut stdin
                    && (pipe.write_all(&content).await.is_err() || pipe.flush().await.is_err())
                {
                    // It closed its input; what it writes is still of interest.
                    stdin = None;
                }
            }
            CLOSE if content.first() == Some(&STDIN) => {
                if let Some(mut pipe) = stdin.take() {
                    let _ = pipe.shutdown().await;
                }
            }
            _ => {}
        }
    }
}

/// The Status of a process that ended.
fn ended(code: i32) -> Vec<u8> {
    if code == 0 {
        return bytes(&json!({"metadata": {}, "status": "Success"}));
    }
    bytes(&json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    }))
}

fn failure(words: &str) -> Vec<u8> {
    bytes(&json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "message": format!("Internal error occurred: {words}"),
        "details": {"causes": [{"message": words}]}, "code": 500,
    }))
}

fn bytes(value: &Value) -> Vec<u8> {
    Bytes::from(value.to_string()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_kubectl_reads_them() {
        let status: Value = serde_json::from_slice(&ended(3)).expect("JSON");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        let status: Value = serde_json::from_slice(&ended(0)).expect("JSON");
        assert_eq!(status["status"], "Success");
    }

    #[test]
    fn both_spellings_of_streams_are_read_and_a_terminal_has_no_stderr() {
        let own = Streams::read(&Query::parse("input=1&output=1&error=1&tty=1")).expect("fine");
        assert!(own.stdin && own.stdout && own.tty && !own.stderr);
        let api = Streams::read(&Query::parse("stdout=true&stderr=true")).expect("fine");
        assert!(!api.stdin && api.stdout && api.stderr);
        assert!(Streams::read(&Query::parse("command=ls")).is_err());
    }
}
