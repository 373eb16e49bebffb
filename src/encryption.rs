//! Flags of encryption at rest, under upstream's names, and the command that writes everything anew.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use coracle_apiserver::atrest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{dropin::flags::truth, remote};

/// What is encrypted in the store.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct EncryptionFlags {
    /// Which resources are encrypted in the store, and with what: an apiserver.config.k8s.io/v1 EncryptionConfiguration.
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,

    /// Take the file's changes while running.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) encryption_provider_config_automatic_reload: bool,
}

impl EncryptionFlags {
    /// As the server takes them.
    pub(crate) fn options(self) -> Result<Option<atrest::Options>> {
        match (self.encryption_provider_config, self.encryption_provider_config_automatic_reload) {
            (Some(file), reload) => Ok(Some(atrest::Options { file, reload })),
            (None, false) => Ok(None),
            (None, true) => bail!("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"),
        }
    }
}

/// What is escaped of a key in a query: keys hold names of all kinds, and those of some may have any character.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b':');

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
    let mut tasks = JoinSet::new();
    let client = remote::administrator(folder, &mut tasks).await?;
    let (mut seen, mut rewritten, mut failed, mut after) = (0, 0, Vec::new(), String::new());
    loop {
        let place = utf8_percent_encode(&after, ESCAPED);
        let request = http::Request::post(format!("/encryption/reencrypt?continue={place}")).body(Vec::new())?;
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
    use crate::dropin::flags::group;

    #[test]
    fn the_place_to_go_on_at_is_one_whatever_a_name_holds() {
        let key = "/registry/clusterroles/system:a b#c?d&e%f+é";
        assert_eq!(utf8_percent_encode(key, ESCAPED).to_string(), "/registry/clusterroles/system:a%20b%23c%3Fd%26e%25f%2B%C3%A9");
    }

    #[test]
    fn reload_needs_a_file() {
        let of = |pairs: &[(&str, &'static str)]| {
            let all = |name: &str| pairs.iter().filter(|(flag, _)| *flag == name).map(|(_, value)| *value).collect();
            group::<EncryptionFlags>(all).unwrap().options()
        };
        let reload = ("encryption-provider-config-automatic-reload", "T");
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[reload]).unwrap_err().to_string().contains("must be set with --encryption-provider-config"));
        let options = of(&[reload, ("encryption-provider-config", "/e.yaml")]).unwrap().unwrap();
        assert_eq!((options.file, options.reload), (PathBuf::from("/e.yaml"), true));
    }
}
