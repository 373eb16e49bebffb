//! From a configuration to a chain, and again when its file changes (kubernetes `pkg/kubeapiserver/authorizer/{config,reload}.go`).

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::{info, warn};

use super::{
    Chain, Link, Mode, abac,
    configuration::{Configuration, Configured},
    fixed, node, rbac,
    webhook::WebhookAuthorizer,
};
use crate::{verbs::Clock, webhook::Egress};

/// How often a configuration file is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Who decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The authorizers in order.
    pub configuration: Configuration,
    /// Where the configuration was read from and what stood there: it is read again when it changes.
    pub file: Option<(PathBuf, Vec<u8>)>,
    /// The policies of [`Mode::Abac`].
    pub policies: Option<abac::Policies>,
    /// Where the policies of [`Mode::Cedar`] are.
    #[cfg(feature = "cedar")]
    pub cedar: super::cedar::Options,
}

/// What authorizers are made of that outlasts configurations.
pub(crate) struct Authorizers {
    pub(crate) nodes: Arc<node::NodeAuthorizer>,
    pub(crate) rbac: Arc<rbac::Rbac>,
    pub(crate) policies: Option<Arc<abac::Policies>>,
    #[cfg(feature = "cedar")]
    pub(crate) cedar: Option<Arc<super::cedar::Cedar>>,
    /// By which way webhooks are reached.
    pub(crate) egress: Egress,
    pub(crate) clock: Clock,
}

/// Follows a configuration file.
pub(crate) struct Reload {
    authorizers: Authorizers,
    chain: Chain,
    file: PathBuf,
    /// What was read last, good or bad.
    read: Vec<u8>,
    configuration: Configuration,
    /// Modes that there were from the start.
    lasting: HashSet<Mode>,
}

impl Options {
    /// These modes in order; none of them is a webhook or needs a file.
    pub fn of(modes: &[Mode]) -> Self {
        let authorizers = modes.iter().copied().map(Configured::of).collect();
        Self {
            configuration: Configuration { authorizers },
            file: None,
            policies: None,
            #[cfg(feature = "cedar")]
            cedar: Default::default(),
        }
    }

    /// What a configuration file says.
    pub fn read(file: &Path) -> Result<Self, String> {
        let (configuration, bytes) = Configuration::load(file)?;
        Ok(Self { configuration, file: Some((file.to_owned(), bytes)), ..Self::of(&[]) })
    }

    /// Whether one of the authorizers is of this mode.
    pub fn has(&self, mode: Mode) -> bool {
        self.configuration.authorizers.iter().any(|one| one.mode == mode)
    }
}

impl Authorizers {
    /// The chain of a configuration, and what keeps it up to date. The error is that of the start.
    pub(crate) fn start(self, options: Options) -> Result<(Chain, Option<Reload>), String> {
        let Options { configuration, file, .. } = options;
        let links = self.links(&configuration).map_err(|why| format!("invalid authorization config: {why}"))?;
        let Some((file, read)) = file else { return Ok((Chain::of(links), None)) };
        let chain = Chain::reloaded(links);
        let lasting = configuration.lasting();
        Ok((chain.clone(), Some(Reload { authorizers: self, chain, file, read, configuration, lasting })))
    }

    fn links(&self, configuration: &Configuration) -> Result<Vec<Link>, String> {
        configuration.authorizers.iter().map(|one| self.link(one)).collect()
    }

    fn link(&self, one: &Configured) -> Result<Link, String> {
        Ok(match (one.mode, &one.webhook) {
            (Mode::Node, _) => Link::Local(self.nodes.clone()),
            (Mode::Rbac, _) => Link::Local(self.rbac.clone()),
            (Mode::AlwaysAllow, _) => Link::Local(Arc::new(fixed::Allow)),
            (Mode::AlwaysDeny, _) => Link::Local(Arc::new(fixed::Deny)),
            (Mode::Abac, _) => Link::Local(
                self.policies.clone().ok_or("authorizer type ABAC is not allowed if it was not enabled at initial server startup")?,
            ),
            (Mode::Webhook, Some(settings)) => {
                Link::Remote(Arc::new(WebhookAuthorizer::new(one, settings, &self.egress, self.clock.clone())?))
            }
            #[cfg(feature = "cedar")]
            (Mode::Cedar, _) => Link::Local(
                self.cedar.clone().ok_or("authorizer type Cedar is not allowed if it was not enabled at initial server startup")?,
            ),
            (Mode::Webhook, None) => return Err(format!("authorizer {:?} says nothing of its webhook", one.name)),
        })
    }
}

