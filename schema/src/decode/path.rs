//! Where in an object the decoder is: a list of frames on the stack, turned into text only for a message.

use crate::types::{Member, Schema, Type};

/// Fields whose Go type is a named text or list.
const GO_NAMES: &str = include_str!("../../../api/go-names.txt");

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

    /// `Go struct field Container.spec.containers.name`: the innermost message, the JSON names and those of embedded messages; `Go value`
    /// at the root.
    pub(super) fn go(&self, schema: &Schema) -> String {
        match self.owner() {
            Some(owner) => format!("Go struct field {}.{}", owner.short_name(), self.names(schema).join(".")),
            None => "Go value".to_owned(),
        }
    }

    /// What Go calls the type of the field this is in, where that has a name: `v1.Protocol`; with `[]` after it when it is a list.
    pub(super) fn go_name(&self, schema: &Schema) -> Option<&'static str> {
        match self {
            Self::Root => None,
            Self::Field { owner, name, .. } => {
                let owner = declaring(schema, owner, name);
                GO_NAMES.lines().find_map(|line| {
                    let mut words = line.split(' ');
                    (words.next() == Some(&*owner.name) && words.next() == Some(name)).then(|| words.next()).flatten()
                })
            }
            Self::Index { parent, .. } | Self::Key { parent, .. } => parent.go_name(schema),
        }
    }

    /// Whether this is the value of a field, rather than of an item in it.
    pub(super) fn is_field(&self) -> bool {
        matches!(self, Self::Field { .. })
    }

    /// Whether the innermost message is of a group whose quantities are stored as they came: they do not pass through the types of the
    /// core group, whose lists of resources are rounded.
    pub(super) fn keeps_quantities(&self) -> bool {
        self.owner().is_some_and(|owner| ["resource.", "node."].iter().any(|group| owner.name.starts_with(group)))
    }

    fn owner(&self) -> Option<&Type> {
        match self {
            Self::Root => None,
            Self::Field { owner, .. } => Some(owner),
            Self::Index { parent, .. } | Self::Key { parent, .. } => parent.owner(),
        }
    }

    fn names<'p>(&'p self, schema: &'p Schema) -> Vec<&'p str> {
        match self {
            Self::Root => Vec::new(),
            Self::Field { parent, owner, name } => {
                let mut names = parent.names(schema);
                names.extend(embedded(schema, owner, name));
                names.push(name);
                names
            }
            Self::Index { parent, .. } | Self::Key { parent, .. } => parent.names(schema),
        }
    }
}

/// The embedded messages a field of a message stands in, outermost first.
fn embedded<'s>(schema: &'s Schema, of: &Type, name: &str) -> Vec<&'s str> {
    for member in &of.members {
        match member {
            Member::Field(at) if of.fields.get(*at as usize).is_some_and(|field| &*field.name == name) => return Vec::new(),
            Member::Inline { message, .. } if schema.get(*message).position(name).is_some() => {
                let inner = schema.get(*message);
                return std::iter::once(inner.short_name()).chain(embedded(schema, inner, name)).collect();
            }
            _ => {}
        }
    }
    Vec::new()
}

/// The message a field of a message is declared in: itself, or one that is embedded in it.
fn declaring<'s>(schema: &'s Schema, of: &'s Type, name: &str) -> &'s Type {
    for member in &of.members {
        match member {
            Member::Field(at) if of.fields.get(*at as usize).is_some_and(|field| &*field.name == name) => return of,
            Member::Inline { message, .. } if schema.get(*message).position(name).is_some() => {
                return declaring(schema, schema.get(*message), name);
            }
            _ => {}
        }
    }
    of
}

fn joined(parent: &Path<'_>, name: &str) -> String {
    let mut text = parent.strict();
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
    text
}
