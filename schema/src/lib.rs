//! The Kubernetes API as data: types, routes and rules read from tables (`api/*.api`), and the algorithms that work on any object through them.
//!
//! Nothing here knows a store, a clock or a request. A custom resource definition builds the same [`types::Schema`] value at run time.

pub mod apply;
pub mod decode;
pub mod default;
pub mod discovery;
pub mod field;
pub mod go;
pub mod json;
pub mod jsonpath;
pub mod managed;
pub mod name;
pub mod openapi;
pub mod patch;
mod places;
pub use coracle_cel::pattern;
pub mod proto;
pub mod quantity;
mod row;
pub mod selector;
pub mod structural;
pub mod tables;
pub mod time;
pub mod types;
pub mod validate;
pub mod webhook;

pub use field::{ErrorKind, FieldError, FieldErrors};
pub use quantity::Quantity;
pub use tables::{Resource, Tables};
pub use types::{Schema, SchemaRef, Type, TypeId};
