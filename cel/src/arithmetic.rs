//! Arithmetic that does not overflow silently (cel-go `common/types/overflow.go`).

use std::sync::Arc;

use crate::EvalError;
use crate::equal::add_lists;
use crate::value::{Text, Val};

type Eval<'a> = Result<Val<'a>, EvalError>;

/// The longest text or octets that an addition makes, in bytes.
const SIZE_LIMIT: usize = 16 << 20;

/// A binary operator of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

/// Applies `operator`.
pub(crate) fn apply<'a>(operator: Operator, one: &Val<'a>, other: &Val<'a>) -> Eval<'a> {
    match (one, other) {
        (Val::Int(a), Val::Int(b)) => ints(operator, *a, *b).map(Val::Int),
        (Val::Uint(a), Val::Uint(b)) => uints(operator, *a, *b).map(Val::Uint),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            Operator::Modulo => return Err(no_overload(operator, one)),
        })),
        _ => match operator {
            Operator::Add => add(one, other),
            Operator::Subtract => subtract(one, other),
            _ => Err(no_overload(operator, one)),
        },
    }
}

/// What cannot be added at all is told with the operator, what cannot be added to one another without.
fn no_overload(operator: Operator, one: &Val<'_>) -> EvalError {
    let (name, known) = match operator {
        Operator::Add => (
            "_+_",
            matches!(
                one,
                Val::Int(_)
                    | Val::Uint(_)
                    | Val::Double(_)
                    | Val::String(_)
                    | Val::Bytes(_)
                    | Val::Duration(_)
                    | Val::Timestamp(_)
                    | Val::List(_)
            ),
        ),
        Operator::Subtract => ("_-_", matches!(one, Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_) | Val::Timestamp(_))),
        Operator::Multiply => ("_*_", matches!(one, Val::Int(_) | Val::Uint(_) | Val::Double(_))),
        Operator::Divide => ("_/_", matches!(one, Val::Int(_) | Val::Uint(_) | Val::Double(_))),
        Operator::Modulo => ("_%_", matches!(one, Val::Int(_) | Val::Uint(_))),
    };
    if known { EvalError::no_overload() } else { EvalError::new(format!("no such overload: {name}")) }
}

fn ints(operator: Operator, a: i64, b: i64) -> Result<i64, EvalError> {
    match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if b == 0 => return Err(EvalError::new("division by zero")),
        Operator::Modulo if b == 0 => return Err(EvalError::new("modulus by zero")),
        Operator::Divide => a.checked_div(b),
        Operator::Modulo => a.checked_rem(b),
    }
    .ok_or_else(|| overflow("integer"))
}

fn uints(operator: Operator, a: u64, b: u64) -> Result<u64, EvalError> {
    match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if b == 0 => return Err(EvalError::new("division by zero")),
        Operator::Modulo if b == 0 => return Err(EvalError::new("modulus by zero")),
        Operator::Divide => a.checked_div(b),
        Operator::Modulo => a.checked_rem(b),
    }
    .ok_or_else(|| overflow("unsigned integer"))
}

/// `one + other`.
pub(crate) fn add<'a>(one: &Val<'a>, other: &Val<'a>) -> Eval<'a> {
    match (one, other) {
        (Val::Int(a), Val::Int(b)) => ints(Operator::Add, *a, *b).map(Val::Int),
        (Val::Uint(a), Val::Uint(b)) => uints(Operator::Add, *a, *b).map(Val::Uint),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::String(a), Val::String(b)) => {
            let (a, b) = (a.as_str(), b.as_str());
            if a.len() + b.len() > SIZE_LIMIT {
                return Err(EvalError::memory());
            }
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Val::String(Text::Shared(text.into())))
        }
        (Val::Bytes(a), Val::Bytes(b)) if a.len() + b.len() > SIZE_LIMIT => Err(EvalError::memory()),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes(Arc::from([&a[..], &b[..]].concat()))),
        (Val::Duration(a), Val::Duration(b)) => ints(Operator::Add, *a, *b).map(Val::Duration),
        (Val::Duration(span), Val::Timestamp(time)) | (Val::Timestamp(time), Val::Duration(span)) => time.add(*span).map(Val::Timestamp),
        (Val::List(a), Val::List(b)) if a.len() + b.len() > crate::limits::ELEMENTS => Err(EvalError::memory()),
        (Val::List(a), Val::List(b)) => add_lists(a, b).map(Val::List),
        _ => Err(no_overload(Operator::Add, one)),
    }
}

fn subtract<'a>(one: &Val<'a>, other: &Val<'a>) -> Eval<'a> {
    match (one, other) {
        (Val::Duration(a), Val::Duration(b)) => ints(Operator::Subtract, *a, *b).map(Val::Duration),
        (Val::Timestamp(a), Val::Timestamp(b)) => a.since(b).map(Val::Duration),
        (Val::Timestamp(time), Val::Duration(span)) => {
            span.checked_neg().ok_or_else(|| overflow("integer")).and_then(|span| time.add(span)).map(Val::Timestamp)
        }
        _ => Err(no_overload(Operator::Subtract, one)),
    }
}

/// `-value`.
pub(crate) fn negate<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Int(number) => number.checked_neg().map(Val::Int).ok_or_else(|| overflow("integer")),
        Val::Duration(span) => span.checked_neg().map(Val::Duration).ok_or_else(|| overflow("integer")),
        Val::Double(number) => Ok(Val::Double(-number)),
        Val::Bool(_) => Err(EvalError::no_overload()),
        _ => Err(EvalError::new("no such overload: -_")),
    }
}
