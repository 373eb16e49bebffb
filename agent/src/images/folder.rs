//! A folder of archives read at start, for machines without a registry. What was read once and has not changed is skipped.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{ImageError, Result, Store};

impl Store {
    /// Imports every `.tar`, `.tgz`, `.tar.gz`, `.tar.zst` of a folder that is new or changed, and answers how each went. An absent folder
    /// is an empty one; one bad archive does not keep the others out. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn import_folder(&self, folder: &Path) -> Result<Vec<(String, Result<Vec<String>>)>> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(ImageError::io(format!("list {}", folder.display()))(e)),
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_archive(path)).collect();
        paths.sort();
        let mut report = Vec::new();
        for path in paths {
            let name = path.to_string_lossy().into_owned();
            let Some(stamp) = stamp(&path) else { continue };
            if self.read(|index| index.imported.get(&name) == Some(&stamp))? {
                continue;
            }
            let result = self.import(&path);
            if result.is_ok() {
                self.write(|index| {
                    index.imported.insert(name.clone(), stamp);
                    Ok(())
                })?;
            }
            report.push((name, result));
        }
        Ok(report)
    }
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".tar", ".tgz", ".tar.gz", ".tar.zst", ".tzst"].iter().any(|end| name.ends_with(end)) && path.is_file()
}

fn stamp(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(format!("{}:{}.{:09}", meta.len(), time.as_secs(), time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Registries;
    use crate::images::archive::tests::{docker_archive, tar_of};

    #[test]
    fn archives_are_read_once_and_again_when_they_change() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: unpacking sets owners, which needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("images-import");
        let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        assert!(store.import_folder(&folder).unwrap().is_empty(), "an absent folder is empty");
        std::fs::create_dir(&folder).unwrap();
        docker_archive(&folder, "a:1", &tar_of(&[("f", b"1")]));
        std::fs::write(folder.join("bad.tar"), b"garbage").unwrap();
        let report = store.import_folder(&folder).unwrap();
        assert_eq!(report.iter().map(|(_, r)| r.is_ok()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(store.import_folder(&folder).unwrap().len(), 1, "only the bad one is tried again");
        docker_archive(&folder, "a:1", &tar_of(&[("f", b"22")]));
        std::fs::remove_file(folder.join("bad.tar")).unwrap();
        assert_eq!(store.import_folder(&folder).unwrap().len(), 1);
    }
}
