//! Flags of encryption at rest, under upstream's names, and the command that writes everything anew.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use coracle_apiserver::atrest;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{kubeconfig, remote};

/// What is encrypted in the store.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct EncryptionFlags {
    /// Which resources are encrypted in the store, and with what: an apiserver.config.k8s.io/v1 EncryptionConfiguration.
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,

    /// Take the file's changes while running.
    #[arg(long)]
    pub(crate) encryption_provider_config_automatic_reload: bool,
}

impl EncryptionFlags {
    /// From flags as kube-apiserver takes them; `given` tells the value of one.
    pub(crate) fn of<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            encryption_provider_config: given("encryption-provider-config").filter(|file| !file.is_empty()).map(PathBuf::from),
            encryption_provider_config_automatic_reload: given("encryption-provider-config-automatic-reload") == Some("true"),
        }
    }

    /// As the server takes them.
    pub(crate) fn options(self) -> Result<Option<atrest::Options>> {
        match (self.encryption_provider_config, self.encryption_provider_config_automatic_reload) {
            (Some(file), reload) => Ok(Some(atrest::Options { file, reload })),
            (None, false) => Ok(None),
            (None, true) => bail!("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"),
        }
    }
}

/// What one step of writing anew did.
#[derive(Deserialize)]
struct Step {
    seen: usize,
    rewritten: usize,
    failed: Vec<String>,
    #[serde(rename = "continue")]
    after: String,
}

/// Asks the running server to write everything anew that is not encrypted as it should be.
pub(crate) async fn reencrypt(folder: &Path) -> Result<()> {
    let file = folder.join("admin.kubeconfig");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}; is --data-dir the folder the server was started with?", file.display()))?;
    let access = kubeconfig::parse(&text).with_context(|| file.display().to_string())?;
    let mut tasks = JoinSet::new();
    let client = remote::client(&access, &mut tasks).await?;
    let (mut seen, mut rewritten, mut failed, mut after) = (0, 0, Vec::new(), String::new());
    loop {
        // Keys hold names, which need no escaping in a query beyond that of colons and percent signs.
        let escaped = after.replace('%', "%25").replace('&', "%26").replace('+', "%2B");
        let request = http::Request::post(format!("/encryption/reencrypt?continue={escaped}")).body(Vec::new())?;
        let step: Step = match client.request(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!("the server encrypts nothing: it has no --encryption-provider-config")
            }
            answer => answer?,
        };
        seen += step.seen;
        rewritten += step.rewritten;
        failed.extend(step.failed);
        if step.after.is_empty() {
            break;
        }
        after = step.after;
    }
    let mut out = std::io::stdout();
    writeln!(out, "re-encrypted {rewritten} of {seen} objects").context("standard output")?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{} could not be read or written:\n{}", failed.len(), failed.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reload_needs_a_file() {
        let of = |pairs: &[(&str, &'static str)]| {
            let pairs = pairs.to_vec();
            EncryptionFlags::of(move |name| pairs.iter().find(|(flag, _)| *flag == name).map(|(_, value)| *value)).options()
        };
        let reload = ("encryption-provider-config-automatic-reload", "true");
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[reload]).unwrap_err().to_string().contains("must be set with --encryption-provider-config"));
        let options = of(&[reload, ("encryption-provider-config", "/e.yaml")]).unwrap().unwrap();
        assert_eq!((options.file, options.reload), (PathBuf::from("/e.yaml"), true));
    }
}
