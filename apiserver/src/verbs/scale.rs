//! The `scale` subresource: how many replicas, seen and set through `autoscaling/v1 Scale`, whatever the kind.

use std::{collections::BTreeMap, sync::Arc};

use coracle_schema::{FieldErrors, apply, decode};
use coracle_store::cache::Freshness;
use coracle_tree::{Value, json};

use super::{
    Api, Call,
    patch::Patch,
    render,
    write::{Made, Outcome, Writing},
};
use crate::{
    registry::{Kind, Object, Subresource, Verb, custom::ScalePaths, meta, storage},
    request::query::WriteOptions,
    wire::{Answer, PatchType, Status, answer, negotiate, status::Subject, yaml},
};

/// Shows or sets the scale.
pub async fn scale(api: &Api, call: &Call, kind: &Arc<Kind>, part: &Subresource, verb: Verb) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    let (object, warnings) = match verb {
        Verb::Get => {
            let found = api.storage.read(kind, call.namespace_of(kind), &call.info.name, Freshness::Latest).await?;
            let object = found.ok_or_else(|| Status::not_found(kind.subject(&call.info.name)))?.object;
            if let Some(paths) = paths(kind)
                && let Ok((_, false)) = paths.spec.int(object.value())
            {
                return Err(Status::internal(format!("the spec replicas field {:?} does not exist", paths.spec.text())));
            }
            (object, Vec::new())
        }
        Verb::Update => put(api, call, kind, part).await?,
        _ => patch(api, call, kind, part).await?,
    };
    let mut made = render::printed(api, call, wanted, part.printer.as_deref(), &of_object(paths(kind), &object)?)?;
    answer::warn(&mut made, &warnings);
    Ok(made)
}

async fn put(api: &Api, call: &Call, kind: &Arc<Kind>, part: &Subresource) -> Result<(Object, Vec<String>), Status> {
    let options = WriteOptions::parse(&call.query, call.user_agent(), "UpdateOptions")?;
    let mut writing = Writing::new(api, call, kind, options);
    let sent = decoded(call.body_as(part.schema.as_ref().ok_or_else(Status::no_such_path)?)?, part)?;
    check_name(&sent, &call.info.name)?;
    let outcome = writing.change(false, |_, old| scaled(kind, old, &sent)).await?;
    finish(writing, &outcome)
}

async fn patch(api: &Api, call: &Call, kind: &Arc<Kind>, part: &Subresource) -> Result<(Object, Vec<String>), Status> {
    let of = negotiate::patch_type(&call.headers, kind.is_custom())?;
    let options = WriteOptions::parse_patch(&call.query, call.user_agent(), of == PatchType::Apply)?;
    let mut writing = Writing::new(api, call, kind, options);
    if of == PatchType::Apply {
        let sent = yaml::read(&call.body).map_err(Status::bad_request)?.value;
        let outcome = apply(&mut writing, &sent).await?;
        return finish(writing, &outcome);
    }
    let patch = Patch::parse(of, &call.body, writing.options.field_validation)?;
    let schema = part.schema.as_ref().ok_or_else(Status::no_such_path)?;
    let outcome = writing
        .change(false, |_, old| {
            let shown = old.map(|old| of_object(paths(kind), old)).transpose()?.unwrap_or_default();
            scaled(kind, old, &decoded(patch.apply(schema, &shown)?, part)?)
        })
        .await?;
    finish(writing, &outcome)
}

/// Applies `spec.replicas` alone, in the name of the kind itself: that is whose field it is.
async fn apply(writing: &mut Writing<'_>, sent: &Value) -> Result<Outcome, Status> {
    let kind = writing.kind;
    let (version, now) = (kind.api_version(), meta::time_text(writing.api.now()));
    let name = &writing.call.info.name;
    let mut config = json!({"apiVersion": version, "kind": &*kind.gvk.kind, "metadata": {"name": name}});
    match (sent.pointer("/spec/replicas"), paths(kind)) {
        (Some(replicas), Some(paths)) => paths.spec.set(&mut config, replicas.clone()),
        (Some(replicas), None) => config["spec"] = json!({"replicas": replicas}),
        (None, Some(_)) => {}
        (None, None) => config["spec"] = json!({}),
    }
    writing
        .change(false, |writing, old| {
            let who = writing.who(&version, &now);
            let merged = apply::apply(&kind.schema, old.map(Object::value), &config, &who, writing.options.force);
            let merged = merged.map_err(super::apply::refused)?;
            Ok(Made { object: writing.decode_value(merged)?, owned: true })
        })
        .await
}

fn finish(writing: Writing<'_>, outcome: &Outcome) -> Result<(Object, Vec<String>), Status> {
    let object = storage::parse_wire(&outcome.wire)?;
    Ok((object, writing.warnings))
}

