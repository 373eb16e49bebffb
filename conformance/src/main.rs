//! Drives a finished `coracle` binary from outside.
fn main() {}
