//! `coracle snapshot`: everything a cluster keeps in one file, and a cluster of such a file again.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufWriter, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use coracle_store::{
    Revision,
    embedded::{Dump, OpenError, Restore},
    snapshot::{Attachment, Head, Item, Origin, Record, Snapshot, SnapshotError, Writer},
};
use jiff::Timestamp;

use crate::{
    commands::say,
    files, lock,
    options::{default_data_dir, store_dir},
    upstream::{Reading, is_encrypted},
};

/// Where the server's own certificates and keys are, in the data directory.
pub(crate) const PKI: &str = "pki";
/// Files of it are not larger than this.
const KEY_LIMIT: u64 = 1 << 20;
/// Revisions skipped by a restore: as many as etcd's documentation counts for a week of 1,500 writes a second.
const BUMP: u64 = 1_000_000_000;
/// With what the name of a snapshot ends that is being written.
pub(crate) const PART: &str = ".part";
/// Name of an object's resource where the key tells none.
const OTHER: &str = "(other)";

/// Flags of `coracle snapshot`.
#[derive(Args, Debug)]
pub(crate) struct SnapshotOptions {
    /// Folder the server is started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir(), global = true)]
    pub(crate) data_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum SnapshotCommand {
    /// Write everything the cluster keeps into a file. The server may run, and goes on meanwhile.
    ///
    /// The file holds all objects as of one moment, secrets among them, and the cluster's certificates and keys, so that what is restored
    /// from it is the same cluster to everybody who has a kubeconfig or a token. Only its owner can read it. Events that led there are not
    /// in it; neither are images, containers and volumes.
    Save {
        /// The file; there must be none of that name. Default: DIR/snapshots/<time>.snapshot
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Leave certificates and keys out: what is restored is another cluster, with a kubeconfig of its own.
        #[arg(long)]
        without_keys: bool,
    },
    /// Make a data directory of a snapshot, of this program or of etcd.
    ///
    /// The directory must not hold a cluster, or --replace be given: the one that is there is then kept beside it. Clients that go on with
    /// what they saw before are told to list again: revisions begin well after any that was given out since the snapshot.
    Restore {
        /// A file written by `coracle snapshot save` or `etcdctl snapshot save`, or an etcd member's snap/db.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Keep the objects and keys that are there beside what is restored.
        #[arg(long)]
        replace: bool,
        /// How many revisions to skip, so that none is given out twice. 0 only where no client goes on.
        #[arg(long, value_name = "N", default_value_t = BUMP)]
        bump_revision: u64,
        /// Leave the snapshot's certificates and keys out: those of the directory stay, or new ones are made.
        #[arg(long)]
        without_keys: bool,
        /// Of an etcd's snapshot, the keys that are the cluster's (kube-apiserver's --etcd-prefix).
        #[arg(long, value_name = "PREFIX", default_value = "/registry")]
        etcd_prefix: String,
    },
    /// Check a snapshot and say what is in it.
    Inspect {
        /// A file written by `coracle snapshot save` or `etcdctl snapshot save`, or an etcd member's snap/db.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print every key as well, with its revision and size.
        #[arg(long)]
        keys: bool,
    },
}

/// `coracle snapshot`
pub(crate) fn run(options: &SnapshotOptions) -> Result<()> {
    let folder = &options.data_dir;
    match &options.command {
        SnapshotCommand::Save { file, without_keys } => {
            let now = Timestamp::now();
            let file = file.clone().unwrap_or_else(|| folder.join("snapshots").join(name(now)));
            let saved = save(folder, &file, !without_keys, now)?;
            say(format_args!("{}: {} objects at revision {}, {} bytes", file.display(), saved.objects, saved.revision, saved.bytes))
        }
        SnapshotCommand::Restore { file, replace, bump_revision, without_keys, etcd_prefix } => {
            restore(folder, file, &Wanted { replace: *replace, bump: *bump_revision, keys: !without_keys, prefix: etcd_prefix })
        }
        SnapshotCommand::Inspect { file, keys } => inspect(file, *keys),
    }
}

/// The name of a snapshot made now; names sort as their times do.
pub(crate) fn name(now: Timestamp) -> String {
    format!("{}.snapshot", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// What was saved.
pub(crate) struct Saved {
    pub(crate) objects: usize,
    pub(crate) revision: u64,
    pub(crate) bytes: u64,
}

/// Writes a snapshot of the data directory `folder`; the file appears when it is whole and on disk.
pub(crate) fn save(folder: &Path, file: &Path, with_keys: bool, now: Timestamp) -> Result<Saved> {
    let dump = match Dump::open(&store_dir(folder)) {
        Err(OpenError::Missing { .. }) => bail!(
            "{} holds no objects; is --data-dir the folder the server was started with? (a server with --store=memory keeps none there, one \
             with --store=etcd keeps them in etcd: etcdctl snapshot save)",
            folder.display()
        ),
        dump => dump?,
    };
    save_dump(&dump, folder, file, with_keys, now)
}

/// The same of a store that is open.
pub(crate) fn save_dump(dump: &Dump, folder: &Path, file: &Path, with_keys: bool, now: Timestamp) -> Result<Saved> {
    let wrong = || format!("cannot write {}", file.display());
    if file.exists() {
        bail!("{} is there already; snapshots are never overwritten", file.display());
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(wrong)?;
    let mut part = file.file_name().unwrap_or_default().to_owned();
    part.push(format!(".{}{PART}", std::process::id()));
    let part = Part(file.with_file_name(part));
    // Whatever stands there is left from a process that had this number: its name goes, and nothing is written through it.
    match fs::remove_file(&part.0) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(wrong),
        _ => {}
    }
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.0).with_context(wrong)?;
    let mut writer = Writer::begin(BufWriter::new(out), dump.revision(), dump.id(), now.as_millisecond()).with_context(wrong)?;
    if with_keys {
        for attachment in keys(folder)? {
            writer.file(&attachment).with_context(wrong)?;
        }
    }
    dump.each::<anyhow::Error>(|record| writer.object(&record).with_context(wrong))?;
    let (_, out) = writer.finish().with_context(wrong)?;
    let out = out.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(wrong)?;
    out.sync_all().with_context(wrong)?;
    let bytes = out.metadata().with_context(wrong)?.len();
    fs::rename(&part.0, file).and_then(|()| File::open(parent)?.sync_all()).with_context(wrong)?;
    Ok(Saved { objects: dump.count(), revision: dump.revision().0, bytes })
}

/// A file in the making, gone when it does not become one.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The certificates and keys of a data directory.
fn keys(folder: &Path) -> Result<Vec<Attachment>> {
    let pki = folder.join(PKI);
    let entries = match fs::read_dir(&pki) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}; --without-keys leaves it out", pki.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", pki.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        let plain = entry.metadata().is_ok_and(|about| about.is_file() && about.len() <= KEY_LIMIT);
        let Some(name) = name.to_str().filter(|name| plain && (name.ends_with(".crt") || name.ends_with(".key"))) else { continue };
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        found.push(Attachment { name: format!("{PKI}/{name}"), content });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// How to restore.
struct Wanted<'a> {
    replace: bool,
    bump: u64,
    keys: bool,
    prefix: &'a str,
}

fn restore(folder: &Path, file: &Path, wanted: &Wanted<'_>) -> Result<()> {
    // Read first: what is there is not touched for a file that is no good.
    let snapshot = Snapshot::open(file)?;
    let _lock = lock::take(folder)?;
    let store = store_dir(folder);
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let before = aside(&store, wanted.replace, &stamp)?;
    if wanted.keys && !wanted.replace {
        refuse_others(folder, &attachments(&snapshot)?)?;
    }
    let at = before.as_ref().map_or(store.clone(), |_| store.with_file_name("store.new"));
    let Unpacked { files, objects, begins, reading } = objects(&snapshot, &at, wanted.prefix, wanted.bump)?;
    if let Some(before) = &before {
        fs::rename(&store, before).with_context(|| format!("cannot move {} away", store.display()))?;
        fs::rename(store.with_file_name("store.new"), &store)
            .with_context(|| format!("cannot put the new {} in place", store.display()))?;
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())?;
    }
    let kept = if wanted.keys { place_keys(folder, &files, &stamp)? } else { None };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {objects} objects of revision {}, begins at revision {begins}", folder.display(), snapshot.head().revision)?;
    if wanted.keys && !files.is_empty() {
        writeln!(out, "with the certificates and keys of the snapshot: kubeconfigs and tokens of then are valid")?;
    } else {
        writeln!(out, "without certificates and keys: those of the directory stay, or new ones are made at the start")?;
    }
    reading.tell(&mut out)?;
    if let Some(before) = before {
        writeln!(out, "what was there before is in {}", before.display())?;
    }
    if let Some(kept) = kept {
        writeln!(out, "the certificates and keys that were there before are in {}", kept.display())?;
    }
    writeln!(out, "\nstart it with: coracle server --data-dir {}", folder.display())?;
    Ok(())
}

