//! Which fields an endpoint never writes, hence never owns (`GetResetFields` of upstream's strategies).

/// A path of field names.
pub type Path = &'static [&'static str];

const STATUS: &[Path] = &[&["status"]];
const SPEC: &[Path] = &[&["spec"]];
const METADATA_AND_SPEC: &[Path] = &[&["metadata"], &["spec"]];

/// The paths that writes to this endpoint reset. `subresource` is empty for the main resource, which resets `status` when the kind has a
/// status subresource. Kinds not named, custom ones among them, follow the rule of custom resources.
pub fn reset_fields(group: &str, resource: &str, subresource: &str, has_status: bool) -> &'static [Path] {
    match (group, resource, subresource) {
        ("certificates.k8s.io", "certificatesigningrequests", "") => &[&["spec"], &["status"]],
        ("certificates.k8s.io", "certificatesigningrequests", "status") => &[&["spec"], &["status", "conditions"]],
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => &[&["spec"], &["status", "certificate"]],
        ("", "pods", "status") => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
        ("apps", "deployments", "status") => &[&["spec"], &["metadata", "labels"]],
        ("", "namespaces", "finalize") => STATUS,
        (_, _, "") if has_status => STATUS,
        ("" | "apps" | "autoscaling" | "batch" | "policy" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _, "status")
        | ("networking.k8s.io", "ingresses", "status") => SPEC,
        (_, _, "status") => METADATA_AND_SPEC,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_resource_leaves_status_alone_only_where_there_is_a_status_subresource() {
        assert_eq!(reset_fields("apps", "deployments", "", true), STATUS);
        assert!(reset_fields("", "configmaps", "", false).is_empty());
        assert_eq!(reset_fields("example.com", "widgets", "status", true), METADATA_AND_SPEC);
        assert_eq!(reset_fields("", "nodes", "status", true), SPEC);
    }
}
