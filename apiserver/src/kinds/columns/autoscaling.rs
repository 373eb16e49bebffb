//! `autoscaling`: pod autoscalers in either version, and the scale of any kind.

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{self, Subject, int, items, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "horizontalpodautoscalers" => &AUTOSCALERS,
        "scale" => &SCALE,
        _ => &PLAIN,
    }
}

static SCALE: Columns = Columns::new(
    &[
        Column::text("Name", "Name of the scaled object."),
        Column::integer("Desired", "Number of pods wanted."),
        Column::integer("Available", "Number of pods there."),
        AGE,
    ],
    |s| vec![s.name(), int(s.spec(), "replicas").into(), int(s.status(), "replicas").into(), s.age()],
);

static AUTOSCALERS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Reference", "What is scaled."),
        Column::text("Targets", "What is measured, and what is aimed at."),
        Column::text("MinPods", "The fewest pods."),
        Column::text("MaxPods", "The most pods."),
        Column::text("Replicas", "Number of pods there."),
        AGE,
    ],
    |s| {
        let spec = s.spec();
        let target = s.at("/spec/scaleTargetRef");
        vec![
            s.name(),
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            targets(s).into(),
            there(spec, "minReplicas").map_or_else(|| "<unset>".to_owned(), ToString::to_string).into(),
            int(spec, "maxReplicas").into(),
            int(s.status(), "currentReplicas").into(),
            s.age(),
        ]
    },
);

fn targets(s: Subject<'_>) -> String {
    let current = items(s.status(), "currentMetrics");
    let mut all: Vec<String> =
        items(s.spec(), "metrics").iter().enumerate().map(|(at, metric)| target(metric, current.get(at).unwrap_or(&Value::Null))).collect();
    // Version 1 knows one metric only.
    if let Some(wanted) = there(s.spec(), "targetCPUUtilizationPercentage") {
        let current = there(s.status(), "currentCPUUtilizationPercentage").map_or_else(|| "<unknown>".to_owned(), |v| format!("{v}%"));
        all.push(format!("cpu: {current}/{wanted}%"));
    }
    if all.is_empty() {
        return "<none>".to_owned();
    }
    let shown = all[..all.len().min(2)].join(", ");
    if all.len() > 2 { format!("{shown} + {} more...", all.len() - 2) } else { shown }
}

/// One metric: what it is and what is aimed at.
fn target(metric: &Value, status: &Value) -> String {
    let (source, names_resource) = match text(metric, "type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let metric = metric.get(source).unwrap_or(&Value::Null);
    let aim = metric.get("target").unwrap_or(&Value::Null);
    let current = there(status, source).map(|m| m.get("current").unwrap_or(&Value::Null));
    let now = |name: &str, absent: &str| match current.map(|c| there(c, name)) {
        Some(Some(value)) => cell::scalar(value),
        Some(None) => absent.to_owned(),
        None => "<unknown>".to_owned(),
    };
    let aimed = |name: &str| there(aim, name).map_or_else(|| "0".to_owned(), cell::scalar);
    let average = there(aim, "averageValue").is_some();
    if names_resource {
        let name = text(metric, "name");
        if average {
            return format!("{name}: {}/{}", now("averageValue", "0"), aimed("averageValue"));
        }
        let percent = |value: Option<&Value>, absent: &str| value.map_or_else(|| absent.to_owned(), |v| format!("{v}%"));
        let current = percent(current.and_then(|c| there(c, "averageUtilization")), "<unknown>");
        return format!("{name}: {current}/{}", percent(there(aim, "averageUtilization"), "<auto>"));
    }
    match (source, average) {
        ("pods", _) => format!("{}/{}", now("averageValue", "0"), aimed("averageValue")),
        (_, true) => format!("{}/{} (avg)", now("averageValue", "<unknown>"), aimed("averageValue")),
        (_, false) => format!("{}/{}", now("value", "0"), aimed("value")),
    }
}
