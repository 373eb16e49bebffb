//! JSONPath as kubectl and printer columns use it (client-go `util/jsonpath`): `.spec.a[0].b`, `['x.y']`, `[*]`, `[1:3]`, `[a,b]`, `..name`,
//! `[?(@.type=="Ready")].status`. One expression; templates around several (`{range}`) are the client's.

use std::cmp::Ordering;

use coracle_tree::Value;

/// Longest path, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
/// Deepest nesting of filters and unions.
const MAX_DEPTH: usize = 16;
/// Most values that one step may come to.
const MAX_VALUES: usize = 100_000;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A member of this name.
    Field(Box<str>),
    /// `*`: all members or items.
    Wildcard,
    /// `..`: the value and all below it that hold something.
    Recursive,
    /// `[from:to:step]`; an index is a slice of one.
    Slice(Slice),
    /// `[a,b]`
    Union(Vec<Vec<Self>>),
    /// `[?(left op right)]`
    Filter(Box<Filter>),
    /// A text, number or truth value.
    Literal(Value),
    /// A word that is none of these: an error when it is evaluated.
    Word(Box<str>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slice {
    from: Option<i64>,
    to: Option<i64>,
    /// `to` follows from `from`: an index.
    one: bool,
    step: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Vec<Step>,
    operator: Box<str>,
    right: Vec<Step>,
}

impl JsonPath {
    /// Parses a path. Fails with client-go's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("path is longer than {MAX_LENGTH} bytes"));
        }
        steps(text, 0).map(Self)
    }

    /// The values the path leads to. Members that are not there are no error; a step that does not fit its value is.
    pub fn find<'v>(&'v self, value: &'v Value) -> Result<Vec<&'v Value>, String> {
        walk(&self.0, vec![value])
    }
}

/// Parses what stands between the braces of an action.
fn steps(text: &str, depth: usize) -> Result<Vec<Step>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("path is nested deeper than {MAX_DEPTH} levels"));
    }
    let mut parser = Parser { text, at: 0, depth, steps: Vec::new() };
    while parser.step()? {}
    Ok(parser.steps)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    steps: Vec<Step>,
}

