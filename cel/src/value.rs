//! Values while an expression is evaluated. Scalars are copied, JSON is looked at where it lies.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use coracle_tree::{Map as JsonMap, Value as Json};

use crate::decl::{Decl, Listing, ObjectType};
use crate::host::Host;
use crate::time::Timestamp;
use crate::types::{Kind, Type};

/// A value.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A float.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Octets.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// A point of time.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A value that may be absent.
    Optional(Option<Arc<Val<'a>>>),
    /// A type, by its name.
    Type(Arc<Type>),
    /// A message that the expression made.
    Object(Arc<Object<'a>>),
    /// JSON of which nothing is known but that it can be compared.
    Preserved(&'a Json),
    /// A value with functions of its own.
    Host(Host<'a>),
}

/// Text, borrowed from data or made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// As it stands in the data or in the expression.
    Slice(&'a str),
    /// Computed.
    Shared(Arc<str>),
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// As it stands in the data.
    Json(&'a [Json], &'a Decl, &'a Listing),
    /// Computed.
    Shared(Arc<Vec<Val<'a>>>),
    /// Computed from a list with a semantic of its own.
    Keyed(Arc<Vec<Val<'a>>>, &'a Listing),
}

/// A map.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// As it stands in the data; every value is seen as the declaration says.
    Json(&'a JsonMap, &'a Decl),
    /// An object of the data, with its type.
    Object(&'a JsonMap, &'a ObjectType),
    /// Computed.
    Shared(Arc<Table<'a>>),
}

/// The entries of a computed map, in order of insertion; keys are unique.
#[derive(Clone, Debug, Default)]
pub struct Table<'a> {
    entries: Vec<(Val<'a>, Val<'a>)>,
    places: HashMap<Key<'a>, usize>,
}

/// A value by which entries are found: numbers of all kinds that count the same are the same.
#[derive(Clone, Debug)]
pub(crate) enum Key<'a> {
    Bool(bool),
    Whole(i128),
    Double(u64),
    Text(Text<'a>),
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Key<'_>) -> bool {
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a == b,
            (Key::Whole(a), Key::Whole(b)) => a == b,
            (Key::Double(a), Key::Double(b)) => a == b,
            (Key::Text(a), Key::Text(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for Key<'_> {}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Key::Bool(value) => value.hash(state),
            Key::Whole(number) => number.hash(state),
            Key::Double(bits) => bits.hash(state),
            Key::Text(text) => text.as_str().hash(state),
        }
    }
}

impl<'a> Key<'a> {
    /// The key that a value is, if it can be one.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn of(value: &Val<'a>) -> Option<Key<'a>> {
        Some(match value {
            Val::Bool(value) => Key::Bool(*value),
            Val::Int(number) => Key::Whole((*number).into()),
            Val::Uint(number) => Key::Whole((*number).into()),
            Val::Double(number) if number.is_nan() => return None,
            Val::Double(number) if number.fract() == 0.0 && number.abs() < 1e30 => Key::Whole(*number as i128),
            Val::Double(number) => Key::Double(number.to_bits()),
            Val::String(text) => Key::Text(text.clone()),
            _ => return None,
        })
    }
}

impl<'a> Table<'a> {
    /// The entries, in order.
    pub fn entries(&self) -> &[(Val<'a>, Val<'a>)] {
        &self.entries
    }

    /// The value of a key.
    pub fn get(&self, key: &Val<'a>) -> Option<&Val<'a>> {
        self.place(key).map(|at| &self.entries[at].1)
    }

    fn place(&self, key: &Val<'a>) -> Option<usize> {
        match Key::of(key) {
            Some(key) => self.places.get(&key).copied(),
            None => self.entries.iter().position(|(known, _)| crate::equal::equal(known, key) == Ok(true)),
        }
    }

    /// Sets the value of a key.
    pub fn set(&mut self, key: Val<'a>, value: Val<'a>) {
        match self.place(&key) {
            Some(at) => self.entries[at].1 = value,
            None => {
                if let Some(key) = Key::of(&key) {
                    self.places.insert(key, self.entries.len());
                }
                self.entries.push((key, value));
            }
        }
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, key: &Val<'a>) {
        if self.place(key).is_some() {
            let entries = std::mem::take(self).entries;
            entries
                .into_iter()
                .filter(|(known, _)| crate::equal::equal(known, key) != Ok(true))
                .for_each(|(key, value)| self.set(key, value));
        }
    }

    /// Adds a key that is new (`cel.@mapInsert`).
    pub(crate) fn insert(&mut self, key: Val<'a>, value: Val<'a>) -> Result<(), crate::EvalError> {
        if self.place(&key).is_some() {
            return Err(crate::EvalError::new(format!("insert failed: key {key} already exists")));
        }
        self.set(key, value);
        Ok(())
    }
}

impl<'a> FromIterator<(Val<'a>, Val<'a>)> for Table<'a> {
    fn from_iter<I: IntoIterator<Item = (Val<'a>, Val<'a>)>>(entries: I) -> Self {
        let mut table = Table::default();
        entries.into_iter().for_each(|(key, value)| table.set(key, value));
        table
    }
}

impl<'a> From<Table<'a>> for Val<'a> {
    fn from(table: Table<'a>) -> Self {
        Val::Map(Map::Shared(Arc::new(table)))
    }
}

/// A message that an expression made: `Object{...}`.
#[derive(Debug)]
pub struct Object<'a> {
    /// The name of its type.
    pub name: &'a str,
    /// What was set, by identifiers, in order.
    pub fields: Vec<(&'a str, Val<'a>)>,
}

impl<'a> From<&'a str> for Val<'a> {
    fn from(text: &'a str) -> Val<'a> {
        Val::String(Text::Slice(text))
    }
}

impl From<String> for Val<'_> {
    fn from(text: String) -> Self {
        Val::String(Text::Shared(text.into()))
    }
}

impl<'a> From<Vec<Val<'a>>> for Val<'a> {
    fn from(list: Vec<Val<'a>>) -> Self {
        Val::List(List::Shared(Arc::new(list)))
    }
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Slice(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl<'a> Val<'a> {
    /// An optional that has a value.
    pub fn some(value: Val<'a>) -> Val<'a> {
        Val::Optional(Some(Arc::new(value)))
    }

    /// As JSON, or why it cannot be.
    pub fn to_json(&self) -> Result<coracle_tree::Value, crate::EvalError> {
        crate::view::json(self)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Val::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Val::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The type as `type()` gives it: without parameters.
    pub fn ty(&self) -> Type {
        match self {
            Val::Null => Type::Null,
            Val::Bool(_) => Type::Bool,
            Val::Int(_) => Type::Int,
            Val::Uint(_) => Type::Uint,
            Val::Double(_) => Type::Double,
            Val::String(_) => Type::String,
            Val::Bytes(_) => Type::Bytes,
            Val::Duration(_) => Type::Duration,
            Val::Timestamp(_) => Type::Timestamp,
            Val::List(_) => Type::list(Type::Dyn),
            Val::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Val::Optional(_) => Type::optional(Type::Dyn),
            Val::Type(_) => Type::Meta(None),
            Val::Object(object) => Type::named(object.name),
            Val::Preserved(_) => Type::named("unknown"),
            Val::Host(host) => host.ty(),
        }
    }

    /// The kind of its type.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Val::Null => Kind::Null,
            Val::Bool(_) => Kind::Bool,
            Val::Int(_) => Kind::Int,
            Val::Uint(_) => Kind::Uint,
            Val::Double(_) => Kind::Double,
            Val::String(_) => Kind::String,
            Val::Bytes(_) => Kind::Bytes,
            Val::Duration(_) => Kind::Duration,
            Val::Timestamp(_) => Kind::Timestamp,
            Val::List(_) => Kind::List,
            Val::Map(_) => Kind::Map,
            Val::Type(_) => Kind::Meta,
            Val::Optional(_) | Val::Object(_) | Val::Preserved(_) | Val::Host(_) => self.ty().kind(),
        }
    }

    /// The length as cost accounting counts it: code points, bytes, elements, entries; one for all else.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Val::String(text) => code_points(text.as_str()),
            Val::Bytes(bytes) => bytes.len() as u64,
            Val::List(list) => list.len() as u64,
            Val::Map(map) => map.len() as u64,
            Val::Optional(Some(value)) => value.size(),
            Val::Host(host) => host.size(),
            _ => 1,
        }
    }

    /// Whether it is what its type holds if nothing was set.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Val::Null => true,
            Val::Bool(value) => !value,
            Val::Int(value) | Val::Duration(value) => *value == 0,
            Val::Uint(value) => *value == 0,
            Val::Double(value) => *value == 0.0,
            Val::String(text) => text.as_str().is_empty(),
            Val::Bytes(bytes) => bytes.is_empty(),
            Val::List(List::Shared(list)) => list.is_empty(),
            Val::Map(Map::Shared(map)) => map.entries.is_empty(),
            Val::Map(Map::Json(map, decl)) => map.is_empty() && decl.ty().is_dyn(),
            Val::List(List::Json(list, decl, _)) => list.is_empty() && decl.ty().is_dyn(),
            Val::Timestamp(time) => time.is_zero(),
            _ => false,
        }
    }
}

