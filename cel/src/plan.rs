//! A checked tree made ready to be evaluated: variables have places, fields are resolved, constants are computed
//! (cel-go `interpreter/planner.go`).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use crate::EvalError;
use crate::arithmetic::Operator;
use crate::ast::{Call, Expr, Fold, Literal, Node, Select, Step};
use crate::charge::Charge;
use crate::checker::{Called, Checked, Meaning};
use crate::decl::{Decl, ObjectType};
use crate::env::Env;
use crate::library::Overload;
use crate::pattern;
use crate::types::Type;
use crate::value::{Key, Table, Text, Val};

/// What is evaluated.
pub(crate) enum Op {
    Const(Val<'static>),
    Variable(usize),
    Local(usize),
    Path(Box<Path>),
    Conditional(Box<[Op; 3]>),
    And(Box<[Op; 2]>),
    Or(Box<[Op; 2]>),
    Not(Box<Op>),
    Negate(Box<Op>),
    Equal(Box<[Op; 2]>),
    Unequal(Box<[Op; 2]>),
    Order(Box<(Relation, Charge, [Op; 2])>),
    Arithmetic(Box<(Operator, Charge, [Op; 2])>),
    /// Whether a value is one of some constants.
    OneOf(Box<(Op, HashSet<Key<'static>>)>),
    /// `or` and `orValue` of optionals: the second is the fall-back; `true` if the value is unwrapped.
    Else(Box<(bool, [Op; 2])>),
    Call(Box<Invocation>),
    List(Vec<(Op, bool)>),
    Map(Vec<(Op, Op, bool)>),
    Message(Box<(Arc<str>, Vec<Part>)>),
    Fold(Box<Loop>),
}

/// A field of a constructed object: its name, its value, and whether it is left out when the value is none.
pub(crate) type Part = (Box<str>, Op, bool);

/// An ordering that an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Relation {
    pub(crate) fn holds(self, ordering: Ordering) -> bool {
        match self {
            Relation::Less => ordering.is_lt(),
            Relation::LessEqual => ordering.is_le(),
            Relation::Greater => ordering.is_gt(),
            Relation::GreaterEqual => ordering.is_ge(),
        }
    }
}

/// The call of a function.
pub(crate) struct Invocation {
    pub(crate) function: &'static str,
    pub(crate) overloads: Vec<&'static Overload>,
    pub(crate) charge: Charge,
    pub(crate) args: Vec<Op>,
}

/// Selections and indexing that follow one another.
pub(crate) struct Path {
    pub(crate) base: Op,
    pub(crate) steps: Vec<Qualifier>,
    /// `has()`: whether the last step finds something.
    pub(crate) test: bool,
}

/// One selection or index.
pub(crate) struct Qualifier {
    pub(crate) key: Qualified,
    pub(crate) optional: bool,
}

/// What is selected.
pub(crate) enum Qualified {
    /// A field of a known type: the type, the name in JSON, what it holds; the identifier.
    Field(Arc<ObjectType>, Arc<str>, Decl, Val<'static>),
    Const(Val<'static>),
    Computed(Op),
}

/// A fold.
pub(crate) struct Loop {
    pub(crate) range: Op,
    /// Where the first variable lives; the second lives behind it.
    pub(crate) slot: usize,
    pub(crate) pairs: bool,
    pub(crate) body: Body,
}

/// What a fold does.
pub(crate) enum Body {
    All(Op),
    Exists(Op),
    ExistsOne(Op),
    /// Whether making a list of one item costs something: it does not if the item is constant.
    Append {
        filter: Option<Op>,
        item: Op,
        made: bool,
    },
    Insert {
        filter: Option<Op>,
        value: Op,
    },
    InsertEntry {
        filter: Option<Op>,
        entry: Op,
    },
    /// Whether the body looks at the variable at all.
    Bind {
        body: Op,
        used: bool,
    },
}

/// The whole of a plan.
pub(crate) struct Planned {
    pub(crate) root: Op,
    /// How many places the variables of folds need.
    pub(crate) slots: usize,
    /// By place, the variables that are used.
    pub(crate) used: Vec<bool>,
}

/// Plans `root`. Constants that cannot be computed are errors.
pub(crate) fn plan(env: &Env, root: &Expr, checked: &Checked) -> Result<Planned, EvalError> {
    let mut planner = Planner { checked, scopes: Vec::new(), slots: 0, used: vec![false; env.variables().len()] };
    let root = planner.plan(root)?;
    Ok(Planned { root, slots: planner.slots, used: planner.used })
}

struct Planner<'p> {
    checked: &'p Checked,
    scopes: Vec<String>,
    slots: usize,
    used: Vec<bool>,
}

type Plan = Result<Op, EvalError>;

impl Planner<'_> {
    fn plan(&mut self, expr: &Expr) -> Plan {
        match self.checked.meaning(expr) {
            Meaning::Variable(place) => {
                self.used[*place] = true;
                return Ok(Op::Variable(*place));
            }
            Meaning::Type(ty) => return Ok(Op::Const(Val::Type(Arc::new(ty.clone())))),
            Meaning::Plain | Meaning::Call(..) => {}
        }
        match &expr.node {
            Node::Missing => Err(EvalError::new("syntax error")),
            Node::Literal(literal) => Ok(Op::Const(constant(literal))),
            Node::Ident(name) => match self.scopes.iter().rposition(|known| known == name) {
                Some(slot) => Ok(Op::Local(slot)),
                None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
            },
            Node::Select(select) => self.select(select),
            Node::Call(call) => self.call(expr, call),
            Node::List(elements) => {
                let items: Vec<(Op, bool)> =
                    elements.iter().map(|element| Ok((self.plan(&element.value)?, element.optional))).collect::<Result<_, EvalError>>()?;
                let constants: Option<Vec<Val<'static>>> = items.iter().map(|(op, optional)| op.constant().filter(|_| !optional)).collect();
                Ok(constants.map_or_else(|| Op::List(items), |constants| Op::Const(Val::from(constants))))
            }
            Node::Map(entries) => {
                let mut planned = Vec::with_capacity(entries.len());
                for entry in entries {
                    planned.push((self.plan(&entry.key)?, self.plan(&entry.value)?, entry.optional));
                }
                let constants: Option<Table<'static>> =
                    planned.iter().map(|(key, value, optional)| Some((key.constant()?, value.constant().filter(|_| !optional)?))).collect();
                Ok(constants.map_or_else(|| Op::Map(planned), |constants| Op::Const(Val::from(constants))))
            }
            Node::Struct(message) => {
                let fields = message.fields.iter();
                let fields = fields.map(|field| Ok((field.name.as_str().into(), self.plan(&field.value)?, field.optional)));
                let name: Arc<str> = message.name.trim_start_matches('.').into();
                Ok(Op::Message(Box::new((name, fields.collect::<Result<_, EvalError>>()?))))
            }
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn select(&mut self, select: &Select) -> Plan {
        let operand = self.plan(&select.operand)?;
        let step = Qualifier { key: self.field(&select.operand, &select.field), optional: false };
        if !select.test {
            return Ok(operand.qualified(step));
        }
        Ok(match operand {
            Op::Path(mut path) if !path.test => {
                path.steps.push(step);
                path.test = true;
                Op::Path(path)
            }
            base => Op::Path(Box::new(Path { base, steps: vec![step], test: true })),
        })
    }

    /// A field, resolved if the type of what has it is known.
    fn field(&self, operand: &Expr, field: &str) -> Qualified {
        let ty = self.checked.ty(operand);
        let identifier = Val::String(Text::Shared(field.into()));
        match ty.optional_of().unwrap_or(ty) {
            Type::Object(object) => match object.field(field).filter(|property| !property.name.is_empty()) {
                Some(property) => Qualified::Field(object.clone(), property.name.clone(), property.decl.clone(), identifier),
                None => Qualified::Const(identifier),
            },
            _ => Qualified::Const(identifier),
        }
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Plan {
        let Meaning::Call(name, overloads, called) = self.checked.meaning(expr).clone() else {
            return Err(EvalError::new(format!("no such overload: {}", call.function)));
        };
        if name == "_?._" {
            return self.optional_select(call);
        }
        let target = if called == Called::Method { call.target.as_ref() } else { None };
        let mut args: Vec<Op> = target.into_iter().chain(&call.args).map(|arg| self.plan(arg)).collect::<Result<_, _>>()?;
        if let ("matches" | "find" | "findAll", Some(Op::Const(Val::String(expression)))) = (name, args.get(1)) {
            pattern::check(expression.as_str()).map_err(|error| EvalError::new(error.into_string()))?;
        }
        let charge = Charge::of(name, &overloads);
        if matches!(name, "_[_]" | "_[?_]") {
            let (Some(index), Some(operand)) = (args.pop(), args.pop()) else { return Err(EvalError::no_overload()) };
            let key = match index {
                Op::Const(value) => Qualified::Const(value),
                index => Qualified::Computed(index),
            };
            return Ok(operand.qualified(Qualifier { key, optional: name == "_[?_]" }));
        }
        let args = match <[Op; 3]>::try_from(args) {
            Ok(three) if name == "_?_:_" => return Ok(Op::Conditional(Box::new(three))),
            Ok(three) => three.into(),
            Err(args) => args,
        };
        let args = match <[Op; 2]>::try_from(args) {
            Ok(two) => match binary(name, charge, two) {
                Ok(op) => return Ok(op),
                Err(two) => two.into(),
            },
            Err(args) => args,
        };
        match (name, <[Op; 1]>::try_from(args)) {
            ("!_", Ok([one])) => Ok(Op::Not(Box::new(one))),
            ("-_", Ok([one])) => Ok(Op::Negate(Box::new(one))),
            (_, Ok([Op::Const(value)])) if is_conversion(name) => convert(name, &overloads, &value),
            (_, Ok(one)) => Ok(Op::Call(Box::new(Invocation { function: name, overloads, charge, args: one.into() }))),
            (_, Err(args)) => Ok(Op::Call(Box::new(Invocation { function: name, overloads, charge, args }))),
        }
    }

    fn optional_select(&mut self, call: &Call) -> Plan {
        let [operand, field] = &call.args[..] else { return Err(EvalError::no_overload()) };
        let Some(Literal::String(name)) = field.as_literal() else { return Err(EvalError::no_overload()) };
        let key = self.field(operand, name);
        Ok(self.plan(operand)?.qualified(Qualifier { key, optional: true }))
    }

    fn fold(&mut self, fold: &Fold) -> Plan {
        let range = self.plan(&fold.range)?;
        let slot = self.scopes.len();
        self.scopes.push(fold.var.clone());
        self.scopes.extend(fold.var2.clone());
        self.slots = self.slots.max(self.scopes.len());
        let body = self.body(&fold.step);
        self.scopes.truncate(slot);
        let body = match body? {
            Body::Bind { body, .. } => Body::Bind { used: mentions(&fold.step, &fold.var), body },
            body => body,
        };
        Ok(Op::Fold(Box::new(Loop { range, slot, pairs: fold.var2.is_some(), body })))
    }

    fn body(&mut self, step: &Step) -> Result<Body, EvalError> {
        let mut filter = |filter: &Option<Expr>| filter.as_ref().map(|filter| self.plan(filter)).transpose();
        Ok(match step {
            Step::All(one) => Body::All(self.plan(one)?),
            Step::Exists(one) => Body::Exists(self.plan(one)?),
            Step::ExistsOne(one) => Body::ExistsOne(self.plan(one)?),
            Step::Append { filter: only, item } => {
                let only = filter(only)?;
                let item = self.plan(item)?;
                Body::Append { filter: only, made: item.constant().is_none(), item }
            }
            Step::Insert { filter: only, value } => Body::Insert { filter: filter(only)?, value: self.plan(value)? },
            Step::InsertEntry { filter: only, entry } => Body::InsertEntry { filter: filter(only)?, entry: self.plan(entry)? },
            Step::Bind(body) => Body::Bind { body: self.plan(body)?, used: true },
        })
    }
}

/// Whether a variable is used; one of the same name further inside counts, too, which does no harm.
fn mentions(step: &Step, name: &str) -> bool {
    let mut found = false;
    for part in step.parts() {
        part.visit(&mut |expr, _| found |= expr.as_ident() == Some(name));
    }
    found
}

impl Op {
    fn constant(&self) -> Option<Val<'static>> {
        match self {
            Op::Const(value) => Some(value.clone()),
            _ => None,
        }
    }

    /// This with one more selection; of a choice, both branches are selected from.
    fn qualified(self, step: Qualifier) -> Op {
        match self {
            Op::Path(mut path) if !path.test => {
                path.steps.push(step);
                Op::Path(path)
            }
            base => Op::Path(Box::new(Path { base, steps: vec![step], test: false })),
        }
    }
}

fn binary(name: &str, charge: Charge, two: [Op; 2]) -> Result<Op, [Op; 2]> {
    let relation = match name {
        "_<_" => Some(Relation::Less),
        "_<=_" => Some(Relation::LessEqual),
        "_>_" => Some(Relation::Greater),
        "_>=_" => Some(Relation::GreaterEqual),
        _ => None,
    };
    let operator = match name {
        "_+_" => Some(Operator::Add),
        "_-_" => Some(Operator::Subtract),
        "_*_" => Some(Operator::Multiply),
        "_/_" => Some(Operator::Divide),
        "_%_" => Some(Operator::Modulo),
        _ => None,
    };
    Ok(match (name, relation, operator) {
        (_, Some(relation), _) => Op::Order(Box::new((relation, charge, two))),
        (_, _, Some(operator)) => Op::Arithmetic(Box::new((operator, charge, two))),
        ("_&&_", ..) => Op::And(Box::new(two)),
        ("_||_", ..) => Op::Or(Box::new(two)),
        ("_==_", ..) => Op::Equal(Box::new(two)),
        ("_!=_", ..) => Op::Unequal(Box::new(two)),
        ("or", ..) => Op::Else(Box::new((false, two))),
        ("orValue", ..) => Op::Else(Box::new((true, two))),
        ("@in", ..) if charge == Charge::Elements(1) => return one_of(two),
        _ => return Err(two),
    })
}

/// `x in ['a', 'b']` is looked up rather than searched, and costs nothing.
fn one_of(two: [Op; 2]) -> Result<Op, [Op; 2]> {
    let [wanted, list] = two;
    let Op::Const(Val::List(items)) = &list else { return Err([wanted, list]) };
    if items.is_empty() {
        return Ok(Op::Const(Val::Bool(false)));
    }
    let keys: Option<HashSet<Key<'static>>> = items.iter().map(|item| item.ok().and_then(|item| Key::of(&item))).collect();
    match keys {
        Some(keys) => Ok(Op::OneOf(Box::new((wanted, keys)))),
        None => Err([wanted, list]),
    }
}

fn constant(literal: &Literal) -> Val<'static> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(value) => Val::Bool(*value),
        Literal::Int(number) => Val::Int(*number),
        Literal::Uint(number) => Val::Uint(*number),
        Literal::Double(number) => Val::Double(*number),
        Literal::String(text) => Val::String(Text::Shared(text.as_str().into())),
        Literal::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
    }
}

fn is_conversion(name: &str) -> bool {
    matches!(name, "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint")
}

fn convert(name: &str, overloads: &[&'static Overload], value: &Val<'static>) -> Plan {
    let fitting = overloads.iter().find(|overload| overload.fits(std::slice::from_ref(value)));
    match fitting.and_then(|overload| overload.run) {
        Some(run) => run(std::slice::from_ref(value)).map(Op::Const),
        None => Err(EvalError::new(format!("no such overload: {name}({})", value.ty().name()))),
    }
}
