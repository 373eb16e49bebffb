//! What kinds there are, what their objects are, and where they are kept.

pub mod catalog;
pub mod convert;
pub mod kind;
pub mod meta;
pub mod names;
pub mod object;
pub mod reader;
pub mod rules;
pub mod selector;

pub use kind::{Catalog, Conversion, Generation, GroupVersionKind, Kind, NameRule, ResourceId, Scope, Subresource, Verb};
pub use object::Object;
pub use reader::{Change, Reader};
pub use rules::{Part, Policy, Rules};
pub use selector::{FieldSelector, LabelSelector};
