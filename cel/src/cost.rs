//! What an expression may cost at most, from the sizes that its variables' declarations allow (cel-go `checker/cost.go`, apiserver
//! `pkg/cel/library/cost.go`). The figures decide which rules may be written, so they are upstream's.

use std::rc::Rc;

use crate::ast::{Expr, Fold, Literal, Node, Select, Step};
use crate::checker::{Called, Checked, Meaning};
use crate::env::Env;
use crate::estimate::{self, Arg};
use crate::types::{Kind, Type};

/// The least and the most that something may be: a cost, or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// What it costs to walk over one character.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// What a character of a pattern costs for each character of text.
pub(crate) const PATTERN: f64 = 0.25;
/// What it costs to make a list, a map, a message.
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const MESSAGE: u64 = 40;

impl Range {
    pub(crate) const ZERO: Range = Range::exactly(0);
    /// Nothing is known.
    pub(crate) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    pub(crate) const fn exactly(both: u64) -> Range {
        Range { min: both, max: both }
    }

    pub(crate) fn add(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn multiply(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub(crate) fn times(self, factor: f64) -> Range {
        Range { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    pub(crate) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// `count` times `factor`, rounded up.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn scaled(count: u64, factor: f64) -> u64 {
    let product = (count as f64 * factor).ceil();
    if product >= u64::MAX as f64 { u64::MAX } else { product as u64 }
}

/// The way from a variable to data: the name of the variable, then fields, `@items`, `@values`, `@keys`.
pub(crate) type Path = Rc<Vec<String>>;

/// The sizes of the keys and values of a list or map that an expression makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    list: bool,
    key: Range,
    value: Range,
}

impl Entry {
    fn union(one: Option<Entry>, other: Option<Entry>) -> Option<Entry> {
        let (one, other) = (one?, other?);
        Some(Entry { list: one.list, key: one.key.union(other.key), value: one.value.union(other.value) })
    }
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) cost: Range,
    pub(crate) size: Option<Range>,
    pub(crate) entry: Option<Entry>,
    pub(crate) path: Option<Path>,
}

impl Known {
    fn of(cost: Range) -> Known {
        Known { cost, size: None, entry: None, path: None }
    }
}

/// Estimates the cost of an expression.
pub(crate) fn estimate(env: &Env, root: &Expr, checked: &Checked) -> Range {
    Coster { env, checked, scopes: Vec::new() }.known(root).cost
}

pub(crate) struct Coster<'c> {
    env: &'c Env,
    checked: &'c Checked,
    /// Variables of folds.
    scopes: Vec<(String, Known)>,
}

impl Coster<'_> {
    /// The size that the declarations give to what a path leads to. As upstream has it (`sizeEstimator.EstimateSize` of
    /// apiextensions-apiserver), a path is followed from the first variable whatever its own first step is: `oldSelf` is as large as
    /// `self`, and so are the name of a type and an element of a list that the expression itself makes.
    pub(crate) fn declared(&self, path: Option<&Path>) -> Option<Range> {
        let (_, rest) = path?.split_first()?;
        let mut decl = self.env.variables().first()?.1.clone();
        for step in rest {
            decl = decl.part(step)?;
        }
        Some(Range { min: 0, max: decl.max() })
    }

    fn known(&mut self, expr: &Expr) -> Known {
        let mut known = match &expr.node {
            Node::Missing => Known::of(Range::ZERO),
            Node::Literal(literal) => Known { size: Some(Range::exactly(literal_size(literal))), ..Known::of(Range::ZERO) },
            Node::Ident(name) => self.ident(name),
            Node::Select(select) => self.select(expr, select),
            Node::Call(_) => self.call(expr),
            Node::List(elements) => {
                let known: Vec<Known> = elements.iter().map(|element| self.known(&element.value)).collect();
                let cost = known.iter().fold(Range::exactly(LIST), |sum, one| sum.add(one.cost));
                let value = entry_size(known.iter().map(|one| one.size));
                let entry = Some(Entry { list: true, key: Range::exactly(1), value });
                Known { size: Some(Range::exactly(elements.len() as u64)), entry, ..Known::of(cost) }
            }
            Node::Map(entries) => {
                let (mut keys, mut values, mut cost) = (Vec::new(), Vec::new(), Range::exactly(MAP));
                for entry in entries {
                    let (key, value) = (self.known(&entry.key), self.known(&entry.value));
                    cost = cost.add(key.cost).add(value.cost);
                    keys.push(key.size);
                    values.push(value.size);
                }
                let entry = Some(Entry { list: false, key: entry_size(keys.into_iter()), value: entry_size(values.into_iter()) });
                Known { size: Some(Range::exactly(entries.len() as u64)), entry, ..Known::of(cost) }
            }
            Node::Struct(message) => {
                let cost = message.fields.iter().fold(Range::exactly(MESSAGE), |sum, field| sum.add(self.known(&field.value).cost));
                Known::of(cost)
            }
            Node::Fold(fold) => self.fold(fold),
        };
        if known.size.is_none() {
            known.size = self.declared(known.path.as_ref()).or_else(|| self.checked.ty(expr).is_scalar().then(|| Range::exactly(1)));
        }
        if let (None, Some(name)) = (known.size, expr.as_ident()) {
            known.size = self.local(name).and_then(|local| local.size);
        }
        known
    }

