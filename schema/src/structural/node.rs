//! A compiled structural schema: what pruning, defaulting, validation and apply of a custom resource are guided by.
//!
//! Descriptions and the like are left in the stored definition; what most nodes lack is boxed, because a server may hold thousands of these.

use coracle_tree::Value;

use crate::types::ListKind;

/// The schema of one place in a custom resource.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "named as in the API")]
pub struct Node {
    /// `type`
    pub kind: Kind,
    /// `nullable`
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`: members that are not named stay.
    pub preserves: bool,
    /// `x-kubernetes-embedded-resource`: an object with `apiVersion`, `kind` and metadata.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-map-type: atomic`
    pub atomic: bool,
    /// `properties`, in order of their names.
    pub properties: Box<[(Box<str>, Self)]>,
    /// `items`
    pub items: Option<Box<Self>>,
    /// `additionalProperties`
    pub additional: Additional,
    /// `x-kubernetes-list-type` with its keys; absent is atomic.
    pub list: ListKind,
    /// `default`
    pub default: Option<Box<Value>>,
    /// What values must fulfil beyond their type.
    pub checks: Option<Box<Checks>>,
    /// `x-kubernetes-validations`, as stored.
    pub rules: Option<Box<[Value]>>,
}

/// The `type` of a schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum Kind {
    /// None is named.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// Something that is no type of OpenAPI v3.
    Unknown,
}

/// What members beside the properties are.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing is said.
    #[default]
    Unset,
    /// true or false
    Bool(bool),
    /// Each is of this schema.
    Schema(Box<Node>),
}

/// Value validations.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "named as in the API")]
pub struct Checks {
    /// Left out when no format of this name is known for the type.
    pub format: Option<Box<str>>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    /// Characters.
    pub max_length: Option<i64>,
    /// Characters.
    pub min_length: Option<i64>,
    pub pattern: Option<Box<str>>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    /// `enum`
    pub allowed: Box<[Value]>,
    pub required: Box<[Box<str>]>,
    pub all_of: Box<[Node]>,
    pub any_of: Box<[Node]>,
    pub one_of: Box<[Node]>,
    pub not: Option<Box<Node>>,
}

impl Node {
    /// The schema of a property.
    pub fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(key, _)| key.as_ref().cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// Whether this node or one below it, value validations aside, is such.
    pub(super) fn any(&self, is: &impl Fn(&Self) -> bool) -> bool {
        is(self)
            || self.properties.iter().any(|(_, below)| below.any(is))
            || self.items.as_deref().is_some_and(|below| below.any(is))
            || self.additional.schema().is_some_and(|below| below.any(is))
    }

    /// The schema of a member: its property, or what all other members are.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.property(name).or_else(|| self.additional.schema())
    }

    /// Whether the node, or one below it, has a default.
    pub fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.iter().any(|(_, node)| node.has_defaults())
            || self.items.as_ref().is_some_and(|node| node.has_defaults())
            || self.additional.schema().is_some_and(Self::has_defaults)
    }

    /// Whether the node, or one below it, has validation rules.
    pub fn has_rules(&self) -> bool {
        self.rules.is_some()
            || self.properties.iter().any(|(_, node)| node.has_rules())
            || self.items.as_ref().is_some_and(|node| node.has_rules())
            || self.additional.schema().is_some_and(Self::has_rules)
    }
}

impl Additional {
    /// The schema, if there is one.
    pub fn schema(&self) -> Option<&Node> {
        match self {
            Self::Schema(node) => Some(node),
            Self::Unset | Self::Bool(_) => None,
        }
    }

    /// Whether anything is said, `false` included.
    pub fn is_set(&self) -> bool {
        !matches!(self, Self::Unset)
    }
}

impl Kind {
    /// From `type`.
    pub fn parse(text: &str) -> Self {
        match text {
            "" => Self::Any,
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Unknown,
        }
    }

    /// As `type` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any | Self::Unknown => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// Whether it is a type of OpenAPI v3, or none.
    pub fn is_known(self) -> bool {
        self != Self::Unknown
    }
}
