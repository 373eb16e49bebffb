//! The store itself: what is there, adding, removing, and the [`Images`] seam over it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::index::{Entry, Index};
use super::pull::Pulls;
use super::reference::{ImageReference, as_id};
use super::{ImageConfig, ImageError, Result, disk, layer};
use crate::runtime::{self, Credentials, Image, ImageFilesystem, Images, RuntimeError};

/// Unfinished downloads and layers without an image are removed at start when nothing touched them for this long.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// `host[:port]` of registries without TLS. Loopback registries need not be listed.
    pub insecure: Vec<String>,
}

/// The image store. Cheap to clone. Other processes may add images at the same time (`coracle image import`).
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    root: PathBuf,
    index: Mutex<Cached>,
    /// Containers per image id.
    uses: Mutex<HashMap<String, usize>>,
    /// Layers that a pull or import under way relies on.
    wanted: Mutex<HashMap<String, usize>>,
    pub(super) registries: Registries,
    pub(super) pulls: Pulls,
}

/// The index as last read or written, and how its file looked then.
struct Cached {
    index: Index,
    stamp: Option<(u64, SystemTime, u64)>,
}

/// Keeps an image from being removed while it lives.
pub struct Use {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for Use {
    fn drop(&mut self) {
        release(&self.inner.uses, &self.id);
    }
}

/// Keeps layers of an image that is not in the index yet.
pub(super) struct Wanted {
    inner: Arc<Inner>,
    layers: Vec<String>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        for layer in &self.layers {
            release(&self.inner.wanted, layer);
        }
    }
}

