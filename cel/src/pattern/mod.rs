//! Regular expressions as Go's `regexp` reads them (RE2 syntax).
//!
//! The syntax of the `regex` crate differs a little: Go's `\d`, `\w`, `\s` and `\b` are ASCII, `[` in a class and `{` that begins no count are
//! literal, `\Q…\E` quotes. Patterns are translated once; compiled ones are shared, because the same few stand in thousands of schemas.
//!
//! Most are small and run by the `regex` crate. What would be large there, and what is matched with long texts, runs on a machine of our own
//! ([`machine`]), whose programs are some megabytes at most and whose steps are counted: whoever writes a pattern, and whoever writes the text,
//! may mean no good.

mod machine;
mod translate;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock},
};

use regex::{Regex, RegexBuilder};
use regex_syntax::{ParserBuilder, hir::Hir};

use self::machine::{MAX_STEPS, Machine};

/// Compiled patterns kept, small and large; the rest is compiled again when wanted.
const MAX_KEPT: [usize; 2] = [512, 4];
/// Largest program that the `regex` crate runs, in bytes.
const MAX_PROGRAM: usize = 128 << 10;
/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 256 << 10;
/// Longest text that the `regex` crate matches, in bytes: with its largest program a fraction of a second.
const MAX_TEXT: usize = 32 << 10;

/// What is wrong: with a pattern, in Go's words, or with its cost.
type Fault = Box<str>;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern(Engine);

#[derive(Debug)]
enum Engine {
    Small {
        regex: Regex,
        /// In our own syntax, for the machine.
        translated: Box<str>,
        /// For long texts; made when there is one.
        machine: OnceLock<Result<Box<Machine>, Fault>>,
    },
    Large(Box<Machine>),
}

type Compiled = Result<Arc<Pattern>, Fault>;

/// Compiled patterns by their text.
type Kept = HashMap<Box<str>, Compiled>;

static KEPT: LazyLock<RwLock<[Kept; 2]>> = LazyLock::new(RwLock::default);

/// Whether `text` matches the pattern somewhere. Fails with what is wrong with the pattern, in Go's words
/// (``error parsing regexp: missing closing ): `(` ``), or with a match that would take too long.
pub fn matches(pattern: &str, text: &str) -> Result<bool, Box<str>> {
    compiled(pattern)?.is_match(text)
}

/// What is wrong with a pattern, in Go's words.
pub fn check(pattern: &str) -> Result<(), Box<str>> {
    compiled(pattern).map(drop)
}

/// The compiled pattern.
pub fn compiled(pattern: &str) -> Result<Arc<Pattern>, Box<str>> {
    let known = KEPT.read().unwrap_or_else(PoisonError::into_inner).iter().find_map(|size| size.get(pattern).cloned());
    if let Some(known) = known {
        return known;
    }
    let made = Pattern::new(pattern).map(Arc::new);
    let size = usize::from(pattern.len() > MAX_PROGRAM / 2 || made.as_ref().is_ok_and(|made| matches!(made.0, Engine::Large(_))));
    let mut kept = KEPT.write().unwrap_or_else(PoisonError::into_inner);
    if kept[size].len() >= MAX_KEPT[size] {
        kept[size].clear();
    }
    kept[size].insert(pattern.into(), made.clone());
    made
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, Fault> {
        if pattern.len() > MAX_PATTERN {
            return Err(failed("expression too large"));
        }
        let translated = translate::translate(pattern).map_err(|what| failed(&what))?;
        // A program is larger than its pattern.
        let small = if translated.len() < MAX_PROGRAM { small(&translated, pattern)? } else { None };
        Ok(Self(match small {
            Some(regex) => Engine::Small { regex, translated: translated.into(), machine: OnceLock::new() },
            None => Engine::Large(large(&translated)?),
        }))
    }

    /// Whether a text matches somewhere. Fails when finding out takes too long.
    pub fn is_match(&self, text: &str) -> Result<bool, Box<str>> {
        match &self.0 {
            Engine::Small { regex, .. } if text.len() <= MAX_TEXT => Ok(regex.is_match(text)),
            _ => Ok(self.machine()?.find(text, 0, true, MAX_STEPS)?.is_some()),
        }
    }

    /// The first match that begins at `start` or later: leftmost, and there the one that is preferred. Fails when finding it takes too long.
    pub fn find_at(&self, text: &str, start: usize) -> Result<Option<Range<usize>>, Box<str>> {
        match &self.0 {
            Engine::Small { regex, .. } if text.len() <= MAX_TEXT => Ok(regex.find_at(text, start).map(|found| found.range())),
            _ => self.machine()?.find(text, start, false, MAX_STEPS),
        }
    }

    fn machine(&self) -> Result<&Machine, Fault> {
        match &self.0 {
            Engine::Large(machine) => Ok(machine),
            Engine::Small { translated, machine, .. } => machine.get_or_init(|| large(translated)).as_deref().map_err(Clone::clone),
        }
    }
}

fn failed(what: &str) -> Fault {
    format!("error parsing regexp: {what}").into()
}

/// A program of the `regex` crate; `None` when it is too large or too deep for one.
fn small(translated: &str, pattern: &str) -> Result<Option<Regex>, Fault> {
    const NESTING: u32 = 250;
    match RegexBuilder::new(translated).size_limit(MAX_PROGRAM).nest_limit(NESTING).build() {
        Ok(regex) => Ok(Some(regex)),
        Err(regex::Error::CompiledTooBig(_)) => Ok(None),
        Err(_) if parse(translated).is_ok() => Ok(None),
        Err(_) => Err(failed(&format!("invalid syntax: `{pattern}`"))),
    }
}

