//! `configMap` volumes (`pkg/volume/configmap`).

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, KeyToPath};

use super::payload::{self, File, Payload};
use super::{Ready, Setup};
use crate::objects::Source;

/// Mode of files when nothing is said.
pub(crate) const DEFAULT_MODE: i32 = 0o644;

/// Writes the config map's files.
pub(crate) async fn set_up(setup: &Setup<'_>, source: &ConfigMapVolumeSource) -> Result<Ready, String> {
    let optional = source.optional == Some(true);
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let files = files(setup, Source::ConfigMap, &source.name, source.items.as_deref(), mode, optional).await?;
    payload::write(setup.dir.clone(), files, setup.fs_group).await?;
    Ok(Ready::at(setup.dir.clone()))
}

/// The files of a config map or secret, all keys or the items asked for.
pub(crate) async fn files(
    setup: &Setup<'_>,
    source: Source,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let meta = &setup.pod.metadata;
    let data = match setup.ctx.objects.get(&meta.uid, source, &meta.namespace, name).await? {
        Some(data) => data,
        None if optional => return Ok(Payload::new()),
        None => return Err(source.not_found(name)),
    };
    let mut out = Payload::new();
    let bits = |mode: i32| mode.cast_unsigned() & 0o777;
    match items.filter(|items| !items.is_empty()) {
        None => {
            out.extend(data.entries.iter().map(|(key, bytes)| (key.clone(), File { bytes: bytes.clone(), mode: bits(mode), uid: None })));
        }
        Some(items) => {
            for item in items {
                match data.entries.get(&item.key) {
                    Some(bytes) => {
                        let file = File { bytes: bytes.clone(), mode: bits(item.mode.unwrap_or(mode)), uid: None };
                        out.insert(item.path.clone(), file);
                    }
                    None if optional => {}
                    None => {
                        let word = if source == Source::Secret { "secret" } else { "config" };
                        return Err(format!("references non-existent {word} key: {}", item.key));
                    }
                }
            }
        }
    }
    Ok(out)
}
