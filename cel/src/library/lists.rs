//! Functions of lists (apiserver `pkg/cel/library/lists.go`, cel-go `ext/{lists,sets}.go` and optional types).

use std::cmp::Ordering;
use std::sync::Arc;

use crate::equal::{contains, equal};
use crate::value::{List, Val, compare};
use crate::{EvalError, arithmetic};

type Eval<'a> = Result<Val<'a>, EvalError>;

/// The longest list of numbers.
const RANGE_LIMIT: i64 = 1_000_000;

fn list<'v, 'a>(value: &'v Val<'a>) -> Result<&'v List<'a>, EvalError> {
    match value {
        Val::List(list) => Ok(list),
        _ => Err(EvalError::no_overload()),
    }
}

/// Compares; values that cannot be ordered have no such overload.
fn ordered(one: &Val<'_>, other: &Val<'_>) -> Result<Ordering, EvalError> {
    compare(one, other).ok_or_else(EvalError::no_overload)
}

pub(super) fn is_sorted<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let mut previous: Option<Val<'a>> = None;
    for item in list(&args[0])?.iter() {
        let item = item?;
        if let Some(previous) = &previous
            && compare(previous, &item) == Some(Ordering::Greater)
        {
            return Ok(Val::Bool(false));
        }
        previous = Some(item);
    }
    Ok(Val::Bool(true))
}

/// Adds all, to `zero`.
fn sum<'a>(args: &[Val<'a>], zero: Val<'a>) -> Eval<'a> {
    list(&args[0])?.iter().try_fold(zero, |sum, item| arithmetic::add(&sum, &item?))
}

pub(super) fn sum_int<'a>(args: &[Val<'a>]) -> Eval<'a> {
    sum(args, Val::Int(0))
}

pub(super) fn sum_uint<'a>(args: &[Val<'a>]) -> Eval<'a> {
    sum(args, Val::Uint(0))
}

pub(super) fn sum_double<'a>(args: &[Val<'a>]) -> Eval<'a> {
    sum(args, Val::Double(0.0))
}

pub(super) fn sum_duration<'a>(args: &[Val<'a>]) -> Eval<'a> {
    sum(args, Val::Duration(0))
}

fn extreme<'a>(args: &[Val<'a>], name: &str, replaced_when: Ordering) -> Eval<'a> {
    let mut best: Option<Val<'a>> = None;
    for item in list(&args[0])?.iter() {
        let item = item?;
        match &best {
            Some(known) if compare(known, &item) != Some(replaced_when) => {}
            _ => best = Some(item),
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

pub(super) fn max<'a>(args: &[Val<'a>]) -> Eval<'a> {
    extreme(args, "max", Ordering::Less)
}

pub(super) fn min<'a>(args: &[Val<'a>]) -> Eval<'a> {
    extreme(args, "min", Ordering::Greater)
}

pub(super) fn index_of<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let items = list(&args[0])?;
    for (at, item) in items.iter().enumerate() {
        if equal(&item?, &args[1]) == Ok(true) {
            return Ok(Val::Int(i64::try_from(at).unwrap_or(i64::MAX)));
        }
    }
    Ok(Val::Int(-1))
}

pub(super) fn last_index_of<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let items = list(&args[0])?;
    for at in (0..items.len()).rev() {
        if let Some(item) = items.get(at)
            && equal(&item?, &args[1]) == Ok(true)
        {
            return Ok(Val::Int(i64::try_from(at).unwrap_or(i64::MAX)));
        }
    }
    Ok(Val::Int(-1))
}

pub(super) fn includes<'a>(args: &[Val<'a>]) -> Eval<'a> {
    match &args[0] {
        Val::List(items) => contains(items.iter(), &args[1]).map(Val::Bool),
        one => Ok(Val::Bool(equal(one, &args[1]) == Ok(true))),
    }
}

fn int(value: &Val<'_>) -> Result<i64, EvalError> {
    match value {
        Val::Int(number) => Ok(*number),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn slice<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (items, start, end) = (list(&args[0])?, int(&args[1])?, int(&args[2])?);
    let refused = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(first), Ok(last)) = (usize::try_from(start), usize::try_from(end)) else {
        return refused("negative indexes not supported".into());
    };
    if first > last {
        return refused("start index must be less than or equal to end index".into());
    }
    if items.len() < last {
        return refused(format!("list is length {}", items.len()));
    }
    (first..last).filter_map(|at| items.get(at)).collect::<Result<Vec<_>, _>>().map(Val::from)
}

