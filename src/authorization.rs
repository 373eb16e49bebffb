//! Flags of authorization: kube-apiserver's own names and meanings, taken by `coracle server` and by the drop-in alike
//! (kubernetes `pkg/kubeapiserver/options/authorization.go`).

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use coracle_apiserver::authz::{
    Mode, Options, abac,
    configuration::{Configuration, Configured, Version, WebhookSettings},
};

use crate::dropin::flags::{group, span};

/// What a question to the webhook of `--authorization-mode` may take; those of a configuration file say it themselves.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The name of that webhook.
const WEBHOOK: &str = "default";
/// Upstream's defaults.
const AUTHORIZED: Duration = Duration::from_secs(300);
const UNAUTHORIZED: Duration = Duration::from_secs(30);
const VERSION: &str = "v1beta1";

/// The flags, as they are written.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AuthorizationFlags {
    /// Who decides what may be done, in order: Node, RBAC, Webhook, ABAC, AlwaysAllow, AlwaysDeny. Default: Node,RBAC.
    #[arg(long, value_name = "MODE,…", value_delimiter = ',')]
    pub(crate) authorization_mode: Vec<String>,

    /// An AuthorizationConfiguration instead of the mode: webhooks with conditions, time limits, failure policies. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_config: Option<PathBuf>,

    /// The policies of mode ABAC, a line each.
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_policy_file: Option<PathBuf>,

    /// The webhook of mode Webhook, as a kubeconfig.
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_webhook_config_file: Option<PathBuf>,

    /// The SubjectAccessReview it takes: v1 or v1beta1. Default: v1beta1.
    #[arg(long, value_name = "VERSION")]
    pub(crate) authorization_webhook_version: Option<String>,

    /// How long its permissions are remembered. Default: 5m0s.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub(crate) authorization_webhook_cache_authorized_ttl: Option<Duration>,

    /// How long its refusals are remembered. Default: 30s.
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub(crate) authorization_webhook_cache_unauthorized_ttl: Option<Duration>,

    /// A folder of Cedar policies (*.cedar), beside those that are objects; needs the mode Cedar.
    #[cfg(feature = "cedar")]
    #[arg(long, value_name = "DIR")]
    pub(crate) cedar_policy_dir: Option<PathBuf>,
}

impl AuthorizationFlags {
    /// From flags as kube-apiserver takes them: `given` tells all values of one. The error names the flag.
    pub(crate) fn of<'a>(given: impl Fn(&str) -> Vec<&'a str>) -> Result<Self> {
        let flags: Self = group(given)?;
        #[cfg(feature = "cedar")]
        let flags = Self { cedar_policy_dir: std::env::var_os("CORACLE_CEDAR_POLICY_DIR").map(PathBuf::from), ..flags };
        Ok(flags)
    }

    /// What the flags say; these modes when they say nothing. Files are read.
    pub(crate) fn options(&self, default: &[Mode]) -> Result<Options> {
        if let Some(file) = &self.authorization_config {
            if self.names_modes() {
                bail!(
                    "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"
                );
            }
            return self.with_cedar(Options::read(file).map_err(|why| anyhow!("--authorization-config: {why}"))?);
        }
        let modes = self.modes(default)?;
        let authorizers: Result<Vec<Configured>> = modes.into_iter().map(|mode| self.configured(mode)).collect();
        let read =
            |file| abac::Policies::read(file).map_err(|why| anyhow!("--authorization-policy-file: invalid authorization config: {why}"));
        self.with_cedar(Options {
            configuration: Configuration { authorizers: authorizers? },
            policies: self.authorization_policy_file.as_deref().map(read).transpose()?,
            ..Options::of(&[])
        })
    }

    #[cfg(feature = "cedar")]
    fn with_cedar(&self, mut options: Options) -> Result<Options> {
        if self.cedar_policy_dir.is_some() && !options.has(Mode::Cedar) {
            bail!("cannot specify --cedar-policy-dir without mode Cedar");
        }
        options.cedar.folder.clone_from(&self.cedar_policy_dir);
        Ok(options)
    }

    #[cfg(not(feature = "cedar"))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "with Cedar it may fail")]
    fn with_cedar(&self, options: Options) -> Result<Options> {
        Ok(options)
    }

    fn names_modes(&self) -> bool {
        !self.authorization_mode.is_empty()
            || self.authorization_webhook_config_file.is_some()
            || self.authorization_webhook_version.is_some()
            || self.authorization_webhook_cache_authorized_ttl.is_some()
            || self.authorization_webhook_cache_unauthorized_ttl.is_some()
    }

    /// The modes, each at most once, with the files they need and no others. All that is wrong is told.
    fn modes(&self, default: &[Mode]) -> Result<Vec<Mode>> {
        let (mut modes, mut wrong) = (Vec::new(), Vec::new());
        for name in &self.authorization_mode {
            match Mode::named(name) {
                Some(mode) => modes.push(mode),
                None => wrong.push(format!("authorization-mode {name:?} is not a valid mode; allowed: {}", names())),
            }
        }
        let modes = if self.authorization_mode.is_empty() { default.to_vec() } else { modes };
        for (mode, name, what, flag, file) in [
            (Mode::Abac, "ABAC", "policy", "authorization-policy-file", &self.authorization_policy_file),
            (Mode::Webhook, "Webhook", "config", "authorization-webhook-config-file", &self.authorization_webhook_config_file),
        ] {
            match (modes.contains(&mode), file) {
                (true, None) => wrong.push(format!("authorization-mode {name}'s authorization {what} file not passed (--{flag})")),
                (false, Some(_)) => wrong.push(format!("cannot specify --{flag} without mode {name}")),
                _ => {}
            }
        }
        if (1..modes.len()).any(|at| modes[..at].contains(&modes[at])) {
            let names: Vec<String> = self.authorization_mode.iter().map(|name| format!("{name:?}")).collect();
            wrong.push(format!("authorization-mode [{}] has mode specified more than once", names.join(" ")));
        }
        match wrong.len() {
            0 => Ok(modes),
            1 => bail!("{}", wrong.swap_remove(0)),
            _ => bail!("[{}]", wrong.join(", ")),
        }
    }

    fn configured(&self, mode: Mode) -> Result<Configured> {
        if mode != Mode::Webhook {
            return Ok(Configured::of(mode));
        }
        let version = self.authorization_webhook_version.as_deref().unwrap_or(VERSION);
        let webhook = WebhookSettings {
            kubeconfig: self.authorization_webhook_config_file.clone(),
            timeout: TIMEOUT,
            authorized: self.authorization_webhook_cache_authorized_ttl.unwrap_or(AUTHORIZED),
            unauthorized: self.authorization_webhook_cache_unauthorized_ttl.unwrap_or(UNAUTHORIZED),
            version: Version::named(version).map_err(|why| anyhow!("--authorization-webhook-version: {why}"))?,
            deny_on_failure: false,
            conditions: Vec::new(),
        };
        Ok(Configured { name: WEBHOOK.to_owned(), mode, webhook: Some(webhook) })
    }
}

