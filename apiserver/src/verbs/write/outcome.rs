//! What a write came to, and how its client is told.

use bytes::Bytes;
use coracle_schema::proto::{self, envelope};
use coracle_store::Revision;
use http::StatusCode;

use super::Writing;
use crate::{
    registry::Object,
    verbs::render,
    wire::{Answer, Encoding, Form, Status, Wanted, answer},
};

/// What a write came to.
pub struct Outcome {
    /// The object as it goes on the wire.
    pub wire: Bytes,
    /// Its protobuf message, where that was made before the object was gone.
    message: Option<Vec<u8>>,
    /// Whether it is new.
    pub created: bool,
}

impl Outcome {
    /// An object that was not there before.
    pub(super) fn created(wire: Bytes) -> Self {
        Self { wire, message: None, created: true }
    }

    /// One that was.
    pub(super) fn changed(wire: Bytes) -> Self {
        Self { wire, message: None, created: false }
    }

    /// With what [`Writing::message`] made of the object, which was stored as this revision.
    pub(super) fn told(self, message: Option<Vec<u8>>, revision: Revision) -> Self {
        Self { message: message.and_then(|message| envelope::versioned(&message, &revision.to_string())), ..self }
    }
}

impl Writing<'_> {
    /// The object's protobuf message without its resource version, if that is what the client wants: it costs half of what it costs to
    /// make it of the JSON that was stored.
    pub(super) fn message(&self, object: &Object) -> Option<Vec<u8>> {
        let wanted = self.wanted().ok()?;
        let is_told = wanted.encoding == Encoding::Protobuf && wanted.form == Form::Object;
        if is_told { proto::message_of(object.value(), &self.kind.schema).ok() } else { None }
    }

    /// The form and encoding of the answer; looked up once.
    fn wanted(&self) -> Result<Wanted, Status> {
        if let Some(known) = self.wanted.get() {
            return Ok(*known);
        }
        let wanted = render::wanted(self.call, self.kind)?;
        Ok(*self.wanted.get_or_init(|| wanted))
    }

    /// The answer to a write: the object, or the refusal with what the client is warned of all the same.
    pub fn settle(&mut self, made: Result<Outcome, Status>) -> Result<Answer, Status> {
        match made {
            Ok(outcome) => self.answer(&outcome),
            Err(mut status) => {
                status.warn(std::mem::take(&mut self.warnings));
                Err(status)
            }
        }
    }

    /// The answer: the object in the form wanted, 201 when it is new.
    fn answer(&self, outcome: &Outcome) -> Result<Answer, Status> {
        let code = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut made = match &outcome.message {
            Some(message) => render::enveloped(self.kind, code, message),
            None => render::shown(self.api, self.call, self.kind, self.wanted()?, code, &outcome.wire)?,
        };
        answer::warn(&mut made, &self.warnings);
        Ok(made)
    }
}