/// What came out of a snapshot beside the store.
struct Unpacked {
    files: Vec<Attachment>,
    objects: u64,
    begins: Revision,
    reading: Reading,
}

/// Makes a store of a snapshot's objects.
fn objects(snapshot: &Snapshot, store: &Path, prefix: &str, bump: u64) -> Result<Unpacked> {
    let mut reading = Reading::of(snapshot.head().origin, prefix)?;
    let mut restore = Restore::begin(store)?;
    let (mut files, mut objects) = (Vec::new(), 0);
    snapshot.each::<anyhow::Error>(Timestamp::now().as_millisecond(), |item| {
        match item {
            Item::File(found) => files.push(found),
            Item::Object(record) => {
                if let Some(record) = reading.read(record) {
                    objects += 1;
                    restore.add(record)?;
                }
            }
        }
        Ok(())
    })?;
    if let (0, Reading::Upstream(upstream)) = (objects, &reading) {
        bail!("this snapshot holds nothing under {}; --etcd-prefix says which keys are the cluster's", upstream.prefix());
    }
    let begins = restore.finish(snapshot.head().revision, bump)?;
    Ok(Unpacked { files, objects, begins, reading })
}

/// Makes a data directory of a snapshot for a fork, in an empty folder.
pub(crate) fn unpack(folder: &Path, file: &Path, prefix: &str) -> Result<()> {
    let snapshot = Snapshot::open(file)?;
    let unpacked = objects(&snapshot, &store_dir(folder), prefix, 0)?;
    place_keys(folder, &unpacked.files, "fork")?;
    unpacked.reading.tell(&mut std::io::stdout().lock())
}

