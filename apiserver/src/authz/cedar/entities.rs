//! Users, requests and objects as Cedar sees them.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use coracle_schema::selector::Operator;
use coracle_tree::{Text, Value};

use crate::{admission::Attempt, authn::User, request::RequestInfo};

/// Nesting of objects that is looked into.
const DEPTH: usize = 32;
/// Maps from text to text whose keys people choose: in Cedar they are sets of pairs.
const PAIRS: [&str; 8] = ["labels", "annotations", "matchLabels", "nodeSelector", "data", "stringData", "binaryData", "parameters"];

type Attributes = HashMap<String, RestrictedExpression>;

/// An entity's name; nothing when the type is none Cedar can spell.
pub(super) fn uid(of: &str, id: &str) -> Option<EntityUid> {
    Some(EntityUid::from_type_name_and_id(EntityTypeName::from_str(of).ok()?, EntityId::new(id)))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn record<'k>(fields: impl IntoIterator<Item = (&'k str, RestrictedExpression)>) -> Option<RestrictedExpression> {
    RestrictedExpression::new_record(fields.into_iter().map(|(key, value)| (key.to_owned(), value))).ok()
}

/// The user, a member of its groups: a node, a service account or another user, by its name.
pub(super) fn user(user: &User) -> Option<(EntityUid, Vec<Entity>)> {
    let parts: Vec<&str> = user.name.split(':').collect();
    let mut attributes = Attributes::new();
    let of = match parts[..] {
        ["system", "serviceaccount", namespace, name] => {
            attributes.insert("namespace".to_owned(), text(namespace));
            attributes.insert("name".to_owned(), text(name));
            "k8s::ServiceAccount"
        }
        ["system", "node", name] => {
            attributes.insert("name".to_owned(), text(name));
            "k8s::Node"
        }
        _ => {
            attributes.insert("name".to_owned(), text(&user.name));
            "k8s::User"
        }
    };
    let pair = |(key, values): (&String, &Vec<String>)| {
        let values = RestrictedExpression::new_set(values.iter().map(|value| text(value)));
        record([("key", text(key)), ("values", values)])
    };
    if !user.extra.is_empty() {
        attributes.insert("extra".to_owned(), RestrictedExpression::new_set(user.extra.iter().filter_map(pair)));
    }
    let (mut groups, mut entities) = (HashSet::new(), Vec::new());
    for group in &user.groups {
        let uid = uid("k8s::Group", group)?;
        if groups.insert(uid.clone()) {
            entities.push(Entity::new(uid, Attributes::from([("name".to_owned(), text(group))]), HashSet::new()).ok()?);
        }
    }
    let id = if user.uid.is_empty() { &user.name } else { &user.uid };
    let uid = uid(of, id)?;
    entities.push(Entity::new(uid.clone(), attributes, groups).ok()?);
    Some((uid, entities))
}

/// What a request is about: a resource, another path, or whom it wants to act as.
pub(super) fn request(request: &RequestInfo) -> Option<(EntityUid, Entity)> {
    let mut attributes = Attributes::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            attributes.insert(name.to_owned(), text(value));
        }
    };
    let uid = if !request.is_resource {
        put("path", &request.path);
        uid("k8s::NonResourceURL", &request.path)?
    } else if request.verb == "impersonate" {
        impersonated(request, &mut put)?
    } else {
        put("name", &request.name);
        put("namespace", &request.namespace);
        put("subresource", &request.subresource);
        attributes.insert("apiGroup".to_owned(), text(&request.group));
        attributes.insert("resource".to_owned(), text(&request.resource));
        selectors(request, &mut attributes);
        uid("k8s::Resource", &path(request))?
    };
    let entity = Entity::new(uid.clone(), attributes, HashSet::new()).ok()?;
    Some((uid, entity))
}

fn impersonated(request: &RequestInfo, put: &mut impl FnMut(&str, &str)) -> Option<EntityUid> {
    let (name, node) = (request.name.as_str(), request.name.strip_prefix("system:node:").filter(|name| !name.contains(':')));
    match (request.resource.as_str(), node) {
        ("serviceaccounts", _) => {
            put("name", name);
            put("namespace", &request.namespace);
            uid("k8s::ServiceAccount", &format!("system:serviceaccount:{}:{name}", request.namespace))
        }
        ("users", Some(node)) => {
            put("name", node);
            uid("k8s::Node", name)
        }
        ("users", None) => {
            put("name", name);
            uid("k8s::User", name)
        }
        ("groups", _) => {
            put("name", name);
            uid("k8s::Group", name)
        }
        ("uids", _) => uid("k8s::PrincipalUID", name),
        ("userextras", _) => {
            put("key", &request.subresource);
            put("value", name);
            uid("k8s::Extra", &request.subresource)
        }
        _ => None,
    }
}

