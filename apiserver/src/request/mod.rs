//! From an HTTP request to a typed one: path grammar, options, then the layers in order.

pub mod cors;
pub mod discovery;
pub mod documents;
pub mod flags;
mod gather;
mod health;
mod idle;
pub mod impersonate;
pub mod info;
pub mod layers;
pub mod limits;
pub mod paths;
pub mod protocol;
pub mod query;
pub mod serve;
pub mod serving;
mod trail;
pub mod zpages;

pub use info::RequestInfo;
pub use query::Query;
