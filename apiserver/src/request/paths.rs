//! Paths that are no API objects: health, version, metrics, discovery, OpenAPI, OIDC documents.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use coracle_schema::{
    discovery::{self, Discovery},
    openapi,
};
use http::{HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::layers::Layers;
use crate::{
    verbs::Call,
    wire::{Answer, Body, Encoding, Form, Status, answer, negotiate},
};

/// What we say we are.
pub const GIT_VERSION: &str = "v1.37.1";

/// The documents, made on first demand, and the state health is told from.
pub struct Paths {
    discovery: Discovery,
    documents: Mutex<HashMap<String, Document>>,
    address: String,
    ready: AtomicBool,
}

/// A document that changes only when the kinds do.
#[derive(Clone)]
struct Document {
    body: Bytes,
    etag: HeaderValue,
}

impl Paths {
    /// For the kinds of these entries; `address` is the `host:port` that `/api` tells.
    pub fn new(entries: impl IntoIterator<Item = discovery::Entry>, address: String) -> Self {
        Self { discovery: Discovery::new(entries), documents: Mutex::default(), address, ready: AtomicBool::new(false) }
    }

    /// Whether the server is ready, from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether the server is ready.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Answers a path.
    pub async fn answer(&self, layers: &Arc<Layers>, call: &Call) -> Result<Answer, Status> {
        let path = call.info.path.trim_end_matches('/');
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            [] => Ok(answer::value(StatusCode::OK, Encoding::Json, &self.root())),
            ["healthz" | "livez" | "readyz", ..] => Ok(self.health(layers, call, &segments).await),
            ["version"] => Ok(answer::value(StatusCode::OK, Encoding::Json, &version())),
            ["metrics"] => Ok(metrics(layers)),
            ["api"] | ["apis"] if negotiate::accept(&call.headers)?.form == Form::Discovery => {
                let core = segments[0] == "api";
                self.document(call, path, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "aggregated", || {
                    Some(self.discovery.aggregated(core))
                })
            }
            ["api"] => self.document(call, path, JSON, "", || Some(self.discovery.core_versions(&self.address))),
            ["apis"] => self.document(call, path, JSON, "", || Some(self.discovery.group_list())),
            ["api", version] => self.document(call, path, JSON, "", || self.discovery.resources("", version)),
            ["apis", group] => self.document(call, path, JSON, "", || self.discovery.group(group)),
            ["apis", group, version] => self.document(call, path, JSON, "", || self.discovery.resources(group, version)),
            ["openapi", "v3"] => self.document(call, path, JSON, "", || Some(openapi::index(&self.discovery, GIT_VERSION))),
            ["openapi", "v3", "api", version] => self.openapi(layers, call, path, "", version),
            ["openapi", "v3", "apis", group, version] => self.openapi(layers, call, path, group, version),
            [".well-known", "openid-configuration"] => {
                let issuer = "/openid/v1/jwks";
                let host = call.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or(&self.address);
                let document = layers.api.authenticator.discovery(&format!("https://{host}{issuer}"));
                Ok(document.map_or_else(answer::not_found, |d| answer::value(StatusCode::OK, Encoding::Json, &d)))
            }
            ["openid", "v1", "jwks"] => {
                let body = layers.api.authenticator.key_set().to_string();
                Ok(answer::bytes(StatusCode::OK, "application/jwk-set+json", Body::full(body)))
            }
            _ => Ok(answer::not_found()),
        }
    }

    fn openapi(&self, layers: &Layers, call: &Call, path: &str, group: &str, version: &str) -> Result<Answer, Status> {
        let make = || {
            let entries = self.discovery.entries(group, version)?;
            Some(openapi::document(&layers.api.tables, group, version, entries, GIT_VERSION))
        };
        let mut made = self.document(call, path, JSON, "", make)?;
        // The address holds the hash of what it names: clients may keep it for ever.
        if call.query.get("hash").is_some() && made.status() == StatusCode::OK {
            made.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        }
        Ok(made)
    }

    /// A document from memory, made when it is first asked for; 304 when the client has it.
    fn document(
        &self,
        call: &Call,
        path: &str,
        content_type: &'static str,
        variant: &str,
        make: impl FnOnce() -> Option<Value>,
    ) -> Result<Answer, Status> {
        let key = format!("{path} {variant}");
        let found = self.documents.lock().get(&key).cloned();
        let document = match found {
            Some(document) => document,
            None => {
                let Some(value) = make() else { return Ok(answer::not_found()) };
                let document = Document::new(&value)?;
                self.documents.lock().insert(key, document.clone());
                document
            }
        };
        let known = call.headers.get(header::IF_NONE_MATCH).is_some_and(|e| *e == document.etag);
        let mut made = if known {
            answer::bytes(StatusCode::NOT_MODIFIED, content_type, Body::empty())
        } else {
            answer::bytes(StatusCode::OK, content_type, Body::full(document.body))
        };
        made.headers_mut().insert(header::ETAG, document.etag);
        made.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        Ok(made)
    }

    fn root(&self) -> Value {
        let mut paths: Vec<String> = [
            "/.well-known/openid-configuration",
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .into_iter()
        .map(str::to_owned)
        .collect();
        for (group, version) in self.discovery.group_versions() {
            if group.is_empty() {
                paths.push(format!("/api/{version}"));
            } else {
                paths.push(format!("/apis/{group}"));
                paths.push(format!("/apis/{group}/{version}"));
            }
        }
        paths.sort();
        paths.dedup();
        json!({"paths": paths})
    }

    /// `/healthz`, `/livez`, `/readyz`, and one check of them (`/readyz/ping`).
    async fn health(&self, layers: &Layers, call: &Call, segments: &[&str]) -> Answer {
        let endpoint = segments[0];
        let excluded: Vec<&str> = call.query.all("exclude").collect();
        let mut checks = vec![("ping", true), ("store", store_answers(layers).await)];
        if endpoint != "livez" {
            checks.push(("poststarthook/rbac/bootstrap-roles", self.is_ready() || layers.api.drain.is_cancelled()));
        }
        if endpoint == "readyz" {
            checks.push(("shutdown", !layers.api.drain.is_cancelled()));
        }
        if let Some(only) = segments.get(1..).filter(|s| !s.is_empty()).map(|s| s.join("/")) {
            let only = if only == "etcd" { "store" } else { &only };
            return match checks.iter().find(|(name, _)| *name == only) {
                None => answer::not_found(),
                Some((_, true)) => answer::text(StatusCode::OK, "ok"),
                Some((name, false)) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name} failed\n")),
            };
        }
        let passed = checks.iter().all(|(name, ok)| *ok || excluded.contains(name));
        let lines = checks.iter().map(|(name, ok)| match (excluded.contains(name), ok) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => format!("[-]{name} failed: reason withheld\n"),
        });
        match (passed, call.query.get("verbose").is_some()) {
            (true, false) => answer::text(StatusCode::OK, "ok"),
            (true, true) => answer::text(StatusCode::OK, format!("{}{endpoint} check passed\n", lines.collect::<String>())),
            (false, _) => {
                answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}{endpoint} check failed\n", lines.collect::<String>()))
            }
        }
    }
}

const JSON: &str = "application/json";

impl Document {
    fn new(value: &Value) -> Result<Self, Status> {
        let body = Bytes::from(value.to_string());
        let digest: String = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{digest}\"")).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Self { body, etag })
    }
}

async fn store_answers(layers: &Layers) -> bool {
    layers.api.storage.is_alive().await
}

fn metrics(layers: &Layers) -> Answer {
    let text = layers.metrics.render(&layers.limits);
    answer::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Body::full(text))
}

/// `/version`. Clients parse `gitVersion` and `minor`.
fn version() -> Value {
    let platform = format!("{}/{}", std::env::consts::OS, go_arch());
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": platform,
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
