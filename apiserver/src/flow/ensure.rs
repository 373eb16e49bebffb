//! The mandatory and the suggested objects as they should be (kube-apiserver `registry/flowcontrol/ensurer`). Pure.

use coracle_tree::Value;

use super::level::{CATCH_ALL, EXEMPT};

/// Says whether this server keeps an object's spec as it should be.
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// What to write instead of an object that is there; `None` when it is as it should be.
pub(super) fn revised(now: &Value, wanted: &Value) -> Option<Value> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let mandatory = name == EXEMPT || name == CATCH_ALL;
    let said = annotation(now);
    // Nobody has touched an object of the first generation.
    let keep = mandatory || said.unwrap_or_else(|| now["metadata"]["generation"] == 1);
    let spoiled = keep && !same(&now["spec"], &wanted["spec"]);
    if said == Some(keep) && !spoiled {
        return None;
    }
    let mut next = now.clone();
    if spoiled {
        next["spec"] = wanted["spec"].clone();
    }
    if said != Some(keep) {
        next["metadata"]["annotations"][AUTOUPDATE] = keep.to_string().into();
    }
    Some(next)
}

/// Whether an object was made by a server that wanted it and this one does not.
pub(super) fn is_unwanted(now: &Value) -> bool {
    annotation(now) == Some(true)
}

fn annotation(object: &Value) -> Option<bool> {
    // `strconv.ParseBool`
    match object["metadata"]["annotations"][AUTOUPDATE].as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether two specs mean the same: what is empty is as good as absent.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let member = |of: &coracle_tree::Map, key: &str| of.get(key).cloned().unwrap_or_default();
            a.keys().chain(b.keys()).all(|key| same(&member(a, key), &member(b, key)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b || is_empty(a) && is_empty(b),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn object(name: &str, said: &str, precedence: u32) -> Value {
        json!({
            "metadata": {"name": name, "generation": 2, "annotations": {AUTOUPDATE: said}},
            "spec": {"matchingPrecedence": precedence, "rules": [{"subjects": [], "clusterScope": false}]},
        })
    }

    #[test]
    fn mandatory_objects_are_mended_whatever_is_said_and_suggested_ones_if_nobody_took_them_over() {
        let wanted = |name: &str| json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": 1, "rules": [{}]}});
        let spec = |name: &str, said: &str, precedence: u32| revised(&object(name, said, precedence), &wanted(name));
        assert_eq!(spec("exempt", "true", 1), None);
        let mended = spec("exempt", "false", 7).unwrap();
        assert_eq!((&mended["spec"]["matchingPrecedence"], &mended["metadata"]["annotations"][AUTOUPDATE]), (&json!(1), &json!("true")));
        assert_eq!(spec("probes", "false", 7), None);
        assert_eq!(spec("probes", "true", 7).unwrap()["spec"]["matchingPrecedence"], 1);
        let taken_over = spec("probes", "?", 7).unwrap();
        assert_eq!(
            (&taken_over["spec"]["matchingPrecedence"], &taken_over["metadata"]["annotations"][AUTOUPDATE]),
            (&json!(7), &json!("false"))
        );
        assert!(is_unwanted(&object("old", "true", 1)) && !is_unwanted(&object("own", "false", 1)) && !is_unwanted(&json!({})));
    }
}
