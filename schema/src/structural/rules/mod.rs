//! `x-kubernetes-validations`: rules of a schema, written as expressions.
//!
//! They are compiled once per schema, when the first object is checked; most servers never see an object of most kinds.

mod check;
mod compile;
mod decl;
mod validate;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use coracle_tree::Value;

use super::{Node, blocks_rules};
use crate::field::{ErrorKind, FieldErrors};

pub(crate) use check::{Known, check};
use compile::Level;

/// The rules of a schema, compiled when first asked.
#[derive(Debug, Default)]
pub(crate) struct Rules(OnceLock<Option<Box<Level>>>);

impl Rules {
    /// Asks the rules of `root` about an object whose form has been found to be as `errors` says; adds what they say.
    pub(crate) fn validate(&self, root: &Node, new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let Some(level) = self.0.get_or_init(|| Level::of(root, true, &|_| true).map(Box::new)) else { return };
        if blocks_rules(errors) {
            let message = "Invalid value: null: some validation rules were not checked because the object was invalid; \
                           correct the existing errors to complete validation";
            errors.push(ErrorKind::Invalid, "<nil>", message.to_owned());
            return;
        }
        validate::validate(level, root, new, old, errors);
    }
}

/// Asks the rules of a place about a default for it, which stands at `path`, as if an object with it were created.
pub(crate) fn check_default(node: &Node, default: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(level) = Level::of(node, node.embedded, &|_| true) else { return };
    let mut found = FieldErrors::none();
    validate::validate(&level, node, default, None, &mut found);
    errors.0.extend(found.0.into_iter().map(|mut error| {
        error.path = match error.path.as_str() {
            "" | "<nil>" => path.to_owned(),
            inner if inner.starts_with('[') => format!("{path}{inner}"),
            inner => format!("{path}.{inner}"),
        };
        error
    }));
}
