//! Drives the server in-process, as every part of the binary does.

mod access;
mod bench;
mod crud;
mod every_kind;
mod house;
mod kinds;
mod network;
