//! Where in an expression something is wrong, shown as cel-go shows it (`common/errors.go`).

use std::fmt;

/// Something wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line, from 1; 0 if the issue has no place. (-1 and 0 are what upstream prints for none.)
    pub line: usize,
    /// The column in code points, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    snippet: Option<String>,
    /// Shown as it is, without a place.
    bare: bool,
}

/// Snippets longer than this are left out.
const SNIPPET_LIMIT: usize = 16_384;

impl fmt::Display for Issue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bare {
            return out.write_str(&self.message);
        }
        if self.line == 0 {
            return write!(out, "ERROR: <input>:-1:0: {}", self.message);
        }
        write!(out, "ERROR: <input>:{}:{}: {}", self.line, self.column, self.message)?;
        let Some(snippet) = &self.snippet else { return Ok(()) };
        write!(out, "\n | {snippet}\n | ")?;
        let mut chars = snippet.chars();
        for c in chars.by_ref().take(self.column - 1) {
            out.write_str(if c.is_ascii() { "." } else { "\u{ff0e}" })?;
        }
        out.write_str(if chars.next().is_none_or(|c| c.is_ascii()) { "^" } else { "\u{ff3e}" })
    }
}

/// Shows issues one below the other, as an API error carries them.
pub fn display(issues: &[Issue]) -> String {
    let lines: Vec<String> = issues.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// At most so many issues of one expression are reported.
const ISSUE_LIMIT: usize = 100;

/// An expression's text and what was found wrong in it.
pub(crate) struct Source<'a> {
    text: &'a str,
    issues: Vec<Issue>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str) -> Source<'a> {
        Source { text, issues: Vec::new() }
    }

    /// Reports `message` at the byte `offset`.
    pub(crate) fn report(&mut self, offset: usize, message: impl Into<String>) {
        if self.issues.len() >= ISSUE_LIMIT {
            return;
        }
        // Of an empty text cel-go shows no line, and nothing stands in its first column.
        if self.text.is_empty() {
            self.issues.push(Issue { line: 1, column: 0, message: message.into(), snippet: None, bare: false });
            return;
        }
        let before = &self.text[..offset.min(self.text.len())];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        self.issues.push(Issue {
            line: 1 + before.matches('\n').count(),
            column: 1 + before[start..].chars().count(),
            message: message.into(),
            snippet: (line.len() <= SNIPPET_LIMIT).then(|| line.replace('\t', " ")),
            bare: false,
        });
    }

    /// Reports `message` about the expression as a whole.
    pub(crate) fn report_all(&mut self, message: impl Into<String>) {
        self.issues.push(Issue { line: 0, column: 0, message: message.into(), snippet: None, bare: false });
    }

    /// Reports that a checked expression cannot be made ready to be evaluated.
    pub(crate) fn report_bare(&mut self, message: impl Into<String>) {
        self.issues.push(Issue { line: 0, column: 0, message: message.into(), snippet: None, bare: true });
    }

    pub(crate) fn failed(&self) -> bool {
        !self.issues.is_empty()
    }

    /// What was reported, ordered by place.
    pub(crate) fn into_issues(self) -> Vec<Issue> {
        let mut issues = self.issues;
        issues.sort_by_key(|issue| (issue.line, issue.column));
        issues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_empty_text_there_is_no_line_to_show() {
        let mut source = Source::new("");
        source.report(0, "no");
        assert_eq!(source.into_issues()[0].to_string(), "ERROR: <input>:1:0: no");
    }

    #[test]
    fn an_issue_points_at_its_column() {
        let mut source = Source::new("a +\n\tbö.x");
        source.report(6, "no");
        assert_eq!(source.into_issues()[0].to_string(), "ERROR: <input>:2:3: no\n |  bö.x\n | ..＾");
    }
}
