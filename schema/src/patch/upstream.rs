//! Strategic merge patches recorded from upstream's own implementation: two-way and three-way ones as kubectl computes them, and random ones
//! with directives.

use coracle_tree::Value;
use serde::Deserialize;

use super::strategic_merge_patch;
use crate::Tables;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Case {
    kind: String,
    original: Value,
    patch: Value,
    #[serde(default)]
    error: String,
    result: Option<Value>,
}

#[test]
fn every_recorded_patch_of_upstream_gives_what_it_gave() {
    let tables = Tables::load().unwrap();
    let cases: Vec<Case> = serde_json::from_str(include_str!("testdata/upstream.json")).unwrap();
    for (at, case) in cases.iter().enumerate() {
        let (group, kind) = case.kind.split_once('/').unwrap();
        let schema = tables.kind(group, "v1", kind).unwrap();
        let place = format!("case {at} ({kind}): {} patched with {}", case.original, case.patch);
        match (&case.result, strategic_merge_patch(&schema, case.original.clone(), case.patch.clone())) {
            (Some(theirs), Ok(ours)) => assert!(&ours == theirs, "{place}\nours:   {ours}\ntheirs: {theirs}"),
            // Which of several mistakes is found first is up to the order of a map upstream.
            (None, Err(_)) => {}
            (Some(_), Err(error)) => panic!("{place}: we fail with {error}"),
            (None, Ok(_)) => panic!("{place}: upstream fails with {}", case.error),
        }
    }
    assert!(cases.len() > 40);
}
