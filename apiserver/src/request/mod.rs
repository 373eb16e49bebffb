//! From an HTTP request to a typed one: path grammar, then the layers in order.

pub mod info;

pub use info::RequestInfo;
