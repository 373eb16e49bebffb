//! What must hold for any input, one function a target: it takes bytes and panics when a promise is broken.
//!
//! `make fuzz` runs them under libFuzzer (`fuzz/libfuzzer`). An input that once broke something is kept in `fuzz/found/<target>/` and is
//! tried again by the tests of this crate, so that it stays mended.

mod apply;
mod bodies;
mod cel;
mod custom;
mod patches;
mod path;
mod selectors;

use std::sync::LazyLock;

use coracle_schema::{SchemaRef, Tables};

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the name of their folder and binary.
pub const TARGETS: &[(&str, Target)] = &[
    ("path", path::path),
    ("json", bodies::json),
    ("yaml", bodies::yaml),
    ("protobuf", bodies::protobuf),
    ("selectors", selectors::selectors),
    ("patches", patches::patches),
    ("apply", apply::apply),
    ("structural", custom::structural),
    ("jsonpath", custom::jsonpath),
    ("cel", cel::cel),
];

static TABLES: LazyLock<Option<Tables>> = LazyLock::new(|| Tables::load().ok());

/// Kinds worth trying: deep, wide, with unions, free-form parts and odd scalars.
const KINDS: &[(&str, &str, &str)] = &[
    ("", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("", "v1", "Service"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("", "v1", "Secret"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("resource.k8s.io", "v1", "ResourceSlice"),
    ("", "v1", "Event"),
];

/// A kind chosen by the first byte, and the bytes after it.
fn kind(data: &[u8]) -> Option<(SchemaRef, &[u8])> {
    let (first, rest) = data.split_first()?;
    let (group, version, kind) = KINDS[*first as usize % KINDS.len()];
    Some((TABLES.as_ref()?.kind(group, version, kind)?, rest))
}

/// Runs the target of this name.
pub fn run(target: &str, data: &[u8]) {
    if let Some((_, run)) = TARGETS.iter().find(|(name, _)| *name == target) {
        run(data);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_input_that_once_broke_a_promise_keeps_it_now() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
        let mut tried = 0;
        for folder in fs::read_dir(root).unwrap().flatten() {
            let name = folder.file_name().into_string().unwrap();
            let (_, run) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
            for case in fs::read_dir(folder.path()).unwrap().flatten() {
                run(&fs::read(case.path()).unwrap());
                tried += 1;
            }
        }
        assert!(tried > 0);
    }

    #[test]
    fn targets_reach_what_they_are_about() {
        assert!(kind(b"\0{}").is_some());
        for (at, wanted) in KINDS.iter().enumerate() {
            assert!(kind(&[at as u8]).is_some(), "{wanted:?}");
        }
    }
}
