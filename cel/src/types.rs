//! The static types of expressions (cel-go `common/types`), and how the messages of the type checker spell them.

use std::fmt;
use std::sync::Arc;

use crate::decl::ObjectType;

/// The static type of an expression.
#[derive(Clone, Debug)]
pub enum Type {
    /// Checked when evaluated only.
    Dyn,
    /// Of an expression that could not be typed; silences errors that would follow from the first.
    Error,
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool,
    /// A signed 64-bit integer.
    Int,
    /// An unsigned 64-bit integer.
    Uint,
    /// A 64-bit float.
    Double,
    /// Unicode text.
    String,
    /// Octets.
    Bytes,
    /// A span of time, in nanoseconds.
    Duration,
    /// A point of time.
    Timestamp,
    /// A list of elements.
    List(Arc<Type>),
    /// Keys and values.
    Map(Arc<(Type, Type)>),
    /// A message with named fields.
    Object(Arc<ObjectType>),
    /// A named type with parameters, such as `optional_type`.
    Opaque(&'static str, Arc<[Type]>),
    /// A type still to be found out.
    Param(Param),
    /// The type of a type.
    Meta(Option<Arc<Type>>),
}

/// A type parameter of an overload, or a variable of the type checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Param {
    /// As declared by an overload: `A`, `B`, …
    Declared(char),
    /// Made by the checker.
    Variable(u32),
}

/// What a type is, without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dyn,
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List,
    Map,
    Object,
    Opaque,
    Param,
    Meta,
}

/// The name of the optional type.
pub(crate) const OPTIONAL: &str = "optional_type";

impl Type {
    /// A list of `element`s.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    /// A map from `key` to `value`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// A value that may be absent.
    pub fn optional(of: Type) -> Type {
        Type::Opaque(OPTIONAL, Arc::new([of]))
    }

    /// A message type that has a name and no fields to select.
    pub fn named(name: &str) -> Type {
        Type::Object(Arc::new(ObjectType::new(name, [])))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Type::Dyn => Kind::Dyn,
            Type::Error => Kind::Error,
            Type::Null => Kind::Null,
            Type::Bool => Kind::Bool,
            Type::Int => Kind::Int,
            Type::Uint => Kind::Uint,
            Type::Double => Kind::Double,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Duration => Kind::Duration,
            Type::Timestamp => Kind::Timestamp,
            Type::List(_) => Kind::List,
            Type::Map(_) => Kind::Map,
            Type::Object(_) => Kind::Object,
            Type::Opaque(..) => Kind::Opaque,
            Type::Param(_) => Kind::Param,
            Type::Meta(_) => Kind::Meta,
        }
    }

    /// The name without parameters, as `type()` shows it.
    pub fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Object(object) => object.name(),
            Type::Opaque(name, _) => name,
            Type::Param(_) => "param",
            Type::Meta(_) => "type",
        }
    }

    /// What an optional type holds.
    pub(crate) fn optional_of(&self) -> Option<&Type> {
        match self {
            Type::Opaque(OPTIONAL, of) => of.first(),
            _ => None,
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    /// Of fixed size: comparing two costs nothing that depends on data.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            _ => self.optional_of().is_some_and(Type::is_scalar),
        }
    }

    /// The type of the elements of a list.
    pub(crate) fn element(&self) -> Option<&Type> {
        match self {
            Type::List(element) => Some(element),
            _ => None,
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) => a == b,
            (Type::Map(a), Type::Map(b)) => a == b,
            (Type::Object(a), Type::Object(b)) => a.name() == b.name(),
            (Type::Opaque(a, of_a), Type::Opaque(b, of_b)) => a == b && of_a == of_b,
            (Type::Param(a), Type::Param(b)) => a == b,
            (Type::Meta(a), Type::Meta(b)) => a == b,
            _ => self.kind() == other.kind() && self.has_no_parts(),
        }
    }
}

impl Type {
    fn has_no_parts(&self) -> bool {
        !matches!(self, Type::List(_) | Type::Map(_) | Type::Object(_) | Type::Opaque(..) | Type::Param(_) | Type::Meta(_))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => out.write_str("null"),
            Type::Duration => out.write_str("duration"),
            Type::Timestamp => out.write_str("timestamp"),
            Type::List(element) => write!(out, "list({element})"),
            Type::Map(entry) => write!(out, "map({}, {})", entry.0, entry.1),
            Type::Opaque(name, of) if !of.is_empty() => {
                write!(out, "{name}(")?;
                for (at, one) in of.iter().enumerate() {
                    write!(out, "{}{one}", if at > 0 { ", " } else { "" })?;
                }
                out.write_str(")")
            }
            Type::Param(Param::Declared(name)) => write!(out, "{name}"),
            Type::Param(Param::Variable(number)) => write!(out, "_var{number}"),
            Type::Meta(Some(of)) => write!(out, "type({of})"),
            _ => out.write_str(self.name()),
        }
    }
}

/// The arguments of a call as messages show them: `(int, string)` or `string.(int)` for a method.
pub(crate) fn signature(arguments: &[Type], method: bool) -> String {
    let (target, rest) = match (method, arguments.split_first()) {
        (true, Some((target, rest))) => (format!("{target}."), rest),
        _ => (String::new(), arguments),
    };
    let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
    format!("{target}({})", rest.join(", "))
}
