//! What is said of versions that were never finished: since when they should not be used, and from when on they are gone
//! (`zz_generated.prerelease-lifecycle.go`).

use crate::{registry::GroupVersionKind, request::paths::MINOR};

/// What a client is told of the version it asked in.
pub(super) struct Outdated {
    /// The warning.
    pub(super) text: String,
    /// The release that has it no more.
    pub(super) removed: &'static str,
}

/// When versions were given up.
struct Lifecycle {
    group: &'static str,
    version: &'static str,
    /// Kinds of it; none: all that have no row before.
    kinds: &'static [&'static str],
    /// The release (`1.N`) since which it should not be used.
    since: u32,
    /// The release that has it no more.
    removed: &'static str,
    /// Whether it is said what is to be used instead.
    replaced: bool,
}

const fn lifecycle(group: &'static str, version: &'static str, since: u32, removed: &'static str, replaced: bool) -> Lifecycle {
    Lifecycle { group, version, kinds: &[], since, removed, replaced }
}

const LIFECYCLES: &[Lifecycle] = &[
    lifecycle("admissionregistration.k8s.io", "v1beta1", 37, "1.40", true),
    lifecycle("certificates.k8s.io", "v1beta1", 37, "1.40", true),
    lifecycle("storagemigration.k8s.io", "v1beta1", 37, "1.40", true),
    lifecycle("coordination.k8s.io", "v1beta1", 36, "1.39", false),
    Lifecycle { kinds: &["DeviceTaintRule"], ..lifecycle("resource.k8s.io", "v1beta2", 39, "1.42", false) },
    lifecycle("resource.k8s.io", "v1beta2", 36, "1.39", false),
];

/// What is said of a kind, if something is (`deprecation.WarningMessage`).
pub(super) fn outdated(kind: &GroupVersionKind) -> Option<Outdated> {
    let named = |of: &&Lifecycle| of.kinds.is_empty() || of.kinds.contains(&&*kind.kind);
    let mut of_version = LIFECYCLES.iter().filter(|of| (of.group, of.version) == (&*kind.group, &*kind.version));
    let Lifecycle { since, removed, replaced, .. } = of_version.find(named)?;
    if *since > MINOR {
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
