//! The finished binary, driven from outside by the real kubectl, and the rules of the house.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where something is wrong, and says what it skips")]

mod clock;
mod cluster;
mod containers;
mod dropin;
mod hollow;
mod operations;
mod options;
mod servers;
mod tidy;
