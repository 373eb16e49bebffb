//! The node agent (what kubelet does): runs the pods bound to its node through a container runtime.

pub mod runtime;
