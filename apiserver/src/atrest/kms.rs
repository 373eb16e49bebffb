//! KMS v2: a service on this machine keeps the key; it encrypts the seed that this process encrypts values with
//! (`encryptionconfig/config.go`, `envelope/kmsv2/envelope.go`).

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    chain::{Opened, Secret},
    ciphers::{self, Gcm, Seed},
    config,
    messages::{self, Annotations, Envelope, Said},
};
use crate::{
    metrics::atrest as metrics,
    webhook::grpc::{Client, Fault},
    wire::{message::Writer, status::aggregate},
};

/// After a good answer the service is asked again after this long, after a bad one sooner.
const GOOD: Duration = Duration::from_secs(20);
const BAD: Duration = Duration::from_secs(3);
/// Without a good answer for so long nothing more is written with what there is.
const WRITABLE: Duration = Duration::from_secs(180);
/// Keys of stored values that were decrypted are known for this long, and at most so many of them.
const KNOWN: Duration = Duration::from_secs(24 * 60 * 60);
const KNOWN_KEYS: usize = 4096;
/// Largest key id and encrypted key, in bytes, and annotations.
const KEY_ID: usize = 1024;
const SOURCE: usize = 1024;
const ANNOTATIONS: usize = 32 * 1024;
/// Values whose keys are derived from a seed.
const OF_SEED: u64 = 1;

/// A service and what it gave us.
pub(super) struct Service {
    name: String,
    client: Client,
    /// What is written with.
    current: RwLock<Option<Arc<Current>>>,
    known: Mutex<Known>,
    /// When it was asked last, and what came of it. Held while it is asked: others wait for the same answer.
    asked: tokio::sync::Mutex<Asked>,
}

/// How stored keys were decrypted and when, by a digest of what is stored of them.
type Known = HashMap<[u8; 32], (Instant, Arc<Unsealer>)>;

#[derive(Default)]
struct Asked {
    last: Option<(Instant, Result<(), String>)>,
    /// As the first answer told.
    version: String,
}

/// A seed and how the service encrypted it.
struct Current {
    unsealer: Arc<Unsealer>,
    key_id: String,
    source: Vec<u8>,
    annotations: Annotations,
    /// What it is known by among the known keys.
    digest: [u8; 32],
    expires: Instant,
}

/// What decrypts the data of values.
enum Unsealer {
    Seed(Seed),
    Key(Gcm),
}

impl Service {
    pub(super) fn new(config: &config::Kms) -> Self {
        let timeout = config.timeout.unwrap_or(BAD);
        Self {
            name: config.name.clone(),
            client: Client::new(&config.endpoint, timeout),
            current: RwLock::default(),
            known: Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks whether the service is well, unless it was asked a moment ago; takes a new seed when its key has changed.
    pub(super) async fn check(&self) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        if let Some((at, result)) = &asked.last {
            let lasts = if result.is_ok() { GOOD } else { BAD };
            if at.elapsed() < lasts {
                return result.clone();
            }
        }
        let result = match self.call("Status", &[], messages::status).await {
            Ok(said) => self.take(&said, &mut asked.version).await,
            Err(fault) => {
                Err(format!("failed to perform status section of the healthz check for KMS Provider {}, error: {fault}", self.name))
            }
        };
        asked.last = Some((Instant::now(), result.clone()));
        result
    }

    async fn take(&self, said: &Said, version: &mut String) -> Result<(), String> {
        let mut faults = Vec::new();
        if said.health != "ok" {
            faults.push(format!("got unexpected healthz status: {}", said.health));
        }
        if ["v2", "v2beta1"].contains(&said.version.as_str()) {
            if version.is_empty() {
                version.clone_from(&said.version);
            }
            if *version != said.version {
                let found = &said.version;
                faults
                    .push(format!("KMSv2 API version should not change after the initial status response version {version}, got {found}"));
            }
        } else {
            faults.push(format!("expected KMSv2 API version v2, got {}", said.version));
        }
        match key_id_fault(&said.key_id) {
            Some(why) => faults.push(format!("got invalid KMSv2 KeyID hash {:?}: {why}", hash_of(&said.key_id))),
            None => {
                metrics::key_seen(&self.name, &hash_of(&said.key_id));
                if let Err(why) = self.rotate(&said.key_id).await {
                    faults.push(why);
                }
            }
        }
        aggregate(faults).map_or(Ok(()), |why| Err(format!("kmsv2 Provider {} is not healthy, error: {why}", self.name)))
    }

    /// Goes on with the seed there is if the key is the same, else has a new one encrypted. When that fails, the old one stays as long as it
    /// may.
    pub(super) async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // From before the service is asked: the time is an upper bound.
        let expires = Instant::now() + WRITABLE;
        let current = self.current.read().clone();
        if let Some(current) = current.filter(|current| current.key_id == key_id) {
            let Current { unsealer, source, annotations, digest, .. } = &*current;
            let same = Current {
                unsealer: Arc::clone(unsealer),
                key_id: key_id.to_owned(),
                source: source.clone(),
                annotations: annotations.clone(),
                digest: *digest,
                expires,
            };
            *self.current.write() = Some(Arc::new(same));
            return Ok(());
        }
        let failed = |why: &str, encrypted: &str| {
            format!(
                "failed to rotate DEK useSeed=true, errGen={why}, statusKeyIDHash={:?}, encryptKeyIDHash={:?}",
                hash_of(key_id),
                hash_of(encrypted)
            )
        };
        let made = self.generate(expires).await.map_err(|why| failed(&why, ""))?;
        if made.key_id != key_id {
            return Err(failed("<nil>", &made.key_id));
        }
        tracing::info!(name = self.name, key = hash_of(key_id), "values are written with a new data encryption key");
        let before = self.current.write().replace(Arc::new(made));
        // What was written a moment ago is read although the service may not answer.
        if let Some(before) = before {
            self.remember(before.digest, &before.unsealer);
        }
        Ok(())
    }

