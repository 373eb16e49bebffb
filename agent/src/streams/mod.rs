//! The agent's HTTPS server: logs, exec, attach, port-forward and a little of the rest (kubelet `server/server.go`).

pub mod logs;
