//! Tokens that somebody else signs: a service on a socket that has the keys (`--service-account-signing-endpoint`; kubernetes
//! `pkg/serviceaccount/externaljwt/plugin`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};
use tracing::{error, info, warn};

use super::keys::VerifyingKey;
use crate::{
    webhook::grpc::{Client, Fault},
    wire::message::{Field, Writer, fields},
};

/// What a question may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before keys that could not be fetched are asked for again.
const AGAIN: Duration = Duration::from_secs(10);
/// Shortest lifetime of tokens that the service must allow, in seconds.
const SHORTEST: i64 = 600;
/// Longest id of a key, in bytes.
const LONGEST_ID: usize = 1024;
/// The keys that are taken.
const ALLOWED: &str = "an RSA key or an uncompressed point on P-256 or P-384, in DER (PKIX)";

/// The service.
pub struct Signer {
    client: Client,
    known: RwLock<Arc<Known>>,
    /// One fetches keys at a time; those who came meanwhile take what he got, which stands here, be it a failure.
    fetching: Mutex<Result<(), String>>,
    /// How many fetches have ended: who waits for his turn sees by it that another one had his. It changes with the turn held.
    fetches: AtomicU64,
    /// The longest lifetime it gives to tokens, in seconds.
    longest: i64,
}

/// The keys it told last.
struct Known {
    keys: Arc<[VerifyingKey]>,
    /// When they are to be fetched again.
    until: Instant,
}

/// What a token begins with, all of it.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

impl Signer {
    /// Asks the service at a socket (a path, or `@name`) for its keys and what it allows. The error is that of the start.
    pub(crate) async fn open(socket: &str) -> Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("while setting up external-jwt-signer: {why}");
        let client = Client::new(socket, TIMEOUT);
        let known = fetched(&client).await;
        let known =
            known.map_err(|why| failed(&format!("while initially filling key cache: while performing initial cache fill: {why}")))?;
        let said = client.call("/v1.ExternalJWTSigner/Metadata", &[]).await.map_err(|why| failed(&why))?;
        let longest = number(&said, 1).ok_or_else(|| failed(&malformed()))?;
        if longest < SHORTEST {
            return Err(format!("max token life supported by external-jwt-signer ({longest}s) is less than acceptable (min {SHORTEST}s)"));
        }
        Ok(Self { client, known: RwLock::new(Arc::new(known)), fetching: Mutex::new(Ok(())), fetches: AtomicU64::new(0), longest })
    }

    /// The longest lifetime it gives to tokens, in seconds.
    pub(crate) fn longest(&self) -> i64 {
        self.longest
    }

    /// Its keys, and for how many seconds they are good.
    pub(super) fn keys(&self) -> (Arc<[VerifyingKey]>, u64) {
        let known = self.known.read().clone();
        (known.keys.clone(), known.until.saturating_duration_since(Instant::now()).as_secs())
    }

    /// The keys of this id, all when it is empty. One that nobody knows is asked for.
    pub(super) async fn keys_of(&self, id: &str) -> Vec<VerifyingKey> {
        let found = self.find(id);
        if !found.is_empty() {
            return found;
        }
        if let Err(why) = self.fetch().await {
            error!(why, "Error while syncing keys");
        }
        self.find(id)
    }

    fn find(&self, id: &str) -> Vec<VerifyingKey> {
        self.known.read().keys.iter().filter(|key| id.is_empty() || key.id == id).cloned().collect()
    }

    async fn fetch(&self) -> Result<(), String> {
        let before = self.fetches.load(Ordering::Acquire);
        let mut last = self.fetching.lock().await;
        // A service that is not there keeps each one waiting for a minute: a failure is not repeated for all who wait.
        if self.fetches.load(Ordering::Acquire) != before {
            return last.clone();
        }
        *last = match fetched(&self.client).await {
            Ok(known) => {
                *self.known.write() = Arc::new(known);
                Ok(())
            }
            Err(why) => Err(format!("while fetching token verification keys: {why}")),
        };
        self.fetches.fetch_add(1, Ordering::Release);
        last.clone()
    }

    /// Keeps its keys up to date for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            let until = self.known.read().until;
            tokio::time::sleep_until(until).await;
            if let Err(why) = self.fetch().await {
                error!(why, "when syncing supported public keys (stale ones stay in use)");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// A token of these claims.
    pub(super) async fn seal(&self, claims: &impl Serialize) -> Result<String, String> {
        let payload = serde_json::to_vec(claims).map_err(|why| format!("while merging claims: failed to marshal: {why}"))?;
        let payload = URL_SAFE_NO_PAD.encode(payload);
        let asked = Writer::default().bytes(1, payload.as_bytes()).finish();
        let said = self.client.call("/v1.ExternalJWTSigner/Sign", &asked).await.map_err(|why| format!("while signing jwt: {why}"))?;
        let said = fields(&said).ok_or_else(|| format!("while signing jwt: {}", malformed()))?;
        let text = |number: u64| {
            let found = said.iter().rev().find_map(|field| match field {
                (found, Field::Bytes(bytes)) if *found == number => std::str::from_utf8(bytes).ok(),
                _ => None,
            });
            found.unwrap_or_default()
        };
        let (header, signature) = (text(1), text(2));
        self.check(header).await.map_err(|why| format!("while validating header: {why}"))?;
        if signature.is_empty() {
            return Err("empty signature returned".to_owned());
        }
        Ok(format!("{header}.{payload}.{signature}"))
    }

    async fn check(&self, header: &str) -> Result<(), String> {
        let json = URL_SAFE_NO_PAD.decode(header).map_err(|why| format!("while unwrapping header: {why}"))?;
        let Header { alg, kid, typ } = serde_json::from_slice(&json).map_err(|why| format!("while parsing header JSON: {why}"))?;
        if typ != "JWT" {
            return Err("bad type".to_owned());
        }
        if kid.is_empty() {
            return Err("key id missing".to_owned());
        }
        if kid.len() > LONGEST_ID {
            return Err("key id longer than 1 kb".to_owned());
        }
        match alg.as_str() {
            "RS256" | "ES256" | "ES384" => {}
            // Such a token could be given out and never be verified.
            "ES512" => return Err(format!("bad signing algorithm {alg:?}: its keys (EC on P-521) are not supported")),
            _ => return Err(format!("bad signing algorithm {alg:?}")),
        }
        // Such keys verify what was issued before, nothing new.
        if self.keys_of(&kid).await.iter().any(|key| key.is_hidden) {
            return Err(format!("key used for signing JWT (kid: {kid}) is excluded from OIDC discovery docs"));
        }
        Ok(())
    }
}

