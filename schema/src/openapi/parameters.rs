//! `parameters` of operations: what is common to all operations of a path stands beside them, once.

use coracle_tree::{Value, json};

use crate::types::{Shape, Type};

/// The query parameters of a verb, in alphabetical order.
pub(super) fn of_verb(verb: &str) -> Vec<Value> {
    let write = [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
    let delete = [
        ("dryRun", "string"),
        ("gracePeriodSeconds", "integer"),
        ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
        ("orphanDependents", "boolean"),
        ("propagationPolicy", "string"),
    ];
    let select = [
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
    ];
    let follow = [("allowWatchBookmarks", "boolean"), ("watch", "boolean")];
    let mut names: Vec<(&str, &str)> = match verb {
        "create" | "update" => write.to_vec(),
        "patch" => [&write[..], &[("force", "boolean")]].concat(),
        "delete" => delete.to_vec(),
        "deletecollection" => [&delete[..], &select].concat(),
        "list" => [&select[..], &follow].concat(),
        _ => Vec::new(),
    };
    names.push(("pretty", "string"));
    names.into_iter().map(|(name, kind)| query(name, kind)).collect()
}

/// The query parameters that a message of options stands for: its fields that are texts, numbers or switches.
pub(super) fn of_options(options: &Type) -> Vec<Value> {
    let kind = |shape: &Shape| match shape {
        Shape::String => Some("string"),
        Shape::Bool => Some("boolean"),
        Shape::Int32 | Shape::Int64 => Some("integer"),
        _ => None,
    };
    let of = |shape: &Shape| match shape {
        Shape::List(inner) => kind(inner),
        other => kind(other),
    };
    options.fields.iter().filter_map(|field| Some(query(&field.name, of(&field.shape)?))).collect()
}

/// A part of the path.
pub(super) fn in_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

/// Takes what all operations of a path share out of each of them, and returns it; both sorted by name, parts of the path first.
pub(super) fn take_common(operations: &mut [Vec<Value>]) -> Vec<Value> {
    let Some((first, others)) = operations.split_first() else { return Vec::new() };
    let mut common: Vec<Value> = first.iter().filter(|p| others.iter().all(|list| list.contains(p))).cloned().collect();
    for list in operations {
        list.retain(|parameter| !common.contains(parameter));
        sort(list);
    }
    sort(&mut common);
    common
}

fn sort(list: &mut [Value]) {
    list.sort_by_cached_key(|parameter| format!("{} {}", parameter["name"].as_str().unwrap_or_default(), parameter["in"]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_operations_share_stands_once() {
        let name = |list: &[Value]| list.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let mut operations = [of_verb("get"), of_verb("update")];
        operations.iter_mut().for_each(|list| list.push(in_path("name")));
        let common = take_common(&mut operations);
        assert_eq!(name(&common), ["name", "pretty"]);
        assert_eq!(name(&operations[1]), ["dryRun", "fieldManager", "fieldValidation"]);
        assert!(operations[0].is_empty());
    }
}
