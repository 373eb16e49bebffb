//! Volumes that nothing serves any more, and files of one that hide one another.

use coracle_tree::Value;

use super::fraction;
use crate::kinds::view;

/// Kinds of volumes that are on their way out, in the order in which they are told.
const OLD: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warns of a pod's volumes.
pub(super) fn of(spec: &Value, path: &str, all: &mut Vec<String>) {
    for (at, volume) in view::list(spec, "volumes").iter().enumerate() {
        let path = format_args!("{path}.volumes[{at}]");
        // A volume has two members, a name and what it is of.
        let is_there = |kind: &str| volume.as_object().is_some_and(|of| of.iter().any(|(name, source)| name == kind && !source.is_null()));
        for (kind, text) in OLD.iter().filter(|(kind, _)| is_there(kind)) {
            // Upstream's path has the name of its Go field.
            let named = if *kind == "storageos" { "storageOS" } else { kind };
            all.push(format!("{path}.{named}: {text}"));
        }
        let claim = view::member(view::member(volume, "ephemeral"), "volumeClaimTemplate");
        all.extend(claim_warnings(view::member(claim, "spec"), &format_args!("{path}.ephemeral.volumeClaimTemplate.spec")));
    }
    view::list(spec, "volumes").iter().for_each(|volume| overlaps(volume, all));
}

/// What is odd about a claim's spec (`GetWarningsForPersistentVolumeClaimSpec`).
pub(in crate::kinds) fn claim_warnings(spec: &Value, path: view::At<'_>) -> Vec<String> {
    let storage = |half| view::member(view::member(view::member(spec, "resources"), half), "storage");
    let told = ["requests", "limits"].map(|half| fraction(storage(half), &format_args!("{path}.resources.{half}[storage]")));
    told.into_iter().flatten().collect()
}

/// A file of a volume and where it comes from; the latter may be empty.
#[derive(PartialEq)]
struct File<'a> {
    path: &'a str,
    source: String,
}

impl File<'_> {
    fn text(&self) -> String {
        let path = view::quoted(self.path);
        if self.source.is_empty() { path } else { format!("{path} ({})", self.source) }
    }

    /// One lies in the other's place, or below it.
    fn meets(&self, other: &Self) -> bool {
        let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !self.path.is_empty() && !other.path.is_empty() && (below(self.path, other.path) || below(other.path, self.path))
    }
}

fn overlaps(volume: &Value, all: &mut Vec<String>) {
    let name = || view::quoted(view::text(volume, "name"));
    let mut tell = |what: view::At<'_>, files: &[File<'_>]| {
        for (at, file) in files.iter().enumerate() {
            for other in files[..at].iter().filter(|other| file.meets(other)) {
                let name = name();
                all.push(format!("volume {name} ({what}): overlapping paths: {} with {}", file.text(), other.text()));
            }
        }
    };
    for (kind, called, named) in [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")] {
        if let Some(source) = view::get(volume, kind) {
            tell(&format_args!("{called} {}", view::quoted(view::text(source, named))), &items(source, &""));
        }
    }
    tell(&"DownwardAPI", &items(view::member(volume, "downwardAPI"), &""));
    let sources = view::list(view::member(volume, "projected"), "sources");
    tell(&"Projected", &sources.iter().flat_map(projected).collect::<Vec<_>>());
    let empty = sources.iter().filter(|source| source.as_object().is_some_and(coracle_tree::Map::is_empty));
    all.extend(empty.map(|_| format!("volume {} (Projected) has no sources provided", name())));
}

/// The files a source names one by one.
fn items<'a>(source: &'a Value, called: view::At<'_>) -> Vec<File<'a>> {
    let paths = view::list(source, "items").iter().map(|item| view::text(item, "path"));
    paths.map(|path| File { path: path.trim_end_matches('/'), source: called.to_string() }).collect()
}

fn projected(source: &Value) -> Vec<File<'_>> {
    let of = |kind| view::member(source, kind);
    let named = |called: &str, kind, name| format!("{called} {}", view::quoted(view::text(of(kind), name)));
    let one = |path, source: String| File { path: view::text(path, "path").trim_end_matches('/'), source };
    let mut files = Vec::new();
    for (called, kind) in [("ConfigMap", "configMap"), ("Secret", "secret")] {
        if let Some(of) = view::get(source, kind) {
            files.extend(items(of, &format_args!("{called} {}", view::quoted(view::text(of, "name")))));
        }
    }
    files.extend(items(of("downwardAPI"), &"DownwardAPI"));
    files.extend(view::get(source, "serviceAccountToken").map(|token| one(token, "ServiceAccountToken".to_owned())));
    if let Some(bundle) = view::get(source, "clusterTrustBundle") {
        let by = if view::get(bundle, "name").is_some() { "name" } else { "signerName" };
        files.push(one(bundle, named("ClusterTrustBundle", "clusterTrustBundle", by)));
    }
    for (field, what) in [("certificateChainPath", "chain"), ("keyPath", "key"), ("credentialBundlePath", "credential bundle")] {
        let path = view::text(of("podCertificate"), field).trim_end_matches('/');
        if !path.is_empty() {
            files.push(File { path, source: format!("PodCertificate {what}") });
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn volumes_of_the_past_and_files_in_one_anothers_place_are_told() {
        let volumes = json!([
            {"name": "a", "storageos": {}, "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1m"}}}}}},
            {"name": "b", "configMap": {"name": "m", "items": [{"path": "x"}, {"path": "x/y/"}, {"path": "xy"}]}},
            {"name": "c", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s", "items": [{"path": "t"}]}}, {},
            ]}},
        ]);
        let mut all = Vec::new();
        of(&json!({ "volumes": volumes }), "spec", &mut all);
        assert_eq!(
            all,
            [
                "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: \
                 fractional byte value \"1m\" is invalid, must be an integer",
                "volume \"b\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\"",
                "volume \"c\" (Projected): overlapping paths: \"t\" (Secret \"s\") with \"t\" (ServiceAccountToken)",
                "volume \"c\" (Projected) has no sources provided",
            ]
        );
    }
}
