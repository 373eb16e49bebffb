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
    certs::{self, Pair},
    files::write_private,
    server,
};

/// Where upstream keeps what it makes when `--cert-dir` does not say.
const CERT_DIR: &str = "/var/run/kubernetes";

/// The serving certificate: `--tls-cert-file` and its key, or `apiserver.crt` and `apiserver.key` of `--cert-dir`, made for these names
/// when they are not there.
pub(crate) fn serving(flags: &Flags, addresses: &[IpAddr]) -> Result<Pair> {
    let files = match (flags.last("tls-cert-file"), flags.last("tls-private-key-file")) {
        (Some(certificate), Some(key)) => return pair("tls-cert-file", certificate, "tls-private-key-file", key),
        (None, None) => {
            let folder = PathBuf::from(flags.last("cert-dir").unwrap_or(CERT_DIR));
            (folder.join("apiserver.crt"), folder.join("apiserver.key"))
        }
        _ => bail!("--tls-cert-file and --tls-private-key-file must be given together"),
    };
    if !files.0.exists() && !files.1.exists() {
        let mut names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        names.extend(["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        let made = certs::self_signed(&names, jiff::Timestamp::now().as_second())?;
        write_private(&files.1, made.key.as_bytes()).context("--cert-dir")?;
        write_private(&files.0, made.certificate.as_bytes()).context("--cert-dir")?;
        return Ok(made);
    }
    Ok(Pair { certificate: read("cert-dir", &files.0)?, key: read("cert-dir", &files.1)? })
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

/// A file named by a flag; the error names both.
pub(crate) fn read(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--{flag}: cannot read {}", path.display()))
}

fn pair(certificate_flag: &str, certificate: &str, key_flag: &str, key: &str) -> Result<Pair> {
    Ok(Pair { certificate: read(certificate_flag, Path::new(certificate))?, key: read(key_flag, Path::new(key))? })
}
