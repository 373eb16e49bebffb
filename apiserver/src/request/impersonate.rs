//! Acting as somebody else: `Impersonate-*` headers, each of which the caller must be allowed to use
//! (apiserver `endpoints/filters/impersonation.go`).

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;

use super::RequestInfo;
use crate::{authn::User, authz::Chain, wire::Status};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user the request acts as: the caller, or whom the headers name if the caller may act as them.
pub fn impersonate(caller: Arc<User>, headers: &HeaderMap, authorizer: &Chain) -> Result<Arc<User>, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (name, uid) = (text(USER), text(UID));
    let mut groups: Vec<Arc<str>> = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).map(Arc::from).collect();
    let extra = extra(headers);
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(caller);
        }
        return Err(Status::internal("requested impersonation of groups, uid or extra without impersonating a user"));
    }
    let allow = |group: &str, resource: &str, part: &str, namespace: &str, name: &str| {
        let info = RequestInfo {
            is_resource: true,
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: part.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        authorizer.authorize(&caller, &info)
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => allow("", "serviceaccounts", "", namespace, account)?,
        None => allow("", "users", "", "", name)?,
    }
    for group in &groups {
        allow("", "groups", "", "", group)?;
    }
    if !uid.is_empty() {
        allow("authentication.k8s.io", "uids", "", "", uid)?;
    }
    for (key, values) in &extra {
        for value in values {
            allow("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups.extend(["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}").into()]);
    }
    add_authenticated(name, &mut groups);
    Ok(Arc::new(User { name: name.into(), uid: uid.into(), groups, extra }))
}

/// Everybody is in one of two groups.
fn add_authenticated(name: &str, groups: &mut Vec<Arc<str>>) {
    let has = |groups: &[Arc<str>], group: &str| groups.iter().any(|g| &**g == group);
    let missing = if name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !has(groups, "system:authenticated") && !has(groups, "system:unauthenticated") {
        groups.push(missing.into());
    }
}

fn extra(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Authorizer, Decision};

    struct Only(&'static str, &'static str);

    impl Authorizer for Only {
        fn decide(&self, _: &User, request: &RequestInfo) -> Decision {
            let fits = (request.resource.as_str(), request.name.as_str()) == (self.0, self.1);
            if fits { Decision::Allow } else { Decision::NoOpinion(String::new()) }
        }
    }

    fn act(pairs: &[(&'static str, &'static str)], rule: Only) -> Result<Arc<User>, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        impersonate(Arc::new(User::new("alice", &[])), &headers, &Chain::new(vec![Arc::new(rule)]))
    }

    #[test]
    fn without_headers_the_caller_is_who_they_are() {
        assert_eq!(&*act(&[], Only("", "")).unwrap().name, "alice");
    }

    #[test]
    fn each_header_must_be_allowed() {
        let user = act(&[(USER, "bob")], Only("users", "bob")).unwrap();
        assert!(&*user.name == "bob" && user.in_group("system:authenticated"));
        assert_eq!(act(&[(USER, "bob"), (GROUP, "admins")], Only("users", "bob")).unwrap_err().code, 403);
        assert_eq!(act(&[(USER, "carol")], Only("users", "bob")).unwrap_err().code, 403);
        assert_eq!(act(&[(GROUP, "admins")], Only("users", "bob")).unwrap_err().code, 500);
    }

    #[test]
    fn a_service_account_comes_with_its_groups() {
        let user = act(&[(USER, "system:serviceaccount:dev:robot")], Only("serviceaccounts", "robot")).unwrap();
        assert!(user.in_group("system:serviceaccounts:dev"));
    }
}
