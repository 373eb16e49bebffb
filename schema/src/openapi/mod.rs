//! OpenAPI v3: one document for each group and version, and the index of them; version 2 is made of those. Made on demand from the tables
//! and the definitions of custom kinds; nothing is kept here.
//!
//! The documents are kube-apiserver's field by field, in all that clients read: every path with its action, kind, parameters and bodies, every
//! message with its list, map and patch semantics, in Kubernetes' own words. What differs is meant: the deprecated `/watch/` paths are
//! served and not listed, parameters have no descriptions, and every default that is applied is told.

mod definitions;
mod descriptions;
pub mod general;
mod gnostic;
mod parameters;
mod paths;
pub mod v2;
pub mod v3;

use coracle_tree::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    discovery::{Discovery, Entry},
    tables::Tables,
};

pub use definitions::definition_name;

/// `/openapi/v3`: where each document is. `seed` changes whenever anything beyond the entries does (the server's version).
pub fn index(tables: &Tables, discovery: &Discovery, seed: &str) -> Value {
    let of = |path: String, entries: &[Entry]| {
        let url = format!("/openapi/v3/{path}?hash={}", hash(entries, seed));
        (path, json!({"serverRelativeURL": url}))
    };
    let mut paths: Map = general::paths(tables).into_iter().map(|path| of(path, &[])).collect();
    for (group, version) in discovery.group_versions() {
        let Some(entries) = discovery.entries(group, version) else { continue };
        paths.extend([of(document_path(group, version), entries)]);
    }
    json!({"paths": paths})
}

/// Where a group and version's document is below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Tells documents apart: equal entries under one seed give equal hashes, so clients may cache for ever.
pub fn hash(entries: &[Entry], seed: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(seed);
    for entry in entries {
        digest.update(format!("{entry:?}"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The document of one group and version. `custom`: the definitions of its custom kinds by name, each saying in
/// `x-kubernetes-group-version-kind` what it is. `server` is the version in `info`, `v1.37.1`.
pub fn document(tables: &Tables, group: &str, version: &str, entries: &[Entry], custom: &Map, server: &str) -> Value {
    let texts = descriptions::unpack();
    let words = descriptions::Descriptions::read(&texts);
    let mut definitions = definitions::Definitions::new(tables, &words, (group, version));
    definitions.add_custom(custom);
    let mut all_paths = paths::Paths::new(tables, group, version, &mut definitions);
    for entry in entries {
        all_paths.add(entry);
    }
    let paths = all_paths.finish();
    whole(paths, definitions.finish(), short_version(server))
}

/// A document of these paths and schemas, which may be large and are not copied.
fn whole(paths: Map, schemas: Map, version: &str) -> Value {
    let mut made = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": null,
        "components": {
            "schemas": null,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            }},
        },
        "security": [{"BearerToken": []}],
    });
    made["paths"] = paths.into();
    made["components"]["schemas"] = schemas.into();
    made
}

/// `1.37` of `v1.37.1`: what documents tell.
fn short_version(server: &str) -> &str {
    let plain = server.strip_prefix('v').unwrap_or(server);
    plain.match_indices('.').nth(1).map_or(plain, |(at, _)| &plain[..at])
}

#[cfg(test)]
pub(crate) fn documents() -> Vec<(String, Value)> {
    let tables = Tables::load().unwrap();
    let discovery = Discovery::new(crate::discovery::built_in(&tables));
    let versions: Vec<(String, String)> = discovery.group_versions().map(|(g, v)| (g.to_owned(), v.to_owned())).collect();
    let none = Map::new();
    let of_versions = versions
        .into_iter()
        .map(|(g, v)| (document_path(&g, &v), document(&tables, &g, &v, discovery.entries(&g, &v).unwrap(), &none, "v1.37.1")));
    let general = general::paths(&tables).into_iter().zip(general::documents(&tables, |_| true, "v1.37.1"));
    of_versions.chain(general).collect()
}

#[cfg(test)]
mod tests;
