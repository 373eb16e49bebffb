//! All nodes and what is used on them, as columns: a filter or score of one resource is one pass over one array.

use std::{collections::HashMap, sync::Arc};

use crate::{
    pod::{Amounts, HostPort, Pod},
    view,
};

/// Position of a node in the columns. Stable while the node exists; reused after.
pub(crate) type Row = usize;

/// One amount per node.
#[derive(Default)]
pub(crate) struct Column {
    pub(crate) allocatable: Vec<i64>,
    pub(crate) used: Vec<i64>,
}

/// The state a cycle decides over.
#[derive(Default)]
pub(crate) struct Snapshot {
    rows: HashMap<Arc<str>, Row>,
    free: Vec<Row>,
    /// `None`: the row is empty, or only pods of a node not seen (yet, or any more) stand there.
    pub(crate) nodes: Vec<Option<Arc<view::Node>>>,
    names: Vec<Arc<str>>,
    pub(crate) cpu: Column,
    pub(crate) memory: Column,
    pub(crate) ephemeral: Column,
    pub(crate) pods: Column,
    /// cpu and memory with assumed minimums, for scores.
    pub(crate) scoring: (Column, Column),
    /// Extended resources; a column may be shorter than the table.
    pub(crate) other: HashMap<Box<str>, Column>,
    pub(crate) ports: Vec<Vec<HostPort>>,
    placed: HashMap<Arc<str>, (Row, Arc<Pod>)>,
}

impl Column {
    fn fit(&mut self, rows: usize) {
        if self.used.len() < rows {
            self.allocatable.resize(rows, 0);
            self.used.resize(rows, 0);
        }
    }

    /// What is left on a row; 0 where the column does not reach.
    pub(crate) fn left(&self, row: Row) -> i64 {
        self.allocatable.get(row).copied().unwrap_or(0) - self.used.get(row).copied().unwrap_or(0)
    }
}

