//! `coracle migrate`: everything of a cluster from the embedded store to etcd, or back.

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use coracle_store::{
    Entry, Expect, Key, Page, Revision, Store, StoreError, Write,
    embedded::{Dump, OpenError, Restore},
    etcd::Etcd,
    snapshot::{Origin, Record},
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::{
    commands::{complain, say},
    etcd::EtcdFlags,
    lock,
    options::{default_data_dir, store_dir},
    store::telling,
    upstream::{self, Reading, is_encrypted},
};

/// Where all objects are.
const ROOT: &str = "/registry/";
/// Stands in an etcd that is being filled, and says of which store.
const MARK: &str = "/registry/coracle/migration";
/// Of no use elsewhere, and there for as long as a lease only, which is not part of what is read: addresses of the servers of an etcd, and
/// what its watches are moved with.
const LEFT_OUT: [&str; 2] = ["/registry/masterleases/", "/registry/coracle/progress"];
/// Written over and over to raise the revision of an etcd.
const PAD: &str = "/registry/coracle/revision";
/// Writes under way at a time.
const AT_ONCE: usize = 64;
/// Writes spent at most on raising an etcd's revision: minutes.
const RAISED: u64 = 500_000;
/// How long an event is kept that comes from an etcd, which does not say when it is to go.
const EVENT: Duration = Duration::from_secs(3600);

/// Flags of `coracle migrate`.
#[derive(Args, Debug)]
#[command(after_help = "\
To etcd, in two steps with a short stop between them:

  coracle migrate --to etcd --etcd-servers https://a:2379
      while the server runs: copies everything
  coracle stop
  coracle migrate --to etcd --etcd-servers https://a:2379
      again: copies what changed since, and is done
  coracle server --store etcd --etcd-servers https://a:2379

After the second step etcd holds exactly what the store held when its server
stopped. The etcd must be empty under its prefix, or hold an unfinished
migration of the same cluster. Its revision is raised above every one the
cluster gave out, so that clients go on; where that would take too many
writes, --new-revisions does without, and every client must be started anew.

To embedded: stop all servers of that etcd first. The copy is one moment of
it, and is refused if it is written to meanwhile. Revisions go on; the etcd
is not changed.")]
pub(crate) struct MigrateOptions {
    /// Where to.
    #[arg(long, value_enum)]
    pub(crate) to: Target,
    /// Folder the server is started with. Certificates and keys stay in it.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
    /// To etcd: leave its revision as it is. Clients that go on with what they saw before would miss changes: start them anew.
    #[arg(long)]
    pub(crate) new_revisions: bool,
    /// To embedded: take the copy though the etcd was written to meanwhile.
    #[arg(long)]
    pub(crate) while_written: bool,
    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Target {
    /// From the embedded store to etcd.
    Etcd,
    /// From etcd to the embedded store.
    Embedded,
}

/// `coracle migrate`
pub(crate) fn run(options: &MigrateOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Nobody compacts while we read.
        let settings = coracle_store::etcd::Options { compact_every: Duration::ZERO, ..options.etcd.options()? };
        let etcd =
            telling(&settings.endpoints, |line| complain(&anyhow!("{line}")), Etcd::open(&settings)).await.context("--etcd-servers")?;
        let done = match options.to {
            Target::Etcd => to_etcd(options, &etcd).await,
            Target::Embedded => to_embedded(options, &etcd).await,
        };
        etcd.close();
        done
    })
}

