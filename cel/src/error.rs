//! What goes wrong while an expression is evaluated.

use std::fmt;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    message: String,
    /// `&&`, `||` and quantifiers cannot take the other side's word for it.
    fatal: bool,
}

impl EvalError {
    /// An error with upstream's words.
    pub fn new(message: impl Into<String>) -> EvalError {
        EvalError(Box::new(Inner { message: message.into(), fatal: false }))
    }

    /// The cost that was allowed is used up.
    pub(crate) fn cost() -> EvalError {
        EvalError(Box::new(Inner { message: "operation cancelled: actual cost limit exceeded".into(), fatal: true }))
    }

    /// A value would take more memory than an evaluation may use.
    pub(crate) fn memory() -> EvalError {
        EvalError(Box::new(Inner { message: "operation cancelled: value too large".into(), fatal: true }))
    }

    pub(crate) fn no_overload() -> EvalError {
        EvalError::new("no such overload")
    }

    /// Evaluation was stopped, rather than came to an error.
    pub fn is_cancelled(&self) -> bool {
        self.0.fatal
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.message)
    }
}

impl std::error::Error for EvalError {}
