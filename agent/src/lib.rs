//! The node agent (what kubelet does): runs the pods bound to its node through a container runtime.
//!
//! [`Agent::build`] takes a client with the node's identity, a [`runtime::Runtime`] and [`Options`]; [`Agent::run`] registers the node and runs its pods
//! until the shared stop. [`Fleet`] does the same for many hollow nodes. [`streams::Server`] serves logs and exec for all agents of a process.
//!
//! A pod's life: [`source`] watches, [`Agent`] admits, one [`pods::worker`] per pod asks [`pods::plan`] what to do, does it through the runtime, and
//! writes what [`pods::status`] says. Decisions are pure functions; clocks are handed in; containers survive the agent.

pub mod agent;
pub mod api;
pub mod cgroups;
pub mod clock;
pub mod context;
mod credentials;
mod dns;
mod downward;
pub mod embedded;
pub mod env;
pub mod hollow;
pub mod images;
pub mod machine;
pub mod network;
pub mod node;
pub mod objects;
pub mod pods;
pub mod probes;
pub mod pull;
pub mod quantity;
pub mod recorder;
pub mod runtime;
pub mod services;
pub mod source;
pub mod streams;
pub mod volumes;

pub use agent::{Agent, ClientFor, Error, Fleet, Shared};
pub use context::{Options, Reserve};
