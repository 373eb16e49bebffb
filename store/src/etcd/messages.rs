//! The messages of etcd's API that are spoken here (etcd `api/etcdserverpb/rpc.proto`, `api/mvccpb/kv.proto`): a dozen of them.

use bytes::Bytes;

use crate::grpc::{
    Fault,
    message::{Field, Fields, Writer},
};

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const PUT: &str = "/etcdserverpb.KV/Put";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(super) const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(super) const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
pub(super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// `KeyValue`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) created: u64,
    pub(super) modified: u64,
    pub(super) version: u64,
}

/// `RangeRequest`: keys from `key` on and before `end`; only `key` when that is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Range<'a> {
    pub(super) key: &'a [u8],
    pub(super) end: &'a [u8],
    pub(super) limit: u64,
    /// 0: the latest.
    pub(super) revision: u64,
    pub(super) count_only: bool,
}

/// `RangeResponse`
#[derive(Debug, Default)]
pub(super) struct Ranged {
    pub(super) revision: u64,
    pub(super) entries: Vec<KeyValue>,
    pub(super) more: bool,
    pub(super) count: u64,
}

/// What a transaction looks at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Compared {
    /// How often the key was written since it was created.
    Version(u64),
    /// The revision of its last write; 0 when it is not there.
    Modified(u64),
}

/// What a transaction does when what it looked at is so.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'a> {
    Put { value: &'a [u8], lease: u64 },
    Delete,
}

/// `TxnResponse` of a transaction that reads its key when it does nothing.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) revision: u64,
    pub(super) succeeded: bool,
    pub(super) found: Option<KeyValue>,
}

/// `WatchResponse`
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) revision: u64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compacted: u64,
    pub(super) reason: String,
    pub(super) fragment: bool,
    pub(super) changes: Vec<Changed>,
}

/// `Event`
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) deleted: bool,
    pub(super) entry: KeyValue,
}

/// `StatusResponse`, and who answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) cluster: u64,
    pub(super) version: String,
    pub(super) size: u64,
    pub(super) in_use: u64,
    pub(super) leader: u64,
    pub(super) revision: u64,
    /// Alarms, as etcd words them.
    pub(super) errors: Vec<String>,
}

impl Range<'_> {
    fn writer(&self) -> Writer {
        let writer = Writer::default().bytes(1, self.key).bytes(2, self.end).number(3, self.limit).number(4, self.revision);
        writer.number(9, u64::from(self.count_only))
    }

    pub(super) fn message(&self) -> Vec<u8> {
        self.writer().finish()
    }
}

/// A transaction on one key: done when the comparison holds, else the key is read.
pub(super) fn transaction(key: &[u8], compared: Compared, operation: Operation<'_>) -> Vec<u8> {
    let compare = match compared {
        Compared::Version(version) => Writer::default().number(2, 0).bytes(3, key).number(4, version),
        Compared::Modified(revision) => Writer::default().number(2, 2).bytes(3, key).number(6, revision),
    };
    let operation = match operation {
        Operation::Put { value, lease } => {
            let put = Writer::default().bytes(1, key).bytes(2, value).number(3, lease);
            Writer::default().choice(2, &put)
        }
        Operation::Delete => Writer::default().choice(3, &Writer::default().bytes(1, key)),
    };
    let read = Writer::default().choice(1, &Range { key, ..Range::default() }.writer());
    Writer::default().choice(1, &compare).choice(2, &operation).choice(3, &read).finish()
}

/// `PutRequest`
pub(super) fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
    Writer::default().bytes(1, key).bytes(2, value).finish()
}

/// `CompactionRequest`
pub(super) fn compaction(revision: u64) -> Vec<u8> {
    Writer::default().number(1, revision).finish()
}

/// `LeaseGrantRequest`
pub(super) fn grant(seconds: u64) -> Vec<u8> {
    Writer::default().number(1, seconds).finish()
}

/// `AuthenticateRequest`
pub(super) fn authenticate(user: &str, password: &str) -> Vec<u8> {
    Writer::default().bytes(1, user.as_bytes()).bytes(2, password.as_bytes()).finish()
}

/// `WatchRequest` that begins one: all changes of the keys from `start` on.
pub(super) fn watch(key: &[u8], end: &[u8], start: u64) -> Vec<u8> {
    // Progress now and then, and large answers in pieces.
    let create = Writer::default().bytes(1, key).bytes(2, end).number(3, start).number(4, 1).number(8, 1);
    Writer::default().choice(1, &create).finish()
}

/// `WatchRequest` that asks how far the watch is.
pub(super) fn progress() -> Vec<u8> {
    Writer::default().choice(3, &Writer::default()).finish()
}

/// Reads a message field by field; `set` takes what it knows.
fn read<'m>(message: &'m [u8], mut set: impl FnMut(u64, Field<'m>) -> Result<(), Fault>) -> Result<(), Fault> {
    for field in Fields::of(message) {
        let (number, field) = field.ok_or_else(|| Fault::new("Internal", "etcd's answer is no message"))?;
        set(number, field)?;
    }
    Ok(())
}

