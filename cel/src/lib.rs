//! The Common Expression Language as Kubernetes 1.37 speaks it: parsed by hand, type-checked, costed before it is stored and while it is
//! evaluated, and evaluated over JSON where the JSON lies.
//!
//! Declare variables in an [`Env`], [`Env::compile`] text to a [`Program`], bind values in an [`Activation`], and [`Program::eval`] within a
//! limit. Messages are cel-go's, costs are upstream's: what one server refuses, the other refuses for the same reason.
//!
//! Invariants: nothing here does I/O or reads a clock; no input makes it panic; time and memory of a compilation are bounded by the size of
//! the text, those of an evaluation by its cost limit.

mod arithmetic;
mod ast;
mod charge;
mod checker;
mod convert;
mod cost;
mod decl;
mod env;
mod equal;
mod error;
mod escape;
mod estimate;
mod eval;
mod host;
mod lexer;
mod library;
pub mod limits;
mod literal;
mod literals;
mod macros;
mod parser;
pub mod pattern;
mod plan;
mod program;
mod quote;
mod source;
mod time;
mod types;
mod unify;
mod value;
mod view;

pub use cost::Range;
pub use decl::{Decl, Listing, MAX_REQUEST_BYTES, ObjectType, Property, Shape};
pub use env::Env;
pub use error::EvalError;
pub use escape::{escape, is_identifier, unescape};
pub use host::{Authorizer, Decision, Host, ResourceCheck, ServiceAccount, Subject};
pub use library::url::{Url, request_fault};
pub use parser::selects;
pub use program::{Activation, Fields, Lazy, Program};
pub use quote::quoted;
pub use source::{Issue, display};
pub use time::{Timestamp, duration};
pub use types::{Param, Type};
pub use value::{List, Map, Object, Table, Text, Val};
