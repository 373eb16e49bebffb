//! Requests in HTTP/2 that are none, frame by frame: what is malformed is not answered as if it were good, what is too much is not taken, and
//! the server goes on.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::attacks::Tried;
use crate::differential::http::{Connection, Server};

/// The connection's beginning, and settings that say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How long is listened to what comes back.
const LISTEN: Duration = Duration::from_secs(2);
/// What a good answer to the question asked holds.
const ANSWER: &str = "NamespaceList";
const PATH: (&str, &str) = (":path", "/api/v1/namespaces");

/// Types of frames, and their flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What is sent after the beginning, and what to call it.
struct Case {
    what: &'static str,
    frames: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers as literals that nobody is to remember (RFC 7541 6.2.2).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A length of seven bits or more (RFC 7541 5.1).
fn length(of: usize, block: &mut Vec<u8>) {
    if of < 127 {
        block.push(of as u8);
        return;
    }
    block.push(127);
    let mut rest = of - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const AUTHORITY: (&str, &str) = (":authority", "localhost");

fn asked(what: &'static str, headers: &[(&str, &str)]) -> Case {
    Case { what, frames: frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(headers)) }
}

/// None of these is a request.
fn malformed() -> Vec<Case> {
    let with = |what, more: (&str, &str)| asked(what, &[METHOD, SCHEME, AUTHORITY, PATH, more]);
    let mut posted = frame(HEADERS, END_HEADERS, 1, &block(&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "5")]));
    posted.extend(frame(DATA, END_STREAM, 1, b"ab"));
    vec![
        asked("no method", &[SCHEME, AUTHORITY, PATH]),
        asked("no path", &[METHOD, SCHEME, AUTHORITY]),
        asked("an empty path", &[METHOD, SCHEME, AUTHORITY, (":path", "")]),
        asked("two paths", &[METHOD, SCHEME, AUTHORITY, (":path", "/healthz"), PATH]),
        asked("two methods", &[METHOD, (":method", "HEAD"), SCHEME, AUTHORITY, PATH]),
        asked("a path after headers", &[METHOD, SCHEME, AUTHORITY, ("accept", "*/*"), PATH]),
        asked("a path of another server", &[METHOD, SCHEME, AUTHORITY, (":path", "https://other/api/v1/namespaces")]),
        asked("a path with a request in it", &[METHOD, SCHEME, AUTHORITY, (":path", "/api/v1/namespaces HTTP/1.1\r\nx: y")]),
        asked("a status", &[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")]),
        asked("an unknown pseudo-header", &[METHOD, SCHEME, AUTHORITY, PATH, (":user", "admin")]),
        with("a name in capitals", ("Impersonate-User", "root")),
        with("a name with a line break", ("x\r\nimpersonate-user", "root")),
        with("a value with a line break", ("x", "y\r\nimpersonate-user: root")),
        with("a value with a zero", ("x", "y\0z")),
        with("transfer-encoding", ("transfer-encoding", "chunked")),
        with("connection", ("connection", "x-remote-user")),
        with("te", ("te", "gzip")),
        Case { what: "fewer bytes than told", frames: posted },
        Case { what: "an even stream", frames: frame(HEADERS, END_STREAM | END_HEADERS, 2, &block(&[METHOD, SCHEME, AUTHORITY, PATH])) },
        Case { what: "headers that cannot be read", frames: frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 64]) },
        Case { what: "data of nothing", frames: frame(DATA, END_STREAM, 1, b"x") },
        asked("a tunnel", &[(":method", "CONNECT"), (":authority", "127.0.0.1:22")]),
        asked("a tunnel for a protocol", &[(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, AUTHORITY, PATH]),
    ]
}

