//! Flags of the audit log and webhook, under upstream's names.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::{ArgAction, Args, ValueEnum};
use coracle_apiserver::audit::{Batch, Format, HookOptions, LogOptions, Mode, Options, Truncation};

use crate::dropin::flags::{span, truth};

/// What is written down of requests, and where.
#[derive(Args, Debug, Clone)]
pub(crate) struct AuditFlags {
    /// Which requests are written down, and how much of them: an audit.k8s.io/v1 Policy. Without it nothing is.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_policy_file: Option<PathBuf>,

    #[command(flatten)]
    log: LogFlags,

    #[command(flatten)]
    webhook: WebhookFlags,
}

/// `--audit-log-*`
#[derive(Args, Debug, Clone)]
struct LogFlags {
    /// Where they are written, a line of JSON each; - is standard output.
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,

    /// A file of so many megabytes is put aside, and a new one begun; 0: never.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    audit_log_maxsize: u64,

    /// Days that files put aside are kept; 0: for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    audit_log_maxage: u64,

    /// Files put aside that are kept; 0: all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    audit_log_maxbackup: usize,

    /// Compress files put aside.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    audit_log_compress: bool,

    /// How an event is written: json, or legacy (a line of text).
    #[arg(long, value_enum, default_value_t = AuditFormat::Json)]
    audit_log_format: AuditFormat,

    /// Whether a request waits until it is written down: batch (no), blocking, blocking-strict (and fails if it cannot be).
    #[arg(long, value_enum, default_value_t = AuditMode::Blocking)]
    audit_log_mode: AuditMode,

    /// Version of the events.
    #[arg(long, value_name = "VERSION", default_value = VERSION, value_parser = [VERSION], hide = true)]
    audit_log_version: String,

    /// Events that wait to be written, in batch mode: more are lost.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    audit_log_batch_buffer_size: i64,

    /// Events written at once, in batch mode.
    #[arg(long, value_name = "N", default_value_t = 1)]
    audit_log_batch_max_size: i64,

    /// Fewer are written after this long.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = span)]
    audit_log_batch_max_wait: Duration,

    /// Limit how many batches are written.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    audit_log_batch_throttle_enable: bool,

    /// Batches a second.
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    audit_log_batch_throttle_qps: f64,

    /// Batches at once.
    #[arg(long, value_name = "N", default_value_t = 0)]
    audit_log_batch_throttle_burst: i64,

    /// Take the objects out of events that are too large.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    audit_log_truncate_enabled: bool,

    /// Not below that of an event, in bytes. Events come one by one where they are made smaller, so that no batch is parted.
    #[arg(long, value_name = "BYTES", default_value_t = 10_485_760)]
    audit_log_truncate_max_batch_size: i64,

    /// Larger events lose their objects, in bytes; those that are still larger are lost.
    #[arg(long, value_name = "BYTES", default_value_t = 102_400)]
    audit_log_truncate_max_event_size: i64,
}

/// `--audit-webhook-*`
#[derive(Args, Debug, Clone)]
struct WebhookFlags {
    /// Where events are sent: a kubeconfig that names a webhook.
    #[arg(long, value_name = "FILE")]
    audit_webhook_config_file: Option<PathBuf>,

    /// The pause before events are sent again the first time.
    #[arg(long, alias = "audit-webhook-batch-initial-backoff", value_name = "TIME", default_value = "10s", value_parser = span)]
    audit_webhook_initial_backoff: Duration,

    /// Whether a request waits until its event is sent: batch (no), blocking, blocking-strict (and fails if it cannot be).
    #[arg(long, value_enum, default_value_t = AuditMode::Batch)]
    audit_webhook_mode: AuditMode,

    /// Version of the events.
    #[arg(long, value_name = "VERSION", default_value = VERSION, value_parser = [VERSION], hide = true)]
    audit_webhook_version: String,

    /// Events that wait to be sent, in batch mode: more are lost.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: i64,

    /// Events sent at once, in batch mode.
    #[arg(long, value_name = "N", default_value_t = 400)]
    audit_webhook_batch_max_size: i64,

    /// Fewer are sent after this long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span)]
    audit_webhook_batch_max_wait: Duration,

