//! Scenario files: what a user types and what is answered.
//!
//! `#` lines are for people; `% FLAGS` gives server flags; `$ LINE` is run by the shell; `~ LINE` is run until it succeeds and answers
//! as written (what comes true by itself). The lines that follow, up to an empty one, are the golden answer: output, then errors.
//! In a golden line `<any>` stands for any text.

use std::{
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(60);

/// How one file went.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) steps: usize,
    pub(crate) seconds: f64,
    pub(crate) failure: Option<String>,
}

struct Step {
    command: String,
    repeated: bool,
    golden: Vec<String>,
}

/// The scenario files of a folder, by name.
pub(crate) fn files(folder: &Path, only: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("--scenarios: cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "txt") && path.to_string_lossy().contains(only));
    files.sort();
    Ok(files)
}

/// Runs one file against a server of its own.
pub(crate) fn run(binary: &Path, file: &Path, bless: bool) -> Result<Outcome> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (flags, steps) = parse(&text);
    let start = Instant::now();
    let cluster = Cluster::start(binary, &flags)?;
    let mut failure = None;
    let mut blessed = text.clone();
    for step in &steps {
        let answer = answer(&cluster, step)?;
        if !matches(&step.golden, &answer) {
            if bless {
                blessed = rewrite(&blessed, step, &answer);
            } else {
                failure =
                    Some(format!("{}\nexpected:\n  {}\nanswered:\n  {}", step.command, step.golden.join("\n  "), answer.join("\n  ")));
                break;
            }
        }
    }
    if blessed != text {
        std::fs::write(file, blessed).with_context(|| format!("--bless: cannot write {}", file.display()))?;
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Outcome { name, steps: steps.len(), seconds: start.elapsed().as_secs_f64(), failure })
}

fn parse(text: &str) -> (Vec<String>, Vec<Step>) {
    let mut flags = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("~ ")) {
            steps.push(Step { command: command.into(), repeated: line.starts_with('~'), golden: Vec::new() });
            open = true;
        } else if let Some(more) = line.strip_prefix("% ") {
            flags.extend(more.split_whitespace().map(String::from));
        } else if line.is_empty() || (line.starts_with('#') && !open) {
            open = false;
        } else if let (true, Some(step)) = (open, steps.last_mut()) {
            step.golden.push(line.into());
        }
    }
    (flags, steps)
}

/// The answer to a step; a repeated one is asked until it is as written or patience ends.
fn answer(cluster: &Cluster, step: &Step) -> Result<Vec<String>> {
    let start = Instant::now();
    loop {
        let output = cluster.shell(&step.command)?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
        if !step.repeated || matches(&step.golden, &lines) || start.elapsed() > PATIENCE {
            return Ok(lines);
        }
        sleep(Duration::from_millis(100));
    }
}

fn matches(golden: &[String], answer: &[String]) -> bool {
    golden.len() == answer.len() && golden.iter().zip(answer).all(|(golden, line)| line_matches(golden, line))
}

/// Whether the texts between `<any>` stand in the line, in order, anchored at both ends.
fn line_matches(golden: &str, line: &str) -> bool {
    let parts: Vec<&str> = golden.split("<any>").collect();
    let [first, middle @ .., last] = parts.as_slice() else { return golden == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn rewrite(text: &str, step: &Step, answer: &[String]) -> String {
    let mark = if step.repeated { '~' } else { '$' };
    let block =
        |lines: &[String]| std::iter::once(format!("{mark} {}", step.command)).chain(lines.iter().cloned()).collect::<Vec<_>>().join("\n");
    text.replacen(&block(&step.golden), &block(answer), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_flags_and_steps_with_their_answers() {
        let (flags, steps) = parse("# about\n% --hollow-nodes 2\n\n$ one\na\n# b\n\n# note\n~ two\nc\n");
        assert_eq!(flags, ["--hollow-nodes", "2"]);
        assert_eq!((steps[0].golden.as_slice(), steps[1].repeated), (["a".to_owned(), "# b".to_owned()].as_slice(), true));
    }

    #[test]
    fn any_stands_for_any_text_but_the_rest_must_fit() {
        assert!(line_matches("web-<any> Running <any>s", "web-x1 Running 12s"));
        assert!(!line_matches("web-<any> Running", "web-x1 Pending"));
        assert!(!line_matches("exact", "exact and more"));
    }
}
