//! Differences that are known, each with its reason. A line: `PATTERN  # REASON`; `*` in a pattern stands for any text.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// The accepted differences of a file.
pub(crate) struct Accepted(Vec<Line>);

struct Line {
    pattern: String,
    met: usize,
}

impl Accepted {
    /// Reads the list.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("--accepted: cannot read {}", file.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some((pattern, reason)) = line.rsplit_once("  # ") else { bail!("no reason is given: {line}") };
            if reason.trim().is_empty() {
                bail!("no reason is given: {line}");
            }
            lines.push(Line { pattern: pattern.trim().to_owned(), met: 0 });
        }
        Ok(Self(lines))
    }

    /// Whether a difference is on the list; notes that the line was needed.
    pub(crate) fn covers(&mut self, difference: &str) -> bool {
        let found = self.0.iter_mut().find(|line| fits(&line.pattern, difference));
        found.map(|line| line.met += 1).is_some()
    }

    /// Lines that no difference needed.
    pub(crate) fn unmet(&self) -> Vec<&str> {
        self.0.iter().filter(|line| line.met == 0).map(|line| line.pattern.as_str()).collect()
    }
}

/// Whether the texts between stars stand in the text, in order, anchored at both ends.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let Some((last, middle)) = parts.split_last() else { return true };
    for part in middle {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_covers_what_its_pattern_fits_and_says_when_it_is_needed_no_more() {
        let mut accepted = Accepted::parse("# about\ncreate *pods/* code: * | 422*  # why\nnever  # because\n").unwrap();
        assert!(accepted.covers("create v1/pods/full spec.x=1 code: 201 | 422 no"));
        assert!(!accepted.covers("update v1/pods/full spec.x=1 code: 201 | 422 no"));
        assert_eq!(accepted.unmet(), ["never"]);
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        assert!(Accepted::parse("create *").is_err());
    }
}
