//! The built-in kinds: rows of the tables, with the few facts tables do not hold (where upstream keeps them, how they are named, when
//! their generation moves).

use std::sync::{Arc, OnceLock};

use coracle_schema::{Resource, SchemaRef, Tables};

use super::{
    convert,
    kind::{Generation, GroupVersionKind, Kind, KindSchema, NameRule, ResourceId, Scope, Shared, Subresource, Traits, Verb},
    rules::Rules,
    served::Catalog,
};
use crate::wire::table::Printer;

/// Where keys differ from `/registry/<plural>/` (kube-apiserver `DefaultSpecialStorageResourcePrefixes` and the groups that run on a
/// generic API server of their own).
const PREFIXES: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "controllers"),
    ("", "endpoints", "services/endpoints"),
    ("", "nodes", "minions"),
    ("", "services", "services/specs"),
    ("networking.k8s.io", "ingresses", "ingress"),
    ("apiregistration.k8s.io", "apiservices", "apiregistration.k8s.io/apiservices"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"),
];

/// Names that follow another rule than RFC 1123 subdomain.
const NAMING: &[(&str, &str, NameRule)] = &[
    ("", "namespaces", NameRule::Label),
    ("", "services", NameRule::Label),
    ("rbac.authorization.k8s.io", "clusterroles", NameRule::PathSegment),
    ("rbac.authorization.k8s.io", "clusterrolebindings", NameRule::PathSegment),
    ("rbac.authorization.k8s.io", "roles", NameRule::PathSegment),
    ("rbac.authorization.k8s.io", "rolebindings", NameRule::PathSegment),
    // Of these two upstream never looked at the names.
    ("", "events", NameRule::PathSegment),
    ("policy", "poddisruptionbudgets", NameRule::PathSegment),
    ("certificates.k8s.io", "certificatesigningrequests", NameRule::PathSegment),
    ("certificates.k8s.io", "clustertrustbundles", NameRule::PathSegment),
    ("apiregistration.k8s.io", "apiservices", NameRule::PathSegment),
    ("networking.k8s.io", "ipaddresses", NameRule::Address),
    ("apps", "statefulsets", NameRule::Label),
    ("", "replicationcontrollers", NameRule::LongName),
    ("resource.k8s.io", "deviceclasses", NameRule::LongName),
];

