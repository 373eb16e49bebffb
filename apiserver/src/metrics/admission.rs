//! Series of admission (`admission/metrics/metrics.go`).

use std::time::Duration;

use tokio::time::Instant;

use super::series::{Counters, Histograms};
use crate::admission::Operation;

const PLUGINS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOKS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

/// All plugins together.
static STEPS: Histograms<3> = Histograms::new(
    "apiserver_admission_step_admission_duration_seconds",
    "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
    ["type", "operation", "rejected"],
    PLUGINS,
);

/// One plugin, where it looked at the write.
static CONTROLLERS: Histograms<4> = Histograms::new(
    "apiserver_admission_controller_admission_duration_seconds",
    "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
    ["name", "type", "operation", "rejected"],
    PLUGINS,
);

/// One webhook.
static WEBHOOK: Histograms<4> = Histograms::new(
    "apiserver_admission_webhook_admission_duration_seconds",
    "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
    ["name", "type", "operation", "rejected"],
    WEBHOOKS,
);

/// Questions to webhooks.
static WEBHOOK_REQUESTS: Counters<5> = Counters::new(
    "apiserver_admission_webhook_request_total",
    "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    ["name", "type", "operation", "code", "rejected"],
);

/// Refusals by webhooks, and for want of them.
static WEBHOOK_REJECTIONS: Counters<5> = Counters::new(
    "apiserver_admission_webhook_rejection_count",
    "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    ["name", "type", "operation", "error_type", "rejection_code"],
);

/// Webhooks that could not be asked and were passed over.
static WEBHOOK_FAIL_OPEN: Counters<2> = Counters::new(
    "apiserver_admission_webhook_fail_open_count",
    "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
    ["name", "type"],
);

/// Pods, and what makes pods, held against a level of PodSecurity (`pod-security-admission/metrics`).
pub(crate) static POD_SECURITY_EVALUATIONS: Counters<7> = Counters::new(
    "pod_security_evaluations_total",
    "[ALPHA] Number of policy evaluations that occurred, not counting ignored or exempt requests.",
    ["decision", "policy_level", "policy_version", "mode", "request_operation", "resource", "subresource"],
);

/// Those that were not, since who or what is exempt.
pub(crate) static POD_SECURITY_EXEMPTIONS: Counters<3> = Counters::new(
    "pod_security_exemptions_total",
    "[ALPHA] Number of exempt requests, not counting ignored or out of scope requests.",
    ["request_operation", "resource", "subresource"],
);

/// Those that could not be, or only against another level than was meant.
pub(crate) static POD_SECURITY_ERRORS: Counters<4> = Counters::new(
    "pod_security_errors_total",
    "[ALPHA] Number of errors preventing normal evaluation. Non-fatal errors may result in the latest restricted profile being used for evaluation.",
    ["fatal", "request_operation", "resource", "subresource"],
);

/// Upstream tells of these before anything is counted.
pub(crate) fn begin_pod_security() {
    for operation in ["create", "update"] {
        POD_SECURITY_EVALUATIONS.add(["allow", "privileged", "latest", "enforce", operation, "pod", ""], 0);
        for resource in ["pod", "controller"] {
            POD_SECURITY_EXEMPTIONS.add([operation, resource, ""], 0);
        }
    }
}

/// The families of this file.
pub(super) static ALL: [&dyn super::Family; 9] = [
    &STEPS,
    &CONTROLLERS,
    &WEBHOOK,
    &WEBHOOK_REQUESTS,
    &WEBHOOK_REJECTIONS,
    &WEBHOOK_FAIL_OPEN,
    &POD_SECURITY_EVALUATIONS,
    &POD_SECURITY_EXEMPTIONS,
    &POD_SECURITY_ERRORS,
];

/// How a question to a webhook ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// It let the write pass.
    Allowed,
    /// It refused, with this code.
    Refused(u16),
    /// It could not be asked, and the write fails for it.
    FailedClosed(u16),
    /// It could not be asked, and the write passes nevertheless.
    FailedOpen(u16),
}

/// Notes a question to the webhook `name`; `step` is `admit` or `validating`.
pub(crate) fn asked(name: &str, step: &'static str, operation: &'static str, outcome: Outcome, took: Duration) {
    let (code, refused, error) = match outcome {
        Outcome::Allowed => (200, "false", None),
        Outcome::Refused(code) => (code, "true", Some("no_error")),
        Outcome::FailedClosed(code) => (code, "true", Some("calling_webhook_error")),
        Outcome::FailedOpen(code) => (code, "false", None),
    };
    let code = code.min(600).to_string();
    if let Some(error) = error {
        WEBHOOK_REJECTIONS.inc([name, step, operation, error, &code]);
    }
    if matches!(outcome, Outcome::FailedOpen(_)) {
        WEBHOOK_FAIL_OPEN.inc([name, step]);
    }
    WEBHOOK_REQUESTS.inc([name, step, operation, &code, refused]);
    WEBHOOK.took([name, step, operation, refused], took);
}

/// Upstream's plugins that only change, and those that only look: the others do both.
const CHANGES: &[&str] = &[
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "ExtendedResourceToleration",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceAutoProvision",
    "NamespaceLifecycle",
    "NodeRestriction",
    "PodTopologyLabels",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
];
const LOOKS: &[&str] = &[
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "ClusterTrustBundleAttest",
    "DenyServiceExternalIPs",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceExists",
    "OwnerReferencesPermissionEnforcement",
    "PersistentVolumeClaimResize",
    "PodSecurity",
    "ResourceQuota",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];
/// What is no plugin in upstream.
const OURS: &[&str] = &["CedarPolicies", "DeviceAccess", "PodCertificateSigning", "RoleEscalation"];

/// Takes the time of plugins and of the step they are in.
pub(crate) struct Watch {
    step: &'static str,
    operation: &'static str,
    started: Instant,
    plugin: Instant,
}

impl Watch {
    /// A step begins: `admit` or `validate`.
    pub(crate) fn start(step: &'static str, operation: Operation) -> Self {
        let now = Instant::now();
        Self { step, operation: operation.name(), started: now, plugin: now }
    }

    /// A plugin begins.
    pub(crate) fn begin(&mut self) {
        self.plugin = Instant::now();
    }

    /// It has seen the write.
    pub(crate) fn saw(&self, plugin: &'static str, refused: bool) {
        let others = if self.step == "admit" { LOOKS } else { CHANGES };
        if !others.contains(&plugin) && !OURS.contains(&plugin) {
            CONTROLLERS.took([plugin, self.step, self.operation, rejected(refused)], self.plugin.elapsed());
        }
    }

    /// The step is over.
    pub(crate) fn end(&self, refused: bool) {
        let took = self.started.elapsed();
        STEPS.took([self.step, self.operation, rejected(refused)], took);
        let name = if self.step == "admit" { "Mutating admission" } else { "Validating admission" };
        super::requests::traced(|trace| trace.note(name, took, refused, &[("operation", self.operation)]));
    }
}

fn rejected(refused: bool) -> &'static str {
    if refused { "true" } else { "false" }
}
