//! Connections to a webhook: dialled over TLS, kept for the next question, HTTP/1.1 or, on this machine, HTTP/2.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::{ClientConfig as Tls, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Duration, Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{
    Question, Said,
    place::{Address, Place, authority},
    words,
};

/// Connections kept for later (`maxIdleConnsPerHost` of client-go).
const IDLE: usize = 25;
/// How long they are (`IdleConnTimeout`).
const IDLE_TIME: Duration = Duration::from_secs(90);
/// Questions at a time over one connection of many: Go's servers take 250.
const STREAMS: usize = 200;

/// Time to reach somebody and shake hands (`net.Dialer` of client-go's transports).
const DIAL: Duration = Duration::from_secs(30);

/// The connections of one webhook.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    /// Those who dial what was asked for last.
    dialling: Mutex<Arc<Dialling>>,
    /// The last connection carries one question at a time: there is nothing to wait for.
    single: AtomicBool,
}

/// One dials these addresses at a time, as long as a connection may carry many questions: those who come meanwhile wait for theirs to go
/// with it.
#[derive(Default)]
struct Dialling {
    addresses: Vec<Address>,
    /// What the last one met who did not come through, and when: it is told to those who waited for that.
    last: tokio::sync::Mutex<Option<(String, Instant)>>,
}

/// A connection that a question may go over.
pub(super) struct Way {
    pub(super) address: Address,
    pub(super) connection: Connection,
    /// It was dialled for this question.
    pub(super) is_new: bool,
}

struct Idle {
    address: Address,
    connection: Connection,
    since: Instant,
}

/// What carries questions: one at a time, or many.
pub(super) enum Connection {
    One(http1::SendRequest<Question>),
    /// The second is held by whoever still reads an answer.
    Many(http2::SendRequest<Question>, Arc<()>),
}

