//! `hostPath` volumes (`pkg/volume/hostpath`): a path of the node, checked for its type.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::Ready;

/// Checks the path, making it where the type says so.
pub(crate) async fn set_up(source: &HostPathVolumeSource) -> Result<Ready, String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = tokio::fs::metadata(path).await.ok();
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match (kind, found) {
        ("", Some(_)) => {}
        // Without a type runtimes make a directory where nothing is.
        ("" | "DirectoryOrCreate", None) => make_dir(path).await?,
        ("DirectoryOrCreate" | "Directory", Some(meta)) if !meta.is_dir() => return fail("a directory"),
        ("DirectoryOrCreate" | "Directory", Some(_)) => {}
        ("Directory", None) => return fail("a directory"),
        ("FileOrCreate", None) => make_file(path).await?,
        ("FileOrCreate" | "File", Some(meta)) if meta.is_file() => {}
        ("FileOrCreate" | "File", _) => return fail("a file"),
        ("Socket", Some(meta)) if meta.file_type().is_socket() => {}
        ("Socket", _) => return fail("a socket file"),
        ("CharDevice", Some(meta)) if meta.file_type().is_char_device() => {}
        ("CharDevice", _) => return fail("a character device"),
        ("BlockDevice", Some(meta)) if meta.file_type().is_block_device() => {}
        ("BlockDevice", _) => return fail("a block device"),
        (other, _) => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(Ready::at(path.to_owned()))
}

async fn make_dir(path: &Path) -> Result<(), String> {
    tokio::fs::create_dir_all(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).await.map_err(|e| e.to_string())
}

async fn make_file(path: &Path) -> Result<(), String> {
    tokio::fs::write(path, b"").await.map_err(|e| format!("{}: {e}", path.display()))?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(path: &Path, kind: &str) -> Result<(), String> {
        set_up(&HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.to_owned()) }).await.map(drop)
    }

    #[tokio::test]
    async fn types_are_checked_and_made_where_asked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (sub, file) = (dir.path().join("d"), dir.path().join("f"));
        assert!(check(&sub, "Directory").await.is_err());
        assert_eq!(check(&sub, "DirectoryOrCreate").await, Ok(()));
        assert_eq!(check(&sub, "Directory").await, Ok(()));
        assert!(check(&file, "File").await.is_err());
        assert_eq!(check(&file, "FileOrCreate").await, Ok(()));
        assert!(check(&file, "Directory").await.is_err());
        assert!(check(&file, "Socket").await.is_err());
        assert!(check(&file, "Nonsense").await.is_err());
    }
}