fn release(counts: &Mutex<HashMap<String, usize>>, key: &str) {
    let mut counts = counts.lock();
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Store {
    /// Opens (and makes) a store in a directory and cleans up after earlier crashes.
    ///
    /// # Errors
    /// When the directory cannot be written or the index cannot be read.
    pub fn open(root: &Path, registries: Registries) -> Result<Self> {
        for dir in ["blobs/sha256", "layers", "ingest"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(ImageError::io(format!("create {}", dir.display())))?;
        }
        let cached = Cached { index: Index::load(&root.join("index.json"))?, stamp: None };
        let store = Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                index: Mutex::new(cached),
                uses: Mutex::default(),
                wanted: Mutex::default(),
                registries,
                pulls: Pulls::default(),
            }),
        };
        store.clean(SystemTime::now());
        Ok(store)
    }

    /// The configuration of a local image.
    ///
    /// # Errors
    /// When the image is not there or its configuration is unreadable.
    pub fn config(&self, id: &str) -> Result<ImageConfig> {
        let path = self.blob(id)?;
        match fs::read(&path) {
            Ok(json) => ImageConfig::parse(&json),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(ImageError::NotFound(format!("image {id}"))),
            Err(e) => Err(ImageError::io(format!("read {}", path.display()))(e)),
        }
    }

    /// Directory in which the layers are, and the names of an image's layers in it, lowest first.
    ///
    /// # Errors
    /// When a diff id is malformed.
    pub fn layers(&self, config: &ImageConfig) -> Result<(PathBuf, Vec<String>)> {
        let names: Result<Vec<String>> = config.layers.iter().map(|id| Ok(layer_name(id)?.to_owned())).collect();
        Ok((self.inner.root.join("layers"), names?))
    }

    /// Marks an image as used by a container until the answer is dropped.
    pub fn used(&self, id: &str) -> Use {
        *self.inner.uses.lock().entry(id.to_owned()).or_default() += 1;
        Use { inner: self.inner.clone(), id: id.to_owned() }
    }

    /// The image that a reference (short or full) or id means.
    ///
    /// # Errors
    /// When the reference does not parse or the index cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Image>> {
        let found = self.read(|index| match as_id(name) {
            Some(id) => index.images.get(&id).map(|entry| (id, entry.clone())),
            None => None,
        })?;
        let found = match found {
            Some(found) => Some(found),
            None => {
                let full = ImageReference::parse(name)?.full();
                self.read(|index| index.find(&full).map(|id| (id.to_owned(), index.images[id].clone())))?
            }
        };
        Ok(found.map(|(id, entry)| self.describe(&id, &entry)))
    }

    /// All images.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn all(&self) -> Result<Vec<Image>> {
        let images = self.read(|index| index.images.clone())?;
        Ok(images.iter().map(|(id, entry)| self.describe(id, entry)).collect())
    }

    /// Removes an image and the layers that nobody else needs.
    ///
    /// # Errors
    /// [`ImageError::InUse`] while a container uses it. What is not there is no error.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        let Some(image) = self.find(name)? else { return Ok(()) };
        // Containers of another process (this may be `coracle image remove` beside a server) show in the mounts. They are kept beside the
        // images, in the same data directory; other installations may have the same layers.
        let beside = self.inner.root.parent().unwrap_or(&self.inner.root).to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = |line: &&str| line.split(' ').nth(4).is_some_and(|point| point.starts_with(&beside));
        let mounts: Vec<&str> = mounts.lines().filter(ours).collect();
        let used = |layer: &str| mounts.iter().any(|line| line.contains(layer));
        let mounted = |entry: &Entry| entry.layers.iter().filter_map(|id| layer_name(id).ok()).any(used);
        let trash = self.write(|index| {
            if self.inner.uses.lock().contains_key(&image.id) || index.images.get(&image.id).is_some_and(mounted) {
                return Err(ImageError::InUse(name.to_owned()));
            }
            let Some(entry) = index.images.remove(&image.id) else { return Ok(Vec::new()) };
            // The import folder may hold it: let the next start look again.
            index.imported.clear();
            let mut needed: BTreeSet<String> = index.layers().into_iter().map(str::to_owned).collect();
            needed.extend(self.inner.wanted.lock().keys().cloned());
            Ok(entry.layers.into_iter().filter(|layer| !needed.contains(layer)).collect())
        })?;
        for layer in trash {
            self.discard_layer(&layer)?;
        }
        let _ = fs::remove_file(self.blob(&image.id)?);
        Ok(())
    }

    /// Announces that the layers will be used by an image about to be added.
    pub(super) fn want(&self, layers: &[String]) -> Wanted {
        let _index = self.inner.index.lock();
        let mut wanted = self.inner.wanted.lock();
        for layer in layers {
            *wanted.entry(layer.clone()).or_default() += 1;
        }
        Wanted { inner: self.inner.clone(), layers: layers.to_vec() }
    }

    /// Whether a layer is unpacked already.
    pub(super) fn has_layer(&self, diff_id: &str) -> Result<bool> {
        Ok(self.layer_path(diff_id)?.exists())
    }

    /// Unpacks a layer and publishes it durably under its diff id, which must be what the image says. Blocks.
    pub(super) fn add_layer(&self, source: impl std::io::Read, diff_id: &str) -> Result<()> {
        let target = self.layer_path(diff_id)?;
        let staging = tempdir_in(&self.ingest())?;
        let unpacked = layer::unpack(source, &staging.0).map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidInput => {
                ImageError::Corrupt(format!("unpack layer {diff_id}: {e}"))
            }
            _ => ImageError::io(format!("unpack layer {diff_id}"))(e),
        })?;
        if unpacked != diff_id {
            return Err(ImageError::Corrupt(format!("layer has diff id {unpacked}, the image says {diff_id}")));
        }
        let publish = || -> std::io::Result<()> {
            let dir = File::open(&staging.0)?;
            rustix::fs::syncfs(&dir)?;
            match fs::rename(&staging.0, &target) {
                // Somebody else was faster with the same layer.
                Err(_) if target.exists() => Ok(()),
                other => other,
            }
        };
        publish().map_err(ImageError::io(format!("publish layer {diff_id}")))?;
        disk::sync_dir(&self.inner.root.join("layers"))
    }

    /// Adds an image whose layers are all there; answers its id.
    pub(super) fn add_image(&self, config: &[u8], tags: Vec<String>, digests: Vec<String>, pinned: bool) -> Result<String> {
        let id = disk::digest_of(config);
        let parsed = ImageConfig::parse(config)?;
        let blob = self.blob(&id)?;
        if !blob.exists() {
            disk::replace(&blob, config)?;
        }
        let mut size = config.len() as u64;
        for layer in parsed.layers.iter().collect::<BTreeSet<_>>() {
            size += disk::tree_size(&self.layer_path(layer)?);
        }
        let entry = Entry { tags: tags.into_iter().collect(), digests: digests.into_iter().collect(), layers: parsed.layers, size, pinned };
        self.write(|index| {
            for layer in &entry.layers {
                if !self.has_layer(layer)? {
                    return Err(ImageError::Corrupt(format!("layer {layer} was removed meanwhile; try again")));
                }
            }
            index.add(&id, entry);
            Ok(())
        })?;
        Ok(id)
    }

    /// Looks at the index, read again when another process changed it.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> Result<T> {
        let mut cached = self.inner.index.lock();
        self.refresh(&mut cached)?;
        Ok(look(&cached.index))
    }

    /// Changes the index, alone among all processes, and makes it durable.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let path = self.inner.root.join("index.json");
        let mut cached = self.inner.index.lock();
        let lock_path = self.inner.root.join("index.lock");
        let lock = File::create(&lock_path).map_err(ImageError::io(format!("open {}", lock_path.display())))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(ImageError::io(format!("lock {}", lock_path.display())))?;
        self.refresh(&mut cached)?;
        let mut index = cached.index.clone();
        let answer = change(&mut index)?;
        if index != cached.index {
            index.save(&path)?;
            cached.index = index;
            cached.stamp = stamp(&path);
        }
        Ok(answer)
    }

    fn refresh(&self, cached: &mut Cached) -> Result<()> {
        let path = self.inner.root.join("index.json");
        let now = stamp(&path);
        if now != cached.stamp {
            cached.index = Index::load(&path)?;
            cached.stamp = now;
        }
        Ok(())
    }

    /// Where unfinished things live.
    pub(super) fn ingest(&self) -> PathBuf {
        self.inner.root.join("ingest")
    }

    fn blob(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.inner.root.join("blobs/sha256").join(disk::hex_of(digest)?))
    }

    fn layer_path(&self, diff_id: &str) -> Result<PathBuf> {
        Ok(self.inner.root.join("layers").join(layer_name(diff_id)?))
    }

    /// Moves a layer out of the way first, so that nothing ever sees half of it.
    fn discard_layer(&self, diff_id: &str) -> Result<()> {
        let trash = tempdir_in(&self.ingest())?;
        let path = self.layer_path(diff_id)?;
        match fs::rename(&path, trash.0.join("layer")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io(format!("remove {}", path.display()))(e)),
            _ => Ok(()),
        }
    }

    /// Removes what crashes left: staged layers at once, abandoned downloads and layers without an image after a day.
    fn clean(&self, now: SystemTime) {
        let abandoned = |path: &Path| {
            let touched = fs::metadata(path).and_then(|m| m.modified()).unwrap_or(now);
            now.duration_since(touched).is_ok_and(|age| age > ABANDONED_AFTER)
        };
        for entry in fs::read_dir(self.ingest()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                let _ = fs::remove_dir_all(&path);
            } else if abandoned(&path) {
                let _ = fs::remove_file(&path);
            }
        }
        let needed: BTreeSet<String> = self
            .read(|index| index.layers().into_iter().filter_map(|l| layer_name(l).ok().map(str::to_owned)).collect())
            .unwrap_or_default();
        for entry in fs::read_dir(self.inner.root.join("layers")).into_iter().flatten().flatten() {
            let path = entry.path();
            let made = entry.metadata().map(|m| ctime(&m)).unwrap_or(now);
            let old = now.duration_since(made).is_ok_and(|age| age > ABANDONED_AFTER);
            if old && !needed.contains(&*entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }

    fn describe(&self, id: &str, entry: &Entry) -> Image {
        let (uid, username) = self.config(id).map(|c| c.user_ids()).unwrap_or_default();
        Image {
            id: id.to_owned(),
            tags: entry.tags.iter().cloned().collect(),
            digests: entry.digests.iter().cloned().collect(),
            size_bytes: entry.size,
            uid,
            username,
            pinned: entry.pinned,
        }
    }
}

