//! Which type may stand where another is wanted (cel-go `checker/types.go`).

use std::collections::HashMap;

use crate::types::{Kind, Param, Type};

/// What the type variables have been found to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapping(HashMap<Param, Type>);

impl Mapping {
    pub(crate) fn add(&mut self, from: Param, to: Type) {
        self.0.insert(from, to);
    }

    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(param) => self.0.get(param),
            _ => None,
        }
    }

    /// Unifies `one` with `other`; on failure nothing has changed.
    pub(crate) fn assignable(&mut self, one: &Type, other: &Type) -> bool {
        self.assignable_all(std::slice::from_ref(one), std::slice::from_ref(other))
    }

    /// As [`Mapping::assignable`], for each pair.
    pub(crate) fn assignable_all(&mut self, ones: &[Type], others: &[Type]) -> bool {
        let mut trial = self.clone();
        if ones.len() == others.len() && ones.iter().zip(others).all(|(one, other)| trial.unify(one, other)) {
            *self = trial;
            return true;
        }
        false
    }

    fn unify(&mut self, one: &Type, other: &Type) -> bool {
        let (kind, kind_other) = (one.kind(), other.kind());
        if kind_other == Kind::Param {
            let (valid, substituted) = self.substitutes(one, other);
            if valid || substituted {
                return valid;
            }
        }
        if kind == Kind::Param {
            return self.substitutes(other, one).0;
        }
        if matches!(kind, Kind::Dyn | Kind::Error) || matches!(kind_other, Kind::Dyn | Kind::Error) {
            return true;
        }
        if kind == Kind::Null {
            return nullable(other);
        }
        if kind_other == Kind::Null {
            return nullable(one);
        }
        match (one, other) {
            (Type::List(a), Type::List(b)) => self.unify(a, b),
            (Type::Map(a), Type::Map(b)) => self.unify(&a.0, &b.0) && self.unify(&a.1, &b.1),
            (Type::Opaque(a, of_a), Type::Opaque(b, of_b)) => {
                a == b && of_a.len() == of_b.len() && of_a.iter().zip(of_b.iter()).all(|(a, b)| self.unify(a, b))
            }
            (Type::Meta(_), Type::Meta(_)) => true,
            _ => one == other,
        }
    }

    /// Whether `variable` may stand for `t`, and whether it already stood for something.
    fn substitutes(&mut self, t: &Type, variable: &Type) -> (bool, bool) {
        if t == variable {
            return (true, true);
        }
        let Type::Param(param) = variable else { return (false, false) };
        if let Some(sub) = self.find(variable).cloned() {
            if *t == sub {
                return (true, true);
            }
            if self.unify(t, &sub) {
                let general = most_general(t, &sub);
                if self.absent_in(variable, &general) {
                    self.add(*param, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.absent_in(variable, t) {
            self.add(*param, t.clone());
            return (true, false);
        }
        (false, false)
    }

    /// The occurs check.
    fn absent_in(&self, t: &Type, within: &Type) -> bool {
        if t == within {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|sub| self.absent_in(t, sub)),
            Type::List(element) => self.absent_in(t, element),
            Type::Map(entry) => self.absent_in(t, &entry.0) && self.absent_in(t, &entry.1),
            Type::Opaque(_, of) => of.iter().all(|one| self.absent_in(t, one)),
            Type::Meta(Some(of)) => self.absent_in(t, of),
            _ => true,
        }
    }

    /// `t` with what is known of its variables; the unknown become `dyn` if `to_dyn`.
    pub(crate) fn substitute(&self, t: &Type, to_dyn: bool) -> Type {
        if let Some(sub) = self.find(t) {
            return self.substitute(sub, to_dyn);
        }
        match t {
            Type::Param(_) if to_dyn => Type::Dyn,
            Type::List(element) => Type::list(self.substitute(element, to_dyn)),
            Type::Map(entry) => Type::map(self.substitute(&entry.0, to_dyn), self.substitute(&entry.1, to_dyn)),
            Type::Opaque(name, of) if !of.is_empty() => Type::Opaque(name, of.iter().map(|one| self.substitute(one, to_dyn)).collect()),
            Type::Meta(Some(of)) => Type::Meta(Some(self.substitute(of, to_dyn).into())),
            _ => t.clone(),
        }
    }
}

fn nullable(t: &Type) -> bool {
    matches!(t.kind(), Kind::Null | Kind::Opaque | Kind::Object | Kind::Duration | Kind::Timestamp)
}

/// The more general of two types that unify.
pub(crate) fn most_general(one: &Type, other: &Type) -> Type {
    if less_specific(one, other) { one.clone() } else { other.clone() }
}

fn less_specific(one: &Type, other: &Type) -> bool {
    if one.is_dyn() || one.kind() == Kind::Param {
        return true;
    }
    if other.is_dyn() || other.kind() == Kind::Param || one.kind() != other.kind() {
        return false;
    }
    match (one, other) {
        (Type::Opaque(a, of_a), Type::Opaque(b, of_b)) => {
            a == b && of_a.len() == of_b.len() && of_a.iter().zip(of_b.iter()).all(|(a, b)| less_specific(a, b))
        }
        (Type::List(a), Type::List(b)) => less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Type::Meta(_), Type::Meta(_)) => true,
        _ => one == other,
    }
}
