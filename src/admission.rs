//! Flags of admission, under upstream's names, for both programs (`pkg/kubeapiserver/options/admission.go`).

use std::path::PathBuf;

use anyhow::{Result, anyhow};
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
}

/// Upstream's default for both taints.
const TOLERATION_SECONDS: i64 = 300;

impl AdmissionFlags {
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
            gated: Vec::new(),
            enable: self.enable_admission_plugins.clone(),
            disable: self.disable_admission_plugins.clone(),
            only: None,
            configuration,
            toleration_seconds: Some(seconds.map(|given| given.unwrap_or(TOLERATION_SECONDS))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::flags::group;

    fn flags(given: &[(&'static str, &'static str)]) -> Result<Settings> {
        let all = |name: &str| given.iter().filter(|(flag, _)| *flag == name).map(|(_, value)| *value).collect();
        group::<AdmissionFlags>(all)?.settings()
    }

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let settings = flags(&[("enable-admission-plugins", "A,B"), ("default-not-ready-toleration-seconds", "5")]).unwrap();
        assert_eq!(settings.enable, ["A", "B"]);
        assert_eq!(settings.toleration_seconds, Some([5, 300]));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_flag() {
        let refused = flags(&[("admission-control-config-file", "/nowhere")]).unwrap_err().to_string();
        assert!(refused.starts_with("--admission-control-config-file: failed to read plugin config: unable to read"), "{refused}");
    }
}
