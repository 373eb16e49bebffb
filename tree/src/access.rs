//! Members and items by name, position and JSON pointer.

use std::{borrow::Cow, ops};

use crate::{Text, Value};

static NULL: Value = Value::Null;

/// What finds a part of a value: the name of a member or the position of an item.
pub trait Index {
    fn part<'v>(&self, of: &'v Value) -> Option<&'v Value>;
    fn part_mut<'v>(&self, of: &'v mut Value) -> Option<&'v mut Value>;
    /// The part to be assigned to: a member that is missing is made, and `null` becomes an object for it.
    ///
    /// # Panics
    /// Where nothing can be assigned to: see [`ops::IndexMut`].
    fn part_or_insert<'v>(&self, of: &'v mut Value) -> &'v mut Value;
}

impl Index for str {
    fn part<'v>(&self, of: &'v Value) -> Option<&'v Value> {
        of.as_object()?.get(self)
    }

    fn part_mut<'v>(&self, of: &'v mut Value) -> Option<&'v mut Value> {
        of.as_object_mut()?.get_mut(self)
    }

    fn part_or_insert<'v>(&self, of: &'v mut Value) -> &'v mut Value {
        if of.is_null() {
            *of = Value::Object(crate::Map::new());
        }
        match of {
            Value::Object(members) => members.entry(self).or_insert(Value::Null),
            other => panic!("no member {self:?} in {other}"),
        }
    }
}

impl Index for usize {
    fn part<'v>(&self, of: &'v Value) -> Option<&'v Value> {
        of.as_array()?.get(*self)
    }

    fn part_mut<'v>(&self, of: &'v mut Value) -> Option<&'v mut Value> {
        of.as_array_mut()?.get_mut(*self)
    }

    fn part_or_insert<'v>(&self, of: &'v mut Value) -> &'v mut Value {
        match of {
            Value::Array(items) => &mut items[*self],
            other => panic!("no item {self} in {other}"),
        }
    }
}

macro_rules! index_as_str {
    ($($text:ty),*) => {$(
        impl Index for $text {
            fn part<'v>(&self, of: &'v Value) -> Option<&'v Value> {
                self.as_str().part(of)
            }

            fn part_mut<'v>(&self, of: &'v mut Value) -> Option<&'v mut Value> {
                self.as_str().part_mut(of)
            }

            fn part_or_insert<'v>(&self, of: &'v mut Value) -> &'v mut Value {
                self.as_str().part_or_insert(of)
            }
        }
    )*};
}

index_as_str!(String, Text);

impl<I: Index + ?Sized> Index for &I {
    fn part<'v>(&self, of: &'v Value) -> Option<&'v Value> {
        (**self).part(of)
    }

    fn part_mut<'v>(&self, of: &'v mut Value) -> Option<&'v mut Value> {
        (**self).part_mut(of)
    }

    fn part_or_insert<'v>(&self, of: &'v mut Value) -> &'v mut Value {
        (**self).part_or_insert(of)
    }
}

impl Value {
    /// The member or item, if there is one.
    pub fn get(&self, index: impl Index) -> Option<&Self> {
        index.part(self)
    }

    pub fn get_mut(&mut self, index: impl Index) -> Option<&mut Self> {
        index.part_mut(self)
    }

    /// What a JSON pointer (RFC 6901) points to.
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<&Self> {
        let Some((step, deeper)) = first(pointer)? else { return Some(self) };
        let part = match self {
            Self::Object(members) => members.get(&unescaped(step)),
            Self::Array(items) => items.get(position(step)?),
            _ => None,
        };
        part?.pointer(deeper)
    }

    /// What a JSON pointer points to, to be changed.
    pub fn pointer_mut(&mut self, pointer: &str) -> Option<&mut Self> {
        let Some((step, deeper)) = first(pointer)? else { return Some(self) };
        let part = match self {
            Self::Object(members) => members.get_mut(&unescaped(step)),
            Self::Array(items) => items.get_mut(position(step)?),
            _ => None,
        };
        part?.pointer_mut(deeper)
    }
}

/// The first step of a pointer and what follows it; nothing is left of one that has arrived, and what does not begin with a slash is none.
fn first(pointer: &str) -> Option<Option<(&str, &str)>> {
    let Some(rest) = pointer.strip_prefix('/') else { return pointer.is_empty().then_some(None) };
    Some(Some(rest.split_at(rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len()))))
}

fn unescaped(step: &str) -> Cow<'_, str> {
    if step.as_bytes().contains(&b'~') { step.replace("~1", "/").replace("~0", "~").into() } else { step.into() }
}

fn position(step: &str) -> Option<usize> {
    let is_canonical = !step.starts_with('+') && (step.len() == 1 || !step.starts_with('0'));
    if is_canonical { step.parse().ok() } else { None }
}

/// The part, or `null` where there is none.
impl<I: Index> ops::Index<I> for Value {
    type Output = Self;

    fn index(&self, index: I) -> &Self {
        index.part(self).unwrap_or(&NULL)
    }
}

/// # Panics
/// Where a name is asked of what is neither object nor `null`, and a position of what has no such item.
impl<I: Index> ops::IndexMut<I> for Value {
    fn index_mut(&mut self, index: I) -> &mut Self {
        index.part_or_insert(self)
    }
}
