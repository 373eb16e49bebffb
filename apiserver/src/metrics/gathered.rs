//! What is looked up when `/metrics` is read.

use std::{collections::HashSet, sync::Arc};

use super::{gates, page::Page, store};
use crate::{
    gates::Gates,
    registry::{Catalog, Kind},
    request::{
        layers::Layers,
        paths::{self, GIT_VERSION},
    },
};

/// What upstream calls the first of its stores.
const STORE: &str = "etcd-0";

pub(super) async fn write(page: &mut Page, layers: &Arc<Layers>) {
    in_flight(page, layers);
    objects(page, layers).await;
    version(page, layers);
    features(page, &layers.api.gates);
}

fn in_flight(page: &mut Page, layers: &Layers) {
    const NAME: &str = "apiserver_current_inflight_requests";
    const HELP: &str =
        "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.";
    let (reads, writes, _) = layers.limits.in_flight();
    page.gauge(NAME, HELP, &[("request_kind", "readOnly")], reads as f64);
    page.gauge(NAME, HELP, &[("request_kind", "mutating")], writes as f64);
}

/// How many objects of each resource are stored, and how large the store's file is.
async fn objects(page: &mut Page, layers: &Layers) {
    const NAME: &str = "apiserver_resource_objects";
    const HELP: &str =
        "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.";
    let storage = &layers.api.storage;
    for (prefix, kind) in stored(&storage.catalog()) {
        let count = storage.count(prefix).await.map_or(-1.0, |count| count as f64);
        page.gauge(NAME, HELP, &[("group", &kind.id.group), ("resource", &kind.id.resource)], count);
    }
    store::write(page, storage, STORE).await;
}

/// Each collection there is, by its prefix, and a kind of what is in it.
pub(super) fn stored(catalog: &Catalog) -> impl Iterator<Item = (&str, &Arc<Kind>)> {
    let custom = catalog.custom().map(|served| &served.stored);
    let mut seen: HashSet<&str> = HashSet::new();
    catalog.kinds().iter().chain(custom).filter_map(move |kind| {
        let prefix = kind.prefix.as_deref().filter(|prefix| seen.insert(prefix))?;
        Some((prefix, kind))
    })
}

fn version(page: &mut Page, layers: &Layers) {
    const HELP: &str = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    let told = paths::version(&layers.paths.build);
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    let (commit, tree, date, go) = (text("gitCommit"), text("gitTreeState"), text("buildDate"), text("goVersion"));
    let (compiler, platform, major, minor) = (text("compiler"), text("platform"), text("major"), text("minor"));
    let labels = [
        ("build_date", &*date),
        ("compiler", &compiler),
        ("git_commit", &commit),
        ("git_tree_state", &tree),
        ("git_version", GIT_VERSION),
        ("go_version", &go),
        ("major", &major),
        ("minor", &minor),
        ("platform", &platform),
    ];
    page.gauge("kubernetes_build_info", HELP, &labels, 1.0);
}

/// Most of what upstream makes switchable is fixed here.
fn features(page: &mut Page, gates_off: &Gates) {
    const HELP: &str = "[BETA] This metric records the data about the stage and enablement of a k8s feature.";
    for mut words in gates() {
        let (Some(name), Some(state), Some(stage)) = (words.next(), words.next(), words.next()) else { continue };
        let stage = if stage == "GA" { String::new() } else { stage.to_uppercase() };
        page.gauge(
            "kubernetes_feature_enabled",
            HELP,
            &[("name", name), ("stage", &stage)],
            f64::from(u8::from(state == "on" && gates_off.is_on(name))),
        );
    }
}
