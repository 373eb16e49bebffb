//! How upstream's tests are run, and how their report is read.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::expected::Outcome;

/// How long the tests may take to clean up once their time is over.
const CLEANUP: Duration = Duration::from_secs(120);
const REPORT: &str = "ginkgo.json";

/// The programs.
pub(crate) struct Tests {
    e2e: PathBuf,
    ginkgo: Option<PathBuf>,
}

/// One run of them.
pub(crate) struct Run<'a> {
    pub(crate) names: &'a [String],
    pub(crate) procs: u16,
    pub(crate) kubeconfig: &'a Path,
    pub(crate) kubectl: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) patience: Duration,
    pub(crate) more: &'a [String],
}

/// How one test went.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) outcome: Outcome,
    /// What it said when it failed or was skipped.
    pub(crate) message: String,
}

impl Tests {
    /// Finds the programs, or says how to get them.
    pub(crate) fn find(e2e: &Path, ginkgo: &Path, procs: u16) -> Result<Self> {
        let program = |flag: &str, file: &Path| {
            file.canonicalize().with_context(|| {
                format!("{flag}: {} is not there; `conformance/e2e/build.sh` builds it (needs Go, a quarter of an hour)", file.display())
            })
        };
        Ok(Self { e2e: program("--e2e-test", e2e)?, ginkgo: if procs > 1 { Some(program("--ginkgo", ginkgo)?) } else { None } })
    }

