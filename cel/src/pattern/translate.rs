//! From Go's syntax of regular expressions (`regexp/syntax/parse.go`) to that of `regex-syntax`.
//!
//! Nobody asks for captures, so groups become plain ones, and their names may stand twice, as they may in Go.

use regex_syntax::hir::{Class, HirKind};

/// The largest count in a repetition, also of repetitions within repetitions, as in Go.
const MAX_REPEAT: u32 = 1000;
/// Ranges of all named classes together: [`regex_syntax`] keeps them in memory, each time they stand there.
const MAX_RANGES: usize = 1 << 20;
/// Groups within groups, as in Go.
pub(super) const MAX_NESTING: u32 = 1000;

/// The pattern in the syntax of `regex`, or what Go would say is wrong.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut out =
        Translation { chars: pattern.chars().collect(), text: String::with_capacity(pattern.len() + 16), ..Translation::default() };
    while let Some(next) = out.peek() {
        out.step(next)?;
    }
    if !out.open.is_empty() { Err(format!("missing closing ): `{pattern}`")) } else { Ok(out.text) }
}

#[derive(Default)]
struct Translation {
    chars: Vec<char>,
    at: usize,
    text: String,
    /// What was before each group that is open.
    open: Vec<Repeated>,
    /// How often what was read is repeated.
    repeated: Repeated,
    /// There is something a repetition may follow.
    operand: bool,
    /// Ranges of named classes so far.
    ranges: usize,
}

/// The largest product of counts of repetitions within repetitions.
#[derive(Clone, Copy, Default)]
struct Repeated {
    /// In the group so far.
    group: u32,
    /// In its last part, which a repetition would follow.
    last: u32,
}

impl Repeated {
    /// Something follows whose own repetitions are these.
    fn follow(&mut self, last: u32) {
        self.last = last;
        self.group = self.group.max(last);
    }
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
        if !matches!(next, ')' | '*' | '+' | '?' | '{') {
            self.repeated.follow(1);
        }
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
                let Some(before) = self.open.pop() else { return Err(format!("unexpected ): `{}`", self.rest(0))) };
                let within = std::mem::replace(&mut self.repeated, before).group;
                self.repeated.follow(within.max(1));
                self.operand = true;
                self.push(')');
            }
            '*' | '+' | '?' => self.repeat(1)?,
            '{' => match self.count() {
                Some((length, low, high)) => {
                    let most = high.unwrap_or(low);
                    let product = most.max(1).saturating_mul(self.repeated.last);
                    if low.max(most) > MAX_REPEAT || most < low || (self.operand && most > 1 && product > MAX_REPEAT) {
                        let text: String = self.chars[self.at..self.at + length].iter().collect();
                        return Err(format!("invalid repeat count: `{text}`"));
                    }
                    self.repeat(length)?;
                    self.repeated.follow(if most == 0 { 1 } else { product });
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
        self.operand = false;
        if self.open.len() >= MAX_NESTING as usize {
            return Err(format!("expression nests too deeply: `{}`", self.rest(0)));
        }
        let named = match (self.ahead(1), self.ahead(2), self.ahead(3)) {
            (Some('?'), Some('P'), Some('<')) => Some(4),
            (Some('?'), Some('<'), next) if !matches!(next, Some('=' | '!')) => Some(3),
            _ => None,
        };
        match named {
            Some(length) => self.name(length)?,
            None if self.ahead(1) == Some('?') => return self.flags(),
            None => self.at += 1,
        }
        self.text.push_str("(?:");
        self.enter();
        Ok(())
    }

    fn enter(&mut self) {
        self.open.push(self.repeated);
        self.repeated = Repeated::default();
    }

    /// A group's name, `length` characters behind its parenthesis, up to `>`.
    fn name(&mut self, length: usize) -> Result<(), String> {
        let start = self.at;
        let Some(end) = self.chars[start..].iter().position(|c| *c == '>') else {
            return Err(format!("invalid named capture: `{}`", self.rest(start)));
        };
        let name = &self.chars[start + length..start + end.max(length)];
        if name.is_empty() || !name.iter().all(|c| c.is_ascii_alphanumeric() || *c == '_') {
            let text: String = self.chars[start..=start + end].iter().collect();
            return Err(format!("invalid named capture: `{text}`"));
        }
        self.at += end + 1;
        Ok(())
    }

    /// `(?flags)` and `(?flags:`; Go knows `imsU`, and more is known here.
    fn flags(&mut self) -> Result<(), String> {
        let start = self.at;
        let (mut end, mut minus, mut flag) = (start + 2, false, false);
        loop {
            match self.chars.get(end) {
                Some('i' | 'm' | 's' | 'U') => flag = true,
                Some('-') if !minus => (minus, flag) = (true, false),
                Some(')' | ':') if !minus || flag => break,
                None => return Err(format!("missing closing ): `{}`", self.rest(0))),
                Some(_) => {
                    let text: String = self.chars[start..=end].iter().collect();
                    return Err(format!("invalid or unsupported Perl syntax: `{text}`"));
                }
            }
            end += 1;
        }
        let text: String = self.chars[start..=end].iter().collect();
        self.at = end + 1;
        if text.ends_with(':') {
            self.enter();
        }
        // Empty flags, which Go allows, change nothing.
        self.text.push_str(if text == "(?)" { "(?:)" } else { &text });
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
            ('B', false) => "(?-u:\\B)",
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
            self.text.push_str(&regex_syntax::escape(c.encode_utf8(&mut [0; 4])));
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
                let Ok(parsed) = regex_syntax::parse(&text) else {
                    let what = if kind == 'x' { "escape sequence" } else { "character class range" };
                    return Err(format!("invalid {what}: `{text}`"));
                };
                if let HirKind::Class(Class::Unicode(class)) = parsed.kind() {
                    self.ranges += class.ranges().len();
                }
                if self.ranges > MAX_RANGES {
                    return Err("expression too large".to_owned());
                }
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