async fn to_etcd(options: &MigrateOptions, etcd: &Etcd) -> Result<()> {
    let folder = store_dir(&options.data_dir);
    // The lock first: what a server writes before it stops is in the dump then.
    let stopped = lock::is_free(&options.data_dir).then(|| lock::take(&options.data_dir)).transpose()?;
    let dump = match Dump::open(&folder) {
        Err(OpenError::Missing { path }) => {
            bail!("{} is not there; is --data-dir the folder the server was started with?", path.display())
        }
        dump => dump?,
    };
    let codec = coracle_apiserver::storage_codec()?;
    let (media, now) = (options.etcd.media(), Timestamp::now().as_millisecond());
    let (mut wanted, mut bound) = (HashMap::new(), 0);
    dump.each::<anyhow::Error>(|Record { entry, expires, .. }| {
        let Some(ttl) = left(expires, now).filter(|_| is_taken(&entry.key)) else { return Ok(()) };
        bound += u64::from(upstream::is_bound(&entry.value));
        // What could not be read when it came from an etcd goes back as it was.
        let value = if is_encrypted(&entry.value) || !entry.value.starts_with(b"{") {
            entry.value
        } else {
            codec.kept(&entry.key, &entry.value, media).map_err(|why| anyhow!("{} cannot be written to etcd: {why}", entry.key))?
        };
        wanted.insert(entry.key, ttl.map_or_else(|| Write::put(value.clone()), |ttl| Write::put_for(value.clone(), ttl)));
        Ok(())
    })?;
    refuse_bound(etcd, bound)?;
    let objects = wanted.len();
    let there = etcd.range(ROOT, Page::default()).await?.value;
    begin(etcd, &there, dump.id()).await?;
    let steps = difference(&wanted, &there);
    let written = steps.len();
    stream::iter(steps).map(|(key, expect, write)| step(etcd, key, expect, write)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    if !options.new_revisions {
        raise(etcd, dump.revision()).await?;
    }
    say(format_args!("etcd holds {objects} objects as of revision {}; {written} were written, the others were there", dump.revision()))?;
    if stopped.is_none() {
        return say("the server still runs: stop it (coracle stop) and run this again; only what changed since is copied then");
    }
    let mark = etcd.get(&MARK.into()).await?.value.context("somebody else removed the mark of this migration from etcd")?;
    etcd.commit(&MARK.into(), Expect::At(mark.revision), Write::Delete).await?;
    let old = folder.with_file_name(format!("store.migrated-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
    drop(dump);
    fs::rename(&folder, &old).with_context(|| format!("cannot move {} away", folder.display()))?;
    say(format_args!(
        "done; the embedded store is kept in {}\n\nstart it with: coracle server --store etcd --etcd-servers {} --data-dir {}",
        old.display(),
        options.etcd.etcd_servers.join(","),
        options.data_dir.display()
    ))
}

/// The time an object has left; `None` when that is over.
fn left(expires: Option<i64>, now: i64) -> Option<Option<Duration>> {
    match expires {
        None => Some(None),
        Some(at) => u64::try_from(at - now).ok().filter(|left| *left > 0).map(|left| Some(Duration::from_millis(left))),
    }
}

/// Whether what stands under a key is of use in the other store.
fn is_taken(key: &Key) -> bool {
    !LEFT_OUT.iter().any(|prefix| key.as_str().starts_with(prefix))
}

/// Refuses what could not be read any more: values that are encrypted for their key, where that is another one in etcd.
fn refuse_bound(etcd: &Etcd, objects: u64) -> Result<()> {
    let there = etcd.bound_to(&ROOT.into());
    if objects == 0 || there == ROOT.as_bytes() {
        return Ok(());
    }
    bail!(
        "{objects} objects are encrypted by aesgcm or kms, which bind a value to its key, and keys begin with {} in this etcd and with {ROOT} \
         in the embedded store: use --etcd-prefix=/registry, or have them written by secretbox or aescbc (or identity) first, by \
         --encryption-provider-config and `coracle secrets reencrypt`",
        String::from_utf8_lossy(&there)
    );
}

/// Refuses an etcd that holds something else, and marks it as one that is being filled.
async fn begin(etcd: &Etcd, there: &[Entry], id: &str) -> Result<()> {
    match there.iter().find(|entry| entry.key.as_str() == MARK) {
        Some(mark) if mark.value == id.as_bytes() => Ok(()),
        Some(_) => bail!("this etcd holds an unfinished migration of another cluster; remove everything under its prefix first"),
        None if there.is_empty() => {
            etcd.commit(&MARK.into(), Expect::Absent, Write::put(id.to_owned())).await?;
            Ok(())
        }
        None => bail!("this etcd holds {} keys under its prefix already; give an empty one, or another --etcd-prefix", there.len()),
    }
}

/// What makes of what is there what is wanted.
fn difference(wanted: &HashMap<Key, Write>, there: &[Entry]) -> Vec<(Key, Expect, Write)> {
    let found: HashMap<&Key, &Entry> = there.iter().map(|entry| (&entry.key, entry)).collect();
    let mut steps = Vec::new();
    for (key, write) in wanted {
        match (found.get(key), write) {
            (Some(entry), Write::Put { value, .. }) if entry.value == *value => {}
            (Some(entry), write) => steps.push((key.clone(), Expect::At(entry.revision), write.clone())),
            (None, write) => steps.push((key.clone(), Expect::Absent, write.clone())),
        }
    }
    let own = |key: &Key| key.as_str().starts_with("/registry/coracle/");
    let gone = there.iter().filter(|entry| !wanted.contains_key(&entry.key) && !own(&entry.key));
    steps.extend(gone.map(|entry| (entry.key.clone(), Expect::At(entry.revision), Write::Delete)));
    steps
}

async fn step(etcd: &Etcd, key: Key, expect: Expect, write: Write) -> Result<()> {
    match etcd.commit(&key, expect, write).await {
        // An event whose time was over meanwhile.
        Ok(_) | Err(StoreError::Absent) => Ok(()),
        Err(StoreError::Exists { .. } | StoreError::Moved { .. }) => {
            bail!("somebody else writes to this etcd ({key}): nothing else may use its prefix during a migration")
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {key}")),
    }
}

/// Raises an etcd's revision above `to`.
async fn raise(etcd: &Etcd, to: Revision) -> Result<()> {
    let now = etcd.revision().await?;
    let Some(missing) = to.0.checked_sub(now.0).map(|missing| missing + 1) else { return Ok(()) };
    if missing > RAISED {
        bail!(
            "everything is copied, but this etcd is at revision {now} and the cluster at {to}: raising it takes {missing} writes. \
             Give --new-revisions to leave it, and start every client of the cluster anew (agents, controllers, operators)"
        );
    }
    let keys: Vec<Key> = (0..AT_ONCE).map(|n| Key::from(format!("{PAD}-{n}"))).collect();
    let share = missing.div_ceil(AT_ONCE as u64);
    stream::iter(&keys)
        .map(|key| async move {
            let value = Bytes::from_static(b"raised");
            let mut expect = etcd.get(key).await?.value.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            for _ in 0..share {
                expect = Expect::At(etcd.commit(key, expect, Write::put(value.clone())).await?);
            }
            etcd.commit(key, expect, Write::Delete).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(())
}

async fn to_embedded(options: &MigrateOptions, etcd: &Etcd) -> Result<()> {
    let folder = store_dir(&options.data_dir);
    let _lock = lock::take(&options.data_dir)?;
    let read = etcd.range(ROOT, Page::default()).await?;
    if read.value.is_empty() {
        bail!("this etcd holds nothing under its prefix; --etcd-prefix says which that is");
    }
    if read.value.iter().any(|entry| entry.key.as_str() == MARK) {
        bail!("this etcd holds an unfinished migration: the cluster is still in the store it comes from");
    }
    let entries: Vec<Entry> = read.value.into_iter().filter(|entry| is_taken(&entry.key)).collect();
    refuse_bound(etcd, entries.iter().map(|entry| u64::from(upstream::is_bound(&entry.value))).sum())?;
    // Keys are as they are here; values are upstream's.
    let mut reading = Reading::of(Origin::Etcd { sum: false }, ROOT)?;
    let mut restore = match Restore::begin(&folder) {
        Err(OpenError::Exists { path }) => bail!("{} holds objects already; move it away first", path.display()),
        begun => begun?,
    };
    let now = Timestamp::now().as_millisecond();
    let (mut entries, mut objects) = (entries, 0);
    entries.sort_unstable_by_key(|entry| entry.revision);
    for entry in entries {
        if let Some(record) = reading.read(record(entry, now)) {
            objects += 1;
            restore.add(record)?;
        }
    }
    let latest = etcd.revision().await?;
    if latest > read.revision && !options.while_written {
        bail!(
            "this etcd was written to meanwhile (revision {} became {latest}): stop all its servers, or give --while-written to take it as it was",
            read.revision
        );
    }
    let begins = restore.finish(latest, 0)?;
    reading.tell(&mut std::io::stdout().lock())?;
    say(format_args!(
        "{} holds {objects} objects of revision {}, and begins at {begins}\n\nstart it with: coracle server --data-dir {}",
        folder.display(),
        read.revision,
        options.data_dir.display()
    ))
}

/// An entry with the time it has left, of which etcd tells nothing with it.
fn record(entry: Entry, now: i64) -> Record {
    let ttl = entry.key.as_str().starts_with("/registry/events/").then(|| i64::try_from(EVENT.as_millis()).unwrap_or(i64::MAX));
    Record { entry, version: 1, expires: ttl.map(|ttl| now.saturating_add(ttl)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &'static str) -> Write {
        Write::put(value)
    }

    #[test]
    fn a_second_copy_writes_only_what_changed() {
        let wanted = HashMap::from([(Key::from("/registry/a"), put("1")), (Key::from("/registry/b"), put("2"))]);
        let entry = |key: &str, value: &'static str, at: u64| Entry {
            key: key.into(),
            value: Bytes::from_static(value.as_bytes()),
            revision: Revision(at),
            created: Revision(at),
        };
        let there = [entry("/registry/a", "1", 4), entry("/registry/b", "old", 5), entry("/registry/c", "gone", 6), entry(MARK, "id", 1)];
        let mut steps = difference(&wanted, &there);
        steps.sort_by(|a, b| a.0.cmp(&b.0));
        let (b, c) = (Expect::At(Revision(5)), Expect::At(Revision(6)));
        assert_eq!(steps, [("/registry/b".into(), b, put("2")), ("/registry/c".into(), c, Write::Delete)]);
        assert_eq!(difference(&wanted, &[]).len(), 2);
    }

    #[test]
    fn what_is_there_for_as_long_as_a_server_is_not_taken_along() {
        for (key, taken) in [
            ("/registry/masterleases/10.0.0.1", false),
            ("/registry/coracle/progress", false),
            ("/registry/coracle/certificates", true),
            ("/registry/leases/default/a", true),
        ] {
            assert_eq!(is_taken(&key.into()), taken, "{key}");
        }
    }

    #[test]
    fn what_expires_keeps_the_time_it_has_left() {
        assert_eq!(left(None, 100), Some(None));
        assert_eq!(left(Some(350), 100), Some(Some(Duration::from_millis(250))));
        assert_eq!(left(Some(100), 100), None);
    }
}
