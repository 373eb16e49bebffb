//! Webhooks as seen from here: where one is, how it is recognised, and bounded questions to it over connections that are kept
//! (apiserver `util/webhook/client.go`, client-go `rest/request.go`).
//!
//! | file | |
//! |---|---|
//! | `place` | where a question goes: a URL, or a service at its endpoints |
//! | `accounts` | as whom admission webhooks are asked |
//! | `kubeconfig` | where it goes, and as whom, by a kubeconfig file |
//! | `egress` | by which way others are reached |
//! | `trust` | whom a `caBundle` makes us believe |
//! | `connection` | dialling, TLS and the connections kept |
//! | `forward` | whole requests passed on to a service, and its answers streamed back |
//! | `retry` | asking again, as the reviews of authentication and authorization do |
//! | `words` | what Go's clients say of what went wrong |
//!
//! Conversions of custom resources, admission, authentication and whatever else asks anybody go through the same door, and requests for other API
//! servers leave by it.

mod accounts;
mod connection;
mod egress;
pub(crate) mod forward;
pub(crate) mod grpc;
mod kubeconfig;
mod place;
mod retry;
mod trust;
pub(crate) mod words;

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use rustls::{
    ClientConfig as Tls, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use tokio::time::Instant;

pub(crate) use accounts::{Account, Accounts};
pub use egress::Egress;
pub(crate) use egress::{Io, Way};
pub use kubeconfig::Kubeconfig;
pub(crate) use retry::{Backoff, status};
pub(crate) use trust::Bundle;
pub(crate) use words::answered;

use self::{connection::Pool, place::Place};
use crate::{
    metrics::requests::traced,
    registry::Reader,
    trace::{Trace, context::TRACEPARENT},
};

/// What is asked: bytes, or what streams in from somebody else.
pub(crate) type Question = UnsyncBoxBody<Bytes, io::Error>;

/// Where systems keep the certificates they trust.
const SYSTEM: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];
/// What is shown of an answer that is none, in bytes.
const SHOWN: usize = 512;
/// As Go's clients.
const REDIRECTS: usize = 10;
/// How often a webhook may say `Retry-After` (client-go's default).
const RETRIES: usize = 10;

/// How a webhook is reached: `clientConfig` of CRDs and of webhook configurations.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClientConfig {
    /// `https://host:port/path`
    pub url: Option<String>,
    /// A service of this cluster instead.
    pub service: Option<ServiceReference>,
    /// Base64 of PEM.
    pub ca_bundle: Option<String>,
}

/// A service that is a webhook.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
#[serde(default)]
pub(crate) struct ServiceReference {
    pub namespace: String,
    pub name: String,
    pub path: Option<String>,
    pub port: Option<u16>,
}

/// What a question may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// From dialling to the last byte of the answer.
    pub timeout: Duration,
    /// What is said when the answer does not begin in time.
    pub late: &'static str,
    /// Largest answer, in bytes.
    pub largest: usize,
}

/// What a webhook answered.
#[derive(Debug)]
pub(crate) struct Said {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// How long what was read from a kubeconfig's files is taken as it is.
const LOOK: Duration = Duration::from_secs(10);

/// A webhook.
pub(crate) struct Webhook {
    config: ClientConfig,
    /// Where it was read from, when it was not configured in an object.
    file: Option<Kubeconfig>,
    /// Who asks one that was, if anybody is named.
    account: Option<Account>,
    line: Mutex<Option<Result<Arc<Line>, String>>>,
    /// Where services are looked up.
    reader: Option<Arc<dyn Reader>>,
    /// The way to it.
    way: Way,
}

/// How the webhook is spoken to now: connections are kept as long as what they were made with is valid.
struct Line {
    tls: Arc<Tls>,
    pool: Arc<Pool>,
    login: Option<http::HeaderValue>,
    stamp: [u8; 32],
    since: Instant,
}

/// The certificates of a bundle (base64 of PEM); `Err` when it holds none or others cannot be read.
pub(crate) fn certificates(bundle: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    pem_certificates(&STANDARD.decode(bundle.trim()).map_err(|e| format!("unable to load root certificates: {e}"))?)
}

/// The certificates in PEM; `Err` when there is none or others cannot be read.
pub(crate) fn pem_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned()),
        Err(e) => Err(format!("unable to load root certificates: {e:?}")),
    }
}

