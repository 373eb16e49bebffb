//! What the operator of this process lets any pod have (upstream `pkg/capabilities`, set up once from flags in the same way: the checks
//! of kinds see an object and nothing else).

use std::sync::OnceLock;

/// What pods may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `--allow-privileged`: privileged containers, and processes of the host on Windows.
    pub allow_privileged: bool,
}

static CAPABILITIES: OnceLock<Capabilities> = OnceLock::new();

/// Decides it for the life of the process; of several calls the first counts.
pub fn set(capabilities: Capabilities) {
    let _ = CAPABILITIES.set(capabilities);
}

/// What was decided; all is allowed where nothing was.
pub(super) fn get() -> Capabilities {
    CAPABILITIES.get().copied().unwrap_or(Capabilities { allow_privileged: true })
}
