//! Pulling from registries: manifest, configuration, then the layers that are missing, a few at a time. Downloads that broke off go on
//! where they stopped; pulls of the same image at the same time are one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use super::store::blocking;
use super::{ImageConfig, ImageError, ImageReference, Result, Store, disk};
use crate::runtime::Credentials;

/// Layers on the wire at once, over all pulls.
const PARALLEL_LAYERS: usize = 3;
/// Without a byte for this long a request fails.
const NO_PROGRESS: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(15);
/// Configurations are small; a larger one is not read.
const MAX_CONFIG_BYTES: i64 = 8 << 20;

type Outcome = std::result::Result<String, Arc<ImageError>>;
type Flight = Arc<OnceCell<Outcome>>;

/// Pulls under way.
pub(super) struct Pulls {
    flights: Mutex<HashMap<String, Flight>>,
    layers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    slots: Semaphore,
}

impl Default for Pulls {
    fn default() -> Self {
        Self { flights: Mutex::default(), layers: Mutex::default(), slots: Semaphore::new(PARALLEL_LAYERS) }
    }
}

impl Store {
    /// Pulls an image, or waits for a pull of it with the same credentials that is under way; answers the image id.
    pub(super) async fn pull_shared(&self, reference: &ImageReference, credentials: &[Credentials]) -> Outcome {
        let key = flight_key(reference, credentials);
        let flight = self.inner.pulls.flights.lock().entry(key.clone()).or_default().clone();
        // If the caller that pulls goes away, the next one waiting takes over.
        let outcome = flight.get_or_init(|| async { self.pull_image(reference, credentials).await.map_err(Arc::new) }).await.clone();
        let mut flights = self.inner.pulls.flights.lock();
        if flights.get(&key).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            flights.remove(&key);
        }
        outcome
    }

    async fn pull_image(&self, reference: &ImageReference, credentials: &[Credentials]) -> Result<String> {
        let found = self.resolve(reference, credentials).await?;
        let config = found.small_blob(reference, &found.manifest.config).await?;
        let parsed = ImageConfig::parse(&config)?;
        let layers = &found.manifest.layers;
        if parsed.layers.len() != layers.len() {
            let (a, b) = (layers.len(), parsed.layers.len());
            return Err(ImageError::Corrupt(format!("the manifest of {reference} has {a} layers, its configuration {b}")));
        }
        let _wanted = self.want(&parsed.layers);
        let pairs = layers.iter().zip(&parsed.layers);
        let fetches: Vec<_> = pairs.map(|(descriptor, diff_id)| self.pull_layer(&found.client, reference, descriptor, diff_id)).collect();
        futures::stream::iter(fetches).buffer_unordered(PARALLEL_LAYERS).try_collect::<Vec<()>>().await?;
        let tags = if reference.digest().is_some() { Vec::new() } else { vec![reference.full()] };
        let digests = vec![reference.with_digest(&found.digest)];
        let store = self.clone();
        blocking(move || store.add_image(&config, tags, digests, false)).await
    }

    /// Finds the manifest for this machine with the first credentials that the registry takes.
    async fn resolve(&self, reference: &ImageReference, credentials: &[Credentials]) -> Result<Resolved> {
        let mut auths: Vec<RegistryAuth> = credentials.iter().map(auth_of).collect();
        if auths.is_empty() {
            auths.push(RegistryAuth::Anonymous);
        }
        let mut refused = None;
        for auth in auths {
            match self.resolve_with(reference, &auth).await {
                Err(error @ ImageError::Denied(_)) => refused = Some(error),
                other => return other,
            }
        }
        Err(refused.unwrap_or_else(|| ImageError::Denied(reference.full())))
    }

    async fn resolve_with(&self, reference: &ImageReference, auth: &RegistryAuth) -> Result<Resolved> {
        let client = self.client(reference)?;
        let problem = |error| translate(error, reference);
        client.auth(reference.inner(), auth, RegistryOperation::Pull).await.map_err(problem)?;
        let (manifest, digest, list) =
            client.pull_image_manifest_and_list_digest(reference.inner(), auth).await.map_err(|e| translate(e, reference))?;
        Ok(Resolved { client, manifest, digest: list.unwrap_or(digest) })
    }

    /// A client of its own for every pull, because it remembers credentials by registry.
    fn client(&self, reference: &ImageReference) -> Result<Client> {
        // The process may have chosen a provider before: then that one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let plain = reference.is_local() || self.inner.registries.insecure.iter().any(|host| host == reference.host());
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            platform_resolver: Some(Box::new(choose_platform)),
            read_timeout: Some(NO_PROGRESS),
            connect_timeout: Some(CONNECT),
            user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Client::try_from(config)
            .map_err(|e| ImageError::Unavailable(format!("set up TLS (are root certificates installed?): {}", chain(&e))))
    }

    async fn pull_layer(&self, client: &Client, reference: &ImageReference, descriptor: &OciDescriptor, diff_id: &str) -> Result<()> {
        let lock = self.inner.pulls.layers.lock().entry(diff_id.to_owned()).or_default().clone();
        let held = lock.lock().await;
        let result = if self.has_layer(diff_id)? { Ok(()) } else { self.fetch_layer(client, reference, descriptor, diff_id).await };
        drop(held);
        let mut locks = self.inner.pulls.layers.lock();
        if Arc::strong_count(&lock) <= 2 {
            locks.remove(diff_id);
        }
        result
    }

    async fn fetch_layer(&self, client: &Client, reference: &ImageReference, descriptor: &OciDescriptor, diff_id: &str) -> Result<()> {
        let slot = self.inner.pulls.slots.acquire().await;
        let path = self.ingest().join(format!("{}.partial", disk::hex_of(&descriptor.digest)?));
        let mut last = None;
        // A connection that breaks goes on from where it was; one that never gives a byte more is not tried again.
        for _ in 0..5 {
            let before = size_of(&path);
            match download(client, reference, descriptor, &path).await {
                Ok(()) => {
                    last = None;
                    break;
                }
                Err(error) => {
                    let stuck = size_of(&path) <= before;
                    last = Some(error);
                    if stuck {
                        break;
                    }
                }
            }
        }
        if let Some(error) = last {
            return Err(error);
        }
        let (store, diff_id) = (self.clone(), diff_id.to_owned());
        let unpacked = blocking(move || {
            let file = File::open(&path).map_err(ImageError::io(format!("open {}", path.display())))?;
            let result = store.add_layer(file, &diff_id);
            let _ = std::fs::remove_file(&path);
            result
        });
        let result = unpacked.await;
        drop(slot);
        result
    }
}

