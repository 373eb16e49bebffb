//! Series of tokens: what is remembered of them (`authentication/token/cache/stats.go`), issuers of JSON web tokens
//! (`plugin/pkg/authenticator/token/oidc/metrics.go`) and the file that names them (`server/options/authenticationconfig/metrics`).

use super::series::{Counters, Gauges, Histograms};

/// Prometheus' own.
const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same, from a millisecond on.
const FROM_ONE: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Tokens asked for, by whether they were remembered.
pub(crate) static REQUESTS: Counters<1> = Counters::new("authentication_token_cache_request_total", "[ALPHA] ", ["status"]);

/// How long that took.
pub(crate) static REQUEST_TIMES: Histograms<1> =
    Histograms::new("authentication_token_cache_request_duration_seconds", "[ALPHA] ", ["status"], DEFAULT);

/// Tokens looked up, by how that ended.
pub(crate) static FETCHES: Counters<1> = Counters::new("authentication_token_cache_fetch_total", "[ALPHA] ", ["status"]);

/// Tokens being looked up.
pub(crate) static FETCHING: Gauges<1> = Gauges::new("authentication_token_cache_active_fetch_count", "[ALPHA] ", ["status"]);

/// How long issuers' tokens took that were not remembered.
pub(crate) static JWT_TIMES: Histograms<2> = Histograms::new(
    "apiserver_authentication_jwt_authenticator_latency_seconds",
    "[ALPHA] Latency of jwt authentication operations in seconds. This is the time spent authenticating a token for cache miss only (i.e. when the token is not found in the cache).",
    ["result", "jwt_issuer_hash"],
    FROM_ONE,
);

/// Changes of the file of issuers, by whether they were taken.
pub(crate) static RELOADS: Counters<1> = Counters::new(
    "apiserver_authentication_config_controller_automatic_reloads_total",
    "[BETA] Total number of automatic reloads of authentication configuration split by status and apiserver identity.",
    ["status"],
);

/// When the last were, in seconds since the epoch.
pub(crate) static RELOADED: Gauges<1> = Gauges::new(
    "apiserver_authentication_config_controller_automatic_reload_last_timestamp_seconds",
    "[BETA] Timestamp of the last automatic reload of authentication configuration split by status and apiserver identity.",
    ["status"],
);

/// Tokens of accounts that were looked up and name no audience.
pub(crate) static WITHOUT_AUDIENCE: Counters<0> =
    Counters::new("serviceaccount_legacy_tokens_total", "[BETA] Cumulative legacy service account tokens used", []);

/// Tokens of accounts that should have been read again since.
pub(crate) static STALE_USES: Counters<0> =
    Counters::new("serviceaccount_stale_tokens_total", "[BETA] Cumulative stale projected service account tokens used", []);

/// Those that need not be yet.
pub(crate) static FRESH_USES: Counters<0> =
    Counters::new("serviceaccount_valid_tokens_total", "[BETA] Cumulative valid projected service account tokens used", []);

/// Tokens of secrets that somebody made.
pub(crate) static MANUAL_USES: Counters<0> =
    Counters::new("serviceaccount_legacy_manual_token_uses_total", "[ALPHA] Cumulative manually created legacy tokens used", []);

/// Tokens of secrets that a server made.
pub(crate) static AUTOMATIC_USES: Counters<0> =
    Counters::new("serviceaccount_legacy_auto_token_uses_total", "[ALPHA] Cumulative auto-generated legacy tokens used", []);

/// Those of them that were given up.
pub(crate) static INVALID_USES: Counters<0> = Counters::new(
    "serviceaccount_invalid_legacy_auto_token_uses_total",
    "[ALPHA] Cumulative invalid auto-generated legacy tokens used",
    [],
);

/// The families of this file.
pub(super) static ALL: [&dyn super::Family; 13] = [
    &REQUESTS,
    &REQUEST_TIMES,
    &FETCHES,
    &FETCHING,
    &JWT_TIMES,
    &RELOADS,
    &RELOADED,
    &WITHOUT_AUDIENCE,
    &STALE_USES,
    &FRESH_USES,
    &MANUAL_USES,
    &AUTOMATIC_USES,
    &INVALID_USES,
];
