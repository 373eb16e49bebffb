//! Equality: of values of all kinds with one another (cel-go `types.Equal`), of lists that are sets or maps as Kubernetes has it
//! (apiserver `pkg/cel/common`), and adding to such lists.

use std::sync::Arc;

use coracle_tree::Value as Json;

use crate::decl::Listing;
use crate::value::{List, Map, Val, compare};
use crate::{EvalError, view};

type Eval<T> = Result<T, EvalError>;

/// Whether two values are equal; values of different kinds are not, numbers are compared by what they count.
pub(crate) fn equal<'a>(one: &Val<'a>, other: &Val<'a>) -> Eval<bool> {
    match (one, other) {
        (Val::Null, Val::Null) => Ok(true),
        (Val::Null, _) | (_, Val::Null) => Ok(false),
        (Val::List(a), _) => lists(a, other),
        (Val::Map(a), _) => maps(a, other),
        (Val::Optional(a), Val::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (a, b) => Ok(a.is_none() && b.is_none()),
        },
        (Val::Type(a), Val::Type(b)) => Ok(a.name() == b.name()),
        (Val::Host(a), Val::Host(b)) => a.equal(b),
        (Val::Host(_), _) => Err(EvalError::no_overload()),
        (Val::Object(a), Val::Object(b)) => {
            if a.name != b.name || a.fields.len() != b.fields.len() {
                return Ok(false);
            }
            for (name, value) in &a.fields {
                let Some((_, same)) = b.fields.iter().find(|(one, _)| one == name) else { return Ok(false) };
                if !equal(value, same)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Val::Preserved(a), Val::Preserved(b)) => Ok(json_equal(a, b)),
        (Val::Preserved(a), b) | (b, Val::Preserved(a)) => Ok(view::json(b).is_ok_and(|b| json_equal(a, &b))),
        _ => Ok(compare(one, other) == Some(std::cmp::Ordering::Equal)),
    }
}

/// JSON compared as data: 1 and 1.0 are the same number, the order of members does not matter.
pub(crate) fn json_equal(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| json_equal(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| json_equal(value, other)))
        }
        _ => one == other,
    }
}

fn listing<'a>(list: &List<'a>) -> &'a Listing {
    static ATOMIC: Listing = Listing::Atomic;
    match list {
        List::Json(_, _, listing) | List::Keyed(_, listing) => listing,
        List::Shared(_) => &ATOMIC,
    }
}

fn lists<'a>(one: &List<'a>, other: &Val<'a>) -> Eval<bool> {
    let Val::List(two) = other else {
        // Lists of the data are strict about what they are compared with.
        return if matches!(one, List::Json(_, decl, _) if !decl.ty().is_dyn()) { Err(EvalError::no_overload()) } else { Ok(false) };
    };
    if one.len() != two.len() {
        return Ok(false);
    }
    match listing(one) {
        Listing::Atomic => {
            for (a, b) in one.iter().zip(two.iter()) {
                if !equal(&a?, &b?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Listing::Set => {
            let ours = scalars(one)?;
            let theirs = scalars(two)?;
            contains_all(&ours, &theirs).and_then(|yes| if yes { contains_all(&theirs, &ours) } else { Ok(false) })
        }
        Listing::Map(keys) => by_keys(one, two, keys),
    }
}

/// The elements of a list that is a set.
fn scalars<'a>(list: &List<'a>) -> Eval<Vec<Val<'a>>> {
    let items: Vec<Val<'a>> = list.iter().collect::<Eval<_>>()?;
    if items.iter().any(|item| matches!(item, Val::List(_) | Val::Map(_))) {
        return Err(EvalError::new("listSet operations are only supported on lists of scalar values"));
    }
    Ok(items)
}

