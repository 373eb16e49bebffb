//! Paths that are no API objects: health, version, metrics, discovery, OpenAPI, OIDC documents.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use coracle_schema::{discovery::Entry, openapi};
use coracle_tree::{Value, json};
use http::{HeaderValue, StatusCode, header};

use super::{
    discovery,
    documents::{Document, Documents, Key, Seen},
    flags::{self, LogLevels},
    health,
    layers::Layers,
    zpages,
};
use crate::{
    extensions, metrics,
    registry::{Catalog, storage::store_error},
    verbs::Call,
    wire::{Answer, Body, Status, answer},
};

/// What we say we are.
pub const GIT_VERSION: &str = "v1.37.1";
/// The version of the API in it.
pub(super) const API_VERSION: &str = "1.37";
/// The minor version of that.
pub(crate) const MINOR: u32 = 37;

/// The documents, and the state health is told from.
pub struct Paths {
    documents: Documents,
    address: String,
    started: AtomicBool,
    stopping: AtomicBool,
    levels: Option<Arc<dyn LogLevels>>,
    flags: zpages::Flags,
    /// What `/version` tells.
    pub(crate) build: BuildInfo,
}

impl Paths {
    /// For these built-in kinds; `address` is the `host:port` that `/api` tells, `levels` changes those of the log, `flags` is what
    /// `/flagz` tells.
    pub fn new(built_in: Vec<Entry>, address: String, levels: Option<Arc<dyn LogLevels>>, flags: zpages::Flags, build: BuildInfo) -> Self {
        let (started, stopping) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { documents: Documents::new(built_in), address, started, stopping, levels, flags, build }
    }

    /// All that is done at a start is done.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The server is about to stop: it is not ready any more.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether all that is done at a start is done.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether the server is about to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether the server is ready.
    pub fn is_ready(&self) -> bool {
        self.is_started() && !self.is_stopping()
    }

    /// Answers a path. Only upstream's router asks for the method ([`discovery::routed`]); what stands beside it answers any.
    pub async fn answer(&self, layers: &Arc<Layers>, call: &Call) -> Result<Answer, Status> {
        let path = call.info.path.trim_end_matches('/');
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let one = |group: &str| Key { path: path.to_owned(), variant: "", group: Some(group.to_owned()) };
        let all = |variant| Key { path: path.to_owned(), variant, group: None };
        let json = |value: Value| value.to_string();
        let slashed = call.info.path.len() > path.len();
        match segments.as_slice() {
            // What is registered with its exact path has none that ends in a slash.
            ["flagz" | "statusz" | "healthz" | "livez" | "readyz" | "metrics", ..] | ["openapi", "v2"] if slashed => {
                Ok(answer::not_found())
            }
            [] | ["apis"] if call.info.path.ends_with("//") => Ok(answer::not_found()),
            ["apis", "", ..] => Ok(answer::not_found()),
            ["openapi", "v3", ..] if slashed => Ok(wordless(StatusCode::NOT_FOUND)),
            [] | ["index.html"] => Ok(answer::value(StatusCode::OK, &self.root(layers).await)),
            ["healthz" | "livez" | "readyz", ..] => Ok(health::answer(layers, call, &segments).await),
            ["version"] => {
                discovery::routed(call, JSON)?;
                Ok(answer::value(StatusCode::OK, &version(&self.build)))
            }
            ["version", ..] => Err(Status::no_such_path()),
            ["debug", "flags", flag @ ..] => Ok(flags::answer(self.levels.as_deref(), call, &flag.join("/"))),
            ["encryption", "reencrypt"] => self.reencrypt(layers, call).await,
            ["flagz"] if layers.api.gates.is_on("ComponentFlagz") => zpages::flags(layers, call),
            ["statusz"] if layers.api.gates.is_on("ComponentStatusz") => zpages::status(layers, call),
            ["metrics"] => Ok(metrics::answer(layers).await),
            ["metrics", "slis"] => Ok(metrics::indicators(layers)),
            ["api", ..] | ["apis", ..] if segments.len() <= 3 => self.discovery(layers, call, &segments),
            ["openapi", "v2"] => self.openapi_v2(layers, call).await,
            ["openapi", "v3"] => self.document(layers, call, all(""), JSON, |seen| {
                let mut index = openapi::index(&layers.api.tables, &seen.discovery, GIT_VERSION);
                layers.aggregator.add_to_index(&mut index);
                Some(json(index))
            }),
            ["openapi", "v3", "api", version] => self.openapi(layers, call, one(""), Some(version)).await,
            ["openapi", "v3", "apis", group, version] => self.openapi(layers, call, one(group), Some(version)).await,
            ["openapi", "v3", ..] => self.openapi(layers, call, all(""), None).await,
            ["debug", "api_priority_and_fairness", what] => Ok(dump(layers, call, what)),
            [".well-known", "openid-configuration"] => {
                discovery::routed(call, JSON)?;
                let issuer = "/openid/v1/jwks";
                let host = call.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or(&self.address);
                let document = layers.api.authenticator.discovery(&format!("https://{host}{issuer}"));
                Ok(document.map_or_else(answer::not_found, |(d, seconds)| good_for(seconds, answer::value(StatusCode::OK, &d))))
            }
            ["openid", "v1", "jwks"] => {
                discovery::routed(call, KEYS)?;
                let (keys, seconds) = layers.api.authenticator.key_set();
                Ok(good_for(seconds, answer::bytes(StatusCode::OK, KEYS, Body::full(keys.to_string()))))
            }
            _ => Ok(answer::not_found()),
        }
    }