/// Why a question was not answered, and the question when it never left.
pub(super) struct Unsent {
    pub(super) why: String,
    pub(super) question: Option<Request<Question>>,
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
        request: impl Fn() -> Request<Question>,
        largest: usize,
    ) -> Result<Said, Fault> {
        loop {
            let Way { address, mut connection, is_new } = self.way(addresses, place, tls).await.map_err(Fault::Before)?;
            match connection.send(request(), place).await {
                Ok(answer) => return self.read(answer, address, connection, largest).await,
                // The other side closed it meanwhile: nothing was asked yet.
                Err(Unsent { question: Some(_), .. }) if !is_new => {}
                Err(Unsent { why, .. }) => return Err(Fault::Before(why)),
            }
        }
    }

    /// A connection to the first of these addresses that can be reached: one that is there already if there is one.
    pub(super) async fn way(&self, addresses: &[Address], place: &Place, tls: &Arc<Tls>) -> Result<Way, String> {
        let old = |(address, connection)| Way { address, connection, is_new: false };
        let new = |(address, connection)| Way { address, connection, is_new: true };
        if let Some(found) = self.take(addresses) {
            return Ok(old(found));
        }
        let may_share = !place.plain && tls.alpn_protocols.iter().any(|offered| offered == b"h2");
        if !may_share || self.single.load(Ordering::Relaxed) {
            return self.dial(addresses, place, tls).await.map(new);
        }
        let came = Instant::now();
        let turn = self.turn(addresses);
        let mut last = turn.last.lock().await;
        if let Some(found) = self.take(addresses) {
            return Ok(old(found));
        }
        if let Some((why, _)) = last.as_ref().filter(|(_, at)| came < *at) {
            return Err(why.clone());
        }
        if self.single.load(Ordering::Relaxed) {
            drop(last);
            return self.dial(addresses, place, tls).await.map(new);
        }
        let dialled = self.dial(addresses, place, tls).await;
        *last = dialled.as_ref().err().map(|why| (why.clone(), Instant::now()));
        dialled.map(new)
    }

    /// Those who dial these addresses, in whatever order. Who still dials others is not waited for.
    fn turn(&self, addresses: &[Address]) -> Arc<Dialling> {
        let mut now = self.dialling.lock();
        if now.addresses.len() != addresses.len() || !addresses.iter().all(|address| now.addresses.contains(address)) {
            *now = Arc::new(Dialling { addresses: addresses.to_vec(), ..Dialling::default() });
        }
        Arc::clone(&now)
    }

    /// A new connection, which others may use if it carries many questions.
    async fn dial(&self, addresses: &[Address], place: &Place, tls: &Arc<Tls>) -> Result<(Address, Connection), String> {
        let (address, connection) = first(addresses, place, tls).await?;
        self.single.store(matches!(connection, Connection::One(_)), Ordering::Relaxed);
        self.share(&address, &connection);
        Ok((address, connection))
    }

    /// A connection to one of these addresses that still stands.
    fn take(&self, addresses: &[Address]) -> Option<(Address, Connection)> {
        let mut idle = self.idle.lock();
        idle.retain(|kept| kept.since.elapsed() < IDLE_TIME && kept.connection.stands());
        let at = idle.iter().rposition(|kept| addresses.contains(&kept.address) && kept.connection.has_room())?;
        if let Connection::Many(sender, uses) = &idle[at].connection {
            return Some((idle[at].address.clone(), Connection::Many(sender.clone(), uses.clone())));
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
        self.keep(address, connection);
        Ok(Said { code: head.status, headers: head.headers, body: read.to_bytes() })
    }

    /// Lets others use a new connection that carries many questions while its first is under way.
    fn share(&self, address: &Address, connection: &Connection) {
        if let Connection::Many(sender, uses) = connection {
            self.keep(address.clone(), Connection::Many(sender.clone(), uses.clone()));
        }
    }

    /// Keeps a connection for the next question. One of many is kept from its first question on, and once.
    pub(super) fn keep(&self, address: Address, connection: Connection) {
        let mut idle = self.idle.lock();
        let same = |kept: &&mut Idle| matches!((&kept.connection, &connection), (Connection::Many(_, a), Connection::Many(_, b)) if Arc::ptr_eq(a, b));
        if let Some(kept) = idle.iter_mut().find(same) {
            kept.since = Instant::now();
        } else if idle.len() < IDLE {
            idle.push(Idle { address, connection, since: Instant::now() });
        }
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
            Self::Many(sender, _) => !sender.is_closed(),
        }
    }

    fn has_room(&self) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(_, uses) => Arc::strong_count(uses) <= STREAMS,
        }
    }

    /// Sends; the error has the question when it never left.
    pub(super) async fn send(&mut self, mut request: Request<Question>, place: &Place) -> Result<http::Response<Incoming>, Unsent> {
        let unsendable = |e: &dyn std::fmt::Display| Unsent { why: format!("invalid URL: {e}"), question: None };
        let failed = |mut e: TrySendError<Request<Question>>| Unsent { why: words::sending(e.error()), question: e.take_message() };
        match self {
            Self::One(sender) => {
                *request.uri_mut() = place.path.parse().map_err(|e| unsendable(&e))?;
                let host = http::HeaderValue::from_str(&place.authority).map_err(|e| unsendable(&e))?;
                request.headers_mut().insert(header::HOST, host);
                *request.version_mut() = http::Version::HTTP_11;
                if sender.ready().await.is_err() {
                    return Err(Unsent { why: "EOF".to_owned(), question: Some(request) });
                }
                sender.try_send_request(request).await.map_err(failed)
            }
            Self::Many(sender, _) => {
                *request.uri_mut() = place.url().parse::<Uri>().map_err(|e| unsendable(&e))?;
                request.headers_mut().remove(header::HOST);
                *request.version_mut() = http::Version::HTTP_2;
                if sender.ready().await.is_err() {
                    return Err(Unsent { why: "EOF".to_owned(), question: Some(request) });
                }
                sender.try_send_request(request).await.map_err(failed)
            }
        }
    }
}

