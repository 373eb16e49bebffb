//! The pod scheduler: a pure [`cycle`] over a columnar [`snapshot`], a [`queue`] that knows which events can help which pod, and one
//! edge with I/O ([`bind`]).
//!
//! Speaks Kubernetes through `kube::Client` only, so it runs over any API server. Behaviour follows kube-scheduler
//! (`pkg/scheduler`, KEP-624 the scheduling framework).

mod bind;
mod cycle;
mod plugins;
mod pod;
mod quantity;
mod queue;
mod run;
mod snapshot;
mod view;
mod watch;

pub use run::{Options, Scheduler};
