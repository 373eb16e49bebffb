//! Unary gRPC calls over a unix socket or in plaintext over TCP: HTTP/2 with a length before each message, and how it went in the trailers.

use std::{os::linux::net::SocketAddrExt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Mutex,
    time::Instant,
};
use tracing::debug;

/// Largest answer, in bytes (gRPC's default).
const LARGEST: usize = 4 << 20;
/// Pause between attempts to reach a service that is not there.
const AGAIN: Duration = Duration::from_millis(100);

/// A service behind a socket.
pub(crate) struct Client {
    address: Address,
    /// What a call may take.
    timeout: Duration,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// Where it is.
#[derive(Clone, Debug)]
enum Address {
    /// A socket in the file system.
    Path(String),
    /// One that has only a name.
    Abstract(String),
    /// `host:port`
    Tcp(String),
}

/// Why a call failed, as Go's gRPC prints it.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code, self.text)
    }
}

impl Client {
    /// For an endpoint `unix:///path` or `unix:///@name`.
    pub(crate) fn new(endpoint: &str, timeout: Duration) -> Self {
        let path = endpoint.trim_start_matches("unix:").trim_start_matches("//");
        let address = match path.strip_prefix('/').unwrap_or(path).strip_prefix('@') {
            Some(name) => Address::Abstract(name.to_owned()),
            None => Address::Path(path.to_owned()),
        };
        Self { address, timeout, connection: Mutex::new(None) }
    }

    /// For a service at `host:port`, in plaintext.
    pub(crate) fn tcp(authority: &str, timeout: Duration) -> Self {
        Self { address: Address::Tcp(authority.to_owned()), timeout, connection: Mutex::new(None) }
    }

    /// Calls a method (`/v2.KeyManagementService/Status`) and returns the message it answers. A service that is not there is waited for,
    /// as long as a call may take.
    pub(crate) async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, Fault> {
        let until = Instant::now() + self.timeout;
        let late = |_| Fault { code: "DeadlineExceeded", text: "context deadline exceeded".to_owned() };
        tokio::time::timeout_at(until, self.exchange(method, message)).await.map_err(late)?
    }

    async fn exchange(&self, method: &str, message: &[u8]) -> Result<Bytes, Fault> {
        let mut sender = loop {
            match self.connected().await {
                Ok(sender) => break sender,
                Err(error) => debug!(address = ?self.address, %error, "failed to create connection"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(message);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("grpc-timeout", format!("{}m", self.timeout.as_millis().min(99_999_999)))
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| internal(e.to_string()))?;
        let answer = match sender.send_request(request).await {
            Ok(answer) => answer,
            Err(error) => {
                self.connection.lock().await.take();
                return Err(Fault { code: "Unavailable", text: error.to_string() });
            }
        };
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            let text = format!("unexpected HTTP status code received from server: {}", head.status);
            return Err(Fault { code: "Unknown", text });
        }
        let read = Limited::new(body, LARGEST).collect().await.map_err(|e| internal(e.to_string()))?;
        // A call that fails at once has its status in the head.
        let status = read.trailers().filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(&head.headers);
        passed(status)?;
        let data = read.to_bytes();
        match (data.first(), data.get(1..5).and_then(|length| <[u8; 4]>::try_from(length).ok())) {
            (Some(0), Some(length)) if data.len() - 5 == u32::from_be_bytes(length) as usize => Ok(data.slice(5..)),
            _ => Err(internal("the answer is no single uncompressed message".to_owned())),
        }
    }

    /// The connection, dialled when there is none or it broke.
    async fn connected(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = match &self.address {
            Address::Abstract(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                spoken_over(UnixStream::from_std(stream)?).await?
            }
            Address::Path(path) => spoken_over(UnixStream::connect(path).await?).await?,
            Address::Tcp(authority) => spoken_over(TcpStream::connect(authority).await?).await?,
        };
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

/// HTTP/2 over a stream.
async fn spoken_over<S>(stream: S) -> std::io::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, serving) = made.map_err(std::io::Error::other)?;
    // It ends with its last sender.
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            debug!(%error, "connection of gRPC ended");
        }
    });
    Ok(sender)
}

fn internal(text: String) -> Fault {
    Fault { code: "Internal", text }
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
            let said = percent_encoding::percent_decode_str(text("grpc-message")).decode_utf8_lossy().into_owned();
            Err(Fault { code, text: said })
        }
    }
}