fn ends_word(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// One step; false at the end.
    fn step(&mut self) -> Result<bool, String> {
        let rest = self.rest();
        let Some(next) = rest.chars().next() else { return Ok(false) };
        match next {
            '}' => return Ok(false),
            '\r' | '\n' => return Err("unclosed action".into()),
            ' ' | '@' | '$' => self.at += 1,
            _ if rest.starts_with("[?(") => self.filter()?,
            _ if rest.starts_with("..") => {
                if self.steps.last() == Some(&Step::Recursive) {
                    return Err("invalid multiple recursive descent".into());
                }
                self.at += 2;
                self.steps.push(Step::Recursive);
                if self.rest().starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
                    self.field();
                }
            }
            '.' => {
                self.at += 1;
                self.field();
            }
            '[' => self.brackets()?,
            '"' | '\'' => self.quoted(next)?,
            c if c == '+' || c == '-' || c.is_numeric() => self.number()?,
            c if c == '_' || c.is_alphanumeric() => {
                let word = &rest[..rest.find(ends_word).unwrap_or(rest.len())];
                self.at += word.len();
                self.steps.push(match word {
                    "true" | "false" => Step::Literal((word == "true").into()),
                    other => Step::Word(other.into()),
                });
            }
            c => return Err(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c))),
        }
        Ok(true)
    }

    /// A name behind a dot; a backslash hides what would end it.
    fn field(&mut self) {
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        let mut end = self.rest().len();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                name.extend(chars.next().map(|(_, hidden)| hidden).filter(|hidden| *hidden != '\\'));
            } else if ends_word(c) {
                end = at;
                break;
            } else {
                name.push(c);
            }
        }
        self.at += end;
        self.steps.push(if name == "*" { Step::Wildcard } else { Step::Field(name.into()) });
    }

    fn brackets(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let end = rest.find([']', '\n']).filter(|end| rest[*end..].starts_with(']')).ok_or("unterminated array")?;
        let inner = &rest[1..end];
        self.at += end + 1;
        if inner.contains(',') {
            let parts: Result<Vec<_>, String> =
                inner.split(',').map(|part| steps(&format!("[{}]", part.trim_matches(' ')), self.depth + 1)).collect();
            self.steps.push(Step::Union(parts?));
            return Ok(());
        }
        if let Some(key) = inner.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|t| inner.len() >= 2 && !t.contains('\'')) {
            self.steps.extend(steps(&format!(".{key}"), self.depth + 1)?);
            return Ok(());
        }
        self.steps.push(Step::Slice(slice(if inner == "*" { ":" } else { inner })?));
        Ok(())
    }

    fn filter(&mut self) -> Result<(), String> {
        self.at += 3;
        let rest = self.rest();
        let (mut open, mut closed, mut pair, mut before) = (false, false, ' ', ' ');
        let mut end = None;
        for (at, c) in rest.char_indices() {
            match c {
                '\n' => break,
                '"' | '\'' if !open => (open, pair) = (true, c),
                '"' | '\'' if before != '\\' && c == pair => closed = true,
                ')' if open == closed => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
            before = c;
        }
        let end = end.ok_or("unterminated filter")?;
        if !rest[end + 1..].starts_with(']') {
            return Err("unclosed array expect ]".into());
        }
        self.at += end + 2;
        let text = &rest[..end];
        let is_operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
        let split = text.find(is_operator).filter(|at| *at > 0).map(|at| {
            let length = text[at..].find(|c| !is_operator(c)).unwrap_or(text.len() - at);
            (&text[..at], &text[at..at + length], &text[at + length..])
        });
        let filter = match split.filter(|(.., right)| !right.is_empty()) {
            Some((left, operator, right)) => {
                Filter { left: steps(left, self.depth + 1)?, operator: operator.into(), right: steps(right, self.depth + 1)? }
            }
            None => Filter { left: steps(text, self.depth + 1)?, operator: "exists".into(), right: Vec::new() },
        };
        self.steps.push(Step::Filter(Box::new(filter)));
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<(), String> {
        let rest = &self.rest()[1..];
        let mut text = String::new();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' => break,
                '\\' => match chars.next().map(|(_, hidden)| hidden) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(hidden) if hidden == quote || hidden == '\\' => text.push(hidden),
                    _ => return Err(format!("unquote string {quote}{rest} error invalid syntax")),
                },
                c if c == quote => {
                    self.at += at + 2;
                    self.steps.push(Step::Literal(text.into()));
                    return Ok(());
                }
                c => text.push(c),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let end = rest[sign..].find(|c: char| c != '.' && !c.is_ascii_digit()).map_or(rest.len(), |end| end + sign);
        let text = &rest[..end];
        let whole = text.parse::<i64>().map(Value::from);
        let value = whole.or_else(|_| text.parse::<f64>().map(Value::from)).map_err(|_| format!("cannot parse number {text}"))?;
        self.at += end.max(1);
        self.steps.push(Step::Literal(value));
        Ok(())
    }
}

/// `n`, `from:to`, `from:to:step`
fn slice(text: &str) -> Result<Slice, String> {
    let wrong = || format!("invalid array index {text}");
    let mut parts = text.split(':');
    let mut number = || match parts.next() {
        None => Ok(None),
        Some("") => Ok(Some(None)),
        Some(part) if part.strip_prefix('-').unwrap_or(part).bytes().all(|b| b.is_ascii_digit()) => {
            part.parse::<i64>().map(|n| Some(Some(n))).map_err(|_| format!("array index {part} is not a number"))
        }
        Some(_) => Err(wrong()),
    };
    let (from, to, step) = (number()?.flatten(), number()?, number()?);
    if parts.next().is_some() {
        return Err(wrong());
    }
    let one = to.is_none();
    let to = if one { from.unwrap_or_default().checked_add(1) } else { to.flatten() };
    Ok(Slice { from, to, one, step: step.flatten() })
}