/// `ResponseHeader`: the cluster and its revision.
fn header(message: &[u8]) -> Result<(u64, u64), Fault> {
    let (mut cluster, mut revision) = (0, 0);
    read(message, |number, field| {
        match (number, field) {
            (1, Field::Number(value)) => cluster = value,
            (3, Field::Number(value)) => revision = value,
            _ => {}
        }
        Ok(())
    })?;
    Ok((cluster, revision))
}

fn key_value(whole: &Bytes, message: &[u8]) -> Result<KeyValue, Fault> {
    let mut made = KeyValue::default();
    read(message, |number, field| {
        match (number, field) {
            (1, Field::Bytes(key)) => made.key = whole.slice_ref(key),
            (2, Field::Number(revision)) => made.created = revision,
            (3, Field::Number(revision)) => made.modified = revision,
            (4, Field::Number(version)) => made.version = version,
            (5, Field::Bytes(value)) => made.value = whole.slice_ref(value),
            _ => {}
        }
        Ok(())
    })?;
    Ok(made)
}

impl Ranged {
    pub(super) fn read(whole: &Bytes) -> Result<Self, Fault> {
        Self::within(whole, whole)
    }

    fn within(whole: &Bytes, message: &[u8]) -> Result<Self, Fault> {
        let mut made = Self::default();
        read(message, |number, field| {
            match (number, field) {
                (1, Field::Bytes(bytes)) => made.revision = header(bytes)?.1,
                (2, Field::Bytes(bytes)) => made.entries.push(key_value(whole, bytes)?),
                (3, Field::Number(more)) => made.more = more != 0,
                (4, Field::Number(count)) => made.count = count,
                _ => {}
            }
            Ok(())
        })?;
        Ok(made)
    }
}

impl Decided {
    pub(super) fn read(whole: &Bytes) -> Result<Self, Fault> {
        let mut made = Self::default();
        read(whole, |number, field| {
            match (number, field) {
                (1, Field::Bytes(bytes)) => made.revision = header(bytes)?.1,
                (2, Field::Number(succeeded)) => made.succeeded = succeeded != 0,
                (3, Field::Bytes(response)) => read(response, |number, field| {
                    if let (1, Field::Bytes(ranged)) = (number, field) {
                        made.found = Ranged::within(whole, ranged)?.entries.pop();
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(made)
    }
}

impl Watched {
    pub(super) fn read(whole: &Bytes) -> Result<Self, Fault> {
        let mut made = Self::default();
        read(whole, |number, field| {
            match (number, field) {
                (1, Field::Bytes(bytes)) => made.revision = header(bytes)?.1,
                (3, Field::Number(created)) => made.created = created != 0,
                (4, Field::Number(canceled)) => made.canceled = canceled != 0,
                (5, Field::Number(revision)) => made.compacted = revision,
                (6, Field::Bytes(reason)) => made.reason = String::from_utf8_lossy(reason).into_owned(),
                (7, Field::Number(fragment)) => made.fragment = fragment != 0,
                (11, Field::Bytes(event)) => {
                    let mut changed = Changed::default();
                    read(event, |number, field| {
                        match (number, field) {
                            (1, Field::Number(kind)) => changed.deleted = kind == 1,
                            (2, Field::Bytes(bytes)) => changed.entry = key_value(whole, bytes)?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    made.changes.push(changed);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(made)
    }
}

impl Status {
    pub(super) fn read(whole: &[u8]) -> Result<Self, Fault> {
        let mut made = Self::default();
        read(whole, |number, field| {
            match (number, field) {
                (1, Field::Bytes(bytes)) => (made.cluster, made.revision) = header(bytes)?,
                (2, Field::Bytes(version)) => made.version = String::from_utf8_lossy(version).into_owned(),
                (3, Field::Number(size)) => made.size = size,
                (4, Field::Number(leader)) => made.leader = leader,
                (8, Field::Bytes(error)) => made.errors.push(String::from_utf8_lossy(error).into_owned()),
                (9, Field::Number(size)) => made.in_use = size,
                _ => {}
            }
            Ok(())
        })?;
        Ok(made)
    }
}

/// The lease of a `LeaseGrantResponse` and its seconds.
pub(super) fn granted(message: &[u8]) -> Result<(u64, u64), Fault> {
    let (mut lease, mut seconds) = (0, 0);
    read(message, |number, field| {
        match (number, field) {
            (2, Field::Number(id)) => lease = id,
            (3, Field::Number(ttl)) => seconds = ttl,
            _ => {}
        }
        Ok(())
    })?;
    Ok((lease, seconds))
}

/// The token of an `AuthenticateResponse`.
pub(super) fn token(message: &[u8]) -> Result<String, Fault> {
    let mut token = String::new();
    read(message, |number, field| {
        if let (2, Field::Bytes(text)) = (number, field) {
            token = String::from_utf8_lossy(text).into_owned();
        }
        Ok(())
    })?;
    Ok(token)
}
