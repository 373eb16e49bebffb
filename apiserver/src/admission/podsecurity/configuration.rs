//! `PodSecurityConfiguration`: what counts where namespaces say nothing, and who is exempt (`pod-security-admission/admission/api`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, go, name};
use serde::Deserialize;

use super::standard::{LevelVersion, Policy};
use crate::wire::{configuration::Format, status::refused};

const FORMAT: Format = Format {
    group: "pod-security.admission.config.k8s.io",
    versions: &["v1", "v1beta1", "v1alpha1"],
    kind: "PodSecurityConfiguration",
    others: &[],
    fields: &[
        ("", &["apiVersion", "kind", "defaults", "exemptions"]),
        ("defaults", &["enforce", "enforce-version", "audit", "audit-version", "warn", "warn-version"]),
        ("exemptions", &["usernames", "namespaces", "runtimeClasses"]),
    ],
};

/// What is configured.
#[derive(Default)]
pub(super) struct Configuration {
    /// What namespaces without labels ask for.
    pub(super) defaults: Policy,
    pub(super) exempt: Exemptions,
}

/// Who is not checked.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exemptions {
    pub(super) usernames: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) runtime_classes: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

impl Configuration {
    /// Reads the file. The error is upstream's.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let File { defaults, exemptions } = FORMAT.read(bytes)?;
        let mut errors = FieldErrors::none();
        let policy = Policy {
            enforce: mode("enforce", &defaults.enforce, &defaults.enforce_version, &mut errors),
            warn: mode("warn", &defaults.warn, &defaults.warn_version, &mut errors),
            audit: mode("audit", &defaults.audit, &defaults.audit_version, &mut errors),
        };
        each("namespaces", &exemptions.namespaces, name::label, &mut errors);
        each("runtimeClasses", &exemptions.runtime_classes, name::subdomain, &mut errors);
        let named = |name: &str| if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() };
        each("usernames", &exemptions.usernames, named, &mut errors);
        refused(&errors).map(|()| Self { defaults: policy, exempt: exemptions })
    }
}

/// A level and a version; what is not given is the default.
fn mode(name: &str, level: &str, version: &str, errors: &mut FieldErrors) -> LevelVersion {
    let mut mode = LevelVersion::default();
    if !level.is_empty() {
        mode.level = level.parse().unwrap_or_else(|why| {
            errors.invalid(format!("defaults.{name}"), go::quoted(level), why);
            mode.level
        });
    }
    if !version.is_empty() {
        mode.version = version.parse().unwrap_or_else(|why| {
            errors.invalid(format!("defaults.{name}-version"), go::quoted(version), why);
            mode.version
        });
    }
    mode
}

/// Each name must be one, and stand once.
fn each(field: &str, names: &[String], check: impl Fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        let path = format!("exemptions.{field}[{at}]");
        let wrong = check(name);
        if !wrong.is_empty() {
            errors.invalid(path, go::quoted(name), &wrong.join(", "));
        } else if !seen.insert(name) {
            errors.duplicate(path, go::quoted(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<Configuration, String> {
        let head = "{apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, ";
        Configuration::read(format!("{head}{rest}}}").as_bytes())
    }

    #[test]
    fn defaults_and_exemptions_are_read() {
        let read = read("defaults: {enforce: baseline, warn: restricted, warn-version: v1.30}, exemptions: {namespaces: [kube-system]}");
        let read = read.unwrap();
        let shown = [read.defaults.enforce, read.defaults.audit, read.defaults.warn].map(|mode| mode.to_string());
        assert_eq!(shown, ["baseline:latest", "privileged:latest", "restricted:v1.30"]);
        assert_eq!(read.exempt.namespaces, ["kube-system"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_upstreams_words() {
        assert_eq!(
            read("defaults: {enforce: strict}, exemptions: {namespaces: [a, a], usernames: ['']}").err().unwrap(),
            r#"[defaults.enforce: Invalid value: "strict": must be one of privileged, baseline, restricted, exemptions.namespaces[1]: Duplicate value: "a", exemptions.usernames[0]: Invalid value: "": username must not be empty]"#
        );
        assert!(read("default: {}").err().unwrap().starts_with("strict decoding error: unknown field \"default\""));
    }
}
