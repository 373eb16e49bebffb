//! What kube-apiserver 1.37.1 answered when these definitions were created (`upstream.jsonl`, a line a case: name, definition, errors,
//! warnings).

use coracle_tree::{Value, json};

use super::{check, list, member, name_fault, text_of, warnings};

/// Errors that print a part of the definition in the form it has in memory upstream, or speak of Go's parser: only their places must agree.
const ONLY_PLACES: &[&str] = &["status and root anyOf", "items as list"];

/// The definition as the registry hands it to validation: named, with its storage version noted.
fn prepared(mut definition: Value) -> Value {
    let spec = &mut definition["spec"];
    let kind = text_of(&spec["names"], "kind").to_owned();
    if text_of(&spec["names"], "singular").is_empty() {
        spec["names"]["singular"] = kind.to_lowercase().into();
    }
    if text_of(&spec["names"], "listKind").is_empty() && !kind.is_empty() {
        spec["names"]["listKind"] = format!("{kind}List").into();
    }
    if spec.get("conversion").is_none() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    let stored: Vec<Value> = list(spec, "versions").iter().filter(|v| v["storage"] == true).take(1).map(|v| v["name"].clone()).collect();
    definition["status"] = json!({"storedVersions": stored});
    definition
}

fn texts(of: &Value) -> Vec<String> {
    of.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn place(error: &str) -> String {
    error.split(": ").next().unwrap_or_default().to_owned()
}

#[test]
fn definitions_are_refused_as_upstream_refuses_them() {
    let mut differ = Vec::new();
    for line in include_str!("upstream.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let definition = prepared(case["definition"].clone());
        let mut ours: Vec<String> = check(&definition, None).0.iter().map(ToString::to_string).collect();
        let given = text_of(member(&definition, "metadata"), "name");
        ours.extend(name_fault(&definition, given).map(|why| format!("metadata.name: Invalid value: {}: {why}", crate::go::quoted(given))));
        let mut theirs = texts(&case["errors"]);
        if ONLY_PLACES.contains(&text_of(&case, "name")) {
            ours = ours.iter().map(|e| place(e)).collect();
            theirs = theirs.iter().map(|e| place(e)).collect();
        }
        ours.sort_unstable();
        theirs.sort_unstable();
        ours.dedup();
        theirs.dedup();
        if ours != theirs {
            let only = |a: &[String], b: &[String]| a.iter().filter(|e| !b.contains(e)).cloned().collect::<Vec<_>>().join("\n      ");
            differ.push(format!("{}\n  upstream: {}\n  ours:     {}", case["name"], only(&theirs, &ours), only(&ours, &theirs)));
        }
        let mut said = warnings(&definition, None);
        said.sort_unstable();
        if theirs.is_empty() && said != texts(&case["warnings"]) {
            differ.push(format!("{} warns {said:?}", case["name"]));
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}
