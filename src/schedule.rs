//! What the server keeps beside the present: snapshots from time to time, and what was superseded.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use coracle_store::{Store, embedded::Embedded};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use tokio_util::sync::CancellationToken;

use crate::{
    dropin::flags::span,
    snapshot::{self, PART},
};

/// With what the names of these snapshots begin and end; others in the folder are left alone.
const PREFIX: &str = "scheduled-";
const SUFFIX: &str = ".snapshot";
const STAMP: &str = "%Y%m%dT%H%M%SZ";
/// A cluster that has none gets its first after so long; nothing is written right after a start.
const FIRST: Duration = Duration::from_secs(600);
const SOONEST: Duration = Duration::from_secs(60);

/// What is kept of the past, of the embedded store.
#[derive(Args, Debug, Clone)]
pub(crate) struct KeepingFlags {
    /// Write a snapshot of everything this often, if something changed; 0 for never.
    #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = span)]
    pub(crate) snapshot_interval: Duration,

    /// Of these snapshots, keep so many.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) snapshot_retention: u16,

    /// Folder of these snapshots; better on another disk. Default: DIR/snapshots.
    #[arg(long, value_name = "DIR")]
    pub(crate) snapshot_dir: Option<PathBuf>,

    /// How long what was changed or deleted is kept for `coracle history`, five minutes at least.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = span)]
    pub(crate) history: Duration,

    /// But no longer than until so many megabytes were written since.
    #[arg(long, value_name = "MB", default_value_t = 64)]
    pub(crate) history_size: u32,
}

impl KeepingFlags {
    /// The store's options for a data directory's `store`, with what these say.
    pub(crate) fn options(&self, store: PathBuf) -> coracle_store::embedded::Options {
        let history_bytes = u64::from(self.history_size) * 1_000_000;
        coracle_store::embedded::Options { history: self.history, history_bytes, ..coracle_store::embedded::Options::at(store) }
    }

    /// The task that writes snapshots until `stop`, if that is wanted.
    pub(crate) async fn run(self, data_dir: PathBuf, store: Arc<Embedded>, stop: CancellationToken) {
        if self.snapshot_interval.is_zero() {
            return;
        }
        let folder = self.snapshot_dir.clone().unwrap_or_else(|| data_dir.join("snapshots"));
        let mut saved = None;
        loop {
            let pause = due(&names(&folder), Timestamp::now(), self.snapshot_interval);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let head = store.latest();
            if saved == head || store.alarm().is_some() {
                // The same again would push out one that differs, and a full disk has no room for it: at the next time, then.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.snapshot_interval) => continue,
                }
            }
            if let Err(error) = store.flush().await {
                tracing::warn!(%error, "the next snapshot lacks the latest heartbeats and events");
            }
            let (from, to, at, kept) = (store.clone(), folder.clone(), data_dir.clone(), usize::from(self.snapshot_retention));
            let written = tokio::task::spawn_blocking(move || write(&from, &at, &to, kept)).await;
            match written.map_err(anyhow::Error::from).and_then(|written| written) {
                Ok(file) => {
                    saved = head;
                    tracing::info!(file = %file.display(), "a snapshot is written");
                }
                Err(error) => {
                    tracing::error!(folder = %folder.display(), "no snapshot is written, the next is tried in a minute: {error:#}");
                }
            }
        }
    }
}

/// Writes one and removes those that are too many.
fn write(store: &Embedded, data_dir: &Path, folder: &Path, kept: usize) -> Result<PathBuf> {
    remove_parts(folder);
    let now = Timestamp::now();
    let file = folder.join(format!("{PREFIX}{}{SUFFIX}", now.strftime(STAMP)));
    snapshot::save_dump(&store.dump()?, data_dir, &file, true, now)?;
    for old in surplus(names(folder), kept) {
        let path = folder.join(old);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(file)
}

/// Removes what servers that were killed left of theirs. Those of a folder are one server's, and it writes one at a time.
fn remove_parts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_part(&name)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(file = %entry.path().display(), %error, "what is left of a snapshot cannot be removed");
        }
    }
}

/// Whether a file is a snapshot of these that was not finished.
fn is_part(name: &str) -> bool {
    let Some(begun) = name.strip_suffix(PART) else { return false };
    // With the number of the process that wrote it, or without.
    let whole = begun.rsplit_once('.').filter(|(_, number)| number.parse::<u32>().is_ok()).map_or(begun, |(whole, _)| whole);
    time(whole).is_some()
}

/// The snapshots of a folder that were written by this, oldest first.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| time(name).is_some()).collect();
    names.sort();
    names
}

/// When a snapshot of this name was written; `None` for other files.
fn time(name: &str) -> Option<Timestamp> {
    let stamp = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let time = DateTime::strptime(STAMP, stamp).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// How long until the next one.
fn due(names: &[String], now: Timestamp, interval: Duration) -> Duration {
    let Some(last) = names.last().and_then(|name| time(name)) else { return FIRST.min(interval) };
    // A clock that was set back must not mean never: one from the future counts as just written.
    let age = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    interval.saturating_sub(age).max(SOONEST.min(interval))
}

/// The oldest of those that are too many.
fn surplus(mut names: Vec<String>, kept: usize) -> Vec<String> {
    names.truncate(names.len().saturating_sub(kept));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_next_snapshot_is_due_an_interval_after_the_last_whoever_wrote_that() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let of = |stamp: &str| vec![format!("{PREFIX}{stamp}{SUFFIX}")];
        assert_eq!(due(&of("20260301T110000Z"), now, 12 * HOUR), 11 * HOUR);
        assert_eq!(due(&of("20260201T110000Z"), now, 12 * HOUR), SOONEST, "overdue, but not right at the start");
        assert_eq!(due(&of("20270301T110000Z"), now, 12 * HOUR), 12 * HOUR, "written in the future");
        assert_eq!(due(&[], now, 12 * HOUR), FIRST);
        assert_eq!(due(&[], now, Duration::from_secs(1)), Duration::from_secs(1));
    }

    #[test]
    fn only_the_oldest_of_its_own_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let own = ["scheduled-20260101T000000Z.snapshot", "scheduled-20260102T000000Z.snapshot", "scheduled-20260103T000000Z.snapshot"];
        for name in
            own.into_iter().chain(["20250101T000000Z.snapshot", "scheduled-mine.snapshot", "scheduled-20260104T000000Z.snapshot.part"])
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names(folder.path()), own);
        assert_eq!(surplus(names(folder.path()), 2), own[..1]);
        assert!(surplus(names(folder.path()), 5).is_empty());
    }

    #[test]
    fn what_was_not_finished_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let stay =
            ["20260104T000000Z.snapshot.7.part", "mine.part", "scheduled-20260104T000000Z.snapshot", "scheduled-mine.snapshot.7.part"];
        for name in stay.into_iter().chain(["scheduled-20260104T000000Z.snapshot.part", "scheduled-20260104T000000Z.snapshot.7.part"]) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_parts(folder.path());
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, stay);
    }
}