/// What a reference led to.
struct Resolved {
    client: Client,
    manifest: OciImageManifest,
    /// Of the list when there is one: that is what users pin.
    digest: String,
}

impl Resolved {
    async fn small_blob(&self, reference: &ImageReference, descriptor: &OciDescriptor) -> Result<Vec<u8>> {
        if descriptor.size > MAX_CONFIG_BYTES {
            return Err(ImageError::Corrupt(format!(
                "image configuration of {} bytes, at most {MAX_CONFIG_BYTES} are allowed",
                descriptor.size
            )));
        }
        let mut bytes = Vec::new();
        self.client.pull_blob(reference.inner(), descriptor.digest.as_str(), &mut bytes).await.map_err(|e| translate(e, reference))?;
        Ok(bytes)
    }
}

/// Brings a blob to a file, from where an earlier try ended, and verifies the whole of it.
async fn download(client: &Client, reference: &ImageReference, descriptor: &OciDescriptor, path: &PathBuf) -> Result<()> {
    let io = |e: std::io::Error| ImageError::io(format!("write {}", path.display()))(e);
    let size = u64::try_from(descriptor.size).unwrap_or_default();
    let mut done = size_of(path);
    if done > size {
        done = 0;
    }
    if done < size || size == 0 {
        let response = client.pull_blob_stream_partial(reference.inner(), descriptor.digest.as_str(), done, None).await;
        let (stream, start) = match response.map_err(|e| translate(e, reference))? {
            BlobResponse::Full(stream) => (stream, 0),
            BlobResponse::Partial(stream) => (stream, done),
        };
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(io)?;
        file.set_len(start).map_err(io)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start)).map_err(io)?;
        let mut stream = stream.stream;
        let mut total = start;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| ImageError::Unavailable(format!("read layer {}: {e}", descriptor.digest)))?;
            total += chunk.len() as u64;
            if total > size {
                let _ = std::fs::remove_file(path);
                return Err(ImageError::Corrupt(format!("layer {} is larger than the {size} bytes its manifest says", descriptor.digest)));
            }
            // Page cache writes of one chunk: short enough for the runtime's thread.
            file.write_all(&chunk).map_err(io)?;
        }
    }
    let (path, expected) = (path.clone(), descriptor.digest.clone());
    blocking(move || verify(&path, &expected)).await
}

fn verify(path: &PathBuf, expected: &str) -> Result<()> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(disk::name_of(hasher)),
                n => hasher.update(&buffer[..n]),
            }
        }
    };
    let actual = read().map_err(ImageError::io(format!("read {}", path.display())))?;
    if actual == expected {
        return Ok(());
    }
    let _ = std::fs::remove_file(path);
    Err(ImageError::Corrupt(format!("unexpected digest {actual} of a layer, expected {expected}")))
}

fn size_of(path: &PathBuf) -> u64 {
    std::fs::metadata(path).map(|m| m.len()).unwrap_or_default()
}

fn auth_of(credentials: &Credentials) -> RegistryAuth {
    if !credentials.registry_token.is_empty() {
        RegistryAuth::Bearer(credentials.registry_token.clone())
    } else if !credentials.identity_token.is_empty() {
        // Registries that hand these out take them as the password of this user.
        RegistryAuth::Basic("<token>".to_owned(), credentials.identity_token.clone())
    } else if credentials.username.is_empty() && credentials.password.is_empty() {
        RegistryAuth::Anonymous
    } else {
        RegistryAuth::Basic(credentials.username.clone(), credentials.password.clone())
    }
}

