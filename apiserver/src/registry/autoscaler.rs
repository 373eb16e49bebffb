//! Autoscalers of version 1 and 2: version 1 has fields for a CPU utilization alone and keeps all else in annotations, in the words of that
//! version (upstream `apis/autoscaling/v1/conversion.go`). The second version is the stored one.

use coracle_schema::Quantity;
use coracle_tree::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// What a field of a metric holds. What is of another type is taken as not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Text,
    Number,
    /// A quantity that may be left out.
    Quantity,
    /// A quantity that version 1 always writes.
    Amount,
    Selector,
    Reference,
}

/// Fields of a source in the order version 1 writes them: its name there, where it is in version 2, and what it holds.
type Fields = &'static [(&'static str, &'static str, Holds)];

/// Sources of metrics, in the order version 1 writes them.
type Sources = &'static [(&'static str, Fields)];

/// What is wanted of metrics.
const WANTED: Sources = {
    use Holds::{Amount, Number, Quantity, Reference, Selector, Text};
    const OBJECT: Fields = &[
        ("target", "/describedObject", Reference),
        ("metricName", "/metric/name", Text),
        ("targetValue", "/target/value", Amount),
        ("selector", "/metric/selector", Selector),
        ("averageValue", "/target/averageValue", Quantity),
    ];
    const PODS: Fields = &[
        ("metricName", "/metric/name", Text),
        ("targetAverageValue", "/target/averageValue", Amount),
        ("selector", "/metric/selector", Selector),
    ];
    const RESOURCE: Fields = &[
        ("name", "/name", Text),
        ("targetAverageUtilization", "/target/averageUtilization", Number),
        ("targetAverageValue", "/target/averageValue", Quantity),
    ];
    const CONTAINER: Fields = &[RESOURCE[0], RESOURCE[1], RESOURCE[2], ("container", "/container", Text)];
    const EXTERNAL: Fields = &[
        ("metricName", "/metric/name", Text),
        ("metricSelector", "/metric/selector", Selector),
        ("targetValue", "/target/value", Quantity),
        ("targetAverageValue", "/target/averageValue", Quantity),
    ];
    &[("object", OBJECT), ("pods", PODS), ("resource", RESOURCE), ("containerResource", CONTAINER), ("external", EXTERNAL)]
};

/// What metrics are now.
const CURRENT: Sources = {
    use Holds::{Amount, Number, Quantity, Reference, Selector, Text};
    const OBJECT: Fields = &[
        ("target", "/describedObject", Reference),
        ("metricName", "/metric/name", Text),
        ("currentValue", "/current/value", Amount),
        ("selector", "/metric/selector", Selector),
        ("averageValue", "/current/averageValue", Quantity),
    ];
    const PODS: Fields = &[
        ("metricName", "/metric/name", Text),
        ("currentAverageValue", "/current/averageValue", Amount),
        ("selector", "/metric/selector", Selector),
    ];
    const RESOURCE: Fields = &[
        ("name", "/name", Text),
        ("currentAverageUtilization", "/current/averageUtilization", Number),
        ("currentAverageValue", "/current/averageValue", Amount),
    ];
    const CONTAINER: Fields = &[RESOURCE[0], RESOURCE[1], RESOURCE[2], ("container", "/container", Text)];
    const EXTERNAL: Fields = &[
        ("metricName", "/metric/name", Text),
        ("metricSelector", "/metric/selector", Selector),
        ("currentValue", "/current/value", Amount),
        ("currentAverageValue", "/current/averageValue", Quantity),
    ];
    &[("object", OBJECT), ("pods", PODS), ("resource", RESOURCE), ("containerResource", CONTAINER), ("external", EXTERNAL)]
};

/// Members of the rules for scaling. Their annotation has Go's names, for upstream writes an internal type.
const SCALING: &[(&str, &str)] = &[
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds"),
    ("selectPolicy", "SelectPolicy"),
    ("policies", "Policies"),
    ("tolerance", "Tolerance"),
];
const POLICY: &[(&str, &str)] = &[("type", "Type"), ("value", "Value"), ("periodSeconds", "PeriodSeconds")];

