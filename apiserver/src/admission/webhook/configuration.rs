//! `WebhookAdmissionConfiguration` (apiserver `plugin/webhook/config`): as whom webhooks are asked, and those of files.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{webhook::Accounts, wire::configuration::Format};

const FIELDS: &[(&str, &[&str])] = &[("", &["apiVersion", "kind", "kubeConfigFile", "staticManifestsDir"])];
const FORMAT: Format =
    Format { group: "apiserver.config.k8s.io", versions: &["v1"], kind: "WebhookAdmissionConfiguration", others: &[], fields: FIELDS };
/// Its names of old.
const LEGACY: Format = Format { versions: &["v1alpha1"], kind: "WebhookAdmission", ..FORMAT };

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    kube_config_file: PathBuf,
    static_manifests_dir: PathBuf,
}

/// The users of the kubeconfig it names, if it names one, and the folder of files, empty for none. The error says what is wrong.
pub(in crate::admission) fn read(bytes: &[u8]) -> Result<(Option<Accounts>, PathBuf), String> {
    let File { kube_config_file: file, static_manifests_dir: manifests } = FORMAT.read_or(&LEGACY, bytes)?;
    if file.as_os_str().is_empty() {
        return Ok((None, manifests));
    }
    if !file.is_absolute() {
        return Err(format!("kubeConfigFile: Invalid value: {:?}: must be an absolute file path", file.display().to_string()));
    }
    Ok((Some(Accounts::read(&file)?), manifests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_is_read_and_what_is_wrong_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k");
        std::fs::write(&file, "{users: [{name: '*', user: {token: t}}]}").unwrap();
        let with =
            |rest: &str| read(format!("{{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration{rest}}}").as_bytes());
        assert!(with("").unwrap().0.is_none());
        assert_eq!(with(", staticManifestsDir: /m").unwrap().1, PathBuf::from("/m"));
        assert!(with(&format!(", kubeConfigFile: {}", file.display())).unwrap().0.is_some());
        for (rest, why) in [
            (", kubeConfigFile: k", "must be an absolute file path"),
            (", kubeConfigFile: /nowhere/k", "error loading config file"),
            (", kubeconfig: k", "unknown field"),
        ] {
            let refused = with(rest).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(read(b"{apiVersion: apiserver.config.k8s.io/v1alpha1, kind: WebhookAdmission}").unwrap().0.is_none());
    }
}