impl Reload {
    /// Looks at the file until the server stops; run it as a task.
    pub(crate) async fn follow(mut self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let file = self.file.clone();
            let Ok(bytes) = tokio::task::spawn_blocking(move || std::fs::read(file)).await else { continue };
            match bytes {
                Ok(bytes) => self.take(bytes),
                Err(error) => warn!(%error, file = %self.file.display(), "reloading authorization config"),
            }
        }
    }

    /// Goes by what stands in the file now; what is wrong with it leaves everything as it was.
    fn take(&mut self, bytes: Vec<u8>) {
        if bytes == self.read {
            return;
        }
        let file = self.file.display().to_string();
        let next = Configuration::parse(&bytes).and_then(|next| self.fits(next));
        self.read = bytes;
        match next {
            Ok(next) if next == self.configuration => {}
            Ok(next) => match self.authorizers.links(&next) {
                Ok(links) => {
                    self.chain.replace(links);
                    self.configuration = next;
                    info!(file, "reloaded authz config");
                }
                Err(error) => warn!(error, file, "reloading authorization config"),
            },
            Err(error) => warn!(error, file, "reloading authorization config"),
        }
    }

    /// What is made once at the start can neither be missing later nor be added.
    fn fits(&self, next: Configuration) -> Result<Configuration, String> {
        let modes = next.lasting();
        let mut missing: Vec<&str> = self.lasting.difference(&modes).map(|mode| mode.name()).collect();
        missing.sort_unstable();
        if !missing.is_empty() {
            return Err(format!("missing required types: [{}]", missing.join(" ")));
        }
        let always = [Mode::AlwaysAllow, Mode::AlwaysDeny];
        let added = |mode: &&Mode| !always.contains(mode) && !self.lasting.contains(*mode);
        match modes.iter().find(added) {
            Some(mode) => Err(format!("authorizer type {} is not allowed if it was not enabled at initial server startup", mode.name())),
            None => Ok(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authn::User, request::RequestInfo};

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n";

    fn following(rest: &str) -> (Chain, Reload) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{HEAD}{rest}")).unwrap();
        let authorizers = Authorizers {
            nodes: Arc::new(node::NodeAuthorizer::new(Vec::new())),
            rbac: Arc::default(),
            policies: None,
            #[cfg(feature = "cedar")]
            cedar: None,
            egress: Egress::default(),
            clock: Arc::new(jiff::Timestamp::now),
        };
        let (chain, reload) = authorizers.start(Options::read(file.path()).unwrap()).unwrap();
        (chain, reload.unwrap())
    }

    #[tokio::test]
    async fn a_changed_file_changes_who_decides_and_a_bad_one_changes_nothing() {
        let (chain, mut reload) = following("- {type: RBAC, name: rbac}\n");
        let jane = User::new("jane", &[]);
        let allowed = async || chain.decide(&jane, &RequestInfo::default()).await.is_allowed();
        assert!(!allowed().await);
        reload.take(format!("{HEAD}- {{type: AlwaysAllow, name: alwaysallow}}\n- {{type: RBAC, name: rbac}}\n").into());
        assert!(allowed().await);
        for bad in [
            "",
            "- {type: AlwaysDeny, name: alwaysdeny}\n",
            "- {type: RBAC, name: x}\n",
            "- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n",
        ] {
            reload.take(format!("{HEAD}{bad}").into());
            assert!(allowed().await, "{bad}");
        }
        reload.take(format!("{HEAD}- {{type: RBAC, name: rbac}}\n- {{type: AlwaysDeny, name: alwaysdeny}}\n").into());
        assert!(!allowed().await);
    }

    #[test]
    fn what_a_reload_may_not_change_is_told() {
        let (_, reload) = following("- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n- {type: AlwaysDeny, name: alwaysdeny}\n");
        let fits = |modes: &[Mode]| reload.fits(Options::of(modes).configuration).map(|_| ());
        assert_eq!(fits(&[Mode::Node]).unwrap_err(), "missing required types: [AlwaysDeny RBAC]");
        let abac = fits(&[Mode::Node, Mode::Rbac, Mode::AlwaysDeny, Mode::Abac]);
        assert_eq!(abac.unwrap_err(), "authorizer type ABAC is not allowed if it was not enabled at initial server startup");
        assert!(fits(&[Mode::AlwaysDeny, Mode::AlwaysAllow, Mode::Rbac, Mode::Node]).is_ok());
    }
}
