//! Owners of fields whose schema has changed since (structured-merge-diff's `typed/reconcile_schema.go`).

use super::{Set, node::Node};
use crate::{SchemaRef, types::Schema};

/// Who owns something in a list, map or message that has become one that is owned as a whole owns the whole. The other way nothing needs to
/// be done: what was owned as a whole is what nobody owns anything in.
pub(crate) fn reconcile(schema: &SchemaRef, fields: &mut Set) {
    below(&schema.schema, Node::root(schema), fields);
}

fn below(schema: &Schema, node: Node<'_>, fields: &mut Set) {
    for (key, inner) in fields.iter_mut().filter(|(key, _)| key.as_str() != ".") {
        let Some(inner) = inner.as_object_mut().filter(|inner| inner.keys().any(|key| key != ".")) else { continue };
        let child = match key.strip_prefix("f:") {
            Some(name) => node.child(schema, name),
            None => Some(node.item(schema)),
        };
        match child {
            None | Some(Node::Leaf | Node::Deduced) => {}
            Some(Node::Atomic) => inner.clear(),
            Some(child) => below(schema, child, inner),
        }
    }
}