    /// The v3 document of a group and version, or of what belongs to none, as JSON or as a protobuf message; made beside the runtime: a large
    /// CRD takes its time.
    async fn openapi(&self, layers: &Arc<Layers>, call: &Call, key: Key, version: Option<&str>) -> Result<Answer, Status> {
        let Some((variant, content_type)) = openapi_form(&call.headers, &openapi::v3::PROTOBUF_TYPES) else {
            return Ok(wordless(StatusCode::NOT_ACCEPTABLE));
        };
        let catalog = layers.api.storage.catalog();
        let seen = self.documents.look(&catalog, &layers.aggregator.others());
        let wanted = Key { variant, ..key.clone() };
        let document = match self.documents.get(&wanted) {
            Some(document) => document,
            None => {
                let (layers, of, version) = (layers.clone(), seen.clone(), version.map(str::to_owned));
                let (group, path) = (key.group.clone().unwrap_or_default(), key.path.clone());
                let made = beside(move || {
                    let value = match version {
                        Some(version) => {
                            let ours = v3(&layers, &catalog, &of, &group, &version);
                            ours.or_else(|| layers.aggregator.converted(&group, &version))?
                        }
                        None => {
                            let path = path.strip_prefix("/openapi/v3/")?;
                            openapi::general::documents(&layers.api.tables, |known| known == path, GIT_VERSION).pop()?
                        }
                    };
                    Some((value.to_string(), (!variant.is_empty()).then(|| openapi::v3::protobuf(&value))))
                });
                let Some((text, message)) = made.await? else { return Ok(wordless(StatusCode::NOT_FOUND)) };
                self.forms(key, text, wanted, message, &seen)?
            }
        };
        let mut made = document.answer(&call.headers, content_type)?;
        // The address holds the hash of what it names: clients may keep it for ever.
        if call.query.get("hash").is_some() && made.status() == StatusCode::OK {
            made.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        }
        Ok(made)
    }

    /// All there is in one v2 document, as JSON or, for old clients, as a protobuf message.
    async fn openapi_v2(&self, layers: &Arc<Layers>, call: &Call) -> Result<Answer, Status> {
        let Some((variant, content_type)) = openapi_form(&call.headers, &openapi::v2::PROTOBUF_TYPES) else {
            return Ok(wordless(StatusCode::NOT_ACCEPTABLE));
        };
        let catalog = layers.api.storage.catalog();
        let seen = self.documents.look(&catalog, &layers.aggregator.others());
        let key = Key { path: "/openapi/v2".to_owned(), variant: "", group: None };
        let wanted = Key { variant, ..key.clone() };
        if let Some(document) = self.documents.get(&wanted) {
            return document.answer(&call.headers, content_type);
        }
        let (layers, of) = (layers.clone(), seen.clone());
        let (text, message) = beside(move || {
            let value = v2(&layers, &catalog, &of);
            (value.to_string(), (!variant.is_empty()).then(|| openapi::v2::protobuf(&value)))
        })
        .await?;
        self.forms(key, text, wanted, message, &seen)?.answer(&call.headers, content_type)
    }

