//! Documents of several servers made one (kube-openapi `pkg/aggregator`).

use std::collections::{BTreeMap, BTreeSet};

use coracle_tree::{Map, Text, Value};

/// What stands beside the paths of a document and is referred to by name.
const PLACES: [&str; 2] = ["definitions", "parameters"];
/// Of which kinds a definition is: the same definition may be of others elsewhere.
const KINDS: &str = "x-kubernetes-group-version-kind";

/// The document with the paths below `prefix` alone, and what those refer to.
pub fn filtered(mut document: Value, prefix: &str) -> Value {
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|path, _| path.starts_with(prefix) || *path == prefix);
    }
    let mut used = BTreeSet::new();
    let mut open = Vec::new();
    references(&document["paths"], &mut open);
    while let Some(reference) = open.pop() {
        if let Some((place, name)) = named(&reference)
            && used.insert((place, name.to_owned()))
            && let Some(found) = document.get(place).and_then(|of| of.get(name))
        {
            references(found, &mut open);
        }
    }
    for place in PLACES {
        if let Some(all) = document[place].as_object_mut() {
            all.retain(|name, _| used.contains(&(place, name.to_string())));
        }
    }
    document
}

/// Adds another document. A path that is there stays; a definition or parameter of the same name that is another gets a name of its own
/// (`NAME_v2`), and all who refer to it follow.
pub fn merge(into: &mut Value, mut from: Value) {
    let there: BTreeSet<Text> = into["paths"].as_object().map(|paths| paths.keys().cloned().collect()).unwrap_or_default();
    if let Some(paths) = from["paths"].as_object_mut() {
        paths.retain(|path, _| !there.contains(path));
        if paths.is_empty() {
            return;
        }
    }
    let mut renames = BTreeMap::new();
    for place in PLACES {
        let (ours, theirs) = (members(into, place), members(&from, place));
        let mut taken: BTreeSet<Text> = ours.keys().chain(theirs.keys()).cloned().collect();
        for (name, theirs) in theirs {
            if ours.get(name).is_none_or(|ours| is_same(ours, theirs)) {
                continue;
            }
            let names = (2..).map(|n: u32| format!("{name}_v{n}"));
            let found =
                names.into_iter().find(|other| ours.get(other).map_or(!taken.contains(other.as_str()), |ours| is_same(ours, theirs)));
            let Some(other) = found else { continue };
            taken.insert(other.as_str().into());
            renames.insert(format!("#/{place}/{name}"), other);
        }
    }
    if !renames.is_empty() {
        rename(&mut from, &renames);
    }
    for place in PLACES {
        let theirs = from.get_mut(place).and_then(Value::as_object_mut).map(std::mem::take).unwrap_or_default();
        for (name, theirs) in theirs {
            let name = renames.get(&format!("#/{place}/{name}")).map_or(name, Text::from);
            let Some(ours) = into[place].as_object_mut() else { continue };
            match ours.get_mut(&name) {
                Some(there) => super::add_kinds(there, &theirs),
                None => {
                    ours.insert(name, theirs);
                }
            }
        }
    }
    let theirs = from["paths"].as_object_mut().map(std::mem::take).unwrap_or_default();
    if let Some(ours) = into["paths"].as_object_mut() {
        ours.extend(theirs);
    }
}

fn members<'v>(document: &'v Value, place: &str) -> &'v Map {
    static NONE: std::sync::LazyLock<Map> = std::sync::LazyLock::new(Map::new);
    document.get(place).and_then(Value::as_object).unwrap_or(&NONE)
}

/// Whether two definitions are the same but for their kinds.
fn is_same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let others = |of: &Map| of.keys().filter(|key| *key != KINDS).count();
    others(a) == others(b) && a.iter().all(|(key, value)| key == KINDS || b.get(key) == Some(value))
}

/// `definitions` and `NAME` of `#/definitions/NAME`.
fn named(reference: &str) -> Option<(&'static str, &str)> {
    let (place, name) = reference.strip_prefix("#/")?.split_once('/')?;
    PLACES.into_iter().find(|known| *known == place).map(|place| (place, name))
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                match value.as_str().filter(|_| key == "$ref") {
                    Some(reference) => found.push(reference.to_owned()),
                    None => references(value, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, renames: &BTreeMap<String, String>) {
    match value {
        Value::Object(all) => {
            for (key, value) in all {
                if key == "$ref"
                    && let Some((old, new)) = value.as_str().and_then(|old| Some((old, renames.get(old)?)))
                    && let Some((place, _)) = named(old)
                {
                    *value = format!("#/{place}/{new}").into();
                } else {
                    rename(value, renames);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| rename(value, renames)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn path(of: &str) -> Value {
        json!({"get": {"responses": {"200": {"schema": {"$ref": format!("#/definitions/{of}")}}}}})
    }

    #[test]
    fn only_what_the_kept_paths_need_is_kept() {
        let document = json!({
            "paths": {"/apis/g/v1/": path("A"), "/apis/g/v1/as": path("A"), "/apis/g/v2/as": path("C"), "/version": path("D")},
            "definitions": {"A": {"properties": {"b": {"$ref": "#/definitions/B"}}}, "B": {"type": "string"}, "C": {}, "D": {}},
        });
        let kept = filtered(document, "/apis/g/v1/");
        let names = |member: &str| kept[member].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names("paths"), ["/apis/g/v1/", "/apis/g/v1/as"]);
        assert_eq!(names("definitions"), ["A", "B"]);
    }

    #[test]
    fn what_means_something_else_gets_another_name_and_is_still_found() {
        let mut ours = json!({
            "paths": {"/a": path("A")}, "parameters": {},
            "definitions": {"A": {"type": "string"}, "Same": {"type": "object", KINDS: [{"kind": "X"}]}},
        });
        let theirs = json!({
            "paths": {"/a": path("Same"), "/b": path("A"), "/c": path("Same")},
            "definitions": {"A": {"type": "integer"}, "Same": {"type": "object", KINDS: [{"kind": "Y"}]}},
        });
        merge(&mut ours, theirs.clone());
        assert_eq!(ours["paths"]["/a"], path("A"));
        assert_eq!(ours["paths"]["/b"], path("A_v2"));
        assert_eq!(ours["paths"]["/c"], path("Same"));
        assert_eq!(ours["definitions"]["A_v2"], json!({"type": "integer"}));
        assert_eq!(ours["definitions"]["Same"][KINDS], json!([{"kind": "X"}, {"kind": "Y"}]));
        let once = ours.clone();
        let mut again = theirs;
        again["paths"] = json!({"/d": path("A")});
        merge(&mut ours, again);
        assert_eq!(ours["paths"]["/d"], path("A_v2"), "one name for one meaning");
        assert_eq!(ours["definitions"], once["definitions"]);
    }
}
