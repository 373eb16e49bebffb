//! Flags of the audit log, under upstream's names.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, ValueEnum};
use coracle_apiserver::audit::{LogOptions, Mode, Options};

/// What is written down of requests, and where.
#[derive(Args, Debug, Clone)]
pub(crate) struct AuditFlags {
    /// Which requests are written down, and how much of them: an audit.k8s.io/v1 Policy. Without it nothing is.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_policy_file: Option<PathBuf>,

    /// Where they are written, a line of JSON each; - is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log_path: Option<PathBuf>,

    /// A file of so many megabytes is put aside, and a new one begun.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub(crate) audit_log_maxsize: u64,

    /// Days that files put aside are kept; 0: for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    pub(crate) audit_log_maxage: u64,

    /// Files put aside that are kept; 0: all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) audit_log_maxbackup: usize,

    /// Compress files put aside.
    #[arg(long)]
    pub(crate) audit_log_compress: bool,

    /// Whether a request waits until it is written down: batch (no), blocking, blocking-strict (and fails if it cannot be).
    #[arg(long, value_enum, default_value_t = AuditMode::Blocking)]
    pub(crate) audit_log_mode: AuditMode,
}

/// `--audit-log-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditMode {
    Batch,
    Blocking,
    BlockingStrict,
}

/// Events that wait to be written (upstream's `--audit-log-batch-buffer-size`).
const BUFFER: usize = 10_000;

/// The flags alone.
#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    audit: AuditFlags,
}

impl AuditFlags {
    /// From flags as kube-apiserver takes them; `given` tells the value of one. The error names the flag.
    pub(crate) fn of<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        const NAMES: [&str; 6] =
            ["audit-policy-file", "audit-log-path", "audit-log-maxsize", "audit-log-maxage", "audit-log-maxbackup", "audit-log-mode"];
        let mut line = vec!["kube-apiserver".to_owned()];
        line.extend(NAMES.iter().filter_map(|name| given(name).filter(|v| !v.is_empty()).map(|value| format!("--{name}={value}"))));
        if given("audit-log-compress") == Some("true") {
            line.push("--audit-log-compress".to_owned());
        }
        let parsed = Alone::try_parse_from(line).map_err(|e| anyhow!("{}", e.to_string().lines().next().unwrap_or_default()))?;
        Ok(parsed.audit)
    }
}

impl From<AuditFlags> for Options {
    fn from(flags: AuditFlags) -> Self {
        let mode = match flags.audit_log_mode {
            AuditMode::Batch => Mode::Batch,
            AuditMode::Blocking => Mode::Blocking,
            AuditMode::BlockingStrict => Mode::BlockingStrict,
        };
        let log = flags.audit_log_path.map(|path| LogOptions {
            path,
            max_size: flags.audit_log_maxsize,
            max_age: flags.audit_log_maxage,
            max_backups: flags.audit_log_maxbackup,
            compress: flags.audit_log_compress,
            mode,
            buffer: BUFFER,
        });
        Self { policy: flags.audit_policy_file, log }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let given = |name: &str| match name {
            "audit-policy-file" => Some("/p.yaml"),
            "audit-log-path" => Some("-"),
            "audit-log-mode" => Some("blocking-strict"),
            "audit-log-compress" => Some("true"),
            "audit-log-maxage" => Some("3"),
            _ => None,
        };
        let options = Options::from(AuditFlags::of(given).unwrap());
        let log = options.log.unwrap();
        assert_eq!((options.policy, log.path), (Some("/p.yaml".into()), PathBuf::from("-")));
        assert_eq!((log.mode, log.compress, log.max_age, log.max_size), (Mode::BlockingStrict, true, 3, 100));
        let wrong = AuditFlags::of(|name| (name == "audit-log-mode").then_some("sometimes")).unwrap_err().to_string();
        assert!(wrong.contains("sometimes") && wrong.contains("--audit-log-mode"), "{wrong}");
    }
}
