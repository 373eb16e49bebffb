//! Reads the configuration again when it changes, asks the services that keep keys, and tries again what could not be read.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info};

use super::{AtRest, Rules, config};
use crate::{metrics::atrest as metrics, registry::Storage};

/// How often somebody looks.
const TICK: Duration = Duration::from_secs(1);
/// How often at the file: upstream follows its changes, and looks each minute.
const FILE: Duration = Duration::from_secs(5);
/// How often at what could not be read.
const FAULTS: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
pub(crate) async fn follow(rest: Arc<AtRest>, storage: Arc<Storage>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut file, mut faults) = (Instant::now(), Instant::now());
    loop {
        ticks.tick().await;
        if rest.options.reload && file.elapsed() >= FILE {
            file = Instant::now();
            if rest.reload().await {
                faults -= FAULTS;
            }
        }
        let services = rest.rules.read().services.clone();
        for service in services {
            // Whoever asks about health is told; asked so soon again, the last answer comes back.
            let _ = service.check().await;
        }
        if faults.elapsed() >= FAULTS {
            faults = Instant::now();
            for prefix in rest.retry().await {
                info!(prefix, "objects can be read that could not before");
                storage.reload(&prefix);
            }
        }
    }
}

impl AtRest {
    /// Takes the configuration as it is now, if it has changed and is good; whether it has.
    pub(super) async fn reload(&self) -> bool {
        let changed = match config::read(&self.options.file) {
            Ok(file) => file.digest != self.rules.read().digest,
            Err(why) => {
                error!(error = why, "failed to process encryption config");
                metrics::reloaded(false);
                return false;
            }
        };
        if !changed {
            return false;
        }
        let loaded = match Rules::load(&self.options, &self.places).await {
            Ok(rules) => well(&rules).await.map(|()| rules),
            Err(why) => Err(why),
        };
        metrics::reloaded(loaded.is_ok());
        match loaded {
            Ok(rules) => {
                info!(file = %self.options.file.display(), "loaded new encryption config content");
                *self.rules.write() = Arc::new(rules);
                true
            }
            Err(why) => {
                error!(error = why, "encryption config is not taken; the one before stays in force");
                false
            }
        }
    }
}

/// A service nobody can reach would make objects unreadable: the configuration before stays until it is there.
async fn well(rules: &Rules) -> Result<(), String> {
    for service in &rules.services {
        service.check().await?;
    }
    Ok(())
}
