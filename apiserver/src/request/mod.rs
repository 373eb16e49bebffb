//! From an HTTP request to a typed one: path grammar, options, then the layers in order.

pub mod info;
pub mod query;

pub use info::RequestInfo;
pub use query::Query;
