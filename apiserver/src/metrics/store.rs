//! Series of the store under this server and of the cache before it, under the names of upstream's etcd client and watch cache
//! (`storage/etcd3/metrics/metrics.go`, `storage/cacher/metrics/metrics.go`), and of etcd's own server where what is counted is the same.

use std::time::Duration;

use coracle_store::{Revision, StoreError};

use super::{
    gathered,
    page::{Page, Type},
    series::{Counters, Histograms},
};
use crate::registry::{Storage, kind::ResourceId};

const DURATIONS: &[f64] =
    &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];

static DURATION: Histograms<3> = Histograms::new(
    "etcd_request_duration_seconds",
    "[ALPHA] Etcd request latency in seconds for each operation and object type.",
    ["operation", "group", "resource"],
    DURATIONS,
);

static REQUESTS: Counters<3> = Counters::new(
    "etcd_requests_total",
    "[ALPHA] Etcd request counts for each operation and object type.",
    ["operation", "group", "resource"],
);

static ERRORS: Counters<3> = Counters::new(
    "etcd_request_errors_total",
    "[ALPHA] Etcd failed request counts for each operation and object type.",
    ["operation", "group", "resource"],
);

static LISTS: Counters<3> =
    Counters::new("apiserver_cache_list_total", "[ALPHA] Number of LIST requests served from watch cache", ["group", "resource", "index"]);

static LISTED: Counters<2> = Counters::new(
    "apiserver_cache_list_returned_objects_total",
    "[ALPHA] Number of objects returned for a LIST request from watch cache",
    ["group", "resource"],
);

/// The families of this file.
pub(super) static ALL: [&dyn super::Family; 5] = [&DURATION, &REQUESTS, &ERRORS, &LISTS, &LISTED];

/// The store was asked for a write. As upstream's, a write that lost a race is no error of the store.
pub(crate) fn asked(operation: &str, of: &ResourceId, took: Duration, answer: &Result<Revision, StoreError>) {
    let labels = [operation, &of.group, &of.resource];
    DURATION.took(labels, took);
    REQUESTS.inc(labels);
    if let Err(StoreError::Unavailable(_) | StoreError::Corrupt(_)) = answer {
        ERRORS.inc(labels);
    }
}

/// A list was answered with so many objects.
pub(crate) fn listed(of: &ResourceId, objects: usize) {
    LISTS.inc([&of.group, &of.resource, ""]);
    LISTED.add([&of.group, &of.resource], objects as u64);
}

/// What is looked up when somebody asks.
pub(super) async fn write(page: &mut Page, storage: &Storage, store: &str) {
    let stats = storage.stats().await;
    let sizes = [
        (
            "apiserver_storage_size_bytes",
            "[STABLE] Size of the storage database file physically allocated in bytes.",
            &[("storage_cluster_id", store)][..],
            stats.size,
        ),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "[ALPHA] Total size of the underlying database physically allocated in bytes.",
            &[],
            stats.size,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "[ALPHA] Total size of the underlying database logically in use in bytes.",
            &[],
            stats.used,
        ),
        ("coracle_store_log_size_bytes", "[ALPHA] Size of the write-ahead log that is not yet in the database.", &[], stats.log),
        ("coracle_watch_cache_lag_revisions", "[ALPHA] Revisions of the store that the watch cache has not seen.", &[], storage.lag()),
    ];
    for (name, help, labels, value) in sizes {
        if let Some(value) = value {
            page.gauge(name, help, labels, value as f64);
        }
    }
    let full = "[ALPHA] Whether the disk is full, so that the store takes only deletes.";
    page.gauge("coracle_store_disk_full", full, &[], f64::from(u8::from(storage.alarm().is_some())));
    if let Some(commits) = stats.commits {
        let help = "[ALPHA] The latencies of commits of the store, which are on disk when they end.";
        page.family("etcd_disk_wal_fsync_duration_seconds", Type::Histogram, help)
            .buckets(&[], (&commits.bounds, commits.seconds, commits.count));
    }
    caches(page, storage);
}

/// What is known of each cached resource.
fn caches(page: &mut Page, storage: &Storage) {
    for (prefix, kind) in gathered::stored(&storage.catalog()) {
        let Some(collection) = storage.known(prefix) else { continue };
        let (loads, events) = collection.counts();
        let labels = [("group", &*kind.id.group), ("resource", &*kind.id.resource)];
        let counters = [
            (
                "apiserver_watch_cache_initializations_total",
                "[ALPHA] Counter of watch cache initializations broken by resource type.",
                loads,
            ),
            (
                "apiserver_watch_cache_events_received_total",
                "[ALPHA] Counter of events received in watch cache broken by resource type.",
                events,
            ),
        ];
        for (name, help, value) in counters {
            page.family(name, Type::Counter, help).pairs(&labels, value as f64);
        }
        let help = "[ALPHA] Current resource version of watch cache broken by resource type. This is truncated to the 15 least significant digits.";
        let version = collection.seen().0 % 1_000_000_000_000_000;
        page.gauge("apiserver_watch_cache_resource_version", help, &labels, version as f64);
    }
}
