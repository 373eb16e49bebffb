//! Evaluating a plan. Every step is charged as upstream charges it, so that the same evaluation comes to the same cost
//! (cel-go `interpreter/{interpretable,attributes,runtimecost}.go`).

use std::sync::Arc;

use coracle_tree::{Map as JsonMap, Value as Json};

use crate::charge::Charge;
use crate::cost::{LIST, MAP, MESSAGE};
use crate::decl::{Decl, Shape};
use crate::plan::{Body, Invocation, Loop, Op, Part, Path, Qualified, Qualifier};
use crate::program::{Activation, Lazy, Program};
use crate::value::{Key, List, Map, Object, Table, Val, compare};
use crate::{EvalError, arithmetic, equal, view};

type Eval<'a> = Result<Val<'a>, EvalError>;

/// One evaluation.
pub(crate) struct Evaluation<'a, 'e> {
    program: &'a Program,
    activation: &'e Activation<'a>,
    lazy: Option<Lazy<'a, 'e>>,
    /// The variables of folds.
    locals: Vec<Val<'a>>,
    cost: u64,
    limit: u64,
}

impl<'a, 'e> Evaluation<'a, 'e> {
    pub(crate) fn run(program: &'a Program, activation: &'e Activation<'a>, lazy: Option<Lazy<'a, 'e>>, limit: u64) -> (Eval<'a>, u64) {
        let locals = vec![Val::Null; program.planned().slots];
        let mut evaluation = Evaluation { program, activation, lazy, locals, cost: 0, limit };
        let result = evaluation.eval(&program.planned().root);
        (result, evaluation.cost)
    }

