//! What is known of each test, kept in the project: `pass NAME`, or `fail NAME` / `skip NAME` followed by an indented line with the reason.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};

use super::ginkgo::Case;

/// How a test ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Pass,
    Fail,
    Skip,
}

/// What an outcome means beside what was known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// As known, or a pass of a test nothing is known of.
    AsKnown,
    /// Known not to pass, and passes: the list can be shortened.
    NowPasses,
    /// Not known to end this way, and did not pass.
    Regression,
}

/// A test's outcome with what it means.
pub(crate) struct Compared {
    pub(crate) case: Case,
    pub(crate) verdict: Verdict,
    /// Why it is known not to pass.
    pub(crate) reason: Option<String>,
}

/// The list.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<String, (Outcome, Option<String>)>);

impl Known {
    /// Reads a list.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("--expected: cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("--expected: {}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut known = BTreeMap::new();
        let mut last: Option<String> = None;
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with(char::is_whitespace) {
                let Some(entry) = last.take().and_then(|name| known.get_mut(&name)) else {
                    bail!("line {number}: a reason stands under the test it is of");
                };
                let (_, reason): &mut (Outcome, Option<String>) = entry;
                *reason = Some(line.trim().to_owned());
                continue;
            }
            let (outcome, name) = match line.split_once(' ') {
                Some(("pass", name)) => (Outcome::Pass, name.trim()),
                Some(("fail", name)) => (Outcome::Fail, name.trim()),
                Some(("skip", name)) => (Outcome::Skip, name.trim()),
                _ => bail!("line {number}: must begin with pass, fail or skip"),
            };
            if known.insert(name.to_owned(), (outcome, None)).is_some() {
                bail!("line {number}: {name:?} is there twice");
            }
            last = (outcome != Outcome::Pass).then(|| name.to_owned());
        }
        if let Some((name, _)) = known.iter().find(|(_, (outcome, reason))| *outcome != Outcome::Pass && reason.is_none()) {
            bail!("{name:?} has no reason; write it indented below");
        }
        Ok(Self(known))
    }

    /// What these outcomes mean.
    pub(crate) fn compare(&self, cases: Vec<Case>) -> Vec<Compared> {
        let compare = |case: Case| {
            let (known, reason) = self.0.get(&case.name).cloned().unwrap_or((Outcome::Pass, None));
            let verdict = match (known, case.outcome) {
                (Outcome::Fail | Outcome::Skip, Outcome::Pass) => Verdict::NowPasses,
                (known, outcome) if known == outcome => Verdict::AsKnown,
                // A known failure that skips itself, or the other way round, is no worse.
                (Outcome::Fail, _) => Verdict::AsKnown,
                _ => Verdict::Regression,
            };
            Compared { case, verdict, reason }
        };
        cases.into_iter().map(compare).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome) -> Case {
        Case { name: name.into(), seconds: 0.0, outcome, message: String::new() }
    }

    #[test]
    fn only_what_was_not_known_to_fail_is_a_regression() {
        let known = Known::parse("# list\npass a\nfail b\n  needs containers\nskip c\n  no such gate\n").unwrap();
        let cases = [
            ("a", Outcome::Fail),
            ("b", Outcome::Fail),
            ("b", Outcome::Pass),
            ("c", Outcome::Skip),
            ("c", Outcome::Fail),
            ("new", Outcome::Fail),
        ];
        let verdicts: Vec<Verdict> =
            known.compare(cases.iter().map(|(name, outcome)| case(name, *outcome)).collect()).iter().map(|c| c.verdict).collect();
        use Verdict::{AsKnown, NowPasses, Regression};
        assert_eq!(verdicts, [Regression, AsKnown, NowPasses, AsKnown, Regression, Regression]);
    }

    #[test]
    fn a_known_failure_needs_a_reason() {
        let Err(error) = Known::parse("fail a\npass b\n") else { panic!("must fail") };
        assert!(error.to_string().contains("\"a\" has no reason"), "{error}");
        assert!(Known::parse("pass a\n  reason\n").is_err());
        assert!(Known::parse("works a\n").is_err());
        assert!(Known::parse("pass a\npass a\n").is_err());
    }
}