    /// Limit how many batches are sent.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    audit_webhook_batch_throttle_enable: bool,

    /// Batches a second.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f64,

    /// Batches at once.
    #[arg(long, value_name = "N", default_value_t = 15)]
    audit_webhook_batch_throttle_burst: i64,

    /// Take the objects out of events that are too large.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    audit_webhook_truncate_enabled: bool,

    /// Not below that of an event, in bytes. As upstream, batches are made of what was made smaller before, and are not parted.
    #[arg(long, value_name = "BYTES", default_value_t = 10_485_760)]
    audit_webhook_truncate_max_batch_size: i64,

    /// Larger events lose their objects, in bytes; those that are still larger are lost.
    #[arg(long, value_name = "BYTES", default_value_t = 102_400)]
    audit_webhook_truncate_max_event_size: i64,
}

/// The one version there is.
const VERSION: &str = "audit.k8s.io/v1";

/// `--audit-log-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditMode {
    Batch,
    Blocking,
    BlockingStrict,
}

/// `--audit-log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditFormat {
    Json,
    Legacy,
}

impl AuditFlags {
    /// As the server takes them; the errors are upstream's.
    pub(crate) fn options(self) -> Result<Options> {
        let log = self.log.audit_log_path.clone().map(|path| self.log.options(path)).transpose()?;
        let webhook = self.webhook.audit_webhook_config_file.clone().map(|file| self.webhook.options(file)).transpose()?;
        Ok(Options { policy: self.audit_policy_file, log, webhook })
    }
}

impl LogFlags {
    fn options(self, path: PathBuf) -> Result<LogOptions> {
        let mode = self.audit_log_mode.into();
        let throttle =
            self.audit_log_batch_throttle_enable.then_some((self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst));
        let sizes = (self.audit_log_batch_buffer_size, self.audit_log_batch_max_size);
        let truncation = (self.audit_log_truncate_max_event_size, self.audit_log_truncate_max_batch_size);
        Ok(LogOptions {
            path,
            max_size: self.audit_log_maxsize,
            max_age: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            compress: self.audit_log_compress,
            mode,
            batch: batch("log", mode, sizes, self.audit_log_batch_max_wait, throttle)?,
            truncation: truncated("log", self.audit_log_truncate_enabled, truncation)?,
            format: match self.audit_log_format {
                AuditFormat::Json => Format::Json,
                AuditFormat::Legacy => Format::Legacy,
            },
        })
    }
}

impl WebhookFlags {
    fn options(self, config: PathBuf) -> Result<HookOptions> {
        let mode = self.audit_webhook_mode.into();
        let throttle = self
            .audit_webhook_batch_throttle_enable
            .then_some((self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst));
        let sizes = (self.audit_webhook_batch_buffer_size, self.audit_webhook_batch_max_size);
        let truncation = (self.audit_webhook_truncate_max_event_size, self.audit_webhook_truncate_max_batch_size);
        Ok(HookOptions {
            config,
            mode,
            batch: batch("webhook", mode, sizes, self.audit_webhook_batch_max_wait, throttle)?,
            truncation: truncated("webhook", self.audit_webhook_truncate_enabled, truncation)?,
            backoff: self.audit_webhook_initial_backoff,
        })
    }
}

impl From<AuditMode> for Mode {
    fn from(mode: AuditMode) -> Self {
        match mode {
            AuditMode::Batch => Self::Batch,
            AuditMode::Blocking => Self::Blocking,
            AuditMode::BlockingStrict => Self::BlockingStrict,
        }
    }
}

/// What only counts in batch mode is only checked there (`validateBackendBatchOptions`).
fn batch(of: &str, mode: Mode, (buffer, size): (i64, i64), wait: Duration, throttle: Option<(f64, i64)>) -> Result<Batch> {
    let positive = |what: &str, value: i64| match usize::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ if mode != Mode::Batch => Ok(1),
        _ => bail!("invalid audit batch {of} {what} {value}, must be a positive number"),
    };
    let throttle = match throttle {
        Some((rate, _)) if mode == Mode::Batch && (rate.is_nan() || rate <= 0.0) => {
            bail!("invalid audit batch {of} throttle QPS {rate}, must be a positive number")
        }
        Some((rate, burst)) => Some((rate, positive("throttle burst", burst)?)),
        None => None,
    };
    Ok(Batch { buffer: positive("buffer size", buffer)?, size: positive("max batch size", size)?, wait, throttle })
}

