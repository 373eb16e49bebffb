//! Where in an object the decoder is: a list of frames on the stack, turned into text only for a message.

use crate::types::Type;

/// One step from the root.
pub(super) enum Path<'a> {
    Root,
    Field { parent: &'a Path<'a>, owner: &'a Type, name: &'a str },
    Index { parent: &'a Path<'a>, at: usize },
    Key { parent: &'a Path<'a>, key: &'a str },
}

impl Path<'_> {
    /// `spec.containers[0].name`, as in strict decoding errors.
    pub(super) fn strict(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field { parent, name, .. } => joined(parent, name),
            Self::Key { parent, key } => joined(parent, key),
            Self::Index { parent, at } => format!("{}[{at}]", parent.strict()),
        }
    }

    /// `Go struct field Container.spec.containers.name`: the innermost message and the JSON names only; `Go value` at the root.
    pub(super) fn go(&self) -> String {
        match self.owner() {
            Some(owner) => format!("Go struct field {}.{}", owner.short_name(), self.names().join(".")),
            None => "Go value".to_owned(),
        }
    }

    fn owner(&self) -> Option<&Type> {
        match self {
            Self::Root => None,
            Self::Field { owner, .. } => Some(owner),
            Self::Index { parent, .. } | Self::Key { parent, .. } => parent.owner(),
        }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Root => Vec::new(),
            Self::Field { parent, name, .. } => {
                let mut names = parent.names();
                names.push(name);
                names
            }
            Self::Index { parent, .. } | Self::Key { parent, .. } => parent.names(),
        }
    }
}

fn joined(parent: &Path<'_>, name: &str) -> String {
    let mut text = parent.strict();
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
    text
}
