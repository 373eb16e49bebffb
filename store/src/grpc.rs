//! gRPC as a client speaks it: HTTP/2 with a length before each message, and how it went in the trailers. Calls with one answer and calls
//! whose messages go both ways for as long as they are open; messages are read and written by hand (see `message`).

mod body;
mod frames;
pub mod message;

use std::{fmt, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tracing::debug;

use self::body::Outgoing;
pub use self::frames::Inbox;

/// Messages of an open call that may wait to be sent.
const OUTBOX: usize = 16;
/// Bytes that may be on the way to us: for one call, and for all of a connection. Lists are large.
const WINDOW: u32 = 4 << 20;
const WINDOWS: u32 = 16 << 20;

/// Why a call failed, as Go's gRPC prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Canonical name of the code: `Unavailable`, `DeadlineExceeded`, …
    pub code: &'static str,
    /// What the other side says.
    pub text: String,
    /// Nothing was sent: the call can be made elsewhere without being made twice.
    pub unsent: bool,
}

impl Fault {
    /// A fault found on this side.
    pub fn new(code: &'static str, text: impl fmt::Display) -> Self {
        Self { code, text: text.to_string(), unsent: false }
    }

    /// The same, of a call that was never made.
    pub fn unsent(code: &'static str, text: impl fmt::Display) -> Self {
        Self { unsent: true, ..Self::new(code, text) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code, self.text)
    }
}

/// How a connection is kept and what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest answer, in bytes.
    pub message: usize,
    /// After so long without a word the other side is asked whether it is there; `None`: never.
    pub keep_alive: Option<Duration>,
    /// And has so long to say so.
    pub keep_alive_timeout: Duration,
}

/// One connection to a server. Cheap to clone: all clones speak over the same stream, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Outgoing>,
    origin: String,
    limit: usize,
}

/// What goes with every call beside its message.
pub type Metadata = [(HeaderName, HeaderValue)];

impl Connection {
    /// HTTP/2 over a stream; `origin` is how calls name the server: `http://localhost`.
    pub async fn over<S>(stream: S, origin: String, limits: Limits) -> std::io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOWS);
        builder.keep_alive_interval(limits.keep_alive).keep_alive_timeout(limits.keep_alive_timeout);
        let (sender, serving) = builder.handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // It ends with its last sender.
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                debug!(%error, "connection of gRPC ended");
            }
        });
        Ok(Self { sender, origin, limit: limits.message })
    }

    /// Whether calls over it must fail.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Calls a method (`/etcdserverpb.KV/Range`) and returns the message it answers. `timeout` is told the server, too.
    pub async fn call(&self, method: &str, message: &[u8], metadata: &Metadata, timeout: Duration) -> Result<Bytes, Fault> {
        let late = |_| Fault::new("DeadlineExceeded", "context deadline exceeded");
        let exchange = async {
            let mut request = self.request(method, metadata, Outgoing::whole(framed(message)))?;
            let millis = HeaderValue::from(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).min(99_999_999));
            let millis = [millis.as_bytes(), b"m"].concat();
            request.headers_mut().insert("grpc-timeout", HeaderValue::from_bytes(&millis).map_err(internal)?);
            Inbox::new(self.send(request).await?, self.limit)?.only().await
        };
        tokio::time::timeout(timeout, exchange).await.map_err(late)?
    }

    /// Opens a call whose messages go both ways, with its first message. It ends when either end is dropped.
    pub async fn open(&self, method: &str, message: &[u8], metadata: &Metadata) -> Result<(Outbox, Inbox), Fault> {
        let (outbox, waiting) = mpsc::channel(OUTBOX);
        let outbox = Outbox(outbox);
        outbox.send(message).await?;
        let answer = self.send(self.request(method, metadata, Outgoing::Open(waiting))?).await?;
        Ok((outbox, Inbox::new(answer, self.limit)?))
    }

    fn request(&self, method: &str, metadata: &Metadata, body: Outgoing) -> Result<Request<Outgoing>, Fault> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{method}", self.origin))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        let request = metadata.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.body(body).map_err(internal)
    }

    async fn send(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, Fault> {
        let answer = self.sender.clone().try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some();
            Fault { code: "Unavailable", text: told(error.error()), unsent }
        })?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let text = format!("unexpected HTTP status code received from server: {}", answer.status());
        Err(Fault::new(code_of(answer.status()), text))
    }
}

/// What an HTTP status means that came from something before the server (gRPC's `http-grpc-status-mapping.md`).
fn code_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "Internal",
        401 => "Unauthenticated",
        403 => "PermissionDenied",
        404 => "Unimplemented",
        429 | 502 | 503 | 504 => "Unavailable",
        _ => "Unknown",
    }
}

/// Sends the messages of an open call.
#[derive(Debug)]
pub struct Outbox(mpsc::Sender<Bytes>);

impl Outbox {
    /// Sends one more.
    pub async fn send(&self, message: &[u8]) -> Result<(), Fault> {
        self.0.send(framed(message)).await.map_err(|_| Fault::new("Unavailable", "the call has ended"))
    }
}

/// A message with its length before it.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

fn internal(why: impl fmt::Display) -> Fault {
    Fault::new("Internal", why)
}

/// An error and what is behind it: hyper's own words say little.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// What trailers say of a call.
fn passed(status: &HeaderMap) -> Result<(), Fault> {
    const CODES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let text = |name: &str| status.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status").parse::<usize>() {
        Ok(0) => Ok(()),
        code => {
            let code = code.ok().and_then(|code| CODES.get(code)).copied().unwrap_or("Unknown");
            Err(Fault::new(code, percent_encoding::percent_decode_str(text("grpc-message")).decode_utf8_lossy()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_whose_server_is_away_says_that_it_is_unavailable() {
        let told = |status: u16| code_of(StatusCode::from_u16(status).unwrap());
        assert!([429, 502, 503, 504].into_iter().all(|status| told(status) == "Unavailable"));
        assert_eq!((told(403), told(404), told(500), told(302)), ("PermissionDenied", "Unimplemented", "Unknown", "Unknown"));
    }
}
