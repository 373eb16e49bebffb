//! The list of images and what their references mean: one small JSON file, replaced whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ImageError, Result, disk};

/// One image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// `host/repo:tag` in full form.
    #[serde(default)]
    pub(super) tags: BTreeSet<String>,
    /// `host/repo@sha256:…`.
    #[serde(default)]
    pub(super) digests: BTreeSet<String>,
    /// Diff ids, lowest first.
    pub(super) layers: Vec<String>,
    /// Bytes on disk.
    pub(super) size: u64,
    /// Kept by garbage collection.
    #[serde(default)]
    pub(super) pinned: bool,
}

/// All images by id, and the archives of the import folder that were read already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub(super) images: BTreeMap<String, Entry>,
    /// Archive path to `size:mtime` when it was last imported.
    #[serde(default)]
    pub(super) imported: BTreeMap<String, String>,
}

impl Index {
    /// Reads it; absent means empty.
    pub(super) fn load(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| ImageError::Corrupt(format!("{}: {e}; remove the file to start with an empty image list", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(ImageError::io(format!("read {}", path.display()))(e)),
        }
    }

    /// Writes it durably.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| ImageError::Corrupt(format!("image index: {e}")))?;
        disk::replace(path, &json)
    }

    /// The id that a full reference or an id means.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        if let Some((id, _)) = self.images.get_key_value(name) {
            return Some(id);
        }
        self.images.iter().find(|(_, e)| e.tags.contains(name) || e.digests.contains(name)).map(|(id, _)| id.as_str())
    }

    /// Adds an image, or references to one that is there. A tag moves away from the image that had it.
    pub(super) fn add(&mut self, id: &str, new: Entry) {
        for (other, entry) in &mut self.images {
            if other != id {
                entry.tags.retain(|tag| !new.tags.contains(tag));
            }
        }
        let entry = self.images.entry(id.to_owned()).or_default();
        entry.tags.extend(new.tags);
        entry.digests.extend(new.digests);
        entry.layers = new.layers;
        entry.size = new.size;
        entry.pinned |= new.pinned;
    }

    /// All layers that some image needs.
    pub(super) fn layers(&self) -> BTreeSet<&str> {
        self.images.values().flat_map(|e| e.layers.iter().map(String::as_str)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: &str, layers: &[&str]) -> Entry {
        Entry { tags: [tag.to_owned()].into(), layers: layers.iter().map(ToString::to_string).collect(), ..Entry::default() }
    }

    #[test]
    fn a_tag_moves_to_the_image_that_was_added_last() {
        let mut index = Index::default();
        index.add("sha256:a", entry("docker.io/library/x:latest", &["l1"]));
        index.add("sha256:b", entry("docker.io/library/x:latest", &["l1", "l2"]));
        assert_eq!(index.find("docker.io/library/x:latest"), Some("sha256:b"));
        assert!(index.images["sha256:a"].tags.is_empty());
        assert_eq!(index.find("sha256:a"), Some("sha256:a"));
        assert_eq!(index.layers().len(), 2);
    }

    #[test]
    fn a_torn_index_says_which_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        assert_eq!(Index::load(&path).unwrap(), Index::default());
        std::fs::write(&path, "{").unwrap();
        assert!(Index::load(&path).unwrap_err().to_string().contains("remove the file"));
    }
}
