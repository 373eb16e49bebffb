//! `rbac.authorization.k8s.io`

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{Subject, items, text},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "rolebindings" | "clusterrolebindings" => &BINDINGS,
        _ => &PLAIN,
    }
}

static BINDINGS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Role", "The role that is granted."),
        AGE,
        Column::wide("Users", "Users it is granted to."),
        Column::wide("Groups", "Groups it is granted to."),
        Column::wide("ServiceAccounts", "Service accounts it is granted to."),
    ],
    |s| {
        let role = s.get("roleRef");
        vec![
            s.name(),
            format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
            s.age(),
            subjects(s, "User", |u| text(u, "name").to_owned()),
            subjects(s, "Group", |g| text(g, "name").to_owned()),
            subjects(s, "ServiceAccount", |a| format!("{}/{}", text(a, "namespace"), text(a, "name"))),
        ]
    },
);

fn subjects(s: Subject<'_>, kind: &str, print: impl Fn(&Value) -> String) -> Value {
    let of_kind = items(s.object, "subjects").iter().filter(|subject| text(subject, "kind") == kind);
    of_kind.map(print).collect::<Vec<_>>().join(", ").into()
}
