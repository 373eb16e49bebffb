//! Whether a value fulfils a schema: kube-openapi's `validation/validate`, with its messages, and how apiextensions-apiserver turns them
//! into field errors (`apiserver/validation/validation.go`).
//!
//! Of `anyOf` and `oneOf` upstream reports the alternative that most checks agreed with, so agreements are counted as it counts them.

use coracle_tree::{Map, Value};

use super::{
    correlate::Correlated,
    format,
    node::{Additional, Checks, Kind, Node},
    number, text,
};
use crate::field::{ErrorKind, FieldError, FieldErrors};

/// Faults reported for one object; one body could otherwise make an answer of many times its size.
const MAX_FAULTS: usize = 1000;

/// Checks a value. `prefix` is the field the value stands in (empty: it is the object); `old` is what it was before.
pub(super) fn check(node: &Node, value: &Value, old: Option<Correlated<'_>>, prefix: &str) -> FieldErrors {
    let place = Place::Root;
    let mut found = Check { prefix }.whole(node, value, None, &place);
    if old.is_some() && !found.is_valid() {
        // Only what is wrong needs to be compared with what was there.
        found = Check { prefix }.whole(node, value, old, &place);
    }
    FieldErrors(found.faults.into_iter().map(|fault| fault.error).collect())
}

/// Where in the value the check is.
pub(super) enum Place<'a> {
    Root,
    Name {
        parent: &'a Self,
        name: &'a str,
    },
    /// A member that is no property: upstream's path begins with a dot at the root.
    Other {
        parent: &'a Self,
        name: &'a str,
    },
    Index {
        parent: &'a Self,
        at: usize,
    },
}

impl Place<'_> {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Name { parent, name } => match parent.text() {
                text if text.is_empty() => (*name).to_owned(),
                text => format!("{text}.{name}"),
            },
            Self::Other { parent, name } => format!("{}.{name}", parent.text()),
            Self::Index { parent, at } => format!("{}[{at}]", parent.text()),
        }
    }
}

/// One thing wrong: what upstream compares faults by, and what it becomes.
pub(super) struct Fault {
    text: String,
    error: FieldError,
}

/// What came of checking one value against one schema.
#[derive(Default)]
pub(super) struct Found {
    faults: Vec<Fault>,
    /// How many checks agreed.
    agreed: usize,
}

impl Found {
    fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }

    fn merge(&mut self, other: Self) {
        other.faults.into_iter().for_each(|fault| self.add(fault));
        self.agreed += other.agreed;
    }

    pub(super) fn add(&mut self, fault: Fault) {
        if self.faults.len() < MAX_FAULTS && !self.faults.iter().any(|known| known.text == fault.text) {
            self.faults.push(fault);
        }
    }
}

pub(super) struct Check<'p> {
    prefix: &'p str,
}

