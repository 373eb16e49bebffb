//! Field errors: what is wrong, where, and what is allowed (as `Status.details.causes` reports it).
//!
//! Wording and kinds follow apimachinery's `field.Error` because clients parse them.

use std::fmt;

/// Why a field was refused; the text clients see as `reason` of a cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// A value that must be there is not.
    Required,
    /// The value is malformed.
    Invalid,
    /// The value is not one of those supported.
    NotSupported,
    /// The value stands twice.
    Duplicate,
    /// The value may not be set by this request.
    Forbidden,
    /// The value refers to something that is not there.
    NotFound,
    /// The value is too long.
    TooLong,
    /// The value is too short.
    TooShort,
    /// The list is too long.
    TooMany,
    /// The list is too short.
    TooFew,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// Something failed while checking.
    Internal,
}

/// One refused field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    /// Which rule was broken.
    pub kind: ErrorKind,
    /// `spec.containers[0].name`
    pub path: String,
    /// The whole message of the cause, without the path: `Invalid value: "X": must be no more than 63 characters`.
    pub message: String,
}

/// The refused fields of one object, in the order found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldErrors(pub Vec<FieldError>);

impl ErrorKind {
    /// The cause's machine-readable `reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl FieldErrors {
    /// No errors.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `path: Required value: detail`
    pub fn required(&mut self, path: impl fmt::Display, detail: &str) {
        self.push(ErrorKind::Required, path, joined("Required value", detail));
    }

    /// `path: Invalid value: VALUE: detail`; `value` as it prints in JSON.
    pub fn invalid(&mut self, path: impl fmt::Display, value: impl fmt::Display, detail: &str) {
        self.push(ErrorKind::Invalid, path, joined(&format!("Invalid value: {value}"), detail));
    }

    /// `path: Invalid value: detail`: the value is not shown.
    pub fn invalid_unshown(&mut self, path: impl fmt::Display, detail: &str) {
        self.push(ErrorKind::Invalid, path, joined("Invalid value", detail));
    }

    /// `path: Unsupported value: "x": supported values: "a", "b"`
    pub fn not_supported<S: AsRef<str>>(&mut self, path: impl fmt::Display, value: impl fmt::Display, allowed: &[S]) {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("{:?}", a.as_ref())).collect();
        self.push(ErrorKind::NotSupported, path, format!("Unsupported value: {value}: supported values: {}", allowed.join(", ")));
    }

    /// `path: Duplicate value: VALUE`
    pub fn duplicate(&mut self, path: impl fmt::Display, value: impl fmt::Display) {
        self.push(ErrorKind::Duplicate, path, format!("Duplicate value: {value}"));
    }

    /// `path: Forbidden: detail`
    pub fn forbidden(&mut self, path: impl fmt::Display, detail: &str) {
        self.push(ErrorKind::Forbidden, path, joined("Forbidden", detail));
    }

    /// `path: Not found: VALUE`
    pub fn not_found(&mut self, path: impl fmt::Display, value: impl fmt::Display) {
        self.push(ErrorKind::NotFound, path, format!("Not found: {value}"));
    }

    /// `path: Too long: may not be more than N bytes`; `unit` in the singular.
    pub fn too_long(&mut self, path: impl fmt::Display, most: u64, unit: &str) {
        let plural = if most == 1 { "" } else { "s" };
        self.push(ErrorKind::TooLong, path, format!("Too long: may not be more than {most} {unit}{plural}"));
    }

    /// `path: Too many: FOUND: must have at most N items`
    pub fn too_many(&mut self, path: impl fmt::Display, found: usize, most: u64) {
        let plural = if most == 1 { "" } else { "s" };
        self.push(ErrorKind::TooMany, path, format!("Too many: {found}: must have at most {most} item{plural}"));
    }

    /// `path: Invalid value: "text": message`, once for each message of a check of [`crate::name`].
    pub fn invalid_each<P: fmt::Display + ?Sized>(&mut self, path: &P, text: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, format!("{text:?}"), &message);
        }
    }

    /// Drops what was said before, in the same words of the same field.
    pub fn say_once(&mut self) {
        if self.0.len() > 1 {
            let mut said = std::collections::HashSet::new();
            self.0.retain(|error| said.insert((error.path.clone(), error.message.clone())));
        }
    }

    /// Any other kind, with its whole message.
    pub fn push(&mut self, kind: ErrorKind, path: impl fmt::Display, message: String) {
        self.0.push(FieldError { kind, path: path.to_string(), message });
    }

    /// Appends another object's errors.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

fn joined(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}
