//! Text to tokens (the lexer rules of cel-go `parser/gen/CEL.g4`).

use crate::source::Source;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    End,
    Ident,
    /// Between back-quotes.
    Escaped,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// An operator, a bracket, or one of the words `in`, `true`, `false`, `null`.
    Sign,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// Where it begins, in bytes.
    pub(crate) at: usize,
}

const SIGNS: [&str; 24] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%"];

/// Splits text into tokens; what is no token is reported and left out.
pub(crate) fn tokens<'a>(text: &'a str, source: &mut Source<'_>) -> Vec<Token<'a>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let blank = blank(rest);
        if blank > 0 {
            at += blank;
            continue;
        }
        if let Some((kind, length)) = token(rest) {
            tokens.push(Token { kind, text: &rest[..length], at });
            at += length;
        } else {
            let length = unrecognized(rest);
            source.report(at, format!("Syntax error: token recognition error at: '{}'", &rest[..length]));
            at += length;
        }
    }
    tokens.push(Token { kind: Kind::End, text: "<EOF>", at: text.len() });
    tokens
}

/// The length of white space or a comment at the start.
fn blank(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    rest.bytes().take_while(|b| matches!(b, b'\t' | b' ' | b'\r' | b'\n' | 0x0c)).count()
}

/// How much of the rest an error message shows: of an unfinished string all up to the character that cannot be in it.
fn unrecognized(rest: &str) -> usize {
    let first = rest.chars().next().map_or(1, char::len_utf8);
    if !matches!(rest.as_bytes()[0], b'"' | b'\'') {
        return first;
    }
    let mut at = first;
    while let Some(c) = rest[at..].chars().next() {
        let length = match c {
            '\\' => escape_length(&rest[at..]),
            '\n' | '\r' => None,
            c => Some(c.len_utf8()),
        };
        match length {
            Some(length) => at += length,
            None if c == '\\' => return at + 1 + rest[at + 1..].chars().next().map_or(0, char::len_utf8),
            None => return at + 1,
        }
    }
    at
}

fn token(rest: &str) -> Option<(Kind, usize)> {
    if let Some((bytes, length)) = string(rest) {
        return Some((if bytes { Kind::Bytes } else { Kind::String }, length));
    }
    let first = rest.as_bytes()[0];
    if first.is_ascii_alphabetic() || first == b'_' {
        let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let kind = if matches!(&rest[..length], "in" | "true" | "false" | "null") { Kind::Sign } else { Kind::Ident };
        return Some((kind, length));
    }
    if first == b'`' {
        let inner = rest[1..].bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/' | b' ')).count();
        return (inner > 0 && rest[1 + inner..].starts_with('`')).then_some((Kind::Escaped, inner + 2));
    }
    number(rest).or_else(|| SIGNS.iter().find(|sign| rest.starts_with(**sign)).map(|sign| (Kind::Sign, sign.len())))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn number(rest: &str) -> Option<(Kind, usize)> {
    if let Some(hex) = rest.strip_prefix("0x") {
        let length = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
        if length > 0 {
            return Some(unsigned(rest, 2 + length));
        }
    }
    let whole = digits(rest);
    let fraction = rest[whole..].strip_prefix('.').map_or(0, digits);
    if whole == 0 && fraction == 0 {
        return None;
    }
    let mut end = if fraction > 0 { whole + 1 + fraction } else { whole };
    let exponent = exponent(&rest[end..]);
    end += exponent;
    if fraction > 0 || exponent > 0 {
        return Some((Kind::Float, end));
    }
    Some(unsigned(rest, end))
}

fn unsigned(rest: &str, end: usize) -> (Kind, usize) {
    if rest[end..].starts_with(['u', 'U']) { (Kind::Uint, end + 1) } else { (Kind::Int, end) }
}

fn exponent(rest: &str) -> usize {
    let Some(after) = rest.strip_prefix(['e', 'E']) else { return 0 };
    let sign = usize::from(after.starts_with(['+', '-']));
    match digits(&after[sign..]) {
        0 => 0,
        count => 1 + sign + count,
    }
}

/// Whether a string or bytes literal begins here, and its length.
fn string(rest: &str) -> Option<(bool, usize)> {
    let bytes = rest.starts_with(['b', 'B']);
    let start = usize::from(bytes);
    let raw = rest[start..].starts_with(['r', 'R']);
    let start = start + usize::from(raw);
    let body = &rest[start..];
    for quote in ["\"\"\"", "'''"] {
        if let Some(length) = body.strip_prefix(quote).and_then(|inner| closing(inner, quote, raw, true)) {
            return Some((bytes, start + 3 + length + 3));
        }
    }
    for quote in ["\"", "'"] {
        if let Some(inner) = body.strip_prefix(quote) {
            return closing(inner, quote, raw, false).map(|length| (bytes, start + 1 + length + 1));
        }
    }
    None
}

/// The length of what stands before the closing quote.
fn closing(inner: &str, quote: &str, raw: bool, lines: bool) -> Option<usize> {
    let mut at = 0;
    while at < inner.len() {
        let rest = &inner[at..];
        if rest.starts_with(quote) {
            return Some(at);
        }
        let c = rest.chars().next()?;
        if !lines && (c == '\n' || c == '\r') {
            return None;
        }
        at += if c == '\\' && !raw { escape_length(rest)? } else { c.len_utf8() };
    }
    None
}

/// The length of the escape sequence at the start, if it is one.
fn escape_length(rest: &str) -> Option<usize> {
    let hex = |count: usize| {
        let found = rest.get(2..2 + count)?;
        found.bytes().all(|b| b.is_ascii_hexdigit()).then_some(2 + count)
    };
    match rest.as_bytes().get(1)? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => Some(2),
        b'x' | b'X' => hex(2),
        b'u' => hex(4),
        b'U' => hex(8),
        b'0'..=b'3' => rest.get(2..4).filter(|octal| octal.bytes().all(|b| matches!(b, b'0'..=b'7'))).map(|_| 4),
        _ => None,
    }
}
