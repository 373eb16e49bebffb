//! One group and version that another server serves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_schema::discovery::Foreign;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::timeout;

use super::{identity, told::Told};
use crate::{
    authn::User,
    registry::{Reader, condition::Condition},
    webhook::{
        Identity, Question, ServiceReference, Way,
        forward::{Frames, Link, Terms},
    },
};

/// An `APIService` object, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct ApiService {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
}

/// Of `metadata`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Metadata {
    pub name: String,
    pub labels: std::collections::BTreeMap<String, String>,
}

/// Of `spec`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub group: String,
    pub version: String,
    pub service: Option<ServiceReference>,
    pub ca_bundle: Option<String>,
    #[serde(rename = "insecureSkipTLSVerify")]
    pub insecure: bool,
    pub group_priority_minimum: u32,
    pub version_priority: u32,
}

/// Of `status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Status {
    pub conditions: Option<Vec<Condition>>,
}

impl ApiService {
    /// Reads one; `None` when it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Its condition `Available`.
    pub(super) fn available(&self) -> Option<&Condition> {
        self.status.conditions.as_ref()?.iter().find(|c| c.kind == "Available")
    }

    /// Whether it is said to be available.
    pub(super) fn is_available(&self) -> bool {
        self.available().is_some_and(|c| c.status == "True")
    }
}

/// A group and version of another server.
pub(crate) struct Remote {
    /// Of the `APIService` object.
    pub(super) name: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) spec: Spec,
    pub(super) service: ServiceReference,
    available: AtomicBool,
    /// The certificate shown to it.
    identity: Option<Arc<Identity>>,
    /// How it is reached, or why it never can be.
    pub(super) link: Result<Link, String>,
    /// What it said of itself.
    pub(super) told: Mutex<Told>,
}

/// An answer at hand.
pub(super) struct Said {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Remote {
    /// As its object describes it; `None` when that is served here. What was told before is kept.
    pub(super) fn new(object: &ApiService, identity: Option<Arc<Identity>>, way: &Way, before: Option<&Self>) -> Option<Self> {
        let service = object.spec.service.clone()?;
        let terms = Terms { bundle: object.spec.ca_bundle.as_deref(), insecure: object.spec.insecure, identity: identity.as_deref(), way };
        let spec = object.spec.clone();
        let mut told = before.map(|before| before.told.lock().clone()).unwrap_or_default();
        let mut foreign = Foreign::clone(&told.shown);
        (foreign.group, foreign.version) = (spec.group.clone(), spec.version.clone());
        foreign.priority = (spec.group_priority_minimum, spec.version_priority);
        told.shown = Arc::new(foreign);
        Some(Self {
            name: object.metadata.name.clone(),
            group: spec.group.clone(),
            version: spec.version.clone(),
            link: Link::new(service.clone(), &terms),
            identity,
            available: AtomicBool::new(object.is_available()),
            told: Mutex::new(told),
            service,
            spec,
        })
    }

    /// Whether this is the certificate shown to it.
    pub(super) fn shows(&self, identity: Option<&Arc<Identity>>) -> bool {
        self.identity.as_ref().map(Arc::as_ptr) == identity.map(Arc::as_ptr)
    }

    /// Whether its object says that it can be asked.
    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Its object says so now.
    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Relaxed);
    }

    /// What discovery shows of it.
    pub(super) fn shown(&self) -> Arc<Foreign> {
        Arc::clone(&self.told.lock().shown)
    }

    /// Its endpoints have changed.
    pub(super) fn moved(&self) {
        if let Ok(link) = &self.link {
            link.moved();
        }
    }

    /// `/apis/GROUP/VERSION`
    pub(super) fn path(&self) -> String {
        if self.name == "v1." { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) }
    }

    /// Asks for a document as one of this server's parts; at most `largest` bytes in `limit` are read of it.
    pub(super) async fn get(
        &self,
        reader: &dyn Reader,
        (path, user): (&str, &User),
        headers: &[(header::HeaderName, &str)],
        (limit, largest): (Duration, usize),
    ) -> Result<Said, String> {
        let link = self.link.as_ref().map_err(Clone::clone)?;
        let body: Question = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let mut request = Request::get(path).body(body).map_err(|e| e.to_string())?;
        for (name, value) in headers {
            request.headers_mut().insert(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
        }
        identity::tell(request.headers_mut(), user).ok_or("this user cannot be named")?;
        let asked = Box::pin(async {
            let addresses = link.addresses(reader).await?;
            let (parts, frames) = link.send(&addresses, request).await?;
            Ok::<_, String>(Said { code: parts.status, headers: parts.headers, body: whole(frames, largest).await? })
        });
        let late = || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
        timeout(limit, asked).await.unwrap_or_else(|_| Err(late()))
    }
}

/// All of an answer, if it is not too long.
async fn whole(mut frames: Frames, largest: usize) -> Result<Bytes, String> {
    let mut all = Vec::new();
    while let Some(frame) = frames.try_next().await.map_err(|e| e.to_string())? {
        if all.len() + frame.len() > largest {
            return Err(format!("the answer is larger than {largest} bytes"));
        }
        all.extend_from_slice(&frame);
    }
    Ok(all.into())
}