    /// Keeps what was made of a document: its text, and the message if that was wanted. Both have the text's ETag.
    fn forms(&self, key: Key, text: String, wanted: Key, message: Option<Vec<u8>>, seen: &Seen) -> Result<Document, Status> {
        let plain = match self.documents.get(&key) {
            Some(document) => document,
            None => self.made(key, text.into_bytes(), seen)?,
        };
        let Some(message) = message else { return Ok(plain) };
        let document = Document::new(message, Some(&plain))?;
        self.documents.keep(wanted, document.clone(), seen);
        Ok(document)
    }

    /// A document from memory, made when it is first asked for.
    fn document(
        &self,
        layers: &Layers,
        call: &Call,
        key: Key,
        content_type: &'static str,
        make: impl FnOnce(&Seen) -> Option<String>,
    ) -> Result<Answer, Status> {
        match self.found(layers, key, make)? {
            Some(document) => document.answer(&call.headers, content_type),
            None => Ok(answer::not_found()),
        }
    }

    /// A document from memory, made when it is first asked for; `None` when there is no such document.
    pub(super) fn found(&self, layers: &Layers, key: Key, make: impl FnOnce(&Seen) -> Option<String>) -> Result<Option<Document>, Status> {
        let seen = self.documents.look(&layers.api.storage.catalog(), &layers.aggregator.others());
        if let Some(document) = self.documents.get(&key) {
            return Ok(Some(document));
        }
        make(&seen).map(|text| self.made(key, text.into_bytes(), &seen)).transpose()
    }

    /// One step of `coracle secrets reencrypt`: `POST /encryption/reencrypt?limit=N&continue=KEY`.
    async fn reencrypt(&self, layers: &Layers, call: &Call) -> Result<Answer, Status> {
        let Some(rest) = layers.api.storage.at_rest() else { return Ok(answer::not_found()) };
        if call.method != http::Method::POST {
            return Err(Status::method_not_allowed());
        }
        let limit = call.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(REWRITTEN).clamp(1, REWRITTEN);
        let step = rest.rewrite(call.query.get("continue").unwrap_or_default(), limit).await.map_err(|e| store_error(&e))?;
        Ok(answer::value(StatusCode::OK, &json!(step)))
    }

    /// What `/flagz` tells.
    pub(super) fn flags(&self) -> &zpages::Flags {
        &self.flags
    }

    /// The `host:port` that `/api` tells.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn made(&self, key: Key, text: Vec<u8>, seen: &Seen) -> Result<Document, Status> {
        let document = Document::new(text, None)?;
        self.documents.keep(key, document.clone(), seen);
        Ok(document)
    }

    async fn root(&self, layers: &Layers) -> Value {
        let checks = health::paths(layers).await;
        let seen = self.documents.look(&layers.api.storage.catalog(), &layers.aggregator.others());
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/apis",
            "/apis/",
            "/flagz",
            "/healthz",
            "/livez",
            "/metrics",
            "/metrics/slis",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/",
            "/openid/v1/jwks",
            "/readyz",
            "/statusz",
            "/version",
        ]
        .into_iter()
        .map(str::to_owned)
        .chain(checks)
        .collect();
        for (group, version) in seen.discovery.group_versions() {
            if group.is_empty() {
                paths.push(format!("/api/{version}"));
            } else {
                paths.push(format!("/apis/{group}"));
                paths.push(format!("/apis/{group}/{version}"));
            }
        }
        for (path, gate) in [("/flagz", "ComponentFlagz"), ("/statusz", "ComponentStatusz")] {
            paths.retain(|known| known != path || layers.api.gates.is_on(gate));
        }
        paths.sort();
        paths.dedup();
        json!({"paths": paths})
    }
}