/// These are requests, and more than anybody should send.
fn excessive() -> Vec<Case> {
    let good = [METHOD, SCHEME, AUTHORITY, PATH];
    let many: Vec<String> = (0..60_000).map(|n| format!("x-{n}")).collect();
    let headers: Vec<(&str, &str)> = good.iter().copied().chain(many.iter().map(|name| (name.as_str(), "y"))).collect();
    let long = "z".repeat(4 << 20);
    let mut floods = frame(HEADERS, END_STREAM, 1, &block(&good));
    for _ in 0..10_000 {
        floods.extend(frame(CONTINUATION, 0, 1, &block(&[("x", "y")])));
    }
    let mut resets = Vec::new();
    for n in 0..5_000 {
        resets.extend(frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &block(&good)));
        resets.extend(frame(RESET, 0, 2 * n + 1, &8u32.to_be_bytes()));
    }
    vec![
        Case { what: "sixty thousand headers", frames: parted(&block(&headers)) },
        Case { what: "a header of four megabytes", frames: parted(&block(&[METHOD, SCHEME, AUTHORITY, PATH, ("x", &long)])) },
        Case { what: "headers without end", frames: floods },
        Case { what: "requests taken back at once", frames: resets },
    ]
}

/// One block of headers in as many frames as it takes.
fn parted(block: &[u8]) -> Vec<u8> {
    let chunks: Vec<&[u8]> = block.chunks(16_000).collect();
    let mut frames = Vec::new();
    for (at, chunk) in chunks.iter().enumerate() {
        let end = if at + 1 == chunks.len() { END_HEADERS } else { 0 };
        let (kind, flags) = if at == 0 { (HEADERS, END_STREAM | end) } else { (CONTINUATION, end) };
        frames.extend(frame(kind, flags, 1, chunk));
    }
    frames
}

/// Sends all; what is answered that should not be, or ends the server, is added to `wrong`.
pub(super) async fn run(server: &Arc<Server>, wrong: &mut Vec<String>) -> Result<Tried> {
    // What is looked for must be there when the request is good.
    let good = exchange(server, &asked("", &[METHOD, SCHEME, AUTHORITY, PATH]).frames).await.context("HTTP/2 is not spoken")?;
    anyhow::ensure!(good.data.contains(ANSWER), "a good request is not answered in HTTP/2: {:?}", good.data);
    let (malformed, excessive) = (malformed(), excessive());
    let tried = malformed.len() + excessive.len();
    let mut held = 0;
    // Of what is too much something good may be answered before the rest is refused.
    for (case, may_be_answered) in malformed.iter().map(|case| (case, false)).chain(excessive.iter().map(|case| (case, true))) {
        // A connection that is closed while it is written to has been refused.
        let said = exchange(server, &case.frames).await.unwrap_or_default();
        let alive = Connection::new(server).get("/readyz").await.code == 200;
        if alive && (!said.data.contains(ANSWER) || (may_be_answered && said.refused)) {
            held += 1;
        } else {
            wrong.push(format!("by HTTP/2: {}: alive {alive}, answered {:?}", case.what, said.data.chars().take(80).collect::<String>()));
        }
    }
    Ok(Tried { label: "by HTTP/2", tried, held })
}

/// What came back.
#[derive(Default)]
struct Said {
    data: String,
    /// The connection was ended for a reason.
    refused: bool,
}

async fn exchange(server: &Arc<Server>, frames: &[u8]) -> Result<Said> {
    let mut stream = server.dial_speaking(b"h2").await?;
    let mut bytes = Vec::new();
    let talk = async {
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let write = async {
            // The other side may have had enough.
            let _ = writing.write_all(PREFACE).await;
            let _ = writing.write_all(frames).await;
        };
        let read = async {
            let mut some = [0; 16 << 10];
            while let Ok(read) = reading.read(&mut some).await {
                bytes.extend_from_slice(&some[..read]);
                if read == 0 || is_ended(&bytes) {
                    return;
                }
            }
        };
        futures::future::join(write, read).await;
    };
    let _ = tokio::time::timeout(LISTEN, talk).await;
    let mut said = Said::default();
    for (kind, _, payload) in parts(&bytes) {
        match kind {
            DATA => said.data.push_str(&String::from_utf8_lossy(payload)),
            GOAWAY => said.refused |= payload.get(4..8).is_some_and(|code| code != [0; 4]),
            _ => {}
        }
    }
    Ok(said)
}

/// Whether the first stream has ended, or all have.
fn is_ended(bytes: &[u8]) -> bool {
    parts(bytes).any(|(kind, flags, _)| matches!(kind, RESET | GOAWAY) || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0))
}

/// The whole frames there are: their kind, flags and payload.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = bytes.get(9..9 + length)?;
        bytes = &bytes[9 + length..];
        Some((head[3], head[4], payload))
    })
}
