//! The agent over the hollow runtime against a small API server in memory.

#![allow(clippy::unwrap_used)]

mod api_server;
mod pods;
mod real;
mod recording;
mod streams;
