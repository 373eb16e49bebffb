//! `secret` volumes (`pkg/volume/secret`), in memory where the node lets us.

use k8s_openapi::api::core::v1::SecretVolumeSource;

use super::{Ready, Setup, config_map, payload, tmpfs};
use crate::objects::Source;

/// Writes the secret's files.
pub(crate) async fn set_up(setup: &Setup<'_>, source: &SecretVolumeSource) -> Result<Ready, String> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let mode = source.default_mode.unwrap_or(config_map::DEFAULT_MODE);
    let optional = source.optional == Some(true);
    let files = config_map::files(setup, Source::Secret, name, source.items.as_deref(), mode, optional).await?;
    tmpfs::prefer(&setup.dir).await?;
    payload::write(setup.dir.clone(), files, setup.fs_group).await?;
    Ok(Ready::at(setup.dir.clone()))
}
