//! What came out, for people and for machines.

use std::io::{Result, Write};

use crate::scenario::Outcome;

/// A line a scenario, the failures in full, and a closing line.
pub(crate) fn print(results: &[Outcome], out: &mut impl Write) -> Result<()> {
    for result in results {
        let word = if result.failure.is_some() { "FAIL" } else { "ok" };
        writeln!(out, "{word:4} {:32} {:3} steps {:6.1} s", result.name, result.steps, result.seconds)?;
    }
    for result in results {
        if let Some(failure) = &result.failure {
            writeln!(out, "\n{}: {failure}", result.name)?;
        }
    }
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    writeln!(out, "\n{} passed, {failed} failed", results.len() - failed)
}

/// JUnit XML, one case a scenario.
pub(crate) fn junit(results: &[Outcome]) -> String {
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    let mut xml = format!("<testsuite name=\"coracle scenarios\" tests=\"{}\" failures=\"{failed}\">\n", results.len());
    for result in results {
        xml += &format!("  <testcase name=\"{}\" time=\"{:.3}\">", escaped(&result.name), result.seconds);
        if let Some(failure) = &result.failure {
            xml += &format!("<failure>{}</failure>", escaped(failure));
        }
        xml += "</testcase>\n";
    }
    xml + "</testsuite>\n"
}

/// Text as XML and HTML have it; control characters, which XML has not, are left out.
pub(crate) fn escaped(text: &str) -> String {
    let text = text.replace(|c: char| c.is_control() && !"\n\t".contains(c), "");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
