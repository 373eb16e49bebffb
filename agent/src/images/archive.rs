//! Archives of images: OCI layouts (`index.json`) and `docker save` files (`manifest.json`), plain or compressed as a whole.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::layer::decompressed;
use super::{ImageConfig, ImageError, ImageReference, Result, Store, disk};

/// JSON members of an archive are not larger than this.
const MAX_JSON_BYTES: u64 = 8 << 20;
/// Lists in lists: deeper is an attack.
const MAX_INDEX_DEPTH: usize = 4;

impl Store {
    /// Imports all images of an archive and answers their references (ids for those without a name). Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or is no image archive. Images before the bad one stay. What is imported is pinned: there may be no
    /// registry to bring it back from.
    pub fn import(&self, path: &Path) -> Result<Vec<String>> {
        let mut archive = Members::open(path, &self.ingest())?;
        let images = archive.images()?;
        if images.is_empty() {
            return Err(ImageError::Corrupt(format!("{}: the archive has no image for this machine", path.display())));
        }
        let mut names = Vec::new();
        for image in images {
            let id = self.import_one(&mut archive, &image)?;
            names.extend(if image.tags.is_empty() { vec![id] } else { image.tags });
        }
        Ok(names)
    }

    fn import_one(&self, archive: &mut Members, image: &Found) -> Result<String> {
        let config = archive.json(&image.config)?;
        if let Some(expected) = &image.config_digest
            && disk::digest_of(&config) != *expected
        {
            return Err(ImageError::Corrupt(format!("{} does not have its digest", image.config)));
        }
        let parsed = ImageConfig::parse(&config)?;
        if parsed.layers.len() != image.layers.len() {
            let (a, b) = (image.layers.len(), parsed.layers.len());
            return Err(ImageError::Corrupt(format!("archive has {a} layers for an image configuration with {b}")));
        }
        let _wanted = self.want(&parsed.layers);
        for (member, diff_id) in image.layers.iter().zip(&parsed.layers) {
            if !self.has_layer(diff_id)? {
                self.add_layer(archive.member(member)?, diff_id)?;
            }
        }
        let digests = match &image.digest {
            Some(digest) => image.tags.iter().map(|tag| Ok(ImageReference::parse(tag)?.with_digest(digest))).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        self.add_image(&config, image.tags.clone(), digests, true)
    }
}

/// An image in an archive, by the names of its members.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    config: String,
    config_digest: Option<String>,
    layers: Vec<String>,
    tags: Vec<String>,
    digest: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
struct Descriptor {
    digest: String,
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
}

/// A tar file and where its members are.
struct Members {
    file: File,
    at: HashMap<String, (u64, u64)>,
    links: HashMap<String, String>,
    /// The decompressed copy, removed at the end.
    _copy: Option<Copy>,
}

struct Copy(std::path::PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Members {
    fn open(path: &Path, ingest: &Path) -> Result<Self> {
        let problem = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
                ImageError::Corrupt(format!("{}: not an image archive: {e}", path.display()))
            }
            _ => ImageError::io(format!("read {}", path.display()))(e),
        };
        let mut file = File::open(path).map_err(problem)?;
        let mut copy = None;
        if is_compressed(&mut file).map_err(problem)? {
            let name = format!("import-{}-{}", std::process::id(), disk::digest_of(path.as_os_str().as_encoded_bytes()).split_off(7));
            let target = Copy(ingest.join(name));
            let mut plain = File::options().create(true).truncate(true).read(true).write(true).open(&target.0).map_err(problem)?;
            io::copy(&mut decompressed(file).map_err(problem)?, &mut plain).map_err(problem)?;
            plain.rewind().map_err(problem)?;
            file = plain;
            copy = Some(target);
        }
        let mut members = Self { file, at: HashMap::new(), links: HashMap::new(), _copy: copy };
        members.scan().map_err(problem)?;
        Ok(members)
    }

    fn scan(&mut self) -> io::Result<()> {
        let mut archive = tar::Archive::new(&self.file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            let kind = entry.header().entry_type();
            if kind.is_file() {
                self.at.insert(name, (entry.raw_file_position(), entry.size()));
            } else if (kind.is_symlink() || kind.is_hard_link())
                && let Some(link) = entry.link_name_bytes()
            {
                let link = String::from_utf8_lossy(&link).into_owned();
                let target = if kind.is_symlink() { beside(&name, &link) } else { normal(&link) };
                self.links.insert(name, target);
            }
        }
        Ok(())
    }

    /// The bytes of a member; links within the archive (older docker versions have them) are followed.
    fn member(&mut self, name: &str) -> Result<io::Take<&File>> {
        let mut name = normal(name);
        for _ in 0..8 {
            match self.links.get(&name) {
                Some(next) => name.clone_from(next),
                None => break,
            }
        }
        let &(start, size) = self.at.get(&name).ok_or_else(|| ImageError::Corrupt(format!("the archive has no member {name:?}")))?;
        self.file.seek(SeekFrom::Start(start)).map_err(ImageError::io("seek in archive"))?;
        Ok((&self.file).take(size))
    }

