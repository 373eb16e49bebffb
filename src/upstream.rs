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
/// Those of them that can be read under their own key only, prefix included.
const BOUND: [&[u8]; 2] = [b"k8s:enc:aesgcm:", b"k8s:enc:kms:"];
/// Where this program keeps objects.
const PREFIX: &str = "/registry/";
/// So many that cannot be read are named.
const NAMED: usize = 3;

/// Whether a value is encrypted, with whatever.
pub(crate) fn is_encrypted(value: &[u8]) -> bool {
    value.starts_with(ENCRYPTED)
}

/// Whether a value is encrypted in a way that authenticates the key it stands under: it cannot be read under another one, so neither under
/// another `--etcd-prefix`.
pub(crate) fn is_bound(value: &[u8]) -> bool {
    BOUND.iter().any(|cipher| value.starts_with(cipher))
}

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
    /// Encrypted for a key that is another one here.
    bound: u64,
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
                Ok(Self::Upstream(Box::new(Upstream {
                    codec,
                    prefix,
                    others: 0,
                    encrypted: 0,
                    bound: 0,
                    unread: Vec::new(),
                    unread_count: 0,
                })))
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
        if upstream.bound > 0 {
            writeln!(
                out,
                "{} of them cannot be read here: aesgcm and kms bind a value to its key, which begins with {} there and with {PREFIX} here. \
                 Have them written by secretbox or aescbc (or identity) in that etcd before the snapshot is made",
                upstream.bound, upstream.prefix
            )?;
        }
        if upstream.unread_count > 0 {
            writeln!(out, "{} values cannot be read by this version and stay as they are:", upstream.unread_count)?;
            upstream.unread.iter().try_for_each(|why| writeln!(out, "  {why}"))?;
        }
        Ok(())
    }
}

impl Upstream {
    /// What keys of the cluster begin with there.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn value(&mut self, key: &Key, value: &Bytes) -> Bytes {
        if is_encrypted(value) {
            self.encrypted += 1;
            self.bound += u64::from(self.prefix != PREFIX && is_bound(value));
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

#[cfg(test)]
mod tests {
    use coracle_store::{Entry, Revision};

    use super::*;

    fn told(prefix: &str, value: &'static str) -> String {
        let mut reading = Reading::of(Origin::Etcd { sum: true }, prefix).unwrap();
        let key = Key::from(format!("{prefix}/secrets/default/a"));
        let entry = Entry { key, value: Bytes::from_static(value.as_bytes()), revision: Revision(1), created: Revision(1) };
        let read = reading.read(Record { entry, version: 1, expires: None }).unwrap();
        assert_eq!((read.entry.key.as_str(), &read.entry.value[..]), ("/registry/secrets/default/a", value.as_bytes()));
        let mut out = Vec::new();
        reading.tell(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_bound_to_a_key_that_is_another_here_is_told() {
        for (prefix, value, bound) in [
            ("/registry", "k8s:enc:aesgcm:v1:k:x", false),
            ("/other", "k8s:enc:aesgcm:v1:k:x", true),
            ("/other", "k8s:enc:kms:v2:k:x", true),
            ("/other", "k8s:enc:secretbox:v1:k:x", false),
        ] {
            let said = told(prefix, value);
            assert!(said.starts_with("1 objects are encrypted") && said.contains("cannot be read here") == bound, "{said}");
        }
    }
}