fn large(translated: &str) -> Result<Box<Machine>, Fault> {
    let parsed = parse(translated).map_err(|_| failed("invalid syntax"))?;
    Machine::new(&parsed).map(Box::new).ok_or_else(|| failed("expression too large"))
}

fn parse(translated: &str) -> Result<Hir, Box<regex_syntax::Error>> {
    // Each of our groups may hold a repetition and an alternation.
    let mut parser = ParserBuilder::new().nest_limit(translate::MAX_NESTING * 3).build();
    parser.parse(translated).map_err(Box::new)
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
    fn counts_multiply_in_groups() {
        for fine in ["(a{1,10}){1,100}", "(a{0}){1000}a{1000}", "a{1000}b{1000}", "(a*){1000}"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for (much, count) in [("(a{1,1000}){1,1000}", "{1,1000}"), ("((a{1,100}){1,100}){1,100}", "{1,100}"), ("(ba{501}c){2}", "{2}")] {
            assert_eq!(check(much).unwrap_err().into_string(), format!("error parsing regexp: invalid repeat count: `{count}`"));
        }
    }

    #[test]
    fn flags_and_names_are_gos() {
        for fine in ["(?P<n>a)(?P<n>b)", "(?<n>a)", "(?i)a", "(?i-s:a)", "(?:a)", "(?U)a+", "(?)a"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for (bad, shown) in
            [("(?iz)a", "(?iz"), ("(?x)a", "(?x"), ("(?-u:a)", "(?-u"), ("(?R)", "(?R"), ("(?i-)", "(?i-)"), ("(?=a)", "(?=")]
        {
            assert_eq!(
                check(bad).unwrap_err().into_string(),
                format!("error parsing regexp: invalid or unsupported Perl syntax: `{shown}`")
            );
        }
        assert_eq!(check("(?P<a-b>x)").unwrap_err().into_string(), "error parsing regexp: invalid named capture: `(?P<a-b>`");
        assert_eq!(check("\\p{Nope}").unwrap_err().into_string(), "error parsing regexp: invalid character class range: `\\p{Nope}`");
        assert!(matches(r"a\Bb", "ab").unwrap() && !matches(r"é\Ba", "éa").unwrap());
    }

    /// What is large for the `regex` crate: each was taken by kube-apiserver.
    #[test]
    fn large_patterns_are_compiled_and_match() {
        let nested = format!("^{}a{}$", "(b|".repeat(900), ")".repeat(900));
        let ways = (0..20_000).map(|n| format!("abc{n}")).collect::<Vec<_>>().join("|");
        for (pattern, yes, no) in [
            (format!("^{}$", "a".repeat(200_000)), "a".repeat(200_000), "a".repeat(1000)),
            (ways, "xabc19999".to_owned(), "abd1".to_owned()),
            (nested, "b".to_owned(), "c".to_owned()),
            (format!("{}a{}", "(".repeat(900), ")".repeat(900)), "a".to_owned(), "b".to_owned()),
            (r"^[\p{L}\p{N}]{1,900}$".to_owned(), "äß9".repeat(300), "äß9".repeat(301)),
        ] {
            assert_eq!((matches(&pattern, &yes), matches(&pattern, &no)), (Ok(true), Ok(false)), "{}", &pattern[..20]);
        }
    }

    #[test]
    fn patterns_beyond_all_bounds_are_refused() {
        for pattern in
            ["(".repeat(2000) + &")".repeat(2000), "a".repeat(MAX_PATTERN + 1), "(abcdefghij){900}".repeat(100), r"\pL".repeat(20_000)]
        {
            let error = check(&pattern).unwrap_err();
            assert!(error.contains("nests too deeply") || error.contains("expression too large"), "{}", &error[..60]);
        }
    }

    #[test]
    fn matching_has_an_end_whatever_the_text() {
        assert_eq!(matches("^[a-z]+$", &"a".repeat(100_000)), Ok(true));
        assert_eq!(matches("needle", &"hay ".repeat(30_000)), Ok(false));
        let dear = large(".{0,900}xy").unwrap();
        let error = dear.find(&"x".repeat(100_000), 0, true, 100_000).unwrap_err();
        assert_eq!(&*error, "the regular expression takes more than 100000 steps with a text of 100000 bytes");
    }

    /// The machine finds what the `regex` crate finds.
    #[test]
    fn both_engines_agree() {
        const PATTERNS: &[&str] = &[
            "a*?b|a+",
            "(a|ab)(c|bcd)(d*)",
            "^a|b$",
            r"\bfoo\b|\Bo",
            "[^a-c]+",
            "(?i)ÄB?",
            "(a*)*",
            "(a?){2,5}?b",
            "x{0}y{2,}",
            "(?m)^b.$",
            "(?s).+",
            "",
            "|a",
            "a{2,4}?",
            r"[\pL&&[^a]]+|\d",
            "(b|a*)+c?",
        ];
        const TEXTS: &[&str] = &["", "aaab", "abcd", "foo fooo", "äb ÄB", "yyy", "a\nbc\n", "aaaa", "9zß", "bbac"];
        for pattern in PATTERNS {
            let translated = translate::translate(pattern).unwrap();
            let (regex, machine) = (Regex::new(&translated).unwrap(), large(&translated).unwrap());
            for text in TEXTS {
                for start in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                    let expected = regex.find_at(text, start).map(|found| found.range());
                    assert_eq!(machine.find(text, start, false, 10_000), Ok(expected.clone()), "{pattern} {text:?} {start}");
                    assert_eq!(machine.find(text, start, true, 10_000).unwrap().is_some(), expected.is_some());
                }
            }
        }
    }
}
