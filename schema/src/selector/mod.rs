//! Label and field selectors: what `?labelSelector=` and `?fieldSelector=` say, and `LabelSelector` objects. Matching allocates nothing.

mod field;
mod parse;

use std::fmt;

use coracle_tree::{Map, Text, Value};

use crate::{field::FieldErrors, name};

pub use self::field::{FieldSelector, FieldTerm};

/// What a requirement asks of a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// One of the values.
    In,
    /// Absent, or none of the values.
    NotIn,
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
    /// A number above the value.
    GreaterThan,
    /// A number below the value.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    /// The label.
    pub key: Box<str>,
    /// What is asked.
    pub operator: Operator,
    /// What it is compared with, sorted.
    pub values: Vec<Box<str>>,
    /// `=` and `==` print as `=`, `in (a)` as itself: the operator as written, where [`Operator::In`] has several spellings.
    exact: bool,
}

/// A label selector: every requirement must hold. Without any it selects everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LabelSelector {
    /// Sorted by key.
    pub requirements: Vec<Requirement>,
    /// Selects nothing: an absent `LabelSelector` object.
    pub nothing: bool,
}

/// Labels that can be looked up.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Map {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl<T: Labels + ?Sized> Labels for Option<&T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.and_then(|labels| labels.label(key))
    }
}

impl Requirement {
    fn holds(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let found = labels.label(&self.key);
        let among = |value: &str| self.values.iter().any(|v| **v == *value);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|v| number(v));
        match self.operator {
            Operator::In => found.is_some_and(among),
            Operator::NotIn => !found.is_some_and(among),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan => found.and_then(number).zip(bound()).is_some_and(|(a, b)| a > b),
            Operator::LessThan => found.and_then(number).zip(bound()).is_some_and(|(a, b)| a < b),
        }
    }
}

impl LabelSelector {
    /// From a `metav1.LabelSelector` object: absent selects nothing, `{}` everything.
    pub fn from_object(object: Option<&Value>) -> Result<Self, String> {
        let Some(object) = object.filter(|o| !o.is_null()) else {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        };
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(checked(key, Spelling::Equals, vec![value.as_str().unwrap_or_default().into()])?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let spelling = match text("operator") {
                "In" => Spelling::In,
                "NotIn" => Spelling::NotIn,
                "Exists" => Spelling::Exists,
                "DoesNotExist" => Spelling::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect();
            requirements.push(checked(text("key"), spelling, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a plain map, as `Service.spec.selector`: every pair must be there.
    pub fn from_map(map: &Map) -> Self {
        let one = |(key, value): (&Text, &Value)| Requirement {
            key: key.as_str().into(),
            operator: Operator::In,
            values: vec![value.as_str().unwrap_or_default().into()],
            exact: true,
        };
        Self { requirements: map.iter().map(one).collect(), nothing: false }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels satisfy every requirement.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.holds(labels))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.join(",");
        match (self.operator, self.exact) {
            (Operator::In, true) => write!(f, "{key}={values}"),
            (Operator::In, false) => write!(f, "{key} in ({values})"),
            (Operator::NotIn, true) => write!(f, "{key}!={values}"),
            (Operator::NotIn, false) => write!(f, "{key} notin ({values})"),
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::GreaterThan, _) => write!(f, "{key}>{values}"),
            (Operator::LessThan, _) => write!(f, "{key}<{values}"),
        }
    }
}

/// Checks a `metav1.LabelSelector` object's fields, as upstream's `ValidateLabelSelector`.
pub fn validate_object(selector: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        validate_labels(labels, &format!("{path}.matchLabels"), errors);
    }
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (at, expression) in expressions.into_iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let values = expression.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        match text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(format!("{path}.values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(format!("{path}.operator"), format!("{other:?}"), "not a valid selector operator"),
        }
        let key = text("key");
        for message in name::qualified(key) {
            errors.invalid(format!("{path}.key"), format!("{key:?}"), &message);
        }
        for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
            for message in name::label_value(value) {
                errors.invalid(format!("{path}.values[{at}]"), format!("{value:?}"), &message);
            }
        }
    }
}

/// Checks a map of labels, as upstream's `ValidateLabels`.
pub fn validate_labels(labels: &Map, path: &(impl std::fmt::Display + ?Sized), errors: &mut FieldErrors) {
    for (key, value) in labels {
        for message in name::qualified(key) {
            errors.invalid(path, format!("{key:?}"), &message);
        }
        let value = value.as_str().unwrap_or_default();
        for message in name::label_value(value) {
            errors.invalid(path, format!("{value:?}"), &message);
        }
    }
}

/// The operators as they are written.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// Upstream's `NewRequirement`.
fn checked(key: &str, spelling: Spelling, mut values: Vec<Box<str>>) -> Result<Requirement, String> {
    let mut errors = FieldErrors::none();
    if let Some(message) = joined(&name::qualified(key)) {
        errors.invalid("key", format!("{key:?}"), &message);
    }
    let list = || serde_json::to_string(&values.iter().map(|v| &**v).collect::<Vec<_>>()).unwrap_or_default();
    match spelling {
        Spelling::In | Spelling::NotIn if values.is_empty() => {
            errors.invalid("values", list(), "for 'in', 'notin' operators, values set can't be empty");
        }
        Spelling::Exists | Spelling::DoesNotExist if !values.is_empty() => {
            errors.invalid("values", list(), "values set must be empty for exists and does not exist");
        }
        Spelling::GreaterThan | Spelling::LessThan => {
            for (at, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.invalid(format!("values[{at}]"), format!("{value:?}"), detail);
            }
        }
        _ => {}
    }
    for (at, value) in values.iter().enumerate() {
        if let Some(message) = joined(&name::label_value(value)) {
            errors.invalid(format!("values[{at}][{key}]"), format!("{value:?}"), &message);
        }
    }
    match errors.0.as_slice() {
        [] => {}
        [one] => return Err(one.to_string()),
        many => return Err(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
    }
    values.sort();
    values.dedup();
    let (operator, exact) = match spelling {
        Spelling::In => (Operator::In, false),
        Spelling::Equals => (Operator::In, true),
        Spelling::NotIn => (Operator::NotIn, false),
        Spelling::NotEquals => (Operator::NotIn, true),
        Spelling::Exists => (Operator::Exists, false),
        Spelling::DoesNotExist => (Operator::DoesNotExist, false),
        Spelling::GreaterThan => (Operator::GreaterThan, false),
        Spelling::LessThan => (Operator::LessThan, false),
    };
    Ok(Requirement { key: key.into(), operator, values, exact })
}

fn joined(messages: &[String]) -> Option<String> {
    (!messages.is_empty()).then(|| messages.join("; "))
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn holds(selector: &str, labels: &[(&str, &str)]) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels)
    }

