//! `networking.k8s.io`

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{self, Subject, items, or, text, there},
    core,
};
use crate::wire::table::Column;

const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "ingresses" => &INGRESSES,
        "ingressclasses" => &CLASSES,
        "networkpolicies" => &POLICIES,
        "servicecidrs" => &RANGES,
        "ipaddresses" => &ADDRESSES,
        _ => &PLAIN,
    }
}

static INGRESSES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Class", "Class of the controller that serves it."),
        Column::text("Hosts", "Hosts it answers for."),
        Column::text("Address", "Where it can be reached."),
        Column::text("Ports", "Ports it listens on."),
        AGE,
    ],
    |s| {
        let ports = if items(s.spec(), "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            s.name(),
            there(s.spec(), "ingressClassName").and_then(|c| c.as_str()).unwrap_or("<none>").into(),
            hosts(s).into(),
            core::ingress_points(s).into(),
            ports.into(),
            s.age(),
        ]
    },
);

fn hosts(s: Subject<'_>) -> String {
    const MAX: usize = 3;
    let rules = items(s.spec(), "rules");
    let mut shown = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == MAX;
        let host = text(rule, "host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    let hosts = shown.join(",");
    if more { format!("{hosts} + {} more...", rules.len() - MAX) } else { or(&hosts, "*").to_owned() }
}

static CLASSES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Controller", "Who serves ingresses of the class."),
        Column::text("Parameters", "Object with more configuration."),
        AGE,
    ],
    |s| {
        let mark = if s.annotation(DEFAULT_CLASS) == Some("true") { " (default)" } else { "" };
        let parameters = there(s.spec(), "parameters").map(|p| {
            let group = there(p, "apiGroup").and_then(|g| g.as_str()).map(|g| format!(".{g}")).unwrap_or_default();
            format!("{}{group}/{}", text(p, "kind"), text(p, "name"))
        });
        vec![
            format!("{}{mark}", text(s.metadata(), "name")).into(),
            text(s.spec(), "controller").into(),
            parameters.unwrap_or_else(|| "<none>".to_owned()).into(),
            s.age(),
        ]
    },
);

static POLICIES: Columns = Columns::new(&[NAME, Column::text("Pod-Selector", "Pods the policy applies to."), AGE], |s| {
    // An absent selector is the empty one, which selects everything.
    vec![s.name(), cell::selector(there(s.spec(), "podSelector")).into(), s.age()]
});

static RANGES: Columns = Columns::new(&[NAME, Column::text("CIDRs", "Ranges that service addresses are taken from."), AGE], |s| {
    vec![s.name(), cell::joined(s.spec(), "cidrs").into(), s.age()]
});

static ADDRESSES: Columns = Columns::new(&[NAME, Column::text("ParentRef", "The object that has the address.")], |s| {
    let parent = there(s.spec(), "parentRef").map(|p| {
        let (group, namespace) = (text(p, "group"), text(p, "namespace"));
        let mut path = text(p, "resource").to_lowercase();
        if !group.is_empty() {
            path.push_str(&format!(".{}", group.to_lowercase()));
        }
        if !namespace.is_empty() {
            path.push_str(&format!("/{namespace}"));
        }
        format!("{path}/{}", text(p, "name"))
    });
    vec![s.name(), parent.unwrap_or_else(|| "<none>".to_owned()).into()]
});
