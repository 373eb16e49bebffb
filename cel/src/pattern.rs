//! Regular expressions as Go's `regexp` reads them (RE2 syntax), run by the `regex` crate.
//!
//! The two syntaxes differ a little: Go's `\d`, `\w`, `\s` and `\b` are ASCII, `[` in a class and `{` that begins no count are literal, `\Q…\E`
//! quotes. Patterns are translated once; compiled ones are shared, because the same few stand in thousands of schemas.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

use regex::{Regex, RegexBuilder};

/// Compiled patterns kept, small and large; the rest is compiled again when wanted.
const MAX_KEPT: [usize; 2] = [512, 4];
/// Largest compiled programs of the two sizes, in bytes.
const MAX_PROGRAM: [usize; 2] = [128 << 10, 8 << 20];
/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 64 * 1024;
/// The largest count in a repetition, as in Go.
const MAX_REPEAT: u32 = 1000;

type Compiled = Result<Arc<Regex>, Box<str>>;

/// Compiled patterns by their text.
type Kept = HashMap<Box<str>, Compiled>;

static KEPT: LazyLock<RwLock<[Kept; 2]>> = LazyLock::new(RwLock::default);

/// Whether `text` matches the pattern somewhere. Fails with what is wrong with the pattern, in Go's words.
pub fn matches(pattern: &str, text: &str) -> Result<bool, Box<str>> {
    Ok(compiled(pattern)?.is_match(text))
}

/// What is wrong with a pattern, in Go's words (``error parsing regexp: missing closing ): `(` ``).
pub fn check(pattern: &str) -> Result<(), Box<str>> {
    compiled(pattern).map(drop)
}

/// The compiled pattern.
pub fn compiled(pattern: &str) -> Result<Arc<Regex>, Box<str>> {
    let known = KEPT.read().unwrap_or_else(PoisonError::into_inner).iter().find_map(|size| size.get(pattern).cloned());
    if let Some(known) = known {
        return known;
    }
    let (made, size) = compile(pattern);
    let mut kept = KEPT.write().unwrap_or_else(PoisonError::into_inner);
    if kept[size].len() >= MAX_KEPT[size] {
        kept[size].clear();
    }
    kept[size].insert(pattern.into(), made.clone());
    made
}

/// Compiles a pattern; says which of the two sizes it has.
fn compile(pattern: &str) -> (Compiled, usize) {
    let failed = |what: &str| Err(format!("error parsing regexp: {what}").into());
    if pattern.len() > MAX_PATTERN {
        return (failed("expression too large"), 1);
    }
    let translated = match translate(pattern) {
        Ok(translated) => translated,
        Err(what) => return (failed(&what), 0),
    };
    for (size, limit) in MAX_PROGRAM.into_iter().enumerate() {
        match RegexBuilder::new(&translated).size_limit(limit).nest_limit(250).build() {
            Ok(regex) => return (Ok(Arc::new(regex)), size),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(_) => return (failed(&format!("invalid syntax: `{pattern}`")), size),
        }
    }
    (failed("expression too large"), 1)
}

/// The pattern in the syntax of `regex`, or what Go would say is wrong.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out =
        Translation { chars: pattern.chars().collect(), at: 0, text: String::with_capacity(pattern.len() + 16), open: 0, operand: false };
    while let Some(next) = out.peek() {
        out.step(next)?;
    }
    if out.open > 0 { Err(format!("missing closing ): `{pattern}`")) } else { Ok(out.text) }
}

struct Translation {
    chars: Vec<char>,
    at: usize,
    text: String,
    /// Groups that are open.
    open: usize,
    /// There is something a repetition may follow.
    operand: bool,
}

impl Translation {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn ahead(&self, by: usize) -> Option<char> {
        self.chars.get(self.at + by).copied()
    }

    fn rest(&self, from: usize) -> String {
        self.chars[from..].iter().collect()
    }

    fn push(&mut self, c: char) {
        self.text.push(c);
        self.at += 1;
    }

