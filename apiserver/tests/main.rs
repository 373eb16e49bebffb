//! Drives the server in-process, as every part of the binary does.
#![expect(clippy::unwrap_used, reason = "a broken expectation ends the test")]

mod access;
mod admission;
mod aggregation;
mod atrest;
mod audit;
mod authorizers;
#[cfg(feature = "cedar")]
mod cedar;
mod claims;
mod conversion;
mod credentials;
mod crud;
mod durability;
mod encodings;
mod every_kind;
mod extensions;
mod fairness;
mod hook;
mod hostile;
mod house;
mod kinds;
mod network;
mod presence;
mod tapped;
mod versions;
