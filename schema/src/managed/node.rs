//! What server-side apply sees at a place in an object: the structured-merge-diff schema, derived from ours.

use crate::types::{Field, ListKind, Schema, Shape, Type};

/// How a value is owned.
#[derive(Clone, Copy)]
pub(crate) enum Node<'s> {
    /// As a whole: scalars, atomic lists, maps and messages.
    Leaf,
    /// Field by field.
    Message(&'s Type),
    /// Key by key.
    Map(&'s Shape),
    /// Item by item.
    List(&'s ListKind, &'s Shape),
    /// By what it turns out to be: maps key by key, everything else as a whole (`__untyped_deduced_`).
    Deduced,
}

impl<'s> Node<'s> {
    /// The value of a field.
    pub(crate) fn of_field(schema: &'s Schema, field: &'s Field) -> Self {
        match &field.shape {
            _ if field.atomic => Self::Leaf,
            Shape::List(item) => match &field.list {
                ListKind::Atomic => Self::Leaf,
                kind => Self::List(kind, item),
            },
            Shape::Message(id) if field.granular => Self::of_message(schema.get(*id)),
            other => Self::of_shape(schema, other),
        }
    }

    /// A value that is not a field: an item of a list, a value of a map.
    pub(crate) fn of_shape(schema: &'s Schema, shape: &'s Shape) -> Self {
        match shape {
            Shape::Object | Shape::Fields | Shape::Any => Self::Deduced,
            Shape::Map(value) => Self::Map(value),
            Shape::Message(id) if !schema.get(*id).atomic => Self::of_message(schema.get(*id)),
            _ => Self::Leaf,
        }
    }

    fn of_message(message: &'s Type) -> Self {
        if message.union.is_some() { Self::Deduced } else { Self::Message(message) }
    }

    /// The value under `key`; `None` if a message has no such field.
    pub(crate) fn child(self, schema: &'s Schema, key: &str) -> Option<Self> {
        match self {
            Self::Message(message) => match message.field(key) {
                Some(field) => Some(Self::of_field(schema, field)),
                None if message.typed && is_type_meta(key) => Some(Self::Leaf),
                None => message.open.then_some(Self::Deduced),
            },
            Self::Map(value) => Some(Self::of_shape(schema, value)),
            Self::Deduced => Some(Self::Deduced),
            Self::Leaf | Self::List(..) => None,
        }
    }

    /// The value of a list's items.
    pub(crate) fn item(self, schema: &'s Schema) -> Self {
        match self {
            Self::List(_, item) => Self::of_shape(schema, item),
            _ => Self::Leaf,
        }
    }

    /// Whether `key` is a field by name, not a key of a map.
    pub(crate) fn names(self, key: &str) -> bool {
        matches!(self, Self::Message(message) if message.field(key).is_some() || (message.typed && is_type_meta(key)))
    }
}

/// The two members that an object has beside the fields of its message.
pub(crate) fn is_type_meta(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind")
}

/// The message type of a list's items, which gives keys their defaults.
pub(crate) fn item_type<'s>(schema: &'s Schema, item: &Shape) -> Option<&'s Type> {
    match item {
        Shape::Message(id) => Some(schema.get(*id)),
        _ => None,
    }
}

/// The built-in messages owned as a whole wherever they stand (`+structType=atomic` upstream); a field may say `map=granular`.
pub(crate) const ATOMIC_TYPES: &[&str] = &[
    "admissionregistration.MatchResources",
    "admissionregistration.NamedRuleWithOperations",
    "admissionregistration.ParamKind",
    "admissionregistration.ParamRef",
    "admissionregistration.Variable",
    "autoscaling.CrossVersionObjectReference",
    "core.ConfigMapKeySelector",
    "core.EndpointAddress",
    "core.EndpointPort",
    "core.EvictionResponder",
    "core.FileKeySelector",
    "core.LocalObjectReference",
    "core.NodeSelector",
    "core.NodeSelectorTerm",
    "core.ObjectFieldSelector",
    "core.ObjectReference",
    "core.ResourceFieldSelector",
    "core.ScopeSelector",
    "core.SecretKeySelector",
    "core.SecretReference",
    "core.TopologySelectorTerm",
    "core.TypedLocalObjectReference",
    "discovery.EndpointPort",
    "meta.LabelSelector",
    "meta.OwnerReference",
    "networking.ServiceBackendPort",
    "rbac.RoleRef",
    "rbac.Subject",
];
