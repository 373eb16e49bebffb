//! What kinds there are, what their objects are, and where they are kept.

pub(crate) mod autoscaler;
pub mod catalog;
pub mod claims;
pub(crate) mod condition;
pub mod convert;
pub mod custom;
pub mod items;
mod kept;
pub mod kind;
pub mod live;
pub mod meta;
pub mod names;
pub mod object;
mod places;
pub mod reader;
pub mod rules;
pub mod selector;
pub mod served;
pub(crate) mod translated;
pub mod values;
pub mod writer;

#[cfg(test)]
pub(crate) mod fake;
pub mod storage;

pub use convert::{Conversion, Converter};
pub use custom::Custom;
pub use kind::{Generation, GroupVersionKind, Kind, KindSchema, NameRule, ResourceId, Scope, Shared, Subresource, Traits, Verb};
pub use object::Object;
pub use reader::{Change, Reader};
pub use rules::{Part, Policy, Rules};
pub use selector::{FieldSelector, LabelSelector};
pub use served::{Catalog, Served};
pub use storage::Storage;
pub use writer::Writer;