/// Pulls share only when they would show the registry the same face.
fn flight_key(reference: &ImageReference, credentials: &[Credentials]) -> String {
    let mut hasher = Sha256::new();
    for c in credentials {
        for part in [&c.username, &c.password, &c.identity_token, &c.registry_token] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    format!("{} {}", reference.full(), disk::name_of(hasher))
}

/// The entry of a list for this machine: Linux, this architecture; of several variants the oldest that fits, which runs everywhere.
fn choose_platform(entries: &[ImageIndexEntry]) -> Option<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    let mut fitting: Vec<(String, &str)> = entries
        .iter()
        .filter_map(|entry| {
            let platform = entry.platform.as_ref()?;
            let fits = platform.os.to_string() == "linux" && platform.architecture.to_string() == architecture;
            fits.then(|| (platform.variant.clone().unwrap_or_default(), entry.digest.as_str()))
        })
        .collect();
    fitting.sort();
    fitting.first().map(|(_, digest)| (*digest).to_owned())
}

/// The registry's words, sorted by what the agent should do about them.
fn translate(error: OciDistributionError, reference: &ImageReference) -> ImageError {
    match error {
        OciDistributionError::UnauthorizedError { .. } => ImageError::Denied("authorization failed: no basic auth credentials".to_owned()),
        OciDistributionError::AuthenticationFailure(words) => ImageError::Denied(format!("authorization failed: {}", words.trim())),
        OciDistributionError::RegistryError { envelope, .. } => {
            let words = envelope.errors.iter().map(|e| if e.message.is_empty() { format!("{:?}", e.code) } else { e.message.clone() });
            let words = words.collect::<Vec<_>>().join("; ");
            match envelope.errors.first().map(|e| &e.code) {
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => ImageError::Denied(words),
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => {
                    ImageError::NotFound(reference.full())
                }
                Some(OciErrorCode::Toomanyrequests) => ImageError::Registry(format!("429 Too Many Requests - Server message: {words}")),
                _ => ImageError::Registry(words),
            }
        }
        OciDistributionError::ServerError { code: 404, .. } => ImageError::NotFound(reference.full()),
        OciDistributionError::ServerError { code: 401 | 403, message, .. } => ImageError::Denied(message),
        OciDistributionError::ServerError { code, url, message } => {
            ImageError::Registry(format!("unexpected status from GET request to {url}: {code}: {}", message.trim()))
        }
        OciDistributionError::ImageManifestNotFoundError(_) => {
            ImageError::NotFound(format!("no match for platform in manifest: {}", reference.full()))
        }
        OciDistributionError::RequestError(e) => ImageError::Unavailable(format!("failed to do request: {}", chain(&e))),
        OciDistributionError::DigestError(e) => ImageError::Corrupt(e.to_string()),
        other => ImageError::Registry(other.to_string()),
    }
}

/// An error with all its causes: the outermost alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: serde_json::Value) -> Vec<ImageIndexEntry> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_platform_is_this_machine_and_the_most_common_variant() {
        let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let entry = |digest: &str, platform: serde_json::Value| serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "platform": platform});
        let list = entries(serde_json::json!([
            entry("sha256:w", serde_json::json!({"os": "windows", "architecture": arch})),
            entry("sha256:v3", serde_json::json!({"os": "linux", "architecture": arch, "variant": "v3"})),
            entry("sha256:v1", serde_json::json!({"os": "linux", "architecture": arch})),
            entry("sha256:s", serde_json::json!({"os": "linux", "architecture": "s390x"})),
        ]));
        assert_eq!(choose_platform(&list).as_deref(), Some("sha256:v1"));
        assert_eq!(choose_platform(&list[..1]), None);
    }

    #[test]
    fn errors_of_registries_are_sorted_by_what_to_do() {
        let reference = ImageReference::parse("example.org/a:b").unwrap();
        let registry = |code: &str| OciDistributionError::RegistryError {
            envelope: serde_json::from_value(serde_json::json!({"errors": [{"code": code, "message": "words"}]})).unwrap(),
            url: "u".to_owned(),
        };
        assert!(matches!(translate(registry("DENIED"), &reference), ImageError::Denied(words) if words == "words"));
        let missing = translate(registry("MANIFEST_UNKNOWN"), &reference).to_string();
        assert_eq!(missing, "example.org/a:b: not found");
        assert!(translate(registry("TOOMANYREQUESTS"), &reference).to_string().starts_with("429"));
    }

    #[test]
    fn pulls_with_other_credentials_do_not_share() {
        let reference = ImageReference::parse("a").unwrap();
        let other = Credentials { username: "u".to_owned(), ..Credentials::default() };
        assert_ne!(flight_key(&reference, &[]), flight_key(&reference, &[other]));
    }
}
