//! `AdmissionRequest` without its objects: what expressions and webhooks are told of a write (apiserver `plugin/cel/condition.go`,
//! `plugin/webhook/request/admissionreview.go`).

use std::mem;

use coracle_schema::json::Members;
use coracle_tree::Value;

use super::attempt::Attempt;
use crate::registry::{GroupVersionKind, Kind, Object};

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
    let mut members = Members(mem::take(out));
    members.0.push(b'{');
    three(&mut members, r#","kind":"#, gvk(kind), r#","kind":"#);
    three(&mut members, r#","resource":"#, matched, r#","resource":"#);
    three(&mut members, r#","requestKind":"#, gvk(own), r#","kind":"#);
    three(&mut members, r#","requestResource":"#, addressed, r#","resource":"#);
    members.told(r#","subResource":"#, &request.subresource);
    members.told(r#","requestSubResource":"#, &request.subresource);
    members.told(r#","name":"#, attempt.name(new));
    members.told(r#","namespace":"#, attempt.namespace(new));
    members.text(r#","operation":"#, attempt.operation.name());
    members.object(r#","userInfo":"#, |members| attempt.user.tell(members));
    members.value(r#","dryRun":"#, &attempt.dry_run.into());
    members.value(r#","options":"#, &attempt.given());
    members.0.push(b'}');
    *out = members.0;
}

/// A group, a version, and what of it by that name.
fn three(members: &mut Members, name: &'static str, [group, version, third]: [&str; 3], as_what: &'static str) {
    members.object(name, |members| {
        members.text(r#","group":"#, group);
        members.text(r#","version":"#, version);
        members.text(as_what, third);
    });
}

fn gvk(of: &GroupVersionKind) -> [&str; 3] {
    [&of.group, &of.version, &of.kind]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coracle_schema::Tables;
    use coracle_tree::json;

    use super::*;
    use crate::{
        admission::{Annotations, Operation},
        authn::User,
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
