//! What server-side apply sees at a place in an object: the structured-merge-diff schema, derived from ours.

use coracle_tree::Value;

use crate::{
    structural::{self, Additional, Kind},
    types::{Field, ListKind, Schema, SchemaRef, Shape, Type},
};

/// How a value is owned.
#[derive(Clone, Copy)]
pub(crate) enum Node<'s> {
    /// As a whole, for there is nothing in it: a scalar.
    Leaf,
    /// As a whole: an atomic list, map or message.
    Atomic,
    /// Field by field.
    Message(&'s Type),
    /// Key by key.
    Map(&'s Shape),
    /// Item by item.
    List(&'s ListKind, Item<'s>),
    /// Member by member, as the schema of a custom resource says.
    Custom(Custom<'s>),
    /// By what it turns out to be: maps key by key, everything else as a whole (`__untyped_deduced_`).
    Deduced,
}

/// An object of a custom resource.
#[derive(Clone, Copy)]
pub(crate) struct Custom<'s> {
    pub(crate) node: &'s structural::Node,
    /// It has `apiVersion`, `kind` and metadata: the resource itself, or an embedded one.
    pub(crate) typed: bool,
    /// Members without a schema are kept, here and in all places below.
    pub(crate) open: bool,
}

/// What the items of a list are.
#[derive(Clone, Copy)]
pub(crate) enum Item<'s> {
    Shape(&'s Shape),
    Custom { node: Option<&'s structural::Node>, open: bool },
}

/// Where the keys of a list's items have their defaults.
#[derive(Clone, Copy)]
pub(crate) enum Defaults<'s> {
    None,
    Message(&'s Type),
    Custom(&'s structural::Node),
}

impl<'s> Defaults<'s> {
    /// The value of a key that an item lacks.
    pub(crate) fn of(self, key: &str) -> Option<&'s Value> {
        match self {
            Self::None => None,
            Self::Message(message) => message.field(key)?.default.as_ref(),
            Self::Custom(node) => node.property(key)?.default.as_deref(),
        }
    }
}

impl<'s> Custom<'s> {
    /// What stands under `key`; `None` if nothing may.
    fn child(self, schema: &'s Schema, key: &str) -> Option<Node<'s>> {
        if self.typed && is_type_meta(key) {
            return Some(Node::Leaf);
        }
        if self.typed && key == "metadata" {
            return Some(schema.find("meta.ObjectMeta").map_or(Node::Deduced, |id| Node::Message(schema.get(id))));
        }
        if let Some(node) = self.node.property(key) {
            return Some(Node::of_custom(node, self.open));
        }
        match &self.node.additional {
            Additional::Schema(node) => Some(Node::of_custom(node, self.open)),
            Additional::Bool(allowed) => allowed.then_some(Node::Deduced),
            Additional::Unset => (self.open || (self.node.properties.is_empty() && !self.typed)).then_some(Node::Deduced),
        }
    }

    fn names(self, key: &str) -> bool {
        self.node.property(key).is_some() || (self.typed && (key == "metadata" || is_type_meta(key)))
    }
}

impl<'s> Node<'s> {
    /// A whole object.
    pub(crate) fn root(schema: &'s SchemaRef) -> Self {
        match schema.custom() {
            Some(custom) => {
                let open = custom.preserves || custom.root.preserves;
                Self::Custom(Custom { node: &custom.root, typed: true, open })
            }
            None => Self::Message(schema.root()),
        }
    }

    /// A place in a custom resource (kube-openapi `schemaconv/openapi.go`). `open`: a place above keeps unknown members.
    pub(crate) fn of_custom(node: &'s structural::Node, open: bool) -> Self {
        let open = open || node.preserves;
        match node.kind {
            Kind::Object if node.atomic => Self::Atomic,
            Kind::Object => Self::Custom(Custom { node, typed: node.embedded, open }),
            Kind::Array => match &node.list {
                ListKind::Atomic => Self::Atomic,
                kind => Self::List(kind, Item::Custom { node: node.items.as_deref(), open }),
            },
            Kind::Any | Kind::Unknown if !node.properties.is_empty() => Self::Custom(Custom { node, typed: node.embedded, open }),
            Kind::Any | Kind::Unknown => Self::Deduced,
            Kind::String | Kind::Integer | Kind::Number | Kind::Boolean => Self::Leaf,
        }
    }

    /// The value of a field.
    pub(crate) fn of_field(schema: &'s Schema, field: &'s Field) -> Self {
        match &field.shape {
            _ if field.atomic => Self::Atomic,
            Shape::List(item) => match &field.list {
                ListKind::Atomic => Self::Atomic,
                kind => Self::List(kind, Item::Shape(item)),
            },
            Shape::Message(id) if field.granular => Self::of_message(schema.get(*id)),
            other => Self::of_shape(schema, other),
        }
    }

    /// A value that is not a field: an item of a list, a value of a map.
    pub(crate) fn of_shape(schema: &'s Schema, shape: &'s Shape) -> Self {
        match shape {
            // An embedded object is its writer's as a whole.
            Shape::Object => Self::Atomic,
            Shape::Fields | Shape::Any => Self::Deduced,
            Shape::Map(value) => Self::Map(value),
            Shape::List(_) => Self::Atomic,
            Shape::Message(id) if schema.get(*id).atomic => Self::Atomic,
            Shape::Message(id) => Self::of_message(schema.get(*id)),
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
            Self::Custom(custom) => custom.child(schema, key),
            Self::Deduced => Some(Self::Deduced),
            Self::Leaf | Self::Atomic | Self::List(..) => None,
        }
    }

    /// The value of a list's items.
    pub(crate) fn item(self, schema: &'s Schema) -> Self {
        match self {
            Self::List(_, Item::Shape(item)) => Self::of_shape(schema, item),
            Self::List(_, Item::Custom { node: Some(node), open }) => Self::of_custom(node, open),
            _ => Self::Leaf,
        }
    }

    /// Whether `key` is a field by name, not a key of a map.
    pub(crate) fn names(self, key: &str) -> bool {
        match self {
            Self::Message(message) => message.field(key).is_some() || (message.typed && is_type_meta(key)),
            Self::Custom(custom) => custom.names(key),
            _ => false,
        }
    }
}

/// The two members that an object has beside the fields of its message.
pub(crate) fn is_type_meta(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind")
}

/// Where the keys of a list's items have their defaults.
pub(crate) fn key_defaults<'s>(schema: &'s Schema, item: Item<'s>) -> Defaults<'s> {
    match item {
        Item::Shape(Shape::Message(id)) => Defaults::Message(schema.get(*id)),
        Item::Custom { node: Some(node), .. } => Defaults::Custom(node),
        Item::Shape(_) | Item::Custom { node: None, .. } => Defaults::None,
    }
}

/// The built-in messages owned as a whole wherever they stand (`+structType=atomic` upstream); a field may say `map=granular`.
pub(crate) const ATOMIC_TYPES: &[&str] = &[
    "admissionregistration.MatchResources",
    "admissionregistration.NamedRuleWithOperations",
    "admissionregistration.ParamKind",
    "admissionregistration.ParamRef",
    "admissionregistration.Variable",
    "admissionregistrationv1beta1.MatchResources",
    "admissionregistrationv1beta1.NamedRuleWithOperations",
    "admissionregistrationv1beta1.ParamKind",
    "admissionregistrationv1beta1.ParamRef",
    "admissionregistrationv1beta1.Variable",
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
