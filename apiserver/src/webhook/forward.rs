//! Whole requests passed on to a service of this cluster, their bodies and answers streamed, and connections that leave HTTP.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use futures::{StreamExt, stream::BoxStream};
use http::{Request, Response, response::Parts};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use parking_lot::Mutex;
use rustls::ClientConfig as Tls;
use tracing::debug;

use super::{
    Identity, Question, ServiceReference, Trust, Way, certificates, client,
    connection::{self, Connection, Pool, Unsent, first},
    place::{self, Address, Place, authority},
};
use crate::registry::Reader;

/// A service that requests are passed on to, and the connections to it.
pub(crate) struct Link {
    service: ServiceReference,
    way: Way,
    tls: Arc<Tls>,
    /// For connections that leave HTTP: those are of version 1.
    upgradable: OnceLock<Arc<Tls>>,
    pool: Arc<Pool>,
    known: Mutex<Known>,
}

/// Where a service is.
#[derive(Default)]
struct Known {
    /// How often it has moved: who looked before is told nothing of after.
    moves: u64,
    /// `None` until somebody has looked since.
    addresses: Option<Arc<[Address]>>,
}

/// How a service is recognised.
pub(crate) struct Terms<'a> {
    /// `caBundle`, base64 of PEM.
    pub bundle: Option<&'a str>,
    /// `insecureSkipTLSVerify`.
    pub insecure: bool,
    /// The certificate shown to it.
    pub identity: Option<&'a Identity>,
    /// The way to it.
    pub way: &'a Way,
}

/// What a service answered: its body as it comes.
pub(crate) type Frames = BoxStream<'static, io::Result<bytes::Bytes>>;

impl Link {
    /// The error says which certificate cannot be used.
    pub(crate) fn new(service: ServiceReference, terms: &Terms<'_>) -> Result<Self, String> {
        let bundle = terms.bundle.filter(|bundle| !bundle.trim().is_empty()).map(certificates).transpose()?;
        let trust = Trust { bundle, insecure: terms.insecure, identity: terms.identity, protocols: &["h2", "http/1.1"] };
        let (tls, way) = (client(trust)?, terms.way.clone());
        Ok(Self { service, way, tls, upgradable: OnceLock::new(), pool: Arc::default(), known: Mutex::default() })
    }

    /// Its endpoints or its service have changed.
    pub(crate) fn moved(&self) {
        let mut known = self.known.lock();
        *known = Known { moves: known.moves + 1, addresses: None };
    }

    /// Where it is. The error is what upstream's resolver says.
    pub(crate) async fn addresses(&self, reader: &dyn Reader) -> Result<Arc<[Address]>, String> {
        let moves = {
            let known = self.known.lock();
            if let Some(addresses) = &known.addresses {
                return Ok(Arc::clone(addresses));
            }
            known.moves
        };
        let found: Arc<[Address]> = place::endpoints(&self.service, reader).await?.into();
        let mut known = self.known.lock();
        // What was found while it moved may be from before.
        if known.moves == moves {
            known.addresses = Some(Arc::clone(&found));
        }
        Ok(found)
    }

    /// `https://ADDRESS` of the endpoint that is asked first.
    pub(crate) async fn origin(&self, reader: &dyn Reader) -> Result<String, String> {
        let addresses = self.addresses(reader).await?;
        let (host, port) = addresses.first().ok_or("no address")?;
        Ok(format!("https://{}", authority(host, *port)))
    }

    /// Passes a request on; the path and query of its URI count. The error is what Go's transport says.
    pub(crate) async fn send(&self, addresses: &[Address], request: Request<Question>) -> Result<(Parts, Frames), String> {
        let place = self.place(&request);
        let mut request = request;
        loop {
            let connection::Way { address, mut connection, is_new } = self.pool.way(addresses, &place, &self.tls).await?;
            match connection.send(request, &place).await {
                Ok(answer) => return Ok(self.answered(answer, address, connection)),
                Err(Unsent { question: Some(unsent), .. }) if !is_new => request = unsent,
                Err(Unsent { why, .. }) => return Err(why),
            }
        }
    }

    /// Passes a request for an upgrade on; the connection is the answer's if it says 101.
    pub(crate) async fn upgrade(&self, addresses: &[Address], request: Request<Question>) -> Result<(Parts, Frames, OnUpgrade), String> {
        let place = self.place(&request);
        let tls = self.upgradable.get_or_init(|| {
            let mut tls = Tls::clone(&self.tls);
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(tls)
        });
        let dialled = first(addresses, &place, tls).await.map_err(|why| format!("error dialing backend: {why}"))?;
        let (_, mut connection) = dialled;
        let mut answer = connection.send(request, &place).await.map_err(|unsent| format!("error sending request: {}", unsent.why))?;
        let theirs = hyper::upgrade::on(&mut answer);
        let (parts, body) = answer.into_parts();
        Ok((parts, frames(Reading { body, connection, back: None }), theirs))
    }

    fn place(&self, request: &Request<Question>) -> Place {
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut place = Place::at_service(&self.service, path);
        place.way = self.way.clone();
        place
    }

    /// The answer; its connection is free for the next question when its body has ended.
    fn answered(&self, answer: Response<Incoming>, address: Address, connection: Connection) -> (Parts, Frames) {
        let (parts, body) = answer.into_parts();
        let back = matches!(connection, Connection::One(_)).then(|| (Arc::clone(&self.pool), address));
        (parts, frames(Reading { body, connection, back }))
    }
}

/// An answer that is being read.
struct Reading {
    body: Incoming,
    connection: Connection,
    /// Where the connection goes when the body has ended.
    back: Option<(Arc<Pool>, Address)>,
}

/// The data of an answer's body. One that breaks off gives its connection to nobody.
fn frames(reading: Reading) -> Frames {
    futures::stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        loop {
            match reading.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), Some(reading)));
                    }
                }
                Some(Err(error)) => {
                    debug!(%error, "an answer that is passed on broke off");
                    return Some((Err(io::Error::other(error)), None));
                }
                None => {
                    if let Some((pool, address)) = reading.back {
                        pool.keep(address, reading.connection);
                    }
                    return None;
                }
            }
        }
    })
    .boxed()
}
