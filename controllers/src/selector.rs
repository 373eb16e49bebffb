//! Label selectors: `metav1.LabelSelector` of workloads and the plain maps of services and replication controllers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::object::Labels;

/// Whether a selector selects an object with these labels. An empty selector selects everything; a requirement that is not
/// well formed (which validation never lets in) selects nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.as_ref().is_none_or(|wanted| selects_map(wanted, labels))
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|allowed| allowed == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether `labels` hold every pair of `wanted`.
#[must_use]
pub fn selects_map(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether the selector is empty: workloads must then select nothing (upstream skips such objects with an event).
#[must_use]
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(Labels::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// The selector in the form of query strings: `a=b,c in (d,e),!f`.
#[must_use]
pub fn to_text(selector: &LabelSelector) -> String {
    let mut parts: Vec<String> = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let values = expression.values.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        parts.push(match expression.operator.as_str() {
            "In" => format!("{} in ({values})", expression.key),
            "NotIn" => format!("{} notin ({values})", expression.key),
            "Exists" => expression.key.clone(),
            _ => format!("!{}", expression.key),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_operator_selects_as_upstream_does() {
        let cases = [
            ("In", vec!["x", "y"], labels(&[("k", "x")]), true),
            ("In", vec!["x"], labels(&[]), false),
            ("NotIn", vec!["x"], labels(&[("k", "x")]), false),
            ("NotIn", vec!["x"], labels(&[]), true),
            ("Exists", vec![], labels(&[("k", "")]), true),
            ("Exists", vec![], labels(&[]), false),
            ("DoesNotExist", vec![], labels(&[]), true),
            ("DoesNotExist", vec![], labels(&[("k", "v")]), false),
        ];
        for (operator, values, labels, expected) in cases {
            let requirement = LabelSelectorRequirement {
                key: "k".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
            };
            let selector = LabelSelector { match_labels: None, match_expressions: Some(vec![requirement]) };
            assert_eq!(selects(&selector, &labels), expected, "{operator} {values:?} on {labels:?}");
        }
        let both = LabelSelector { match_labels: Some(labels(&[("a", "b")])), match_expressions: None };
        assert!(selects(&both, &labels(&[("a", "b"), ("c", "d")])) && !selects(&both, &labels(&[("a", "c")])));
        assert!(is_empty(&LabelSelector::default()) && !is_empty(&both));
    }
}