    fn step(&mut self, next: char) -> Result<(), String> {
        match next {
            '\\' => {
                self.escape(false)?;
                self.operand = true;
            }
            '[' => {
                self.class()?;
                self.operand = true;
            }
            '(' => self.group()?,
            ')' => {
                if self.open == 0 {
                    return Err(format!("unexpected ): `{}`", self.rest(0)));
                }
                self.open -= 1;
                self.operand = true;
                self.push(')');
            }
            '*' | '+' | '?' => self.repeat(1)?,
            '{' => match self.count() {
                Some((length, low, high)) => {
                    if low > MAX_REPEAT || high.is_some_and(|h| h > MAX_REPEAT || h < low) {
                        let text: String = self.chars[self.at..self.at + length].iter().collect();
                        return Err(format!("invalid repeat count: `{text}`"));
                    }
                    self.repeat(length)?;
                }
                None => {
                    self.text.push_str("\\{");
                    self.at += 1;
                    self.operand = true;
                }
            },
            '|' => {
                self.operand = false;
                self.push('|');
            }
            other => {
                self.operand = true;
                // Literal in Go, and nothing special here either outside of classes.
                self.push(other);
            }
        }
        Ok(())
    }

    /// `(`, `(?:`, `(?i)`, `(?P<name>`.
    fn group(&mut self) -> Result<(), String> {
        let start = self.at;
        self.operand = false;
        if self.ahead(1) == Some('?') {
            let lookaround = matches!(self.ahead(2), Some('=' | '!' | '>' | '#'))
                || (self.ahead(2) == Some('<') && matches!(self.ahead(3), Some('=' | '!')));
            if lookaround {
                let end = if self.ahead(2) == Some('<') { 4 } else { 3 };
                let text: String = self.chars[start..start + end].iter().collect();
                return Err(format!("invalid or unsupported Perl syntax: `{text}`"));
            }
            let named = self.ahead(2) == Some('<') || (self.ahead(2) == Some('P') && self.ahead(3) == Some('<'));
            if named && !self.chars[start..].contains(&'>') {
                return Err(format!("invalid named capture: `{}`", self.rest(start)));
            }
            while let Some(c) = self.peek() {
                self.push(c);
                match c {
                    ')' => return Ok(()),
                    ':' | '>' => break,
                    _ => {}
                }
            }
        } else {
            self.push('(');
        }
        self.open += 1;
        Ok(())
    }

    /// A repetition of `length` characters.
    fn repeat(&mut self, length: usize) -> Result<(), String> {
        let start = self.at;
        let text = |t: &Self, end: usize| -> String { t.chars[start..end].iter().collect() };
        if !self.operand {
            return Err(format!("missing argument to repetition operator: `{}`", text(self, start + length)));
        }
        for _ in 0..length {
            let c = self.chars[self.at];
            self.push(c);
        }
        if self.peek() == Some('?') {
            self.push('?');
        }
        if matches!(self.peek(), Some('*' | '+' | '?')) {
            return Err(format!("invalid nested repetition operator: `{}`", text(self, self.at + 1)));
        }
        if self.peek() == Some('{')
            && let Some((more, ..)) = self.count()
        {
            return Err(format!("invalid nested repetition operator: `{}`", text(self, self.at + more)));
        }
        Ok(())
    }

    /// The length and the bounds of `{n}`, `{n,}`, `{n,m}` that stands here.
    fn count(&self) -> Option<(usize, u32, Option<u32>)> {
        let end = self.chars[self.at..].iter().take(24).position(|c| *c == '}')?;
        let body: String = self.chars[self.at + 1..self.at + end].iter().collect();
        let number = |t: &str| (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u32>().unwrap_or(u32::MAX));
        match body.split_once(',') {
            None => number(&body).map(|n| (end + 1, n, None)),
            Some((low, "")) => number(low).map(|n| (end + 1, n, None)),
            Some((low, high)) => Some((end + 1, number(low)?, Some(number(high)?))),
        }
    }