    async fn generate(&self, expires: Instant) -> Result<Current, String> {
        let seed = ciphers::random::<{ ciphers::SEED }>()?;
        let message = Writer::default().bytes(1, &seed).bytes(2, uid().as_bytes()).finish();
        let said = self.call("Encrypt", &message, messages::encrypted).await.map_err(|e| format!("failed to encrypt DEK, error: {e}"))?;
        let Said { key, key_id, annotations, .. } = said;
        let envelope = Envelope { data: vec![0], key_id, source: key, annotations, source_type: OF_SEED };
        if let Some(why) = fault(&envelope) {
            return Err(why);
        }
        let (digest, unsealer) = (digest(&envelope), Arc::new(Unsealer::Seed(Seed::new(seed.to_vec())?)));
        let Envelope { key_id, source, annotations, .. } = envelope;
        Ok(Current { unsealer, key_id, source, annotations, digest, expires })
    }

    pub(super) async fn open(&self, data: &[u8], context: &[u8]) -> Result<Opened, String> {
        let envelope = Envelope::read(data).ok_or("proto: cannot parse invalid wire-format data")?;
        if let Some(why) = fault(&envelope) {
            return Err(why);
        }
        let current = self.current.read().clone().ok_or("got unexpected nil transformer")?;
        let digest = digest(&envelope);
        let known = self.known.lock().get(&digest).filter(|(at, _)| at.elapsed() < KNOWN).map(|(_, unsealer)| Arc::clone(unsealer));
        let unsealer = match known {
            _ if digest == current.digest => Arc::clone(&current.unsealer),
            Some(unsealer) => unsealer,
            None => self.learn(&envelope, digest).await?,
        };
        let plain = match &*unsealer {
            Unsealer::Seed(seed) => seed.open(&envelope.data, context)?,
            Unsealer::Key(gcm) => gcm.open(&envelope.data, context)?,
        };
        Ok(Opened { plain, stale: envelope.key_id != current.key_id || envelope.source_type != OF_SEED })
    }

    /// Has the key of a value decrypted.
    async fn learn(&self, envelope: &Envelope, digest: [u8; 32]) -> Result<Arc<Unsealer>, String> {
        metrics::CACHE_MISSES.inc([]);
        let message = Writer::default().bytes(1, &envelope.source).bytes(2, uid().as_bytes()).bytes(3, envelope.key_id.as_bytes());
        let message = messages::put_annotations(message, 4, &envelope.annotations).finish();
        let said = self.call("Decrypt", &message, messages::decrypted).await.map_err(|e| format!("failed to decrypt DEK, error: {e}"))?;
        let unsealer = match envelope.source_type {
            OF_SEED => Unsealer::Seed(Seed::new(said.key)?),
            _ => Unsealer::Key(Gcm::new(&said.key).ok_or_else(|| format!("crypto/aes: invalid key size {}", said.key.len()))?),
        };
        let unsealer = Arc::new(unsealer);
        self.remember(digest, &unsealer);
        Ok(unsealer)
    }

