//! Calls to whichever member answers. One connection is used for as long as it works; when it does not, the next member's turn comes.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use parking_lot::RwLock;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use super::{
    Options, faults, messages,
    place::{Endpoint, TlsFiles},
};
use crate::grpc::{Connection, Fault, Inbox, Outbox};

/// A member that answers nothing for so long is left, when a call can be made again and there are others.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(2);
/// Pause after all members were tried in vain.
const AGAIN: Duration = Duration::from_millis(100);

/// Whether a call may be made twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// It changes nothing.
    None,
    /// It changes something: made again only when it was certainly not made.
    Write,
}

/// All members, and the connection to one of them.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: TlsFiles,
    user: Option<(String, String)>,
    token: RwLock<Token>,
    /// The member that is spoken to.
    at: AtomicUsize,
    connection: Mutex<Option<Reached>>,
    /// How many connections were made.
    made: AtomicU64,
    /// Largest answer that is taken, in bytes.
    largest: usize,
    /// What a call may take, all attempts together.
    timeout: Duration,
}

/// What says who we are.
#[derive(Clone)]
enum Token {
    /// To be asked for.
    Unknown,
    /// etcd has no users: it goes without.
    None,
    Known(HeaderValue),
}

/// A connection and which member it leads to.
#[derive(Clone)]
pub(super) struct Reached {
    pub(super) member: usize,
    pub(super) connection: Connection,
    /// No other one has it.
    number: u64,
}

