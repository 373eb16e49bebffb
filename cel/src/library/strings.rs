//! Functions of text (cel-go `ext/strings.go` version 2, apiserver `pkg/cel/library/{regex,jsonpatch}.go`). Positions count code points.

use crate::EvalError;
use crate::pattern;
use crate::value::{Text, Val};

type Eval<'a> = Result<Val<'a>, EvalError>;

/// The longest text that a function makes, in bytes.
const TEXT_LIMIT: usize = 16 << 20;

fn text<'v>(value: &'v Val<'_>) -> Result<&'v str, EvalError> {
    value.as_str().ok_or_else(EvalError::no_overload)
}

fn int(value: &Val<'_>) -> Result<i64, EvalError> {
    match value {
        Val::Int(number) => Ok(*number),
        _ => Err(EvalError::no_overload()),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// Where the character number `index` begins, in bytes; the end if there are exactly so many.
fn position(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    if text.is_ascii() {
        return (index <= text.len()).then_some(index);
    }
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index)
}

/// A part of text, borrowed if the whole is.
fn part<'a>(value: &Val<'a>, range: std::ops::Range<usize>) -> Eval<'a> {
    match value {
        Val::String(Text::Slice(text)) => Ok(Val::String(Text::Slice(&text[range]))),
        _ => Ok(Val::from(text(value)?[range].to_string())),
    }
}

pub(super) fn char_at<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (whole, index) = (text(&args[0])?, int(&args[1])?);
    let start = position(whole, index).ok_or_else(|| out_of_range(index))?;
    let length = whole[start..].chars().next().map_or(0, char::len_utf8);
    part(&args[0], start..start + length)
}

fn count(text: &str) -> i64 {
    i64::try_from(crate::value::code_points(text)).unwrap_or(i64::MAX)
}

fn offset(args: &[Val<'_>], default: i64) -> Result<i64, EvalError> {
    let offset = args.get(2).map_or(Ok(default), int)?;
    if offset < 0 { Err(out_of_range(offset)) } else { Ok(offset) }
}

pub(super) fn index_of<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (whole, wanted, offset) = (text(&args[0])?, text(&args[1])?, offset(args, 0)?);
    let length = count(whole);
    if wanted.is_empty() {
        return Ok(Val::Int(offset.min(length)));
    }
    let Some(start) = position(whole, offset).filter(|_| offset < length) else { return Ok(Val::Int(-1)) };
    Ok(Val::Int(whole[start..].find(wanted).map_or(-1, |at| offset + count(&whole[start..start + at]))))
}

pub(super) fn last_index_of<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (whole, wanted) = (text(&args[0])?, text(&args[1])?);
    let length = count(whole);
    if args.len() == 2 && (wanted.is_empty() || whole.len() < wanted.len()) {
        return Ok(Val::Int(if wanted.is_empty() { length } else { -1 }));
    }
    let offset = offset(args, length - 1)?;
    if wanted.is_empty() {
        return Ok(Val::Int(offset.min(length)));
    }
    if offset >= length {
        return Ok(Val::Int(-1));
    }
    // A match may begin at the offset and reach beyond it.
    let end = position(whole, (offset + count(wanted)).min(length)).unwrap_or(whole.len());
    Ok(Val::Int(whole[..end].rfind(wanted).map_or(-1, |at| count(&whole[..at]))))
}

pub(super) fn lower_ascii<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::from(text(&args[0])?.to_ascii_lowercase()))
}

pub(super) fn upper_ascii<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::from(text(&args[0])?.to_ascii_uppercase()))
}

pub(super) fn trim<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let whole = text(&args[0])?;
    let start = whole.len() - whole.trim_start().len();
    part(&args[0], start..start.max(whole.trim_end().len()))
}

pub(super) fn substring<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (whole, start) = (text(&args[0])?, int(&args[1])?);
    let end = args.get(2).map(int).transpose()?;
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let first = position(whole, start).ok_or_else(|| out_of_range(start))?;
    let last = end.map_or(Some(whole.len()), |end| position(whole, end)).ok_or_else(|| out_of_range(end.unwrap_or_default()))?;
    part(&args[0], first..last)
}

