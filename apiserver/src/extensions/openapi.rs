//! What custom resources publish: their definitions in OpenAPI v3, made from the bytes of their CRDs when somebody asks.

use coracle_schema::structural;
use coracle_tree::{Map, Value};

use crate::registry::{Catalog, Served};

/// The definitions of the custom kinds of a group and version, by name.
pub fn definitions(catalog: &Catalog, group: &str, version: &str) -> Map {
    let served = catalog.custom_of(group).filter(|served| served.kinds.iter().any(|kind| *kind.gvk.version == *version));
    served.flat_map(|served| of(served, version)).collect()
}

fn of(served: &Served, version: &str) -> Map {
    let Some(custom) = &served.stored.custom else { return Map::new() };
    let definition: Value = serde_json::from_slice(&custom.source).unwrap_or_default();
    structural::openapi::v3(&definition, version)
}