impl Webhook {
    /// The webhook that is reached so; services are looked up through `reader`.
    pub(crate) fn new(config: ClientConfig, reader: Arc<dyn Reader>) -> Self {
        Self { config, file: None, account: None, line: Mutex::default(), reader: Some(reader), way: Way::default() }
    }

    /// The webhook a kubeconfig names.
    pub(crate) fn at(file: Kubeconfig) -> Self {
        let config = ClientConfig { url: Some(file.server.clone()), ..ClientConfig::default() };
        Self { config, file: Some(file), account: None, line: Mutex::default(), reader: None, way: Way::default() }
    }

    /// Somebody who is no service of this cluster.
    pub(crate) fn outside(config: ClientConfig) -> Self {
        Self { config, file: None, account: None, line: Mutex::default(), reader: None, way: Way::default() }
    }

    /// The same, asked by somebody.
    pub(crate) fn by(self, account: Option<Account>) -> Self {
        Self { account, ..self }
    }

    /// The same, reached by one of these ways: services are in the cluster, others are not.
    pub(crate) fn through(self, egress: &Egress) -> Self {
        let is_service = self.config.url.is_none() && self.config.service.is_some();
        Self { way: if is_service { &egress.cluster } else { &egress.control_plane }.clone(), ..self }
    }

    /// How it is reached.
    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Why it can never be asked, if so: its certificates cannot be read.
    pub(crate) fn fault(&self) -> Option<String> {
        self.line().err()
    }

    /// Sends JSON and returns what is answered, whatever its code. The error is what upstream's HTTP client would have said.
    pub(crate) async fn post(&self, body: Bytes, terms: Terms) -> Result<Said, String> {
        let until = Instant::now() + terms.timeout;
        for _ in 0..RETRIES {
            let said = self.follow(Method::POST, body.clone(), terms, until).await?;
            match words::retry_after(&said).map(|pause| Instant::now() + pause) {
                Some(again) if again < until => tokio::time::sleep_until(again).await,
                _ => return Ok(said),
            }
        }
        self.follow(Method::POST, body, terms, until).await
    }

    /// Reads what stands at its address. The error is what Go's client says, or the answer's code and words.
    pub(crate) async fn get(&self, terms: Terms) -> Result<Bytes, String> {
        let said = self.follow(Method::GET, Bytes::new(), terms, Instant::now() + terms.timeout).await?;
        if said.code == StatusCode::OK {
            return Ok(said.body);
        }
        Err(format!("{}: {}", said.code, String::from_utf8_lossy(&said.body[..said.body.len().min(SHOWN)])))
    }

    /// Asks, and goes where it is sent to. A redirect may lead to another path, not to somebody else: the question holds objects.
    async fn follow(&self, mut method: Method, mut body: Bytes, terms: Terms, until: Instant) -> Result<Said, String> {
        let timeout = (method == Method::POST).then_some(terms.timeout);
        let failed = |why| format!("{} {:?}: {why}", words::verb(&method), place::url(&self.config));
        let mut place = Place::of(&self.config, timeout).map_err(failed)?;
        place.way = self.way.clone();
        if let Some(name) = self.file.as_ref().and_then(|file| file.name.as_ref()) {
            place.name.clone_from(name);
        }
        let mut from = None;
        for _ in 0..=REDIRECTS {
            let failed = |why: String| format!("{} {:?}: {why}", words::verb(&method), place.url());
            // In a place of its own: whoever may ask a webhook would otherwise carry what a connection needs through every request.
            let asked = Box::pin(self.ask(&place, &method, from.as_deref(), body.clone(), terms.largest));
            let said = tokio::select! {
                biased;
                // First, as dialling may be given up at the same moment.
                () = tokio::time::sleep_until(until) => return Err(failed(terms.late.to_owned())),
                said = asked => said,
            };
            let said = match said {
                Ok(said) => said,
                Err(connection::Fault::Before(why)) => return Err(failed(why)),
                Err(connection::Fault::Reading(why)) => return Err(words::unread(&why)),
            };
            let Some(next) = words::location(&said) else { return Ok(said) };
            let next = place.redirected(next).map_err(failed)?;
            from = Some(std::mem::replace(&mut place, next).url());
            if !matches!(said.code.as_u16(), 307 | 308) && method == Method::POST {
                (method, body) = (Method::GET, Bytes::new());
            }
        }
        Err(format!("{} {:?}: stopped after {REDIRECTS} redirects", words::verb(&method), place.url()))
    }

