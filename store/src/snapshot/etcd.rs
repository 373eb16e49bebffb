//! What etcd writes into its database (`etcd/server/storage/mvcc`, `schema`): the bucket `key` holds every version of every key by
//! revision, `lease` the leases, `meta` the revision up to which it is compacted.

use std::{collections::HashMap, fs::File};

use bytes::Bytes;

use super::{
    Record,
    bolt::{Bolt, Bucket, Fault},
};
use crate::{
    Entry, Key, Revision,
    grpc::message::{Field, Fields},
};

/// A revision in bytes: main, `_`, sub; a deletion has `t` behind it.
const REVISION: usize = 17;

/// An etcd's database.
pub(super) struct Database {
    bolt: Bolt,
    keys: Bucket,
    /// Where the last version of each key stands that is not deleted.
    live: HashMap<Key, (u64, u64)>,
    /// Seconds that each lease has left.
    leases: HashMap<u64, u64>,
    revision: Revision,
}

/// `mvccpb.KeyValue`
#[derive(Default)]
struct KeyValue<'a> {
    key: &'a [u8],
    created: u64,
    version: u64,
    value: &'a [u8],
    lease: u64,
}

impl Database {
    /// Reads which keys there are.
    pub(super) fn open(file: File, length: u64) -> Result<Self, Fault> {
        let bolt = Bolt::open(file, length)?;
        let keys = bolt.bucket(b"key")?.ok_or_else(|| Fault::damaged("it has no bucket `key`: no etcd wrote it"))?;
        let (mut live, mut revision, mut last) = (HashMap::new(), 1, (0, 0));
        bolt.each(&keys, |at, value| {
            let (main, sub) = parse_revision(at)?;
            if (main, sub) <= last {
                return Err(Fault::damaged(format!("revision {main} stands behind {}", last.0)));
            }
            last = (main, sub);
            revision = revision.max(main);
            let Ok(key) = std::str::from_utf8(key_value(value)?.key) else { return Ok(()) };
            if at.len() > REVISION {
                live.remove(key);
            } else {
                live.insert(Key::from(key), (main, sub));
            }
            Ok(())
        })?;
        let mut leases = HashMap::new();
        if let Some(bucket) = bolt.bucket(b"lease")? {
            bolt.each(&bucket, |_, value| {
                let (mut id, mut granted, mut left) = (0, 0, 0);
                read(value, |number, field| match (number, field) {
                    (1, Field::Number(found)) => id = found,
                    (2, Field::Number(found)) => granted = found,
                    (3, Field::Number(found)) => left = found,
                    _ => {}
                })?;
                leases.insert(id, if left > 0 { left } else { granted });
                Ok(())
            })?;
        }
        if let Some(meta) = bolt.bucket(b"meta")? {
            bolt.each(&meta, |name, value| {
                // An etcd that was compacted to its last revision may hold no key of that revision any more.
                if name == b"finishedCompactRev" || name == b"scheduledCompactRev" {
                    revision = revision.max(parse_revision(value)?.0);
                }
                Ok(())
            })?;
        }
        Ok(Self { bolt, keys, live, leases, revision: Revision(revision) })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Every object in the order of its last write. `named` names the file in an error.
    pub(super) fn each<E>(&self, now: i64, mut see: impl FnMut(Record) -> Result<(), E>, named: impl FnOnce(Fault) -> E) -> Result<(), E> {
        let mut refused = None;
        let read = self.bolt.each(&self.keys, |at, value| {
            let found = key_value(value)?;
            let Ok(key) = std::str::from_utf8(found.key) else { return Ok(()) };
            let written = parse_revision(at)?;
            if at.len() > REVISION || self.live.get(key) != Some(&written) {
                return Ok(());
            }
            let expires = self.leases.get(&found.lease).filter(|_| found.lease != 0).map(|left| {
                let left = i64::try_from(*left).unwrap_or(i64::MAX).saturating_mul(1000);
                now.saturating_add(left)
            });
            let entry = Entry {
                key: Key::from(key),
                value: Bytes::copy_from_slice(found.value),
                revision: Revision(written.0),
                created: Revision(found.created.min(written.0)),
            };
            let version = u32::try_from(found.version).unwrap_or(u32::MAX);
            see(Record { entry, version, expires }).map_err(|err| {
                refused = Some(err);
                Fault::Stopped
            })
        });
        match (refused, read) {
            (Some(err), _) => Err(err),
            (None, read) => read.map_err(named),
        }
    }
}

fn parse_revision(bytes: &[u8]) -> Result<(u64, u64), Fault> {
    let number = |from: usize| Some(u64::from_be_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
    match (number(0), number(9)) {
        (Some(main), Some(sub)) if bytes.len() <= REVISION + 1 => Ok((main, sub)),
        _ => Err(Fault::damaged("a key is no revision")),
    }
}

fn key_value(message: &[u8]) -> Result<KeyValue<'_>, Fault> {
    let mut found = KeyValue::default();
    read(message, |number, field| match (number, field) {
        (1, Field::Bytes(bytes)) => found.key = bytes,
        (2, Field::Number(created)) => found.created = created,
        (4, Field::Number(version)) => found.version = version,
        (5, Field::Bytes(bytes)) => found.value = bytes,
        (6, Field::Number(lease)) => found.lease = lease,
        _ => {}
    })?;
    Ok(found)
}

/// Reads a message field by field.
fn read<'a>(message: &'a [u8], mut see: impl FnMut(u64, Field<'a>)) -> Result<(), Fault> {
    for field in Fields::of(message) {
        let (number, field) = field.ok_or_else(|| Fault::damaged("a value is no message"))?;
        see(number, field);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, io::Read, path::Path};

    use super::super::{Head, Item, Origin, Snapshot, SnapshotError};
    use super::*;

    /// What `etcdctl snapshot save` (etcd 3.7) wrote of an etcd that was written to 305 times: 120 config maps, one of them large and one
    /// deleted, an event with a lease of an hour, two keys in one transaction; compacted at 100.
    fn saved() -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&include_bytes!("../../testdata/etcd.snapshot.gz")[..]).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn opened(path: &Path) -> Result<(Head, BTreeMap<String, Record>), SnapshotError> {
        let snapshot = Snapshot::open(path)?;
        let (mut all, mut last) = (BTreeMap::new(), Revision(0));
        snapshot.each::<SnapshotError>(1_000_000, |item| {
            let Item::Object(record) = item else { panic!("etcd keeps no files") };
            assert!(record.entry.revision >= last);
            last = record.entry.revision;
            all.insert(record.entry.key.as_str().to_owned(), record);
            Ok(())
        })?;
        Ok((snapshot.head().clone(), all))
    }

