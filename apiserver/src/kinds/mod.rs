//! The odd rules of single kinds, one file each.

pub mod columns;
