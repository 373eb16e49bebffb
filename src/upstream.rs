//! Objects as kube-apiserver stores them, read into the form of this program's own store.

use std::io::Write;

use anyhow::Result;
use bytes::Bytes;
use coracle_apiserver::StorageCodec;
use coracle_store::{
    Key,
    snapshot::{Origin, Record},
};

/// With what a value begins that is encrypted.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// Where this program keeps objects.
const PREFIX: &str = "/registry/";
/// So many that cannot be read are named.
const NAMED: usize = 3;

/// How the objects of a snapshot are read.
pub(crate) enum Reading {
    /// As they are.
    Own,
    /// As kube-apiserver stores them.
    Upstream(Box<Upstream>),
}

/// See [`Reading`].
pub(crate) struct Upstream {
    codec: StorageCodec,
    prefix: String,
    /// Keys that are no objects of the cluster.
    others: u64,
    encrypted: u64,
    /// What this version cannot read: the first of them, with the reason, and how many.
    unread: Vec<String>,
    unread_count: u64,
}

impl Reading {
    /// Of a snapshot's objects; `prefix` is that of kube-apiserver in an etcd.
    pub(crate) fn of(origin: Origin, prefix: &str) -> Result<Self> {
        match origin {
            Origin::Own { .. } => Ok(Self::Own),
            Origin::Etcd { .. } => {
                let prefix = format!("/{}/", prefix.trim_matches('/'));
                let codec = coracle_apiserver::storage_codec()?;
                Ok(Self::Upstream(Box::new(Upstream { codec, prefix, others: 0, encrypted: 0, unread: Vec::new(), unread_count: 0 })))
            }
        }
    }

    /// A record as our store keeps it; `None` for what is none of the cluster's objects.
    pub(crate) fn read(&mut self, mut record: Record) -> Option<Record> {
        let Self::Upstream(upstream) = self else { return Some(record) };
        let Some(rest) = record.entry.key.as_str().strip_prefix(&upstream.prefix) else {
            upstream.others += 1;
            return None;
        };
        let key = Key::from(format!("{PREFIX}{rest}"));
        record.entry.value = upstream.value(&key, &record.entry.value);
        record.entry.key = key;
        Some(record)
    }

    /// Says what was met on the way.
    pub(crate) fn tell(&self, out: &mut impl Write) -> Result<()> {
        let Self::Upstream(upstream) = self else { return Ok(()) };
        if upstream.others > 0 {
            writeln!(out, "{} keys that are not under {} are left out", upstream.others, upstream.prefix)?;
        }
        if upstream.encrypted > 0 {
            writeln!(out, "{} objects are encrypted: start the server with the same --encryption-provider-config", upstream.encrypted)?;
        }
        if upstream.unread_count > 0 {
            writeln!(out, "{} values cannot be read by this version and stay as they are:", upstream.unread_count)?;
            upstream.unread.iter().try_for_each(|why| writeln!(out, "  {why}"))?;
        }
        Ok(())
    }
}

impl Upstream {
    fn value(&mut self, key: &Key, value: &Bytes) -> Bytes {
        if value.starts_with(ENCRYPTED) {
            self.encrypted += 1;
            return value.clone();
        }
        self.codec.json(key, value).unwrap_or_else(|why| {
            // One that nobody can read must not cost all others.
            if self.unread.len() < NAMED {
                self.unread.push(format!("{key}: {why}"));
            }
            self.unread_count += 1;
            value.clone()
        })
    }
}
