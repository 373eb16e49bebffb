//! Unary gRPC calls to services on this machine: over a unix socket, or in plaintext over TCP.

use std::time::Duration;

use bytes::Bytes;
pub(crate) use coracle_store::grpc::Fault;
use coracle_store::grpc::{Connection, Limits};
use tokio::{
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
    connection: Mutex<Option<Connection>>,
}

/// Where it is.
#[derive(Clone, Debug)]
enum Address {
    /// A socket in the file system, or, behind a zero byte, one that has only a name.
    Path(String),
    /// `host:port`
    Tcp(String),
}

impl Client {
    /// For an endpoint `unix:///path` or `unix:///@name`.
    pub(crate) fn new(endpoint: &str, timeout: Duration) -> Self {
        let path = endpoint.trim_start_matches("unix:").trim_start_matches("//");
        let address = match path.strip_prefix('/').unwrap_or(path).strip_prefix('@') {
            Some(name) => Address::Path(format!("\0{name}")),
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
        let late = |_| Fault::new("DeadlineExceeded", "context deadline exceeded");
        tokio::time::timeout_at(until, self.exchange(method, message)).await.map_err(late)?
    }

    async fn exchange(&self, method: &str, message: &[u8]) -> Result<Bytes, Fault> {
        let connection = loop {
            match self.connected().await {
                Ok(connection) => break connection,
                Err(error) => debug!(address = ?self.address, %error, "failed to create connection"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        let answer = connection.call(method, message, &[], self.timeout).await;
        if answer.as_ref().is_err_and(|fault| fault.code == "Unavailable") {
            self.connection.lock().await.take();
        }
        answer
    }

    /// The connection, dialled when there is none or it broke.
    async fn connected(&self) -> std::io::Result<Connection> {
        const LIMITS: Limits = Limits { message: LARGEST, keep_alive: None, keep_alive_timeout: Duration::ZERO };
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let origin = "http://localhost".to_owned();
        let connection = match &self.address {
            Address::Path(path) => Connection::over(UnixStream::connect(path).await?, origin, LIMITS).await?,
            Address::Tcp(authority) => Connection::over(TcpStream::connect(authority).await?, origin, LIMITS).await?,
        };
        *kept = Some(connection.clone());
        Ok(connection)
    }
}
