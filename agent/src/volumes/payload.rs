//! Files that appear and change all at once: each version is a directory, `..data` points at the present one, and the names users see lead through
//! it (`pkg/volume/util/atomic_writer.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Bytes,
    pub(crate) mode: u32,
    pub(crate) uid: Option<u32>,
}

/// Files by path relative to the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Writes the payload unless it is there already.
pub(crate) async fn write(dir: PathBuf, payload: Payload, fs_group: Option<u32>) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(move || write_now(&dir, &payload, fs_group)).await;
    done.unwrap_or_else(|_| Err(io::Error::other("interrupted"))).map_err(|e| e.to_string())
}

pub(crate) fn write_now(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<()> {
    for path in payload.keys() {
        check(path)?;
    }
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload, fs_group)
    {
        return Ok(());
    }
    let version = fresh_dir(dir)?;
    let full = dir.join(&version);
    for (path, file) in payload {
        let target = full.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.bytes)?;
        // Group access as SetVolumeOwnership gives it to read-only volumes.
        let mode = if fs_group.is_some() { file.mode | 0o440 } else { file.mode };
        if file.uid.is_some() || fs_group.is_some() {
            chown(&target, file.uid, fs_group)?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    open_dirs(&full, fs_group)?;
    let next = dir.join(NEXT);
    let _ = fs::remove_file(&next);
    symlink(&version, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    set_group(dir, fs_group)
}

fn check(path: &str) -> io::Result<()> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: must be relative and without '..': {path}")));
    }
    Ok(())
}

fn same(full: &Path, payload: &Payload, fs_group: Option<u32>) -> bool {
    let mut count = 0;
    if count_files(full, &mut count).is_err() || count != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let target = full.join(path);
        let mode = if fs_group.is_some() { file.mode | 0o440 } else { file.mode };
        fs::read(&target).is_ok_and(|bytes| bytes == file.bytes)
            && fs::metadata(&target).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode)
    })
}

fn count_files(dir: &Path, count: &mut usize) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count_files(&entry.path(), count)?;
        } else {
            *count += 1;
        }
    }
    Ok(())
}

/// A directory named by the time, as upstream names it.
fn fresh_dir(dir: &Path) -> io::Result<String> {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S").to_string();
    for number in 0..1000_u32 {
        let name = format!("..{stamp}.{:09}", u32::try_from(now.subsec_nanosecond()).unwrap_or(0).wrapping_add(number));
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free name for a data directory"))
}

fn open_dirs(full: &Path, fs_group: Option<u32>) -> io::Result<()> {
    fs::set_permissions(full, fs::Permissions::from_mode(0o755))?;
    set_group(full, fs_group)?;
    for entry in fs::read_dir(full)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_dirs(&entry.path(), fs_group)?;
        }
    }
    Ok(())
}

fn set_group(dir: &Path, fs_group: Option<u32>) -> io::Result<()> {
    if fs_group.is_none() {
        return Ok(());
    }
    chown(dir, None, fs_group)?;
    let mode = fs::metadata(dir)?.permissions().mode() & 0o7777;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o2550))
}

/// Makes a link for the first part of each path and removes those of files that are gone.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { bytes: Bytes::from(text.to_owned()), mode: 0o640, uid: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn a_new_version_replaces_the_old_one_at_once_and_stale_names_go() {
        let dir = tempfile::tempdir().expect("tempdir");
        write_now(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("written");
        let first = fs::read_link(dir.path().join(DATA)).expect("link");
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).expect("read"), "2");
        assert_eq!(fs::metadata(dir.path().join("a")).expect("meta").permissions().mode() & 0o777, 0o640);

        write_now(dir.path(), &payload(&[("a", "3")]), None).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("read"), "3");
        assert!(!dir.path().join("sub").exists() && fs::symlink_metadata(dir.path().join("sub")).is_err());
        assert!(!dir.path().join(first).exists(), "the old version is removed");
    }

    #[test]
    fn the_same_payload_is_not_written_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        write_now(dir.path(), &payload(&[("a", "1")]), None).expect("written");
        let first = fs::read_link(dir.path().join(DATA)).expect("link");
        write_now(dir.path(), &payload(&[("a", "1")]), None).expect("written");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("link"), first);
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        for path in ["/etc/x", "../x", "a/../../x", "..data", ""] {
            assert!(write_now(dir.path(), &payload(&[(path, "1")]), None).is_err(), "{path}");
        }
    }
}
