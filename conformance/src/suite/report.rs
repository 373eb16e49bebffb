//! What came out of a suite: a table by SIG, JUnit, a page.

use std::{
    collections::BTreeMap,
    io::{Result, Write},
    time::Duration,
};

use super::expected::{Compared, Outcome, Verdict};
use crate::report::escaped;

/// What a SIG's tests add up to.
#[derive(Default)]
struct Sum {
    passed: usize,
    failed: usize,
    skipped: usize,
    worse: usize,
    seconds: f64,
}

impl Sum {
    fn add(&mut self, compared: &Compared) {
        match compared.case.outcome {
            Outcome::Pass => self.passed += 1,
            Outcome::Fail => self.failed += 1,
            Outcome::Skip => self.skipped += 1,
        }
        self.worse += usize::from(compared.verdict == Verdict::Regression);
        self.seconds += compared.case.seconds;
    }
}

/// `sig-node` of `[sig-node] Pods should …`.
fn sig(name: &str) -> &str {
    name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("other", |(sig, _)| sig)
}

fn sums(all: &[Compared]) -> (BTreeMap<&str, Sum>, Sum) {
    let (mut by_sig, mut total) = (BTreeMap::<&str, Sum>::new(), Sum::default());
    for compared in all {
        by_sig.entry(sig(&compared.case.name)).or_default().add(compared);
        total.add(compared);
    }
    (by_sig, total)
}

fn word(compared: &Compared) -> &'static str {
    match (compared.verdict, compared.case.outcome) {
        (Verdict::Regression, Outcome::Skip) => "SKIPPED, SHOULD PASS",
        (Verdict::Regression, _) => "REGRESSION",
        (Verdict::NowPasses, _) => "NOW PASSES",
        (Verdict::AsKnown, Outcome::Pass) => "passed",
        (Verdict::AsKnown, Outcome::Fail) => "known failure",
        (Verdict::AsKnown, Outcome::Skip) => "known skip",
    }
}

/// Everything but the expected passes, then the table.
pub(crate) fn print(all: &[Compared], wall: Duration, out: &mut impl Write) -> Result<()> {
    for compared in all.iter().filter(|c| c.verdict != Verdict::AsKnown || c.case.outcome != Outcome::Pass) {
        writeln!(out, "{}: {} ({:.1} s)", word(compared), compared.case.name, compared.case.seconds)?;
        let why = if compared.verdict == Verdict::Regression { Some(&compared.case.message) } else { compared.reason.as_ref() };
        for line in why.iter().flat_map(|text| text.lines()).take(12) {
            writeln!(out, "    {line}")?;
        }
    }
    let (by_sig, total) = sums(all);
    writeln!(out, "\n{:24} {:>7} {:>7} {:>8} {:>11} {:>9}", "", "passed", "failed", "skipped", "regressions", "seconds")?;
    for (name, sum) in by_sig.iter().map(|(name, sum)| (*name, sum)).chain([("all", &total)]) {
        writeln!(out, "{name:24} {:7} {:7} {:8} {:11} {:9.1}", sum.passed, sum.failed, sum.skipped, sum.worse, sum.seconds)?;
    }
    writeln!(out, "\n{:.1} s on the clock", wall.as_secs_f64())?;
    if all.iter().any(|c| c.verdict == Verdict::NowPasses) {
        writeln!(out, "known failures now pass: write `pass` before them in the list of known results")?;
    }
    Ok(())
}

