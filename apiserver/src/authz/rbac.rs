//! Role-based access control over an index kept fresh from the watch cache (`plugin/pkg/auth/authorizer/rbac`).

use std::sync::Arc;

use bytes::Bytes;
use coracle_schema::go::quoted;
use futures::{StreamExt, stream::BoxStream};
use parking_lot::RwLock;
use tracing::warn;

use super::{
    Authorizer, Decision, Verdict,
    index::{Grant, Index, RoleKey, Through},
    policy::Rule,
    rules::Known,
};
use crate::{
    authn::User,
    registry::{Change, Reader},
    request::RequestInfo,
    wire::{Status, status::aggregate},
};

/// Group of all RBAC kinds.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

/// The changes still to come after [`Rbac::load`].
pub struct Changes(Vec<(Source, BoxStream<'static, Change>)>);

#[derive(Clone, Copy)]
enum Source {
    Roles,
    Bindings,
}

/// What feeds the index.
const SOURCES: [(Source, &str); 4] = [
    (Source::Roles, "clusterroles"),
    (Source::Roles, "roles"),
    (Source::Bindings, "clusterrolebindings"),
    (Source::Bindings, "rolebindings"),
];

impl Rbac {
    /// Reads all roles and bindings. Decisions are right from here on; [`Rbac::follow`] keeps them so.
    pub async fn load(&self, reader: &dyn Reader) -> Result<Changes, Status> {
        let mut streams = Vec::new();
        for (source, resource) in SOURCES {
            let (now, changes) = reader.begin_readable(GROUP, resource).await?;
            let mut index = self.index.write();
            now.iter().for_each(|object| put(&mut index, source, object));
            streams.push((source, changes));
        }
        Ok(Changes(streams))
    }

    /// Applies changes until the server stops; run it as a task.
    pub async fn follow(self: Arc<Self>, changes: Changes) {
        let tagged = changes.0.into_iter().map(|(source, stream)| stream.map(move |c| (source, c)).boxed());
        let mut all = futures::stream::select_all(tagged);
        while let Some((source, change)) = all.next().await {
            self.apply(source, &change);
        }
    }

    /// What of `asked` the user does not hold, by rules bound in `namespace` (empty: at cluster level only).
    pub fn not_held(&self, user: &User, namespace: &str, asked: &[Rule]) -> Vec<Rule> {
        let (owned, _) = self.index.read().rules_of(user, namespace);
        super::policy::uncovered(&owned, asked)
    }

    /// The rules of a role as they are now; `namespace` is empty for a ClusterRole.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.index.read().role(&RoleKey::new(namespace, name)).cloned()
    }

    fn apply(&self, source: Source, change: &Change) {
        let mut index = self.index.write();
        match (&change.object, source) {
            (Some(object), _) => put(&mut index, source, object),
            (None, Source::Roles) => index.remove_role(&change.namespace, &change.name),
            (None, Source::Bindings) => index.remove_binding(&change.namespace, &change.name),
        }
    }

    /// The first grant that allows the request, or the roles that were bound but are not there.
    fn grant<T>(&self, user: &User, request: &RequestInfo, found: impl Fn(&Grant, Through<'_>) -> T) -> Result<T, Vec<String>> {
        let index = self.index.read();
        let mut missing = Vec::new();
        let allowed = index.find_grant(user, &request.namespace, |grant, subject| match index.role(&grant.role) {
            Some(rules) => rules.iter().any(|r| r.allows(request)).then(|| found(grant, subject)),
            None => {
                missing.push(Index::missing(&grant.role));
                None
            }
        });
        allowed.ok_or(missing)
    }
}

impl Authorizer for Rbac {
    fn name(&self) -> &str {
        "rbac"
    }

    fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
        self.grant(user, request, |_, _| ()).map_or_else(no_opinion, |()| Decision::Allow)
    }

    fn explain(&self, user: &User, request: &RequestInfo) -> Verdict {
        match self.grant(user, request, describe) {
            Ok(grounds) => Verdict { grounds, ..Verdict::allowed() },
            Err(missing) => no_opinion(missing).into(),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Known {
        let (rules, missing) = self.index.read().rules_of(user, namespace);
        Known { rules, incomplete: false, errors: aggregate(missing).into_iter().collect() }
    }
}

/// Nobody allows it; roles that are bound but are not there may be why.
fn no_opinion(mut missing: Vec<String>) -> Decision {
    missing.sort();
    Decision::NoOpinion(aggregate(missing).map_or_else(String::new, |text| format!("RBAC: {text}")))
}

fn put(index: &mut Index, source: Source, object: &Bytes) {
    let understood = match source {
        Source::Roles => index.put_role(object),
        Source::Bindings => index.put_binding(object),
    };
    if !understood {
        warn!(object = %String::from_utf8_lossy(&object[..object.len().min(200)]), "role or binding that cannot be read is ignored");
    }
}

/// `RBAC: allowed by ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`
fn describe(grant: &Grant, through: Through<'_>) -> String {
    let (kind, parts) = match through {
        Through::Group(name) => ("Group ", [name, "", ""]),
        Through::User(name) => match name.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':')) {
            Some((namespace, name)) => ("ServiceAccount ", [name, "/", namespace]),
            None => ("User ", [name, "", ""]),
        },
    };
    let length = parts.map(str::len).into_iter().sum::<usize>();
    let mut text = String::with_capacity(grant.shown.len() + kind.len() + length + 2);
    text.push_str(&grant.shown);
    text.push_str(kind);
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if parts.iter().all(|part| part.bytes().all(is_plain)) {
        text.push('"');
        parts.iter().for_each(|part| text.push_str(part));
        text.push('"');
    } else {
        text.push_str(&quoted(&parts.concat()));
    }
    text
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use coracle_tree::{Value, json};

    use super::*;
    use crate::registry::fake::FakeReader;

    fn role(reader: &FakeReader, namespace: &str, name: &str, rules: Value) {
        let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
        reader.put(GROUP, resource, json!({"metadata": {"name": name, "namespace": namespace}, "rules": rules}));
    }

    fn bind(reader: &FakeReader, namespace: &str, name: &str, role: &str, subject: Value) {
        let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        let (kind, role) = role.split_once('/').unwrap();
        let object = json!({
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": [subject],
        });
        reader.put(GROUP, resource, object);
    }

    fn request(verb: &str, namespace: &str, resource: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            ..RequestInfo::default()
        }
    }

    async fn fixture() -> (Arc<FakeReader>, Arc<Rbac>, Changes) {
        let reader = Arc::new(FakeReader::default());
        let read = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
        role(&reader, "", "reader", read.clone());
        role(&reader, "dev", "local", json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]}]));
        bind(&reader, "", "readers", "ClusterRole/reader", json!({"kind": "Group", "name": "readers"}));
        bind(&reader, "dev", "jane", "ClusterRole/reader", json!({"kind": "User", "name": "jane"}));
        bind(&reader, "dev", "robots", "Role/local", json!({"kind": "ServiceAccount", "name": "robot"}));
        bind(&reader, "dev", "lost", "Role/absent", json!({"kind": "User", "name": "joe"}));
        let rbac = Arc::new(Rbac::default());
        let changes = rbac.load(&*reader).await.unwrap();
        (reader, rbac, changes)
    }

    #[tokio::test]
    async fn bindings_allow_their_subjects_in_their_place_only() {
        let (_, rbac, _) = fixture().await;
        assert_eq!(rbac.index.read().sizes(), (2, 4));
        let robot = User::new("system:serviceaccount:dev:robot", &[]);
        let (jane, reader) = (User::new("jane", &[]), User::new("x", &["readers"]));
        for (user, request, expected) in [
            (&reader, request("list", "", "pods"), true),
            (&reader, request("list", "dev", "pods"), true),
            (&reader, request("delete", "dev", "pods"), false),
            (&jane, request("list", "dev", "pods"), true),
            (&jane, request("list", "prod", "pods"), false),
            (&jane, request("list", "", "pods"), false),
            (&robot, request("create", "dev", "secrets"), true),
            (&robot, request("list", "dev", "pods"), false),
        ] {
            assert_eq!(rbac.decide(user, &request) == Decision::Allow, expected, "{} {request:?}", user.name);
        }
    }

    #[tokio::test]
    async fn grounds_and_missing_roles_are_named() {
        let (_, rbac, _) = fixture().await;
        let jane = User::new("jane", &[]);
        assert_eq!(
            rbac.explain(&jane, &request("get", "dev", "pods")).grounds,
            r#"RBAC: allowed by RoleBinding "jane/dev" of ClusterRole "reader" to User "jane""#
        );
        let (odd, user) = ("t\u{301}\u{7f}", json!({"kind": "User", "name": "t\u{301}\u{7f}"}));
        let (reader, rbac_of_odd, _) = fixture().await;
        bind(&reader, "dev", odd, "ClusterRole/reader", user);
        rbac_of_odd.load(&*reader).await.unwrap();
        assert_eq!(
            rbac_of_odd.explain(&User::new(odd, &[]), &request("get", "dev", "pods")).grounds,
            "RBAC: allowed by RoleBinding \"t\u{301}\\x7f/dev\" of ClusterRole \"reader\" to User \"t\u{301}\\x7f\""
        );
        let joe = rbac.decide(&User::new("joe", &[]), &request("get", "dev", "pods"));
        assert_eq!(joe, Decision::NoOpinion(r#"RBAC: role.rbac.authorization.k8s.io "absent" not found"#.into()));
    }

    #[tokio::test]
    async fn changes_take_effect_as_they_are_followed() {
        let (reader, rbac, changes) = fixture().await;
        let task = tokio::spawn(rbac.clone().follow(changes));
        bind(&reader, "prod", "jane", "ClusterRole/reader", json!({"kind": "User", "name": "jane"}));
        reader.remove(GROUP, "rolebindings", "dev", "jane");
        // The follower runs whenever this test yields; a few turns are enough for what is queued.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let jane = User::new("jane", &[]);
        assert_eq!(rbac.decide(&jane, &request("get", "prod", "pods")), Decision::Allow);
        assert_ne!(rbac.decide(&jane, &request("get", "dev", "pods")), Decision::Allow);
        task.abort();
    }
}