/// Where what is there goes, if it may: objects, or what is left of them where the database is gone.
fn aside(store: &Path, replace: bool, stamp: &str) -> Result<Option<PathBuf>> {
    match Restore::in_the_way(store)? {
        None => Ok(None),
        Some(_) if replace => Ok(Some(store.with_file_name(format!("store.before-{stamp}")))),
        Some(_) if store.join("state.db").exists() => {
            bail!("{} holds objects already; --replace keeps them beside it and restores in their place", store.display())
        }
        Some(path) => bail!("{} is in the way of what is to be restored; --replace keeps it beside it", path.display()),
    }
}

/// The certificates and keys in a snapshot.
fn attachments(snapshot: &Snapshot) -> Result<Vec<Attachment>> {
    /// Why reading ended.
    enum End {
        /// With the first object: a file after it is none of a snapshot.
        Objects,
        Failed(SnapshotError),
    }
    impl From<SnapshotError> for End {
        fn from(error: SnapshotError) -> Self {
            Self::Failed(error)
        }
    }
    let mut files = Vec::new();
    let read = snapshot.each::<End>(0, |item| match item {
        Item::File(found) => {
            files.push(found);
            Ok(())
        }
        Item::Object(_) => Err(End::Objects),
    });
    match read {
        Ok(()) | Err(End::Objects) => Ok(files),
        Err(End::Failed(error)) => Err(error.into()),
    }
}

