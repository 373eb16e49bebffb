//! `WebhookAdmissionConfiguration` (apiserver `plugin/webhook/config`): as whom webhooks are asked.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{admission::settings, webhook::Accounts, wire::configuration::Format};

const FIELDS: &[(&str, &[&str])] = &[("", &["apiVersion", "kind", "kubeConfigFile", "staticManifestsDir"])];
const FORMAT: Format =
    Format { group: "apiserver.config.k8s.io", versions: &["v1"], kind: "WebhookAdmissionConfiguration", others: &[], fields: FIELDS };
/// Its names of old.
const LEGACY: Format = Format { versions: &["v1alpha1"], kind: "WebhookAdmission", ..FORMAT };

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    kube_config_file: PathBuf,
    static_manifests_dir: String,
}

/// The users of the kubeconfig it names, if it names one. The error says what is wrong.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Accounts>, String> {
    let File { kube_config_file: file, static_manifests_dir: manifests } = FORMAT.read_or(&LEGACY, bytes)?;
    settings::refuse_manifests(&manifests)?;
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    if !file.is_absolute() {
        return Err(format!("kubeConfigFile: Invalid value: {:?}: must be an absolute file path", file.display().to_string()));
    }
    Accounts::read(&file).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_is_read_and_what_is_not_done_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k");
        std::fs::write(&file, "{users: [{name: '*', user: {token: t}}]}").unwrap();
        let with =
            |rest: &str| read(format!("{{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration{rest}}}").as_bytes());
        assert!(with("").unwrap().is_none());
        assert!(with(&format!(", kubeConfigFile: {}", file.display())).unwrap().is_some());
        for (rest, why) in [
            (", kubeConfigFile: k", "must be an absolute file path"),
            (", kubeConfigFile: /nowhere/k", "error loading config file"),
            (", staticManifestsDir: /m", "staticManifestsDir is not supported"),
            (", kubeconfig: k", "unknown field"),
        ] {
            let refused = with(rest).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(read(b"{apiVersion: apiserver.config.k8s.io/v1alpha1, kind: WebhookAdmission}").unwrap().is_none());
    }
}