fn decoded(value: Value, part: &Subresource) -> Result<Value, Status> {
    let schema = part.schema.as_ref().ok_or_else(Status::no_such_path)?;
    let decoded = decode::from_value(value, schema, decode::FieldValidation::Ignore);
    Ok(decoded.map_err(|e| Status::bad_request(e.describe("Scale", "v1")))?.value)
}

/// The object with the replicas of a Scale.
fn scaled(kind: &Kind, old: Option<&Object>, scale: &Value) -> Result<Made, Status> {
    let mut object = old.ok_or_else(Status::no_such_path)?.clone();
    check_name(scale, object.name())?;
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
    // Where a custom resource keeps them, its own rules count.
    if replicas < 0 && !kind.is_custom() {
        let mut errors = FieldErrors::none();
        errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid(Subject { group: "autoscaling", resource: "Scale", name: object.name() }, &errors));
    }
    // Whatever the kind: a Scale that names no version is set over any.
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = scale.pointer(&format!("/metadata/{field}")).filter(|v| *v != "") {
            object.set_metadata(field, value.clone());
        }
    }
    set(kind, &mut object, replicas);
    Ok(Made { object, owned: false })
}

/// Refuses a Scale of another object.
fn check_name(scale: &Value, name: &str) -> Result<(), Status> {
    let given = scale.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if given == name {
        return Ok(());
    }
    Err(Status::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})")))
}

/// The Scale that admission sees of an object.
pub(super) fn shown(kind: &Kind, object: &Object) -> Result<Object, Status> {
    let scale = of_object(paths(kind), object)?;
    Object::new(scale).ok_or_else(|| Status::internal("a Scale is not an object"))
}

/// Takes over what admission made of the Scale.
pub(super) fn take(kind: &Kind, object: &mut Object, scale: &Object) {
    set(kind, object, scale.at("/spec/replicas").and_then(Value::as_i64).unwrap_or_default());
}

fn set(kind: &Kind, object: &mut Object, replicas: i64) {
    match paths(kind) {
        Some(paths) => paths.spec.set(object.value_mut(), replicas.into()),
        None => {
            object.member_mut("spec").insert("replicas", replicas.into());
        }
    }
}

/// Where a custom resource keeps its replicas.
fn paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.custom.as_ref()?.scale.as_ref()
}

/// The Scale of an object.
fn of_object(paths: Option<&ScalePaths>, object: &Object) -> Result<Value, Status> {
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let text = object.text(&format!("/metadata/{field}"));
        if !text.is_empty() {
            meta[field] = text.into();
        }
    }
    let (wanted, seen, selector) = match paths {
        Some(paths) => custom_facts(paths, object.value()).map_err(Status::internal)?,
        None => {
            let number = |pointer: &str| object.value().pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
            let selector = object.value().pointer("/spec/selector").map(selector_text).unwrap_or_default();
            (number("/spec/replicas"), number("/status/replicas"), selector)
        }
    };
    let spec = if wanted == 0 { json!({}) } else { json!({"replicas": wanted}) };
    let mut status = json!({"replicas": seen});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status}))
}

/// Replicas wanted and seen, and the selector, of a custom resource.
fn custom_facts(paths: &ScalePaths, object: &Value) -> Result<(i64, i64, String), String> {
    let selector = paths.selector.as_ref().map_or(Ok(""), |path| path.string(object))?;
    Ok((paths.spec.int(object)?.0, paths.status.int(object)?.0, selector.to_owned()))
}

/// A selector as text: of a `LabelSelector`, or of the plain map replication controllers have.
fn selector_text(selector: &Value) -> String {
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if structured { selector.get("matchLabels") } else { Some(selector) };
    let mut terms: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        terms.insert(key.to_string(), format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let text = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.insert(key.to_owned(), text);
    }
    terms.into_values().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector_of_its_object() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "d", "resourceVersion": "4"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}},
            "status": {"replicas": 2},
        });
        let scale = of_object(None, &Object::new(object).unwrap()).unwrap();
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a in (x,y),b=1"}));
        assert_eq!(scale["metadata"]["resourceVersion"], "4");
    }

    #[test]
    fn a_custom_resource_keeps_its_replicas_where_its_definition_says() {
        let path = crate::registry::custom::FieldPath::parse;
        let paths = ScalePaths { spec: path(".spec.size"), status: path(".status.size"), selector: Some(path(".status.labels")) };
        let object = json!({"metadata": {"name": "w"}, "spec": {"size": 4}, "status": {"size": 1, "labels": "a=b"}});
        let scale = of_object(Some(&paths), &Object::new(object).unwrap()).unwrap();
        assert_eq!((&scale["spec"], &scale["status"]), (&json!({"replicas": 4}), &json!({"replicas": 1, "selector": "a=b"})));
        let wrong = of_object(Some(&paths), &Object::new(json!({"spec": {"size": "4"}})).unwrap());
        assert!(wrong.unwrap_err().message.contains("accessor error"));
    }
}