/// Sorts a copy of the texts so that large sets are compared quickly; other scalars are compared one by one.
fn contains_all<'a>(all: &[Val<'a>], some: &[Val<'a>]) -> Eval<bool> {
    let mut texts: Vec<&str> = all.iter().filter_map(Val::as_str).collect();
    texts.sort_unstable();
    let rest: Vec<&Val<'a>> = all.iter().filter(|item| item.as_str().is_none()).collect();
    for item in some {
        let found = match item.as_str() {
            Some(text) => texts.binary_search(&text).is_ok(),
            None => contains(rest.iter().map(|item| Ok((*item).clone())), item)?,
        };
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether any of `items` equals `item`; elements that cannot be compared are passed over.
pub(crate) fn contains<'a>(items: impl Iterator<Item = Eval<Val<'a>>>, item: &Val<'a>) -> Eval<bool> {
    for one in items {
        if equal(&one?, item) == Ok(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The values of the keys of an element of a list that is a map, in a form that can be looked up.
fn key_of(item: &Val<'_>, keys: &[String]) -> Eval<String> {
    let mut out = String::new();
    for key in keys {
        let part = match item {
            Val::Map(Map::Object(map, _) | Map::Json(map, _)) => map.get(key.as_str()).cloned(),
            Val::Map(map) => map.find(&Val::from(key.as_str())).transpose()?.map(|value| view::json(&value)).transpose()?,
            _ => None,
        };
        // JSON text cannot contain a bare line end.
        out.push_str(&part.unwrap_or(Json::Null).to_string());
        out.push('\n');
    }
    Ok(out)
}

fn keyed<'a>(list: &List<'a>, keys: &[String]) -> Eval<Vec<(String, Val<'a>)>> {
    list.iter().map(|item| item.and_then(|item| Ok((key_of(&item, keys)?, item)))).collect()
}

fn by_keys<'a>(one: &List<'a>, two: &List<'a>, keys: &[String]) -> Eval<bool> {
    let ours: std::collections::HashMap<String, Val<'a>> = keyed(one, keys)?.into_iter().collect();
    let mut seen = std::collections::HashSet::new();
    for (key, item) in keyed(two, keys)? {
        let Some(same) = ours.get(&key) else { return Ok(false) };
        if !equal(same, &item)? {
            return Ok(false);
        }
        seen.insert(key);
    }
    Ok(seen.len() == ours.len())
}

fn maps<'a>(one: &Map<'a>, other: &Val<'a>) -> Eval<bool> {
    let Val::Map(two) = other else {
        return if matches!(one, Map::Shared(_)) { Ok(false) } else { Err(EvalError::no_overload()) };
    };
    if one.len() != two.len() {
        return Ok(false);
    }
    if let (Map::Object(a, object), Map::Object(b, _)) = (one, two) {
        for (name, value) in *a {
            let same = match object.property(name) {
                Some(property) => match (value, b.get(name)) {
                    (Json::Null, None | Some(Json::Null)) => true,
                    (Json::Null, _) | (_, None | Some(Json::Null)) => false,
                    (value, Some(other)) => equal(&view::value(value, &property.decl)?, &view::value(other, &property.decl)?)?,
                },
                None => b.get(name).is_none_or(|other| json_equal(value, other)),
            };
            if !same {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for key in one.keys() {
        let (Some(a), Some(b)) = (one.find(&key), two.find(&key)) else { return Ok(false) };
        if !equal(&a?, &b?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `one + other` of lists: sets take what they have not, maps exchange what they have.
pub(crate) fn add_lists<'a>(one: &List<'a>, other: &List<'a>) -> Eval<List<'a>> {
    let kind = listing(one);
    if *kind == Listing::Atomic {
        if one.is_empty() {
            return Ok(other.clone());
        }
        if other.is_empty() {
            return Ok(one.clone());
        }
        return Ok(List::Shared(Arc::new(one.iter().chain(other.iter()).collect::<Eval<_>>()?)));
    }
    let items = match kind {
        Listing::Map(keys) => {
            let mut items = keyed(one, keys)?;
            let mut places: std::collections::HashMap<String, usize> =
                items.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect();
            for (key, item) in keyed(other, keys)? {
                match places.get(&key) {
                    Some(at) if *at < one.len() => items[*at].1 = item,
                    _ => {
                        places.insert(key.clone(), items.len());
                        items.push((key, item));
                    }
                }
            }
            items.into_iter().map(|(_, item)| item).collect()
        }
        _ => {
            let mut items = scalars(one)?;
            for item in scalars(other)? {
                if !contains(items.iter().cloned().map(Ok), &item)? {
                    items.push(item);
                }
            }
            items
        }
    };
    Ok(List::Keyed(Arc::new(items), kind))
}
