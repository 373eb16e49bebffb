//! Differences that are known. A line of the accepted ones: `PATTERN  # REASON`; `*` in a pattern stands for any text; a line that begins
//! with `? ` need not occur every time (upstream walks maps in any order). Open ones are patterns alone: not right yet, and not to grow.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail};

/// The known differences.
pub(crate) struct Accepted(Vec<Line>);

/// How a known difference is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// For a reason.
    Accepted,
    /// To be mended.
    Open,
}

struct Line {
    pattern: String,
    known: Known,
    sometimes: bool,
    met: usize,
}

impl Accepted {
    /// Reads both lists; the open one may be absent.
    pub(crate) fn read(accepted: &Path, open: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(accepted).with_context(|| format!("--accepted: cannot read {}", accepted.display()))?;
        Self::parse(&text, &std::fs::read_to_string(open).unwrap_or_default())
    }

    fn parse(accepted: &str, open: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for line in content(accepted) {
            let Some((pattern, reason)) = line.rsplit_once("  # ") else { bail!("no reason is given: {line}") };
            if reason.trim().is_empty() {
                bail!("no reason is given: {line}");
            }
            let pattern = pattern.trim();
            let sometimes = pattern.strip_prefix("? ");
            let line =
                Line { pattern: sometimes.unwrap_or(pattern).to_owned(), known: Known::Accepted, sometimes: sometimes.is_some(), met: 0 };
            lines.push(line);
        }
        lines.extend(content(open).map(|line| Line { pattern: line.to_owned(), known: Known::Open, sometimes: false, met: 0 }));
        Ok(Self(lines))
    }

    /// How a difference is known, if it is; notes that the line was needed.
    pub(crate) fn covers(&mut self, difference: &str) -> Option<Known> {
        let line = self.0.iter_mut().find(|line| fits(&line.pattern, difference))?;
        line.met += 1;
        Some(line.known)
    }

    /// Lines that no difference needed.
    pub(crate) fn unmet(&self) -> Vec<&str> {
        self.0.iter().filter(|line| line.met == 0 && !line.sometimes).map(|line| line.pattern.as_str()).collect()
    }

    /// The list of open differences that covers what the accepted ones do not: a line for each field of an object that is treated
    /// differently.
    pub(crate) fn bless(&self, differences: &[String], open: &Path) -> Result<()> {
        let kept = self.0.iter().filter(|line| line.known == Known::Open && line.met > 0).map(|line| line.pattern.clone());
        let patterns: BTreeSet<String> = differences.iter().map(|difference| general(difference)).chain(kept).collect();
        let head = "# Differences from kube-apiserver that are to be mended; `coracle-conformance diff --bless` writes this list.\n";
        let text: String = patterns.iter().map(|pattern| format!("{pattern}\n")).collect();
        std::fs::write(open, format!("{head}{text}")).with_context(|| format!("--open: cannot write {}", open.display()))
    }
}

fn content(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `create v1/pods/full spec.x=-1 code: …` becomes `create v1/pods/full spec.x=*`.
fn general(difference: &str) -> String {
    let mut words = difference.splitn(3, ' ');
    let (verb, object, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let place =
        [" code: ", " warnings: ", " order of causes: ", " /"].iter().filter_map(|mark| rest.find(mark)).min().unwrap_or(rest.len());
    let what = match rest.find('=') {
        Some(at) if at < place && verb != "request" => &rest[..=at],
        _ if rest.starts_with("code: ") || rest.starts_with("warnings: ") || rest.starts_with('/') => "",
        _ => &rest[..place],
    };
    format!("{verb} {object} {what}*").replace(" *", "*")
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
        let lines = "# about\ncreate *pods/* code: * | 422*  # why\nnever  # because\n? at times  # maps\n";
        let mut accepted = Accepted::parse(lines, "update v1/pods/full spec.y=*\n").unwrap();
        assert_eq!(accepted.covers("create v1/pods/full spec.x=1 code: 201 | 422 no"), Some(Known::Accepted));
        assert_eq!(accepted.covers("update v1/pods/full spec.y=1 code: 201 | 422 no"), Some(Known::Open));
        assert_eq!(accepted.covers("update v1/pods/full spec.x=1 code: 201 | 422 no"), None);
        assert_eq!(accepted.unmet(), ["never"]);
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        assert!(Accepted::parse("create *", "").is_err());
    }

    #[test]
    fn an_open_difference_is_named_by_object_and_field() {
        assert_eq!(general("create v1/pods/full spec.a[0]=\"x y\" /details: 1 | 2"), "create v1/pods/full spec.a[0]=*");
        assert_eq!(general("patch v1/pods/full merge text /message: 1 | 2"), "patch v1/pods/full merge text*");
        assert_eq!(general("get v1/pods/full /spec: 1 | 2"), "get v1/pods/full*");
    }
}
