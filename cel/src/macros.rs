//! Calls that are no calls: `has`, `all`, `exists`, `map`, … (cel-go `parser/macro.go`, `ext/comprehensions.go`, `ext/lists.go`,
//! `cel/library.go`).

use crate::ast::{Expr, Fold, Literal, Node, Select, Step};
use crate::parser::{Parse, Parser};

/// The variable to which `sortBy` binds the list.
const SORTED: &str = "@__sortBy_input__";

impl Parser<'_, '_, '_> {
    /// A macro expanded, or the call of a function.
    pub(crate) fn macro_or_call(&mut self, at: usize, name: &str, target: Option<Expr>, args: Vec<Expr>) -> Parse<Expr> {
        match (name, target, args.len()) {
            ("has", None, 1) => self.has(at, args),
            ("all" | "exists" | "exists_one" | "map" | "filter" | "optMap" | "optFlatMap" | "sortBy", Some(target), 2)
            | ("map", Some(target), 3) => self.one_variable(at, name, target, args),
            ("all" | "exists" | "exists_one" | "existsOne" | "transformList" | "transformMap" | "transformMapEntry", Some(target), 3)
            | ("transformList" | "transformMap" | "transformMapEntry", Some(target), 4) => self.two_variables(at, name, target, args),
            ("bind", Some(target), 3) if self.bindings && target.as_ident() == Some("cel") => self.bind(at, args),
            (_, target, _) => self.call(at, name, target, args),
        }
    }

    /// `cel.bind(v, x, e)`: `e` where `v` is `x` (cel-go `ext/bindings.go`).
    fn bind(&mut self, at: usize, args: Vec<Expr>) -> Parse<Expr> {
        let mut args = args.into_iter();
        let (Some(variable), Some(range), Some(body)) = (args.next(), args.next(), args.next()) else {
            return Ok(self.report(at, "cel.bind() takes a name, a value and an expression"));
        };
        let Some(var) = variable.as_ident().map(str::to_string) else {
            let place = self.offset(variable.id);
            return Ok(self.report(place, "cel.bind() variable names must be simple identifiers"));
        };
        self.node(at, Node::Fold(Box::new(Fold { range, var, var2: None, step: Step::Bind(body) })))
    }

    fn has(&mut self, at: usize, args: Vec<Expr>) -> Parse<Expr> {
        let Some(arg) = args.into_iter().next() else { return Ok(self.report(at, "invalid argument to has() macro")) };
        match arg.node {
            Node::Select(select) => {
                let Select { operand, field, .. } = *select;
                self.node(at, Node::Select(Box::new(Select { operand, field, test: true })))
            }
            _ => {
                let at = self.offset(arg.id);
                Ok(self.report(at, "invalid argument to has() macro"))
            }
        }
    }

    fn one_variable(&mut self, at: usize, name: &str, target: Expr, mut args: Vec<Expr>) -> Parse<Expr> {
        let variable = args.remove(0);
        let place = self.offset(variable.id);
        let Some(var) = variable.as_ident().map(str::to_string) else {
            let message = match name {
                "optMap" => "optMap() variable name must be a simple identifier",
                "optFlatMap" => "optFlatMap() variable name must be a simple identifier",
                "map" | "filter" | "sortBy" => "argument is not an identifier",
                _ => "argument must be a simple name",
            };
            return Ok(self.report(place, message));
        };
        if var == "__result__" {
            return Ok(self.report(place, "iteration variable overwrites accumulator variable"));
        }
        let body = args.pop().unwrap_or_else(|| variable.clone());
        let step = match name {
            "all" => Step::All(body),
            "exists" => Step::Exists(body),
            "exists_one" => Step::ExistsOne(body),
            "map" => Step::Append { filter: args.pop(), item: body },
            "filter" => Step::Append { filter: Some(body), item: variable },
            "sortBy" => return self.sort_by(at, target, var, body),
            _ => return self.optional_map(at, name == "optMap", target, var, body),
        };
        self.node(at, Node::Fold(Box::new(Fold { range: target, var, var2: None, step })))
    }

    fn two_variables(&mut self, at: usize, name: &str, target: Expr, mut args: Vec<Expr>) -> Parse<Expr> {
        let mut names = Vec::with_capacity(2);
        for arg in args.drain(..2) {
            let place = self.offset(arg.id);
            let Some(var) = arg.as_ident().map(str::to_string) else {
                return Ok(self.report(place, "argument must be a simple name"));
            };
            if names.contains(&var) {
                return Ok(self.report(place, &format!("duplicate variable name: {var}")));
            }
            if var == "__result__" {
                return Ok(self.report(place, "iteration variable overwrites accumulator variable"));
            }
            names.push(var);
        }
        let (Some(body), Some(var2), Some(var)) = (args.pop(), names.pop(), names.pop()) else {
            return Ok(self.report(at, "argument must be a simple name"));
        };
        let filter = args.pop();
        let step = match name {
            "all" => Step::All(body),
            "exists" => Step::Exists(body),
            "exists_one" | "existsOne" => Step::ExistsOne(body),
            "transformList" => Step::Append { filter, item: body },
            "transformMap" => Step::Insert { filter, value: body },
            _ => Step::InsertEntry { filter, entry: body },
        };
        self.node(at, Node::Fold(Box::new(Fold { range: target, var, var2: Some(var2), step })))
    }

    /// `x.optMap(v, e)`: `x.hasValue() ? optional.of(e where v is x.value()) : optional.none()`.
    fn optional_map(&mut self, at: usize, wrap: bool, target: Expr, var: String, body: Expr) -> Parse<Expr> {
        let copy = self.copy(&target)?;
        let present = self.call(at, "hasValue", Some(target), Vec::new())?;
        let value = self.call(at, "value", Some(copy), Vec::new())?;
        let mut mapped = self.node(at, Node::Fold(Box::new(Fold { range: value, var, var2: None, step: Step::Bind(body) })))?;
        if wrap {
            mapped = self.call(at, "optional.of", None, vec![mapped])?;
        }
        let none = self.call(at, "optional.none", None, Vec::new())?;
        self.call(at, "_?_:_", None, vec![present, mapped, none])
    }

    /// `x.sortBy(v, key)`: x ordered by the list of its keys.
    fn sort_by(&mut self, at: usize, target: Expr, var: String, key: Expr) -> Parse<Expr> {
        if matches!(target.node, Node::Literal(_) | Node::Map(_) | Node::Struct(_)) {
            let place = self.offset(target.id);
            let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Ok(self.report(place, message));
        }
        let list = self.node(at, Node::Ident(SORTED.to_string()))?;
        let range = self.node(at, Node::Ident(SORTED.to_string()))?;
        let keys = Fold { range, var, var2: None, step: Step::Append { filter: None, item: key } };
        let keys = self.node(at, Node::Fold(Box::new(keys)))?;
        let sorted = self.call(at, "@sortByAssociatedKeys", Some(list), vec![keys])?;
        self.node(at, Node::Fold(Box::new(Fold { range: target, var: SORTED.to_string(), var2: None, step: Step::Bind(sorted) })))
    }

    /// The same expression once more, under new names. Copies of copies are bounded by the number of nodes.
    fn copy(&mut self, expr: &Expr) -> Parse<Expr> {
        let mut nodes = 0;
        expr.visit(&mut |_, _| nodes += 1);
        self.reserve(nodes)?;
        let mut copy = expr.clone();
        self.rename(&mut copy);
        Ok(copy)
    }

    fn rename(&mut self, expr: &mut Expr) {
        let at = self.offset(expr.id);
        expr.id = self.id(at);
        match &mut expr.node {
            Node::Missing | Node::Literal(Literal::Null) | Node::Literal(_) | Node::Ident(_) => {}
            Node::Select(select) => self.rename(&mut select.operand),
            Node::Call(call) => call.target.iter_mut().chain(&mut call.args).for_each(|part| self.rename(part)),
            Node::List(elements) => elements.iter_mut().for_each(|element| self.rename(&mut element.value)),
            Node::Map(entries) => {
                for entry in entries {
                    self.rename(&mut entry.key);
                    self.rename(&mut entry.value);
                }
            }
            Node::Struct(message) => message.fields.iter_mut().for_each(|field| {
                let at = self.offset(field.id);
                field.id = self.id(at);
                self.rename(&mut field.value);
            }),
            Node::Fold(fold) => {
                self.rename(&mut fold.range);
                fold.step.parts_mut().into_iter().for_each(|part| self.rename(part));
            }
        }
    }
}