pub(super) fn replace<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (whole, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let most = match args.get(3).map(int).transpose()? {
        Some(most) if most >= 0 => usize::try_from(most).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let found = if from.is_empty() { whole.len() + 1 } else { whole.len() / from.len() };
    if found.min(most).saturating_mul(to.len()) > TEXT_LIMIT && whole.matches(from).count().min(most) * to.len() > TEXT_LIMIT {
        return Err(EvalError::memory());
    }
    Ok(Val::from(whole.replacen(from, to, most)))
}

pub(super) fn split<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (whole, separator) = (text(&args[0])?, text(&args[1])?);
    let most = match args.get(2).map(int).transpose()? {
        Some(0) => return Ok(Val::from(Vec::new())),
        Some(most) if most > 0 => usize::try_from(most).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let ends: Vec<(usize, usize)> = if separator.is_empty() {
        // Every character by itself; the last takes what is left.
        whole.char_indices().skip(1).take(most - 1).map(|(at, _)| (at, at)).collect()
    } else {
        whole.match_indices(separator).take(most - 1).map(|(at, _)| (at, at + separator.len())).collect()
    };
    if whole.is_empty() && separator.is_empty() {
        return Ok(Val::from(Vec::new()));
    }
    let mut parts = Vec::with_capacity(ends.len() + 1);
    let mut start = 0;
    for (end, next) in ends {
        parts.push(part(&args[0], start..end)?);
        start = next;
    }
    parts.push(part(&args[0], start..whole.len())?);
    Ok(Val::from(parts))
}

pub(super) fn join<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let Val::List(list) = &args[0] else { return Err(EvalError::no_overload()) };
    let separator = args.get(1).map_or(Ok(""), text)?;
    let mut out = String::new();
    for (at, item) in list.iter().enumerate() {
        let item = item?;
        let item = item.as_str().ok_or_else(|| EvalError::new(format!("join: invalid input: {item}")))?;
        if at > 0 {
            out.push_str(separator);
        }
        out.push_str(item);
        if out.len() > TEXT_LIMIT {
            return Err(EvalError::memory());
        }
    }
    Ok(Val::from(out))
}

pub(super) fn quote<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let mut out = String::from("\"");
    for c in text(&args[0])?.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(Val::from(out))
}

pub(super) fn contains<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::Bool(text(&args[0])?.contains(text(&args[1])?)))
}

pub(super) fn starts_with<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::Bool(text(&args[0])?.starts_with(text(&args[1])?)))
}

pub(super) fn ends_with<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::Bool(text(&args[0])?.ends_with(text(&args[1])?)))
}

fn compiled(expression: &str) -> Result<std::sync::Arc<pattern::Pattern>, EvalError> {
    pattern::compiled(expression).map_err(|error| EvalError::new(format!("Illegal regex: {error}")))
}

/// A match that would take too long.
fn too_dear(error: Box<str>) -> EvalError {
    EvalError::new(error.into_string())
}

pub(super) fn matches<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let expression = pattern::compiled(text(&args[1])?).map_err(|error| EvalError::new(error.into_string()))?;
    expression.is_match(text(&args[0])?).map(Val::Bool).map_err(too_dear)
}

pub(super) fn find<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let whole = text(&args[0])?;
    match compiled(text(&args[1])?)?.find_at(whole, 0).map_err(too_dear)? {
        Some(found) => part(&args[0], found),
        None => Ok(Val::from("")),
    }
}

pub(super) fn find_all<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let whole = text(&args[0])?;
    let most = match args.get(2).map(int).transpose()? {
        Some(most) if most >= 0 => usize::try_from(most).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let expression = compiled(text(&args[1])?)?;
    let mut found = Vec::new();
    let (mut at, mut end) = (0, None);
    while at <= whole.len() && found.len() < most {
        let Some(one) = expression.find_at(whole, at).map_err(too_dear)? else { break };
        at = if one.is_empty() { one.end + whole[one.end..].chars().next().map_or(1, char::len_utf8) } else { one.end };
        // Go passes over an empty match right after a match.
        if !one.is_empty() || end != Some(one.start) {
            end = Some(one.end);
            found.push(part(&args[0], one)?);
        }
    }
    Ok(Val::from(found))
}

pub(super) fn escape_key<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::from(text(&args[0])?.replace('~', "~0").replace('/', "~1")))
}