/// Kinds whose strategy counts changes.
const GENERATIONS: &[(&str, &[&str])] = &[
    ("", &["pods", "podtemplates", "replicationcontrollers"]),
    (
        "admissionregistration.k8s.io",
        &[
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
    ("apiextensions.k8s.io", &["customresourcedefinitions"]),
    ("apps", &["daemonsets", "replicasets", "statefulsets"]),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("flowcontrol.apiserver.k8s.io", &["flowschemas", "prioritylevelconfigurations"]),
    ("networking.k8s.io", &["ingressclasses", "ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
    ("resource.k8s.io", &["deviceclasses", "devicetaintrules", "resourceslices"]),
    ("scheduling.k8s.io", &["priorityclasses"]),
];

/// Kinds whose storage differs from most.
const TRAITS: &[(&str, &str, Traits)] = &[
    ("", "nodes", Traits { status_on_create: true, ..NONE }),
    ("", "namespaces", Traits { spec_finalizers: true, ..NONE }),
    ("", "services", Traits { returns_deleted: true, claims: true, ..NONE }),
    ("", "pods", RETURNED),
    ("", "persistentvolumes", RETURNED),
    ("", "persistentvolumeclaims", RETURNED),
    ("", "podtemplates", RETURNED),
    ("", "resourcequotas", RETURNED),
    ("", "serviceaccounts", RETURNED),
    ("storage.k8s.io", "csidrivers", RETURNED),
    ("storage.k8s.io", "csinodes", RETURNED),
    ("storage.k8s.io", "storageclasses", RETURNED),
    ("storage.k8s.io", "volumeattachments", RETURNED),
    ("resource.k8s.io", "deviceclasses", RETURNED),
    ("resource.k8s.io", "resourceclaims", RETURNED),
    ("resource.k8s.io", "resourceclaimtemplates", RETURNED),
    ("resource.k8s.io", "resourceslices", RETURNED),
    ("", "replicationcontrollers", Traits { orphans: true, ..NONE }),
    ("batch", "jobs", Traits { orphans: true, ..NONE }),
];
const NONE: Traits = Traits { status_on_create: false, spec_finalizers: false, returns_deleted: false, claims: false, orphans: false };
const RETURNED: Traits = Traits { returns_deleted: true, ..NONE };

/// Kinds that are answered and never stored.
const VIRTUAL: &[&str] = &["bindings", "componentstatuses"];

/// What is odd about a resource and stands in code.
#[derive(Clone, Copy)]
pub struct Odd {
    /// Its rules.
    pub rules: &'static dyn Rules,
    /// How it is printed.
    pub printer: Option<&'static dyn Printer>,
}

impl<R: Rules> From<&'static R> for Odd {
    fn from(rules: &'static R) -> Self {
        Self { rules, printer: None }
    }
}

/// Builds the catalog; `odd` gives what a group's resource has of its own.
pub fn built_in<O: Into<Odd>>(tables: &Tables, odd: impl Fn(&str, &str) -> O) -> Catalog {
    let mut kinds = Vec::with_capacity(tables.resources.len());
    let scales = odd("autoscaling", "scale").into().printer;
    for group in &tables.groups {
        let of_group = tables.resources.iter().filter(|r| r.group == group.group && r.version == group.version);
        kinds.extend(of_group.map(|r| Arc::new(kind(tables, r, odd(r.group, r.plural).into(), scales))));
    }
    Catalog::new(kinds)
}

fn kind(tables: &Tables, row: &Resource, odd: Odd, scales: Option<&'static dyn Printer>) -> Kind {
    Kind {
        gvk: GroupVersionKind { group: row.group.into(), version: row.version.into(), kind: row.kind.into() },
        id: ResourceId { group: row.group.into(), resource: row.plural.into() },
        singular: row.singular.into(),
        short_names: row.short_names.iter().map(|s| Arc::from(*s)).collect(),
        categories: row.categories.iter().map(|s| Arc::from(*s)).collect(),
        scope: if row.namespaced { Scope::Namespaced } else { Scope::Cluster },
        verbs: verbs(&row.verbs),
        prefix: prefix(row),
        conversion: convert::for_kind(row.group, row.version, row.plural),
        schema: KindSchema::Ready(tables.schema_of(row)),
        subresources: row.subresources.iter().map(|s| subresource(tables, s, scales)).collect(),
        naming: find(NAMING, row).unwrap_or(NameRule::Subdomain),
        generation: generation(row),
        traits: find(TRAITS, row).unwrap_or_default(),
        empty_status: OnceLock::new(),
        printer: odd.printer.map(Shared::Static),
        rules: Shared::Static(odd.rules),
        custom: None,
    }
}

fn subresource(tables: &Tables, row: &coracle_schema::tables::Subresource, scales: Option<&'static dyn Printer>) -> Subresource {
    Subresource {
        name: row.name.into(),
        gvk: GroupVersionKind { group: row.group.into(), version: row.version.into(), kind: row.kind.into() },
        verbs: verbs(&row.verbs),
        schema: Some(SchemaRef { schema: Arc::clone(&tables.schema), root: row.type_id }),
        printer: scales.filter(|_| row.kind == "Scale").map(Shared::Static),
    }
}

fn verbs(words: &[&str]) -> Vec<Verb> {
    words.iter().filter_map(|w| Verb::parse(w)).collect()
}

fn prefix(row: &Resource) -> Option<Arc<str>> {
    if VIRTUAL.contains(&row.plural) || !row.verbs.contains(&"get") {
        return None;
    }
    Some(format!("/registry/{}/", find(PREFIXES, row).unwrap_or(row.plural)).into())
}

fn find<T: Copy>(table: &[(&str, &str, T)], row: &Resource) -> Option<T> {
    table.iter().find(|(group, resource, _)| *group == row.group && *resource == row.plural).map(|(_, _, value)| *value)
}

fn generation(row: &Resource) -> Generation {
    let counted = GENERATIONS.iter().any(|(group, resources)| *group == row.group && resources.contains(&row.plural));
    match (row.group, row.plural) {
        ("apps", "deployments") => Generation::SpecAndAnnotations,
        ("discovery.k8s.io", "endpointslices") => Generation::SpecAndLabels,
        ("scheduling.k8s.io", "priorityclasses") => Generation::Fixed,
        ("storage.k8s.io", "csidrivers") => Generation::FromChange,
        _ if counted => Generation::Spec,
        _ => Generation::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{convert::Conversion, rules::PLAIN};

    fn catalog() -> Catalog {
        built_in(&Tables::load().unwrap(), |_, _| &PLAIN)
    }

    #[test]
    fn keys_are_laid_out_as_upstream_lays_them_out() {
        let catalog = catalog();
        for (group, version, resource, expected) in [
            ("", "v1", "pods", "/registry/pods/ns/n"),
            ("", "v1", "nodes", "/registry/minions/n"),
            ("", "v1", "services", "/registry/services/specs/ns/n"),
            ("", "v1", "endpoints", "/registry/services/endpoints/ns/n"),
            ("apps", "v1", "deployments", "/registry/deployments/ns/n"),
            ("events.k8s.io", "v1", "events", "/registry/events/ns/n"),
            ("networking.k8s.io", "v1", "ingresses", "/registry/ingress/ns/n"),
        ] {
            let key = catalog.get(group, version, resource).unwrap().key("ns", "n").unwrap();
            assert_eq!(key.as_str(), expected);
        }
        assert!(catalog.get("authorization.k8s.io", "v1", "subjectaccessreviews").unwrap().prefix.is_none());
    }

    #[test]
    fn kinds_that_share_storage_agree_on_one_stored_version() {
        let catalog = catalog();
        let mut stored: std::collections::HashMap<&str, String> = std::collections::HashMap::new();
        for kind in catalog.kinds() {
            let Some(prefix) = kind.prefix.as_deref() else { continue };
            let version = match &kind.conversion {
                Some(Conversion::Renaming(renaming)) => renaming.stored.to_owned(),
                _ => kind.api_version(),
            };
            assert_eq!(stored.entry(prefix).or_insert_with(|| version.clone()), &version, "{prefix}");
        }
    }
}
