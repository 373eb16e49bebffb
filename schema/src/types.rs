//! The data model of the API: messages, fields and their semantics, independent of where they were read from.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

/// All message types of one source: the built-in tables, or one custom resource version.
#[derive(Debug, Default)]
pub struct Schema {
    /// The messages; a [`TypeId`] is an index into this.
    pub types: Vec<Type>,
    /// `core.PodSpec` -> its id.
    pub by_name: HashMap<Box<str>, TypeId>,
}

/// A message type of a [`Schema`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TypeId(pub u32);

/// A schema and the message in it that describes an object: what every algorithm of this crate takes.
#[derive(Clone, Debug)]
pub struct SchemaRef {
    /// Where the types live.
    pub schema: Arc<Schema>,
    /// The object's type.
    pub root: TypeId,
}

/// One message.
#[derive(Debug, Default)]
pub struct Type {
    /// `core.PodSpec`
    pub name: Box<str>,
    /// The JSON view: fields in table order, those of inline members flattened in.
    pub fields: Vec<Field>,
    /// JSON name -> position in `fields`.
    pub index: HashMap<Box<str>, u32>,
    /// The protobuf view: members in table order, inline ones as nested messages.
    pub members: Vec<Member>,
    /// Unknown members are kept (custom resources with `x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
}

/// A member of the protobuf message.
#[derive(Debug)]
pub enum Member {
    /// An ordinary field: position in [`Type::fields`].
    Field(u32),
    /// A nested message whose fields stand flat in the JSON.
    Inline {
        /// Protobuf field number.
        number: u32,
        /// The nested message.
        message: TypeId,
    },
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Protobuf field number, if the field has one.
    pub number: Option<u32>,
    /// JSON name.
    pub name: Box<str>,
    /// What it holds.
    pub shape: Shape,
    /// When it is written.
    pub presence: Presence,
    /// Must be set.
    pub required: bool,
    /// May not change once set.
    pub immutable: bool,
    /// How lists merge.
    pub list: ListKind,
    /// `map=atomic`: the map or message is owned as a whole.
    pub atomic: bool,
    /// How strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// Value when absent.
    pub default: Option<Value>,
    /// Allowed strings; empty: any.
    pub allowed: Vec<Box<str>>,
    /// Limits, each only if the table names it.
    pub limits: Limits,
}

/// What a field holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Shape {
    /// UTF-8 text.
    String,
    /// true or false.
    Bool,
    /// 32-bit signed.
    Int32,
    /// 64-bit signed.
    Int64,
    /// Double precision.
    Float64,
    /// Base64 text in JSON.
    Bytes,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go duration text.
    Duration,
    /// `resource.Quantity`.
    Quantity,
    /// Number or text.
    IntOrString,
    /// Any object with a kind (`runtime.RawExtension`, embedded objects).
    Object,
    /// `FieldsV1`.
    Fields,
    /// Any JSON.
    Any,
    /// A list.
    List(Box<Shape>),
    /// A map with text keys.
    Map(Box<Shape>),
    /// A message.
    Message(TypeId),
}

/// When a field is written to JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Presence {
    /// Left out when zero (`omitempty` on a value).
    #[default]
    WhenSet,
    /// Written whenever it was given, zero included (a pointer in Go).
    Optional,
    /// Always written, even when zero.
    Always,
}

/// How server-side apply treats a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ListKind {
    /// Owned as a whole.
    #[default]
    Atomic,
    /// Each scalar owned by itself.
    Set,
    /// Each item owned by itself, told apart by these keys.
    Map(Vec<Box<str>>),
}

/// How strategic merge patch treats a field.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PatchStrategy {
    /// Merge instead of replace.
    pub merge: bool,
    /// The patch may name the keys to keep.
    pub retain_keys: bool,
    /// The key by which list items are told apart.
    pub key: Option<Box<str>>,
}

/// Numeric and length limits.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(missing_docs, reason = "named as in the tables")]
pub struct Limits {
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub max_length: Option<u64>,
    pub max_items: Option<u64>,
    pub max_bytes: Option<u64>,
    pub format: Option<Box<str>>,
}

impl Schema {
    /// The message with this id.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }
}

impl Type {
    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index.get(name).map(|at| &self.fields[*at as usize])
    }
}

impl SchemaRef {
    /// The object's type.
    pub fn root(&self) -> &Type {
        self.schema.get(self.root)
    }
}