fn walk<'v>(steps: &'v [Step], values: Vec<&'v Value>) -> Result<Vec<&'v Value>, String> {
    let mut current = values;
    for step in steps {
        current = one(step, current)?;
        if current.len() > MAX_VALUES {
            return Err(format!("path leads to more than {MAX_VALUES} values"));
        }
    }
    Ok(current)
}

fn one<'v>(step: &'v Step, values: Vec<&'v Value>) -> Result<Vec<&'v Value>, String> {
    let mut found = Vec::new();
    match step {
        Step::Field(name) => found.extend(values.into_iter().filter_map(|value| value.as_object()?.get(name))),
        Step::Wildcard => values.into_iter().for_each(|value| found.extend(children(value))),
        Step::Recursive => {
            for value in values {
                descend(value, &mut found);
            }
        }
        Step::Slice(slice) => {
            for value in values.into_iter().filter(|value| !value.is_null()) {
                let items = value.as_array().ok_or_else(|| format!("{} is not array or slice", crate::go::type_name(value)))?;
                slice.take(items, &mut found)?;
            }
        }
        Step::Union(parts) => {
            for part in parts {
                found.extend(walk(part, values.clone())?);
            }
        }
        Step::Filter(filter) => {
            for value in values {
                let items = value.as_array().ok_or_else(|| format!("{value} is not array or slice and cannot be filtered"))?;
                for item in items {
                    if filter.passes(item)? {
                        found.push(item);
                    }
                }
            }
        }
        Step::Literal(value @ Value::String(_)) => found.push(value),
        Step::Literal(value) => found.resize(values.len(), value),
        Step::Word(word) => return Err(format!("unrecognized identifier {word}")),
    }
    Ok(found)
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

/// The value, if it holds something, and all below it that do.
fn descend<'v>(value: &'v Value, into: &mut Vec<&'v Value>) {
    let below = children(value);
    if below.is_empty() || into.len() > MAX_VALUES {
        return;
    }
    into.push(value);
    below.into_iter().for_each(|child| descend(child, into));
}

impl Slice {
    fn take<'v>(self, items: &'v [Value], into: &mut Vec<&'v Value>) -> Result<(), String> {
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let wrap = |at: i64, wraps: bool| if wraps { at.saturating_add(length) } else { at };
        let from = self.from.unwrap_or_default();
        let from = wrap(from, from < 0);
        let to = self.to.unwrap_or(length);
        let to = wrap(to, to < 0 || (to == 0 && self.one));
        if from == to {
            return Ok(());
        }
        let outside = |index: i64| format!("array index out of bounds: index {index}, length {length}");
        let at = |index: i64| usize::try_from(index).ok().filter(|index| *index <= items.len());
        let start = at(from).filter(|start| *start < items.len()).ok_or_else(|| outside(from))?;
        let end = at(to).ok_or_else(|| outside(to.saturating_sub(1)))?;
        if start > end {
            return Err(format!("starting index {from} is greater than ending index {to}"));
        }
        let step = match self.step {
            None => 1,
            Some(step) => usize::try_from(step).ok().filter(|step| *step > 0).ok_or("step must be > 0")?,
        };
        into.extend(items[start..end].iter().step_by(step));
        Ok(())
    }
}

impl Filter {
    fn passes(&self, item: &Value) -> Result<bool, String> {
        let left = walk(&self.left, vec![item]);
        if &*self.operator == "exists" {
            return Ok(left.is_ok_and(|found| !found.is_empty()));
        }
        let (left, right) = (left?, walk(&self.right, vec![item])?);
        let (left, right) = match (left.as_slice(), right.as_slice()) {
            ([], _) | (_, []) => return Ok(false),
            ([left], [right]) => (left, right),
            _ => return Err("can only compare one element at a time".into()),
        };
        let order = compare(left, right)?;
        let ordered = || order.ok_or_else(|| "invalid type for comparison".to_owned());
        match &*self.operator {
            "==" => Ok(left == right || order == Some(Ordering::Equal)),
            "!=" => Ok(left != right && order != Some(Ordering::Equal)),
            "<" => ordered().map(Ordering::is_lt),
            "<=" => ordered().map(Ordering::is_le),
            ">" => ordered().map(Ordering::is_gt),
            ">=" => ordered().map(Ordering::is_ge),
            other => Err(format!("unrecognized filter operator {other}")),
        }
    }
}

