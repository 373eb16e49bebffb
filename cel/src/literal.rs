//! The values that literals stand for (cel-go `parser/unescape.go`).

use crate::ast::Literal;

/// The value of a string or bytes token.
pub(crate) fn text(token: &str, bytes: bool) -> Result<Literal, &'static str> {
    let token = if bytes { &token[1..] } else { token };
    let (raw, token) = match token.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, token),
    };
    let quote = if token.len() >= 6 && (token.starts_with("'''") || token.starts_with("\"\"\"")) { 3 } else { 1 };
    let body = &token[quote..token.len() - quote];
    // As upstream, line ends are those of Unix.
    let body = body.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body.as_str();
    while let Some(c) = rest.chars().next() {
        if c != '\\' || raw {
            let mut buffer = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            rest = &rest[c.len_utf8()..];
        } else {
            rest = escaped(&rest[1..], bytes, &mut out)?;
        }
    }
    if bytes {
        return Ok(Literal::Bytes(out));
    }
    String::from_utf8(out).map(Literal::String).map_err(|_| "invalid unicode code point")
}

/// Reads what follows a backslash; the lexer has made sure that it is complete.
fn escaped<'a>(rest: &'a str, bytes: bool, out: &mut Vec<u8>) -> Result<&'a str, &'static str> {
    let unknown = "unable to unescape string";
    let first = *rest.as_bytes().first().ok_or(unknown)?;
    let plain = match first {
        b'a' => Some(7),
        b'b' => Some(8),
        b'f' => Some(12),
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'v' => Some(11),
        b'\\' | b'\'' | b'"' | b'`' | b'?' => Some(first),
        _ => None,
    };
    if let Some(plain) = plain {
        out.push(plain);
        return Ok(&rest[1..]);
    }
    let (digits, radix, skip) = match first {
        b'x' | b'X' => (rest.get(1..3), 16, 3),
        b'u' if !bytes => (rest.get(1..5), 16, 5),
        b'U' if !bytes => (rest.get(1..9), 16, 9),
        b'0'..=b'3' => (rest.get(0..3), 8, 3),
        _ => (None, 16, 0),
    };
    let code = u32::from_str_radix(digits.ok_or(unknown)?, radix).map_err(|_| unknown)?;
    if bytes {
        out.push(u8::try_from(code).map_err(|_| unknown)?);
    } else {
        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(&rest[skip..])
}

/// The value of an integer token, with its sign.
pub(crate) fn int(token: &str, negative: bool) -> Option<Literal> {
    let (digits, radix) = token.strip_prefix("0x").map_or((token, 10), |hex| (hex, 16));
    let signed = if negative { format!("-{digits}") } else { digits.to_string() };
    i64::from_str_radix(&signed, radix).ok().map(Literal::Int)
}

/// The value of an unsigned token, which ends in `u`.
pub(crate) fn uint(token: &str) -> Option<Literal> {
    let token = &token[..token.len() - 1];
    let (digits, radix) = token.strip_prefix("0x").map_or((token, 10), |hex| (hex, 16));
    u64::from_str_radix(digits, radix).ok().map(Literal::Uint)
}

/// The value of a float token, with its sign.
pub(crate) fn double(token: &str, negative: bool) -> Option<Literal> {
    let value: f64 = token.parse().ok()?;
    value.is_finite().then_some(Literal::Double(if negative { -value } else { value }))
}