/// The modes there are in this build.
fn names() -> String {
    Mode::ALL.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(modes: &[&str]) -> AuthorizationFlags {
        AuthorizationFlags { authorization_mode: modes.iter().map(ToString::to_string).collect(), ..AuthorizationFlags::default() }
    }

    fn modes(flags: &AuthorizationFlags) -> Result<Vec<Mode>, String> {
        let options = flags.options(&[Mode::AlwaysAllow]).map_err(|error| error.to_string())?;
        Ok(options.configuration.authorizers.iter().map(|one| one.mode).collect())
    }

    #[test]
    fn modes_are_taken_in_order_and_unknown_ones_refused() {
        assert_eq!(modes(&flags(&["Node", "RBAC"])), Ok(vec![Mode::Node, Mode::Rbac]));
        assert_eq!(modes(&flags(&[])), Ok(vec![Mode::AlwaysAllow]));
        let wrong = modes(&flags(&["Foo", "RBAC", "RBAC"])).unwrap_err();
        assert!(wrong.starts_with("[authorization-mode \"Foo\" is not a valid mode"), "{wrong}");
        assert!(wrong.ends_with("authorization-mode [\"Foo\" \"RBAC\" \"RBAC\"] has mode specified more than once]"), "{wrong}");
    }

    #[test]
    fn modes_need_their_files_and_files_their_modes() {
        assert!(modes(&flags(&["Webhook"])).unwrap_err().contains("Webhook's authorization config file not passed"));
        assert!(modes(&flags(&["ABAC"])).unwrap_err().contains("ABAC's authorization policy file not passed"));
        let lone = AuthorizationFlags { authorization_policy_file: Some("x".into()), ..flags(&["RBAC"]) };
        assert_eq!(modes(&lone).unwrap_err(), "cannot specify --authorization-policy-file without mode ABAC");
        let both = AuthorizationFlags { authorization_config: Some("x".into()), ..flags(&["RBAC"]) };
        assert!(modes(&both).unwrap_err().starts_with("--authorization-config can not be specified when"));
        let missing = AuthorizationFlags { authorization_config: Some("/nonexistent".into()), ..flags(&[]) };
        assert!(modes(&missing).unwrap_err().ends_with("open /nonexistent: no such file or directory"));
    }

    #[test]
    fn the_webhook_of_the_mode_has_upstreams_defaults() {
        let given = AuthorizationFlags { authorization_webhook_config_file: Some("/k".into()), ..flags(&["Webhook"]) };
        let webhook = given.options(&[]).unwrap().configuration.authorizers[0].webhook.clone().unwrap();
        assert_eq!((webhook.authorized.as_secs(), webhook.unauthorized.as_secs(), webhook.version), (300, 30, Version::V1beta1));
        let wrong = AuthorizationFlags { authorization_webhook_version: Some("v3".into()), ..given.clone() };
        assert!(wrong.options(&[]).unwrap_err().to_string().contains("unsupported webhook authorizer version \"v3\""));
        let wrong = AuthorizationFlags::of(|name| if name.ends_with("-authorized-ttl") { vec!["x"] } else { Vec::new() });
        assert!(wrong.unwrap_err().to_string().contains("--authorization-webhook-cache-authorized-ttl"));
    }
}
