//! The agent's HTTPS server: logs, exec, attach, port-forward and a little of the rest (kubelet `server/server.go`). One server serves all agents of
//! a process: pods are found by name over all of them.

pub mod auth;
mod exec;
mod follow;
pub mod logs;
mod port_forward;
mod routes;
mod stats;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pods::registry::Directory;

/// Connections served at the same time.
const CONNECTIONS: usize = 1024;
/// Time a client has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Answer = Response<Body>;

/// How the server is run.
#[derive(Clone)]
pub struct ServerOptions {
    /// Where to listen.
    pub address: SocketAddr,
    /// Certificate and key, and a verifier that accepts (optional) client certificates of the cluster's CA.
    pub tls: Arc<rustls::ServerConfig>,
    /// Users who may do everything besides members of `system:masters`: the API server's client identity.
    pub trusted_users: Vec<String>,
}

/// The server.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    state: Arc<State>,
}

pub(crate) struct State {
    pub(crate) directory: Arc<Directory>,
    /// Asks the API server whether others may.
    pub(crate) client: Client,
    pub(crate) trusted_users: Vec<String>,
    /// Streams live on after their request is answered.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// When it is taken or not allowed.
    pub async fn bind(options: ServerOptions, directory: Arc<Directory>, client: Client, stop: CancellationToken) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        let state = State { directory, client, trusted_users: options.trusted_users, tasks: TaskTracker::new(), stop };
        Ok(Self { listener, acceptor: TlsAcceptor::from(options.tls), state: Arc::new(state) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the stop token is cancelled; open streams get a second to end.
    pub fn run(self) -> BoxFuture<'static, ()> {
        Box::pin(self.work())
    }

    async fn work(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let stop = self.state.stop.clone();
        loop {
            let slot = tokio::select! {
                () = stop.cancelled() => break,
                slot = slots.clone().acquire_owned() => slot,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (acceptor, state) = (self.acceptor.clone(), self.state.clone());
                    self.state.tasks.spawn(async move {
                        let _slot = slot;
                        connection(stream, &acceptor, state).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        self.state.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.state.tasks.wait()).await;
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let identity = tls.get_ref().1.peer_certificates().and_then(|chain| auth::Identity::of(chain.first()?)).map(Arc::new);
    let stop = state.stop.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, identity) = (state.clone(), identity.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&state, identity.as_deref(), request).await) }
    });
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    server.http1().header_read_timeout(Duration::from_secs(30)).timer(hyper_util::rt::TokioTimer::new());
    let serve = server.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::select! {
        () = stop.cancelled() => {}
        ended = serve => if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// A plain text answer.
pub(crate) fn text(code: StatusCode, words: impl Into<Bytes>) -> Answer {
    with_type(code, "text/plain; charset=utf-8", words.into())
}

pub(crate) fn with_type(code: StatusCode, kind: &'static str, bytes: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