/// Makes version 2 of version 1, in place.
pub(crate) fn to_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v2".into();
    let wanted = listed(take_annotation(object, METRICS), WANTED);
    let mut metrics: Vec<Value> = wanted.into_iter().flatten().map(with_target_types).collect();
    if let Some(target) = take_member(object, "spec", "targetCPUUtilizationPercentage") {
        metrics.push(cpu("target", &json!({"type": "Utilization", "averageUtilization": target})));
    }
    set_member(object, "spec", "metrics", (!metrics.is_empty()).then(|| metrics.into()));
    let behavior = take_annotation(object, BEHAVIOR).and_then(|text| serde_json::from_str(&text).ok());
    set_member(object, "spec", "behavior", behavior.and_then(|given: Value| behavior_of(&given)));
    let now = take_member(object, "status", "currentCPUUtilizationPercentage");
    let now = now.map(|now| vec![cpu("current", &json!({"averageUtilization": now}))]);
    // The annotation says more than the field.
    let current = listed(take_annotation(object, CURRENT_METRICS), CURRENT).or(now);
    set_member(object, "status", "currentMetrics", current.filter(|all| !all.is_empty()).map(Value::from));
    let conditions = take_annotation(object, CONDITIONS).and_then(|text| serde_json::from_str::<Vec<Value>>(&text).ok());
    let is_condition = |condition: &Value| condition["type"].is_string() && condition["status"].is_string();
    let conditions = conditions.filter(|all| all.iter().all(is_condition));
    set_member(object, "status", "conditions", conditions.map(Value::from));
}

/// Makes version 1 of version 2, in place.
pub(crate) fn from_v2(object: &mut Value) {
    object["apiVersion"] = "autoscaling/v1".into();
    // Only those stand there that come from here.
    for annotation in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
        take_annotation(object, annotation);
    }
    let metrics = taken_list(object, "spec", "metrics");
    let target = metrics.iter().find_map(|metric| utilization(metric, "target").cloned());
    set_member(object, "spec", "targetCPUUtilizationPercentage", target);
    let others: Vec<String> = metrics.iter().filter(|m| utilization(m, "target").is_none()).map(|m| text_of(m, WANTED)).collect();
    annotate(object, METRICS, (!others.is_empty()).then(|| format!("[{}]", others.join(","))));
    let current = taken_list(object, "status", "currentMetrics");
    let now = current.iter().rev().find_map(|metric| utilization(metric, "current").cloned());
    set_member(object, "status", "currentCPUUtilizationPercentage", now);
    let all: Vec<String> = current.iter().map(|metric| text_of(metric, CURRENT)).collect();
    annotate(object, CURRENT_METRICS, (!all.is_empty()).then(|| format!("[{}]", all.join(","))));
    let behavior = take_member(object, "spec", "behavior");
    annotate(object, BEHAVIOR, behavior.map(|behavior| behavior_text(&behavior)));
    let conditions = taken_list(object, "status", "conditions");
    annotate(object, CONDITIONS, (!conditions.is_empty()).then(|| conditions_text(&conditions)));
}

fn cpu(part: &str, value: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", part: value}})
}

/// The utilization of the CPU that a metric is about.
fn utilization<'m>(metric: &'m Value, part: &str) -> Option<&'m Value> {
    let resource = metric.get("resource").filter(|resource| metric["type"] == "Resource" && resource["name"] == "cpu")?;
    resource.pointer(&format!("/{part}/averageUtilization")).filter(|value| value.is_number())
}

/// Metrics out of an annotation; `None` if it is not there or not to be read.
fn listed(text: Option<String>, sources: Sources) -> Option<Vec<Value>> {
    let all: Vec<Value> = serde_json::from_str(&text?).ok()?;
    all.iter().map(|metric| metric_of(metric, sources)).collect()
}

/// A metric of version 1 as version 2 has it.
fn metric_of(given: &Value, sources: Sources) -> Option<Value> {
    let mut metric = json!({"type": given.get("type").and_then(Value::as_str)?});
    for (name, fields) in sources {
        let Some(source) = given.get(name).filter(|source| source.is_object()) else { continue };
        let mut made = json!({});
        for (field, place, holds) in *fields {
            let zero = || (*holds == Holds::Amount).then(|| Value::from("0"));
            if let Some(value) = source.get(field).and_then(|value| sound(value, *holds)).or_else(zero) {
                put(&mut made, place, value);
            }
        }
        metric[*name] = made;
    }
    Some(metric)
}

/// A value that is what a field holds.
fn sound(value: &Value, holds: Holds) -> Option<Value> {
    let is_sound = match holds {
        Holds::Text => value.is_string(),
        Holds::Number => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Holds::Quantity | Holds::Amount => value.as_str().is_some_and(|text| text.parse::<Quantity>().is_ok()),
        Holds::Selector | Holds::Reference => value.is_object(),
    };
    is_sound.then(|| value.clone())
}

fn put(object: &mut Value, place: &str, value: Value) {
    let mut at = object;
    for step in place.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[step];
    }
    *at = value;
}

