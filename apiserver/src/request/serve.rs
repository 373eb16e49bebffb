//! The network: TLS connections in, requests to the layers, and an end without breaking anybody off.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{
    cors::Origins,
    gather::{self, Gathered},
    idle::Activity,
    layers::{Layers, Origin},
    serving::{Serving, Shown},
};
use crate::{
    authn::{Peer, Remembered, User},
    metrics::access::HANDSHAKE_ERRORS,
    wire::{Answer, Body, Sending, answer},
};

/// A client has this long to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// And this long to send a request's head.
const HEADERS: Duration = Duration::from_secs(32);
/// A connection without requests for this long is closed (upstream's `IdleTimeout`).
const IDLE: Duration = Duration::from_secs(90);
/// A client that says nothing is asked after this long, and then this often, whether it is still there.
const ALIVE: [Duration; 2] = [Duration::from_secs(180), Duration::from_secs(30)];
/// Bytes of a request's head (Go's `DefaultMaxHeaderBytes`). Its URI alone ends at 64 KiB: `http::Uri` holds no more.
const HEAD: u32 = 1 << 20;
/// Header lines of a request over HTTP/1: who is impersonated may be in hundreds of groups, each in a line of its own.
const LINES: usize = 400;
/// Streams of one HTTP/2 connection (upstream's default).
const STREAMS: u32 = 250;
/// Bytes a client may send ahead in one request (upstream's 99th percentile of bodies), and in all of a connection. Fixed: finding out what
/// would fit the way to each client costs a ping and its answer for every few requests.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of an answer that wait for a client to take them, at most, beside the slices of one list that are sent together.
const SEND_BUFFER: usize = 128 << 10;
/// A client that takes nothing of what was sent to it for this long is gone, or not worth waiting for.
const STUCK: u32 = 180_000;
/// Requests in flight have this long to end when the server stops.
const DRAIN: Duration = Duration::from_secs(4);

/// What connections are allowed and told.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Streams of one HTTP/2 connection (`--http2-max-streams-per-connection`).
    pub streams: u32,
    /// How likely a request over HTTP/2 is the last of its connection, from 0 to 1: clients come to other servers, too (`--goaway-chance`).
    pub goaway_chance: f64,
    /// What browsers are told to insist on (`--strict-transport-security-directives`).
    pub transport_security: Option<HeaderValue>,
    /// Whose pages may read answers (`--cors-allowed-origins`).
    pub origins: Origins,
}

impl Default for Connections {
    fn default() -> Self {
        Self { streams: STREAMS, goaway_chance: 0.0, transport_security: None, origins: Origins::default() }
    }
}

impl Connections {
    /// Whether a request is to be the last of its connection.
    fn parts(&self) -> bool {
        if self.goaway_chance <= 0.0 {
            return false;
        }
        let mut drawn = [0; 4];
        SystemRandom::new().fill(&mut drawn).is_ok() && f64::from(u32::from_le_bytes(drawn)) < self.goaway_chance * f64::from(u32::MAX)
    }
}

/// Serves connections until `stop`; then lets requests end, within bounds.
pub async fn run(layers: Arc<Layers>, listener: TcpListener, tls: Arc<Serving>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    connections.spawn({
        let (tls, stop) = (tls.clone(), stop.clone());
        async move { tls.follow(stop).await }
    });
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let activity = Activity::of(connections.token());
                connections.spawn(connection(Arc::clone(&layers), tls.shown(), stream, activity, stop.clone()));
            }
            Err(error) => refused(&error).await,
        }
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN, connections.wait()).await.is_err() {
        info!(connections = connections.len(), "connections still open after the time to drain");
    }
}

