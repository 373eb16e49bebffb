//! The configuration of issuers as its file says now (`ApplyTo` of `pkg/kubeapiserver/options/authentication.go`).

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::RwLock;
use tracing::{error, info};

use super::{Configuration, Jwt, JwtOptions, keys::Algorithm};
use crate::{
    authn::tokens::{TokenError, Verified},
    metrics::tokens::{RELOADED, RELOADS},
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// New issuers have this long to be reached before they count (`UpdateAuthenticationConfigTimeout`).
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked whether they were.
const ASK: Duration = Duration::from_millis(100);

/// The issuers that count now.
pub(in crate::authn) struct Reload {
    current: RwLock<Arc<Jwt>>,
    algorithms: Vec<Algorithm>,
    disallowed: Vec<String>,
    first: Configuration,
    file: Option<(PathBuf, Vec<u8>)>,
}

impl Reload {
    /// Begins with what the options say; `disallowed` are issuers that are this server itself. Must be called within a runtime.
    pub(in crate::authn) fn new(options: JwtOptions, disallowed: &[String]) -> Result<Self, String> {
        let JwtOptions { configuration, algorithms, file } = options;
        let current = RwLock::new(Arc::new(Jwt::new(&configuration, &algorithms, disallowed)?));
        Ok(Self { current, algorithms, disallowed: disallowed.to_vec(), first: configuration, file })
    }

    pub(in crate::authn) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Option<Verified>, TokenError> {
        let current = self.current.read().clone();
        current.authenticate(token, audiences, now).await
    }

    /// Looks at the file for ever. What is wrong in it is told once and changes nothing; what cannot be reached is tried again.
    pub(in crate::authn) async fn follow(&self) {
        let Some((path, mut tracked)) = self.file.clone() else { return };
        loop {
            tokio::time::sleep(LOOK).await;
            let bytes = match tokio::task::spawn_blocking({
                let path = path.clone();
                move || std::fs::read(path)
            })
            .await
            {
                Ok(Ok(bytes)) if bytes != tracked => bytes,
                Ok(Err(why)) => {
                    error!(%why, "failed to read authentication config file");
                    count("failure");
                    continue;
                }
                _ => continue,
            };
            match self.take(&bytes).await {
                Ok(()) => {
                    info!("reloaded authentication config");
                    count("success");
                    tracked = bytes;
                }
                Err((why, lasting)) => {
                    error!(why, "failed to update authentication config");
                    count("failure");
                    if lasting {
                        tracked = bytes;
                    }
                }
            }
        }
    }

    /// Takes another configuration; the error says, too, whether it can never be taken.
    pub(super) async fn take(&self, bytes: &[u8]) -> Result<(), (String, bool)> {
        let lasting = |why: String| (why, true);
        let configuration = Configuration::parse(bytes).map_err(lasting)?;
        configuration.validate().map_err(lasting)?;
        if configuration.anonymous != self.first.anonymous {
            return Err(lasting("anonymous: Forbidden: changed from initial configuration file".to_owned()));
        }
        let next = Jwt::new(&configuration, &self.algorithms, &self.disallowed).map_err(lasting)?;
        let reached = async {
            while next.health().is_err() {
                tokio::time::sleep(ASK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            return Err((next.health().err().unwrap_or_default(), false));
        }
        *self.current.write() = Arc::new(next);
        Ok(())
    }
}

/// Counts a change of the file, and when it was.
fn count(status: &str) {
    RELOADS.inc([status]);
    RELOADED.set([status], Timestamp::now().as_second());
}
