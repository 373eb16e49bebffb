//! Who the aggregator is to other servers, and how it tells them who asks (client-go `transport/round_trippers.go`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tracing::{info, warn};

use crate::{authn::User, webhook::Identity};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// The certificate and key shown to other servers.
pub(super) struct ClientFiles {
    paths: Option<(PathBuf, PathBuf)>,
    now: Mutex<Shown>,
}

/// As they were when last read.
#[derive(Default)]
struct Shown {
    identity: Option<Arc<Identity>>,
    changed: [Option<SystemTime>; 2],
}

impl ClientFiles {
    /// Reads them for the first time; the error names the file.
    pub(super) fn new(paths: Option<(PathBuf, PathBuf)>) -> Result<Self, String> {
        let files = Self { paths, now: Mutex::default() };
        if let Some((certificate, key)) = &files.paths {
            let mut now = files.now.lock();
            now.changed = [changed(certificate), changed(key)];
            now.identity = Some(Arc::new(read(certificate, key)?));
        }
        Ok(files)
    }

    /// Who is shown now.
    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.now.lock().identity.clone()
    }

    /// Looks whether the files have changed, and reads them again; whether there is somebody new. What cannot be read changes nothing.
    pub(super) fn look(&self) -> bool {
        let Some((certificate, key)) = &self.paths else { return false };
        let found = [changed(certificate), changed(key)];
        let mut now = self.now.lock();
        if now.changed == found {
            return false;
        }
        now.changed = found;
        match read(certificate, key) {
            Ok(identity) => {
                info!(path = %certificate.display(), "the client certificate for other API servers was read again");
                now.identity = Some(Arc::new(identity));
                true
            }
            Err(why) => {
                warn!(why, "the client certificate for other API servers is not changed");
                false
            }
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|of| of.modified()).ok()
}

fn read(certificate: &Path, key_file: &Path) -> Result<Identity, String> {
    let failed = |flag: &str, path: &Path, why: &dyn std::fmt::Display| format!("--{flag}: {}: {why}", path.display());
    let of_certificate = |why: &dyn std::fmt::Display| failed("proxy-client-cert-file", certificate, why);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(|e| of_certificate(&e))?.collect();
    let chain = chain.map_err(|e| of_certificate(&e))?;
    if chain.is_empty() {
        return Err(of_certificate(&"holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| failed("proxy-client-key-file", key_file, &e))?;
    // Of files that are being replaced one may be new and the other not.
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
        .map_err(|e| failed("proxy-client-key-file", key_file, &format!("tls: {e}")))?;
    Ok(Identity { chain, key })
}

/// Says in a request's headers who asks, whatever they said before. `None` when that cannot be said in headers.
pub(super) fn tell(headers: &mut HeaderMap, user: &User) -> Option<()> {
    forget(headers);
    headers.insert(USER, HeaderValue::from_bytes(user.name.as_bytes()).ok()?);
    if !user.uid.is_empty() {
        headers.insert(UID, HeaderValue::from_bytes(user.uid.as_bytes()).ok()?);
    }
    for group in &user.groups {
        headers.append(GROUP, HeaderValue::from_bytes(group.as_bytes()).ok()?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::try_from(format!("{EXTRA}{}", escaped(key))).ok()?;
        for value in values {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
    }
    Some(())
}

/// Takes out who a client says it is, and as whom it wanted to act: that was decided before.
fn forget(headers: &mut HeaderMap) {
    let said = |name: &HeaderName| {
        let name = name.as_str();
        name == USER || name == UID || name == GROUP || name.starts_with(EXTRA) || name.starts_with("impersonate-")
    };
    let said: Vec<HeaderName> = headers.keys().filter(|name| said(name)).cloned().collect();
    for name in said {
        headers.remove(name);
    }
}

/// A key as part of a header's name: what may not stand in one, and `%`, as `%XX` (`headerKeyEscape`).
fn escaped(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().fold(String::with_capacity(key.len()), |mut out, byte| {
        if legal(byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_whatever_the_client_said() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-remote-user", "root"), ("x-remote-extra-a", "b"), ("impersonate-user", "root"), ("accept", "x")] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers.append("x-remote-group", "system:masters".parse().unwrap());
        let extra = [("example.com/Key%".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into();
        let user = User { uid: "u-1".into(), extra, ..User::new("jo", &["dev"]) };
        tell(&mut headers, &user).unwrap();
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jo"]);
        assert_eq!(all("x-remote-uid"), ["u-1"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fkey%25"), ["1", "2"]);
        assert!(all("x-remote-extra-a").is_empty() && all("impersonate-user").is_empty());
        assert_eq!(all("accept"), ["x"]);
    }

    #[test]
    fn a_user_that_no_header_can_name_is_not_passed_on_as_somebody_else() {
        assert!(tell(&mut HeaderMap::new(), &User::new("a\nb", &[])).is_none());
    }

    #[test]
    fn files_are_read_again_when_they_change_and_bad_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("c"), dir.path().join("k"));
        let write = |age: u64| {
            let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age);
            std::fs::File::options().append(true).open(&certificate).unwrap().set_modified(at).unwrap();
        };
        let refused = ClientFiles::new(Some((certificate.clone(), key.clone()))).err().unwrap();
        assert!(refused.starts_with("--proxy-client-cert-file: "), "{refused}");
        write(1);
        let files = ClientFiles::new(Some((certificate.clone(), key.clone()))).unwrap();
        let first = files.identity().unwrap();
        assert!(!files.look());
        write(2);
        assert!(files.look() && files.identity().unwrap().chain != first.chain);
        let second = files.identity().unwrap();
        let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        for half in [other.signing_key.serialize_pem(), "no key".to_owned()] {
            std::fs::write(&key, half).unwrap();
            assert!(!files.look());
            assert_eq!(files.identity().unwrap().chain, second.chain);
        }
    }
}
