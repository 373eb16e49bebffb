//! Which servers there are, as Leases that tools read (KEP-1965).

use std::sync::Arc;

use coracle_schema::time;
use coracle_tree::{Value, json};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::{
    registry::{Reader, Writer, reader},
    wire::Status,
};

const GROUP: &str = "coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
/// Says that a Lease is a server's, and of which program.
const COMPONENT: &str = "apiserver.kubernetes.io/identity";
const PROGRAM: &str = "kube-apiserver";
/// So long after its last renewal a Lease is of a server that is gone.
const SECONDS: i64 = 3600;

/// This server's Lease.
pub(super) struct Identity {
    name: String,
    holder: String,
    host: String,
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
}

impl Identity {
    pub(super) fn new(host: &str, reader: Arc<dyn Reader>, writer: Arc<dyn Writer>) -> Self {
        let name = name(host);
        Self { holder: format!("{name}_{}", uuid::Uuid::new_v4()), name, host: host.to_owned(), reader, writer }
    }

    /// Removes what a former server of this name left.
    pub(super) async fn begin(&self) -> Result<(), Status> {
        self.end().await
    }

    /// Removes the Lease.
    pub(super) async fn end(&self) -> Result<(), Status> {
        match self.find().await? {
            Some(lease) => self.writer.clear("leases", NAMESPACE, &lease).await,
            None => Ok(()),
        }
    }

    /// Makes or renews the Lease.
    pub(super) async fn renew(&self, now: Timestamp) -> Result<(), Status> {
        let found = self.find().await?;
        let next = lease(found.as_ref(), &self.name, &self.holder, &self.host, now);
        let written = match found {
            None => self.writer.create("leases", NAMESPACE, next).await,
            Some(_) => self.writer.update("leases", "", NAMESPACE, next).await,
        };
        match written {
            Err(status) if status.code != 409 => Err(status),
            _ => Ok(()),
        }
    }

    /// Removes the Leases of servers that are gone; one that was renewed meanwhile stays.
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<(), Status> {
        for lease in reader::all::<Value>(&*self.reader, GROUP, "leases", NAMESPACE).await? {
            if lease["metadata"]["labels"][COMPONENT] == PROGRAM && is_expired(&lease, now) {
                self.writer.clear("leases", NAMESPACE, &lease).await?;
            }
        }
        Ok(())
    }

    async fn find(&self) -> Result<Option<Value>, Status> {
        reader::one(&*self.reader, GROUP, "leases", NAMESPACE, &self.name).await
    }
}

/// A server's name among all: a hash of its machine's and its program's (`server.NewConfig`).
pub(crate) fn name(host: &str) -> String {
    let mut hash = Sha256::new();
    for part in [host, PROGRAM] {
        hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        hash.update(part);
    }
    format!("apiserver-{}", base32(&hash.finalize()[..16]))
}

/// In lower case and without padding (RFC 4648).
fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits = |at: usize| {
        (0..5).fold(0usize, |value, bit| {
            let bit = at * 5 + bit;
            value << 1 | usize::from(bytes.get(bit / 8).is_some_and(|byte| byte >> (7 - bit % 8) & 1 == 1))
        })
    };
    (0..(bytes.len() * 8).div_ceil(5)).map(|at| char::from(DIGITS[bits(at)])).collect()
}

fn lease(now_there: Option<&Value>, name: &str, holder: &str, host: &str, now: Timestamp) -> Value {
    let new = json!({"metadata": {"name": name, "namespace": NAMESPACE}});
    let mut next = now_there.cloned().unwrap_or(new);
    next["apiVersion"] = "coordination.k8s.io/v1".into();
    next["kind"] = "Lease".into();
    for (label, value) in [(COMPONENT, PROGRAM), ("kubernetes.io/hostname", host)] {
        next["metadata"]["labels"][label] = value.into();
    }
    let renewed = time::micros(now);
    next["spec"] = json!({"holderIdentity": holder, "leaseDurationSeconds": SECONDS, "renewTime": renewed});
    next
}

/// A Lease that does not say how long it lasts is no server's.
fn is_expired(lease: &Value, now: Timestamp) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let (Some(renewed), Some(seconds)) = (renewed, lease["spec"]["leaseDurationSeconds"].as_i64()) else { return true };
    renewed.as_second().saturating_add(seconds) < now.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn bytes_become_the_base_32_of_the_standard() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!((base32(b"f"), base32(b"")), ("my".to_owned(), String::new()));
        assert_eq!(name("a").len(), "apiserver-".len() + 26);
        assert_ne!(name("a"), name("b"));
    }

    #[tokio::test]
    async fn a_lease_is_renewed_while_its_server_is_there_and_swept_after() {
        let reader = Arc::new(FakeReader::default());
        let identity = |host: &str| Identity::new(host, reader.clone(), reader.clone());
        let (here, gone) = (identity("a"), identity("b"));
        gone.renew(at("2026-11-21T10:00:00Z")).await.unwrap();
        here.renew(at("2026-11-21T10:30:00Z")).await.unwrap();
        here.renew(at("2026-11-21T11:00:01Z")).await.unwrap();
        let look = |of: &Identity| reader.look(GROUP, "leases", NAMESPACE, &of.name);
        let lease = look(&here).unwrap();
        assert_eq!(
            (&lease["metadata"]["labels"]["kubernetes.io/hostname"], &lease["spec"]["leaseDurationSeconds"]),
            (&json!("a"), &json!(3600))
        );
        here.sweep(at("2026-11-21T11:00:00Z")).await.unwrap();
        assert!(look(&gone).is_some(), "an hour is not over");
        here.sweep(at("2026-11-21T11:00:02Z")).await.unwrap();
        assert!(look(&gone).is_none() && look(&here).is_some());
        here.end().await.unwrap();
        assert!(look(&here).is_none());
    }
}