fn malformed() -> Fault {
    Fault::new("Internal", "proto: cannot parse invalid wire-format data")
}

/// A number of a message; 0 when it is not said, nothing when the message is none.
fn number(message: &[u8], wanted: u64) -> Option<i64> {
    let found = fields(message)?.into_iter().rev().find_map(|field| match field {
        (number, Field::Number(value)) if number == wanted => Some(value.cast_signed()),
        _ => None,
    });
    Some(found.unwrap_or_default())
}

/// Asks for the keys.
async fn fetched(client: &Client) -> Result<Known, String> {
    let said: Bytes = client
        .call("/v1.ExternalJWTSigner/FetchKeys", &[])
        .await
        .map_err(|why| format!("while getting externally supported jwt signing keys: {why}"))?;
    let (mut keys, mut strange, mut dated) = (Vec::new(), Vec::new(), false);
    for field in fields(&said).ok_or_else(|| malformed().to_string())? {
        match field {
            (1, Field::Bytes(message)) => match key(message)? {
                (_, Some(key)) => keys.push(key),
                (id, None) => strange.push(id),
            },
            (2, Field::Bytes(_)) => dated = true,
            _ => {}
        }
    }
    let refresh = number(&said, 3).unwrap_or_default();
    let Some(hint) = u64::try_from(refresh).ok().filter(|hint| *hint > 0) else {
        return Err(format!("found invalid refresh hint ({refresh}s)"));
    };
    if keys.is_empty() && strange.is_empty() {
        return Err("found no keys".to_owned());
    }
    if !dated {
        return Err("invalid data timestamp: proto: invalid nil Timestamp".to_owned());
    }
    if keys.is_empty() {
        return Err(format!("while parsing external public keys: of {strange:?} none is {ALLOWED}"));
    }
    for id in &strange {
        // What the others sign is verified all the same.
        warn!(id, "key of tokens is left out: it is not {ALLOWED}");
    }
    info!(keys = keys.len(), "keys of tokens were fetched");
    let now = Instant::now();
    let until = now.checked_add(Duration::from_secs(hint)).unwrap_or(now + Duration::from_secs(24 * 3600));
    Ok(Known { keys: keys.into(), until })
}

