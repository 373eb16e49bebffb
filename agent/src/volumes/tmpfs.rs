//! Memory file systems under a volume directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts one at `dir` unless there is one; `limit` in bytes.
pub(crate) async fn mount(dir: &Path, limit: Option<i64>) -> Result<(), String> {
    tokio::fs::create_dir_all(dir).await.map_err(|e| e.to_string())?;
    if is_mount_point(dir).await {
        return Ok(());
    }
    let options =
        limit.map_or_else(|| c"mode=0777".to_owned(), |size| std::ffi::CString::new(format!("mode=0777,size={size}")).unwrap_or_default());
    rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options.as_c_str())
        .map_err(|e| format!("mount tmpfs at {}: {}", dir.display(), std::io::Error::from(e)))
}

/// Mounts one where the agent may, for content that should not reach a disk; otherwise a plain directory serves.
pub(crate) async fn prefer(dir: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return tokio::fs::create_dir_all(dir).await.map_err(|e| e.to_string());
    }
    if let Err(error) = mount(dir, None).await {
        tracing::debug!(error, "no memory file system for a secret, it is kept on disk");
    }
    Ok(())
}

/// Unmounts what is mounted at `dir`.
pub(crate) async fn release(dir: &Path) -> Result<(), String> {
    if !is_mount_point(dir).await {
        return Ok(());
    }
    detach(dir)
}

/// As [`release`], outside the async runtime.
pub(crate) fn release_now(dir: &Path) -> Result<(), String> {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let mounted = dir.parent().is_some_and(|parent| device(dir) != device(parent));
    if mounted { detach(dir) } else { Ok(()) }
}

fn detach(dir: &Path) -> Result<(), String> {
    rustix::mount::unmount(dir, UnmountFlags::DETACH).map_err(|e| format!("unmount {}: {}", dir.display(), std::io::Error::from(e)))
}

async fn is_mount_point(dir: &Path) -> bool {
    let Some(parent) = dir.parent() else { return true };
    match (tokio::fs::metadata(dir).await, tokio::fs::metadata(parent).await) {
        (Ok(own), Ok(above)) => own.dev() != above.dev(),
        _ => false,
    }
}
