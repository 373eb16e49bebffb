//! The grammar of `?labelSelector=` (apimachinery `labels.Parse`).

use std::fmt;

use super::{LabelSelector, Requirement, Spelling, checked, joined};
use crate::name;

impl LabelSelector {
    /// Parses `a=b,c in (d,e),!f`. Errors are worded like apimachinery's `labels.Parse`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let mut requirements = Vec::new();
        loop {
            match parser.peek(true) {
                Token::Word(_) | Token::Symbol("!") => {
                    let one = parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(one);
                    match parser.next(true) {
                        Token::End => break,
                        Token::Symbol(",") => {
                            let next = parser.peek(true);
                            if !matches!(next, Token::Word(_) | Token::Symbol("!")) {
                                return Err(format!("found '{next}', expected: identifier after ','"));
                            }
                        }
                        other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
                    }
                }
                Token::End => break,
                other => return Err(format!("found '{other}', expected: !, identifier, or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Word(text) => text,
            Self::Symbol(text) => text,
            Self::End => "",
        })
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "!", "=", ">", "<", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.into_iter().find(|s| rest.starts_with(s)) {
            found.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c: char| " \t\r\n=!(),<>".contains(c)).unwrap_or(rest.len());
            found.push(Token::Word(&rest[..end]));
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }
    found.push(Token::End);
    Ok(found)
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next token; where a value stands, `in` and `notin` are ordinary words, elsewhere they are operators.
    fn peek(&self, value: bool) -> Token<'a> {
        let token = self.tokens.get(self.at).copied().unwrap_or(Token::End);
        match token {
            Token::Word("in") if !value => Token::Symbol("in"),
            Token::Word("notin") if !value => Token::Symbol("notin"),
            other => other,
        }
    }

    fn next(&mut self, value: bool) -> Token<'a> {
        let token = self.peek(value);
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek(true) == Token::Symbol("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next(true) {
            Token::Word(key) => key,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        if let Some(message) = joined(&name::qualified(key)) {
            // Upstream reports the key without a field path here, which prints as `<nil>`.
            return Err(format!("<nil>: Invalid value: {key:?}: {message}"));
        }
        if absent {
            return checked(key, Spelling::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(true), Token::End | Token::Symbol(",")) {
            return checked(key, Spelling::Exists, Vec::new());
        }
        let spelling = match self.next(false) {
            Token::Symbol("in") => Spelling::In,
            Token::Symbol("notin") => Spelling::NotIn,
            Token::Symbol("=" | "==") => Spelling::Equals,
            Token::Symbol("!=") => Spelling::NotEquals,
            Token::Symbol(">") => Spelling::GreaterThan,
            Token::Symbol("<") => Spelling::LessThan,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if matches!(spelling, Spelling::In | Spelling::NotIn) { self.values()? } else { vec![self.one_value()?] };
        checked(key, spelling, values)
    }

    fn one_value(&mut self) -> Result<Box<str>, String> {
        match self.peek(true) {
            Token::End | Token::Symbol(",") => Ok("".into()),
            Token::Word(word) => {
                self.at += 1;
                Ok(word.into())
            }
            other => Err(format!("found '{other}', expected: identifier")),
        }
    }

    /// `(a,b)`; an empty place between commas is the empty value.
    fn values(&mut self) -> Result<Vec<Box<str>>, String> {
        let open = self.next(true);
        if open != Token::Symbol("(") {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut values: Vec<Box<str>> = Vec::new();
        let mut expect_value = true;
        loop {
            match self.next(true) {
                Token::Word(word) if expect_value => {
                    values.push(word.into());
                    expect_value = false;
                }
                Token::Symbol(",") => {
                    if expect_value {
                        values.push("".into());
                    }
                    expect_value = true;
                }
                Token::Symbol(")") => {
                    if expect_value {
                        values.push("".into());
                    }
                    return Ok(values);
                }
                other if expect_value => return Err(format!("found '{other}', expected: ',', ')' or identifier")),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}
