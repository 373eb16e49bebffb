//! `emptyDir` volumes (`pkg/volume/emptydir`): a directory, or memory.

use std::os::unix::fs::{PermissionsExt, chown};

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use super::{Ready, Setup, tmpfs};
use crate::quantity::value;

/// Makes the directory; what is in it already stays.
pub(crate) async fn set_up(setup: &Setup<'_>, source: &EmptyDirVolumeSource) -> Result<Ready, String> {
    let dir = &setup.dir;
    tokio::fs::create_dir_all(dir).await.map_err(|e| e.to_string())?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|q| value(&q.0)).filter(|size| *size > 0);
            tmpfs::mount(dir, limit).await?;
        }
        other => return Err(format!("emptyDir medium {other:?} is not supported by this node (\"\" and \"Memory\" are)")),
    }
    let mode = source.mode.map_or(0o777, i32::cast_unsigned);
    let mode = if setup.fs_group.is_some() { mode | 0o2770 } else { mode };
    if setup.fs_group.is_some() {
        chown(dir, None, setup.fs_group).map_err(|e| e.to_string())?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).map_err(|e| e.to_string())?;
    Ok(Ready::at(dir.clone()))
}
