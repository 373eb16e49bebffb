//! An issuer's keys: where they are is asked once, they themselves whenever a token is signed by one nobody knows (go-oidc `NewProvider`,
//! `RemoteKeySet`).

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use tracing::error;

use super::{
    configuration::Issuer,
    keys::{self, Algorithm, Key},
};
use crate::webhook::{ClientConfig, Terms, Webhook};

/// What a question to an issuer may take.
const TERMS: Terms = Terms {
    timeout: Duration::from_secs(30),
    late: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    largest: 1 << 20,
};
/// How long an issuer that cannot be reached is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys are not fetched more often: tokens signed by nobody's key are cheap to make.
const APART: Duration = Duration::from_secs(2);
/// Where an issuer says where its keys are.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// What is known of an issuer.
pub(super) struct Provider {
    issuer: String,
    /// Base64 of PEM, for whoever is asked; the system's authorities when there is none.
    authority: Option<String>,
    discovery: Webhook,
    known: RwLock<Result<Arc<Source>, String>>,
}

/// Where the keys are, and those seen last.
struct Source {
    place: Webhook,
    keys: RwLock<Arc<Vec<Key>>>,
    /// When they were fetched; whoever holds it fetches.
    fetched: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Discovery {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    jwks_uri: String,
}

impl Provider {
    /// Nothing is asked yet. The error is of the certificate authority.
    pub(super) fn new(issuer: &Issuer) -> Result<Self, String> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let authority = (!issuer.certificate_authority.is_empty()).then(|| STANDARD.encode(&issuer.certificate_authority));
        let place = match issuer.discovery_url.as_str() {
            "" => format!("{}{WELL_KNOWN}", issuer.url.strip_suffix('/').unwrap_or(&issuer.url)),
            elsewhere => elsewhere.to_owned(),
        };
        let discovery = at(place, authority.clone());
        if let Some(why) = discovery.fault() {
            return Err(format!("Failed to read the CA contents: {why}"));
        }
        let known = RwLock::new(Err(format!("oidc: authenticator for issuer {:?} is not initialized", issuer.url)));
        Ok(Self { issuer: issuer.url.clone(), authority, discovery, known })
    }

    /// Asks until it is known where the keys are.
    pub(super) async fn initialize(&self) {
        loop {
            match self.discover().await {
                Ok(source) => {
                    *self.known.write() = Ok(Arc::new(source));
                    return;
                }
                Err(why) => {
                    error!(why, issuer = self.issuer, "oidc authenticator: initializing plugin");
                    *self.known.write() = Err(why);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn discover(&self) -> Result<Source, String> {
        let body = self.discovery.get(TERMS).await?;
        let found: Discovery =
            serde_json::from_slice(&body).map_err(|e| format!("oidc: failed to decode provider discovery object: {e}"))?;
        if found.issuer != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer, found.issuer
            ));
        }
        if found.jwks_uri.is_empty() {
            return Err("provider did not return JWKS URL".to_owned());
        }
        Ok(Source { place: at(found.jwks_uri, self.authority.clone()), keys: RwLock::default(), fetched: Mutex::new(None) })
    }

    /// Whether it is known where the keys are.
    pub(super) fn health(&self) -> Result<(), String> {
        self.known.read().as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Whether one of the issuer's keys made a signature: one that is known, or one that is there now.
    pub(super) async fn verifies(&self, algorithm: Algorithm, id: Option<&str>, message: &[u8], signature: &[u8]) -> Result<(), String> {
        let source = self.known.read().clone()?;
        let verified = |keys: &[Key]| keys.iter().any(|key| key.is_meant(id) && key.verifies(algorithm, message, signature));
        let (before, keys) = (Instant::now(), source.keys.read().clone());
        if verified(&keys) || verified(&source.fetch(before).await?) {
            return Ok(());
        }
        Err("failed to verify id token signature".to_owned())
    }
}

impl Source {
    /// The keys as they are there now, or were a moment ago. Who comes while they are being fetched waits for the same.
    async fn fetch(&self, since: Instant) -> Result<Arc<Vec<Key>>, String> {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at >= since || at.elapsed() < APART) {
            return Ok(self.keys.read().clone());
        }
        let answer = self.place.get(TERMS).await.and_then(|body| keys::read(&body));
        *fetched = Some(Instant::now());
        let keys = Arc::new(answer.map_err(|why| format!("fetching keys {why}"))?);
        *self.keys.write() = keys.clone();
        Ok(keys)
    }
}

fn at(url: String, authority: Option<String>) -> Webhook {
    Webhook::outside(ClientConfig { url: Some(url), ca_bundle: authority, service: None })
}
