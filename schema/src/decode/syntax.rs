//! What is wrong with a text that is no JSON, in the words of Go's scanner (`encoding/json/scanner.go`), which people and tools know.

/// Levels of nesting that Go reads.
const DEPTH: usize = 10_000;

/// The first fault of a text; `None` if its syntax is right and something else is the matter.
pub(crate) fn fault(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0 };
    let fault = scanner.document().err()?;
    Some(match fault {
        Fault::End => "unexpected end of JSON input".to_owned(),
        Fault::Character(byte, place) => format!("invalid character {} {place}", quoted(byte)),
    })
}

enum Fault {
    End,
    Character(u8, String),
}

type Scan = Result<(), Fault>;

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl Scanner<'_> {
    /// Without recursion, for the nesting is what a client chose.
    fn document(&mut self) -> Scan {
        let mut open: Vec<u8> = Vec::new();
        loop {
            // A value begins here.
            match self.significant()? {
                bracket @ (b'{' | b'[') => {
                    if open.len() == DEPTH {
                        return self.refuse("exceeded max depth");
                    }
                    self.at += 1;
                    open.push(bracket);
                    let next = self.significant()?;
                    if next == bracket + 2 {
                        self.at += 1;
                        open.pop();
                    } else if bracket == b'{' {
                        self.key()?;
                        continue;
                    } else {
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value ended here.
            loop {
                let Some(bracket) = open.last().copied() else { return self.nothing_more() };
                match (self.significant()?, bracket) {
                    (b',', b'{') => {
                        self.at += 1;
                        self.significant()?;
                        self.key()?;
                        break;
                    }
                    (b',', _) => {
                        self.at += 1;
                        break;
                    }
                    (close, _) if close == bracket + 2 => {
                        self.at += 1;
                        open.pop();
                    }
                    (_, b'{') => return self.refuse("after object key:value pair"),
                    _ => return self.refuse("after array element"),
                }
            }
        }
    }

    fn peek(&self) -> Result<u8, Fault> {
        self.text.get(self.at).copied().ok_or(Fault::End)
    }

    /// The next byte that is no white space.
    fn significant(&mut self) -> Result<u8, Fault> {
        while self.text.get(self.at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn refuse<T>(&self, place: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Character(self.peek()?, place.into()))
    }

    fn nothing_more(&mut self) -> Scan {
        match self.significant() {
            Err(_) => Ok(()),
            Ok(_) => self.refuse("after top-level value"),
        }
    }

    fn key(&mut self) -> Scan {
        if self.peek()? != b'"' {
            return self.refuse("looking for beginning of object key string");
        }
        self.string()?;
        if self.significant()? != b':' {
            return self.refuse("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Scan {
        match self.peek()? {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.refuse("looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Scan {
        for expected in word.chars() {
            if char::from(self.peek()?) != expected {
                return self.refuse(format!("in literal {word} (expecting '{expected}')"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Scan {
        loop {
            self.at += 1;
            match self.peek()? {
                b'"' => break,
                b'\\' => self.escape()?,
                ..0x20 => return self.refuse("in string literal"),
                _ => {}
            }
        }
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self) -> Scan {
        self.at += 1;
        match self.peek()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.peek()?.is_ascii_hexdigit() {
                        return self.refuse("in \\u hexadecimal character escape");
                    }
                }
            }
            _ => return self.refuse("in string escape code"),
        }
        Ok(())
    }

    fn number(&mut self) -> Scan {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits("in numeric literal")?,
            _ => return self.refuse("in numeric literal"),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self, place: &str) -> Scan {
        if !self.peek()?.is_ascii_digit() {
            return self.refuse(place);
        }
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }
}

/// A byte as a character in quotes: as Go's `quoteChar`, which takes it for a code point.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        0x07 => "'\\a'".to_owned(),
        0x08 => "'\\b'".to_owned(),
        0x0b => "'\\v'".to_owned(),
        0x0c => "'\\f'".to_owned(),
        ..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts were refused by kube-apiserver with these words.
    #[test]
    fn faults_are_worded_as_go_words_them() {
        for (text, wanted) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("[1,", "unexpected end of JSON input"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("{}{}", "invalid character '{' after top-level value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\":\"\\x\"}", "invalid character 'x' in string escape code"),
            ("{\"a\":\"\\u12g\"}", "invalid character 'g' in \\u hexadecimal character escape"),
            ("{\"a\":\"\u{1}\"}", "invalid character '\\x01' in string literal"),
            ("{\"a\":NaN}", "invalid character 'N' looking for beginning of value"),
            ("{\"a\":nul}", "invalid character '}' in literal null (expecting 'l')"),
            ("[-a]", "invalid character 'a' in numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            ("[1.]", "invalid character ']' after decimal point in numeric literal"),
            ("[1e]", "invalid character ']' in exponent of numeric literal"),
            ("\u{feff}{}", "invalid character 'ï' looking for beginning of value"),
        ] {
            assert_eq!(fault(text.as_bytes()).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(fault(b"\x1f\x8b\x08").as_deref(), Some("invalid character '\\x1f' looking for beginning of value"));
    }

    #[test]
    fn what_is_right_has_no_fault_and_nesting_has_an_end() {
        for text in ["{}", " [] ", "{\"a\":[1,-2.5e+3,true,null,\"\\u00e9\\n\",{}]}", "\"x\"", "0"] {
            assert_eq!(fault(text.as_bytes()), None, "{text}");
        }
        let deep = |depth: usize| fault(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
        assert_eq!(deep(10_000), None);
        assert_eq!(deep(10_001).as_deref(), Some("invalid character '[' exceeded max depth"));
    }
}