    async fn ask(
        &self,
        place: &Place,
        method: &Method,
        from: Option<&str>,
        body: Bytes,
        largest: usize,
    ) -> Result<Said, connection::Fault> {
        let line = self.line().map_err(connection::Fault::Before)?;
        let addresses = place.addresses(&self.config, self.reader.as_deref()).await.map_err(connection::Fault::Before)?;
        let parent = traced(Trace::parent).flatten();
        let request = || {
            let body = Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync();
            let mut request = Request::new(body);
            method.clone_into(request.method_mut());
            let headers = request.headers_mut();
            for (name, value) in HEADERS {
                headers.insert(name, http::HeaderValue::from_static(value));
            }
            if self.file.is_some() {
                headers.insert(header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver/v1.37.1"));
            }
            if let Some(parent) = &parent {
                headers.insert(TRACEPARENT, parent.clone());
            }
            if let Some(login) = &line.login {
                headers.insert(header::AUTHORIZATION, login.clone());
            }
            if let Some(from) = from.and_then(|from| http::HeaderValue::from_str(from).ok()) {
                headers.insert(header::REFERER, from);
            }
            if *method == Method::GET {
                headers.remove(header::CONTENT_TYPE);
            }
            request
        };
        line.pool.exchange(&addresses, place, &line.tls, request, largest).await
    }

    /// How it is spoken to now. Files that cannot be read any more leave what they held.
    fn line(&self) -> Result<Arc<Line>, String> {
        let mut line = self.line.lock();
        let in_files = self.file.as_ref().is_some_and(Kubeconfig::has_files) || self.account.as_ref().is_some_and(Account::has_files);
        let changes = in_files.then_some(());
        match line.as_ref() {
            Some(Ok(known)) if changes.is_none() || known.since.elapsed() < LOOK => return Ok(known.clone()),
            Some(Err(why)) if changes.is_none() => return Err(why.clone()),
            _ => {}
        }
        let since = Instant::now();
        let fresh = match (&self.file, &self.account) {
            (None, None) => tls(&self.config, None).map(|tls| Line { tls, pool: Arc::default(), login: None, stamp: [0; 32], since }),
            (None, Some(account)) => account.shown().and_then(|shown| {
                let tls = tls(&self.config, shown.identity.as_ref())?;
                Ok(Line { tls, pool: Arc::default(), login: shown.login, stamp: shown.stamp, since })
            }),
            (Some(file), _) => file.load().map(|read| Line {
                tls: read.tls,
                pool: Arc::default(),
                login: read.login,
                stamp: read.stamp,
                since: Instant::now(),
            }),
        };
        let next = match (line.take(), fresh) {
            (Some(Ok(known)), Ok(fresh)) if known.stamp == fresh.stamp => {
                Ok(Line { tls: known.tls.clone(), pool: known.pool.clone(), ..fresh })
            }
            (Some(Ok(known)), Err(why)) => {
                tracing::warn!(why, "what a kubeconfig names cannot be read; going on with what it was");
                let (tls, pool, login) = (known.tls.clone(), known.pool.clone(), known.login.clone());
                Ok(Line { tls, pool, login, stamp: known.stamp, since: Instant::now() })
            }
            (_, fresh) => fresh,
        };
        line.insert(next.map(Arc::new)).clone()
    }
}

/// What every question carries.
const HEADERS: [(header::HeaderName, &str); 3] = [
    (header::ACCEPT, "application/json, */*"),
    (header::CONTENT_TYPE, "application/json"),
    (header::USER_AGENT, "kube-apiserver-admission"),
];

/// The authorities this system trusts, read once, as Go reads them.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let pem = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(read))
}

