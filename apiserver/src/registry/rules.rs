//! The odd rules of a kind: synchronous and pure, no store, no clock, no client.

use coracle_schema::FieldErrors;
use serde_json::Value;

use super::object::Object;
use crate::authn::User;

/// Which part of an object a write addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// The main resource.
    Whole,
    /// `status`
    Status,
    /// Any other subresource that writes the object (`ephemeralcontainers`, `resize`, `finalize`, `approval`).
    Other(&'a str),
}

/// Switches of the generic path.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// PUT of an object that is not there creates it.
    pub create_on_update: bool,
    /// PUT without a resource version is taken as "whatever is there".
    pub unconditional_update: bool,
    /// Deletes take a grace period (pods).
    pub graceful: bool,
    /// Objects live at most this many seconds (events).
    pub ttl_seconds: Option<u64>,
}

impl Policy {
    /// What most kinds have.
    pub const DEFAULT: Self = Self { create_on_update: false, unconditional_update: true, graceful: false, ttl_seconds: None };
}

/// Rules of one kind. The generic path does, without them: system metadata, keeping status and spec apart, generation, name and
/// metadata validation, pruning, table defaults and structural validation.
pub trait Rules: Send + Sync {
    /// Switches of the generic path.
    fn policy(&self) -> Policy {
        Policy::DEFAULT
    }

    /// Defaults that depend on other fields; runs after the table's defaults on every decoded object.
    fn default(&self, _object: &mut Object) {}

    /// Sets or resets what the writer may not choose (`status.phase` of a new pod), after mutating admission.
    fn prepare(&self, _new: &mut Object, _old: Option<&Object>, _part: Part<'_>) {}

    /// Writes down who creates the object, where the object itself has to say so; after [`Rules::prepare`].
    fn note_creator(&self, _new: &mut Object, _creator: &User) {}

    /// Cross-field rules; `old` is there on updates, for immutability.
    fn validate(&self, _new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        FieldErrors::none()
    }

    /// Texts for `Warning:` headers.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Seconds an object of a graceful kind gets to end when a delete names none.
    fn default_grace_seconds(&self, object: &Object) -> i64 {
        object.value().pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default()
    }

    /// Whether an object of a graceful kind has nothing to end: it never got a node, or is over.
    fn ends_at_once(&self, object: &Object) -> bool {
        object.text("/spec/nodeName").is_empty() || matches!(object.text("/status/phase"), "Succeeded" | "Failed")
    }

    /// Fields beyond `metadata.name` and `metadata.namespace` that field selectors may name, with their values in `object`.
    fn selectable(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// A kind without odd rules.
pub struct Plain;

/// The rules of most kinds.
pub static PLAIN: Plain = Plain;

impl Rules for Plain {}