/// The order of two values of one basic type; none where the type has no order.
fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, String> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Ok(Some(left.cmp(right))),
        (Value::Bool(_), Value::Bool(_)) => Ok(None),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Ok(Some(left.cmp(&right))),
            (None, None) => Ok(left.as_f64().unwrap_or_default().partial_cmp(&right.as_f64().unwrap_or_default())),
            _ => Err("incompatible types for comparison".into()),
        },
        (Value::Null | Value::Array(_) | Value::Object(_), _) | (_, Value::Null | Value::Array(_) | Value::Object(_)) => {
            Err("invalid type for comparison".into())
        }
        _ => Err("incompatible types for comparison".into()),
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn found(path: &str) -> Result<Value, String> {
        let object = json!({
            "spec": {"n": 3, "a.b": "dotted", "list": [10, 20, 30, 40], "flag": true},
            "status": {"conditions": [{"type": "Ready", "status": "True", "n": 1}, {"type": "Live", "status": "False", "n": 2}]},
        });
        Ok(JsonPath::parse(path)?.find(&object)?.into_iter().cloned().collect())
    }

    #[test]
    fn members_items_and_slices() {
        assert_eq!(found(".spec.n").unwrap(), json!([3]));
        assert_eq!(found(".spec['a\\.b']").unwrap(), json!(["dotted"]));
        assert_eq!(found(".spec.a\\.b").unwrap(), json!(["dotted"]));
        assert_eq!(found(".spec.list[0]").unwrap(), json!([10]));
        assert_eq!(found(".spec.list[-1]").unwrap(), json!([40]));
        assert_eq!(found(".spec.list[1:3]").unwrap(), json!([20, 30]));
        assert_eq!(found(".spec.list[:4:2]").unwrap(), json!([10, 30]));
        assert_eq!(found(".spec.list[0,2]").unwrap(), json!([10, 30]));
        assert_eq!(found(".status.conditions[*].type").unwrap(), json!(["Ready", "Live"]));
        assert_eq!(
            found("..status").unwrap(),
            json!([{"conditions": [{"type": "Ready", "status": "True", "n": 1}, {"type": "Live", "status": "False", "n": 2}]}, "True", "False"])
        );
        assert_eq!(found(".nothing.at.all").unwrap(), json!([]));
    }

    #[test]
    fn filters_compare_members_with_literals() {
        assert_eq!(found(".status.conditions[?(@.type==\"Ready\")].status").unwrap(), json!(["True"]));
        assert_eq!(found(".status.conditions[?(@.type=='Live')].status").unwrap(), json!(["False"]));
        assert_eq!(found(".status.conditions[?(@.n>1)].type").unwrap(), json!(["Live"]));
        assert_eq!(found(".status.conditions[?(@.type!=\"Ready\")].type").unwrap(), json!(["Live"]));
        assert_eq!(found(".status.conditions[?(@.missing)].type").unwrap(), json!([]));
        assert_eq!(found(".status.conditions[?(@.n)].type").unwrap(), json!(["Ready", "Live"]));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(found(".spec.list[9]").unwrap_err().starts_with("array index out of bounds: index 9"));
        assert_eq!(found(".spec[0]").unwrap_err(), "map[string]interface {} is not array or slice");
        assert_eq!(found(".spec.list[x]").unwrap_err(), "invalid array index x");
        assert_eq!(found(".spec.list[0").unwrap_err(), "unterminated array");
        assert_eq!(found(".status.conditions[?(@.n==\"1\")]").unwrap_err(), "incompatible types for comparison");
        assert_eq!(found("spec").unwrap_err(), "unrecognized identifier spec");
        assert!(JsonPath::parse(&"[?(".repeat(1000)).is_err());
    }
}
