//! What kinds there are, what their objects are, and where they are kept.

pub mod kind;
pub mod object;
pub mod reader;
pub mod rules;

pub use kind::{Catalog, Generation, GroupVersionKind, Kind, NameRule, ResourceId, Scope, Subresource, Verb};
pub use object::Object;
pub use reader::{Change, Reader};
pub use rules::{Part, Policy, Rules};