/// The name of a layer's directory.
fn layer_name(diff_id: &str) -> Result<&str> {
    Ok(&disk::hex_of(diff_id)?[..28])
}

fn stamp(path: &Path) -> Option<(u64, SystemTime, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.modified().ok()?, meta.len()))
}

fn ctime(meta: &fs::Metadata) -> SystemTime {
    use std::os::unix::fs::MetadataExt;
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(meta.ctime()).unwrap_or_default())
}

/// A directory that is removed with its content when dropped; gone already is fine.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tempdir_in(parent: &Path) -> Result<Staging> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = parent.join(format!("staging-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).map_err(ImageError::io(format!("create {}", path.display())))?;
    // The root of a layer that has no entry for it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, mode).map_err(ImageError::io(format!("chmod {}", path.display())))?;
    Ok(Staging(path))
}

impl From<ImageError> for RuntimeError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::InvalidReference { reference, reason } => RuntimeError::InvalidReference { reference, reason },
            other => RuntimeError::Failed(other.to_string()),
        }
    }
}

#[async_trait]
impl Images for Store {
    async fn pull(&self, reference: &str, credentials: &[Credentials]) -> runtime::Result<Image> {
        let full = ImageReference::parse(reference)?;
        let image = full.full();
        let id = self.pull_shared(&full, credentials).await.map_err(|error| {
            let message = error.to_string();
            match &*error {
                ImageError::Denied(_) => RuntimeError::PullDenied { image: image.clone(), message },
                ImageError::Unavailable(_) => RuntimeError::RegistryUnavailable { image: image.clone(), message },
                ImageError::NotFound(_) => {
                    RuntimeError::PullFailed { image: image.clone(), message: format!("failed to resolve reference {image:?}: {message}") }
                }
                _ => RuntimeError::PullFailed { image: image.clone(), message },
            }
        })?;
        self.find(&id)?.ok_or(RuntimeError::NotFound { what: "image", id })
    }

    async fn status(&self, reference: &str) -> runtime::Result<Option<Image>> {
        Ok(self.find(reference)?)
    }

    async fn list(&self) -> runtime::Result<Vec<Image>> {
        Ok(self.all()?)
    }

    async fn remove(&self, reference: &str) -> runtime::Result<()> {
        let (store, name) = (self.clone(), reference.to_owned());
        blocking(move || store.remove_image(&name)).await?;
        Ok(())
    }

    async fn filesystem(&self) -> runtime::Result<ImageFilesystem> {
        let store = self.clone();
        let used_bytes = blocking(move || Ok(disk::tree_size(&store.inner.root.join("layers")))).await?;
        Ok(ImageFilesystem { path: self.inner.root.clone(), used_bytes })
    }
}

/// Runs work that blocks on the pool for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(ImageError::Corrupt(format!("image work ended unexpectedly: {e}"))),
    }
}
