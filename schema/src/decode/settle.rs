//! The pass over a value that is read already: what [`super::visit`] makes of a body, made in place. What has its stored form, as almost
//! all of a patched or applied object has, is looked at and left where it is.

use coracle_tree::{Map, Value};
use serde::de::Visitor;

use super::{
    path::Path,
    visit::{Bits, Seed},
    zero,
};
use crate::types::{Shape, Type};

impl<'a> Seed<'a> {
    /// Brings a value into its stored form. When it fails, the session has the reason, and the value is of no use.
    pub(super) fn settle(self, value: &mut Value) -> Result<(), serde_json::Error> {
        match (self.shape, &mut *value) {
            (Shape::Any | Shape::Object | Shape::Fields, _)
            | (Shape::String | Shape::IntOrString | Shape::Duration, Value::String(_))
            | (Shape::Bool, Value::Bool(_)) => return Ok(()),
            (Shape::Message(id), Value::Object(members)) => return self.settle_message(self.message_of(*id), members),
            (Shape::Map(of), Value::Object(members)) => return self.settle_map(of, members),
            (_, Value::Object(_)) => return self.mismatch("object"),
            (_, Value::Array(items)) => {
                let Some(of) = self.item() else { return self.mismatch("array") };
                return self.settle_items(&of, items);
            }
            _ => {}
        }
        *value = match value.take() {
            Value::Bool(given) => self.visit_bool(given)?,
            Value::Number(given) => self.number(&given)?,
            Value::String(given) => self.text(given)?,
            _ => self.visit_unit()?,
        };
        Ok(())
    }

    fn settle_items(self, of: &Shape, items: &mut [Value]) -> Result<(), serde_json::Error> {
        for (at, item) in items.iter_mut().enumerate() {
            let path = Path::Index { parent: self.path, at };
            Seed { session: self.session, shape: of, path: &path, root: false, coarse: false }.settle(item)?;
            if item.is_null() {
                *item = zero::value(self.session.schema, of);
            }
        }
        Ok(())
    }

    fn settle_map(self, of: &Shape, members: &mut Map) -> Result<(), serde_json::Error> {
        let coarse = self.is_resource_list(of);
        for (key, value) in members {
            let path = Path::Key { parent: self.path, key };
            Seed { session: self.session, shape: of, path: &path, root: false, coarse }.settle(value)?;
            if value.is_null() {
                *value = zero::value(self.session.schema, of);
            }
        }
        Ok(())
    }

    fn settle_message(self, of: &'a Type, members: &mut Map) -> Result<(), serde_json::Error> {
        let mut kept = Bits::default();
        let mut settled = Ok(());
        members.retain(|name, value| {
            settled.is_ok()
                && match self.settle_member(of, name, value, &mut kept) {
                    Ok(stays) => stays,
                    Err(stopped) => {
                        settled = Err(stopped);
                        false
                    }
                }
        });
        settled?;
        for at in of.written.iter().map(|at| *at as usize).filter(|at| !kept.has(*at)) {
            let field = &of.fields[at];
            if let Some(value) = zero::absent(self.session.schema, field) {
                members.insert(field.key(), value);
            }
        }
        Ok(())
    }

    /// Whether the member stays; which fields do is noted in `kept`.
    fn settle_member(self, of: &'a Type, name: &str, value: &mut Value, kept: &mut Bits) -> Result<bool, serde_json::Error> {
        let Some(at) = of.position(name) else {
            if (self.root || of.typed) && matches!(name, "apiVersion" | "kind") {
                let path = Path::Field { parent: self.path, owner: of, name };
                Seed { session: self.session, shape: &Shape::String, path: &path, root: false, coarse: false }.settle(value)?;
                return Ok(value.as_str().is_some_and(|text| !text.is_empty()));
            }
            if !of.open {
                self.session.reports.add("unknown", &Path::Key { parent: self.path, key: name });
            }
            return Ok(of.open);
        };
        let field = &of.fields[at];
        let path = Path::Field { parent: self.path, owner: of, name: &field.name };
        Seed { session: self.session, shape: &field.shape, path: &path, root: false, coarse: false }.settle(value)?;
        if zero::is_left_out(field, value) {
            return Ok(false);
        }
        // Whatever the zero value of the field is, is written instead.
        if zero::is_absent(field, value) {
            let Some(zero) = zero::absent(self.session.schema, field) else { return Ok(false) };
            *value = zero;
        }
        kept.set(at);
        Ok(true)
    }
}