impl Check<'_> {
    fn path(&self, name: &str) -> String {
        let name = name.strip_prefix('.').unwrap_or(name);
        match (self.prefix, name) {
            ("", "") => "<nil>".to_owned(),
            (prefix, "") => prefix.to_owned(),
            ("", name) => name.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    /// A fault of the value at `place`; `text` follows the place's name, `error` is `Invalid value: …` of this value and text.
    pub(super) fn invalid(&self, place: &Place<'_>, value: &str, text: &str) -> Fault {
        self.fault(ErrorKind::Invalid, place, text, |text| format!("Invalid value: {value}: {text}"))
    }

    /// As [`Self::invalid`], with the whole text.
    pub(super) fn invalid_whole(&self, place: &Place<'_>, value: &str, text: String) -> Fault {
        let message = format!("Invalid value: {value}: {text}");
        Fault { error: FieldError { kind: ErrorKind::Invalid, path: self.path(&place.text()), message }, text }
    }

    fn fault(&self, kind: ErrorKind, place: &Place<'_>, text: &str, message: impl FnOnce(&str) -> String) -> Fault {
        let name = place.text();
        let text = format!("{name} in body {text}");
        Fault { error: FieldError { kind, path: self.path(&name), message: message(&text) }, text }
    }

    fn mistyped(&self, place: &Place<'_>, wanted: &str, found: &str) -> Fault {
        let (found, text) = (text::quoted(found), format!("must be of type {wanted}: {}", text::quoted(found)));
        self.fault(ErrorKind::TypeInvalid, place, &text, |text| format!("Invalid value: {found}: {text}"))
    }

    /// A fault that upstream reports without a place.
    pub(super) fn placeless(&self, text: String) -> Fault {
        Fault { error: FieldError { kind: ErrorKind::Invalid, path: self.path(""), message: format!("Invalid value: \"\": {text}") }, text }
    }

    /// Checks a value; what is wrong with an unchanged one does not count.
    fn whole(&self, node: &Node, value: &Value, old: Option<Correlated<'_>>, place: &Place<'_>) -> Found {
        let mut found = self.node(node, value, old, place);
        if !found.is_valid() && old.is_some_and(|old| old.equals(value)) {
            found.faults.clear();
        }
        found
    }

    fn node(&self, node: &Node, value: &Value, old: Option<Correlated<'_>>, place: &Place<'_>) -> Found {
        let mut found = Found::default();
        let checks = node.checks.as_deref();
        if value.is_null() {
            match self.kind_of_null(node, place) {
                Some(fault) => found.add(fault),
                None => found.agreed += 1,
            }
            found.faults.extend(checks.and_then(|checks| self.allowed(checks, value, place)));
            return found;
        }
        if node.kind != Kind::Any || node.int_or_string || checks.is_some_and(|c| c.format.is_some()) {
            match self.kind(node, value, place) {
                Some(fault) => found.add(fault),
                None => found.agreed += 1,
            }
            found.agreed += 1;
        }
        if let Some(checks) = checks {
            self.junctors(checks, value, old, place, &mut found);
        }
        // Upstream's validators that are always asked: alternatives (twice), the allowed values, the schema itself.
        found.agreed += 4;
        match value {
            Value::String(text) => {
                found.agreed += 1;
                if let Some(checks) = checks {
                    self.string(checks, text, place, &mut found);
                }
            }
            Value::Number(number) => {
                found.agreed += 2;
                number::check(self, node, number, place, &mut found);
            }
            Value::Array(items) => {
                found.agreed += 2;
                self.array(node, items, old, place, &mut found);
            }
            Value::Object(members) => {
                found.agreed += 1;
                self.object(node, members, old, place, &mut found);
            }
            Value::Null | Value::Bool(_) => {}
        }
        if let Some(fault) = checks.and_then(|checks| self.allowed(checks, value, place)) {
            found.add(fault);
        }
        found
    }

    fn kind_of_null(&self, node: &Node, place: &Place<'_>) -> Option<Fault> {
        let wanted = wanted(node);
        (!wanted.is_empty() && !node.nullable).then(|| self.mistyped(place, wanted, "null"))
    }

    fn kind(&self, node: &Node, value: &Value, place: &Place<'_>) -> Option<Fault> {
        let (found, found_format) = match value {
            Value::Null => return None,
            Value::Bool(_) => ("boolean", ""),
            Value::String(_) => ("string", ""),
            Value::Number(number) if number.is_i64() => ("integer", "int64"),
            Value::Number(_) => ("number", "float64"),
            Value::Array(_) => ("array", ""),
            Value::Object(_) => ("object", ""),
        };
        let is_integer = node.int_or_string || node.kind == Kind::Integer;
        let whole = || value.as_f64().is_some_and(number::is_whole);
        let fits = match node.kind {
            _ if node.int_or_string => matches!(found, "integer" | "string") || (found == "number" && whole()),
            Kind::Number => matches!(found, "integer" | "number"),
            kind => kind.as_str() == found || (is_integer && found == "number" && whole()),
        };
        let format = node.checks.as_ref().and_then(|checks| checks.format.as_deref());
        let lax = value.is_string() || value.is_array();
        match format {
            Some(format) if !lax && !fits && format != found_format => Some(self.mistyped(place, format, found_format)),
            Some(_) if lax && !is_integer && node.kind != Kind::Number => None,
            _ if fits => None,
            _ => Some(self.mistyped(place, wanted(node), found)),
        }
    }

    fn allowed(&self, checks: &Checks, value: &Value, place: &Place<'_>) -> Option<Fault> {
        let same = |allowed: &Value| match (allowed, value) {
            (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (allowed, value) => !allowed.is_null() && allowed == value,
        };
        if checks.allowed.is_empty() || checks.allowed.iter().any(same) {
            return None;
        }
        let texts = checks.allowed.iter().map(|v| text::quoted(&v.as_str().map_or_else(|| crate::go::json(v), str::to_owned)));
        let texts: Vec<String> = texts.collect();
        let message = format!("Unsupported value: {}: supported values: {}", text::shown(value), texts.join(", "));
        Some(self.fault(ErrorKind::NotSupported, place, "should be one of the allowed", |_| message))
    }

    fn string(&self, checks: &Checks, value: &str, place: &Place<'_>, found: &mut Found) {
        let length = || i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
        let shown = || text::quoted(value);
        if let Some(most) = checks.max_length.filter(|most| length() > *most) {
            let plural = if most == 1 { "" } else { "s" };
            let message = if most < 0 {
                "Too long: value is too long".to_owned()
            } else {
                format!("Too long: may not be more than {most} byte{plural}")
            };
            found.add(self.fault(ErrorKind::TooLong, place, &format!("should be at most {most} chars long"), |_| message));
        } else if let Some(least) = checks.min_length.filter(|least| length() < *least) {
            found.add(self.invalid(place, &shown(), &format!("should be at least {least} chars long")));
        } else if let Some(pattern) = &checks.pattern {
            match crate::pattern::matches(pattern, value) {
                Ok(true) => {}
                Ok(false) => found.add(self.invalid(place, &shown(), &format!("should match '{pattern}'"))),
                Err(why) => found.add(self.invalid(place, &shown(), &format!("should match '{pattern}, but pattern is invalid: {why}'"))),
            }
        }
        if let Some(format) = &checks.format
            && let Some(fits) = format::fits(format, value)
        {
            found.agreed += 1;
            if !fits {
                found.add(self.mistyped(place, format, value));
            }
        }
    }

    fn array(&self, node: &Node, items: &[Value], old: Option<Correlated<'_>>, place: &Place<'_>, found: &mut Found) {
        if let Some(schema) = &node.items {
            let before = old.and_then(Correlated::items);
            for (at, item) in items.iter().enumerate() {
                let old = before.as_ref().and_then(|before| before.get(item));
                found.merge(self.whole(schema, item, old, &Place::Index { parent: place, at }));
            }
        }
        let Some(checks) = node.checks.as_deref() else { return };
        let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(least) = checks.min_items.filter(|least| size < *least) {
            found.add(self.invalid(place, &size.to_string(), &format!("should have at least {least} items")));
        }
        if let Some(most) = checks.max_items.filter(|most| size > *most) {
            found.add(self.too_many(place, size, most, "items"));
        }
        if checks.unique_items && has_twin(items) {
            found.add(self.invalid(place, "\"\"", "shouldn't contain duplicates"));
        }
    }

    fn too_many(&self, place: &Place<'_>, size: i64, most: i64, unit: &str) -> Fault {
        let plural = if most == 1 { "" } else { "s" };
        let message = format!("Too many: {size}: must have at most {most} item{plural}");
        self.fault(ErrorKind::TooMany, place, &format!("should have at most {most} {unit}"), |_| message)
    }

    fn object(&self, node: &Node, members: &Map, old: Option<Correlated<'_>>, place: &Place<'_>, found: &mut Found) {
        let checks = node.checks.as_deref();
        let size = i64::try_from(members.len()).unwrap_or(i64::MAX);
        if let Some(least) = checks.and_then(|c| c.min_properties).filter(|least| size < *least) {
            found.add(self.invalid(place, &size.to_string(), &format!("should have at least {least} properties")));
        }
        if let Some(most) = checks.and_then(|c| c.max_properties).filter(|most| size > *most) {
            found.add(self.too_many(place, size, most, "properties"));
        }
        for (name, value) in members.iter().filter(|_| node.additional.is_set()) {
            if node.property(name).is_some() {
                continue;
            }
            match &node.additional {
                Additional::Bool(false) => {
                    let text = format!("{}.{name} in body is a forbidden property", place.text());
                    found.add(self.invalid_whole(place, &text::quoted(name), text));
                }
                Additional::Schema(schema) => {
                    let place = Place::Other { parent: place, name };
                    found.merge(self.whole(schema, value, old.and_then(|old| old.key(name)), &place));
                }
                Additional::Bool(true) | Additional::Unset => {}
            }
        }
        for (name, schema) in &node.properties {
            if let Some(value) = members.get(name) {
                // The version and the kind cannot be left unchanged: both objects were converted to these.
                let type_meta = matches!(place, Place::Root) && matches!(&**name, "apiVersion" | "kind");
                let old = old.filter(|_| !type_meta).and_then(|old| old.key(name));
                found.merge(self.whole(schema, value, old, &Place::Name { parent: place, name }));
            }
        }
        for name in checks.iter().flat_map(|checks| &checks.required) {
            if !members.contains_key(name) {
                let place = Place::Other { parent: place, name };
                found.add(self.fault(ErrorKind::Required, &place, "is required", |_| "Required value".to_owned()));
            }
        }
    }

    fn junctors(&self, checks: &Checks, value: &Value, old: Option<Correlated<'_>>, place: &Place<'_>, found: &mut Found) {
        let name = || text::quoted(&place.text());
        if !checks.any_of.is_empty() {
            let mut best: Option<Found> = None;
            for schema in &checks.any_of {
                let one = self.node(schema, value, old, place);
                let (valid, better) = (one.is_valid(), best.as_ref().is_none_or(|best| one.agreed > best.agreed));
                if valid || better {
                    best = Some(one);
                }
                if valid {
                    break;
                }
            }
            let best = best.unwrap_or_default();
            if !best.is_valid() {
                found.add(self.placeless(format!("{} must validate at least one schema (anyOf)", name())));
            }
            found.merge(best);
        }
        if !checks.one_of.is_empty() {
            let (mut best, mut valid, mut first): (Option<Found>, usize, Option<Found>) = (None, 0, None);
            for schema in &checks.one_of {
                let one = self.node(schema, value, old, place);
                if one.is_valid() {
                    valid += 1;
                    first.get_or_insert(one);
                } else if valid == 0 && best.as_ref().is_none_or(|best| one.agreed > best.agreed) {
                    best = Some(one);
                }
            }
            match (valid, first, best) {
                (1, Some(first), _) => found.merge(first),
                (0, _, best) => {
                    found.add(self.placeless(format!("{} must validate one and only one schema (oneOf). Found none valid", name())));
                    best.into_iter().for_each(|best| found.merge(best));
                }
                (many, ..) => {
                    let text = format!("{} must validate one and only one schema (oneOf). Found {many} valid alternatives", name());
                    found.add(self.placeless(text));
                }
            }
        }
        if !checks.all_of.is_empty() {
            let mut valid = 0;
            for schema in &checks.all_of {
                let one = self.node(schema, value, old, place);
                valid += usize::from(one.is_valid());
                found.merge(one);
            }
            if valid != checks.all_of.len() {
                let more = if valid == 0 { ". None validated" } else { "" };
                found.add(self.placeless(format!("{} must validate all the schemas (allOf){more}", name())));
            }
        }
        if let Some(schema) = &checks.not
            && self.node(schema, value, old, place).is_valid()
        {
            found.add(self.placeless(format!("{} must not validate the schema (not)", name())));
        }
    }
}

/// The types a schema names, as messages name them.
fn wanted(node: &Node) -> &'static str {
    if node.int_or_string { "integer,string" } else { node.kind.as_str() }
}

/// Whether an item stands twice.
fn has_twin(items: &[Value]) -> bool {
    let mut seen = std::collections::HashSet::new();
    !items.iter().all(|item| seen.insert(item.to_string()))
}