fn tls(of: &ClientConfig, identity: Option<&Identity>) -> Result<Arc<Tls>, String> {
    // Behind a service or a name may stand several; each question may then go to another. Here is only one.
    let protocols: &[&str] = if place::is_local(of) { &["h2", "http/1.1"] } else { &["http/1.1"] };
    let bundle = of.ca_bundle.as_deref().filter(|bundle| !bundle.trim().is_empty()).map(certificates).transpose()?;
    client(Trust { bundle, insecure: false, identity, protocols })
}

/// Who a client shows to be.
pub(crate) struct Identity {
    /// Its certificate and those between it and the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// Whom a client believes, and who it shows to be.
pub(crate) struct Trust<'a> {
    /// Who is believed; absent: the authorities of the system.
    pub bundle: Option<Vec<CertificateDer<'static>>>,
    /// Believe anybody (`insecureSkipTLSVerify`).
    pub insecure: bool,
    /// The client's certificate.
    pub identity: Option<&'a Identity>,
    /// ALPN, first choice first.
    pub protocols: &'a [&'a str],
}

/// TLS of a client. The error says which certificate cannot be used.
pub(crate) fn client(of: Trust<'_>) -> Result<Arc<Tls>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = Tls::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let config = match of.bundle {
        _ if of.insecure => config.dangerous().with_custom_certificate_verifier(Arc::new(Bundle::anyone(&provider))),
        Some(bundle) => config.dangerous().with_custom_certificate_verifier(Arc::new(Bundle::new(bundle, provider)?)),
        None => config.with_root_certificates(system_roots()),
    };
    let mut config = match of.identity {
        None => config.with_no_client_auth(),
        Some(Identity { chain, key }) => config.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|e| format!("tls: {e}"))?,
    };
    config.alpn_protocols = of.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    const TERMS: Terms = Terms { timeout: Duration::from_secs(30), late: "context deadline exceeded", largest: 1 << 20 };

    #[tokio::test]
    async fn what_cannot_be_reached_is_told_as_upstream_tells_it() {
        let reader = Arc::new(FakeReader::default());
        let webhook = |config| Webhook::new(coracle_tree::from_value(config).unwrap(), reader.clone());
        let ask = async |hook: Webhook| hook.post(Bytes::new(), TERMS).await.unwrap_err();
        let hook = webhook(json!({"service": {"namespace": "ns", "name": "hook"}}));
        assert_eq!(ask(hook).await, "Post \"https://hook.ns.svc:443/?timeout=30s\": service \"hook\" not found");
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let expected =
            format!("Post \"https://127.0.0.1:{closed}/c?timeout=30s\": dial tcp 127.0.0.1:{closed}: connect: connection refused");
        assert_eq!(ask(webhook(json!({"url": format!("https://127.0.0.1:{closed}/c")}))).await, expected);
        let hook = webhook(json!({"url": "https://127.0.0.1/c", "caBundle": "!"}));
        assert!(hook.fault().unwrap().starts_with("unable to load root certificates"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_webhook_that_does_not_answer_is_left_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hook = Webhook::new(
            ClientConfig { url: Some(format!("https://127.0.0.1:{port}/c")), ..ClientConfig::default() },
            Arc::new(FakeReader::default()),
        );
        let said = hook.post(Bytes::new(), TERMS).await.unwrap_err();
        assert_eq!(said, format!("Post \"https://127.0.0.1:{port}/c?timeout=30s\": context deadline exceeded"));
    }

    #[test]
    fn a_bundle_must_hold_certificates() {
        assert!(certificates("!").is_err());
        assert!(certificates(&STANDARD.encode("text")).unwrap_err().contains("unable to parse bytes as PEM block"));
        let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        assert_eq!(certificates(&STANDARD.encode(certificate.cert.pem())).unwrap().len(), 1);
    }
}
