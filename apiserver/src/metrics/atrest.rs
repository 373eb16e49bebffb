//! Series of encryption at rest (`storage/value/metrics.go`, `envelope/metrics/metrics.go`, `encryptionconfig/metrics/metrics.go`).

use std::time::Duration;

use super::series::{Counters, Gauges, Histograms};

/// From 5 µs on, doubling.
const TRANSFORMATIONS: &[f64] = &[
    5e-6, 1e-5, 2e-5, 4e-5, 8e-5, 1.6e-4, 3.2e-4, 6.4e-4, 1.28e-3, 2.56e-3, 5.12e-3, 1.024e-2, 2.048e-2, 4.096e-2, 8.192e-2, 0.16384,
    0.32768, 0.65536, 1.31072, 2.62144, 5.24288, 10.48576, 20.97152, 41.94304, 83.88608,
];
/// From 0.1 ms on, doubling.
const CALLS: &[f64] = &[
    1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2, 2.56e-2, 5.12e-2, 0.1024, 0.2048, 0.4096, 0.8192, 1.6384, 3.2768, 6.5536,
    13.1072, 26.2144, 52.4288,
];

static OPERATIONS: Counters<4> = Counters::new(
    "apiserver_storage_transformation_operations_total",
    "[ALPHA] Total number of transformations. Successful transformation will have a status 'OK' and a varied status string when the transformation fails. The status, resource, and transformation_type fields can be used for alerting purposes. For example, you can monitor for encryption/decryption failures using the transformation_type (e.g., from_storage for decryption and to_storage for encryption). Additionally, these fields can be used to ensure that the correct transformers are applied to each resource.",
    ["resource", "transformation_type", "transformer_prefix", "status"],
);

static DURATIONS: Histograms<2> = Histograms::new(
    "apiserver_storage_transformation_duration_seconds",
    "[ALPHA] Latencies in seconds of value transformation operations.",
    ["transformation_type", "transformer_prefix"],
    TRANSFORMATIONS,
);

/// Keys of values that had to be decrypted by their service.
pub(crate) static CACHE_MISSES: Counters<0> = Counters::new(
    "apiserver_storage_envelope_transformation_cache_misses_total",
    "[ALPHA] Total number of cache misses while accessing key decryption key(KEK).",
    [],
);

static KMS_CALLS: Histograms<3> = Histograms::new(
    "apiserver_envelope_encryption_kms_operations_latency_seconds",
    "[ALPHA] KMS operation duration with gRPC error code status total.",
    ["provider_name", "method_name", "grpc_status_code"],
    CALLS,
);

static KEYS_SEEN: Gauges<2> = Gauges::new(
    "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
    "[ALPHA] The last time in seconds when a keyID was returned by the Status RPC call.",
    ["provider_name", "key_id_hash"],
);

static RELOADS: Counters<1> = Counters::new(
    "apiserver_encryption_config_controller_automatic_reloads_total",
    "[ALPHA] Total number of reload successes and failures of encryption configuration split by apiserver identity.",
    ["status"],
);

static LAST_RELOADS: Gauges<1> = Gauges::new(
    "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
    "[ALPHA] Timestamp of the last successful or failed automatic reload of encryption configuration split by apiserver identity.",
    ["status"],
);

/// The families of this file.
pub(super) static ALL: [&dyn super::Family; 7] = [&OPERATIONS, &DURATIONS, &CACHE_MISSES, &KMS_CALLS, &KEYS_SEEN, &RELOADS, &LAST_RELOADS];

/// A value was read (`from_storage`) or written (`to_storage`).
pub(crate) fn transformed(resource: &str, way: &'static str, prefix: &str, passed: bool, took: Duration) {
    OPERATIONS.inc([resource, way, prefix, if passed { "OK" } else { "unknown-non-grpc" }]);
    DURATIONS.took([way, prefix], took);
}

/// A service that keeps keys was asked.
pub(crate) fn called(name: &str, method: &str, code: &str, took: Duration) {
    KMS_CALLS.took([name, &format!("/v2.KeyManagementService/{method}"), code], took);
}

/// It told which key it writes with.
pub(crate) fn key_seen(name: &str, hash: &str) {
    KEYS_SEEN.set([name, hash], jiff::Timestamp::now().as_second());
}

/// The configuration was read again.
pub(crate) fn reloaded(passed: bool) {
    let status = if passed { "success" } else { "failure" };
    RELOADS.inc([status]);
    LAST_RELOADS.set([status], jiff::Timestamp::now().as_second());
}
