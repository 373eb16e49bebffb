//! The built-in controllers of a Kubernetes cluster: what kube-controller-manager does.
//!
//! They speak to the API through [`kube::Client`] alone, so the room also runs against a stock API server. Each controller
//! says which changes wake which keys ([`run::Named::reads`]) and decides about one key in a pure function
//! ([`run::Controller::plan`]); one executor ([`apply`]) carries plans out. All controllers share one watch and one cached
//! copy per kind ([`caches`]).
//!
//! ```text
//! reflector -> store -> reads() -> queue -> plan(key, now) -> apply -> API
//!                 ^------- expectations: own writes must show first
//! ```
//!
//! Here: deployment, replica set, replication controller, stateful set, daemon set, job, ttl after finished, cron job, namespace,
//! service account, root CA, endpoints, endpoint slices and their mirrors, garbage collector, node lifecycle, taint eviction,
//! node IPAM, pod GC, disruption, resource quota, protection of claims, volumes and networks of services, removal
//! of tokens in secrets that nobody uses. Absent: cloud parts, volume binding and attaching,
//! horizontal autoscaling, certificate signing, tokens. Cluster-role aggregation is done by the API server itself.

pub mod apply;
pub mod caches;
pub mod change;
pub mod departures;
pub mod events;
pub mod expectations;
pub mod object;
pub mod pod;
pub mod queue;
pub mod reflector;
pub mod run;
pub mod selector;
pub mod store;
pub mod time;

mod claim;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod garbage;
mod hash;
mod history;
mod job;
mod lease;
mod legacy_tokens;
mod namespace;
mod node;
mod protection;
mod quota;
mod registry;
mod replicaset;
mod root_ca;
mod service_account;
mod service_cidr;
mod statefulset;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod run_tests;

pub use run::{BuildError, Clients, Controllers, Options};
