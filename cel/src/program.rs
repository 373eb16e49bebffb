//! Compiled expressions.

use std::fmt;

use coracle_tree::{Map, Value as Json};

use crate::cost::Range;
use crate::decl::{Decl, Shape};
use crate::env::Env;
use crate::eval::Evaluation;
use crate::plan::Planned;
use crate::types::Type;
use crate::value::Val;
use crate::{EvalError, view};

/// A compiled expression. May be evaluated by many at once.
pub struct Program {
    planned: Planned,
    result: Type,
    estimate: Range,
    variables: Vec<(String, Decl)>,
}

impl fmt::Debug for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Program({})", self.result)
    }
}

/// The values of the variables of one evaluation, by the places in which the environment declared them.
#[derive(Clone, Default)]
pub struct Activation<'a> {
    values: Vec<Bound<'a>>,
}

#[derive(Clone)]
enum Bound<'a> {
    None,
    Json(&'a Json),
    Value(Val<'a>),
}

/// A variable whose fields are computed when they are asked for.
pub trait Fields<'a> {
    /// The field's value; `None` if there is no such field.
    fn field(&self, name: &str) -> Option<Result<Val<'a>, EvalError>>;
}

/// Such a variable: its place and its fields.
pub type Lazy<'a, 'e> = (usize, &'e (dyn Fields<'a> + 'e));

impl<'a> Activation<'a> {
    /// Without values.
    pub fn new() -> Activation<'a> {
        // As many as any environment declares.
        Activation { values: Vec::with_capacity(8) }
    }

    fn set(&mut self, place: usize, value: Bound<'a>) {
        if self.values.len() <= place {
            self.values.resize(place + 1, Bound::None);
        }
        self.values[place] = value;
    }

    /// Binds the variable at `place` to JSON, which is seen as the variable's declaration says.
    #[must_use]
    pub fn json(mut self, place: usize, value: &'a Json) -> Self {
        self.set(place, Bound::Json(value));
        self
    }

    /// Binds the variable at `place` to a value.
    #[must_use]
    pub fn value(mut self, place: usize, value: Val<'a>) -> Self {
        self.set(place, Bound::Value(value));
        self
    }

    pub(crate) fn get(&self, place: usize, decl: &'a Decl) -> Option<Result<Val<'a>, EvalError>> {
        match self.values.get(place)? {
            Bound::None => None,
            Bound::Json(json) => Some(view::value(json, decl)),
            Bound::Value(value) => Some(Ok(value.clone())),
        }
    }

    /// An object that is seen as it is.
    #[inline]
    pub(crate) fn untyped(&self, place: usize, decl: &'a Decl) -> Option<(&'a Map, &'a Decl)> {
        match (self.values.get(place)?, decl.shape()) {
            (Bound::Json(Json::Object(members)), Shape::Dyn) => Some((members, decl)),
            _ => None,
        }
    }
}

impl Program {
    pub(crate) fn new(env: &Env, planned: Planned, result: Type, estimate: Range) -> Program {
        Program { planned, result, estimate, variables: env.variables().to_vec() }
    }

    /// The static type of the value.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// What an evaluation costs at least and at most, as far as the sizes in the variables' declarations tell.
    pub fn estimate(&self) -> Range {
        self.estimate
    }

    /// Whether the expression uses the variable at `place`.
    pub fn uses(&self, place: usize) -> bool {
        self.planned.used.get(place).copied().unwrap_or_default()
    }

    pub(crate) fn planned(&self) -> &Planned {
        &self.planned
    }

    pub(crate) fn variable(&self, place: usize) -> &(String, Decl) {
        &self.variables[place]
    }

    /// Evaluates the expression, and tells what that cost. What costs more than `limit` is stopped.
    pub fn eval<'a>(&'a self, activation: &Activation<'a>, limit: u64) -> (Result<Val<'a>, EvalError>, u64) {
        Evaluation::run(self, activation, None, limit)
    }

    /// As [`Program::eval`], with a variable whose fields are computed when they are asked for. What that costs is not counted here.
    pub fn eval_with<'a>(&'a self, activation: &Activation<'a>, lazy: Lazy<'a, '_>, limit: u64) -> (Result<Val<'a>, EvalError>, u64) {
        Evaluation::run(self, activation, Some(lazy), limit)
    }
}