impl Val<'static> {
    /// A constant as a value of one evaluation: its text is looked at where it lies, rather than counted up and down by every thread.
    #[inline]
    pub(crate) fn lent<'a>(&'a self) -> Val<'a> {
        match self {
            Val::String(text) => Val::String(Text::Slice(text.as_str())),
            other => other.clone(),
        }
    }
}

/// The number of characters, quickly if all are ASCII.
pub(crate) fn code_points(text: &str) -> u64 {
    if text.is_ascii() { text.len() as u64 } else { text.chars().count() as u64 }
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, ..) => items.len(),
            List::Shared(items) | List::Keyed(items, _) => items.len(),
        }
    }

    /// Without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements from one position on; of data that does not fit its type, errors.
    pub fn get(&self, at: usize) -> Option<Result<Val<'a>, crate::EvalError>> {
        match self {
            List::Json(items, decl, _) => items.get(at).map(|item| crate::view::value(item, decl)),
            List::Shared(items) | List::Keyed(items, _) => items.get(at).cloned().map(Ok),
        }
    }

    /// Each element.
    pub fn iter(&self) -> impl Iterator<Item = Result<Val<'a>, crate::EvalError>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

impl Map<'_> {
    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) | Map::Object(map, _) => map.len(),
            Map::Shared(map) => map.entries.len(),
        }
    }

    /// Without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Shows a value within a message, as `%v` does upstream.
