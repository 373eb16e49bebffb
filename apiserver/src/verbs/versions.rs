//! What is said of versions that were never finished: since when they should not be used, and from when on they are gone
//! (`zz_generated.prerelease-lifecycle.go`).

use crate::registry::GroupVersionKind;

/// The release that is served here (`1.N`).
const NOW: u32 = 37;

/// What a client is told of the version it asked in.
pub(super) struct Outdated {
    /// The warning.
    pub(super) text: String,
    /// The release that has it no more.
    pub(super) removed: &'static str,
}

/// Group, version, kinds (all where none is named); since which release it should not be used, and which has it no more; whether that says
/// what is to be used instead.
type Lifecycle = (&'static str, &'static str, &'static [&'static str], u32, &'static str, bool);

const LIFECYCLES: &[Lifecycle] = &[
    ("admissionregistration.k8s.io", "v1beta1", &[], 37, "1.40", true),
    ("certificates.k8s.io", "v1beta1", &[], 37, "1.40", true),
    ("storagemigration.k8s.io", "v1beta1", &[], 37, "1.40", true),
    ("coordination.k8s.io", "v1beta1", &[], 36, "1.39", false),
    ("resource.k8s.io", "v1beta1", &[], 35, "1.38", false),
    ("resource.k8s.io", "v1beta2", &["DeviceTaintRule"], 39, "1.42", false),
    ("resource.k8s.io", "v1beta2", &[], 36, "1.39", false),
];

/// What is said of a kind, if something is (`deprecation.WarningMessage`).
pub(super) fn outdated(kind: &GroupVersionKind) -> Option<Outdated> {
    let named = |of: &&Lifecycle| of.2.is_empty() || of.2.contains(&&*kind.kind);
    let (.., since, removed, replaced) = LIFECYCLES.iter().filter(|of| (of.0, of.1) == (&*kind.group, &*kind.version)).find(named)?;
    if *since > NOW {
        return None;
    }
    let (group, name) = (&kind.group, &kind.kind);
    let instead = if *replaced { format!("; use {group}/v1 {name}") } else { String::new() };
    let text = format!("{} {name} is deprecated in v1.{since}+, unavailable in v{removed}+{instead}", kind.api_version());
    Some(Outdated { text, removed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_on_their_way_out_are_warned_of_in_upstreams_words() {
        let said = |group: &str, version: &str, kind: &str| {
            let kind = GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() };
            outdated(&kind).map(|of| (of.text, of.removed))
        };
        let bundle = "certificates.k8s.io/v1beta1 ClusterTrustBundle is deprecated in v1.37+, unavailable in v1.40+; \
                      use certificates.k8s.io/v1 ClusterTrustBundle";
        assert_eq!(said("certificates.k8s.io", "v1beta1", "ClusterTrustBundle"), Some((bundle.to_owned(), "1.40")));
        let class = "resource.k8s.io/v1beta2 DeviceClass is deprecated in v1.36+, unavailable in v1.39+";
        assert_eq!(said("resource.k8s.io", "v1beta2", "DeviceClass"), Some((class.to_owned(), "1.39")));
        assert_eq!(said("resource.k8s.io", "v1beta2", "DeviceTaintRule"), None, "it is not yet");
        assert_eq!(said("certificates.k8s.io", "v1", "ClusterTrustBundle"), None);
    }
}
