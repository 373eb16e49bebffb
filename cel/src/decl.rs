//! What the data that variables hold looks like: types with sizes, mapped from structural schemas and built-in messages
//! (apiserver `pkg/cel/types.go`, `common/schemas.go`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use crate::escape::{escape, reserved};
use crate::types::Type;

/// The largest request a server takes, in bytes; sizes that a schema leaves open follow from it.
pub const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// How data is seen by expressions. Cheap to clone.
#[derive(Clone)]
pub struct Decl(Arc<Inner>);

struct Inner {
    shape: Shape,
    ty: Type,
    /// The most elements, entries, characters or bytes: a hint for cost estimates.
    max: u64,
    /// The fewest bytes a value takes as JSON.
    min_bytes: u64,
    nullable: bool,
}

/// How JSON becomes a value.
#[derive(Clone, Debug)]
pub enum Shape {
    /// As it is: objects are maps, whole numbers are `int`.
    Dyn,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
    /// Without a type, kept as it is: may be compared and nothing else.
    Preserved,
    /// `type: boolean`.
    Bool,
    /// `type: integer`.
    Int,
    /// `type: number`.
    Double,
    /// `type: string` without a format of its own here.
    String,
    /// `format: byte`: base64.
    Bytes,
    /// `format: duration`.
    Duration,
    /// `format: date`.
    Date,
    /// `format: date-time`.
    DateTime,
    /// `type: array`.
    List(Decl, Listing),
    /// `additionalProperties`.
    Map(Decl),
    /// `properties`.
    Object(Arc<ObjectType>),
    /// What may be absent.
    Optional(Decl),
    /// A value of the host, never JSON.
    Host,
}

/// How lists are compared and added (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// By position.
    Atomic,
    /// Without order.
    Set,
    /// By the values of these fields.
    Map(Arc<[String]>),
}

impl fmt::Debug for Decl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Decl({})", self.0.ty)
    }
}

impl Decl {
    fn of(shape: Shape, ty: Type, max: u64, min_bytes: u64) -> Decl {
        Decl(Arc::new(Inner { shape, ty, max, min_bytes, nullable: false }))
    }

    /// Any JSON, checked when evaluated only.
    pub fn dynamic() -> Decl {
        static DYN: LazyLock<Decl> = LazyLock::new(|| Decl::of(Shape::Dyn, Type::Dyn, 0, 1));
        DYN.clone()
    }

    /// A string or an integer; `max_length` in code points as the schema has it.
    pub fn int_or_string(max_length: Option<u64>) -> Decl {
        let max = max_length.map_or(MAX_REQUEST_BYTES - 2, |length| length.saturating_mul(4));
        Decl::of(Shape::IntOrString, Type::Dyn, max, 1)
    }

    /// Data without a type that is kept: rules can compare what contains it, and not look into it.
    pub fn preserved() -> Decl {
        Decl::of(Shape::Preserved, Type::Dyn, 0, 1)
    }

    /// `true` or `false`.
    pub fn bool() -> Decl {
        Decl::of(Shape::Bool, Type::Bool, 0, 4)
    }

    /// A whole number.
    pub fn int() -> Decl {
        Decl::of(Shape::Int, Type::Int, 0, 1)
    }

    /// A number.
    pub fn double() -> Decl {
        Decl::of(Shape::Double, Type::Double, 0, 1)
    }

    /// Text of at most `max_length` code points, or of one of the `enumerated` values, or of what a request can hold.
    pub fn string(max_length: Option<u64>, longest_enumerated: Option<u64>) -> Decl {
        let max = max_length.map(|length| length.saturating_mul(4)).or(longest_enumerated).unwrap_or(MAX_REQUEST_BYTES - 2);
        Decl::of(Shape::String, Type::String, max, 2)
    }

    /// A name of a map, which has no size of its own in estimates.
    pub(crate) fn key() -> Decl {
        Decl::of(Shape::String, Type::String, 0, 2)
    }

    /// Octets as base64.
    pub fn bytes(max_length: Option<u64>) -> Decl {
        Decl::of(Shape::Bytes, Type::Bytes, max_length.unwrap_or(MAX_REQUEST_BYTES - 2), 2)
    }

    /// A duration such as `1h30m`.
    pub fn duration() -> Decl {
        Decl::of(Shape::Duration, Type::Duration, 32, 3)
    }

    /// A day.
    pub fn date() -> Decl {
        Decl::of(Shape::Date, Type::Timestamp, 12, 12)
    }

    /// A point of time.
    pub fn date_time() -> Decl {
        Decl::of(Shape::DateTime, Type::Timestamp, 32, 21)
    }

    /// A list of at most `max_items`.
    pub fn list(item: Decl, listing: Listing, max_items: Option<u64>) -> Decl {
        let max = max_items.unwrap_or((MAX_REQUEST_BYTES - 2) / (item.0.min_bytes + 1));
        let ty = Type::list(item.0.ty.clone());
        Decl::of(Shape::List(item, listing), ty, max, 2)
    }

    /// A map from strings, of at most `max_properties`.
    pub fn map(value: Decl, max_properties: Option<u64>) -> Decl {
        let max = max_properties.unwrap_or((MAX_REQUEST_BYTES - 2) / (value.0.min_bytes + 6));
        let ty = Type::map(Type::String, value.0.ty.clone());
        Decl::of(Shape::Map(value), ty, max, 2)
    }