/// JUnit XML; a known failure is a skipped case, so that only regressions are failures.
pub(crate) fn junit(suite: &str, all: &[Compared]) -> String {
    let failures = all.iter().filter(|c| c.verdict == Verdict::Regression).count();
    let skipped = all.iter().filter(|c| c.verdict == Verdict::AsKnown && c.case.outcome != Outcome::Pass).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">\n",
        escaped(suite),
        all.len()
    );
    for compared in all {
        let case = &compared.case;
        let (class, name) = (escaped(sig(&case.name)), escaped(&case.name));
        xml += &format!("  <testcase classname=\"{class}\" name=\"{name}\" time=\"{:.3}\">", case.seconds);
        if compared.verdict == Verdict::Regression {
            let first = case.message.lines().next().unwrap_or_default();
            xml += &format!("<failure message=\"{}\">{}</failure>", escaped(first), escaped(&case.message));
        } else if case.outcome != Outcome::Pass {
            xml += &format!("<skipped message=\"{}\"/>", escaped(compared.reason.as_deref().unwrap_or_default()));
        }
        xml += "</testcase>\n";
    }
    xml + "</testsuite>\n"
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}table{border-collapse:collapse;width:100%;\
margin:1em 0}td,th{text-align:left;padding:.2em .6em;border-bottom:1px solid #ddd;vertical-align:top}td.n,th.n{text-align:right}\
.passed{color:#17692f}.worse{color:#b3261e;font-weight:600}.known{color:#8a5a00}pre{white-space:pre-wrap;margin:.3em 0;font-size:12px}";

/// A page that stands alone.
pub(crate) fn html(suite: &str, all: &[Compared], wall: Duration) -> String {
    let (by_sig, total) = sums(all);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Conformance: {0}</title><style>{STYLE}</style>\n<h1>Suite {0}</h1>\n\
         <p>{1} of {2} passed, {3} regressions, {4:.1} s on the clock.</p>\n",
        escaped(suite),
        total.passed,
        all.len(),
        total.worse,
        wall.as_secs_f64()
    );
    page += "<table><tr><th>SIG<th class=n>passed<th class=n>failed<th class=n>skipped<th class=n>regressions<th class=n>seconds</tr>\n";
    for (name, sum) in &by_sig {
        page += &format!(
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{:.1}</tr>\n",
            escaped(name),
            sum.passed,
            sum.failed,
            sum.skipped,
            sum.worse,
            sum.seconds
        );
    }
    page += "</table>\n<table><tr><th>test<th>result<th class=n>seconds</tr>\n";
    for compared in all {
        let class = match (compared.verdict, compared.case.outcome) {
            (Verdict::Regression, _) => "worse",
            (_, Outcome::Pass) => "passed",
            _ => "known",
        };
        let why = match (&compared.reason, compared.verdict) {
            (_, Verdict::Regression) => format!("<pre>{}</pre>", escaped(&compared.case.message)),
            (Some(reason), _) => format!("<pre>{}</pre>", escaped(reason)),
            _ => String::new(),
        };
        let (name, word) = (escaped(&compared.case.name), word(compared));
        page += &format!("<tr><td>{name}{why}<td class={class}>{word}<td class=n>{:.1}</tr>\n", compared.case.seconds);
    }
    page + "</table></html>\n"
}

#[cfg(test)]
mod tests {
    use super::{super::ginkgo::Case, *};

    fn all() -> Vec<Compared> {
        let of = |name: &str, outcome, verdict, reason: Option<&str>| Compared {
            case: Case { name: name.into(), seconds: 2.0, outcome, message: "expected <1> & got 2\nat a.go:7".into() },
            verdict,
            reason: reason.map(String::from),
        };
        vec![
            of("[sig-a] one", Outcome::Pass, Verdict::AsKnown, None),
            of("[sig-a] two", Outcome::Fail, Verdict::AsKnown, Some("needs containers")),
            of("[sig-b] three", Outcome::Fail, Verdict::Regression, None),
            of("[sig-b] four", Outcome::Pass, Verdict::NowPasses, Some("was slow")),
        ]
    }

    #[test]
    fn the_table_adds_up_and_only_what_is_odd_is_told() {
        let mut out = Vec::new();
        print(&all(), Duration::from_secs(3), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("[sig-a] one") && text.contains("NOW PASSES: [sig-b] four"), "{text}");
        assert!(text.contains("REGRESSION: [sig-b] three (2.0 s)\n    expected <1> & got 2"), "{text}");
        let total = text.lines().find(|line| line.starts_with("all")).unwrap();
        assert_eq!(total.split_whitespace().collect::<Vec<_>>(), ["all", "2", "2", "0", "1", "8.0"]);
    }

    #[test]
    fn only_regressions_are_failures_for_machines() {
        let xml = junit("api", &all());
        assert!(xml.contains("tests=\"4\" failures=\"1\" skipped=\"1\""), "{xml}");
        assert!(xml.contains("<failure message=\"expected &lt;1&gt; &amp; got 2\">"), "{xml}");
        assert!(html("api", &all(), Duration::ZERO).contains("<td class=worse>REGRESSION"));
    }
}