impl Client {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let endpoints = options.endpoints.iter().map(|url| Endpoint::parse(url)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err("at least one URL of etcd is needed, such as http://127.0.0.1:2379".to_owned());
        }
        if options.tls.authorities.is_none() && endpoints.iter().any(Endpoint::is_tls) {
            return Err("https:// needs the file of etcd's certificate authority".to_owned());
        }
        // Several servers begin with different members. Their process ids may be the same: each has a container of its own.
        let first = RandomState::new().hash_one(()) as usize % endpoints.len();
        Ok(Self {
            endpoints,
            tls: options.tls.clone(),
            user: options.user.clone(),
            token: RwLock::new(Token::Unknown),
            at: AtomicUsize::new(first),
            connection: Mutex::new(None),
            made: AtomicU64::new(0),
            largest: options.answer_limit,
            timeout: options.timeout,
        })
    }

    /// Calls a method of whichever member answers.
    pub(super) async fn call(&self, method: &str, message: &[u8], effect: Effect) -> Result<Bytes, Fault> {
        self.call_within(self.timeout, method, message, effect).await
    }

    /// The same in this time, all attempts together.
    async fn call_within(&self, limit: Duration, method: &str, message: &[u8], effect: Effect) -> Result<Bytes, Fault> {
        let until = Instant::now() + limit;
        let (mut failures, mut renewed) = (0, false);
        loop {
            let reached = self.connected(until).await?;
            let left = until.saturating_duration_since(Instant::now());
            let patience = if effect == Effect::None { left.min(self.patience()) } else { left };
            let fault = match self.exchange(&reached, method, message, patience).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            debug!(method, member = self.endpoints[reached.member].url, %fault, "etcd did not do as asked");
            if (faults::is_stale_token(&fault) || faults::is_nameless(&fault)) && self.user.is_some() && !renewed {
                renewed = true;
                *self.token.write() = Token::Unknown;
                continue;
            }
            if !faults::is_of_member(&fault) {
                return Err(fault);
            }
            let busy = faults::is_busy(&fault);
            if !busy {
                self.leave(&reached).await;
            }
            failures += 1;
            let again = effect == Effect::None || fault.unsent || faults::is_refused_before(&fault);
            if !again || Instant::now() >= until {
                return Err(fault);
            }
            if busy || failures % self.endpoints.len() == 0 {
                sleep(AGAIN.min(until.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    async fn exchange(&self, reached: &Reached, method: &str, message: &[u8], limit: Duration) -> Result<Bytes, Fault> {
        let metadata = self.metadata(&reached.connection, limit).await?;
        reached.connection.call(method, message, &metadata, limit).await
    }

    /// Opens a call that goes both ways over a connection of its own: what is not read there keeps nothing else from coming.
    pub(super) async fn open(&self, method: &str, message: &[u8]) -> Result<(Reached, Outbox, Inbox), Fault> {
        let member = self.at.load(Ordering::Relaxed) % self.endpoints.len();
        let opened = async {
            let reached = self.dial(member, DIAL).await.map_err(|why| Fault::unsent("Unavailable", why))?;
            let metadata = self.metadata(&reached.connection, self.patience()).await?;
            let (outbox, inbox) = reached.connection.open(method, message, &metadata).await?;
            Ok((reached, outbox, inbox))
        };
        match tokio::time::timeout(self.patience(), opened).await {
            Ok(Ok(open)) => Ok(open),
            Ok(Err(fault)) => {
                self.left(member, &fault);
                Err(fault)
            }
            Err(_) => {
                let fault = Fault::new("DeadlineExceeded", "the member does not answer");
                self.left(member, &fault);
                Err(fault)
            }
        }
    }

    /// A call that goes both ways to this member failed: the next begins with another, and a token that is no longer good is forgotten.
    pub(super) fn left(&self, member: usize, fault: &Fault) {
        if faults::is_stale_token(fault) || faults::is_nameless(fault) {
            *self.token.write() = Token::Unknown;
        } else {
            self.advance(member);
        }
    }

    /// How long one member is waited for, when there may be others.
    fn patience(&self) -> Duration {
        if self.endpoints.len() > 1 { PATIENCE.min(self.timeout) } else { self.timeout }
    }

    /// What the member that is connected says of itself.
    pub(super) async fn status(&self) -> Result<messages::Status, Fault> {
        self.status_within(self.timeout).await
    }

    /// The same in this time.
    pub(super) async fn status_within(&self, limit: Duration) -> Result<messages::Status, Fault> {
        messages::Status::read(&self.call_within(limit, messages::STATUS, &[], Effect::None).await?)
    }

    /// Reads the files of TLS where they are needed; the error names the one that cannot be used.
    pub(super) async fn check_files(&self) -> Result<(), String> {
        if self.endpoints.iter().any(Endpoint::is_tls) { self.tls.read().await.map(drop) } else { Ok(()) }
    }

    /// The same of the member a connection leads to.
    pub(super) async fn status_of(&self, reached: &Reached) -> Result<messages::Status, Fault> {
        messages::Status::read(&self.exchange(reached, messages::STATUS, &[], self.patience()).await?)
    }

    /// Makes the token one that etcd does not know.
    #[cfg(test)]
    pub(super) fn spoil_token(&self) {
        *self.token.write() = Token::Known(HeaderValue::from_static("spoilt"));
    }

    /// A failure of the connection that was used last, told after another took its place.
    #[cfg(test)]
    pub(super) async fn fail_late(&self) -> bool {
        let until = Instant::now() + self.timeout;
        let Ok(old) = self.connected(until).await else { return false };
        *self.connection.lock().await = None;
        let Ok(new) = self.connected(until).await else { return false };
        self.leave(&old).await;
        self.connection.lock().await.as_ref().is_some_and(|kept| kept.number == new.number)
    }

    /// The URL of a member.
    pub(super) fn url(&self, member: usize) -> &str {
        self.endpoints.get(member).map_or("", |endpoint| &endpoint.url)
    }

    /// How many members there are.
    pub(super) fn members(&self) -> usize {
        self.endpoints.len()
    }

    /// The URLs of all members.
    pub(super) fn urls(&self) -> String {
        self.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The connection, made when there is none or it broke: to each member in turn until one takes it.
    async fn connected(&self, until: Instant) -> Result<Reached, Fault> {
        let mut kept = self.connection.lock().await;
        if let Some(reached) = kept.as_ref().filter(|reached| !reached.connection.is_closed()) {
            return Ok(reached.clone());
        }
        *kept = None;
        let mut said: Vec<String> = Vec::new();
        loop {
            let member = self.at.load(Ordering::Relaxed) % self.endpoints.len();
            let limit = DIAL.min(until.saturating_duration_since(Instant::now()));
            match self.dial(member, limit).await {
                Ok(reached) => {
                    *kept = Some(reached.clone());
                    return Ok(reached);
                }
                Err(why) => {
                    debug!(error = why, "cannot reach a member of etcd");
                    if !said.contains(&why) {
                        said.push(why);
                    }
                    self.advance(member);
                }
            }
            if Instant::now() + AGAIN >= until {
                return Err(Fault::unsent("Unavailable", format!("no member can be reached: {}", said.join("; "))));
            }
            if said.len() >= self.endpoints.len() || self.endpoints.len() == 1 {
                sleep(AGAIN).await;
            }
        }
    }

    /// Gives up a connection that failed, unless another is in its place already.
    async fn leave(&self, reached: &Reached) {
        let mut kept = self.connection.lock().await;
        let current = kept.as_ref().is_none_or(|kept| kept.number == reached.number);
        if current {
            *kept = None;
            // Before the lock is given back: whoever takes it connects to the next one.
            self.advance(reached.member);
        }
    }

    /// A new connection to a member.
    async fn dial(&self, member: usize, limit: Duration) -> Result<Reached, String> {
        let connection = self.endpoints[member].dial(&self.tls, self.largest, limit).await?;
        Ok(Reached { member, connection, number: self.made.fetch_add(1, Ordering::Relaxed) })
    }

    /// It is the turn of the member after this one.
    fn advance(&self, from: usize) {
        let next = (from + 1) % self.endpoints.len();
        if self.at.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != from {
            warn!(from = self.url(from), to = self.url(next), "another member of etcd is asked now");
        }
    }

    /// What goes with every call: a member without a leader shall say so at once, and who we are.
    async fn metadata(&self, connection: &Connection, limit: Duration) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
        let mut metadata = vec![(HeaderName::from_static("hasleader"), HeaderValue::from_static("true"))];
        if let Some((user, password)) = &self.user {
            let known = self.token.read().clone();
            let token = match known {
                Token::Unknown => {
                    let asked = messages::authenticate(user, password);
                    let token = granted(connection.call(messages::AUTHENTICATE, &asked, &metadata, limit).await)?;
                    *self.token.write() = token.clone();
                    token
                }
                known => known,
            };
            if let Token::Known(token) = token {
                metadata.push((HeaderName::from_static("token"), token));
            }
        }
        Ok(metadata)
    }
}

/// The token of an answer. An etcd without users wants none (etcd `client/v3/client.go` `getToken`).
fn granted(answer: Result<Bytes, Fault>) -> Result<Token, Fault> {
    match answer {
        Err(fault) if faults::has_no_users(&fault) => Ok(Token::None),
        Err(fault) => Err(Fault { unsent: true, ..fault }),
        Ok(answer) => {
            let mut token = HeaderValue::from_str(&messages::token(&answer)?).map_err(|error| Fault::new("Internal", error))?;
            token.set_sensitive(true);
            Ok(Token::Known(token))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http::{HeaderMap, Request, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::{body::Incoming, server::conn::http2, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;

    use super::*;

    /// A member that has too much to do for the first few calls; counts connections and calls.
    async fn busy_member(refusals: usize) -> (String, Arc<[AtomicUsize; 2]>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let seen = counts.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen[0].fetch_add(1, Ordering::Relaxed);
                let seen = seen.clone();
                let answer = service_fn(move |_: Request<Incoming>| {
                    let status =
                        if seen[1].fetch_add(1, Ordering::Relaxed) < refusals { ("8", "etcdserver: too many requests") } else { ("0", "") };
                    let trailers = [("grpc-status", status.0), ("grpc-message", status.1)];
                    let trailers: HeaderMap = trailers
                        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                        .into_iter()
                        .collect();
                    // An empty message, and its length before it.
                    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
                    async { Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap()) }
                });
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer));
            }
        });
        (url, counts)
    }

    #[tokio::test]
    async fn a_member_that_is_busy_is_asked_again_over_the_connection_that_all_share() {
        let (url, counts) = busy_member(3).await;
        let client = Client::new(&Options::new(vec![url])).unwrap();
        client.call(messages::TXN, &[], Effect::Write).await.unwrap();
        let counts = [&counts[0], &counts[1]].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [1, 4], "connections and calls");
    }
}
