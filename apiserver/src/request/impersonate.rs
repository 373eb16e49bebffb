//! Acting as somebody else: `Impersonate-*` headers, each of which the caller must be allowed to use
//! (apiserver `endpoints/filters/impersonation`, KEP 5284).
//!
//! There are five ways to be allowed, and one suffices. Four are constrained: the caller may act as that user (`impersonate:MODE`) *and* may do
//! what it asks for when it acts so (`impersonate-on:MODE:VERB`). The old one, `impersonate`, allows everything the other user may.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use coracle_schema::name;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use super::RequestInfo;
use crate::{
    authn::{self, User},
    authz::{self, Chain},
    wire::Status,
};

/// What all these headers begin with.
const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// What names the node a token of a service account belongs to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// What an authorizer is told instead of a service account's extras when it acts as its own node.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many on, all groups or extras are asked for at once before each alone.
const MANY: usize = 4;
/// Callers whose way is remembered.
const REMEMBERED: usize = 10_000;

/// A way to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pod's account as the pod's node.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Whoever is neither.
    UserInfo,
    Legacy,
}

impl Mode {
    const ALL: [Self; 5] = [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    /// Empty: the old way.
    fn name(self) -> &'static str {
        self.constraint().strip_prefix("impersonate:").unwrap_or_default()
    }

    /// The verb by which a constrained mode is allowed, which the audit log is told. Empty: the old way.
    fn constraint(self) -> &'static str {
        match self {
            Self::AssociatedNode => "impersonate:associated-node",
            Self::ArbitraryNode => "impersonate:arbitrary-node",
            Self::ServiceAccount => "impersonate:serviceaccount",
            Self::UserInfo => "impersonate:user-info",
            Self::Legacy => "",
        }
    }

    /// Whether the mode is about acting as this user at all.
    fn is_for(self, wanted: &User, caller: &User) -> bool {
        let plain = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        match self {
            Self::AssociatedNode => plain && node(&wanted.name).is_some_and(|node| is_at(caller, node)),
            Self::ArbitraryNode => plain && node(&wanted.name).is_some(),
            Self::ServiceAccount => plain && account(&wanted.name).is_some(),
            Self::UserInfo => node(&wanted.name).is_none() && account(&wanted.name).is_none(),
            Self::Legacy => true,
        }
    }
}

/// Which way was allowed last, by caller: it is tried first the next time.
#[derive(Default)]
pub struct Modes(Mutex<HashMap<Arc<str>, Mode>>);

impl Modes {
    fn last(&self, caller: &User) -> Option<Mode> {
        self.0.lock().get(&caller.name).copied()
    }

    fn remember(&self, caller: &User, mode: Mode) {
        let mut modes = self.0.lock();
        if modes.len() >= REMEMBERED {
            modes.clear();
        }
        modes.insert(caller.name.clone(), mode);
    }
}

/// As whom a request acts.
#[derive(Debug)]
pub struct Acting {
    /// The user.
    pub user: Arc<User>,
    /// The verb of the constrained mode in which it may; empty: the old way, or nobody else.
    pub constraint: &'static str,
}

/// The user the request acts as: the caller, or whom the headers name if the caller may act as them. The headers are taken out then.
pub async fn impersonate(
    caller: Arc<User>,
    headers: &mut HeaderMap,
    info: &RequestInfo,
    authorizer: &Chain,
    modes: &Modes,
) -> Result<Acting, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(Acting { user: caller, constraint: "" }) };
    let last = modes.last(&caller);
    let others = Mode::ALL.into_iter().filter(|mode| Some(*mode) != last);
    let mut refusal = None;
    for mode in last.into_iter().chain(others).filter(|mode| mode.is_for(&wanted, &caller)) {
        let attempt = Attempt { mode, caller: &caller, authorizer };
        match attempt.allows(&wanted, info).await {
            Ok(user) => {
                if last != Some(mode) {
                    modes.remember(&caller, mode);
                }
                remove(headers);
                return Ok(Acting { user: Arc::new(user), constraint: mode.constraint() });
            }
            Err(status) => refusal = refusal.or(Some(status)),
        }
    }
    Err(refusal.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Whom the headers ask for, as they say it; `None` when they ask for nobody.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(None);
    }
    let first = |name: &str| headers.get(name).map_or(Ok(""), |value| text(name, value));
    let (name, uid) = (first(USER)?, first(UID)?);
    let groups: Vec<Arc<str>> = headers.get_all(GROUP).iter().map(|value| text(GROUP, value).map(Arc::from)).collect::<Result<_, _>>()?;
    let extra = extra(headers)?;
    if !name.is_empty() {
        return Ok(Some(User { name: name.into(), uid: uid.into(), groups, extra }));
    }
    if groups.is_empty() && uid.is_empty() && extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request(nobody(uid, &groups, &extra)))
}