/// A key and its id; the id alone when the key is of a kind that verifies nothing here.
fn key(message: &[u8]) -> Result<(String, Option<VerifyingKey>), String> {
    let (mut id, mut der, mut is_hidden) = (String::new(), &[][..], false);
    for field in fields(message).ok_or_else(|| malformed().to_string())? {
        match field {
            (1, Field::Bytes(text)) => id = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Bytes(bytes)) => der = bytes,
            (3, Field::Number(hidden)) => is_hidden = hidden != 0,
            _ => {}
        }
    }
    if id.is_empty() || id.len() > LONGEST_ID {
        return Err(format!("found invalid public key id {id:?}"));
    }
    if der.is_empty() {
        return Err("found empty public key".to_owned());
    }
    let key = VerifyingKey::from_der(der).map(|key| key.named(id.clone(), is_hidden));
    Ok((id, key))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::atomic::AtomicUsize};

    use coracle_tree::{Value, json};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::{body::Frame, server::conn::http2, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rcgen::PublicKeyData;
    use ring::signature::{self, EcdsaKeyPair};

    use super::*;
    use crate::authn::claims;

    /// A service on a socket with one key; what it says of itself is up to the test.
    struct Service {
        pair: EcdsaKeyPair,
        der: Vec<u8>,
        /// The key `other`, if there is one.
        other: Vec<u8>,
        /// How often its keys were asked for.
        asked: Arc<AtomicUsize>,
        /// How often it tells them.
        good: usize,
        header: Value,
        hint: u64,
        hidden: bool,
        longest: u64,
    }

    impl Service {
        fn new() -> Self {
            let random = ring::rand::SystemRandom::new();
            let made = rcgen::KeyPair::generate().unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &made.serialize_der(), &random).unwrap();
            let der = made.subject_public_key_info();
            let header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
            let (other, asked, good) = (Vec::new(), Arc::default(), usize::MAX);
            Self { pair, der, other, asked, good, header, hint: 60, hidden: false, longest: 7200 }
        }

        fn answer(&self, method: &str, asked: &[u8]) -> Vec<u8> {
            match method {
                "Metadata" => Writer::default().number(1, self.longest).finish(),
                "FetchKeys" => {
                    let key = Writer::default().bytes(1, b"k").bytes(2, &self.der).number(3, self.hidden.into());
                    let stamp = Writer::default().number(1, 1_800_000_000);
                    let mut said = Writer::default().message(1, &key).message(2, &stamp);
                    if !self.other.is_empty() {
                        said = said.message(1, &Writer::default().bytes(1, b"other").bytes(2, &self.other));
                    }
                    let is_good = self.asked.fetch_add(1, Ordering::Relaxed) < self.good;
                    said.number(3, if is_good { self.hint } else { 0 }).finish()
                }
                _ => {
                    let Some((1, Field::Bytes(payload))) = fields(asked).unwrap().into_iter().next() else { panic!("no claims") };
                    let header = URL_SAFE_NO_PAD.encode(self.header.to_string());
                    let signed = format!("{header}.{}", std::str::from_utf8(payload).unwrap());
                    let made = self.pair.sign(&ring::rand::SystemRandom::new(), signed.as_bytes()).unwrap();
                    Writer::default().bytes(1, header.as_bytes()).bytes(2, URL_SAFE_NO_PAD.encode(made).as_bytes()).finish()
                }
            }
        }

        fn serve(self, socket: &Path) {
            let listener = tokio::net::UnixListener::bind(socket).unwrap();
            let this = Arc::new(self);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let this = Arc::clone(&this);
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let this = Arc::clone(&this);
                        async move {
                            let method = request.uri().path().strip_prefix("/v1.ExternalJWTSigner/").unwrap().to_owned();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let said = this.answer(&method, &body[5..]);
                            let length = u32::try_from(said.len()).unwrap().to_be_bytes();
                            let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                            let frames = [Frame::data(Bytes::from([&[0][..], &length, &said].concat())), Frame::trailers(trailers)];
                            let frames = futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
                            Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(frames)))
                        }
                    });
                    tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
                }
            });
        }
    }

    async fn open(service: Service) -> Result<Signer, String> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        service.serve(&socket);
        let signer = Signer::open(socket.to_str().unwrap()).await;
        // The connection outlives the name of the socket.
        drop(folder);
        signer
    }

    #[tokio::test]
    async fn a_token_that_somebody_else_signs_is_verified_by_the_keys_he_tells() {
        let signer = open(Service::new()).await.unwrap();
        assert_eq!(signer.longest(), 7200);
        let token = signer.seal(&json!({"iss": "https://i"})).await.unwrap();
        assert_eq!(claims::key_id(&token).as_deref(), Some("k"));
        let opened: Value = claims::open(&token, &signer.keys_of("k").await).unwrap();
        assert_eq!(opened["iss"], "https://i");
        assert!(signer.keys_of("other").await.is_empty());
    }

    #[tokio::test]
    async fn a_key_of_another_kind_is_left_out() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().subject_public_key_info();
        let signer = open(Service { other: other.clone(), ..Service::new() }).await.unwrap();
        assert_eq!((signer.keys_of("k").await.len(), signer.keys_of("other").await.len()), (1, 0));
        let why = open(Service { der: other, ..Service::new() }).await.err().unwrap();
        assert!(why.ends_with(&format!("while parsing external public keys: of [\"k\"] none is {ALLOWED}")), "{why}");
    }

    #[tokio::test]
    async fn those_who_wait_for_a_fetch_share_its_failure() {
        let service = Service { good: 1, ..Service::new() };
        let asked = Arc::clone(&service.asked);
        let signer = open(service).await.unwrap();
        let (one, two, three) = tokio::join!(signer.fetch(), signer.fetch(), signer.fetch());
        let expected: Result<(), String> = Err("while fetching token verification keys: found invalid refresh hint (0s)".to_owned());
        assert_eq!([one, two, three], [expected.clone(), expected.clone(), expected.clone()]);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one at the start, one for the three");
        assert_eq!(signer.fetch().await, expected);
        assert_eq!(asked.load(Ordering::Relaxed), 3, "who comes later asks himself");
        assert_eq!(signer.keys_of("k").await.len(), 1, "the stale ones stay in use");
    }

    #[tokio::test]
    async fn what_the_service_may_not_say_is_refused() {
        let signing = async |header: Value, hidden: bool| {
            let signer = open(Service { header, hidden, ..Service::new() }).await.unwrap();
            signer.seal(&json!({})).await.unwrap_err()
        };
        let header = |alg: &str, kid: &str, typ: &str| json!({"alg": alg, "kid": kid, "typ": typ});
        for (header, hidden, why) in [
            (header("ES256", "k", "JOSE"), false, "while validating header: bad type"),
            (header("ES256", "", "JWT"), false, "while validating header: key id missing"),
            (header("none", "k", "JWT"), false, "while validating header: bad signing algorithm \"none\""),
            (
                header("ES512", "k", "JWT"),
                false,
                "while validating header: bad signing algorithm \"ES512\": its keys (EC on P-521) are not supported",
            ),
            (
                header("ES256", "k", "JWT"),
                true,
                "while validating header: key used for signing JWT (kid: k) is excluded from OIDC discovery docs",
            ),
        ] {
            assert_eq!(signing(header, hidden).await, why);
        }
        let odd = signing(json!({"alg": "ES256", "kid": "k", "typ": "JWT", "crit": []}), false).await;
        assert!(odd.starts_with("while validating header: while parsing header JSON: "), "{odd}");
        let start = async |service: Service| open(service).await.err().unwrap();
        let short = start(Service { longest: 599, ..Service::new() }).await;
        assert_eq!(short, "max token life supported by external-jwt-signer (599s) is less than acceptable (min 600s)");
        assert!(start(Service { hint: 0, ..Service::new() }).await.ends_with("found invalid refresh hint (0s)"));
        assert!(start(Service { der: b"no key".to_vec(), ..Service::new() }).await.contains("while parsing external public keys"));
    }
}
