//! Certificates and keys by upstream's flags: read where they are, made where upstream would make them.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use coracle_apiserver::authn::keys::{SigningKey, VerifyingKey};

use super::flags::Flags;
use crate::{
    authn::read,
    certs::{self, Pair},
    files::write_private,
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
#[derive(Clone)]
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

/// With which the API server speaks to node agents, by the `--kubelet-…` flags; `None` when none is given.
pub(crate) fn to_agents(flags: &Flags) -> Result<Option<Arc<rustls::ClientConfig>>> {
    let names = ["kubelet-client-certificate", "kubelet-client-key", "kubelet-certificate-authority"];
    match names.map(|name| flags.last(name)) {
        [None, None, _] => Ok(None),
        [Some(certificate), Some(key), Some(authority)] => {
            let pair = pair(names[0], certificate, names[1], key)?;
            let authority = read(names[2], Path::new(authority))?;
            server::client(&authority, &pair).map(|client| Some(Arc::new(client))).context("--kubelet-client-certificate")
        }
        [Some(_), Some(_), None] => bail!("--kubelet-client-certificate needs --kubelet-certificate-authority: agents are verified"),
        _ => bail!("--kubelet-client-certificate and --kubelet-client-key must be given together"),
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

fn pair(certificate_flag: &str, certificate: &str, key_flag: &str, key: &str) -> Result<Pair> {
    Ok(Pair { certificate: read(certificate_flag, Path::new(certificate))?, key: read(key_flag, Path::new(key))? })
}
