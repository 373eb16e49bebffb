//! Ports that stand in one another's way.

use std::{collections::HashMap, fmt};

use coracle_tree::Value;

use super::containers;
use crate::kinds::view;

/// A port as far as others matter to it.
struct Port<'a> {
    place: Place<'a>,
    ip: &'a str,
    host: i64,
}

/// Where a port is: the container's path, and which of its ports it is.
#[derive(Clone, Copy)]
struct Place<'a>(&'a str, usize);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.ports[{}]", self.0, self.1)
    }
}

/// Warns of ports of a pod's containers.
pub(super) fn of(spec: &Value, path: &str, all: &mut Vec<String>) {
    let mut known: HashMap<(i64, &str), Vec<Port<'_>>> = HashMap::new();
    let mut names: HashMap<&str, Place<'_>> = HashMap::new();
    let mut same_names = Vec::new();
    let containers: Vec<_> = containers(spec, path).collect();
    for (container, path) in &containers {
        for (at, port) in view::list(container, "ports").iter().enumerate() {
            let place = Place(path, at);
            let host = view::int(port, "hostPort").unwrap_or_default();
            let (ip, protocol, name) = (view::text(port, "hostIP"), view::text(port, "protocol"), view::text(port, "name"));
            let number = view::int(port, "containerPort").unwrap_or_default();
            if !ip.is_empty() && host == 0 {
                let shown = format!("{{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}");
                all.push(format!("{place}: hostIP set without hostPort: {shown}"));
            }
            let others = known.entry((number, protocol)).or_default();
            let this = Port { place, ip, host };
            all.extend(others.iter().filter_map(|other| this.conflict(other)));
            others.push(this);
            match names.get(name) {
                _ if name.is_empty() => {}
                Some(first) => {
                    let why = format!("services and probes that select ports by name will use {first}");
                    same_names.push(format!("{place}: duplicate port name {} with {first}, {why}", view::quoted(name)));
                }
                None => {
                    names.insert(name, place);
                }
            }
        }
    }
    all.extend(same_names);
}

impl Port<'_> {
    /// What is odd about two ports of the same number and protocol.
    fn conflict(&self, other: &Self) -> Option<String> {
        let what = if (self.ip, self.host) == (other.ip, other.host) {
            "duplicate"
        } else if self.host == 0 || other.host == 0 {
            "overlapping"
        } else if self.host == other.host && self.ip.is_empty() != other.ip.is_empty() {
            "dangerously ambiguous"
        } else {
            return None;
        };
        Some(format!("{}: {what} port definition with {}", self.place, other.place))
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn ports_that_meet_are_told() {
        let ports = json!([
            {"containerPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"containerPort": 80, "protocol": "TCP", "name": "web"},
            {"containerPort": 80, "protocol": "TCP", "name": "web"},
            {"containerPort": 80, "protocol": "TCP", "hostPort": 80},
            {"containerPort": 81, "protocol": "TCP", "hostPort": 81},
            {"containerPort": 81, "protocol": "TCP", "hostPort": 81, "hostIP": "10.0.0.1"},
        ]);
        let mut all = Vec::new();
        of(&json!({"containers": [{"ports": ports}]}), "spec", &mut all);
        let at = |n| format!("spec.containers[0].ports[{n}]");
        let shown = "{Name: HostPort:0 ContainerPort:53 Protocol:UDP HostIP:127.0.0.1}";
        assert_eq!(
            all,
            [
                format!("{}: hostIP set without hostPort: {shown}", at(0)),
                format!("{}: duplicate port definition with {}", at(2), at(1)),
                format!("{}: overlapping port definition with {}", at(3), at(1)),
                format!("{}: overlapping port definition with {}", at(3), at(2)),
                format!("{}: dangerously ambiguous port definition with {}", at(5), at(4)),
                format!(
                    "{}: duplicate port name \"web\" with {}, services and probes that select ports by name will use {}",
                    at(2),
                    at(1),
                    at(1)
                ),
            ]
        );
    }
}
