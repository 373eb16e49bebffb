//! Trees of what types of `serde` write.

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};
use serde_json::Error;

use crate::{Map, Text, Value, map::Member};

/// The tree that a type of `serde` writes.
///
/// # Errors
/// Where the type fails, or has a map whose keys are no texts.
pub fn to_value<T: Serialize>(of: T) -> Result<Value, Error> {
    of.serialize(Make)
}

struct Make;

macro_rules! numbers {
    ($($make:ident($of:ty))*) => {$(
        fn $make(self, value: $of) -> Result<Value, Error> {
            Ok(value.into())
        }
    )*};
}

impl Serializer for Make {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    numbers! {
        serialize_bool(bool) serialize_i32(i32) serialize_i64(i64) serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_f64(f64) serialize_str(&str)
    }

    fn serialize_i8(self, value: i8) -> Result<Value, Error> {
        Ok(i32::from(value).into())
    }

    fn serialize_i16(self, value: i16) -> Result<Value, Error> {
        Ok(i32::from(value).into())
    }

    fn serialize_f32(self, value: f32) -> Result<Value, Error> {
        Ok(f64::from(value).into())
    }

    fn serialize_char(self, value: char) -> Result<Value, Error> {
        Ok(value.encode_utf8(&mut [0; 4]).into())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Value, Error> {
        Ok(bytes.into())
    }

    fn serialize_none(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(self, _name: &'static str, _at: u32, variant: &'static str) -> Result<Value, Error> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _at: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        Ok([(variant, value.serialize(self)?)].into_iter().collect())
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Items, Error> {
        Ok(Items { items: Vec::with_capacity(length.unwrap_or(0)), variant: None })
    }

    fn serialize_tuple(self, length: usize) -> Result<Items, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Items, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(self, _name: &'static str, _at: u32, variant: &'static str, length: usize) -> Result<Items, Error> {
        Ok(Items { items: Vec::with_capacity(length), variant: Some(variant) })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Members, Error> {
        Ok(Members { members: Vec::with_capacity(length.unwrap_or(0)), name: None, variant: None })
    }

    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Members, Error> {
        self.serialize_map(Some(length))
    }

    fn serialize_struct_variant(self, _name: &'static str, _at: u32, variant: &'static str, length: usize) -> Result<Members, Error> {
        Ok(Members { members: Vec::with_capacity(length), name: None, variant: Some(variant) })
    }
}

/// A list that is being made; that of a variant stands below its name.
struct Items {
    items: Vec<Value>,
    variant: Option<&'static str>,
}

impl Items {
    fn add<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
        self.items.push(item.serialize(Make)?);
        Ok(())
    }

    fn made(self) -> Value {
        named(self.variant, Value::Array(self.items))
    }
}

/// An object that is being made; that of a variant stands below its name.
struct Members {
    members: Vec<Member>,
    /// Of the value that comes next.
    name: Option<Text>,
    variant: Option<&'static str>,
}

impl Members {
    fn add<T: Serialize + ?Sized>(&mut self, name: Text, value: &T) -> Result<(), Error> {
        self.members.push(Member::new(name, value.serialize(Make)?));
        Ok(())
    }

    fn made(self) -> Value {
        named(self.variant, Value::Object(Map::from_members(self.members)))
    }
}

fn named(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        Some(name) => [(name, value)].into_iter().collect(),
        None => value,
    }
}

macro_rules! add_items {
    ($($part:ident::$add:ident),*) => {$(
        impl $part for Items {
            type Ok = Value;
            type Error = Error;

            fn $add<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
                self.add(item)
            }

            fn end(self) -> Result<Value, Error> {
                Ok(self.made())
            }
        }
    )*};
}

add_items!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! add_members {
    ($($part:ident),*) => {$(
        impl $part for Members {
            type Ok = Value;
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.add(Text::const_new(name), value)
            }

            fn end(self) -> Result<Value, Error> {
                Ok(self.made())
            }
        }
    )*};
}

add_members!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for Members {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.name = Some(match key.serialize(Make)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string().into(),
            Value::Bool(value) => Text::const_new(if value { "true" } else { "false" }),
            _ => return Err(Error::custom("key must be a string")),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let name = self.name.take().ok_or_else(|| Error::custom("a value without a key"))?;
        self.add(name, value)
    }

    fn end(self) -> Result<Value, Error> {
        Ok(self.made())
    }
}
