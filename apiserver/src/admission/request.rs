//! `AdmissionRequest` without its objects: what expressions and webhooks are told of a write (apiserver `plugin/cel/condition.go`,
//! `plugin/webhook/request/admissionreview.go`).

use coracle_schema::json::{self, write_text};
use coracle_tree::Value;

use super::attempt::Attempt;
use crate::{
    authn::User,
    registry::{GroupVersionKind, Kind, Object},
};

/// What a request takes, mostly.
const USUAL: usize = 1024;

/// The request, as it matched: `other` is the version of the kind that a rule named, if it is not the one addressed.
pub(super) fn describe(attempt: &Attempt<'_>, new: Option<&Object>, other: Option<&Kind>) -> Value {
    let mut out = Vec::with_capacity(USUAL);
    append(attempt, new, other, &mut out);
    // It was written here.
    serde_json::from_slice(&out).unwrap_or_default()
}

/// The same as text.
pub(super) fn append(attempt: &Attempt<'_>, new: Option<&Object>, other: Option<&Kind>, out: &mut Vec<u8>) {
    let request = attempt.request;
    let own = attempt.gvk();
    let kind = other.map_or(own, |other| attempt.part_of(other).map_or(&other.gvk, |(gvk, _)| gvk));
    let addressed = [request.group.as_str(), &request.version, &request.resource];
    let matched = other.map_or(addressed, |other| [&*other.gvk.group, &other.gvk.version, &other.id.resource]);
    gvk("{\"kind\":", kind, out);
    resource(",\"resource\":", matched, out);
    gvk(",\"requestKind\":", own, out);
    resource(",\"requestResource\":", addressed, out);
    for (name, text) in [
        (",\"subResource\":", request.subresource.as_str()),
        (",\"requestSubResource\":", &request.subresource),
        (",\"name\":", attempt.name(new)),
        (",\"namespace\":", attempt.namespace(new)),
    ] {
        told(name, text, out);
    }
    member(",\"operation\":", attempt.operation.name(), out);
    out.extend_from_slice(b",\"userInfo\":");
    user(attempt.user, out);
    out.extend_from_slice(if attempt.dry_run { b",\"dryRun\":true,\"options\":" } else { b",\"dryRun\":false,\"options\":" });
    // However deep: it was read or made here.
    let _cannot_fail = json::write(&attempt.given(), usize::MAX, out);
    out.push(b'}');
}

/// A member: its name with what stands around it.
fn member(name: &'static str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    write_text(text, out);
}

/// A text that is left out when it is empty.
fn told(name: &'static str, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        member(name, text, out);
    }
}

fn gvk(name: &'static str, of: &GroupVersionKind, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    member("{\"group\":", &of.group, out);
    member(",\"version\":", &of.version, out);
    member(",\"kind\":", &of.kind, out);
    out.push(b'}');
}

fn resource(name: &'static str, [group, version, resource]: [&str; 3], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    member("{\"group\":", group, out);
    member(",\"version\":", version, out);
    member(",\"resource\":", resource, out);
    out.push(b'}');
}

fn user(user: &User, out: &mut Vec<u8>) {
    let from = out.len();
    told(",\"username\":", &user.name, out);
    told(",\"uid\":", &user.uid, out);
    if !user.groups.is_empty() {
        out.extend_from_slice(b",\"groups\":");
        texts(&user.groups, out);
    }
    if !user.extra.is_empty() {
        out.extend_from_slice(b",\"extra\":");
        let from = out.len();
        for (key, values) in &user.extra {
            out.push(b',');
            write_text(key, out);
            out.push(b':');
            texts(values, out);
        }
        close(from, out);
    }
    close(from, out);
}

/// Makes an object of the members from there on, each of which begins with a comma.
fn close(from: usize, out: &mut Vec<u8>) {
    match out.get_mut(from) {
        Some(first) => *first = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

fn texts(all: &[impl AsRef<str>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, text) in all.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(text.as_ref(), out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coracle_schema::Tables;
    use coracle_tree::json;

    use super::*;
    use crate::{
        admission::{Annotations, Operation},
        registry::{catalog, rules::PLAIN},
        request::RequestInfo,
    };

    #[test]
    fn a_request_is_told_with_all_that_is_known_and_nothing_else() {
        let kinds = catalog::built_in(&Tables::load().unwrap(), |_, _| &PLAIN);
        let kind = kinds.get("apps", "v1", "deployments").unwrap();
        let text = |text: &str| text.to_owned();
        let request = RequestInfo {
            group: text("apps"),
            version: text("v1"),
            resource: text("deployments"),
            namespace: text("shop"),
            ..RequestInfo::default()
        };
        let annotations = Annotations::default();
        let new = Object::new(json!({"metadata": {"name": "we\"b"}})).unwrap();
        let (gvk, resource) = (
            json!({"group": "apps", "version": "v1", "kind": "Deployment"}),
            json!({"group": "apps", "version": "v1", "resource": "deployments"}),
        );
        let mut wanted = json!({"kind": gvk, "requestKind": gvk, "resource": resource, "requestResource": resource, "operation": "CREATE",
            "namespace": "shop", "userInfo": {}, "dryRun": false, "options": null});
        let nobody = User::default();
        let attempt = Attempt::new(Operation::Create, &request, kind, &nobody, &annotations);
        assert_eq!(describe(&attempt, None, None), wanted);
        let extra = BTreeMap::from([(text("a"), vec![text("1"), text("2")]), (text("b"), Vec::new())]);
        let jane = User { uid: "u".into(), extra, ..User::new("ja\\ne", &["g h"]) };
        let attempt = Attempt { dry_run: true, ..Attempt::new(Operation::Create, &request, kind, &jane, &annotations) };
        wanted["userInfo"] =
            json!({"username": "ja\\ne", "uid": "u", "groups": ["g h", "system:authenticated"], "extra": {"a": ["1", "2"], "b": []}});
        (wanted["dryRun"], wanted["name"]) = (true.into(), "we\"b".into());
        assert_eq!(describe(&attempt, Some(&new), None), wanted);
        let part = RequestInfo { subresource: text("scale"), name: text("web"), ..request.clone() };
        let attempt = Attempt::new(Operation::Update, &part, kind, &nobody, &annotations);
        let told = describe(&attempt, Some(&new), None);
        assert_eq!((&told["subResource"], &told["requestSubResource"], &told["name"]), (&"scale".into(), &"scale".into(), &"web".into()));
        assert_eq!(told["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    }
}