/// Version 1 does not say of which type a target is: what is set tells.
fn with_target_types(mut metric: Value) -> Value {
    for (name, _) in WANTED {
        let Some(source) = metric.get_mut(name) else { continue };
        if !source["target"].is_object() {
            source["target"] = json!({});
        }
        let target = &mut source["target"];
        let has = |field: &str| target.get(field).is_some();
        let kind = match *name {
            "resource" | "containerResource" if has("averageUtilization") => "Utilization",
            "object" if !has("averageValue") => "Value",
            "external" if has("value") => "Value",
            _ => "AverageValue",
        };
        let no_value = target.get("value").and_then(Value::as_str).and_then(|text| text.parse::<Quantity>().ok());
        if *name == "object" && kind == "AverageValue" && no_value.is_some_and(Quantity::is_zero) {
            target.as_object_mut().and_then(|target| target.remove("value"));
        }
        target["type"] = kind.into();
    }
    metric
}

/// A metric of version 2 as version 1 writes it.
fn text_of(metric: &Value, sources: Sources) -> String {
    let source = |(name, fields): &(&'static str, Fields)| {
        let source = metric.get(name).filter(|source| source.is_object());
        let members = |source: &Value| {
            ordered(fields.iter().map(|(field, place, holds)| {
                let value = source.pointer(place).filter(|value| !value.is_null()).map(|value| match holds {
                    Holds::Selector => selector_text(value),
                    Holds::Reference => texts(value, &[("kind", true), ("name", true), ("apiVersion", false)]),
                    _ => value.to_string(),
                });
                let zero = match holds {
                    Holds::Amount => Some("\"0\"".to_owned()),
                    Holds::Text => Some("\"\"".to_owned()),
                    Holds::Reference => Some(r#"{"kind":"","name":""}"#.to_owned()),
                    _ => None,
                };
                (*field, value.or(zero))
            }))
        };
        (*name, source.map(members))
    };
    ordered(std::iter::once(("type", Some(metric["type"].to_string()))).chain(sources.iter().map(source)))
}

/// A JSON object whose members stand in this order.
fn ordered<'n>(members: impl Iterator<Item = (&'n str, Option<String>)>) -> String {
    let there = members.filter_map(|(name, text)| Some(format!("\"{name}\":{}", text?)));
    format!("{{{}}}", there.collect::<Vec<_>>().join(","))
}