/// Objects that one request looks at, at most: it has to end in time.
const REWRITTEN: usize = 500;

const JSON: &str = "application/json";
const KEYS: &str = "application/jwk-set+json";

/// An answer that whoever it passes may keep for a while.
fn good_for(seconds: u64, mut answer: Answer) -> Answer {
    if let Ok(value) = HeaderValue::try_from(format!("public, max-age={seconds}")) {
        answer.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    answer
}

/// Runs what computes for long on a thread of its own.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))
}

fn v3(layers: &Layers, catalog: &Catalog, seen: &Seen, group: &str, version: &str) -> Option<Value> {
    let entries = seen.discovery.entries(group, version)?;
    let custom = extensions::openapi::definitions(catalog, group, version);
    Some(openapi::document(&layers.api.tables, group, version, entries, &custom, GIT_VERSION))
}

fn v2(layers: &Layers, catalog: &Catalog, seen: &Seen) -> Value {
    let mut all = openapi::v2::Document::new(GIT_VERSION);
    for (group, version) in seen.discovery.group_versions() {
        if let Some(document) = v3(layers, catalog, seen, group, version) {
            all.add(&document);
        }
    }
    for document in openapi::general::documents(&layers.api.tables, |_| true, GIT_VERSION) {
        all.add(&document);
    }
    let mut all = all.finish();
    layers.aggregator.add_to_v2(&mut all);
    all
}

/// Which form of an OpenAPI document a client takes, and what that is called; `protobuf` are the names of the other form, if there is one.
fn openapi_form(headers: &http::HeaderMap, protobuf: &[&'static str]) -> Option<(&'static str, &'static str)> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let types = accept.split(',').map(|t| t.split(';').next().unwrap_or_default().trim());
    let mut types = types.filter(|t| !t.is_empty()).peekable();
    if types.peek().is_none() {
        return Some(("", JSON));
    }
    types.find_map(|wanted| match wanted {
        "*" | "*/*" | "application/*" | JSON => Some(("", JSON)),
        other => protobuf.contains(&other).then(|| ("protobuf", protobuf[0])),
    })
}

/// The levels, queues and requests of flow control, as they are now.
fn dump(layers: &Layers, call: &Call, what: &str) -> Answer {
    let Some(flow) = &layers.flow else { return answer::not_found() };
    let text = match what {
        "dump_priority_levels" => flow.dump_levels(),
        "dump_queues" => flow.dump_queues(),
        "dump_requests" => flow.dump_requests(!call.query.text("includeRequestDetails").is_empty(), layers.api.now()),
        _ => return answer::not_found(),
    };
    answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", Body::full(text))
}

/// A refusal as the handlers of OpenAPI documents say it (kube-openapi, `pkg/handler`): without a word.
fn wordless(code: StatusCode) -> Answer {
    let mut answer = Answer::new(Body::empty());
    *answer.status_mut() = code;
    answer
}

/// `/version`. Clients parse `gitVersion` and `minor`; the rest is what is known of this program.
pub(crate) fn version(build: &BuildInfo) -> Value {
    let platform = format!("{}/{}", std::env::consts::OS, go_arch());
    let date = if build.date.is_empty() { "1970-01-01T00:00:00Z" } else { &build.date };
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION, "gitCommit": build.commit, "gitTreeState": build.tree_state, "buildDate": date,
        "goVersion": build.language, "compiler": "rustc", "platform": platform,
    })
}

/// Of what and when the program was built, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct BuildInfo {
    /// The commit, in hexadecimal digits; empty when there was none.
    pub commit: String,
    /// `clean` or `dirty`; empty when nobody knows.
    pub tree_state: String,
    /// RFC 3339, in UTC; empty when nobody knows.
    pub date: String,
    /// The version of the language, which upstream is Go's: `rustc 1.95.0`.
    pub language: String,
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
