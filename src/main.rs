//! Coracle.
fn main() {}
