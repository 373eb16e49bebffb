//! Flags of admission, under upstream's names, for both programs (`pkg/kubeapiserver/options/admission.go`).

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use coracle_apiserver::admission::{Configuration, Settings};

/// Which plugins look at writes, and what is configured of them.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct AdmissionFlags {
    /// Admission plugins beyond those that are on anyway, in any order: AlwaysPullImages, EventRateLimit, ….
    #[arg(long, value_name = "PLUGIN,…", value_delimiter = ',')]
    pub(crate) enable_admission_plugins: Vec<String>,

    /// Admission plugins that are off, although they are on by default.
    #[arg(long, value_name = "PLUGIN,…", value_delimiter = ',')]
    pub(crate) disable_admission_plugins: Vec<String>,

    /// What is configured of single plugins: an AdmissionConfiguration.
    #[arg(long, value_name = "FILE")]
    pub(crate) admission_control_config_file: Option<PathBuf>,

    /// Seconds that pods stay on a node that is not ready, if they do not say. Default: 300.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) default_not_ready_toleration_seconds: Option<i64>,

    /// Seconds that pods stay on a node out of reach, if they do not say. Default: 300.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) default_unreachable_toleration_seconds: Option<i64>,

    /// `--admission-control`, of old: these and no others. kube-apiserver's flag only.
    #[arg(skip)]
    pub(crate) only: Option<Vec<String>>,
}

/// Upstream's default for both taints.
const TOLERATION_SECONDS: i64 = 300;

impl AdmissionFlags {
    /// From flags as kube-apiserver takes them: `last` tells the value of one, `list` that of one with several.
    pub(crate) fn of<'a>(last: impl Fn(&str) -> Option<&'a str>, list: impl Fn(&str) -> Vec<&'a str>) -> Result<Self> {
        let texts = |name: &str| list(name).into_iter().map(str::to_owned).collect();
        let seconds = |name: &str| last(name).map(str::parse).transpose().with_context(|| format!("--{name}"));
        Ok(Self {
            enable_admission_plugins: texts("enable-admission-plugins"),
            disable_admission_plugins: texts("disable-admission-plugins"),
            admission_control_config_file: last("admission-control-config-file").filter(|file| !file.is_empty()).map(PathBuf::from),
            default_not_ready_toleration_seconds: seconds("default-not-ready-toleration-seconds")?,
            default_unreachable_toleration_seconds: seconds("default-unreachable-toleration-seconds")?,
            only: last("admission-control").map(|_| texts("admission-control")),
        })
    }

    /// What the flags say. The configuration file, and those it names, are read.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let configuration = match &self.admission_control_config_file {
            None => Configuration::default(),
            Some(file) => {
                let failed = |why| anyhow!("--admission-control-config-file: failed to read plugin config: {why}");
                Configuration::read(file).map_err(failed)?
            }
        };
        let seconds = [self.default_not_ready_toleration_seconds, self.default_unreachable_toleration_seconds];
        Ok(Settings {
            enable: self.enable_admission_plugins.clone(),
            disable: self.disable_admission_plugins.clone(),
            only: self.only.clone(),
            configuration,
            toleration_seconds: Some(seconds.map(|given| given.unwrap_or(TOLERATION_SECONDS))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(given: &[(&'static str, &'static str)]) -> Result<Settings> {
        let last = |name: &str| given.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| *value);
        AdmissionFlags::of(last, |name| last(name).map(|value| value.split(',').collect()).unwrap_or_default())?.settings()
    }

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let settings = flags(&[("enable-admission-plugins", "A,B"), ("default-not-ready-toleration-seconds", "5")]).unwrap();
        assert_eq!((settings.enable.as_slice(), settings.only), (&["A".to_owned(), "B".to_owned()][..], None));
        assert_eq!(settings.toleration_seconds, Some([5, 300]));
        assert_eq!(flags(&[("admission-control", "A")]).unwrap().only, Some(vec!["A".to_owned()]));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_flag() {
        let refused = flags(&[("admission-control-config-file", "/nowhere")]).unwrap_err().to_string();
        assert!(refused.starts_with("--admission-control-config-file: failed to read plugin config: unable to read"), "{refused}");
    }
}