    #[inline]
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::cost()) } else { Ok(()) }
    }

    fn eval(&mut self, op: &'a Op) -> Eval<'a> {
        match op {
            Op::Const(value) => Ok(value.lent()),
            Op::Variable(_) | Op::Local(_) => {
                self.charge(1)?;
                self.base(op)
            }
            Op::Path(path) => {
                // A test costs what its steps cost, and so does what follows a choice.
                self.charge(u64::from(!path.test && !matches!(path.base, Op::Conditional(_))))?;
                self.path(path)
            }
            Op::Conditional(parts) => self.conditional(parts),
            Op::And(two) => self.logical(two, false),
            Op::Or(two) => self.logical(two, true),
            Op::Not(one) => self.not(one),
            Op::Negate(one) => {
                let value = self.eval(one);
                self.charge(1)?;
                arithmetic::negate(&value?)
            }
            Op::Equal(two) => self.equality(two, true),
            Op::Unequal(two) => self.equality(two, false),
            Op::Order(parts) => {
                let (relation, charge, two) = &**parts;
                let args = self.pair(*charge, two)?;
                order(&args[0], &args[1]).map(|ordering| Val::Bool(relation.holds(ordering)))
            }
            Op::Arithmetic(parts) => {
                let (operator, charge, two) = &**parts;
                let args = self.pair(*charge, two)?;
                arithmetic::apply(*operator, &args[0], &args[1])
            }
            Op::OneOf(parts) => {
                let value = self.eval(&parts.0)?;
                Ok(Val::Bool(Key::of(&value).is_some_and(|key| parts.1.contains(&key))))
            }
            Op::Else(parts) => self.fallback(parts.0, &parts.1),
            Op::Call(call) if call.args.len() <= 2 => self.call::<2>(call),
            Op::Call(call) => self.call::<4>(call),
            Op::List(items) => self.list(items),
            Op::Map(entries) => self.map(entries),
            Op::Message(parts) => self.message(&parts.0, &parts.1),
            Op::Fold(fold) => self.fold(fold),
        }
    }

    /// Both sides are evaluated, and the operator is paid for, even if one of them fails.
    #[inline]
    fn pair(&mut self, charge: Charge, two: &'a [Op; 2]) -> Result<[Val<'a>; 2], EvalError> {
        let one = self.eval(&two[0]);
        if one.as_ref().is_err_and(EvalError::is_cancelled) {
            return one.map(|one| [one, Val::Null]);
        }
        let other = self.eval(&two[1]);
        if other.as_ref().is_err_and(EvalError::is_cancelled) {
            return other.map(|other| [Val::Null, other]);
        }
        let (args, failed) = match (one, other) {
            (Ok(one), Ok(other)) => ([one, other], None),
            // An error counts as one.
            (Ok(one), Err(error)) => ([one, Val::Null], Some(error)),
            (Err(error), other) => ([Val::Null, other.unwrap_or(Val::Null)], Some(error)),
        };
        self.charge(charge.before(&args).unwrap_or(1))?;
        failed.map_or(Ok(args), Err)
    }

    /// What a selection or a branch begins with: naming it costs nothing there.
    fn base(&mut self, op: &'a Op) -> Eval<'a> {
        match op {
            Op::Variable(place) => {
                let (name, decl) = self.program.variable(*place);
                match self.activation.get(*place, decl) {
                    Some(value) => value,
                    None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
                }
            }
            Op::Local(slot) => Ok(self.locals[*slot].clone()),
            Op::Path(path) => self.path(path),
            _ => self.eval(op),
        }
    }

    fn not(&mut self, one: &'a Op) -> Eval<'a> {
        let value = self.eval(one);
        self.charge(1)?;
        match value? {
            Val::Bool(value) => Ok(Val::Bool(!value)),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn conditional(&mut self, [condition, yes, no]: &'a [Op; 3]) -> Eval<'a> {
        match self.eval(condition)? {
            Val::Bool(true) => self.base(yes),
            Val::Bool(false) => self.base(no),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// `&&` and `||`: the side that decides alone decides, even if the other is an error.
    fn logical(&mut self, two: &'a [Op; 2], decides: bool) -> Eval<'a> {
        let mut failed = None;
        for op in two {
            match self.eval(op) {
                Ok(Val::Bool(value)) if value == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Err(error) if error.is_cancelled() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
                Ok(_) => failed = failed.or_else(|| Some(EvalError::no_overload())),
            }
        }
        failed.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn equality(&mut self, two: &'a [Op; 2], wanted: bool) -> Eval<'a> {
        let [one, other] = self.pair(if wanted { Charge::Equal } else { Charge::Compare }, two)?;
        match equal::equal(&one, &other) {
            Ok(same) => Ok(Val::Bool(same == wanted)),
            // What cannot be compared is not equal.
            Err(error) if wanted || error.is_cancelled() => Err(error),
            Err(_) => Ok(Val::Bool(true)),
        }
    }

    fn fallback(&mut self, unwrap: bool, [one, other]: &'a [Op; 2]) -> Eval<'a> {
        match self.eval(one)? {
            Val::Optional(None) => self.eval(other),
            Val::Optional(Some(value)) if unwrap => Ok((*value).clone()),
            value @ Val::Optional(Some(_)) => Ok(value),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// Calls a function of up to `N` arguments.
    fn call<const N: usize>(&mut self, call: &'a Invocation) -> Eval<'a> {
        let mut args: [Val<'a>; N] = [const { Val::Null }; N];
        let Some(args) = args.get_mut(..call.args.len()) else { return Err(EvalError::no_overload()) };
        let mut failed = None;
        for (slot, op) in args.iter_mut().zip(&call.args) {
            match self.eval(op) {
                Ok(value) => *slot = value,
                Err(error) if error.is_cancelled() || call.args.len() > 2 => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let args = &*args;
        self.charge(call.charge.before(args).unwrap_or(0))?;
        if let Some(error) = failed {
            return Err(error);
        }
        let result = match call.overloads.iter().find(|overload| overload.fits(args)).and_then(|overload| overload.run) {
            Some(run) => run(args)?,
            None => return Err(unfit(call.function, args)),
        };
        self.charge(call.charge.after(&result))?;
        Ok(result)
    }

    fn list(&mut self, items: &'a [(Op, bool)]) -> Eval<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (op, optional) in items {
            match (self.eval(op)?, optional) {
                (Val::Optional(value), true) => values.extend(value.map(|value| (*value).clone())),
                (value, true) => {
                    return Err(EvalError::new(format!("cannot initialize optional list element from non-optional value {value}")));
                }
                (value, false) => values.push(value),
            }
        }
        self.charge(LIST)?;
        Ok(Val::from(values))
    }

    fn map(&mut self, entries: &'a [(Op, Op, bool)]) -> Eval<'a> {
        let mut table = Table::default();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            match (self.eval(value)?, optional) {
                (Val::Optional(None), true) => table.remove(&key),
                (Val::Optional(Some(value)), true) => table.set(key, (*value).clone()),
                (value, true) => {
                    return Err(EvalError::new(format!("cannot initialize optional entry '{key}' from non-optional value {value}")));
                }
                (value, false) => table.set(key, value),
            }
        }
        self.charge(MAP)?;
        Ok(Val::from(table))
    }

    fn message(&mut self, name: &'a str, planned: &'a [Part]) -> Eval<'a> {
        let mut fields: Vec<(&'a str, Val<'a>)> = Vec::with_capacity(planned.len());
        for (field, op, optional) in planned {
            let value = match (self.eval(op)?, optional) {
                (Val::Optional(None), true) => None,
                (Val::Optional(Some(value)), true) => Some((*value).clone()),
                (value, true) => {
                    return Err(EvalError::new(format!("cannot initialize optional entry '{field}' from non-optional value {value}")));
                }
                (value, false) => Some(value),
            };
            fields.retain(|(known, _)| *known != &**field);
            fields.extend(value.map(|value| (&**field, value)));
        }
        self.charge(MESSAGE)?;
        Ok(Val::Object(Arc::new(Object { name, fields })))
    }

    fn path(&mut self, path: &'a Path) -> Eval<'a> {
        let Some((last, before)) = path.steps.split_last() else { return self.base(&path.base) };
        if let (Op::Conditional(parts), false) = (&path.base, path.test) {
            return self.chosen(parts, &path.steps);
        }
        if let Some((members, decl)) = self.untyped(&path.base) {
            return self.walk(path, members, decl);
        }
        let (value, steps) = match self.lazily(&path.base, &path.steps) {
            Some(value) if path.steps.len() == 1 => return if path.test { Ok(Val::Bool(value.is_ok())) } else { self.charged(value) },
            Some(value) => (self.charged(value)?, &path.steps[1..]),
            None => (self.operand(&path.base)?, &path.steps[..]),
        };
        self.follow(path, value, &before[before.len() + 1 - steps.len()..], last)
    }

    /// The untyped object that a path begins with.
    #[inline]
    fn untyped(&self, base: &Op) -> Option<(&'a JsonMap, &'a Decl)> {
        match base {
            Op::Variable(place) if self.lazy.is_none_or(|(lazy, _)| lazy != *place) => {
                let (_, decl) = self.program.variable(*place);
                self.activation.untyped(*place, decl)
            }
            Op::Local(slot) => match &self.locals[*slot] {
                Val::Map(Map::Json(members, decl)) if matches!(decl.shape(), Shape::Dyn) => Some((*members, *decl)),
                _ => None,
            },
            _ => None,
        }
    }

    /// A path into untyped data: as long as members are selected by name, no value is made of what it passes.
    fn walk(&mut self, path: &'a Path, mut members: &'a JsonMap, decl: &'a Decl) -> Eval<'a> {
        let mut steps = &path.steps[..];
        while let [step, rest @ ..] = steps {
            let (Qualified::Const(Val::String(name)), false) = (&step.key, step.optional) else { break };
            self.charge(1)?;
            let found = members.get(name.as_str());
            if rest.is_empty() && path.test {
                return Ok(Val::Bool(found.is_some()));
            }
            let Some(found) = found else { return Err(EvalError::new(format!("no such key: {}", name.as_str()))) };
            match (rest, found) {
                ([], found) => return Ok(view::dynamic(found, decl)),
                (_, Json::Object(inner)) => members = inner,
                ([before @ .., last], found) => return self.follow(path, view::dynamic(found, decl), before, last),
            }
            steps = rest;
        }
        match steps {
            [before @ .., last] => self.follow(path, Val::Map(Map::Json(members, decl)), before, last),
            [] => Ok(Val::Map(Map::Json(members, decl))),
        }
    }

    /// What the steps of a path select of a value.
    fn follow(&mut self, path: &'a Path, mut value: Val<'a>, before: &'a [Qualifier], last: &'a Qualifier) -> Eval<'a> {
        let mut optional = false;
        if let Val::Optional(inner) = &value {
            let Some(inner) = inner else { return Ok(if path.test { Val::Bool(false) } else { value }) };
            optional = true;
            value = (**inner).clone();
        }
        for step in before {
            optional |= step.optional;
            match self.step(&value, step, optional)? {
                Some(next) => value = next,
                None => return Ok(if path.test { Val::Bool(false) } else { Val::Optional(None) }),
            }
        }
        optional |= last.optional;
        if path.test {
            self.charge(1)?;
            return self.find(&value, &last.key).map(|found| Val::Bool(found.is_some()));
        }
        Ok(match self.step(&value, last, optional)? {
            Some(value) if optional => Val::some(value),
            Some(value) => value,
            None => Val::Optional(None),
        })
    }

    fn charged(&mut self, value: Eval<'a>) -> Eval<'a> {
        self.charge(1)?;
        value
    }

    /// A field of the variable whose fields are computed when asked for.
    fn lazily(&self, base: &Op, steps: &'a [Qualifier]) -> Option<Eval<'a>> {
        let (Op::Variable(place), Some(first)) = (base, steps.first()) else { return None };
        let (Qualified::Const(Val::String(name)) | Qualified::Field(_, _, _, Val::String(name))) = &first.key else { return None };
        let (_, fields) = self.lazy.filter(|(lazy, _)| lazy == place)?;
        let found = fields.field(name.as_str());
        Some(found.unwrap_or_else(|| Err(EvalError::new(format!("no such key: {}", name.as_str())))))
    }

    /// Variables are named for nothing where something of them is selected; all else costs what it costs.
    fn operand(&mut self, base: &'a Op) -> Eval<'a> {
        match base {
            Op::Variable(_) | Op::Local(_) => self.base(base),
            _ => self.eval(base),
        }
    }

    /// What follows a choice is selected from the branch that is chosen.
    fn chosen(&mut self, [condition, yes, no]: &'a [Op; 3], steps: &'a [Qualifier]) -> Eval<'a> {
        let branch = match self.eval(condition)? {
            Val::Bool(true) => yes,
            Val::Bool(false) => no,
            _ => return Err(EvalError::no_overload()),
        };
        let mut value = self.base(branch)?;
        let mut optional = false;
        for step in steps {
            if let Val::Optional(inner) = &value {
                let Some(inner) = inner else { return Ok(Val::Optional(None)) };
                optional = true;
                value = (**inner).clone();
            }
            optional |= step.optional;
            match self.step(&value, step, optional)? {
                Some(next) => value = next,
                None => return Ok(Val::Optional(None)),
            }
        }
        Ok(if optional { Val::some(value) } else { value })
    }

    /// One selection. What is missing is an error, or nothing if what is selected is optional.
    fn step(&mut self, value: &Val<'a>, step: &'a Qualifier, optional: bool) -> Result<Option<Val<'a>>, EvalError> {
        let computed;
        let (found, key) = match &step.key {
            Qualified::Computed(op) => {
                computed = self.base(op)?;
                (select(value, &computed)?, &computed)
            }
            known @ (Qualified::Const(key) | Qualified::Field(_, _, _, key)) => (self.find(value, known)?, key),
        };
        self.found(found, value, key, optional)
    }

    fn found(&mut self, found: Option<Val<'a>>, value: &Val<'a>, key: &Val<'_>, optional: bool) -> Result<Option<Val<'a>>, EvalError> {
        if found.is_some() || !optional {
            self.charge(1)?;
        }
        match found {
            None if !optional => Err(missing(value, key)),
            found => Ok(found),
        }
    }

    fn find(&mut self, value: &Val<'a>, key: &'a Qualified) -> Result<Option<Val<'a>>, EvalError> {
        match (key, value) {
            (Qualified::Field(object, name, decl, _), Val::Map(Map::Object(map, of))) if std::ptr::eq(&**object, *of) => {
                match map.get(name) {
                    None | Some(coracle_tree::Value::Null) => Ok(None),
                    Some(json) => view::value(json, decl).map(Some),
                }
            }
            (Qualified::Field(_, _, _, identifier) | Qualified::Const(identifier), _) => select(value, identifier),
            (Qualified::Computed(op), _) => {
                let key = self.base(op)?;
                select(value, &key)
            }
        }
    }

    fn fold(&mut self, fold: &'a Loop) -> Eval<'a> {
        if let Body::Bind { body, used } = &fold.body {
            if *used {
                self.locals[fold.slot] = self.eval(&fold.range)?;
            }
            return self.eval(body);
        }
        let range = self.eval(&fold.range)?;
        match range {
            Val::List(list) => {
                let pairs = fold.pairs;
                let items = (0..list.len()).map(|at| {
                    let item = list.get(at).unwrap_or(Ok(Val::Null))?;
                    Ok(if pairs { (Val::Int(i64::try_from(at).unwrap_or(i64::MAX)), Some(item)) } else { (item, None) })
                });
                self.steps(fold, items)
            }
            Val::Map(map) => {
                let pairs = fold.pairs;
                let items = map.keys().map(|key| {
                    let value = if pairs { map.find(&key).transpose()? } else { None };
                    Ok((key, value))
                });
                self.steps(fold, items)
            }
            _ => Err(EvalError::new(format!("got '{}', expected iterable type", kind(&range)))),
        }
    }

    fn steps(&mut self, fold: &'a Loop, items: impl Iterator<Item = Result<(Val<'a>, Option<Val<'a>>), EvalError>>) -> Eval<'a> {
        match &fold.body {
            Body::All(predicate) => self.quantify(fold, items, predicate, false),
            Body::Exists(predicate) => self.quantify(fold, items, predicate, true),
            Body::ExistsOne(predicate) => {
                let mut count = 0_i64;
                for item in items {
                    self.bind(fold, item?);
                    if self.accepts(Some(predicate))? {
                        self.charge(2)?;
                        count += 1;
                    }
                }
                self.charge(2)?;
                Ok(Val::Bool(count == 1))
            }
            Body::Append { filter, item: op, made } => {
                let mut out = Vec::new();
                for item in items {
                    self.bind(fold, item?);
                    if self.accepts(filter.as_ref())? {
                        out.push(self.eval(op)?);
                        self.charge(if *made { LIST + 2 } else { 2 })?;
                    }
                }
                self.charge(1)?;
                Ok(Val::List(List::Shared(Arc::new(out))))
            }
            Body::Insert { filter, value } => {
                let mut table = Table::default();
                for item in items {
                    self.bind(fold, item?);
                    if self.accepts(filter.as_ref())? {
                        let value = self.eval(value)?;
                        self.charge(3)?;
                        table.insert(self.locals[fold.slot].clone(), value)?;
                    }
                }
                self.charge(1)?;
                Ok(Val::from(table))
            }
            Body::InsertEntry { filter, entry } => {
                let mut table = Table::default();
                for item in items {
                    self.bind(fold, item?);
                    if self.accepts(filter.as_ref())? {
                        let Val::Map(entry) = self.eval(entry)? else { return Err(EvalError::no_overload()) };
                        self.charge(2)?;
                        for key in entry.keys() {
                            if let Some(value) = entry.find(&key) {
                                table.insert(key, value?)?;
                            }
                        }
                    }
                }
                self.charge(1)?;
                Ok(Val::from(table))
            }
            Body::Bind { body, .. } => self.eval(body),
        }
    }

    #[inline]
    fn bind(&mut self, fold: &Loop, (first, second): (Val<'a>, Option<Val<'a>>)) {
        self.locals[fold.slot] = first;
        if let (true, Some(second)) = (fold.pairs, second) {
            self.locals[fold.slot + 1] = second;
        }
    }

    fn accepts(&mut self, filter: Option<&'a Op>) -> Result<bool, EvalError> {
        match filter.map(|filter| self.eval(filter)).transpose()? {
            None => Ok(true),
            Some(Val::Bool(value)) => Ok(value),
            Some(_) => Err(EvalError::no_overload()),
        }
    }

    /// `all` and `exists`, as chains of `&&` and `||`: the first element that decides ends them, errors are kept until one does.
    fn quantify(
        &mut self,
        fold: &'a Loop,
        items: impl Iterator<Item = Result<(Val<'a>, Option<Val<'a>>), EvalError>>,
        predicate: &'a Op,
        decides: bool,
    ) -> Eval<'a> {
        // The condition of the loop and the name of what was found so far.
        let each = if decides { 3 } else { 2 };
        let mut failed = None;
        let mut decided = false;
        for item in items {
            self.charge(each)?;
            if decided {
                break;
            }
            let outcome = match item {
                Ok(item) => {
                    self.bind(fold, item);
                    self.charge(1)?;
                    self.eval(predicate)
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Val::Bool(value)) => decided = value == decides,
                Err(error) if error.is_cancelled() => return Err(error),
                Err(error) => failed = failed.or(Some(error)),
                Ok(_) => failed = failed.or_else(|| Some(EvalError::no_overload())),
            }
        }
        self.charge(1)?;
        match failed {
            Some(error) if !decided => Err(error),
            _ => Ok(Val::Bool(decided == decides)),
        }
    }
}

/// What a key or index finds; `None` if there is nothing.
fn select<'a>(value: &Val<'a>, key: &Val<'a>) -> Result<Option<Val<'a>>, EvalError> {
    match value {
        Val::Map(map) => map.find(key).transpose(),
        Val::List(list) => {
            let index = index(key)?;
            usize::try_from(index).ok().and_then(|at| list.get(at)).transpose()
        }
        Val::Object(object) => {
            let name = key.as_str().unwrap_or_default();
            Ok(object.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()))
        }
        _ => Ok(None),
    }
}

#[allow(clippy::cast_possible_truncation)]
fn index(key: &Val<'_>) -> Result<i64, EvalError> {
    match key {
        Val::Int(index) => Ok(*index),
        Val::Uint(index) => i64::try_from(*index).map_err(|_| EvalError::new(format!("unsupported index value {key} in list"))),
        Val::Double(index) if index.fract() == 0.0 && index.abs() < 9e15 => Ok(*index as i64),
        Val::Double(_) => Err(EvalError::new(format!("unsupported index value {key} in list"))),
        _ => Err(EvalError::new(format!("unsupported index type '{}' in list", key.ty().name()))),
    }
}

fn missing(value: &Val<'_>, key: &Val<'_>) -> EvalError {
    EvalError::new(if matches!(value, Val::List(_)) { format!("index out of bounds: {key}") } else { format!("no such key: {key}") })
}

fn order(one: &Val<'_>, other: &Val<'_>) -> Result<std::cmp::Ordering, EvalError> {
    compare(one, other).ok_or_else(|| match (one, other) {
        (Val::Double(a), Val::Double(_) | Val::Int(_) | Val::Uint(_)) if a.is_nan() => EvalError::new("NaN values cannot be ordered"),
        (_, Val::Double(b)) if b.is_nan() => EvalError::new("NaN values cannot be ordered"),
        _ => EvalError::no_overload(),
    })
}

/// The name of a kind of values as upstream's implementation has it.
fn kind(value: &Val<'_>) -> &'static str {
    match value {
        Val::Null => "types.Null",
        Val::Bool(_) => "types.Bool",
        Val::Int(_) => "types.Int",
        Val::Uint(_) => "types.Uint",
        Val::Double(_) => "types.Double",
        Val::String(_) => "types.String",
        Val::Bytes(_) => "types.Bytes",
        Val::Duration(_) => "types.Duration",
        Val::Timestamp(_) => "types.Timestamp",
        Val::Optional(_) => "*types.Optional",
        _ => "ref.Val",
    }
}

/// The message for arguments that no overload takes.
fn unfit(function: &str, args: &[Val<'_>]) -> EvalError {
    if matches!(function, "contains" | "startsWith" | "endsWith") {
        return EvalError::no_overload();
    }
    let kinds: Vec<String> = args.iter().map(|arg| arg.ty().name().to_string()).collect();
    EvalError::new(format!("no such overload: {function}({})", kinds.join(", ")))
}