fn selectors(request: &RequestInfo, attributes: &mut Attributes) {
    let field = |(field, value, negated): (&str, &str, bool)| {
        record([("field", text(field)), ("operator", text(if negated { "!=" } else { "=" })), ("value", text(value))])
    };
    let label = |(key, operator, values): (&str, Operator, &[Box<str>])| {
        let operator = match operator {
            Operator::In => "in",
            Operator::NotIn => "notin",
            Operator::Exists => "exists",
            Operator::DoesNotExist => "!",
            Operator::GreaterThan => "gt",
            Operator::LessThan => "lt",
        };
        let values = RestrictedExpression::new_set(values.iter().map(|value| text(value)));
        record([("key", text(key)), ("operator", text(operator)), ("values", values)])
    };
    let fields: Vec<RestrictedExpression> = request.fields.terms().filter_map(field).collect();
    let labels: Vec<RestrictedExpression> = request.labels.requirements().filter_map(label).collect();
    for (name, requirements) in [("fieldSelector", fields), ("labelSelector", labels)] {
        if !requirements.is_empty() {
            attributes.insert(name.to_owned(), RestrictedExpression::new_set(requirements));
        }
    }
}

/// `/api/v1/namespaces/default/pods/web/log`
fn path(request: &RequestInfo) -> String {
    let root = if request.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", request.group) };
    let mut path = format!("{root}/{}", request.version);
    if !request.namespace.is_empty() {
        path.push_str("/namespaces/");
        path.push_str(&request.namespace);
    }
    for part in [&request.resource, &request.name, &request.subresource] {
        if !part.is_empty() {
            path.push('/');
            path.push_str(part);
        }
    }
    path
}

/// `core::v1::Pod`, `networking::v1::Ingress`, `com::example::v1::Widget`
pub(super) fn type_of(group: &str, version: &str, kind: &str) -> String {
    let place = match (group, group.strip_suffix(".k8s.io")) {
        ("", _) => "core".to_owned(),
        (_, Some(own)) => own.split('.').next().unwrap_or(own).to_owned(),
        (other, None) => other.split('.').rev().map(spelled).collect::<Vec<_>>().join("::"),
    };
    format!("{}::{version}::{kind}", place.replace('-', "_"))
}

/// A part of a group as Cedar can spell it: names begin with no digit and are none of its own words.
fn spelled(part: &str) -> String {
    const OWN: [&str; 8] = ["true", "false", "if", "then", "else", "in", "is", "like"];
    match part {
        own if OWN.contains(&own) || own == "has" => format!("{own}_"),
        part if part.starts_with(|first: char| first.is_ascii_digit()) => format!("_{part}"),
        part => part.to_owned(),
    }
}

/// The object of a write with all its fields, and when there is one, the object it replaces under `oldObject`.
pub(super) fn object(attempt: &Attempt<'_>, object: &Value, old: Option<&Value>) -> Option<(EntityUid, Vec<Entity>)> {
    let gvk = &attempt.kind.gvk;
    let of = type_of(&gvk.group, &gvk.version, &gvk.kind);
    let uid_of = |id: &str| uid(&of, id);
    let mut attributes = fields(object);
    let mut entities = Vec::new();
    if let Some(old) = old {
        let uid = uid_of(&format!("{} before", path(attempt.request)))?;
        attributes.insert("oldObject".to_owned(), RestrictedExpression::new_entity_uid(uid.clone()));
        entities.push(Entity::new(uid, fields(old), HashSet::new()).ok()?);
    }
    let uid = uid_of(&path(attempt.request))?;
    entities.push(Entity::new(uid.clone(), attributes, HashSet::new()).ok()?);
    Some((uid, entities))
}

fn fields(object: &Value) -> Attributes {
    let fields = object.as_object().into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.to_string(), expression(name, value, DEPTH)?))).collect()
}

/// A field as Cedar has it; what is empty, a fraction or too deep has none.
fn expression(name: &str, value: &Value, depth: usize) -> Option<RestrictedExpression> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Null => None,
        Value::Bool(value) => Some(RestrictedExpression::new_bool(*value)),
        Value::Number(value) => value.as_i64().map(RestrictedExpression::new_long),
        Value::String(value) => Some(text(value)),
        Value::Array(items) => Some(RestrictedExpression::new_set(items.iter().filter_map(|item| expression(name, item, depth)))),
        Value::Object(fields) if PAIRS.contains(&name) && fields.values().all(Value::is_string) => {
            let pair = |(key, value): (&Text, &Value)| record([("key", text(key)), ("value", text(value.as_str()?))]);
            Some(RestrictedExpression::new_set(fields.iter().filter_map(pair)))
        }
        Value::Object(fields) => {
            let known: Vec<(&str, RestrictedExpression)> =
                fields.iter().filter_map(|(name, value)| Some((name.as_str(), expression(name, value, depth)?))).collect();
            if known.is_empty() { None } else { record(known) }
        }
    }
}