    /// An object with fields; `required` are the names of those that must be there and have no default.
    pub fn object(object: ObjectType, required: &[&str]) -> Decl {
        let needed: u64 = match &object.fields {
            Fields::Known(_) => {
                required.iter().filter_map(|name| Some(name.len() as u64 + object.property(name)?.decl.min_bytes() + 4)).sum()
            }
            Fields::Lazy(_) | Fields::Open => 0,
        };
        let object = Arc::new(object);
        Decl::of(Shape::Object(object.clone()), Type::Object(object), 0, 2 + needed)
    }

    /// A value that the host gives, of the type `ty`.
    pub fn host(ty: Type) -> Decl {
        Decl::of(Shape::Host, ty, 0, 1)
    }

    /// The same, where it may be absent: `oldSelf` of rules that ask for it so.
    pub fn optional(self) -> Decl {
        let ty = Type::optional(self.0.ty.clone());
        Decl::of(Shape::Optional(self), ty, 0, 1)
    }

    /// The same, where `null` is a value.
    pub fn nullable(self) -> Decl {
        let Inner { shape, ty, max, min_bytes, .. } = &*self.0;
        Decl(Arc::new(Inner { shape: shape.clone(), ty: ty.clone(), max: *max, min_bytes: *min_bytes, nullable: true }))
    }

    /// Its static type.
    pub fn ty(&self) -> &Type {
        &self.0.ty
    }

    /// How JSON becomes a value of it.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The most elements, entries, characters or bytes of a value.
    pub fn max(&self) -> u64 {
        self.0.max
    }

    /// The fewest bytes a value takes as JSON.
    pub fn min_bytes(&self) -> u64 {
        self.0.min_bytes
    }

    pub(crate) fn is_nullable(&self) -> bool {
        self.0.nullable
    }

    /// The part that one step of a path names: a field as an identifier, `@items`, `@values` or `@keys`.
    pub(crate) fn part(&self, step: &str) -> Option<Decl> {
        match (self.shape(), step) {
            (Shape::Optional(of), step) => of.part(step),
            // What is indexed may be either; upstream takes one name for the other.
            (Shape::List(item, _), "@items" | "@values") => Some(item.clone()),
            (Shape::Map(value), "@items" | "@values") => Some(value.clone()),
            (Shape::Map(_), "@keys") => Some(Decl::key()),
            (Shape::Object(object), step) => object.field(step).map(|property| property.decl.clone()),
            _ => None,
        }
    }
}

/// A named type with fields. Two are the same if their names are.
pub struct ObjectType {
    name: Arc<str>,
    fields: Fields,
}

enum Fields {
    /// Any field, of any type.
    Open,
    Known(Members),
    Lazy(LazyLock<Members, Box<dyn FnOnce() -> Members + Send>>),
}

#[derive(Default)]
struct Members {
    /// By identifier.
    identifiers: HashMap<Box<str>, usize>,
    /// By name in JSON.
    names: HashMap<Box<str>, usize>,
    properties: Vec<Property>,
}

/// A field.
#[derive(Debug)]
pub struct Property {
    /// The name in JSON.
    pub name: Arc<str>,
    /// What it holds.
    pub decl: Decl,
}

impl Members {
    fn new(fields: impl IntoIterator<Item = (String, Decl)>) -> Members {
        let mut members = Members::default();
        for (name, decl) in fields {
            let at = members.properties.len();
            if let Some(identifier) = escape(&name) {
                members.identifiers.insert(identifier.into(), at);
            }
            members.names.insert(name.as_str().into(), at);
            members.properties.push(Property { name: name.into(), decl });
        }
        members
    }
}

impl fmt::Debug for ObjectType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name)
    }
}

impl ObjectType {
    /// A type `name` with these fields, by their names in JSON.
    pub fn new(name: &str, fields: impl IntoIterator<Item = (String, Decl)>) -> ObjectType {
        ObjectType { name: name.into(), fields: Fields::Known(Members::new(fields)) }
    }

    /// A type whose fields are found out when first asked for: for large and for recursive messages.
    pub fn lazy<F, I>(name: &str, fields: F) -> ObjectType
    where
        F: FnOnce() -> I + Send + 'static,
        I: IntoIterator<Item = (String, Decl)>,
    {
        ObjectType { name: name.into(), fields: Fields::Lazy(LazyLock::new(Box::new(move || Members::new(fields())))) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A type that has every field one asks for: `Object{...}` of mutating policies.
    pub(crate) fn open(name: &str) -> ObjectType {
        ObjectType { name: name.into(), fields: Fields::Open }
    }

    fn members(&self) -> Option<&Members> {
        match &self.fields {
            Fields::Open => None,
            Fields::Known(members) => Some(members),
            Fields::Lazy(members) => Some(members),
        }
    }

    /// The field that the identifier of an expression means.
    pub fn field(&self, identifier: &str) -> Option<&Property> {
        static ANY: LazyLock<Property> = LazyLock::new(|| Property { name: "".into(), decl: Decl::dynamic() });
        let Some(members) = self.members() else { return Some(&ANY) };
        // Reserved words may follow a dot as they are.
        let found = members.identifiers.get(identifier).or_else(|| members.names.get(identifier).filter(|_| reserved(identifier)));
        found.map(|at| &members.properties[*at])
    }

    /// The field with this name in JSON.
    pub fn property(&self, name: &str) -> Option<&Property> {
        let members = self.members()?;
        members.names.get(name).map(|at| &members.properties[*at])
    }
}
