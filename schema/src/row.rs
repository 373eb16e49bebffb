//! One field line of a table: `NUMBER name TYPE flags`.

use crate::types::{Field, Limits, ListKind, PatchStrategy, Presence, Shape, TypeId};

/// What a line describes.
pub(crate) enum Row {
    /// An ordinary field.
    Field(Box<Field>),
    /// A message whose fields stand flat in its parent's JSON.
    Inline {
        /// Protobuf field number.
        number: u32,
        /// The nested message.
        message: TypeId,
    },
}

/// Parses a line. `lookup` finds a message by the name the table uses.
pub(crate) fn parse(line: &str, lookup: impl Fn(&str) -> Option<TypeId>) -> Result<Row, String> {
    let (number, rest) = word(line);
    let (name, rest) = word(rest);
    let (shape, flags) = word(rest);
    if shape.is_empty() {
        return Err(format!("{line:?} is not NUMBER name TYPE flags"));
    }
    let number = match number {
        "-" => None,
        digits => Some(digits.parse::<u32>().map_err(|_| format!("{digits:?} is not a field number"))?),
    };
    let suffixes = [("?!", Presence::Nullable), ("?", Presence::Optional), ("!", Presence::Always)];
    let (shape, presence) =
        suffixes.into_iter().find_map(|(suffix, p)| Some((shape.strip_suffix(suffix)?, p))).unwrap_or((shape, Presence::WhenSet));
    let shape = parse_shape(shape, &lookup)?;
    if name == "(inline)" {
        return match (shape, number) {
            (Shape::Message(message), Some(number)) => Ok(Row::Inline { number, message }),
            _ => Err("an inline member must be a message with a number".into()),
        };
    }
    let mut field = Field {
        number,
        name: name.into(),
        shape,
        presence,
        required: false,
        optional: false,
        immutable: false,
        list: ListKind::Atomic,
        atomic: false,
        granular: false,
        patch: PatchStrategy::default(),
        default: None,
        allowed: Vec::new(),
        discriminator: false,
        nested: false,
        limits: None,
    };
    let mut rest = flags;
    loop {
        let (flag, after) = word(rest);
        if flag.is_empty() {
            return Ok(Row::Field(Box::new(field)));
        }
        if flag.starts_with("enum=") {
            field.allowed = rest.trim()["enum=".len()..].split('|').map(Into::into).collect();
            return Ok(Row::Field(Box::new(field)));
        }
        apply(&mut field, flag)?;
        rest = after;
    }
}

/// The first word of a text, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_ascii_start();
    text.split_once(' ').unwrap_or((text, ""))
}

fn parse_shape(text: &str, lookup: &impl Fn(&str) -> Option<TypeId>) -> Result<Shape, String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Ok(Shape::List(Box::new(parse_shape(inner, lookup)?)));
    }
    if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        return Ok(Shape::Map(Box::new(parse_shape(inner, lookup)?)));
    }
    Ok(match text {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "float64" => Shape::Float64,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "quantity" => Shape::Quantity,
        "int-or-string" => Shape::IntOrString,
        "object" => Shape::Object,
        "fields" => Shape::Fields,
        "any" => Shape::Any,
        name => Shape::Message(lookup(name).ok_or_else(|| format!("no type {name}"))?),
    })
}

fn apply(field: &mut Field, flag: &str) -> Result<(), String> {
    let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
    let number = || value.parse::<f64>().map_err(|_| format!("{flag:?} needs a number"));
    let count = || value.parse::<u64>().map_err(|_| format!("{flag:?} needs a whole number"));
    match key {
        "required" => field.required = true,
        "optional" => field.optional = true,
        "immutable" => field.immutable = true,
        "discriminator" => field.discriminator = true,
        "nested" => field.nested = true,
        "list" => field.list = list_kind(value)?,
        "map" => (field.atomic, field.granular) = (value == "atomic", value == "granular"),
        "patch" => field.patch = patch_strategy(value)?,
        "default" => field.default = Some(serde_json::from_str(value).map_err(|_| format!("{flag:?} is not JSON"))?),
        "format" => limits(field).format = Some(value.into()),
        "minimum" => limits(field).minimum = Some(number()?),
        "maximum" => limits(field).maximum = Some(number()?),
        "maxLength" => limits(field).max_length = Some(count()?),
        "maxItems" => limits(field).max_items = Some(count()?),
        "maxBytes" => limits(field).max_bytes = Some(count()?),
        _ => return Err(format!("unknown flag {flag:?} of a field")),
    }
    Ok(())
}

fn limits(field: &mut Field) -> &mut Limits {
    field.limits.get_or_insert_default()
}

fn list_kind(text: &str) -> Result<ListKind, String> {
    Ok(match text {
        "atomic" => ListKind::Atomic,
        "set" => ListKind::Set,
        _ => match text.strip_prefix("map(").and_then(|t| t.strip_suffix(')')) {
            Some(keys) => ListKind::Map(keys.split(',').map(Into::into).collect()),
            None => return Err(format!("list={text} is not atomic, set or map(keys)")),
        },
    })
}

fn patch_strategy(text: &str) -> Result<PatchStrategy, String> {
    let (strategies, key) = match text.split_once('(') {
        Some((strategies, key)) => (strategies, key.strip_suffix(')').map(Into::into)),
        None => (text, None),
    };
    let mut made = PatchStrategy { key, ..PatchStrategy::default() };
    for strategy in strategies.split(',') {
        match strategy {
            "merge" => made.merge = true,
            "replace" => made.replace = true,
            "retainKeys" => made.retain_keys = true,
            other => return Err(format!("patch={other} is not merge, replace or retainKeys")),
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(line: &str) -> Field {
        match parse(line, |_| Some(TypeId(7))).unwrap() {
            Row::Field(field) => *field,
            Row::Inline { .. } => panic!("not a field"),
        }
    }

    #[test]
    fn an_enum_may_hold_spaces_and_the_empty_text() {
        let read = field("    1 type string? required enum=|digital signature|*");
        assert_eq!(read.allowed, ["".into(), "digital signature".into(), Box::<str>::from("*")]);
        assert!(read.required);
    }

    #[test]
    fn defaults_limits_and_nested_shapes_are_read() {
        let read = field("  12 x {[string]} default={\"a\":[\"b\"]} minimum=0 maximum=100 maxItems=3");
        assert_eq!(read.shape, Shape::Map(Box::new(Shape::List(Box::new(Shape::String)))));
        assert_eq!(read.default, Some(coracle_tree::json!({"a": ["b"]})));
        let limits = read.limits.unwrap();
        assert_eq!((limits.minimum, limits.maximum, limits.max_items), (Some(0.0), Some(100.0), Some(3)));
    }

    #[test]
    fn a_mistake_is_named() {
        let wrong = |line| parse(line, |_| None).err().unwrap();
        assert_eq!(wrong("1 a Nothing"), "no type Nothing");
        assert_eq!(wrong("1 a string surprise"), "unknown flag \"surprise\" of a field");
        assert_eq!(wrong("x a string"), "\"x\" is not a field number");
        assert!(wrong("1 a").contains("is not NUMBER name TYPE flags"));
    }
}