    fn local(&self, name: &str) -> Option<&Known> {
        self.scopes.iter().rev().find(|(known, _)| known == name).map(|(_, known)| known)
    }

    fn ident(&self, name: &str) -> Known {
        match self.local(name) {
            Some(local) => Known { cost: Range::exactly(1), size: None, entry: local.entry, path: local.path.clone() },
            None => {
                let name = name.strip_prefix('.').unwrap_or(name);
                Known { path: Some(Rc::new(vec![name.to_string()])), ..Known::of(Range::exactly(1)) }
            }
        }
    }

    fn select(&mut self, expr: &Expr, select: &Select) -> Known {
        if !matches!(self.checked.meaning(expr), Meaning::Plain) {
            return self.ident(&crate::parser::dotted(expr).unwrap_or_default());
        }
        let operand = self.known(&select.operand);
        if select.test {
            return Known::of(operand.cost);
        }
        let counts = matches!(self.checked.ty(&select.operand).kind(), Kind::Map | Kind::Object | Kind::Param);
        let cost = operand.cost.add(Range::exactly(u64::from(counts)));
        Known { path: Some(extend(operand.path.as_ref(), &select.field)), ..Known::of(cost) }
    }

    fn call(&mut self, expr: &Expr) -> Known {
        let Node::Call(call) = &expr.node else { return Known::of(Range::ZERO) };
        if let ("dyn", [arg]) = (call.function.as_str(), &call.args[..]) {
            let known = self.known(arg);
            return Known { cost: known.cost.add(Range::exactly(1)), path: None, ..known };
        }
        let args: Vec<Known> = call.args.iter().map(|arg| self.known(arg)).collect();
        let Meaning::Call(name, overloads, called) = self.checked.meaning(expr).clone() else { return Known::of(Range::ZERO) };
        let arguments = args.iter().fold(Range::ZERO, |sum, arg| sum.add(arg.cost));
        if name == "_?._" {
            // Upstream knows no cost of it but that of its arguments and one.
            return Known::of(arguments.add(Range::exactly(1)));
        }
        let target = match (&call.target, called) {
            (Some(target), Called::Method) => Some(self.known(target)),
            _ => None,
        };
        let target_cost = target.as_ref().map_or(Range::ZERO, |target| target.cost);
        let values: Vec<Arg<'_>> =
            call.args.iter().zip(&args).map(|(expr, known)| Arg { expr, ty: self.checked.ty(expr), known }).collect();
        let on = match (&call.target, &target) {
            (Some(expr), Some(known)) => Some(Arg { expr, ty: self.checked.ty(expr), known }),
            _ => None,
        };
        let mut known = Known::of(Range::ZERO);
        let mut cost = Range { min: u64::MAX, max: 0 };
        for overload in &overloads {
            let (own, size) = estimate::call(self, name, &overload.id, on.as_ref(), &values);
            cost = cost.union(own);
            known.size = match (known.size, size) {
                (Some(known), Some(size)) => Some(known.union(size)),
                (known, size) => known.or(size),
            };
            match overload.id.as_str() {
                "index_list" => self.indexed(&mut known, &args, "@items"),
                "index_map" => self.indexed(&mut known, &args, "@values"),
                "conditional" => known.entry = Entry::union(args[1].entry, args[2].entry),
                "add_string" | "add_bytes" | "add_list" => known.entry = Entry::union(args[0].entry, args[1].entry),
                _ => {}
            }
        }
        known.cost = target_cost.add(cost);
        known
    }

    fn indexed(&self, known: &mut Known, args: &[Known], step: &str) {
        known.size = args[0].entry.map(|entry| entry.value);
        known.path = Some(extend(args[0].path.as_ref(), step));
    }