/// Refuses a directory that has other certificates and keys than these, before anything is written.
fn refuse_others(folder: &Path, found: &[Attachment]) -> Result<()> {
    let mut differ = Vec::new();
    for file in found {
        if other(folder, file)?.is_some() {
            differ.push(file.name.as_str());
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    bail!(
        "{} has other certificates and keys than the snapshot ({}): --replace keeps them beside those of the snapshot, --without-keys leaves \
         those of the snapshot out",
        folder.display(),
        differ.join(", ")
    );
}

/// What a directory has in this file's place, if that is something else.
fn other(folder: &Path, Attachment { name, content }: &Attachment) -> Result<Option<Vec<u8>>> {
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || !path.starts_with(PKI) || path.components().count() != 2 {
        bail!("the snapshot holds a file {name:?}, which is none of a cluster's keys");
    }
    match fs::read(folder.join(path)) {
        Ok(there) => Ok(Some(there).filter(|there| there != content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", folder.join(path).display())),
    }
}

/// Writes the snapshot's certificates and keys; those that were there are kept in a folder with this stamp, which is returned.
fn place_keys(folder: &Path, found: &[Attachment], stamp: &str) -> Result<Option<PathBuf>> {
    let kept = folder.join(format!("{PKI}.before-{stamp}"));
    let mut others = Vec::new();
    for file in found {
        if let Some(there) = other(folder, file)? {
            others.push((Path::new(&file.name).file_name().unwrap_or_default(), there));
        }
    }
    // All of them first: no half of a pair is ever all that there is.
    for (name, there) in &others {
        files::write_private(&kept.join(name), there)?;
    }
    for Attachment { name, content } in found {
        files::write_private(&folder.join(name), content)?;
    }
    Ok((!others.is_empty()).then_some(kept))
}

/// Numbers of one resource.
#[derive(Default)]
struct Sum {
    objects: u64,
    bytes: u64,
}

fn inspect(file: &Path, keys: bool) -> Result<()> {
    let snapshot = Snapshot::open(file)?;
    let (mut sums, mut files, mut encrypted) = (BTreeMap::<String, Sum>::new(), Vec::new(), 0_u64);
    let mut out = BufWriter::new(std::io::stdout().lock());
    snapshot.each::<anyhow::Error>(0, |item| {
        match item {
            Item::File(found) => files.push(found.name),
            Item::Object(Record { entry, .. }) => {
                let sum = sums.entry(resource(entry.key.as_str())).or_default();
                sum.objects += 1;
                sum.bytes += entry.value.len() as u64;
                encrypted += u64::from(is_encrypted(&entry.value));
                if keys {
                    writeln!(out, "{}\t{}\t{}", entry.key, entry.revision, entry.value.len())?;
                }
            }
        }
        Ok(())
    })?;
    if keys {
        writeln!(out)?;
    }
    tell_head(&mut out, snapshot.head(), file)?;
    let (objects, bytes) = sums.values().fold((0, 0), |(objects, bytes), sum| (objects + sum.objects, bytes + sum.bytes));
    writeln!(out, "objects:    {objects}, {bytes} bytes")?;
    if !files.is_empty() {
        writeln!(out, "keys:       {}", files.join(" "))?;
    }
    if encrypted > 0 {
        writeln!(out, "encrypted:  {encrypted} objects; it takes the keys of --encryption-provider-config to read them")?;
    }
    writeln!(out)?;
    for (resource, Sum { objects, bytes }) in &sums {
        writeln!(out, "{objects:>8} {bytes:>12}  {resource}")?;
    }
    out.flush().context("standard output")
}

fn tell_head(out: &mut impl Write, head: &Head, file: &Path) -> Result<()> {
    let origin = match head.origin {
        Origin::Own { format } => format!("coracle, format {format}"),
        Origin::Etcd { .. } => "etcd".to_owned(),
    };
    writeln!(out, "snapshot:   {}", file.display())?;
    writeln!(out, "written by: {origin}")?;
    if let Some(made) = head.made.and_then(|made| Timestamp::from_millisecond(made).ok()) {
        writeln!(out, "made:       {}", made.strftime("%Y-%m-%dT%H:%M:%SZ"))?;
    }
    writeln!(out, "revision:   {}", head.revision)?;
    if let Some(store) = &head.store {
        writeln!(out, "store:      {store}")?;
    }
    match head.sum.as_str() {
        "" => writeln!(out, "checksum:   none in the file (a member's database has none); its pages were read")?,
        sum => writeln!(out, "checksum:   {sum}, matches")?,
    }
    Ok(())
}

/// `/registry/apps…/deployments/…` is counted under `/registry/apps…/deployments`: what stands before namespace and name, as far as a key
/// alone can tell.
fn resource(key: &str) -> String {
    let parts: Vec<&str> = key.split('/').skip(1).collect();
    match parts.as_slice() {
        [_, group, resource, _, ..] if group.contains('.') => format!("{resource}.{group}"),
        [_, "services", of @ ("specs" | "endpoints"), ..] => {
            if *of == "specs" {
                "services".to_owned()
            } else {
                "endpoints".to_owned()
            }
        }
        [_, resource, _, ..] => (*resource).to_owned(),
        _ => OTHER.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::{
        Expect, Store, Write as Put,
        embedded::{Embedded, Options},
    };

    use super::*;

    /// A data directory with an object and a pair.
    async fn cluster(folder: &Path, pair: &str) {
        let store = Embedded::open(&Options { ballast: 0, ..Options::at(store_dir(folder)) }).unwrap();
        store.commit(&"/registry/configmaps/default/a".into(), Expect::Absent, Put::put("{}")).await.unwrap();
        store.close().await;
        for name in ["ca.crt", "ca.key"] {
            files::write_private(&folder.join(PKI).join(name), format!("{pair} {name}").as_bytes()).unwrap();
        }
    }

    fn wanted(replace: bool) -> Wanted<'static> {
        Wanted { replace, bump: 0, keys: true, prefix: "/registry" }
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// Names in a folder that begin so.
    fn begin_with(folder: &Path, start: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).collect()
    }

    #[tokio::test]
    async fn the_keys_of_a_cluster_that_is_replaced_are_kept_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        cluster(&one, "one").await;
        cluster(&other, "other").await;
        let file = folder.path().join("a.snapshot");
        save(&one, &file, true, Timestamp::UNIX_EPOCH).unwrap();
        restore(&other, &file, &wanted(true)).unwrap();
        assert_eq!(read(other.join("pki/ca.key")), "one ca.key");
        let kept = begin_with(&other, "pki.before-");
        assert_eq!((kept.len(), begin_with(&other, "store.before-").len()), (1, 1));
        assert_eq!((read(kept[0].join("ca.key")), read(kept[0].join("ca.crt"))), ("other ca.key".to_owned(), "other ca.crt".to_owned()));
        // The same again: nothing differs, nothing is kept.
        restore(&other, &file, &wanted(true)).unwrap();
        assert_eq!(begin_with(&other, "pki.before-").len(), 1);
    }

    #[tokio::test]
    async fn other_keys_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        cluster(&one, "one").await;
        let file = folder.path().join("a.snapshot");
        save(&one, &file, true, Timestamp::UNIX_EPOCH).unwrap();
        files::write_private(&other.join("pki/ca.key"), b"another").unwrap();
        let refused = restore(&other, &file, &wanted(false)).unwrap_err().to_string();
        assert!(refused.contains("(pki/ca.key)") && refused.contains("--replace"), "{refused}");
        assert!(!store_dir(&other).exists() && !other.join("pki/ca.crt").exists());
        assert_eq!(read(other.join("pki/ca.key")), "another");
    }

    #[tokio::test]
    async fn the_log_of_a_store_whose_database_is_gone_is_kept_beside_what_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        cluster(&data, "one").await;
        let file = folder.path().join("a.snapshot");
        save(&data, &file, true, Timestamp::UNIX_EPOCH).unwrap();
        let store = store_dir(&data);
        fs::remove_file(store.join("state.db")).unwrap();
        fs::write(store.join("state.db-wal"), "writes that somebody may still want").unwrap();
        let refused = restore(&data, &file, &wanted(false)).unwrap_err().to_string();
        assert!(refused.contains("state.db-wal is in the way") && refused.contains("--replace"), "{refused}");
        restore(&data, &file, &wanted(true)).unwrap();
        let kept = begin_with(&data, "store.before-");
        assert_eq!(read(kept[0].join("state.db-wal")), "writes that somebody may still want");
        assert_eq!(Dump::open(&store).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn nothing_is_written_through_what_stands_in_a_snapshots_place() {
        let folder = tempfile::tempdir().unwrap();
        let one = folder.path().join("one");
        cluster(&one, "one").await;
        let (file, trap) = (folder.path().join("a.snapshot"), folder.path().join("trap"));
        fs::write(&trap, "").unwrap();
        for name in [format!("a.snapshot.{}.part", std::process::id()), "a.snapshot.part".to_owned()] {
            std::os::unix::fs::symlink(&trap, folder.path().join(name)).unwrap();
        }
        save(&one, &file, true, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(read(trap), "");
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
    }

    #[tokio::test]
    async fn keys_that_cannot_be_read_are_no_missing_keys() {
        let folder = tempfile::tempdir().unwrap();
        cluster(folder.path(), "one").await;
        fs::remove_dir_all(folder.path().join(PKI)).unwrap();
        let file = |name: &str| folder.path().join(name);
        save(folder.path(), &file("without"), true, Timestamp::UNIX_EPOCH).unwrap();
        // As root everything can be read, but no folder can be made of a file.
        fs::write(folder.path().join(PKI), "").unwrap();
        let refused = save(folder.path(), &file("refused"), true, Timestamp::UNIX_EPOCH).err().unwrap().to_string();
        assert!(refused.contains("cannot read") && !file("refused").exists(), "{refused}");
        save(folder.path(), &file("told"), false, Timestamp::UNIX_EPOCH).unwrap();
    }
}