    #[test]
    fn a_snapshot_of_the_real_etcd_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        fs::write(&path, saved()).unwrap();
        let (head, all) = opened(&path).unwrap();
        assert_eq!((head.origin, head.revision, head.sum.len()), (Origin::Etcd { sum: true }, Revision(305), 64));
        assert_eq!(all.len(), 123);
        assert!(!all.contains_key("/registry/configmaps/default/c007"), "deleted");
        let (first, large) = (&all["/registry/configmaps/default/c000"], &all["/registry/configmaps/default/large"]);
        assert_eq!((&first.entry.value[..11], first.version, first.expires), (&b"{\"n\":240,\"p"[..], 3, None));
        assert!(first.entry.created < first.entry.revision);
        assert_eq!(large.entry.value, vec![b'L'; 20_000], "a value of several pages");
        let event = &all["/registry/events/default/e1"];
        assert!((1_000_001..=1_000_000 + 3_600_000).contains(&event.expires.unwrap()), "{:?}", event.expires);
        assert_eq!(all["/registry/t/a"].entry.revision, all["/registry/t/b"].entry.revision);

        // The file of a member has no checksum of its own.
        let bytes = saved();
        fs::write(&path, &bytes[..bytes.len() - 32]).unwrap();
        let (head, same) = opened(&path).unwrap();
        assert_eq!((head.origin, head.sum.as_str(), same), (Origin::Etcd { sum: false }, "", all));
    }

    #[test]
    fn damage_is_told_and_never_more_than_that() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        let mut bytes = saved();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        assert!(opened(&path).unwrap_err().to_string().contains("its checksum is"));
        // Without a checksum pages stand for themselves: whatever is in them, reading ends.
        let whole = saved();
        let pages = &whole[..whole.len() - 32];
        for (step, at) in (0..pages.len()).step_by(97).enumerate() {
            let mut damaged = pages.to_vec();
            damaged[at] = damaged[at].wrapping_add(1 + u8::try_from(step % 255).unwrap());
            fs::write(&path, &damaged).unwrap();
            let _ = opened(&path);
            fs::write(&path, &pages[..at]).unwrap();
            assert!(opened(&path).is_err(), "cut off at {at}");
        }
    }
}