pub(super) fn flatten<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let depth = args.get(1).map_or(Ok(1), int)?;
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(list(&args[0])?, depth, &mut out)?;
    Ok(Val::from(out))
}

fn flatten_into<'a>(items: &List<'a>, depth: i64, out: &mut Vec<Val<'a>>) -> Result<(), EvalError> {
    for item in items.iter() {
        match item? {
            Val::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            item => out.push(item),
        }
        if out.len() > crate::limits::ELEMENTS {
            return Err(EvalError::memory());
        }
    }
    Ok(())
}

pub(super) fn sort<'a>(args: &[Val<'a>]) -> Eval<'a> {
    sort_by_keys(&[args[0].clone(), args[0].clone()])
}

pub(super) fn sort_by_keys<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (items, keys) = (list(&args[0])?, list(&args[1])?);
    if items.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            items.len(),
            keys.len()
        )));
    }
    let keys: Vec<Val<'a>> = keys.iter().collect::<Result<_, _>>()?;
    if let Some(first) = keys.first() {
        if compare(first, first).is_none() {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if keys.iter().any(|key| key.ty().name() != first.ty().name()) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|a, b| ordered(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    order.into_iter().filter_map(|at| items.get(at)).collect::<Result<Vec<_>, _>>().map(Val::from)
}

pub(super) fn range<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let size = int(&args[0])?;
    let count = usize::try_from(size).map_err(|_| EvalError::new(format!("lists.range: size must be non-negative, got {size}")))?;
    if size > RANGE_LIMIT {
        return Err(EvalError::new(format!("lists.range: size {size} exceeds maximum allowed ({RANGE_LIMIT})")));
    }
    let mut numbers = Vec::with_capacity(count);
    numbers.extend((0..size).map(Val::Int));
    Ok(Val::from(numbers))
}

pub(super) fn reverse<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let items = list(&args[0])?;
    (0..items.len()).rev().filter_map(|at| items.get(at)).collect::<Result<Vec<_>, _>>().map(Val::from)
}

pub(super) fn distinct<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let mut unique: Vec<Val<'a>> = Vec::new();
    for item in list(&args[0])?.iter() {
        let item = item?;
        if !unique.iter().any(|known| equal(&item, known) == Ok(true)) {
            unique.push(item);
        }
    }
    Ok(Val::from(unique))
}

pub(super) fn first<'a>(args: &[Val<'a>]) -> Eval<'a> {
    list(&args[0])?.get(0).transpose().map(|item| Val::Optional(item.map(Arc::new)))
}

pub(super) fn last<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let items = list(&args[0])?;
    let last = items.len().checked_sub(1).and_then(|at| items.get(at));
    last.transpose().map(|item| Val::Optional(item.map(Arc::new)))
}

pub(super) fn unwrap_optionals<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let mut out = Vec::new();
    for item in list(&args[0])?.iter() {
        match item? {
            Val::Optional(Some(value)) => out.push((*value).clone()),
            Val::Optional(None) => {}
            other => return Err(EvalError::new(format!("value {other} is not optional"))),
        }
    }
    Ok(Val::from(out))
}

fn contains_all<'a>(all: &List<'a>, some: &List<'a>) -> Result<bool, EvalError> {
    for item in some.iter() {
        if !contains(all.iter(), &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn sets_contains<'a>(args: &[Val<'a>]) -> Eval<'a> {
    contains_all(list(&args[0])?, list(&args[1])?).map(Val::Bool)
}

pub(super) fn sets_equivalent<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (one, other) = (list(&args[0])?, list(&args[1])?);
    Ok(Val::Bool(contains_all(one, other)? && contains_all(other, one)?))
}

pub(super) fn sets_intersects<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let (one, other) = (list(&args[0])?, list(&args[1])?);
    for item in one.iter() {
        if contains(other.iter(), &item?)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}

/// Whether a list has an element or a map a key.
pub(super) fn member<'a>(args: &[Val<'a>]) -> Eval<'a> {
    match &args[1] {
        Val::List(items) => contains(items.iter(), &args[0]).map(Val::Bool),
        Val::Map(map) => match map.find(&args[0]) {
            None => Ok(Val::Bool(false)),
            Some(Ok(_)) => Ok(Val::Bool(true)),
            Some(Err(error)) => Err(error),
        },
        _ => Err(EvalError::no_overload()),
    }
}
