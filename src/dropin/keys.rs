//! Certificates and keys by upstream's flags: read where they are, made where upstream would make them.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use coracle_apiserver::authn::keys::{SigningKey, VerifyingKey};
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tracing::warn;

use super::flags::Flags;
use crate::{
    authn::read,
    certs::{self, Pair},
    files::write_private,
    renewal::Shown,
    server,
};

/// Where upstream keeps what it makes when `--cert-dir` does not say.
const CERT_DIR: &str = "/var/run/kubernetes";

/// The files of the serving certificate: `--tls-cert-file` and its key, or `apiserver.crt` and `apiserver.key` of `--cert-dir`, made for
/// these names when they are not there.
pub(crate) fn serving(flags: &Flags, addresses: &[IpAddr]) -> Result<Files> {
    let files = match (flags.last("tls-cert-file"), flags.last("tls-private-key-file")) {
        (Some(certificate), Some(key)) => {
            return Ok(Files { flags: ["tls-cert-file", "tls-private-key-file"], certificate: certificate.into(), key: key.into() });
        }
        (None, None) => {
            let folder = PathBuf::from(flags.last("cert-dir").unwrap_or(CERT_DIR));
            Files { flags: ["cert-dir"; 2], certificate: folder.join("apiserver.crt"), key: folder.join("apiserver.key") }
        }
        _ => bail!("--tls-cert-file and --tls-private-key-file must be given together"),
    };
    if !files.certificate.exists() && !files.key.exists() {
        let mut names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        names.extend(["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        let made = certs::self_signed(&names, jiff::Timestamp::now().as_second())?;
        write_private(&files.key, made.key.as_bytes()).context("--cert-dir")?;
        write_private(&files.certificate, made.certificate.as_bytes()).context("--cert-dir")?;
    }
    Ok(files)
}

/// A certificate and its key, by the flags that name them.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    flags: [&'static str; 2],
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// As they are now.
    pub(crate) fn read(&self) -> Result<Pair> {
        Ok(Pair { certificate: read(self.flags[0], &self.certificate)?, key: read(self.flags[1], &self.key)? })
    }
}

/// With which the API server speaks to node agents, by the `--kubelet-…` flags; `None` when none is given: then nodes of this process are
/// meant, or anybody.
pub(crate) fn to_agents(flags: &Flags) -> Result<Option<Arc<rustls::ClientConfig>>> {
    let names = ["kubelet-client-certificate", "kubelet-client-key", "kubelet-certificate-authority"];
    let (own, authority) = match names.map(|name| flags.last(name)) {
        [None, None, None] => return Ok(None),
        [None, None, Some(authority)] => (None, Some(authority)),
        [Some(certificate), Some(key), authority] => {
            let files = Files { flags: [names[0], names[1]], certificate: certificate.into(), key: key.into() };
            let own: Arc<dyn ResolvesClientCert> = Arc::new(Watched::new(files).context("--kubelet-client-certificate")?);
            (Some(own), authority)
        }
        _ => bail!("--kubelet-client-certificate and --kubelet-client-key must be given together"),
    };
    let authorities = match authority {
        Some(authority) => Some(server::chain(&read(names[2], Path::new(authority))?).context("--kubelet-certificate-authority")?),
        None => {
            warn!("node agents are not verified: --kubelet-certificate-authority is not given");
            None
        }
    };
    let tls = coracle_apiserver::agent_tls(authorities, own).map_err(|why| anyhow!(why)).context("--kubelet-certificate-authority")?;
    Ok(Some(Arc::new(tls)))
}

/// How often the files of a client certificate are looked at, while somebody is called.
const LOOK: Duration = Duration::from_secs(2);

/// A client certificate as its files are.
#[derive(Debug)]
struct Watched {
    files: Files,
    shown: Shown,
    looked: Mutex<Instant>,
}

impl Watched {
    fn new(files: Files) -> Result<Self> {
        let shown = Shown::new(&files.read()?)?;
        Ok(Self { files, shown, looked: Mutex::new(Instant::now()) })
    }

    /// Takes up files that changed. Halves of a change and what cannot be read are looked at again; what was good before stays.
    fn look(&self, now: Instant) {
        // Who comes while somebody looks takes what is there.
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if now.duration_since(*looked) < LOOK {
            return;
        }
        *looked = now;
        if let Err(error) = self.files.read().and_then(|pair| self.shown.replace(&pair)) {
            warn!(%error, "the client certificate for node agents stays as it was");
        }
    }
}

impl ResolvesClientCert for Watched {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.look(Instant::now());
        self.shown.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The keys by which tokens of service accounts are signed and verified.
pub(crate) fn of_tokens(flags: &Flags) -> Result<(Option<SigningKey>, Vec<VerifyingKey>)> {
    let signing = match flags.last("service-account-signing-key-file") {
        None => None,
        Some(file) => {
            let pem = read("service-account-signing-key-file", Path::new(file))?;
            Some(SigningKey::from_pem(pem.as_bytes()).with_context(|| format!("--service-account-signing-key-file: {file}"))?)
        }
    };
    let mut verifying = Vec::new();
    for file in flags.all("service-account-key-file") {
        let pem = read("service-account-key-file", Path::new(file))?;
        let keys = VerifyingKey::all_from_pem(pem.as_bytes()).with_context(|| format!("--service-account-key-file: {file}"))?;
        verifying.extend(keys);
    }
    Ok((signing, verifying))
}

/// Where somebody signs tokens instead of a key: a path, or a name behind `@` (`validateServiceAccountTokenSigningConfig`).
pub(crate) fn endpoint(flags: &Flags) -> Result<Option<String>> {
    let Some(endpoint) = flags.last("service-account-signing-endpoint").filter(|given| !given.is_empty()) else { return Ok(None) };
    let given = |name: &str| flags.last(name).is_some_and(|file| !file.is_empty());
    if given("service-account-signing-key-file") || given("service-account-key-file") {
        bail!(
            "can't set `--service-account-signing-key-file` and/or `--service-account-key-file` with `--service-account-signing-endpoint` (They are mutually exclusive)"
        );
    }
    let is_word = |part: &str| !part.is_empty() && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-".contains(letter));
    if endpoint.strip_prefix('@').is_some_and(|name| !name.split('.').all(is_word)) {
        bail!(
            "invalid value {endpoint:?} passed for `--service-account-signing-endpoint`, when prefixed with @ must be a valid abstract socket name"
        );
    }
    Ok(Some(endpoint.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::flags::KUBE_APISERVER;

    #[test]
    fn who_signs_elsewhere_has_all_the_keys() {
        let of = |line: &str| {
            let flags = Flags::parse(&KUBE_APISERVER, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap();
            endpoint(&flags).map_err(|error| error.to_string())
        };
        assert_eq!(of("--secure-port=1"), Ok(None));
        assert_eq!(of("--service-account-signing-endpoint=/run/s"), Ok(Some("/run/s".to_owned())));
        assert_eq!(of("--service-account-signing-endpoint=@a.b-c"), Ok(Some("@a.b-c".to_owned())));
        assert!(of("--service-account-signing-endpoint=@a..b").unwrap_err().contains("must be a valid abstract socket name"));
        let both = of("--service-account-signing-endpoint=/s --service-account-key-file=/k").unwrap_err();
        assert!(both.ends_with("(They are mutually exclusive)"), "{both}");
    }

    #[test]
    fn a_client_certificate_whose_files_change_is_shown_when_both_have() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str| certs::self_signed(&[name.to_owned()], 1_800_000_000).unwrap();
        let (first, second) = (made("first"), made("second"));
        let files = Files {
            flags: ["kubelet-client-certificate", "kubelet-client-key"],
            certificate: folder.path().join("crt"),
            key: folder.path().join("key"),
        };
        let put = |pair: &Pair, file: &Path| std::fs::write(file, if file == files.key { &pair.key } else { &pair.certificate }).unwrap();
        put(&first, &files.certificate);
        put(&first, &files.key);
        let watched = Watched::new(files.clone()).unwrap();
        let shown = || watched.shown.resolve(&[], &[]).unwrap().cert.clone();
        let before = shown();
        let start = Instant::now();
        put(&second, &files.certificate);
        watched.look(start + LOOK);
        assert_eq!(shown(), before, "the key is the old one");
        put(&second, &files.key);
        watched.look(start + LOOK);
        assert_eq!(shown(), before, "nobody looks so soon");
        watched.look(start + LOOK * 2);
        assert_ne!(shown(), before);
    }
}
