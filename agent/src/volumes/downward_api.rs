//! `downwardAPI` volumes (`pkg/volume/downwardapi`).

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};

use super::payload::{self, File, Payload};
use super::{Ready, Setup, config_map};
use crate::downward;

/// Writes the pod's fields as files.
pub(crate) async fn set_up(setup: &Setup<'_>, source: &DownwardAPIVolumeSource) -> Result<Ready, String> {
    let items = source.items.as_deref().unwrap_or_default();
    let files = files(setup, items, source.default_mode.unwrap_or(config_map::DEFAULT_MODE))?;
    payload::write(setup.dir.clone(), files, setup.fs_group).await?;
    Ok(Ready { shows_metadata: true, ..Ready::at(setup.dir.clone()) })
}

/// The files asked for.
pub(crate) fn files(setup: &Setup<'_>, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(setup.ctx, setup.pod, &[], &field.field_path)?,
            (_, Some(resource)) => downward::resource(setup.pod, None, resource, setup.ctx.node.read().allocatable)?,
            _ => continue,
        };
        let mode = item.mode.unwrap_or(mode).cast_unsigned() & 0o777;
        out.insert(item.path.clone(), File { bytes: text.into(), mode, uid: None });
    }
    Ok(out)
}