    /// Runs the tests to their end, or to the end of patience, and reads what came out.
    pub(crate) fn run(&self, run: &Run<'_>) -> Result<Vec<Case>> {
        let report = run.folder.join(REPORT);
        if report.exists() {
            std::fs::remove_file(&report).with_context(|| format!("cannot remove {}", report.display()))?;
        }
        let log_file = run.folder.join("e2e.log");
        let log = std::fs::File::create(&log_file).with_context(|| format!("--report: cannot write {}", log_file.display()))?;
        let mut child = self
            .command(run)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.e2e.display()))?;
        wait(&mut child, run.patience + CLEANUP)?;
        let Ok(text) = std::fs::read(&report) else {
            bail!("the tests wrote no report; the end of {}:\n{}", log_file.display(), tail(&log_file));
        };
        let suites: Vec<Suite> = serde_json::from_slice(&text).with_context(|| format!("{} is unreadable", report.display()))?;
        cases(run.names, suites)
    }

    fn command(&self, run: &Run<'_>) -> Command {
        let (mut command, prefix) = match &self.ginkgo {
            Some(ginkgo) => {
                let mut command = Command::new(ginkgo);
                command.arg(format!("--procs={}", run.procs));
                (command, "--")
            }
            None => (Command::new(&self.e2e), "--ginkgo."),
        };
        command
            .arg(format!("{prefix}no-color"))
            .arg(format!("{prefix}timeout={}s", run.patience.as_secs()))
            .arg(format!("{prefix}focus={}", focus(run.names)));
        let folder = std::path::absolute(run.folder).unwrap_or_else(|_| run.folder.into());
        // Ginkgo puts together what the processes report, in a folder; alone the tests take the file's path.
        if self.ginkgo.is_some() {
            command.arg(format!("--json-report={REPORT}")).arg(format!("--output-dir={}", folder.display()));
            command.arg(&self.e2e).arg("--");
        } else {
            command.arg(format!("--ginkgo.json-report={}", folder.join(REPORT).display()));
        }
        command
            .args(["--provider=skeleton", "--disable-log-dump", "--dump-logs-on-failure=false", "--allowed-not-ready-nodes=0"])
            .arg(format!("--kubeconfig={}", run.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", run.kubectl.display()))
            .args(run.more);
        command
    }
}

/// A pattern that matches these names; the text it is held against begins with the suite's own name.
fn focus(names: &[String]) -> String {
    let mut pattern = String::new();
    for name in names {
        pattern.push_str(if pattern.is_empty() { "(?:" } else { "|" });
        for character in name.chars() {
            if r"\.+*?()|[]{}^$".contains(character) {
                pattern.push('\\');
            }
            pattern.push(character);
        }
    }
    pattern + ")$"
}

/// Waits for the end; past the limit it is asked to end, then ended.
fn wait(child: &mut Child, limit: Duration) -> Result<()> {
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > limit + CLEANUP {
            child.kill()?;
            child.wait()?;
        } else if started.elapsed() > limit {
            Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
            sleep(Duration::from_secs(5));
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn tail(file: &Path) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Ginkgo's report, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// Nanoseconds.
    run_time: i64,
    #[serde(default)]
    failure: Failure,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
    forwarded_panic: String,
    location: Location,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Location {
    file_name: String,
    line_number: i64,
}

impl Spec {
    fn name(&self) -> String {
        let mut parts: Vec<&str> = self.container_hierarchy_texts.iter().flatten().map(String::as_str).collect();
        parts.push(&self.leaf_node_text);
        parts.retain(|part| !part.is_empty());
        parts.join(" ")
    }

    fn failed(&self) -> bool {
        !["passed", "skipped", "pending"].contains(&self.state.as_str())
    }

    fn message(&self) -> String {
        let mut message = self.failure.message.trim().to_owned();
        if !self.failure.forwarded_panic.is_empty() {
            message += &format!("\npanic: {}", self.failure.forwarded_panic.trim());
        }
        if self.failed() && !self.failure.location.file_name.is_empty() {
            message += &format!("\nat {}:{}", self.failure.location.file_name, self.failure.location.line_number);
        }
        message
    }

    fn case(&self, name: &str) -> Case {
        let outcome = match self.state.as_str() {
            "passed" => Outcome::Pass,
            "skipped" | "pending" if !self.failure.message.is_empty() => Outcome::Skip,
            _ => Outcome::Fail,
        };
        let message = match (outcome, self.message()) {
            (Outcome::Fail, message) if message.is_empty() => format!("was not run ({})", self.state),
            (_, message) => message,
        };
        Case { name: name.to_owned(), seconds: self.run_time as f64 / 1e9, outcome, message }
    }
}

/// What the report says of the tests asked for, in their order.
fn cases(names: &[String], suites: Vec<Suite>) -> Result<Vec<Case>> {
    let specs: Vec<Spec> = suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()).collect();
    if let Some(setup) = specs.iter().find(|spec| spec.leaf_node_type != "It" && spec.failed()) {
        bail!("{} of the tests failed, so nothing was tested: {}", setup.leaf_node_type, setup.message());
    }
    let found: BTreeMap<String, &Spec> = specs.iter().filter(|spec| spec.leaf_node_type == "It").map(|spec| (spec.name(), spec)).collect();
    let absent = || "is not in this e2e.test; another version?".to_owned();
    Ok(names
        .iter()
        .map(|name| match found.get(name) {
            Some(spec) => spec.case(name),
            None => Case { name: name.clone(), seconds: 0.0, outcome: Outcome::Fail, message: absent() },
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, text: &str, state: &str, message: &str) -> serde_json::Value {
        serde_json::json!({"ContainerHierarchyTexts": ["[sig-a] Area", ""], "LeafNodeType": kind, "LeafNodeText": text, "State": state,
            "RunTime": 1_500_000_000_i64, "Failure": {"Message": message, "Location": {"FileName": "a.go", "LineNumber": 7}}})
    }

    fn report(specs: &[serde_json::Value]) -> Vec<Suite> {
        serde_json::from_value(serde_json::json!([{"SuitePath": "x", "SpecReports": specs}])).unwrap()
    }

    #[test]
    fn a_name_stands_for_itself_in_the_pattern() {
        assert_eq!(focus(&["[sig-a] works (v1.0)".into(), "b".into()]), r"(?:\[sig-a\] works \(v1\.0\)|b)$");
    }

    #[test]
    fn the_report_is_asked_for_as_whoever_writes_it_understands() {
        let names = ["a".to_owned()];
        let place = Path::new("/reports");
        let run = Run { names: &names, procs: 1, kubeconfig: place, kubectl: place, folder: place, patience: CLEANUP, more: &[] };
        let asked = |ginkgo: Option<PathBuf>| {
            let command = Tests { e2e: "e2e.test".into(), ginkgo }.command(&run);
            let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
            args.filter(|arg| arg.contains("json-report=") || arg.contains("output-dir=")).collect::<Vec<_>>()
        };
        assert_eq!(asked(None), ["--ginkgo.json-report=/reports/ginkgo.json"]);
        assert_eq!(asked(Some("ginkgo".into())), ["--json-report=ginkgo.json", "--output-dir=/reports"]);
    }

    #[test]
    fn a_test_that_did_not_run_or_is_not_there_has_failed() {
        let names = ["[sig-a] Area one", "[sig-a] Area two", "[sig-a] Area three", "[sig-a] Area four"].map(String::from);
        let specs = [spec("It", "one", "passed", ""), spec("It", "two", "skipped", ""), spec("It", "three", "skipped", "no such feature")];
        let cases = cases(&names, report(&specs)).unwrap();
        let outcomes: Vec<Outcome> = cases.iter().map(|case| case.outcome).collect();
        assert_eq!(outcomes, [Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Fail]);
        assert!(cases[3].message.contains("not in this e2e.test"));
        assert!((cases[0].seconds - 1.5).abs() < 1e-9);
    }

    #[test]
    fn a_failed_setup_is_said_once_and_not_for_every_test() {
        let specs = [spec("SynchronizedBeforeSuite", "", "failed", "no ready node"), spec("It", "one", "skipped", "")];
        let Err(error) = cases(&["[sig-a] Area one".into()], report(&specs)) else { panic!("must fail") };
        assert!(error.to_string().contains("no ready node\nat a.go:7"), "{error}");
    }
}