/// Out of file descriptors and the like: wait a moment instead of spinning.
async fn refused(error: &io::Error) {
    warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection(layers: Arc<Layers>, tls: Arc<Shown>, stream: TcpStream, activity: Activity, stop: CancellationToken) {
    prepare(&stream);
    let address = stream.peer_addr().ok().map(|at| at.ip().to_canonical());
    let mut stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            HANDSHAKE_ERRORS.inc([]);
            return debug!(%error, "TLS handshake failed");
        }
        Err(_) => {
            HANDSHAKE_ERRORS.inc([]);
            return debug!("TLS handshake took too long");
        }
    };
    let (_, session) = stream.get_mut();
    // What was gathered is taken whole.
    session.set_buffer_limit(Some(gather::MOST));
    let peer = session.peer_certificates().and_then(Peer::new).map(Arc::new);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let (builder, parting) = (protocol(http2, layers.connections.streams), http2.then(CancellationToken::new));
    let last = parting.clone().unwrap_or_default();
    let service = NetworkService { layers, peer, address, last: Arc::default(), activity: activity.clone(), parting };
    let over = async {
        tokio::select! { () = stop.cancelled() => {}, () = activity.none_for(IDLE) => {}, () = last.cancelled() => {} }
    };
    let ended = if http2 {
        let (stream, mut gathered) = Gathered::new(stream, activity.clone());
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        until_over(serving, |serving, cx| gathered.poll(cx, |cx| serving.poll(cx)), over).await
    } else {
        until_over(builder.serve_connection_with_upgrades(TokioIo::new(stream), service), Future::poll, over).await
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// Works on a connection until it ends; when it is `over`, after the requests that are under way. `poll` polls it.
async fn until_over<C: GracefulConnection>(
    serving: C,
    mut poll: impl FnMut(Pin<&mut C>, &mut Context<'_>) -> Poll<Result<(), C::Error>>,
    over: impl Future<Output = ()>,
) -> Result<(), C::Error> {
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = poll_fn(|cx| poll(serving.as_mut(), cx)) => return ended,
        () = over => {}
    }
    serving.as_mut().graceful_shutdown();
    poll_fn(|cx| poll(serving.as_mut(), cx)).await
}

/// Answers are written whole, and waiting for more only delays them; who went without a word is noticed.
fn prepare(stream: &TcpStream) {
    let [first, again] = ALIVE;
    let asked = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, first))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, again))
        .and_then(|()| sockopt::set_tcp_user_timeout(stream, STUCK));
    if let (Err(error), _) | (_, Err(error)) = (stream.set_nodelay(true), asked.map_err(io::Error::from)) {
        debug!(%error, "cannot set up a connection");
    }
}

/// What was agreed on with TLS is spoken: waiting for the client to begin has then a limit from the start.
fn protocol(http2: bool, streams: u32) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HEAD as usize).max_headers(LINES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD)
        .max_concurrent_streams(streams)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(30))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// One connection's requests.
#[derive(Clone)]
struct NetworkService {
    layers: Arc<Layers>,
    peer: Option<Arc<Peer>>,
    address: Option<IpAddr>,
    last: Arc<Remembered>,
    activity: Activity,
    /// That the connection takes no more requests, where that can be said.
    parting: Option<CancellationToken>,
}

impl hyper::service::Service<Request<Incoming>> for NetworkService {
    type Response = Response<Sending>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let head_only = request.method() == Method::HEAD;
        let sent = move |answer: Answer| if head_only { without_body(answer) } else { answer }.map(Sending);
        if let Some(refused) = malformed(&request) {
            return Box::pin(async move { Ok(sent(refused)) });
        }
        if let Some(parting) = &self.parting
            && self.layers.connections.parts()
        {
            parting.cancel();
        }
        let busy = self.activity.begin();
        let origin = Origin::Network { peer: self.peer.clone(), address: self.address, last: Arc::clone(&self.last) };
        let answer = self.layers.serve(origin, request);
        Box::pin(async move { Ok(sent(answer.await.map(|body| body.holding(busy)))) })
    }
}

/// The answer to a HEAD: as long as it says, but not there. Over HTTP/2 hyper would send it.
fn without_body(answer: Answer) -> Answer {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = body.len() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(head, Body::empty())
}

/// Refuses what Go's server refuses before anybody looks at it, in its words, and tunnels, which nobody digs here.
fn malformed<B>(request: &Request<B>) -> Option<Answer> {
    let bad = |why: &str| Some(answer::text(StatusCode::BAD_REQUEST, format!("400 Bad Request{why}")));
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let path = request.uri().path().as_bytes();
    let escaped = |at: usize| path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    match (request.version(), hosts) {
        _ if request.method() == Method::CONNECT => Some(answer::not_found()),
        (Version::HTTP_11, 0) => bad(": missing required Host header"),
        (Version::HTTP_11, 2..) => bad(""),
        _ if (0..path.len()).any(|at| path[at] == b'%' && !escaped(at)) => bad(""),
        _ => None,
    }
}

/// The server as a service inside the process: who calls is the `User` in the request's extensions, nobody in particular without one.
#[derive(Clone)]
pub struct Service {
    layers: Arc<Layers>,
}

impl Service {
    /// Over the same layers as the network.
    pub fn new(layers: Arc<Layers>) -> Self {
        Self { layers }
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let user = request.extensions_mut().remove::<Arc<User>>().or_else(|| request.extensions_mut().remove::<User>().map(Arc::new));
        let nobody = || Origin::Network { peer: None, address: None, last: Arc::default() };
        let origin = user.map_or_else(nobody, Origin::Process);
        let answer = self.layers.serve(origin, request);
        Box::pin(async move { Ok(answer.await) })
    }
}