    /// What follows a backslash, inside or outside of a class.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(c) = self.ahead(1) else { return Err("trailing backslash at end of expression: ``".into()) };
        let replaced = match (c, in_class) {
            ('d', true) => "0-9",
            ('w', true) => "0-9A-Za-z_",
            ('s', true) => "\\t\\n\\x0C\\r ",
            ('d', false) => "[0-9]",
            ('w', false) => "[0-9A-Za-z_]",
            ('s', false) => "[\\t\\n\\x0C\\r ]",
            ('D', _) => "[^0-9]",
            ('W', _) => "[^0-9A-Za-z_]",
            ('S', _) => "[^\\t\\n\\x0C\\r ]",
            ('b', false) => "(?-u:\\b)",
            // A place between bytes is no place in text; between ASCII characters it is the same.
            ('B', false) => "\\B",
            ('<', _) => "<",
            ('>', _) => ">",
            ('Q', false) => return self.quoted(),
            ('E', false) => "",
            ('A' | 'z', false) | ('a' | 'f' | 't' | 'n' | 'r' | 'v', _) => {
                self.text.push('\\');
                self.text.push(c);
                self.at += 2;
                return Ok(());
            }
            ('x' | 'p' | 'P', _) => return self.braced(c),
            ('0'..='7', _) => return self.octal(c),
            (c, _) if c.is_ascii_punctuation() => {
                self.text.push('\\');
                self.text.push(c);
                self.at += 2;
                return Ok(());
            }
            // Space and control characters stand for themselves.
            (c, _) if c.is_ascii() && !c.is_ascii_alphanumeric() => {
                self.text.push(c);
                self.at += 2;
                return Ok(());
            }
            _ => return Err(format!("invalid escape sequence: `\\{c}`")),
        };
        self.text.push_str(replaced);
        self.at += 2;
        Ok(())
    }

    /// `\Q…\E`
    fn quoted(&mut self) -> Result<(), String> {
        self.at += 2;
        while let Some(c) = self.peek() {
            if c == '\\' && self.ahead(1) == Some('E') {
                self.at += 2;
                break;
            }
            self.text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
            self.at += 1;
        }
        Ok(())
    }

    /// `\x41`, `\x{10FFFF}`, `\pL`, `\p{Greek}`.
    fn braced(&mut self, kind: char) -> Result<(), String> {
        let start = self.at;
        let length = if self.ahead(2) == Some('{') {
            self.chars[start..].iter().take(64).position(|c| *c == '}').map(|end| end + 1)
        } else {
            Some(if kind == 'x' { 4 } else { 3 })
        };
        match length {
            Some(length) if start + length <= self.chars.len() => {
                let text: String = self.chars[start..start + length].iter().collect();
                self.text.push_str(&text);
                self.at += length;
                Ok(())
            }
            _ if kind == 'x' => Err(format!("invalid escape sequence: `{}`", self.rest(start))),
            _ => Err(format!("invalid character class range: `{}`", self.rest(start))),
        }
    }

    /// `\123`; a single digit but zero would be a reference to a group, which RE2 has not.
    fn octal(&mut self, first: char) -> Result<(), String> {
        let digits: String = self.chars[self.at + 1..].iter().take(3).take_while(|c| matches!(c, '0'..='7')).collect();
        if first != '0' && digits.len() < 2 {
            return Err(format!("invalid escape sequence: `\\{first}`"));
        }
        let code = u32::from_str_radix(&digits, 8).unwrap_or_default();
        self.text.push_str(&format!("\\x{{{code:X}}}"));
        self.at += 1 + digits.len();
        Ok(())
    }

    /// `[…]`: what is literal in Go's classes and not in ours is escaped.
    fn class(&mut self) -> Result<(), String> {
        let start = self.at;
        self.push('[');
        if self.peek() == Some('^') {
            self.push('^');
        }
        let mut first = true;
        loop {
            let Some(c) = self.peek() else { return Err(format!("missing closing ]: `{}`", self.rest(start))) };
            match (c, self.ahead(1)) {
                (']', _) if !first => {
                    self.push(']');
                    return Ok(());
                }
                ('[', Some(':')) if self.named_class() => {}
                ('\\', Some('d' | 'D' | 's' | 'S' | 'w' | 'W' | 'p' | 'P')) => self.escape(true)?,
                _ => {
                    let from = self.at;
                    let low = self.class_char()?;
                    // A range, unless the hyphen is the last of the class.
                    if self.peek() == Some('-') && self.ahead(1).is_some_and(|c| c != ']') {
                        self.push('-');
                        let high = self.class_char()?;
                        if low.zip(high).is_some_and(|(low, high)| low > high) {
                            let range: String = self.chars[from..self.at].iter().collect();
                            return Err(format!("invalid character class range: `{range}`"));
                        }
                    }
                }
            }
            first = false;
        }
    }

    /// One character of a class; which, unless it was escaped.
    fn class_char(&mut self) -> Result<Option<char>, String> {
        let found = self.peek();
        match found {
            Some('\\') => return self.escape(true).map(|()| None),
            Some(c @ ('[' | ']' | '&' | '~' | '-' | '^')) => {
                self.text.push('\\');
                self.push(c);
            }
            Some(c) => self.push(c),
            None => {}
        }
        Ok(found)
    }

    /// `[:alpha:]`; whether there is one.
    fn named_class(&mut self) -> bool {
        let Some(end) = self.chars[self.at..].windows(2).position(|w| w == [':', ']']).filter(|end| *end > 1) else { return false };
        let text: String = self.chars[self.at..self.at + end + 2].iter().collect();
        self.text.push_str(&text);
        self.at += end + 2;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_letters_are_ascii_as_in_go() {
        assert!(matches(r"^\d+$", "12").unwrap());
        assert!(!matches(r"^\d+$", "१२").unwrap());
        assert!(!matches(r"^\w+$", "é").unwrap());
        assert!(matches(r"^[\w-]+$", "a-b").unwrap());
        assert!(matches(r"^[^\s]+$", "a\u{a0}b").unwrap());
        assert!(matches(r"\bfoo\b", "a foo b").unwrap());
    }

    #[test]
    fn what_is_literal_in_go_is_literal_here() {
        assert!(matches(r"^[[]x[]a]$", "[x]").unwrap());
        assert!(matches(r"^a{,2}$", "a{,2}").unwrap());
        assert!(matches(r"^[a&&b]+$", "a&b").unwrap());
        assert!(matches(r"^\<b\>$", "<b>").unwrap());
        assert!(matches(r"^\Qa.b\E$", "a.b").unwrap() && !matches(r"^\Qa.b\E$", "axb").unwrap());
        assert!(matches(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", "a-b.c").unwrap());
        assert!(matches(r"^\pL{2}$", "äß").unwrap());
        assert!(matches(r"^[a-z-\d_-]+$", "a-1_").unwrap() && matches(r"^[--/]+$", "-./").unwrap());
        assert!(matches(r"^\101$", "A").unwrap());
        assert!(matches(r"^\ *[a\ ]$", "   a").unwrap());
    }

    #[test]
    fn mistakes_are_named_with_gos_words() {
        let wrong = |pattern| check(pattern).unwrap_err().into_string();
        assert_eq!(wrong("(a"), "error parsing regexp: missing closing ): `(a`");
        assert_eq!(wrong("a)"), "error parsing regexp: unexpected ): `a)`");
        assert_eq!(wrong("[a"), "error parsing regexp: missing closing ]: `[a`");
        assert_eq!(wrong("*a"), "error parsing regexp: missing argument to repetition operator: `*`");
        assert_eq!(wrong("a**"), "error parsing regexp: invalid nested repetition operator: `**`");
        assert_eq!(wrong(r"a\q"), r"error parsing regexp: invalid escape sequence: `\q`");
        assert_eq!(wrong("(?=a)"), "error parsing regexp: invalid or unsupported Perl syntax: `(?=`");
        assert_eq!(wrong("a{1001}"), "error parsing regexp: invalid repeat count: `{1001}`");
    }

    #[test]
    fn a_pattern_that_would_need_much_memory_is_refused() {
        assert!(check("((a{1000}){1000}){1000}").is_err());
    }
}
