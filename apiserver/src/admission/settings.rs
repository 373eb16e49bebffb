//! Which plugins are wanted, and what is configured of them (`--admission-control-config-file`, apiserver `admission/config.go`).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use coracle_tree::Value;
use serde::Deserialize;

use crate::wire::{configuration::Format, yaml};

/// What the flags of admission say.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--enable-admission-plugins`: beyond those that are on anyway.
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`
    pub disable: Vec<String>,
    /// Those that a feature gate keeps out, wanted or not.
    pub gated: Vec<&'static str>,
    /// `--admission-control`: these and no others.
    pub only: Option<Vec<String>>,
    /// `--admission-control-config-file`, read.
    pub configuration: Configuration,
    /// How long pods stay on a node that is not ready, and on one out of reach, in seconds (`--default-…-toleration-seconds`).
    pub toleration_seconds: Option<[i64; 2]>,
}

/// The configurations of single plugins, as they are written.
#[derive(Clone, Debug, Default)]
pub struct Configuration(HashMap<String, Vec<u8>>);

const FORMAT: Format = Format {
    group: "apiserver.config.k8s.io",
    versions: &["v1", "v1alpha1"],
    kind: "AdmissionConfiguration",
    others: &[
        "AuthenticationConfiguration",
        "AuthorizationConfiguration",
        "EgressSelectorConfiguration",
        "EncryptionConfiguration",
        "TracingConfiguration",
    ],
    fields: &[("", &["apiVersion", "kind", "plugins"]), ("plugins", &["name", "path", "configuration"])],
};
/// The group's name of old.
const LEGACY: Format = Format { group: "apiserver.k8s.io", versions: &["v1alpha1"], ..FORMAT };

/// Plugins whose file of old stood where the `AdmissionConfiguration` stands now, and by what it is known.
const UNVERSIONED: [(&str, &str); 2] = [("ImagePolicyWebhook", "imagePolicy"), ("PodNodeSelector", "podNodeSelectorPluginConfig")];

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Plugin {
    name: String,
    path: PathBuf,
    configuration: Option<Value>,
}

impl Configuration {
    /// Reads the file and those it names; paths in it are relative to its folder.
    pub fn read(file: &Path) -> Result<Self, String> {
        let bytes =
            std::fs::read(file).map_err(|e| format!("unable to read admission control configuration from {:?} [{e}]", file.display()))?;
        let found = yaml::read(&bytes)?.value;
        let read: File = match FORMAT.read_or(&LEGACY, &bytes) {
            Ok(read) => read,
            Err(why) => {
                // Only files of old have neither kind nor version.
                let is_unversioned = found.get("kind").is_none() && UNVERSIONED.iter().any(|(_, field)| found.get(field).is_some());
                if !is_unversioned {
                    return Err(why);
                }
                return Ok(Self(UNVERSIONED.iter().map(|(plugin, _)| ((*plugin).to_owned(), bytes.clone())).collect()));
            }
        };
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut plugins = HashMap::new();
        for plugin in read.plugins {
            let given = match plugin.configuration {
                Some(configuration) => configuration.to_string().into_bytes(),
                None if plugin.path.as_os_str().is_empty() => continue,
                None => {
                    let path = folder.join(&plugin.path);
                    std::fs::read(&path).map_err(|e| format!("couldn't open admission plugin configuration {}: {e}", path.display()))?
                }
            };
            // The first of a name counts.
            plugins.entry(plugin.name).or_insert(given);
        }
        Ok(Self(plugins))
    }

    /// What is configured of a plugin, if anything.
    pub(super) fn of(&self, plugin: &str) -> Option<&[u8]> {
        self.0.get(plugin).map(Vec::as_slice)
    }

    /// For tests: what one plugin is told.
    #[cfg(test)]
    pub(super) fn only(plugin: &str, configuration: &str) -> Self {
        Self(HashMap::from([(plugin.to_owned(), configuration.as_bytes().to_vec())]))
    }
}

/// The folder of files that is configured of policies, in a file of this kind; empty for none.
pub(super) fn policies_of_files(kind: &'static str, configuration: &[u8]) -> Result<PathBuf, String> {
    const FIELDS: &[(&str, &[&str])] = &[("", &["apiVersion", "kind", "staticManifestsDir"])];
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct File {
        static_manifests_dir: PathBuf,
    }
    let format = Format { group: "apiserver.config.k8s.io", versions: &["v1"], kind, others: &[], fields: FIELDS };
    let File { static_manifests_dir } = format.read(configuration)?;
    Ok(static_manifests_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Configuration, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Configuration::read(&folder.path().join(files[0].0))
    }

    #[test]
    fn plugins_are_configured_in_the_file_or_in_one_beside_it() {
        let file = "{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugins: [
            {name: PodSecurity, configuration: {kind: X}}, {name: EventRateLimit, path: events.yaml}, {name: Priority}]}";
        let read = read(&[("a.yaml", file), ("events.yaml", "limits: []")]).unwrap();
        assert_eq!(read.of("PodSecurity"), Some(&br#"{"kind":"X"}"#[..]));
        assert_eq!(read.of("EventRateLimit"), Some(&b"limits: []"[..]));
        assert_eq!(read.of("Priority"), None);
    }

    #[test]
    fn files_of_old_are_those_of_the_plugins_that_had_them() {
        let read = read(&[("a.yaml", "podNodeSelectorPluginConfig: {a: b=c}")]).unwrap();
        assert_eq!(read.of("PodNodeSelector"), Some(&b"podNodeSelectorPluginConfig: {a: b=c}"[..]));
        assert!(super::tests::read(&[("a.yaml", "{apiVersion: apiserver.k8s.io/v1alpha1, kind: AdmissionConfiguration}")]).is_ok());
    }

    #[test]
    fn a_file_that_is_none_is_refused_by_what_is_wrong() {
        for (text, expected) in [
            ("a: b", "Object 'Kind' is missing"),
            ("{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugin: []}", "strict decoding error: unknown field"),
            (
                "{apiVersion: apiserver.config.k8s.io/v1, kind: AdmissionConfiguration, plugins: [{name: a, path: gone}]}",
                "couldn't open admission plugin configuration",
            ),
        ] {
            let refused = read(&[("a.yaml", text)]).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        assert!(Configuration::read(Path::new("/nowhere")).unwrap_err().starts_with("unable to read admission control configuration from"));
    }

    #[test]
    fn files_of_policies_are_read_strictly() {
        let check = |kind: &str, rest: &str| {
            let text = format!("{{apiVersion: apiserver.config.k8s.io/v1, kind: {kind}{rest}}}");
            policies_of_files("MutatingAdmissionPolicyConfiguration", text.as_bytes())
        };
        let right = "MutatingAdmissionPolicyConfiguration";
        assert_eq!((check(right, ""), check(right, ", staticManifestsDir: /m")), (Ok(PathBuf::new()), Ok(PathBuf::from("/m"))));
        for (kind, rest, expected) in [
            (right, ", staticManifestsDir: [/m]", "invalid type"),
            (right, ", staticManifestDir: ''", "strict decoding error: unknown field"),
            ("ValidatingAdmissionPolicyConfiguration", "", "no kind"),
        ] {
            let refused = check(kind, rest).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}
