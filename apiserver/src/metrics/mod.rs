//! What dashboards, alerts and load tests read of the server, under kube-apiserver's names (`/metrics`, `/metrics/slis`).
//!
//! | file | |
//! |---|---|
//! | `series` | families of counters, gauges and histograms, and how a series is found without a lock |
//! | `page` | the text format |
//! | `requests`, `admission`, `access`, `atrest`, `tokens`, `manifests`, `kinds` | what is counted as it happens |
//! | `store` | the store and the cache before it, both as it happens and when asked |
//! | `gathered` | what is looked up when somebody asks: objects, requests in flight, versions |
//! | `process` | memory, time and files of this process |
//!
//! A new series is a `static` of [`series`] in the file of its subject, and a line in that file's `ALL`. As in upstream there is one registry in
//! a process, whoever serves it.

pub(crate) mod access;
pub(crate) mod admission;
pub(crate) mod atrest;
mod gathered;
pub(crate) mod kinds;
pub(crate) mod manifests;
pub(crate) mod page;
mod process;
pub(crate) mod requests;
pub(crate) mod series;
pub(crate) mod store;
pub(crate) mod tokens;

pub(crate) use process::started as process_started;

use std::{str::SplitWhitespace, sync::Arc};

use http::StatusCode;

use self::{
    page::{Page, Type},
    series::{Counters, Family, Gauges},
};
use crate::{
    request::layers::Layers,
    wire::{Answer, Body, answer},
};

/// Upstream's feature gates: `name on|off stage [locked]` a line.
pub const FEATURE_GATES: &str = include_str!("feature-gates.txt");

/// What was found of each check of health.
static HEALTH: Gauges<2> =
    Gauges::new("kubernetes_healthcheck", "[STABLE] This metric records the result of a single healthcheck.", ["name", "type"]);

/// How often.
static HEALTH_TOTAL: Counters<3> = Counters::new(
    "kubernetes_healthchecks_total",
    "[STABLE] This metric records the results of all healthcheck.",
    ["name", "type", "status"],
);

/// Families that are counted as things happen, by file.
static ALL: [&[&dyn Family]; 8] =
    [&requests::ALL, &admission::ALL, &access::ALL, &atrest::ALL, &store::ALL, &tokens::ALL, &manifests::ALL, &kinds::ALL];

/// `/metrics`
pub(crate) async fn answer(layers: &Arc<Layers>) -> Answer {
    let mut page = Page::default();
    ALL.iter().flat_map(|families| families.iter()).for_each(|family| family.write(&mut page));
    gathered::write(&mut page, layers).await;
    process::write(&mut page);
    // These are counted by each server of a process for itself.
    layers.aggregator.metrics(&mut page);
    if let Some(flow) = &layers.flow {
        flow.metrics(&mut page);
    }
    let off = &layers.metrics_off;
    page.family("disabled_metrics_total", Type::Counter, "[BETA] The count of disabled metrics.").value::<&str>(&[], &[], off.len() as f64);
    off.iter().for_each(|name| page.leave_out(name));
    as_text(page.finish())
}

/// `/metrics/slis`: the checks of health alone.
pub(crate) fn indicators(layers: &Layers) -> Answer {
    let mut page = Page::default();
    HEALTH.write(&mut page);
    HEALTH_TOTAL.write(&mut page);
    process::write_start(&mut page);
    layers.metrics_off.iter().for_each(|name| page.leave_out(name));
    as_text(page.finish())
}

/// Notes what a check of health found; `endpoint` is `livez`, `readyz` or `healthz`.
pub(crate) fn checked(name: &str, endpoint: &str, passed: bool) {
    HEALTH.set([name, endpoint], i64::from(passed));
    HEALTH_TOTAL.inc([name, endpoint, if passed { "success" } else { "error" }]);
}

fn as_text(text: String) -> Answer {
    answer::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", Body::full(text))
}

/// The words of each feature gate.
fn gates() -> impl Iterator<Item = SplitWhitespace<'static>> {
    FEATURE_GATES.lines().filter(|line| !line.starts_with('#')).map(str::split_whitespace)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{aggregator, flow};

    #[test]
    fn every_family_has_a_name_of_its_own_and_a_stability() {
        let mut names = HashSet::new();
        let counted = ALL.iter().flat_map(|families| families.iter()).flat_map(|family| family.abouts());
        for (name, help) in counted.chain(flow::FAMILIES).chain(aggregator::FAMILIES) {
            assert!(names.insert(name), "{name} stands twice");
            assert!(["[STABLE] ", "[BETA] ", "[ALPHA] "].iter().any(|stability| help.starts_with(stability)), "{name}: {help}");
        }
        assert!(names.len() > 30 && names.contains("apiserver_request_total"));
    }
}