impl fmt::Display for Val<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Val::Null => out.write_str("NULL_VALUE"),
            Val::Bool(value) => write!(out, "{value}"),
            Val::Int(value) => write!(out, "{value}"),
            Val::Uint(value) => write!(out, "{value}"),
            Val::Double(value) => out.write_str(&crate::convert::double_text(*value)),
            Val::String(text) => out.write_str(text.as_str()),
            Val::Bytes(bytes) => write!(out, "{bytes:?}"),
            Val::Duration(nanos) => out.write_str(&crate::time::duration_text(*nanos)),
            Val::Timestamp(time) => write!(out, "{time}"),
            Val::Type(ty) => out.write_str(ty.name()),
            Val::Optional(None) => out.write_str("optional.none()"),
            Val::Optional(Some(value)) => write!(out, "optional({value})"),
            Val::List(list) => {
                out.write_str("[")?;
                for (at, item) in list.iter().flatten().enumerate() {
                    write!(out, "{}{item}", if at > 0 { ", " } else { "" })?;
                }
                out.write_str("]")
            }
            Val::Map(_) => out.write_str("map"),
            Val::Object(object) => out.write_str(object.name),
            Val::Preserved(json) => write!(out, "{json}"),
            Val::Host(host) => write!(out, "{host}"),
        }
    }
}

/// Orders two values of the same kind; numbers of all kinds can be ordered among one another. `None`: they cannot.
pub(crate) fn compare(one: &Val<'_>, other: &Val<'_>) -> Option<Ordering> {
    Some(match (one, other) {
        (Val::Int(a), Val::Int(b)) | (Val::Duration(a), Val::Duration(b)) => a.cmp(b),
        (Val::Uint(a), Val::Uint(b)) => a.cmp(b),
        (Val::Int(a), Val::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Val::Uint(a), Val::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b)?,
        (Val::Double(a), Val::Int(b)) => double_to_int(*a, *b)?,
        (Val::Int(a), Val::Double(b)) => double_to_int(*b, *a)?.reverse(),
        (Val::Double(a), Val::Uint(b)) => double_to_uint(*a, *b)?,
        (Val::Uint(a), Val::Double(b)) => double_to_uint(*b, *a)?.reverse(),
        (Val::String(a), Val::String(b)) => a.as_str().cmp(b.as_str()),
        (Val::Bytes(a), Val::Bytes(b)) => a.cmp(b),
        (Val::Bool(a), Val::Bool(b)) => a.cmp(b),
        (Val::Timestamp(a), Val::Timestamp(b)) => a.cmp(b),
        _ => return None,
    })
}

#[allow(clippy::cast_precision_loss)]
fn double_to_int(double: f64, int: i64) -> Option<Ordering> {
    if double < i64::MIN as f64 {
        return Some(Ordering::Less);
    }
    if double > i64::MAX as f64 {
        return Some(Ordering::Greater);
    }
    double.partial_cmp(&(int as f64))
}

#[allow(clippy::cast_precision_loss)]
fn double_to_uint(double: f64, uint: u64) -> Option<Ordering> {
    if double < 0.0 {
        return Some(Ordering::Less);
    }
    if double > u64::MAX as f64 {
        return Some(Ordering::Greater);
    }
    double.partial_cmp(&(uint as f64))
}
