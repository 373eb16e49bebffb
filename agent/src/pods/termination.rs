//! A container's last words: the termination message file, or the tail of its log (kubelet `getTerminationMessage`).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container as ContainerSpec;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::object::BoundPod;
use crate::context::Context;
use crate::runtime::ContainerStatus;
use crate::streams::logs;

/// Most bytes of a message file that are read.
const FILE_LIMIT: u64 = 4096;
/// Most lines and bytes taken from the log instead.
const LOG_LINES: usize = 80;
const LOG_LIMIT: usize = 2048;

/// The host file behind a container's termination message path.
#[must_use]
pub fn file(ctx: &Context, uid: &str, container: &str, attempt: u32) -> PathBuf {
    ctx.pod_dir(uid).join("containers").join(container).join(attempt.to_string())
}

/// Makes an empty message file that any user can write.
///
/// # Errors
/// When directory or file cannot be made.
pub async fn prepare(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(dir) = path.parent() {
        tokio::fs::create_dir_all(dir).await?;
    }
    tokio::fs::write(path, b"").await?;
    // Containers may run as anyone.
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).await
}

/// What the container said at its end, if anything.
pub async fn message(ctx: &Context, pod: &BoundPod, spec: &ContainerSpec, status: &ContainerStatus) -> Option<String> {
    let path = file(ctx, &pod.metadata.uid, &spec.name, status.attempt);
    let mut text = Vec::new();
    if let Ok(opened) = tokio::fs::File::open(&path).await {
        let _ = opened.take(FILE_LIMIT).read_to_end(&mut text).await;
    }
    if !text.is_empty() {
        return Some(String::from_utf8_lossy(&text).into_owned());
    }
    let fallback = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && status.exit_code != 0;
    if !fallback {
        return None;
    }
    tail_of_log(&status.log_path).await.filter(|tail| !tail.is_empty())
}

async fn tail_of_log(path: &Path) -> Option<String> {
    let mut log = tokio::fs::File::open(path).await.ok()?;
    let length = log.metadata().await.ok()?.len();
    // CRI lines carry a prefix of some 45 bytes: read generously, cut exactly.
    let window = (LOG_LIMIT * 4) as u64;
    log.seek(std::io::SeekFrom::Start(length.saturating_sub(window))).await.ok()?;
    let mut bytes = Vec::new();
    log.take(window).read_to_end(&mut bytes).await.ok()?;
    let mut lines = bytes.split_inclusive(|b| *b == b'\n').filter_map(logs::Line::parse).collect::<Vec<_>>();
    if lines.len() > LOG_LINES {
        lines.drain(..lines.len() - LOG_LINES);
    }
    let mut text = Vec::new();
    for line in &lines {
        text.extend_from_slice(line.content);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let cut = text.len().saturating_sub(LOG_LIMIT);
    Some(String::from_utf8_lossy(&text[cut..]).into_owned())
}
