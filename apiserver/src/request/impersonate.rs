//! Acting as somebody else: `Impersonate-*` headers, each of which the caller must be allowed to use
//! (apiserver `endpoints/filters/impersonation.go`).

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderValue};

use super::RequestInfo;
use crate::{authn::User, authz::Chain, wire::Status};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user the request acts as: the caller, or whom the headers name if the caller may act as them.
pub async fn impersonate(caller: Arc<User>, headers: &HeaderMap, authorizer: &Chain) -> Result<Arc<User>, Status> {
    let first = |name: &str| headers.get(name).map_or(Ok(""), |value| text(name, value));
    let (name, uid) = (first(USER)?, first(UID)?);
    let groups = headers.get_all(GROUP).iter().map(|value| text(GROUP, value).map(Arc::from));
    let mut groups: Vec<Arc<str>> = groups.collect::<Result<_, _>>()?;
    let extra = extra(headers)?;
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(caller);
        }
        return Err(Status::bad_request(nobody(uid, &groups, &extra)));
    }
    let allow = async |group: &str, resource: &str, part: &str, namespace: &str, name: &str| {
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
        authorizer.authorize(&caller, &info).await
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => allow("", "serviceaccounts", "", namespace, account).await?,
        None => allow("", "users", "", "", name).await?,
    }
    for group in &groups {
        allow("", "groups", "", "", group).await?;
    }
    if !uid.is_empty() {
        allow("authentication.k8s.io", "uids", "", "", uid).await?;
    }
    for (key, values) in &extra {
        for value in values {
            allow("authentication.k8s.io", "userextras", key, "", value).await?;
        }
    }
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups.extend(["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}").into()]);
    }
    add_authenticated(name, &mut groups);
    Ok(Arc::new(User { name: name.into(), uid: uid.into(), groups, extra }))
}

/// What a header says. What is no text must not be passed over: the request would be made as somebody else, maybe the caller.
fn text<'h>(name: &str, value: &'h HeaderValue) -> Result<&'h str, Status> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| Status::bad_request(format!("header {name} is not UTF-8")))
}

/// Who is asked for without a name, as Go prints it.
fn nobody(uid: &str, groups: &[Arc<str>], extra: &BTreeMap<String, Vec<String>>) -> String {
    let list = |values: Vec<String>| if values.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", values.join(", ")) };
    let groups = list(groups.iter().map(|group| format!("{group:?}")).collect());
    let strings = |values: &[String]| list(values.iter().map(|value| format!("{value:?}")).collect());
    let extra = list(extra.iter().map(|(key, values)| format!("{key:?}:[]string{}", strings(values))).collect());
    let user = format!("&user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:[]string{groups}, Extra:map[string][]string{extra}}}");
    format!("requested {user} without impersonating a user name")
}

/// Everybody is in one of two groups.
fn add_authenticated(name: &str, groups: &mut Vec<Arc<str>>) {
    let has = |groups: &[Arc<str>], group: &str| groups.iter().any(|g| &**g == group);
    let missing = if name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !has(groups, "system:authenticated") && !has(groups, "system:unauthenticated") {
        groups.push(missing.into());
    }
}

fn extra(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Status> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            extra.entry(key).or_default().push(text(name.as_str(), value)?.to_owned());
        }
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Authorizer, Decision};

    struct Only(&'static str, &'static str);

    impl Authorizer for Only {
        fn name(&self) -> &str {
            "only"
        }

        fn decide(&self, _: &User, request: &RequestInfo) -> Decision {
            let fits = (request.resource.as_str(), request.name.as_str()) == (self.0, self.1);
            if fits { Decision::Allow } else { Decision::NoOpinion(String::new()) }
        }
    }

    async fn act(pairs: &[(&'static str, &'static str)], rule: Only) -> Result<Arc<User>, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        impersonate(Arc::new(User::new("alice", &[])), &headers, &Chain::new(vec![Arc::new(rule)])).await
    }

    #[tokio::test]
    async fn without_headers_the_caller_is_who_they_are() {
        assert_eq!(&*act(&[], Only("", "")).await.unwrap().name, "alice");
    }

    #[tokio::test]
    async fn each_header_must_be_allowed() {
        let user = act(&[(USER, "bob")], Only("users", "bob")).await.unwrap();
        assert!(&*user.name == "bob" && user.in_group("system:authenticated"));
        assert_eq!(act(&[(USER, "bob"), (GROUP, "admins")], Only("users", "bob")).await.unwrap_err().code, 403);
        assert_eq!(act(&[(USER, "carol")], Only("users", "bob")).await.unwrap_err().code, 403);
        let nobody = act(&[(GROUP, "admins"), ("impersonate-extra-a", "b")], Only("users", "bob")).await.unwrap_err();
        let shown = "Groups:[]string{\"admins\"}, Extra:map[string][]string{\"a\":[]string{\"b\"}}} without impersonating a user name";
        assert_eq!((nobody.code, nobody.message), (400, format!("requested &user.DefaultInfo{{Name:\"\", UID:\"\", {shown}")));
    }

    #[tokio::test]
    async fn names_may_be_of_any_script_and_what_is_no_text_is_never_passed_over() {
        assert_eq!(&*act(&[(USER, "josé")], Only("users", "josé")).await.unwrap().name, "josé");
        assert_eq!(act(&[(USER, "josé")], Only("users", "jos")).await.unwrap_err().code, 403);
        for name in [USER, UID, GROUP, "impersonate-extra-a"] {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_bytes(b"\xff").unwrap())]);
            let chain = Chain::new(vec![Arc::new(Only("users", "alice"))]);
            let refused = impersonate(Arc::new(User::new("alice", &[])), &headers, &chain).await;
            assert_eq!(refused.unwrap_err().code, 400, "{name}");
        }
    }

    #[tokio::test]
    async fn a_service_account_comes_with_its_groups() {
        let user = act(&[(USER, "system:serviceaccount:dev:robot")], Only("serviceaccounts", "robot")).await.unwrap();
        assert!(user.in_group("system:serviceaccounts:dev"));
    }
}