    fn json(&mut self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut member = self.member(name)?;
        if member.limit() > MAX_JSON_BYTES {
            return Err(ImageError::Corrupt(format!("{name}: {} bytes, at most {MAX_JSON_BYTES} are allowed", member.limit())));
        }
        member.read_to_end(&mut bytes).map_err(ImageError::io(format!("read {name}")))?;
        Ok(bytes)
    }

    fn parse<T: for<'a> Deserialize<'a>>(&mut self, name: &str) -> Result<T> {
        let bytes = self.json(name)?;
        serde_json::from_slice(&bytes).map_err(|e| ImageError::Corrupt(format!("{name}: {e}")))
    }

    /// The images: from the OCI index when it names them, else from docker's manifest, which names them more often.
    fn images(&mut self) -> Result<Vec<Found>> {
        let mut oci = Vec::new();
        if self.at.contains_key("index.json") {
            let index: Document = self.parse("index.json")?;
            for descriptor in index.manifests.unwrap_or_default() {
                self.oci_images(&descriptor, &[], 0, &mut oci)?;
            }
        }
        let named = oci.iter().any(|image: &Found| !image.tags.is_empty());
        if named || !(self.at.contains_key("manifest.json") || self.links.contains_key("manifest.json")) {
            return Ok(oci);
        }
        let docker: Vec<DockerImage> = self.parse("manifest.json")?;
        docker
            .into_iter()
            .map(|image| {
                let tags = image.repo_tags.unwrap_or_default();
                let tags = tags.iter().map(|tag| Ok(ImageReference::parse(tag)?.full())).collect::<Result<_>>()?;
                Ok(Found { config: image.config, layers: image.layers, tags, ..Found::default() })
            })
            .collect()
    }

    fn oci_images(&mut self, descriptor: &Descriptor, tags: &[String], depth: usize, found: &mut Vec<Found>) -> Result<()> {
        let here = descriptor.platform.as_ref().is_none_or(is_this_machine);
        let attestation = descriptor.annotations.contains_key("vnd.docker.reference.type");
        if !here || attestation || depth > MAX_INDEX_DEPTH {
            return Ok(());
        }
        let name = blob(&descriptor.digest)?;
        // Archives of one platform keep the list of all: what is not there was left out on purpose.
        if depth > 0 && !self.at.contains_key(&name) {
            return Ok(());
        }
        let bytes = self.json(&name)?;
        if disk::digest_of(&bytes) != descriptor.digest {
            return Err(ImageError::Corrupt(format!("{name} does not have its digest")));
        }
        let document: Document = serde_json::from_slice(&bytes).map_err(|e| ImageError::Corrupt(format!("{name}: {e}")))?;
        let mut all: BTreeSet<String> = tags.iter().cloned().collect();
        all.extend(tags_of(&descriptor.annotations));
        let tags: Vec<String> = all.into_iter().collect();
        if let Some(inner) = document.manifests {
            let before = found.len();
            for descriptor in &inner {
                self.oci_images(descriptor, &tags, depth + 1, found)?;
            }
            // Users pin the list, not the entry for one platform.
            found[before..].iter_mut().for_each(|image| image.digest = Some(descriptor.digest.clone()));
            return Ok(());
        }
        let Some(config) = document.config else { return Ok(()) };
        found.push(Found {
            config: blob(&config.digest)?,
            config_digest: Some(config.digest),
            layers: document.layers.iter().map(|layer| blob(&layer.digest)).collect::<Result<_>>()?,
            tags,
            digest: Some(descriptor.digest.clone()),
        });
        Ok(())
    }
}

/// Names in annotations: containerd's full one, else the specification's when it is a whole reference (often it is a bare tag).
fn tags_of(annotations: &HashMap<String, String>) -> Option<String> {
    let full = annotations.get("io.containerd.image.name");
    let reference = annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    full.or(reference).and_then(|name| ImageReference::parse(name).ok()).map(|reference| reference.full())
}

fn is_this_machine(platform: &Platform) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (platform.os.is_empty() || platform.os == "linux") && (platform.architecture.is_empty() || platform.architecture == architecture)
}

fn blob(digest: &str) -> Result<String> {
    Ok(format!("blobs/sha256/{}", disk::hex_of(digest)?))
}

fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The target of a symlink, relative to the directory of the link.
fn beside(link: &str, target: &str) -> String {
    let dir = link.rsplit_once('/').map_or("", |(dir, _)| dir);
    normal(&format!("{dir}/{target}"))
}

fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut start = [0; 4];
    let n = file.read(&mut start)?;
    file.rewind()?;
    Ok(start[..n].starts_with(&[0x1f, 0x8b]) || start[..n] == [0x28, 0xb5, 0x2f, 0xfd])
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;
    use crate::images::Registries;

    /// A tar of (name, content), mode 0755.
    pub(crate) fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn config_of(layers: &[&[u8]]) -> Vec<u8> {
        let ids: Vec<String> = layers.iter().map(|layer| disk::digest_of(layer)).collect();
        serde_json::to_vec(&serde_json::json!({"os": "linux", "architecture": "amd64",
            "config": {"Cmd": ["/bin/sh"], "User": "1000:1000", "Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": ids}}))
        .unwrap()
    }

    /// A `docker save` archive with one plain layer.
    pub(crate) fn docker_archive(dir: &Path, tag: &str, layer: &[u8]) -> PathBuf {
        let config = config_of(&[layer]);
        let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": [tag], "Layers": ["l/layer.tar"]}]).to_string();
        let path = dir.join(format!("{}.tar", tag.replace(['/', ':'], "_")));
        std::fs::write(&path, tar_of(&[("c.json", &config), ("l/layer.tar", layer), ("manifest.json", manifest.as_bytes())])).unwrap();
        path
    }

    fn oci_archive(path: &Path, name: &str, layer: &[u8]) -> String {
        let packed = gzip(layer);
        let config = config_of(&[layer]);
        let manifest = serde_json::json!({"schemaVersion": 2, "config": {"digest": disk::digest_of(&config)},
            "layers": [{"digest": disk::digest_of(&packed)}]})
        .to_string();
        let digest = disk::digest_of(manifest.as_bytes());
        let index = serde_json::json!({"schemaVersion": 2,
            "manifests": [{"digest": digest, "annotations": {"io.containerd.image.name": name}}]})
        .to_string();
        let member = |bytes: &[u8]| blob(&disk::digest_of(bytes)).unwrap();
        let tar = tar_of(&[
            ("index.json", index.as_bytes()),
            (&member(manifest.as_bytes()), manifest.as_bytes()),
            (&member(&config), &config),
            (&member(&packed), &packed),
        ]);
        std::fs::write(path, gzip(&tar)).unwrap();
        digest
    }

    #[test]
    fn docker_and_oci_archives_of_one_image_share_the_layer() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        let layer = tar_of(&[("bin/sh", b"#!")]);
        assert_eq!(store.import(&docker_archive(dir.path(), "app:1", &layer)).unwrap(), ["docker.io/library/app:1"]);
        let digest = oci_archive(&dir.path().join("oci.tgz"), "example.org/app:1", &layer);
        assert_eq!(store.import(&dir.path().join("oci.tgz")).unwrap(), ["example.org/app:1"]);

        let image = store.find("app:1").unwrap().unwrap();
        assert_eq!(image.tags, ["docker.io/library/app:1", "example.org/app:1"], "one configuration is one image");
        assert_eq!(image.digests, [format!("example.org/app@{digest}")]);
        assert_eq!(image.uid, Some(1000));
        let (layers, names) = store.layers(&store.config(&image.id).unwrap()).unwrap();
        assert_eq!(std::fs::read(layers.join(&names[0]).join("bin/sh")).unwrap(), b"#!");

        let used = store.used(&image.id);
        assert!(matches!(store.remove_image("app:1"), Err(ImageError::InUse(_))));
        drop(used);
        store.remove_image("app:1").unwrap();
        assert!(store.all().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(store.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn another_process_sees_what_was_imported_here() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let here = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        let there = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        here.import(&docker_archive(dir.path(), "a:1", &tar_of(&[("f", b"1")]))).unwrap();
        there.import(&docker_archive(dir.path(), "b:1", &tar_of(&[("f", b"2")]))).unwrap();
        assert_eq!(here.all().unwrap().len(), 2);
        assert_eq!(there.all().unwrap(), here.all().unwrap());
    }

    #[test]
    fn what_is_no_archive_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        let path = dir.path().join("x.tar");
        std::fs::write(&path, b"not a tar at all").unwrap();
        let words = store.import(&path).unwrap_err().to_string();
        assert!(words.contains("x.tar"), "{words}");
        std::fs::write(&path, tar_of(&[("readme", b"hi")])).unwrap();
        assert!(store.import(&path).unwrap_err().to_string().contains("no image for this machine"));
    }

    #[test]
    fn a_layer_that_is_not_what_the_image_says_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        let config = config_of(&[b"other"]);
        let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}]).to_string();
        let path = dir.path().join("x.tar");
        let layer = tar_of(&[("f", b"1")]);
        std::fs::write(&path, tar_of(&[("c.json", &config), ("l.tar", &layer), ("manifest.json", manifest.as_bytes())])).unwrap();
        assert!(store.import(&path).unwrap_err().to_string().contains("the image says"));
        assert!(store.all().unwrap().is_empty());
    }
}
