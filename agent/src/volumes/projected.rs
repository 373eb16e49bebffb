//! `projected` volumes (`pkg/volume/projected`): several sources in one directory. `clusterTrustBundle` and `podCertificate` have their place here.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ProjectedVolumeSource;

use super::payload::{self, File, Payload};
use super::{Ready, Setup, config_map, downward_api, tmpfs, token};
use crate::objects::Source;

/// Writes all sources' files.
pub(crate) async fn set_up(setup: &Setup<'_>, source: &ProjectedVolumeSource) -> Result<Ready, String> {
    let mode = source.default_mode.unwrap_or(config_map::DEFAULT_MODE);
    let mut all = Payload::new();
    let mut refresh_at: Option<Timestamp> = None;
    let mut shows_metadata = false;
    for one in source.sources.iter().flatten() {
        if let Some(map) = &one.config_map {
            let optional = map.optional == Some(true);
            all.extend(config_map::files(setup, Source::ConfigMap, &map.name, map.items.as_deref(), mode, optional).await?);
        } else if let Some(secret) = &one.secret {
            let optional = secret.optional == Some(true);
            all.extend(config_map::files(setup, Source::Secret, &secret.name, secret.items.as_deref(), mode, optional).await?);
        } else if let Some(own) = &one.downward_api {
            shows_metadata = true;
            all.extend(downward_api::files(setup, own.items.as_deref().unwrap_or_default(), mode)?);
        } else if let Some(wanted) = &one.service_account_token {
            let token = token::get(setup.ctx, setup.pod, wanted).await?;
            refresh_at = refresh_at.into_iter().chain([token.refresh_at]).min();
            // A token is for the pod alone when the node knows who that is.
            let private = setup.fs_user.is_some() || setup.fs_group.is_some();
            let mode = if private { 0o600 } else { mode.cast_unsigned() & 0o777 };
            all.insert(wanted.path.clone(), File { bytes: token.text, mode, uid: setup.fs_user });
        } else {
            return Err("projected volume has a source this node does not support yet (clusterTrustBundle, podCertificate)".to_owned());
        }
    }
    tmpfs::prefer(&setup.dir).await?;
    payload::write(setup.dir.clone(), all, setup.fs_group).await?;
    Ok(Ready { path: setup.dir.clone(), refresh_at, shows_metadata })
}
