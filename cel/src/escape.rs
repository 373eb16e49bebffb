//! Field names as identifiers (apiserver `pkg/cel/escaping.go`): `.` becomes `__dot__`, reserved words are wrapped.

/// Words that are no identifiers.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether an expression can name something so.
pub fn is_identifier(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !reserved(name)
}

pub(crate) fn reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// The identifier that stands for the field `name`, or `None` if no identifier can.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    if reserved(name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '_' if rest.peek() == Some(&'_') => {
                rest.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

/// The field name that an identifier stands for, or `None` if the escapes in it are unknown.
pub fn unescape(identifier: &str) -> Option<String> {
    let mut out = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some(start) = rest.find("__") {
        let inner = &rest[start + 2..];
        // The shortest `__x__` with an x free of underscores; other underscores stand for themselves.
        let length = inner.find('_').unwrap_or(inner.len());
        if length == 0 || !inner[length..].starts_with("__") {
            let next = rest[start + 1..].char_indices().next().map_or(rest.len(), |_| start + 1);
            out.push_str(&rest[..next]);
            rest = &rest[next..];
            continue;
        }
        out.push_str(&rest[..start]);
        match &inner[..length] {
            "underscores" => out.push_str("__"),
            "dot" => out.push('.'),
            "dash" => out.push('-'),
            "slash" => out.push('/'),
            word if reserved(word) && length + 4 == identifier.len() => out.push_str(word),
            _ => return None,
        }
        rest = &inner[length + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_escaping_and_back() {
        for name in ["a", "a.b", "a-b/c", "__proto__", "namespace", "a__b", "a_b_", "_a", "x__dot__y", "in"] {
            let escaped = escape(name).unwrap();
            assert_eq!(unescape(&escaped).as_deref(), Some(name), "{escaped}");
        }
        assert_eq!(escape("a.b-c/d").unwrap(), "a__dot__b__dash__c__slash__d");
        assert_eq!(escape("namespace").unwrap(), "__namespace__");
        assert_eq!(escape("x__y").unwrap(), "x__underscores__y");
    }

    #[test]
    fn names_that_no_identifier_can_carry_are_refused() {
        for name in ["", "1a", "a b", "é", "$ref"] {
            assert_eq!(escape(name), None, "{name}");
        }
        assert_eq!(unescape("a__what__b"), None);
        assert_eq!(unescape("a__in__b"), None);
    }
}