/// One way, tried.
struct Attempt<'a> {
    mode: Mode,
    caller: &'a Arc<User>,
    authorizer: &'a Chain,
}

impl Attempt<'_> {
    /// The user the caller may act as; the error is the first thing it may not.
    async fn allows(&self, wanted: &User, info: &RequestInfo) -> Result<User, Status> {
        if self.is_constrained() {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), info.verb);
            self.ask(RequestInfo { verb, ..info.clone() }).await?;
        }
        let mut user = wanted.clone();
        self.name(&mut user).await?;
        if !wanted.uid.is_empty() {
            self.ask(self.question("authentication.k8s.io", "uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(&wanted.extra).await?;
        ensure_group(&mut user);
        Ok(user)
    }

    fn is_constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    /// Users and groups are asked for in the core group in the old way.
    fn group(&self) -> &'static str {
        if self.is_constrained() { "authentication.k8s.io" } else { "" }
    }

    fn question(&self, group: &str, resource: &str, name: &str) -> RequestInfo {
        let verb = if self.is_constrained() { format!("impersonate:{}", self.mode.name()) } else { "impersonate".to_owned() };
        RequestInfo {
            is_resource: true,
            verb,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    async fn ask(&self, mut question: RequestInfo) -> Result<(), Status> {
        if self.mode != Mode::AssociatedNode {
            return self.authorizer.authorize(self.caller, &question).await;
        }
        // Which node it is was decided already: whoever may act as its own node may so at every node.
        if question.verb == "impersonate:associated-node" {
            "*".clone_into(&mut question.name);
        }
        let keys = self.caller.extra.keys().cloned().collect();
        let caller = User { extra: BTreeMap::from([(NODE_KEYS.to_owned(), keys)]), ..User::clone(self.caller) };
        self.authorizer.authorize(&caller, &question).await
    }

    /// The name; nodes and accounts come with the groups they have.
    async fn name(&self, user: &mut User) -> Result<(), Status> {
        let mut question = self.question(self.group(), "users", &user.name);
        if self.is_constrained()
            && let Some(node) = node(&user.name)
        {
            "nodes".clone_into(&mut question.resource);
            node.clone_into(&mut question.name);
            user.groups = vec!["system:nodes".into()];
        }
        if let Some((namespace, account)) = account(&user.name) {
            "serviceaccounts".clone_into(&mut question.resource);
            namespace.clone_into(&mut question.namespace);
            account.clone_into(&mut question.name);
            if user.groups.is_empty() {
                user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}").into()];
            }
        }
        self.ask(question).await
    }

    async fn groups(&self, groups: &[Arc<str>]) -> Result<(), Status> {
        if self.is_constrained() {
            let refused = |name: &str, why: &str| authz::forbidden(self.caller, &self.question(self.group(), "groups", name), why);
            if groups.iter().any(|group| group.is_empty()) {
                return Err(refused("", "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| &**group == authz::MASTERS) {
                return Err(refused(authz::MASTERS, "impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && self.ask(self.question(self.group(), "groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.ask(self.question(self.group(), "groups", group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), Status> {
        let question = |key: &str, value: &str| {
            let of = self.question("authentication.k8s.io", "userextras", value);
            RequestInfo { subresource: key.into(), ..of }
        };
        if self.is_constrained() {
            if let Err(why) = check_extra(extra) {
                return Err(authz::forbidden(self.caller, &question("", ""), &why));
            }
            let values: usize = extra.values().map(Vec::len).sum();
            if values.max(extra.len()) >= MANY && self.ask(question("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.ask(question(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// What extras must be like in the constrained ways (`validateExtra`).
fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".to_owned());
        }
        let faults: Vec<String> = authn::domain_prefixed_path("extra.key", key).0.iter().map(ToString::to_string).collect();
        match faults.as_slice() {
            [] => {}
            [one] => return Err(format!("impersonating an invalid key in extra is not allowed: {one}")),
            many => return Err(format!("impersonating an invalid key in extra is not allowed: [{}]", many.join(", "))),
        }
        if *key != key.to_lowercase() {
            return Err(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
        }
        if values.is_empty() {
            return Err("impersonating empty values in extra is not allowed".to_owned());
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".to_owned());
        }
    }
    Ok(())
}

/// The node of a node's user name.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|node| name::is_subdomain(node))
}

/// Namespace and name of an account's user name.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, account) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (name::is_label(namespace) && name::is_subdomain(account)).then_some((namespace, account))
}

/// Whether the caller is an account whose token belongs to a node.
fn is_at(caller: &User, node: &str) -> bool {
    let at = caller.extra.get(NODE_NAME).map(Vec::as_slice);
    account(&caller.name).is_some() && matches!(at, Some([only]) if only == node)
}

/// Everybody is in one of two groups.
fn ensure_group(user: &mut User) {
    let group = if &*user.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    let is_nobody = user.in_group("system:unauthenticated");
    if !is_nobody && !user.in_group(group) {
        user.groups.push(group.into());
    }
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

fn extra(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Status> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(text(name.as_str(), value)?.to_owned());
        }
    }
    Ok(extra)
}

/// Nobody behind is to behave differently because somebody acts as somebody else.
fn remove(headers: &mut HeaderMap) {
    let ours = |name: &str| matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA);
    let found: Vec<http::HeaderName> = headers.keys().filter(|name| ours(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Authorizer, Decision};

    /// Allows these questions: `verb group/resource[/part] [namespace/]name`.
    struct Only(Vec<&'static str>);

    impl Authorizer for Only {
        fn name(&self) -> &str {
            "only"
        }

        fn decide(&self, _: &User, request: &RequestInfo) -> Decision {
            let part = if request.subresource.is_empty() { String::new() } else { format!("/{}", request.subresource) };
            let place = if request.namespace.is_empty() { String::new() } else { format!("{}/", request.namespace) };
            let asked = format!("{} {}/{}{part} {place}{}", request.verb, request.group, request.resource, request.name);
            if self.0.contains(&asked.as_str()) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    async fn act_as(caller: User, pairs: &[(&'static str, &'static str)], rules: &[&'static str]) -> Result<Arc<User>, Status> {
        let info =
            RequestInfo { is_resource: true, verb: "list".into(), version: "v1".into(), resource: "pods".into(), ..RequestInfo::default() };
        let chain = Chain::new(vec![Arc::new(Only(rules.to_vec()))]);
        impersonate(Arc::new(caller), &mut headers(pairs), &info, &chain, &Modes::default()).await.map(|acting| acting.user)
    }

    async fn act(pairs: &[(&'static str, &'static str)], rules: &[&'static str]) -> Result<Arc<User>, Status> {
        act_as(User::new("alice", &[]), pairs, rules).await
    }

    #[tokio::test]
    async fn without_headers_the_caller_is_who_they_are() {
        assert_eq!(&*act(&[], &[]).await.unwrap().name, "alice");
    }

    #[tokio::test]
    async fn each_header_must_be_allowed() {
        let bob = "impersonate /users bob";
        let user = act(&[(USER, "bob")], &[bob]).await.unwrap();
        assert!(&*user.name == "bob" && user.in_group("system:authenticated"));
        assert_eq!(act(&[(USER, "bob"), (GROUP, "admins")], &[bob]).await.unwrap_err().code, 403);
        assert_eq!(act(&[(USER, "carol")], &[bob]).await.unwrap_err().code, 403);
        assert_eq!(act(&[(USER, "bob"), (UID, "7")], &[bob]).await.unwrap_err().code, 403);
        assert_eq!(act(&[(USER, "bob"), ("impersonate-extra-a", "b")], &[bob]).await.unwrap_err().code, 403);
        let all = [
            bob,
            "impersonate /groups admins",
            "impersonate authentication.k8s.io/uids 7",
            "impersonate authentication.k8s.io/userextras/a b",
        ];
        let user = act(&[(USER, "bob"), (GROUP, "admins"), (UID, "7"), ("impersonate-extra-a", "b")], &all).await.unwrap();
        assert!(user.in_group("admins") && &*user.uid == "7" && user.extra["a"] == ["b"]);
        let nobody = act(&[(GROUP, "admins"), ("impersonate-extra-a", "b")], &all).await.unwrap_err();
        let shown = "Groups:[]string{\"admins\"}, Extra:map[string][]string{\"a\":[]string{\"b\"}}} without impersonating a user name";
        assert_eq!((nobody.code, nobody.message), (400, format!("requested &user.DefaultInfo{{Name:\"\", UID:\"\", {shown}")));
    }

    #[tokio::test]
    async fn constrained_ways_need_both_to_be_the_other_and_to_do_this_as_the_other() {
        let on = "impersonate-on:user-info:list /pods ";
        let be = "impersonate:user-info authentication.k8s.io/users bob";
        assert_eq!(&*act(&[(USER, "bob")], &[on, be]).await.unwrap().name, "bob");
        let refused = act(&[(USER, "bob")], &[be]).await.unwrap_err();
        assert!(refused.message.contains("cannot impersonate-on:user-info:list resource \"pods\""), "{}", refused.message);
        let refused = act(&[(USER, "bob")], &[on]).await.unwrap_err();
        let expected = "cannot impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the cluster scope";
        assert!(refused.message.contains(expected), "{}", refused.message);
        let masters = act(&[(USER, "bob"), (GROUP, "system:masters")], &[on, be]).await.unwrap_err();
        assert!(masters.message.ends_with("impersonating the system:masters group is not allowed"), "{}", masters.message);
        let key = act(&[(USER, "bob"), ("impersonate-extra-a", "b")], &[on, be]).await.unwrap_err();
        assert!(key.message.contains("invalid key in extra is not allowed: extra.key: Invalid value: \"a\""), "{}", key.message);
        let chain = Chain::new(vec![Arc::new(Only(vec![on, be]))]);
        let info = RequestInfo { is_resource: true, verb: "list".into(), resource: "pods".into(), ..RequestInfo::default() };
        let caller = Arc::new(User::new("alice", &[]));
        let acting = impersonate(caller, &mut headers(&[(USER, "bob")]), &info, &chain, &Modes::default()).await.unwrap();
        assert_eq!(acting.constraint, "impersonate:user-info");
        let all = [on, be, "impersonate:user-info authentication.k8s.io/groups *"];
        let four = [(USER, "bob"), (GROUP, "a"), (GROUP, "b"), (GROUP, "c"), (GROUP, "d")];
        assert!(act(&four, &all).await.unwrap().in_group("d"));
        assert_eq!(act(&four[..4], &all).await.unwrap_err().code, 403, "three are asked for one by one");
    }

    #[tokio::test]
    async fn nodes_and_accounts_have_ways_of_their_own() {
        let user_info = ["impersonate-on:user-info:list /pods ", "impersonate:user-info authentication.k8s.io/users system:node:n"];
        assert_eq!(act(&[(USER, "system:node:n")], &user_info).await.unwrap_err().code, 403);
        let any = ["impersonate-on:arbitrary-node:list /pods ", "impersonate:arbitrary-node authentication.k8s.io/nodes n"];
        assert!(act(&[(USER, "system:node:n")], &any).await.unwrap().in_group("system:nodes"));
        assert_eq!(act(&[(USER, "system:node:n"), (GROUP, "x")], &any).await.unwrap_err().code, 403);
        let own = ["impersonate-on:associated-node:list /pods ", "impersonate:associated-node authentication.k8s.io/nodes *"];
        let mut agent = User::new("system:serviceaccount:ns:agent", &[]);
        assert_eq!(act_as(agent.clone(), &[(USER, "system:node:n")], &own).await.unwrap_err().code, 403);
        agent.extra.insert(NODE_NAME.to_owned(), vec!["n".to_owned()]);
        assert_eq!(&*act_as(agent.clone(), &[(USER, "system:node:n")], &own).await.unwrap().name, "system:node:n");
        assert_eq!(act_as(agent, &[(USER, "system:node:m")], &own).await.unwrap_err().code, 403);
        let account =
            ["impersonate-on:serviceaccount:list /pods ", "impersonate:serviceaccount authentication.k8s.io/serviceaccounts dev/robot"];
        assert!(act(&[(USER, "system:serviceaccount:dev:robot")], &account).await.unwrap().in_group("system:serviceaccounts:dev"));
    }

    #[tokio::test]
    async fn names_may_be_of_any_script_and_what_is_no_text_is_never_passed_over() {
        assert_eq!(&*act(&[(USER, "josé")], &["impersonate /users josé"]).await.unwrap().name, "josé");
        assert_eq!(act(&[(USER, "josé")], &["impersonate /users jos"]).await.unwrap_err().code, 403);
        for name in [USER, UID, GROUP, "impersonate-extra-a"] {
            let mut headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_bytes(b"\xff").unwrap())]);
            let caller = Arc::new(User::new("alice", &[]));
            let refused = impersonate(caller, &mut headers, &RequestInfo::default(), &Chain::new(Vec::new()), &Modes::default()).await;
            assert_eq!(refused.unwrap_err().code, 400, "{name}");
        }
    }

    #[tokio::test]
    async fn a_service_account_comes_with_its_groups_and_nobody_sees_the_headers_behind() {
        let rules = vec!["impersonate /serviceaccounts dev/robot"];
        let mut headers = headers(&[(USER, "system:serviceaccount:dev:robot"), ("accept", "x")]);
        let chain = Chain::new(vec![Arc::new(Only(rules))]);
        let caller = Arc::new(User::new("alice", &[]));
        let user = impersonate(caller, &mut headers, &RequestInfo::default(), &chain, &Modes::default()).await.unwrap().user;
        assert!(user.in_group("system:serviceaccounts:dev"));
        assert_eq!(headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
