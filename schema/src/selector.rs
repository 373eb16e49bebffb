//! Label and field selectors: what `?labelSelector=` and `?fieldSelector=` say, and `LabelSelector` objects. Matching allocates nothing.

use std::fmt;

use serde_json::{Map, Value};

use crate::{field::FieldErrors, name};

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

impl Labels for Map<String, Value> {
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
    /// Parses `a=b,c in (d,e),!f`. Errors are worded like apimachinery's `labels.Parse`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let mut requirements = Vec::new();
        loop {
            match parser.peek(true) {
                Token::Word(_) | Token::Symbol("!") => {
                    let one = parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(one);
                    match parser.next(true) {
                        Token::End => break,
                        Token::Symbol(",") => {
                            let next = parser.peek(true);
                            if !matches!(next, Token::Word(_) | Token::Symbol("!")) {
                                return Err(format!("found '{next}', expected: identifier after ','"));
                            }
                        }
                        other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
                    }
                }
                Token::End => break,
                other => return Err(format!("found '{other}', expected: !, identifier, or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

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
    pub fn from_map(map: &Map<String, Value>) -> Self {
        let one = |(key, value): (&String, &Value)| Requirement {
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
pub fn validate_labels(labels: &Map<String, Value>, path: &str, errors: &mut FieldErrors) {
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

/// A field selector: `metadata.name=x,status.phase!=Running`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldSelector {
    /// All of them must hold.
    pub terms: Vec<FieldTerm>,
}

/// One condition on one field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldTerm {
    /// `status.phase`
    pub field: Box<str>,
    /// The value, unescaped.
    pub value: Box<str>,
    /// `!=`
    pub negated: bool,
}

impl FieldSelector {
    /// Parses a selector. Errors are worded like apimachinery's `fields.ParseSelector`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let wrong = || format!("invalid selector: '{text}'; can't understand '{part}'");
            let at = part.find(['=', '!']).ok_or_else(wrong)?;
            let (field, rest) = part.split_at(at);
            let (negated, value) = match rest.strip_prefix("!=") {
                Some(value) => (true, value),
                None => (false, rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).ok_or_else(wrong)?),
            };
            terms.push(FieldTerm { field: field.into(), value: unescape(value)?.into(), negated });
        }
        Ok(Self { terms })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether every term holds; `value_of` gives a field's value, empty when absent.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|term| (value_of(&term.field) == &*term.value) != term.negated)
    }

    /// The value that a field must have, if the selector asks for exactly one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| !term.negated && &*term.field == field).map(|term| &*term.value)
    }
}

/// Splits at commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => return Err(format!("invalid field selector: invalid escape sequence: \\{next}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => out.push(c),
        }
    }
    Ok(out)
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

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(text) => text,
            Self::Symbol(text) => text,
            Self::End => "",
        })
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "!", "=", ">", "<", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|s| rest.starts_with(s)) {
            found.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c: char| " \t\r\n=!(),<>".contains(c)).unwrap_or(rest.len());
            found.push(Token::Word(&rest[..end]));
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }
    found.push(Token::End);
    Ok(found)
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next token; where a value stands, `in` and `notin` are ordinary words, elsewhere they are operators.
    fn peek(&self, value: bool) -> Token<'a> {
        let token = self.tokens.get(self.at).copied().unwrap_or(Token::End);
        match token {
            Token::Word("in") if !value => Token::Symbol("in"),
            Token::Word("notin") if !value => Token::Symbol("notin"),
            other => other,
        }
    }

    fn next(&mut self, value: bool) -> Token<'a> {
        let token = self.peek(value);
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek(true) == Token::Symbol("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next(true) {
            Token::Word(key) => key,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        if let Some(message) = joined(&name::qualified(key)) {
            // Upstream reports the key without a field path here, which prints as `<nil>`.
            return Err(format!("<nil>: Invalid value: {key:?}: {message}"));
        }
        if absent {
            return checked(key, Spelling::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(true), Token::End | Token::Symbol(",")) {
            return checked(key, Spelling::Exists, Vec::new());
        }
        let spelling = match self.next(false) {
            Token::Symbol("in") => Spelling::In,
            Token::Symbol("notin") => Spelling::NotIn,
            Token::Symbol("=" | "==") => Spelling::Equals,
            Token::Symbol("!=") => Spelling::NotEquals,
            Token::Symbol(">") => Spelling::GreaterThan,
            Token::Symbol("<") => Spelling::LessThan,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if matches!(spelling, Spelling::In | Spelling::NotIn) { self.values()? } else { vec![self.one_value()?] };
        checked(key, spelling, values)
    }

    fn one_value(&mut self) -> Result<Box<str>, String> {
        match self.peek(true) {
            Token::End | Token::Symbol(",") => Ok("".into()),
            Token::Word(word) => {
                self.at += 1;
                Ok(word.into())
            }
            other => Err(format!("found '{other}', expected: identifier")),
        }
    }

    /// `(a,b)`; an empty place between commas is the empty value.
    fn values(&mut self) -> Result<Vec<Box<str>>, String> {
        let open = self.next(true);
        if open != Token::Symbol("(") {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut values: Vec<Box<str>> = Vec::new();
        let mut expect_value = true;
        loop {
            match self.next(true) {
                Token::Word(word) if expect_value => {
                    values.push(word.into());
                    expect_value = false;
                }
                Token::Symbol(",") => {
                    if expect_value {
                        values.push("".into());
                    }
                    expect_value = true;
                }
                Token::Symbol(")") => {
                    if expect_value {
                        values.push("".into());
                    }
                    return Ok(values);
                }
                other if expect_value => return Err(format!("found '{other}', expected: ',', ')' or identifier")),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(selector: &str, labels: &[(&str, &str)]) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels)
    }

    #[test]
    fn every_operator_selects_what_it_says() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5")];
        for yes in [
            "", "app=web", "app==web", "app!=db", "app in (web,db)", "app notin (db)", "app", "!gone", "gone!=x", "gone notin (x)", "n>4",
            "n<6", "app=web,tier in (front)", " app = web , ! gone ", "!in",
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
    fn field_selectors_split_unescape_and_match() {
        let selector = FieldSelector::parse("metadata.name=a\\,b,status.phase!=Running,x==").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert!(selector.matches(|field| if field == "metadata.name" { "a,b" } else { "" }));
        assert!(!selector.matches(|field| if field == "status.phase" { "Running" } else { "a,b" }));
        assert_eq!(FieldSelector::parse("nothing").unwrap_err(), "invalid selector: 'nothing'; can't understand 'nothing'");
        assert!(FieldSelector::parse("a=b=c").unwrap_err().contains("unescaped character in value: ="));
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
        assert_eq!(paths, [
            "spec.selector.matchLabels",
            "spec.selector.matchExpressions[0].values",
            "spec.selector.matchExpressions[1].values",
            "spec.selector.matchExpressions[1].key",
            "spec.selector.matchExpressions[1].key",
            "spec.selector.matchExpressions[2].operator",
        ]);
    }
}