impl Snapshot {
    /// Rows that hold a node.
    pub(crate) fn live(&self) -> impl Iterator<Item = Row> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_some()).map(|(row, _)| row)
    }

    /// The node's name.
    pub(crate) fn name(&self, row: Row) -> &Arc<str> {
        &self.names[row]
    }

    /// Adds or replaces a node; returns the one that was there.
    pub(crate) fn set_node(&mut self, node: view::Node) -> Option<Arc<view::Node>> {
        let row = self.row(&node.metadata.name);
        let allocatable = Amounts::parse(&node.status.allocatable);
        let pods = node.status.allocatable.get("pods").and_then(|v| v.as_str().and_then(crate::quantity::units).or(v.as_i64()));
        self.cpu.allocatable[row] = allocatable.cpu;
        self.memory.allocatable[row] = allocatable.memory;
        self.ephemeral.allocatable[row] = allocatable.ephemeral;
        self.pods.allocatable[row] = pods.unwrap_or(0);
        self.scoring.0.allocatable[row] = allocatable.cpu;
        self.scoring.1.allocatable[row] = allocatable.memory;
        for column in self.other.values_mut() {
            column.fit(row + 1);
            column.allocatable[row] = 0;
        }
        for (name, amount) in allocatable.other {
            let column = self.other.entry(name).or_default();
            column.fit(row + 1);
            column.allocatable[row] = amount;
        }
        self.nodes[row].replace(Arc::new(node))
    }

    /// Takes a node away. Its pods keep the row until they go, too.
    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(row) = self.rows.get(name).copied() {
            self.nodes[row] = None;
            self.release(row);
        }
    }

    /// Counts a pod on a node, assumed or seen. Counting it again moves it.
    pub(crate) fn place(&mut self, pod: Arc<Pod>, node: &str) {
        self.unplace(&pod.view.metadata.uid);
        let row = self.row(node);
        self.count(row, &pod, 1);
        self.ports[row].extend(pod.ports.iter().cloned());
        self.placed.insert(pod.view.metadata.uid.as_str().into(), (row, pod));
    }

    /// No longer counts a pod; returns its node's name if it was counted.
    pub(crate) fn unplace(&mut self, uid: &str) -> Option<Arc<str>> {
        let (row, pod) = self.placed.remove(uid)?;
        self.count(row, &pod, -1);
        for port in &pod.ports {
            if let Some(at) = self.ports[row].iter().position(|p| p == port) {
                self.ports[row].swap_remove(at);
            }
        }
        let name = self.names[row].clone();
        self.release(row);
        Some(name)
    }

    fn count(&mut self, row: Row, pod: &Pod, sign: i64) {
        self.cpu.used[row] += sign * pod.requests.cpu;
        self.memory.used[row] += sign * pod.requests.memory;
        self.ephemeral.used[row] += sign * pod.requests.ephemeral;
        self.pods.used[row] += sign;
        self.scoring.0.used[row] += sign * pod.scoring.0;
        self.scoring.1.used[row] += sign * pod.scoring.1;
        for (name, amount) in &pod.requests.other {
            let column = self.other.entry(name.clone()).or_default();
            column.fit(row + 1);
            column.used[row] += sign * amount;
        }
    }

    fn row(&mut self, name: &str) -> Row {
        if let Some(row) = self.rows.get(name) {
            return *row;
        }
        let name: Arc<str> = name.into();
        let row = self.free.pop().unwrap_or(self.nodes.len());
        let length = row + 1;
        if self.nodes.len() < length {
            self.nodes.push(None);
            self.names.push(name.clone());
            self.ports.push(Vec::new());
            for column in [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pods, &mut self.scoring.0, &mut self.scoring.1] {
                column.fit(length);
            }
        }
        self.names[row] = name.clone();
        self.rows.insert(name, row);
        row
    }

    /// Frees a row on which neither node nor pod stands.
    fn release(&mut self, row: Row) {
        if self.nodes[row].is_none() && self.pods.used[row] == 0 {
            self.rows.remove(&self.names[row]);
            self.free.push(row);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::tests::pod;

    /// A snapshot of nodes from JSON, for the tests of this crate.
    pub(crate) fn nodes(list: &[serde_json::Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in list {
            snapshot.set_node(serde_json::from_value(node.clone()).unwrap());
        }
        snapshot
    }

    /// A node with so much cpu, 1 GiB and ten pods.
    pub(crate) fn node(name: &str, cpu: &str) -> serde_json::Value {
        json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
    }

    #[test]
    fn what_a_pod_uses_is_given_back_when_it_goes() {
        let mut snapshot = nodes(&[node("a", "1")]);
        let web = pod(json!({"metadata": {"uid": "1"}, "spec": {"containers": [
            {"resources": {"requests": {"cpu": "300m", "example.com/gpu": "1"}}, "ports": [{"hostPort": 80}]}]}}));
        snapshot.place(Arc::new(web.clone()), "a");
        snapshot.place(Arc::new(web), "a");
        assert_eq!((snapshot.cpu.left(0), snapshot.pods.left(0), snapshot.ports[0].len()), (700, 9, 1));
        assert_eq!(snapshot.other["example.com/gpu"].left(0), -1);
        assert_eq!(snapshot.unplace("1").as_deref(), Some("a"));
        assert_eq!((snapshot.cpu.left(0), snapshot.pods.left(0), snapshot.ports[0].len()), (1000, 10, 0));
    }

    #[test]
    fn a_row_is_reused_only_after_node_and_pods_are_gone() {
        let mut snapshot = nodes(&[node("a", "1")]);
        snapshot.place(Arc::new(pod(json!({"metadata": {"uid": "1"}, "spec": {"containers": [{}]}}))), "a");
        snapshot.remove_node("a");
        snapshot.set_node(serde_json::from_value(node("b", "1")).unwrap());
        assert_eq!(snapshot.live().count(), 1);
        assert_eq!(&**snapshot.name(1), "b");
        snapshot.unplace("1");
        snapshot.set_node(serde_json::from_value(node("c", "1")).unwrap());
        assert_eq!(&**snapshot.name(0), "c");
        assert_eq!(snapshot.pods.left(0), 10);
    }
}
