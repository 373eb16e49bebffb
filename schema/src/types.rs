//! The data model of the API: messages, fields and their semantics, independent of where they were read from.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, OnceLock},
};

use coracle_tree::{Map, Text, Value};

use crate::{places::Places, proto};

/// All message types of one source: the built-in tables, or one custom resource version.
#[derive(Debug, Default)]
pub struct Schema {
    /// The messages; a [`TypeId`] is an index into this.
    pub types: Vec<Type>,
    /// `core.PodSpec` -> its id.
    pub by_name: HashMap<Box<str>, TypeId>,
    /// The types that come before these: the built-in ones, where this schema is that of a custom resource.
    pub base: Option<Arc<Self>>,
    /// What describes the objects of a custom resource.
    pub custom: Option<crate::structural::Custom>,
    /// How the messages are written as protobuf; made when the first one is.
    plan: OnceLock<proto::Plan>,
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
    /// What [`Type::position`] asks. Made by [`Type::new`].
    places: Places,
    /// Positions in `fields` of those that stand in JSON even when they were not given. Made by [`Type::new`].
    pub written: Box<[u32]>,
    /// The protobuf view: members in table order, inline ones as nested messages.
    pub members: Vec<Member>,
    /// Positions in `members` by field number, ordered. Made by [`Type::new`].
    numbers: Box<[(u32, u32)]>,
    /// Unknown members are kept (custom resources with `x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
    /// Its JSON has `apiVersion` and `kind` beside the fields: an object, a list or options.
    pub typed: bool,
    /// Positions in `fields` of those that validation must look at, for themselves or for what is below. Made by [`Schema::new`].
    pub checked: Box<[u32]>,
    /// Those fields that defaulting may fill in, or must enter. Made by [`Schema::new`].
    pub filled: Box<[u32]>,
    /// Those fields that are lists which stand in JSON even without items, or have such lists below. Made by [`Schema::new`].
    pub listed: Box<[u32]>,
    /// Server-side apply owns the message as a whole wherever it stands, unless a field is [`Field::granular`].
    pub atomic: bool,
    /// In JSON the message stands as one of two forms; it has no fields of its own then.
    pub union: Option<Union>,
}

/// A JSON union: either the message, or another form (`JSONSchemaPropsOrArray`, `…OrBool`, `…OrStringArray`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Union {
    /// The form that is a JSON object.
    pub message: TypeId,
    /// The other form.
    pub other: Alternative,
}

/// The form of a [`Union`] that is not its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alternative {
    /// A list of the message.
    List,
    /// true or false.
    Bool,
    /// A list of text.
    Strings,
}

/// A member of the protobuf message.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct Field {
    /// Protobuf field number, if the field has one.
    pub number: Option<u32>,
    /// JSON name.
    pub name: Text,
    /// What it holds.
    pub shape: Shape,
    /// When it is written.
    pub presence: Presence,
    /// Must be set.
    pub required: bool,
    /// Published as not required although it is always written.
    pub optional: bool,
    /// May not change once set.
    pub immutable: bool,
    /// How lists merge.
    pub list: ListKind,
    /// `map=atomic`: the map or message is owned as a whole.
    pub atomic: bool,
    /// `map=granular`: owned field by field although its message is atomic elsewhere.
    pub granular: bool,
    /// How strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// Value when absent.
    pub default: Option<Value>,
    /// Allowed strings; empty: any.
    pub allowed: Vec<Box<str>>,
    /// The text that tells which of the message's other fields counts (a union's discriminator).
    pub discriminator: bool,
    /// A list that is a message of its own in protobuf, as `Verbs` of discovery is.
    pub nested: bool,
    /// Limits, if the table names any.
    pub limits: Option<Box<Limits>>,
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

impl Field {
    /// Its name as the key of a member: copied, where `to_string` of a boxed text formats it.
    pub fn key(&self) -> Text {
        self.name.clone()
    }

    /// Whether it stands in JSON when it was not given. Go's `omitempty` does not see an empty struct as empty; only one time has `omitzero`.
    pub fn is_always_written(&self) -> bool {
        match (self.presence, &self.shape) {
            (Presence::Optional, _) => false,
            (Presence::Always | Presence::Nullable, _) => true,
            (Presence::WhenSet, Shape::Time) => &*self.name != "creationTimestamp",
            (Presence::WhenSet, shape) => matches!(
                shape,
                Shape::Message(_) | Shape::MicroTime | Shape::Duration | Shape::Quantity | Shape::IntOrString | Shape::Object
            ),
        }
    }
}

impl Shape {
    /// The message it holds, directly or in lists and maps.
    pub fn message(&self) -> Option<TypeId> {
        match self {
            Self::Message(id) => Some(*id),
            Self::List(inner) | Self::Map(inner) => inner.message(),
            _ => None,
        }
    }
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
    /// Always written, as null when it was not given (a pointer without `omitempty`; `?!` in the tables).
    Nullable,
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
    /// Merge lists instead of replacing them.
    pub merge: bool,
    /// Replace a message instead of merging it.
    pub replace: bool,
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
    /// A schema of these messages; knows which of them defaulting and validation must enter.
    pub fn new(mut types: Vec<Type>, by_name: HashMap<Box<str>, TypeId>) -> Self {
        let checked = leading_to(&types, |field| {
            field.required || field.immutable || !field.allowed.is_empty() || field.limits.is_some() || field.list != ListKind::Atomic
        });
        let filled = leading_to(&types, |field| field.default.is_some());
        let listed = leading_to(&types, |field| field.is_always_written() && matches!(field.shape, Shape::List(_)));
        for (of, ((checked, filled), listed)) in types.iter_mut().zip(checked.into_iter().zip(filled).zip(listed)) {
            (of.checked, of.filled, of.listed) = (checked, filled, listed);
        }
        Self { types, by_name, plan: OnceLock::new(), base: None, custom: None }
    }

