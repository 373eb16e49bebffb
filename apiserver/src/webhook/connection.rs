//! Connections to a webhook: dialled over TLS, kept for the next question, HTTP/1.1 or, on this machine, HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::{ClientConfig as Tls, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Duration, Instant},
};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{
    Said,
    place::{Address, Place, authority},
    words,
};

/// Connections kept for later (`maxIdleConnsPerHost` of client-go).
const IDLE: usize = 25;
/// How long they are (`IdleConnTimeout`).
const IDLE_TIME: Duration = Duration::from_secs(90);

/// The connections of one webhook.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    address: Address,
    connection: Connection,
    since: Instant,
}

/// What carries questions: one at a time, or many.
enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

/// Why there is no answer.
pub(super) enum Fault {
    /// None was begun.
    Before(String),
    /// It broke off.
    Reading(String),
}

impl Pool {
    /// Asks at the first address that can be reached, over a connection that is there already if there is one.
    pub(super) async fn exchange(
        &self,
        addresses: &[Address],
        place: &Place,
        tls: &Arc<Tls>,
        request: impl Fn() -> Request<Full<Bytes>>,
        largest: usize,
    ) -> Result<Said, Fault> {
        while let Some((address, connection)) = self.take(addresses) {
            let mut connection = connection;
            match connection.send(request(), place).await {
                Ok(answer) => return self.read(answer, address, connection, largest).await,
                // The other side closed it meanwhile: nothing was asked yet.
                Err((_, true)) => {}
                Err((why, false)) => return Err(Fault::Before(why)),
            }
        }
        let mut last = "no address".to_owned();
        for address in addresses {
            match dial(address, place, tls).await {
                Ok(mut connection) => {
                    let answer = connection.send(request(), place).await.map_err(|(why, _)| Fault::Before(why))?;
                    return self.read(answer, address.clone(), connection, largest).await;
                }
                Err(why) => last = why,
            }
        }
        Err(Fault::Before(last))
    }

    /// A connection to one of these addresses that still stands.
    fn take(&self, addresses: &[Address]) -> Option<(Address, Connection)> {
        let mut idle = self.idle.lock();
        idle.retain(|kept| kept.since.elapsed() < IDLE_TIME && kept.connection.stands());
        let at = idle.iter().rposition(|kept| addresses.contains(&kept.address))?;
        if let Connection::Many(sender) = &idle[at].connection {
            return Some((idle[at].address.clone(), Connection::Many(sender.clone())));
        }
        let Idle { address, connection, .. } = idle.swap_remove(at);
        Some((address, connection))
    }

    /// Reads the answer; the connection is kept when all of it was read.
    async fn read(
        &self,
        answer: http::Response<Incoming>,
        address: Address,
        connection: Connection,
        largest: usize,
    ) -> Result<Said, Fault> {
        let (head, body) = answer.into_parts();
        let read = Limited::new(body, largest).collect().await.map_err(|e| Fault::Reading(broken(&*e, largest)))?;
        let mut idle = self.idle.lock();
        let known = matches!(connection, Connection::Many(_)) && idle.iter().any(|kept| kept.address == address);
        if !known && idle.len() < IDLE {
            idle.push(Idle { address, connection, since: Instant::now() });
        } else if let Some(kept) = idle.iter_mut().find(|kept| known && kept.address == address) {
            kept.since = Instant::now();
        }
        Ok(Said { code: head.status, headers: head.headers, body: read.to_bytes() })
    }
}

fn broken(error: &(dyn std::error::Error + Send + Sync + 'static), largest: usize) -> String {
    if error.is::<http_body_util::LengthLimitError>() {
        return format!("the answer is larger than {largest} bytes");
    }
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_incomplete_message() => "unexpected EOF".to_owned(),
        _ => error.to_string(),
    }
}

impl Connection {
    fn stands(&self) -> bool {
        match self {
            Self::One(sender) => !sender.is_closed(),
            Self::Many(sender) => !sender.is_closed(),
        }
    }

    /// Sends; the error says, too, whether the question never left.
    async fn send(&mut self, mut request: Request<Full<Bytes>>, place: &Place) -> Result<http::Response<Incoming>, (String, bool)> {
        let unsendable = |e: &dyn std::fmt::Display| (format!("invalid URL: {e}"), false);
        match self {
            Self::One(sender) => {
                *request.uri_mut() = place.path.parse().map_err(|e| unsendable(&e))?;
                let host = http::HeaderValue::from_str(&place.authority).map_err(|e| unsendable(&e))?;
                request.headers_mut().insert(header::HOST, host);
                if sender.ready().await.is_err() {
                    return Err(("EOF".to_owned(), true));
                }
                sender.try_send_request(request).await.map_err(|mut e| {
                    let unsent = e.take_message().is_some();
                    (words::sending(e.error()), unsent)
                })
            }
            Self::Many(sender) => {
                *request.uri_mut() = place.url().parse::<Uri>().map_err(|e| unsendable(&e))?;
                if sender.ready().await.is_err() {
                    return Err(("EOF".to_owned(), true));
                }
                sender.try_send_request(request).await.map_err(|mut e| {
                    let unsent = e.take_message().is_some();
                    (words::sending(e.error()), unsent)
                })
            }
        }
    }
}

async fn dial((host, port): &Address, place: &Place, tls: &Arc<Tls>) -> Result<Connection, String> {
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| words::dial(&authority(host, *port), &e))?;
    let _ = stream.set_nodelay(true);
    if place.plain {
        return one(stream).await;
    }
    let name = ServerName::try_from(place.name.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|e| words::handshake(&e))?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|e| words::sending(&e))?;
        tokio::spawn(async move { ended(connection.await) });
        return Ok(Connection::Many(sender));
    }
    one(stream).await
}

/// A connection that carries one question at a time.
async fn one<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Result<Connection, String> {
    let (sender, connection) =
        http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await.map_err(|e| words::sending(&e))?;
    tokio::spawn(async move { ended(connection.await) });
    Ok(Connection::One(sender))
}

fn ended(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        debug!(%error, "connection to a webhook ended");
    }
}
