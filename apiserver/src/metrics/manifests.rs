//! Series of the policies and webhooks of files (`admission/plugin/manifest/metrics`).

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{
    Family,
    page::{Page, Type},
    series::{Counters, Gauges},
};

const CONFIG: (&str, &str) = (
    "apiserver_manifest_admission_config_controller_last_config_info",
    "[ALPHA] Information about the last applied admission manifest configuration with hash as label, split by plugin and apiserver identity.",
);

static RELOADS: Counters<3> = Counters::new(
    "apiserver_manifest_admission_config_controller_automatic_reloads_total",
    "[ALPHA] Total number of automatic reloads of admission manifest configuration split by status, plugin, and apiserver identity.",
    ["apiserver_id_hash", "plugin", "status"],
);

static LAST_RELOADS: Gauges<3> = Gauges::new(
    "apiserver_manifest_admission_config_controller_automatic_reload_last_timestamp_seconds",
    "[ALPHA] Timestamp of the last automatic reload of admission manifest configuration split by status, plugin, and apiserver identity.",
    ["apiserver_id_hash", "plugin", "status"],
);

static NOW: Now = Now(Mutex::new(BTreeMap::new()));

/// The families of this file.
pub(super) static ALL: [&dyn Family; 3] = [&RELOADS, &LAST_RELOADS, &NOW];

/// Of each plugin the hash of its server's identity, and of the files in force.
struct Now(Mutex<BTreeMap<&'static str, (String, String)>>);

impl Family for Now {
    #[cfg(test)]
    fn abouts(&self) -> Vec<(&'static str, &'static str)> {
        vec![CONFIG]
    }

    fn write(&self, page: &mut Page) {
        let mut family = page.family(CONFIG.0, Type::Gauge, CONFIG.1);
        for (plugin, (server, files)) in &*self.0.lock() {
            family.pairs(&[("apiserver_id_hash", server), ("hash", files), ("plugin", plugin)], 1.0);
        }
    }
}

/// The files of a plugin were read: `files` is the hash of what is in force from now on, none where they are refused.
pub(crate) fn reloaded(server: &str, plugin: &'static str, files: Option<&str>) {
    let status = if files.is_some() { "success" } else { "failure" };
    RELOADS.inc([server, plugin, status]);
    LAST_RELOADS.set([server, plugin, status], jiff::Timestamp::now().as_second());
    if let Some(files) = files {
        NOW.0.lock().insert(plugin, (server.to_owned(), files.to_owned()));
    }
}