    /// Calls `enter` with every message that a value of a shape is, or holds in lists and maps: with that of the form that is there where it
    /// may have two. What is inside of messages is left to `enter`.
    pub(crate) fn enter_messages(&self, shape: &Shape, value: &mut Value, enter: &mut dyn FnMut(&Type, &mut Map)) {
        match (shape, value) {
            (Shape::Message(id), value) => match (self.get(*id).union, value) {
                (Some(union), Value::Object(members)) => enter(self.get(union.message), members),
                (Some(union), Value::Array(items)) => {
                    items.iter_mut().for_each(|item| self.enter_messages(&Shape::Message(union.message), item, enter));
                }
                (None, Value::Object(members)) => enter(self.get(*id), members),
                _ => {}
            },
            (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| self.enter_messages(inner, item, enter)),
            (Shape::Map(inner), Value::Object(items)) => items.values_mut().for_each(|item| self.enter_messages(inner, item, enter)),
            _ => {}
        }
    }

    pub(crate) fn plan(&self) -> &proto::Plan {
        self.plan.get_or_init(|| proto::Plan::new(self))
    }

    /// The schema of a custom resource: one message that stands for the whole object, beside the built-in ones.
    pub(crate) fn of_custom(shell: Type, base: Arc<Self>, custom: crate::structural::Custom) -> Self {
        Self { types: vec![shell], base: Some(base), custom: Some(custom), ..Self::default() }
    }

    /// The message with this id.
    pub fn get(&self, id: TypeId) -> &Type {
        let at = id.0 as usize;
        match &self.base {
            None => &self.types[at],
            Some(base) if at < base.types.len() => &base.types[at],
            Some(base) => &self.types[at - base.types.len()],
        }
    }

    /// The message of this name, here or in what comes before.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied().or_else(|| self.base.as_ref().and_then(|base| base.find(name)))
    }
}

impl Type {
    /// A message of these fields; `members` is the protobuf view of them.
    pub fn new(name: impl Into<Box<str>>, fields: Vec<Field>, members: Vec<Member>) -> Self {
        let places = Places::new(&fields);
        let written = fields.iter().zip(0..).filter(|(field, _)| field.is_always_written()).map(|(_, at)| at).collect();
        let number_of = |member: &Member| match member {
            Member::Field(at) => fields[*at as usize].number,
            Member::Inline { number, .. } => Some(*number),
        };
        let mut numbers: Vec<(u32, u32)> = members.iter().zip(0..).filter_map(|(m, at)| Some((number_of(m)?, at))).collect();
        numbers.sort_unstable();
        let name = name.into();
        let atomic = crate::managed::ATOMIC_TYPES.contains(&&*name);
        Self { name, fields, places, written, members, numbers: numbers.into(), atomic, ..Self::default() }
    }

    /// The protobuf member of this field number.
    pub fn member(&self, number: u32) -> Option<&Member> {
        let at = self.numbers.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        self.members.get(self.numbers[at].1 as usize)
    }

    /// The position in `fields` of the field with this JSON name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.places.of(name, &self.fields)
    }

    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.position(name).map(|at| &self.fields[at])
    }

    /// A JSON name that stands twice, if any: a mistake of whoever built the type.
    pub fn duplicate(&self) -> Option<&str> {
        let mut seen = HashSet::new();
        self.fields.iter().map(|field| field.name.as_str()).find(|name| !seen.insert(*name))
    }

    /// `PodSpec` of `core.PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// For each message the positions of the fields of which `says` holds, or that lead to such a field in a message below. Messages may hold
/// themselves; of those that are not among `types` nothing is known.
fn leading_to(types: &[Type], says: impl Fn(&Field) -> bool) -> Vec<Box<[u32]>> {
    let mut any: Vec<bool> = types.iter().map(|of| of.fields.iter().any(&says)).collect();
    let leads = |any: &[bool], id: TypeId| any.get(id.0 as usize).copied().unwrap_or(true);
    let below = |any: &[bool], field: &Field| field.shape.message().is_some_and(|id| leads(any, id));
    loop {
        let before = any.iter().filter(|any| **any).count();
        for (at, of) in types.iter().enumerate() {
            any[at] = any[at] || of.fields.iter().any(|f| below(&any, f)) || of.union.is_some_and(|u| leads(&any, u.message));
        }
        if any.iter().filter(|any| **any).count() == before {
            break;
        }
    }
    let fields = |of: &Type| of.fields.iter().zip(0..).filter(|(f, _)| says(f) || below(&any, f)).map(|(_, at)| at).collect();
    types.iter().map(fields).collect()
}

impl SchemaRef {
    /// The object's type.
    pub fn root(&self) -> &Type {
        self.schema.get(self.root)
    }

    /// What describes the objects, if they are those of a custom resource.
    pub fn custom(&self) -> Option<&crate::structural::Custom> {
        let is_root = self.schema.base.as_ref().is_some_and(|base| self.root.0 as usize == base.types.len());
        self.schema.custom.as_ref().filter(|_| is_root)
    }

    /// The type of metadata, among the types of this schema.
    pub fn metadata(&self) -> Option<Self> {
        self.schema.find("meta.ObjectMeta").map(|root| self.at(root))
    }

    /// The same schema seen from another message.
    pub fn at(&self, root: TypeId) -> Self {
        Self { schema: Arc::clone(&self.schema), root }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
