//! `admissionregistration.k8s.io`

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{self, Subject, items, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => &WEBHOOKS,
        "validatingadmissionpolicies" => &VALIDATIONS,
        "mutatingadmissionpolicies" => &MUTATIONS,
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => &BINDINGS,
        _ => &PLAIN,
    }
}

static WEBHOOKS: Columns = Columns::new(&[NAME, Column::integer("Webhooks", "Number of webhooks."), AGE], |s| {
    vec![s.name(), items(s.object, "webhooks").len().into(), s.age()]
});

const PARAMETER_KIND: Column<'static> = Column::text("ParamKind", "Kind of the objects that parameterize the policy.");

static VALIDATIONS: Columns = Columns::new(&[NAME, Column::integer("Validations", "Number of rules."), PARAMETER_KIND, AGE], |s| {
    vec![s.name(), items(s.spec(), "validations").len().into(), parameter_kind(s).into(), s.age()]
});

static MUTATIONS: Columns = Columns::new(&[NAME, Column::integer("Mutations", "Number of changes."), PARAMETER_KIND, AGE], |s| {
    vec![s.name(), items(s.spec(), "mutations").len().into(), parameter_kind(s).into(), s.age()]
});

fn parameter_kind(s: Subject<'_>) -> String {
    there(s.spec(), "paramKind").map_or_else(|| "<unset>".to_owned(), |p| format!("{}/{}", text(p, "apiVersion"), text(p, "kind")))
}

static BINDINGS: Columns = Columns::new(
    &[NAME, Column::text("PolicyName", "The policy that is bound."), Column::text("ParamRef", "The object that parameterizes it."), AGE],
    |s| vec![s.name(), text(s.spec(), "policyName").into(), parameter(s).into(), s.age()],
);

fn parameter(s: Subject<'_>) -> String {
    let Some(reference) = there(s.spec(), "paramRef") else { return "<unset>".to_owned() };
    match (text(reference, "name"), text(reference, "namespace")) {
        ("", _) => there(reference, "selector").map_or_else(|| "<unset>".to_owned(), selector),
        // Whether the object has a namespace cannot be told from here.
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

/// A selector as Go prints the message.
fn selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels: String = labels.into_iter().flatten().map(|(k, v)| format!("{k}: {},", cell::scalar(v))).collect();
    let printed = |e: &Value| {
        let values: Vec<&str> = items(e, "values").iter().filter_map(Value::as_str).collect();
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},", text(e, "key"), text(e, "operator"), values.join(" "))
    };
    let expressions: String = items(selector, "matchExpressions").iter().map(printed).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}
