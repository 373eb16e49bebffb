//! Label and field selectors: parsed from a query, evaluated over the few facts the cache keeps of each object.
//!
//! Grammar and texts are those of apimachinery's `pkg/labels/selector.go` and `pkg/fields/selector.go`.

use serde_json::Value;

use super::names;

/// A parsed label selector; the default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<LabelTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelTerm {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

/// A parsed field selector; the default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    value: String,
    equal: bool,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),!h`. `Err` says what was found where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut scanner = Scanner { tokens: tokens(text), at: 0 };
        let mut terms = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        loop {
            terms.push(scanner.term()?);
            match scanner.next() {
                Token::End => return Ok(Self(terms)),
                Token::Comma => {}
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    /// From a `meta/v1 LabelSelector`; `None` when it is malformed. An empty one selects everything.
    pub fn of_value(selector: &Value) -> Option<Self> {
        let mut terms = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            terms.push(LabelTerm { key: key.clone(), test: Test::In(vec![value.as_str()?.to_owned()]) });
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values: Vec<String> = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let test = match expression.get("operator")?.as_str()? {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                _ => return None,
            };
            terms.push(LabelTerm { key: expression.get("key")?.as_str()?.to_owned(), test });
        }
        Some(Self(terms))
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the labels are selected; `get` looks one up.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|term| term.test.holds(get(&term.key)))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Exists, v) => v.is_some(),
            (Self::Absent, v) => v.is_none(),
            (Self::In(set), v) => v.is_some_and(|v| set.iter().any(|s| s == v)),
            (Self::NotIn(set), v) => v.is_none_or(|v| set.iter().all(|s| s != v)),
            (Self::Above(limit), v) => v.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *limit),
            (Self::Below(limit), v) => v.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *limit),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Operator(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(w) => w,
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::Not => "!",
            Self::Operator(o) => o,
            Self::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SPECIAL: &str = "=!(),<>";
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let two = rest.get(..2).unwrap_or_default();
        let (token, length) = match (first, two) {
            (c, _) if c.is_ascii_whitespace() => {
                rest = &rest[1..];
                continue;
            }
            (_, "==") => (Token::Operator("=="), 2),
            (_, "!=") => (Token::Operator("!="), 2),
            ('=', _) => (Token::Operator("="), 1),
            ('>', _) => (Token::Operator(">"), 1),
            ('<', _) => (Token::Operator("<"), 1),
            ('!', _) => (Token::Not, 1),
            (',', _) => (Token::Comma, 1),
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            _ => {
                let end = rest.find(|c: char| c.is_ascii_whitespace() || SPECIAL.contains(c)).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            }
        };
        out.push(token);
        rest = &rest[length..];
    }
    out
}

struct Scanner {
    tokens: Vec<Token>,
    at: usize,
}

impl Scanner {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn term(&mut self) -> Result<LabelTerm, String> {
        if self.peek() == Token::Not {
            self.next();
            return Ok(LabelTerm { key: self.key()?, test: Test::Absent });
        }
        let key = self.key()?;
        let test = match self.peek() {
            Token::End | Token::Comma => Test::Exists,
            Token::Operator(operator) => {
                self.next();
                let value = self.value()?;
                match operator {
                    "=" | "==" => Test::In(vec![value]),
                    "!=" => Test::NotIn(vec![value]),
                    ">" => Test::Above(number(&key, &value)?),
                    _ => Test::Below(number(&key, &value)?),
                }
            }
            Token::Word(word) if word == "in" || word == "notin" => {
                self.next();
                let set = self.set()?;
                if word == "in" { Test::In(set) } else { Test::NotIn(set) }
            }
            other => return Err(format!("found '{}', expected: !, in, notin, =, ==, !=, gt, lt", other.text())),
        };
        Ok(LabelTerm { key, test })
    }

    fn key(&mut self) -> Result<String, String> {
        match self.next() {
            Token::Word(key) => match names::qualified_name(&key).first() {
                None => Ok(key),
                Some(why) => Err(format!("<nil>: Invalid value: {key:?}: {why}")),
            },
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::Word(value) => {
                self.next();
                match names::label_value(&value).first() {
                    None => Ok(value),
                    Some(why) => Err(format!("<nil>: Invalid value: {value:?}: {why}")),
                }
            }
            Token::End | Token::Comma | Token::Close => Ok(String::new()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Token::Open {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

fn number(key: &str, value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| format!("values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
}

impl FieldSelector {
    /// The same selector with its fields called by other names; `Err` is the first field that `to` has no name for.
    pub fn renamed(&self, to: impl Fn(&str) -> Option<String>) -> Result<Self, &str> {
        let term = |term: &FieldTerm| -> Option<FieldTerm> { Some(FieldTerm { field: to(&term.field)?, ..term.clone() }) };
        self.0.iter().map(|of| term(of).ok_or(of.field.as_str())).collect::<Result<_, _>>().map(Self)
    }

    /// Parses `a=b,c!=d`; `\` escapes `,`, `=` and itself in values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let (at, length, equal) = operator(part).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            let value = unescape(&part[at + length..])?;
            terms.push(FieldTerm { field: part[..at].to_owned(), value, equal });
        }
        Ok(Self(terms))
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value a field must have, if the selector says so.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// The fields named.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|t| t.field.as_str())
    }

    /// Whether the fields are selected; `get` looks one up (empty when the object has none).
    pub fn matches<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|t| (get(&t.field) == t.value) == t.equal)
    }
}

/// Position, length and meaning of the first operator.
fn operator(part: &str) -> Option<(usize, usize, bool)> {
    let at = part.find(['=', '!'])?;
    let tail = &part[at..];
    if tail.starts_with("!=") {
        Some((at, 2, false))
    } else if tail.starts_with("==") {
        Some((at, 2, true))
    } else if tail.starts_with('=') {
        Some((at, 1, true))
    } else {
        None
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => return Err(format!("invalid field selector: invalid escape sequence: '\\{}'", other.unwrap_or_default())),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&'static str, &'static str)]) -> bool {
        LabelSelector::parse(selector).unwrap().matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn label_selectors_choose_as_upstream_does() {
        let web = &[("app", "web"), ("tier", "front"), ("rank", "7")];
        for yes in
            ["", "app=web", "app==web,tier", "app in (web, db)", "app notin (db)", "!gone", "gone!=x", "gone notin (x)", "rank>6", "rank<8"]
        {
            assert!(selects(yes, web), "{yes}");
        }
        for no in ["app=db", "!app", "gone", "app notin (web)", "rank>7", "gone in (x)", "app="] {
            assert!(!selects(no, web), "{no}");
        }
        assert!(selects("empty=", &[("empty", "")]));
    }

    #[test]
    fn malformed_label_selectors_say_what_was_found() {
        for bad in ["app in web", "=x", "a b", "a=b c", "-x=1", "a=-", "rank>x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_compare_values_and_know_escapes() {
        let get = |field: &str| match field {
            "metadata.name" => "a,b",
            "status.phase" => "Running",
            _ => "",
        };
        for yes in [r"metadata.name=a\,b", "status.phase!=Failed", "status.phase==Running,spec.nodeName="] {
            assert!(FieldSelector::parse(yes).unwrap().matches(get), "{yes}");
        }
        assert!(!FieldSelector::parse("spec.nodeName!=").unwrap().matches(get));
        assert!(FieldSelector::parse("nonsense").is_err());
        assert_eq!(FieldSelector::parse("metadata.name=x,a!=b").unwrap().requires("metadata.name"), Some("x"));
    }
}
