//! Series of single kinds (`pkg/registry/certificates/certificates/storage/metrics.go`).

use super::series::Counters;

/// Certificates that were issued to who had asked for a duration.
pub(crate) static DURATIONS_REQUESTED: Counters<1> = Counters::new(
    "apiserver_certificates_registry_csr_requested_duration_total",
    "[ALPHA] Total number of issued CSRs with a requested duration, sliced by signer (only kubernetes.io signer names are specifically identified)",
    ["signerName"],
);

/// Those that last about so long.
pub(crate) static DURATIONS_HONORED: Counters<1> = Counters::new(
    "apiserver_certificates_registry_csr_honored_duration_total",
    "[ALPHA] Total number of issued CSRs with a requested duration that was honored, sliced by signer (only kubernetes.io signer names are specifically identified)",
    ["signerName"],
);

/// The families of this file.
pub(super) static ALL: [&dyn super::Family; 2] = [&DURATIONS_REQUESTED, &DURATIONS_HONORED];