/// Texts of an object; those that are marked are written when they are empty, too.
fn texts(object: &Value, names: &[(&'static str, bool)]) -> String {
    ordered(names.iter().map(|(name, always)| {
        let text = object.get(name).and_then(Value::as_str).unwrap_or_default();
        (*name, (*always || !text.is_empty()).then(|| Value::from(text).to_string()))
    }))
}

fn selector_text(selector: &Value) -> String {
    ordered(["matchLabels", "matchExpressions"].into_iter().map(|name| (name, selector.get(name).map(Value::to_string))))
}

fn conditions_text(conditions: &[Value]) -> String {
    let one = |condition: &Value| {
        let text = |name| condition.get(name).filter(|value| !value.is_null()).map(Value::to_string);
        // A time is written even when there is none.
        let time = text("lastTransitionTime").or(Some("null".to_owned()));
        let others = ["reason", "message", "observedGeneration"].map(|name| (name, text(name).filter(|text| text != "\"\"")));
        ordered([("type", text("type")), ("status", text("status")), ("lastTransitionTime", time)].into_iter().chain(others))
    };
    format!("[{}]", conditions.iter().map(one).collect::<Vec<_>>().join(","))
}

fn behavior_text(behavior: &Value) -> String {
    let value = |of: &Value, name: &str| of.get(name).cloned().unwrap_or_default();
    let policy = |given: &Value| ordered(POLICY.iter().map(|(name, go)| (*go, Some(value(given, name).to_string()))));
    let rules = |given: &Value| {
        ordered(SCALING.iter().map(|(name, go)| {
            let text = match value(given, name) {
                Value::Array(policies) => format!("[{}]", policies.iter().map(policy).collect::<Vec<_>>().join(",")),
                other => other.to_string(),
            };
            (*go, Some(text))
        }))
    };
    let direction = |name: &str| behavior.get(name).filter(|rules| rules.is_object()).map_or("null".to_owned(), rules);
    ordered([("ScaleUp", Some(direction("scaleUp"))), ("ScaleDown", Some(direction("scaleDown")))].into_iter())
}

/// The rules out of an annotation, in Go's names or in ours; nothing if there are none.
fn behavior_of(given: &Value) -> Option<Value> {
    let member = |of: &Value, name: &str, go: &str| of.get(go).or_else(|| of.get(name)).filter(|value| !value.is_null()).cloned();
    let policy = |given: &Value| {
        let of = POLICY.iter().filter_map(|(name, go)| Some(((*name).to_owned(), member(given, name, go)?)));
        Value::Object(of.collect())
    };
    let rules = |given: Value| {
        let of = SCALING.iter().filter_map(|(name, go)| {
            let value = match (*name, member(&given, name, go)?) {
                ("policies", Value::Array(policies)) => policies.iter().map(policy).collect::<Vec<_>>().into(),
                ("stabilizationWindowSeconds", value) => sound(&value, Holds::Number)?,
                ("tolerance", value) => sound(&value, Holds::Quantity)?,
                ("selectPolicy", value) => sound(&value, Holds::Text)?,
                _ => return None,
            };
            Some(((*name).to_owned(), value))
        });
        Value::Object(of.collect())
    };
    let directions = [("scaleUp", "ScaleUp"), ("scaleDown", "ScaleDown")];
    let of = directions.into_iter().filter_map(|(name, go)| Some((name.to_owned(), rules(member(given, name, go)?))));
    let made: Map = of.collect();
    (!made.is_empty()).then_some(Value::Object(made))
}

fn taken_list(object: &mut Value, of: &str, name: &str) -> Vec<Value> {
    match take_member(object, of, name) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn take_member(object: &mut Value, of: &str, name: &str) -> Option<Value> {
    object.get_mut(of)?.as_object_mut()?.remove(name)
}

fn set_member(object: &mut Value, of: &str, name: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    if !object[of].is_object() {
        object[of] = json!({});
    }
    object[of][name] = value;
}

fn take_annotation(object: &mut Value, key: &str) -> Option<String> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        object.get_mut("metadata")?.as_object_mut()?.remove("annotations");
    }
    text.as_str().map(str::to_owned)
}

fn annotate(object: &mut Value, key: &str, text: Option<String>) {
    let Some(text) = text else { return };
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][key] = text.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(v2: &Value) -> Value {
        let mut object = v2.clone();
        from_v2(&mut object);
        assert!(object["spec"].get("metrics").is_none() && object["status"].get("currentMetrics").is_none());
        to_v2(&mut object);
        object
    }

    #[test]
    fn an_autoscaler_of_version_1_shows_its_utilization_in_full_in_an_annotation() {
        let v1 = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}, "status": {"currentCPUUtilizationPercentage": 7},
        });
        let mut object = v1.clone();
        to_v2(&mut object);
        assert_eq!(object.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(50)));
        from_v2(&mut object);
        assert_eq!(
            object["metadata"]["annotations"],
            json!({CURRENT_METRICS: "[{\"type\":\"Resource\",\"resource\":{\"name\":\"cpu\",\"currentAverageUtilization\":7,\"currentAverageValue\":\"0\"}}]"})
        );
        object["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(object, v1);
    }

    #[test]
    fn what_version_1_cannot_say_survives_in_its_annotations() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "metadata": {"name": "a"},
            "spec": {
                "maxReplicas": 3,
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "qps", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
                        "metric": {"name": "hits"}, "target": {"type": "Value", "value": "1k"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                        "metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "2"}}},
                    {"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "30m"}}},
                    {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "a",
                        "target": {"type": "Utilization", "averageUtilization": 9}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                ],
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 10, "selectPolicy": "Max", "tolerance": "50m",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}},
            },
            "status": {
                "currentMetrics": [{"type": "External", "external": {"metric": {"name": "queue"}, "current": {"value": "3"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": "2020-01-02T03:04:05Z", "reason": "r"}],
            },
        });
        assert_eq!(round(&v2), v2);
        let mut v1 = v2.clone();
        from_v2(&mut v1);
        let annotation = |name: &str| v1["metadata"]["annotations"][name].as_str().unwrap().to_owned();
        assert!(annotation(METRICS).starts_with(
            r#"[{"type":"Pods","pods":{"metricName":"qps","targetAverageValue":"10","selector":{"matchLabels":{"a":"b"}}}},"#
        ));
        assert_eq!(
            annotation(BEHAVIOR),
            r#"{"ScaleUp":{"StabilizationWindowSeconds":10,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":60}],"Tolerance":"50m"},"ScaleDown":null}"#
        );
    }

    #[test]
    fn annotations_that_cannot_be_read_say_nothing() {
        for text in ["", "{", "{}", "[1]", "[{\"type\":7}]"] {
            let annotations = json!({METRICS: text, CURRENT_METRICS: text, CONDITIONS: text, BEHAVIOR: text});
            let mut object = json!({"metadata": {"name": "a", "annotations": annotations}, "spec": {"maxReplicas": 1}});
            to_v2(&mut object);
            assert_eq!(object, json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {"maxReplicas": 1}}), "{text}");
        }
    }
}
