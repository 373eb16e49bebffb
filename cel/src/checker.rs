//! Finds the types of all parts of an expression (cel-go `checker/checker.go`).

use crate::ast::{Call, Expr, Fold, Id, Literal, Node, Select, Step, Struct};
use crate::env::Env;
use crate::library::Overload;
use crate::parser::{Parsed, dotted};
use crate::source::Source;
use crate::types::{Kind, Param, Type, signature};
use crate::unify::{Mapping, most_general};

/// What a node turned out to mean.
#[derive(Clone)]
pub(crate) enum Meaning {
    /// What its syntax says.
    Plain,
    /// The variable at this place.
    Variable(usize),
    /// A type.
    Type(Type),
    /// The call of a function; the overloads that its arguments fit.
    Call(&'static str, Vec<&'static Overload>, Called),
}

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Function,
    Method,
    /// It looks like a method, but the dotted whole is the function's name.
    Namespaced,
}

/// Types and meanings by node.
pub(crate) struct Checked {
    types: Vec<Type>,
    meanings: Vec<Meaning>,
}

impl Checked {
    pub(crate) fn ty(&self, expr: &Expr) -> &Type {
        self.types.get(expr.id as usize).unwrap_or(&Type::Dyn)
    }

    pub(crate) fn meaning(&self, expr: &Expr) -> &Meaning {
        self.meanings.get(expr.id as usize).unwrap_or(&Meaning::Plain)
    }

    pub(crate) fn result(&self, root: &Expr) -> Type {
        self.ty(root).clone()
    }
}

/// Checks `parsed`; what is wrong is reported to `source`.
pub(crate) fn check(env: &Env, parsed: &Parsed, source: &mut Source<'_>) -> Checked {
    let count = parsed.offsets.len();
    let mut checker = Checker {
        env,
        offsets: &parsed.offsets,
        source,
        types: vec![Type::Error; count],
        meanings: vec![Meaning::Plain; count],
        mapping: Mapping::default(),
        variables: 0,
        scopes: Vec::new(),
    };
    checker.check(&parsed.root);
    let Checker { types, meanings, mapping, .. } = checker;
    Checked { types: types.iter().map(|ty| mapping.substitute(ty, true)).collect(), meanings }
}

struct Checker<'c, 's, 't> {
    env: &'c Env,
    offsets: &'c [usize],
    source: &'s mut Source<'t>,
    types: Vec<Type>,
    meanings: Vec<Meaning>,
    mapping: Mapping,
    /// Type variables made so far.
    variables: u32,
    /// Variables of folds, innermost last.
    scopes: Vec<(String, Type)>,
}