/// A new connection to the first of these addresses that can be reached.
pub(super) async fn first(addresses: &[Address], place: &Place, tls: &Arc<Tls>) -> Result<(Address, Connection), String> {
    let mut last = "no address".to_owned();
    for address in addresses {
        match timeout(DIAL, dial(address, place, tls)).await {
            Ok(Ok(connection)) => return Ok((address.clone(), connection)),
            Ok(Err(why)) => last = why,
            Err(_) => last = format!("dial tcp {}: i/o timeout", authority(&address.0, address.1)),
        }
    }
    Err(last)
}

/// A new connection to an address.
async fn dial((host, port): &Address, place: &Place, tls: &Arc<Tls>) -> Result<Connection, String> {
    let stream = place.way.dial(host, *port).await?;
    if place.plain {
        return one(stream).await;
    }
    let name = ServerName::try_from(place.name.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|e| words::handshake(&e))?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|e| words::sending(&e))?;
        tokio::spawn(async move { ended(connection.await) });
        return Ok(Connection::Many(sender, Arc::default()));
    }
    one(stream).await
}

/// A connection that carries one question at a time.
async fn one<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Result<Connection, String> {
    let (sender, connection) =
        http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await.map_err(|e| words::sending(&e))?;
    tokio::spawn(async move { ended(connection.with_upgrades().await) });
    Ok(Connection::One(sender))
}

fn ended(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        debug!(%error, "connection to a webhook ended");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::webhook::{Trust, client};

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    fn acceptor(protocols: &[&str]) -> TlsAcceptor {
        let made = rcgen::generate_simple_self_signed(["hook.ns.svc".to_owned()]).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![made.cert.der().clone()], made.signing_key.into()).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn tls(protocols: &[&str]) -> Arc<Tls> {
        client(Trust { bundle: None, insecure: true, identity: None, protocols }).unwrap()
    }

    fn place() -> Place {
        let service = coracle_tree::json!({"namespace": "ns", "name": "hook"});
        Place::at_service(&coracle_tree::from_value(service).unwrap(), "/")
    }

    #[tokio::test]
    async fn nobody_waits_for_a_connection_that_can_carry_one_question_only() {
        const CALLERS: usize = 16;
        let (listener, at) = listen().await;
        let server = tokio::spawn(async move {
            let (mut all, acceptor) = (Vec::new(), acceptor(&["http/1.1"]));
            while all.len() < CALLERS {
                all.push(listener.accept().await.unwrap().0);
            }
            futures::future::join_all(all.into_iter().map(|stream| acceptor.accept(stream))).await
        });
        let (pool, place, tls) = (Pool::default(), place(), tls(&["http/1.1"]));
        let addresses = [(at.ip().to_string(), at.port())];
        let ways = futures::future::join_all((0..CALLERS).map(|_| pool.way(&addresses, &place, &tls)));
        let ways = timeout(Duration::from_secs(20), ways).await.expect("all dial at once");
        assert!(ways.into_iter().all(|way| way.is_ok_and(|way| way.is_new)));
        drop(server.await.unwrap());
    }

    #[tokio::test]
    async fn who_dials_an_address_that_is_silent_keeps_nobody_from_another() {
        let ((silent, nowhere), (listener, at)) = (listen().await, listen().await);
        let server = tokio::spawn(async move {
            let stream = listener.accept().await.unwrap().0;
            acceptor(&["h2"]).accept(stream).await
        });
        let (pool, place, tls) = (Pool::default(), place(), tls(&["h2", "http/1.1"]));
        let address = |at: SocketAddr| [(at.ip().to_string(), at.port())];
        let (old, new) = (address(nowhere), address(at));
        let mut stuck = std::pin::pin!(pool.way(&old, &place, &tls));
        assert!(futures::poll!(stuck.as_mut()).is_pending());
        let way = timeout(Duration::from_secs(20), pool.way(&new, &place, &tls)).await.expect("not waited for");
        assert_eq!(way.unwrap_or_else(|why| panic!("{why}")).address, new[0]);
        drop((server.await.unwrap(), silent));
    }
}