fn truncated(of: &str, enabled: bool, (event, whole): (i64, i64)) -> Result<Option<Truncation>> {
    let Some(most) = usize::try_from(event).ok().filter(|most| *most > 0) else {
        bail!("invalid audit truncate {of} max event size {event}, must be a positive number")
    };
    if whole < event {
        bail!("invalid audit truncate {of} max batch size {whole}, must be greater than max event size ({event})");
    }
    Ok(enabled.then_some(Truncation { event: most }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::flags::group;

    fn options(given: &[(&str, &'static str)]) -> Result<Options> {
        let all = |name: &str| given.iter().filter(|(flag, _)| *flag == name).map(|(_, value)| *value).collect();
        group::<AuditFlags>(all).and_then(AuditFlags::options)
    }

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let given = [
            ("audit-policy-file", "/p.yaml"),
            ("audit-log-path", "-"),
            ("audit-log-mode", "blocking-strict"),
            ("audit-log-compress", "1"),
            ("audit-log-maxage", "3"),
            ("audit-log-truncate-enabled", "false"),
            ("audit-log-truncate-enabled", "T"),
            ("audit-webhook-config-file", "/hook.yaml"),
            ("audit-webhook-batch-initial-backoff", "2s"),
            ("audit-webhook-batch-throttle-enable", "false"),
            ("audit-webhook-batch-max-wait", "1m"),
        ];
        let Options { policy, log, webhook } = options(&given).unwrap();
        let (log, webhook) = (log.unwrap(), webhook.unwrap());
        assert_eq!((policy, log.path), (Some("/p.yaml".into()), PathBuf::from("-")));
        assert_eq!((log.mode, log.compress, log.max_age, log.max_size), (Mode::BlockingStrict, true, 3, 100));
        assert_eq!((log.truncation, log.batch.size), (Some(Truncation { event: 102_400 }), 1));
        assert_eq!((webhook.mode, webhook.backoff, webhook.truncation), (Mode::Batch, Duration::from_secs(2), None));
        assert_eq!(webhook.batch, Batch { buffer: 10_000, size: 400, wait: Duration::from_secs(60), throttle: None });
        let throttled = options(&[("audit-webhook-config-file", "/hook.yaml")]).unwrap().webhook.unwrap().batch.throttle;
        assert_eq!(throttled, Some((10.0, 15)));
    }

    #[test]
    fn wrong_values_are_refused_and_the_flag_named() {
        let wrong = |given: &[(&str, &'static str)]| options(given).unwrap_err().to_string();
        let mode = wrong(&[("audit-log-mode", "sometimes")]);
        assert!(mode.contains("sometimes") && mode.contains("--audit-log-mode"), "{mode}");
        let (file, path) = (("audit-webhook-config-file", "/hook.yaml"), ("audit-log-path", "-"));
        assert_eq!(
            wrong(&[file, ("audit-webhook-batch-buffer-size", "0")]),
            "invalid audit batch webhook buffer size 0, must be a positive number"
        );
        assert_eq!(
            wrong(&[file, ("audit-webhook-batch-throttle-qps", "0")]),
            "invalid audit batch webhook throttle QPS 0, must be a positive number"
        );
        assert!(wrong(&[file, ("audit-webhook-batch-throttle-qps", "NaN")]).contains("throttle QPS NaN, must be a positive number"));
        assert_eq!(
            wrong(&[path, ("audit-log-truncate-max-batch-size", "1")]),
            "invalid audit truncate log max batch size 1, must be greater than max event size (102400)"
        );
        assert!(options(&[path, ("audit-log-batch-buffer-size", "0")]).is_ok(), "unused where requests wait");
        assert!(wrong(&[path, ("audit-log-version", "audit.k8s.io/v1beta1")]).contains("audit.k8s.io/v1beta1"));
    }
}