impl Checker<'_, '_, '_> {
    fn report(&mut self, id: Id, message: impl Into<String>) {
        self.source.report(self.offsets.get(id as usize).copied().unwrap_or_default(), message);
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone()
    }

    fn fresh(&mut self) -> Type {
        self.variables += 1;
        Type::Param(Param::Variable(self.variables - 1))
    }

    fn resolved(&self, ty: &Type) -> Type {
        self.mapping.substitute(ty, false)
    }

    fn check(&mut self, expr: &Expr) {
        let ty = match &expr.node {
            Node::Missing => Type::Error,
            Node::Literal(literal) => of_literal(literal),
            Node::Ident(name) => self.ident(expr, name),
            Node::Select(select) => self.select(expr, select),
            Node::Call(call) => self.call(expr, call),
            Node::List(elements) => {
                let mut joined = None;
                for element in elements {
                    self.check(&element.value);
                    let ty = self.entry(&element.value, element.optional);
                    joined = Some(self.join(joined, ty));
                }
                Type::list(joined.unwrap_or_else(|| self.fresh()))
            }
            Node::Map(entries) => {
                let (mut keys, mut values) = (None, None);
                for entry in entries {
                    self.check(&entry.key);
                    let key = self.get(&entry.key);
                    keys = Some(self.join(keys, key));
                    self.check(&entry.value);
                    let value = self.entry(&entry.value, entry.optional);
                    values = Some(self.join(values, value));
                }
                Type::map(keys.unwrap_or_else(|| self.fresh()), values.unwrap_or_else(|| self.fresh()))
            }
            Node::Struct(message) => self.message(expr, message),
            Node::Fold(fold) => self.fold(expr, fold),
        };
        self.types[expr.id as usize] = ty;
    }

    fn undeclared(&mut self, id: Id, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    /// A variable of the environment or a type, by its whole name.
    fn global(&mut self, expr: &Expr, name: &str) -> Option<Type> {
        let bare = name.strip_prefix('.').unwrap_or(name);
        if let Some(place) = self.env.place(bare) {
            self.meanings[expr.id as usize] = Meaning::Variable(place);
            return Some(self.env.variables()[place].1.ty().clone());
        }
        let ty = self.env.type_named(bare)?;
        self.meanings[expr.id as usize] = Meaning::Type(ty.clone());
        Some(Type::Meta(Some(ty.into())))
    }

    fn local(&self, name: &str) -> Option<Type> {
        self.scopes.iter().rev().find(|(known, _)| known == name).map(|(_, ty)| ty.clone())
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Type {
        if let Some(local) = self.local(name) {
            return local;
        }
        match self.global(expr, name) {
            Some(ty) => ty,
            None => self.undeclared(expr.id, name),
        }
    }

    fn select(&mut self, expr: &Expr, select: &Select) -> Type {
        if !select.test
            && let Some(name) = dotted(expr)
            && name.split('.').next().is_some_and(|first| self.local(first).is_none())
            && let Some(ty) = self.global(expr, &name)
        {
            return ty;
        }
        let ty = self.field(expr.id, &select.operand, &select.field, false);
        if select.test { Type::Bool } else { self.resolved(&ty) }
    }

    fn field(&mut self, id: Id, operand: &Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.resolved(&self.get(operand));
        let target = operand.optional_of().unwrap_or(&operand);
        let ty = match target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(object) => match object.field(field) {
                Some(property) => property.decl.ty().clone(),
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, target);
                Type::Dyn
            }
            _ => {
                if !matches!(target.kind(), Kind::Dyn | Kind::Error) {
                    self.report(id, format!("type '{target}' does not support field selection"));
                }
                Type::Dyn
            }
        };
        if optional || operand.optional_of().is_some() { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Type {
        if call.function == "_?._" {
            return self.optional_select(expr, call);
        }
        for arg in &call.args {
            self.check(arg);
        }
        let Some(target) = &call.target else {
            return match self.env.function(&call.function) {
                Some((name, overloads)) => self.resolve(expr, name, &overloads, None, &call.args, Called::Function),
                None => self.undeclared(expr.id, &call.function),
            };
        };
        if let Some(prefix) = dotted(target)
            && let Some((name, overloads)) = self.env.function(&format!("{prefix}.{}", call.function))
        {
            return self.resolve(expr, name, &overloads, None, &call.args, Called::Namespaced);
        }
        self.check(target);
        match self.env.function(&call.function) {
            Some((name, overloads)) => self.resolve(expr, name, &overloads, Some(target), &call.args, Called::Method),
            None => self.undeclared(expr.id, &call.function),
        }
    }

    fn optional_select(&mut self, expr: &Expr, call: &Call) -> Type {
        let [operand, field] = &call.args[..] else { return Type::Error };
        let Some(Literal::String(name)) = field.as_literal() else { return Type::Error };
        self.types[field.id as usize] = Type::String;
        let ty = self.field(expr.id, operand, name, true);
        self.meanings[expr.id as usize] = Meaning::Call("_?._", Vec::new(), Called::Function);
        self.resolved(&ty)
    }

    fn resolve(
        &mut self,
        expr: &Expr,
        name: &'static str,
        overloads: &[&'static Overload],
        target: Option<&Expr>,
        args: &[Expr],
        called: Called,
    ) -> Type {
        let given: Vec<Type> = target.into_iter().chain(args).map(|arg| self.get(arg)).collect();
        if matches!(name, "_&&_" | "_||_") {
            let mut ty = Type::Bool;
            for (arg, given) in args.iter().zip(&given) {
                if !self.mapping.assignable(given, &Type::Bool) {
                    self.report(arg.id, format!("expected type 'bool' but found '{given}'"));
                    ty = Type::Error;
                }
            }
            self.meanings[expr.id as usize] = Meaning::Call(name, overloads.to_vec(), called);
            return ty;
        }
        let (mut fitting, mut result) = (Vec::new(), None);
        for overload in overloads.iter().filter(|overload| overload.method == target.is_some()) {
            let Some(ty) = self.fit(overload, &given) else { continue };
            fitting.push(*overload);
            result = Some(match result {
                None => ty,
                Some(known) if known == Type::Dyn || known == ty => known,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let given: Vec<Type> = given.iter().map(|ty| self.mapping.substitute(ty, true)).collect();
            let given = signature(&given, target.is_some());
            self.report(expr.id, format!("found no matching overload for '{name}' applied to '{given}'"));
            return Type::Error;
        };
        self.meanings[expr.id as usize] = Meaning::Call(name, fitting, called);
        result
    }

    /// The result of an overload if it takes the arguments.
    fn fit(&mut self, overload: &Overload, given: &[Type]) -> Option<Type> {
        if overload.args.len() != given.len() {
            return None;
        }
        if overload.params.is_empty() {
            return self.mapping.assignable_all(given, &overload.args).then(|| overload.result.clone());
        }
        let mut own = Mapping::default();
        for param in &overload.params {
            let variable = self.fresh();
            own.add(*param, variable);
        }
        let wanted: Vec<Type> = overload.args.iter().map(|arg| own.substitute(arg, false)).collect();
        let result = own.substitute(&overload.result, false);
        self.mapping.assignable_all(given, &wanted).then(|| self.resolved(&result))
    }

    /// The type of an element or value; what is optional is looked into.
    fn entry(&mut self, value: &Expr, optional: bool) -> Type {
        let ty = self.get(value);
        if !optional {
            return ty;
        }
        if let Some(inner) = ty.optional_of() {
            return inner.clone();
        }
        if !ty.is_dyn() {
            self.report(value.id, format!("expected type '{}' but found '{ty}'", Type::optional(ty.clone())));
        }
        ty
    }

    /// The type of both; that elements are of one type is looked after elsewhere.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        match previous {
            None => current,
            Some(previous) if self.mapping.assignable(&previous, &current) => most_general(&previous, &current),
            Some(_) => Type::Dyn,
        }
    }

    fn message(&mut self, expr: &Expr, message: &Struct) -> Type {
        let name = message.name.strip_prefix('.').unwrap_or(&message.name);
        let Some(object) = self.env.message(name) else {
            for field in &message.fields {
                self.check(&field.value);
            }
            return match self.env.type_named(name) {
                Some(ty) => {
                    self.report(expr.id, format!("'{}' is not a message type", ty.name()));
                    Type::Error
                }
                None => self.undeclared(expr.id, &message.name),
            };
        };
        for field in &message.fields {
            self.check(&field.value);
            let wanted = match object.field(&field.name) {
                Some(property) => property.decl.ty().clone(),
                None => {
                    self.report(field.id, format!("undefined field '{}'", field.name));
                    Type::Error
                }
            };
            let given = self.entry(&field.value, field.optional);
            if !self.mapping.assignable(&wanted, &given) {
                let name = &field.name;
                self.report(field.id, format!("expected type of field '{name}' is '{wanted}' but provided type is '{given}'"));
            }
        }
        Type::Object(object)
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Type {
        self.check(&fold.range);
        let range = self.resolved(&self.get(&fold.range));
        if let Step::Bind(body) = &fold.step {
            self.scopes.push((fold.var.clone(), range));
            self.check(body);
            self.scopes.pop();
            return self.resolved(&self.get(body));
        }
        let (first, second) = match &range {
            Type::List(element) if fold.var2.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Dyn),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            _ => {
                let message = format!("expression of type '{range}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((fold.var.clone(), first.clone()));
        if let Some(second_name) = &fold.var2 {
            self.scopes.push((second_name.clone(), second));
        }
        for part in fold.step.parts() {
            self.check(part);
        }
        let ty = self.step(expr, &fold.step, &first);
        self.scopes.truncate(self.scopes.len() - 1 - usize::from(fold.var2.is_some()));
        ty
    }

    fn step(&mut self, expr: &Expr, step: &Step, key: &Type) -> Type {
        match step {
            Step::All(predicate) | Step::Exists(predicate) => {
                let ty = self.get(predicate);
                if !self.mapping.assignable(&ty, &Type::Bool) {
                    self.report(predicate.id, format!("expected type 'bool' but found '{ty}'"));
                }
                Type::Bool
            }
            Step::ExistsOne(predicate) => {
                self.condition(expr, predicate, &Type::Int);
                Type::Bool
            }
            Step::Append { filter, item } => {
                let item = self.get(item);
                let list = Type::list(self.resolved(&item));
                if let Some(filter) = filter {
                    self.condition(expr, filter, &list);
                }
                list
            }
            Step::Insert { filter, value } => {
                let value = self.get(value);
                let map = Type::map(key.clone(), self.resolved(&value));
                if let Some(filter) = filter {
                    self.condition(expr, filter, &map);
                }
                map
            }
            Step::InsertEntry { filter, entry } => {
                let mut map = self.resolved(&self.get(entry));
                if matches!(map.kind(), Kind::Dyn | Kind::Error) {
                    map = Type::map(Type::Dyn, Type::Dyn);
                } else if map.kind() != Kind::Map {
                    let given = signature(&[Type::map(Type::Dyn, Type::Dyn), map.clone()], false);
                    self.report(expr.id, format!("found no matching overload for 'cel.@mapInsert' applied to '{given}'"));
                    map = Type::Error;
                }
                if let Some(filter) = filter {
                    self.condition(expr, filter, &map);
                }
                map
            }
            Step::Bind(body) => self.get(body),
        }
    }

    /// A filter decides between what there was and what there is with one more.
    fn condition(&mut self, expr: &Expr, filter: &Expr, both: &Type) {
        let ty = self.get(filter);
        if !self.mapping.assignable(&ty, &Type::Bool) {
            let given = [ty, both.clone(), both.clone()].map(|ty| self.mapping.substitute(&ty, true));
            let given = signature(&given, false);
            self.report(expr.id, format!("found no matching overload for '_?_:_' applied to '{given}'"));
        }
    }
}

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
