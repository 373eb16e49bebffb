//! What kinds there are, what their objects are, and where they are kept.

pub mod catalog;
pub mod claims;
pub mod convert;
pub mod items;
pub mod kind;
pub mod live;
pub mod meta;
pub mod names;
pub mod object;
pub mod reader;
pub mod rules;
pub mod selector;
pub mod writer;

#[cfg(test)]
pub(crate) mod fake;
pub mod storage;

pub use kind::{Catalog, Conversion, Generation, GroupVersionKind, Kind, NameRule, ResourceId, Scope, Subresource, Traits, Verb};
pub use object::Object;
pub use reader::{Change, Reader};
pub use rules::{Part, Policy, Rules};
pub use selector::{FieldSelector, LabelSelector};
pub use storage::Storage;
pub use writer::Writer;
