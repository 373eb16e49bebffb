//! Objects as the write path walks them: trees of JSON whose names and short texts lie in place.
//!
//! A pod is some two hundred names and texts, most of them shorter than [`Text`] holds without asking for memory, in some forty
//! [`Map`]s of a few members each, which are one piece of memory instead of a tree of nodes. Beyond that a [`Value`] is what
//! `serde_json` calls one: the accessors have the names known from there, numbers are its numbers, and text is read and written
//! by it, through [`serde`].

#![allow(missing_docs, reason = "accessors do what those of `serde_json` do by the same names")]

mod access;
mod convert;
mod de;
mod json;
mod make;
mod map;
mod ser;
mod value;

pub use access::Index;
pub use convert::from_value;
pub use make::to_value;
pub use map::{Entry, IntoIter, Iter, IterMut, Map, Occupied, Vacant};
pub use serde_json::Number;
pub use value::Value;

/// The names of members and the texts of values: up to 24 bytes in place, cloned without asking for memory.
pub type Text = compact_str::CompactString;