    /// What a variable of a fold is over `range`.
    fn variable(&self, range: &Known, ty: &Type, key: bool) -> Known {
        let list = range.entry.map_or(ty.kind() == Kind::List, |entry| entry.list);
        let step = match (list, key) {
            (true, true) => "@indices",
            (false, true) => "@keys",
            (true, false) => "@items",
            (false, false) => "@values",
        };
        let size = range.entry.map(|entry| if key { entry.key } else { entry.value });
        Known { size, path: Some(extend(range.path.as_ref(), step)), ..Known::of(Range::ZERO) }
    }

    fn fold(&mut self, fold: &Fold) -> Known {
        let range = self.known(&fold.range);
        if let Step::Bind(body) = &fold.step {
            self.scopes.push((fold.var.clone(), range.clone()));
            let body = self.known(body);
            self.scopes.pop();
            // A binding is a fold over an empty list, the making of which is counted.
            return Known { cost: range.cost.add(body.cost).add(Range::exactly(LIST)), path: None, ..body };
        }
        let ty = self.checked.ty(&fold.range).clone();
        let list = range.entry.map_or(ty.kind() == Kind::List, |entry| entry.list);
        match &fold.var2 {
            Some(second) => {
                let (key, value) = (self.variable(&range, &ty, true), self.variable(&range, &ty, false));
                self.scopes.push((fold.var.clone(), key));
                self.scopes.push((second.clone(), value));
            }
            None => {
                let one = self.variable(&range, &ty, !list);
                self.scopes.push((fold.var.clone(), one));
            }
        }
        let (once, each, entry) = self.step(&fold.step);
        self.scopes.truncate(self.scopes.len() - 1 - usize::from(fold.var2.is_some()));
        let count = range.size.unwrap_or(Range::UNKNOWN);
        let size = if matches!(fold.step, Step::All(_) | Step::Exists(_) | Step::ExistsOne(_)) { Range::exactly(1) } else { count };
        Known { cost: range.cost.add(once).add(count.multiply(each)), size: Some(size), entry, path: None }
    }

    /// What a fold costs once, what each step costs, and the sizes of the entries it makes.
    fn step(&mut self, step: &Step) -> (Range, Range, Option<Entry>) {
        let one = Range::exactly;
        match step {
            Step::All(predicate) => {
                let predicate = self.known(predicate).cost;
                (one(1), one(2).add(Range { min: 1, max: predicate.max.saturating_add(1) }), None)
            }
            Step::Exists(predicate) => {
                let predicate = self.known(predicate).cost;
                (one(1), one(3).add(Range { min: 1, max: predicate.max.saturating_add(1) }), None)
            }
            Step::ExistsOne(predicate) => {
                let predicate = self.known(predicate).cost;
                (one(2), predicate.add(Range { min: 1, max: 2 }), None)
            }
            Step::Append { filter, item } => {
                let item = self.known(item);
                let each = item.cost.add(one(LIST + 2));
                let value = Range::exactly(0).union(item.size.unwrap_or(Range::UNKNOWN));
                let entry = Entry { list: true, key: one(1), value };
                (one(LIST + 1), self.filtered(filter.as_ref(), each), Some(entry))
            }
            Step::Insert { filter, value } => {
                let each = self.known(value).cost.add(one(3));
                (one(MAP + 1), self.filtered(filter.as_ref(), each), None)
            }
            Step::InsertEntry { filter, entry } => {
                let each = self.known(entry).cost.add(one(2));
                (one(MAP + 1), self.filtered(filter.as_ref(), each), None)
            }
            Step::Bind(body) => (Range::ZERO, self.known(body).cost, None),
        }
    }

    fn filtered(&mut self, filter: Option<&Expr>, each: Range) -> Range {
        match filter {
            Some(filter) => self.known(filter).cost.add(each.union(Range::exactly(1))),
            None => each,
        }
    }
}

fn extend(path: Option<&Path>, step: &str) -> Path {
    let mut steps = path.map_or_else(Vec::new, |path| path.as_ref().clone());
    steps.push(step.to_string());
    Rc::new(steps)
}

fn entry_size(sizes: impl Iterator<Item = Option<Range>>) -> Range {
    sizes.map(|size| size.unwrap_or(Range::UNKNOWN)).reduce(Range::union).unwrap_or(Range::ZERO)
}

fn literal_size(literal: &Literal) -> u64 {
    match literal {
        Literal::String(text) => text.chars().count() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }
}
