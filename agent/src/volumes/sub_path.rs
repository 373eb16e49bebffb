//! `subPath`: one file or directory of a volume instead of all of it (`pkg/volume/util/subpath`).

use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// The host path of `sub` inside `volume`; a directory is made where nothing is. Links are followed once, here, and must not lead outside; what
/// the runtime mounts is the path they led to.
pub(crate) async fn resolve(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("subPath {sub:?} must be relative and must not contain '..'"));
    }
    let root = tokio::fs::canonicalize(volume).await.map_err(|e| format!("{}: {e}", volume.display()))?;
    let wanted = root.join(relative);
    let found = match tokio::fs::canonicalize(&wanted).await {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&root, relative).await?,
        Err(error) => return Err(format!("failed to prepare subPath {sub:?}: {error}")),
    };
    if found.starts_with(&root) { Ok(found) } else { Err(format!("failed to prepare subPath: {sub:?} leads outside the volume")) }
}

/// Makes the missing directories one by one, so that no link on the way is followed outside.
async fn make(root: &Path, relative: &Path) -> Result<PathBuf, String> {
    let mut at = root.to_owned();
    for part in relative.components() {
        let next = at.join(part);
        match tokio::fs::canonicalize(&next).await {
            Ok(found) if found.starts_with(root) => at = found,
            Ok(_) => return Err(format!("failed to prepare subPath: {:?} leads outside the volume", relative.display().to_string())),
            Err(_) => {
                tokio::fs::create_dir(&next).await.map_err(|e| format!("failed to prepare subPath {}: {e}", next.display()))?;
                tokio::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o750)).await.map_err(|e| e.to_string())?;
                at = next;
            }
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sub_paths_are_made_and_kept_inside() {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = resolve(dir.path(), "a/b").await.expect("made");
        assert!(made.is_dir() && made.ends_with("a/b"));
        std::fs::write(dir.path().join("file"), "x").expect("write");
        assert!(resolve(dir.path(), "file").await.expect("found").is_file());
        assert!(resolve(dir.path(), "../x").await.is_err());
        assert!(resolve(dir.path(), "/etc").await.is_err());
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("link");
        assert!(resolve(dir.path(), "out").await.is_err());
        assert!(resolve(dir.path(), "out/new").await.is_err());
    }
}