    #[test]
    fn every_operator_selects_what_it_says() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5")];
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "app in (web,db)",
            "app notin (db)",
            "app",
            "!gone",
            "gone!=x",
            "gone notin (x)",
            "n>4",
            "n<6",
            "app=web,tier in (front)",
            " app = web , ! gone ",
            "!in",
        ] {
            assert!(holds(yes, &labels), "{yes}");
        }
        for no in ["app=db", "app!=web", "app in (db)", "app notin (web)", "!app", "gone", "gone=x", "n>5", "app>1", "app=web,gone"] {
            assert!(!holds(no, &labels), "{no}");
        }
    }

    #[test]
    fn mistakes_are_worded_like_upstream() {
        let wrong = |text| LabelSelector::parse(text).unwrap_err();
        assert_eq!(wrong("a in b"), "unable to parse requirement: found 'b' expected: '('");
        assert_eq!(wrong("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(wrong("a=b c"), "found 'c', expected: ',' or 'end of string'");
        assert_eq!(wrong("a,"), "found '', expected: identifier after ','");
        assert_eq!(wrong("=a"), "found '=', expected: !, identifier, or 'end of string'");
        assert!(wrong("-a=b").starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"));
        assert!(wrong("a=-b").starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be"));
        assert!(wrong("a>x").contains("the value must be an integer"));
    }

    #[test]
    fn an_object_selects_like_its_text() {
        let selector = LabelSelector::from_object(Some(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}, {"key": "x", "operator": "DoesNotExist"}],
        })));
        assert_eq!(selector.unwrap().to_string(), "app=web,tier notin (back),!x");
        assert!(LabelSelector::from_object(Some(&json!({}))).unwrap().is_everything());
        assert!(!LabelSelector::from_object(None).unwrap().matches(&json!({"a": "b"})));
        let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert_eq!(LabelSelector::from_object(Some(&wrong)).unwrap_err(), "\"Near\" is not a valid label selector operator");
    }

    #[test]
    fn the_fields_of_a_selector_object_are_checked() {
        let mut errors = FieldErrors::none();
        let selector = json!({
            "matchLabels": {"a": "-"},
            "matchExpressions": [{"key": "b", "operator": "In"}, {"key": "", "operator": "Exists", "values": ["x"]}, {"key": "c", "operator": "?"}],
        });
        validate_object(&selector, "spec.selector", &mut errors);
        let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "spec.selector.matchLabels",
                "spec.selector.matchExpressions[0].values",
                "spec.selector.matchExpressions[1].values",
                "spec.selector.matchExpressions[1].key",
                "spec.selector.matchExpressions[1].key",
                "spec.selector.matchExpressions[2].operator",
            ]
        );
    }
}
