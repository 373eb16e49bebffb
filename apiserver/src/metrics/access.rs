//! Series of who came in and what they may (`endpoints/filters/metrics.go`), of connections and of audit (`audit/metrics.go`).

use super::series::{Counters, Histograms};

/// From a millisecond on, doubling (`ExponentialBuckets(0.001, 2, 15)`).
const DOUBLING: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

/// Requests by who asks; all but the well-known are `other`.
pub(crate) static USERS: Counters<1> =
    Counters::new("authenticated_user_requests", "[ALPHA] Counter of authenticated requests broken out by username.", ["username"]);

/// Attempts to come in.
pub(crate) static AUTHENTICATIONS: Counters<1> =
    Counters::new("authentication_attempts", "[ALPHA] Counter of authenticated attempts.", ["result"]);

/// How long they took.
pub(crate) static AUTHENTICATION_TIMES: Histograms<1> = Histograms::new(
    "authentication_duration_seconds",
    "[ALPHA] Authentication duration in seconds broken out by result.",
    ["result"],
    DOUBLING,
);

/// Decisions about what somebody may.
pub(crate) static AUTHORIZATIONS: Counters<1> = Counters::new(
    "authorization_attempts_total",
    "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
    ["result"],
);

/// How long they took.
pub(crate) static AUTHORIZATION_TIMES: Histograms<1> = Histograms::new(
    "authorization_duration_seconds",
    "[ALPHA] Authorization duration in seconds broken out by result.",
    ["result"],
    DOUBLING,
);

/// Connections that did not become any.
pub(crate) static HANDSHAKE_ERRORS: Counters<0> =
    Counters::new("apiserver_tls_handshake_errors_total", "[ALPHA] Number of requests dropped with 'TLS handshake error from' error", []);

/// Events written down.
pub(crate) static AUDIT_EVENTS: Counters<0> =
    Counters::new("apiserver_audit_event_total", "[ALPHA] Counter of audit events generated and sent to the audit backend.", []);

/// Events lost, by who lost them.
pub(crate) static AUDIT_ERRORS: Counters<1> = Counters::new(
    "apiserver_audit_error_total",
    "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
    ["plugin"],
);

/// What the policy decided of requests.
pub(crate) static AUDIT_LEVELS: Counters<1> =
    Counters::new("apiserver_audit_level_total", "[ALPHA] Counter of policy levels for audit events (1 per request).", ["level"]);

/// Requests refused because they could not be written down.
pub(crate) static AUDIT_REFUSALS: Counters<0> = Counters::new(
    "apiserver_audit_requests_rejected_total",
    "[ALPHA] Counter of apiserver requests rejected due to an error in audit logging backend.",
    [],
);

/// The families of this file.
pub(super) static ALL: [&dyn super::Family; 10] = [
    &USERS,
    &AUTHENTICATIONS,
    &AUTHENTICATION_TIMES,
    &AUTHORIZATIONS,
    &AUTHORIZATION_TIMES,
    &HANDSHAKE_ERRORS,
    &AUDIT_EVENTS,
    &AUDIT_ERRORS,
    &AUDIT_LEVELS,
    &AUDIT_REFUSALS,
];

/// Who is counted by name (`compressUsername`).
pub(crate) fn known(user: &str) -> &str {
    match user {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => user,
        email if email.contains('@') => "email_id",
        _ => "other",
    }
}