    fn remember(&self, digest: [u8; 32], unsealer: &Arc<Unsealer>) {
        let mut known = self.known.lock();
        if known.len() >= KNOWN_KEYS {
            known.retain(|_, (at, _)| at.elapsed() < KNOWN);
            if known.len() >= KNOWN_KEYS {
                known.clear();
            }
        }
        known.insert(digest, (Instant::now(), Arc::clone(unsealer)));
    }

    pub(super) fn seal(&self, data: &[u8], context: &[u8]) -> Result<Secret, String> {
        let current = self.current.read().clone().ok_or("got unexpected nil transformer")?;
        if Instant::now() > current.expires {
            return Err(format!("encryptedDEKSource with keyID hash {:?} expired", hash_of(&current.key_id)));
        }
        let Unsealer::Seed(seed) = &*current.unsealer else { return Err("got unexpected nil transformer".to_owned()) };
        let envelope = Envelope {
            data: seed.seal(data, context)?,
            key_id: current.key_id.clone(),
            source: current.source.clone(),
            annotations: current.annotations.clone(),
            source_type: OF_SEED,
        };
        Ok(envelope.write())
    }

    async fn call(&self, method: &str, message: &[u8], read: fn(&[u8]) -> Option<Said>) -> Result<Said, Fault> {
        let started = Instant::now();
        let answer = self.client.call(&format!("/v2.KeyManagementService/{method}"), message).await;
        let code = answer.as_ref().map_or_else(|fault| fault.code, |_| "OK");
        metrics::called(&self.name, method, code, started.elapsed());
        let unreadable = || Fault::new("Internal", "proto: cannot parse invalid wire-format data");
        read(&answer?).ok_or_else(unreadable)
    }
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// How a key id is told: it may say more than everybody should know.
fn hash_of(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(key_id) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What tells encrypted keys apart.
fn digest(envelope: &Envelope) -> [u8; 32] {
    let Envelope { key_id, source, annotations, source_type, .. } = envelope;
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&source_type.to_le_bytes());
    part(source);
    part(key_id.as_bytes());
    for (key, value) in annotations {
        part(key.as_bytes());
        part(value);
    }
    hasher.finalize().into()
}

/// What is wrong with a value, if anything is (`ValidateEncryptedObject`).
fn fault(envelope: &Envelope) -> Option<String> {
    let Envelope { data, key_id, source, annotations, source_type } = envelope;
    if *source_type > OF_SEED {
        return Some(format!("unknown encryptedDEKSourceType: {source_type}"));
    }
    if data.is_empty() {
        return Some("encrypted data is empty".to_owned());
    }
    let wrong = |why: String| Some(format!("failed to validate encrypted DEK source: {why}"));
    match source.len() {
        0 => return wrong("encrypted DEK source is empty".to_owned()),
        size if size > SOURCE => return wrong(format!("encrypted DEK source is {size} bytes, which exceeds the max size of {SOURCE}")),
        _ => {}
    }
    if let Some(why) = key_id_fault(key_id) {
        return Some(format!("failed to validate key id: {why}"));
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    let unqualified = annotations.keys().find(|key| !key.contains('.') || !coracle_schema::name::subdomain(key).is_empty());
    match unqualified {
        Some(key) => Some(format!(
            "failed to validate annotations: annotations: Invalid value: {key:?}: should be a domain with at least two segments separated by dots"
        )),
        None if size > ANNOTATIONS => Some(format!(
            "failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS}"
        )),
        None => None,
    }
}

fn key_id_fault(key_id: &str) -> Option<String> {
    match key_id.len() {
        0 => Some("keyID is empty".to_owned()),
        size if size > KEY_ID => Some(format!("keyID is {size} bytes, which exceeds the max size of {KEY_ID}")),
        _ => None,
    }
}
