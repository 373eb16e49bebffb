//! Field selectors: `?fieldSelector=`.

/// A field selector: `metadata.name=x,status.phase!=Running`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldSelector {
    /// All of them must hold.
    pub terms: Vec<FieldTerm>,
}

/// One condition on one field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldTerm {
    /// `status.phase`
    pub field: Box<str>,
    /// The value, unescaped.
    pub value: Box<str>,
    /// `!=`
    pub negated: bool,
}

impl FieldSelector {
    /// Parses a selector. Errors are worded like apimachinery's `fields.ParseSelector`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let wrong = || format!("invalid selector: '{text}'; can't understand '{part}'");
            let at = part.find(['=', '!']).ok_or_else(wrong)?;
            let (field, rest) = part.split_at(at);
            let (negated, value) = match rest.strip_prefix("!=") {
                Some(value) => (true, value),
                None => (false, rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).ok_or_else(wrong)?),
            };
            terms.push(FieldTerm { field: field.into(), value: unescape(value)?.into(), negated });
        }
        Ok(Self { terms })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether every term holds; `value_of` gives a field's value, empty when absent.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|term| (value_of(&term.field) == &*term.value) != term.negated)
    }

    /// The value that a field must have, if the selector asks for exactly one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| !term.negated && &*term.field == field).map(|term| &*term.value)
    }
}

/// Splits at commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => return Err(format!("invalid field selector: invalid escape sequence: \\{next}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors_split_unescape_and_match() {
        let selector = FieldSelector::parse("metadata.name=a\\,b,status.phase!=Running,x==").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert!(selector.matches(|field| if field == "metadata.name" { "a,b" } else { "" }));
        assert!(!selector.matches(|field| if field == "status.phase" { "Running" } else { "a,b" }));
        assert_eq!(FieldSelector::parse("nothing").unwrap_err(), "invalid selector: 'nothing'; can't understand 'nothing'");
        assert!(FieldSelector::parse("a=b=c").unwrap_err().contains("unescaped character in value: 61"));
    }
}
