//! Upstream's own tests against a cluster: chosen by name, run in parallel, compared with what is known of them.

mod expected;
mod ginkgo;
mod report;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cluster::Cluster;
use expected::{Known, Verdict};

/// Nodes of the cluster: enough for a spread, and as many as the suite looks at.
const NODES: &str = "--hollow-nodes=2";

/// What the upstream suites take beside the flags of every run.
#[derive(Args)]
pub(crate) struct Flags {
    /// The upstream tests, as conformance/e2e/build.sh makes them.
    #[arg(long, value_name = "FILE", default_value = "target/e2e/e2e.test")]
    e2e_test: PathBuf,
    /// Ginkgo, which runs tests in parallel; not needed with --procs 1.
    #[arg(long, value_name = "FILE", default_value = "target/e2e/ginkgo")]
    ginkgo: PathBuf,
    /// Test processes side by side.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    procs: u16,
    /// Only tests whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    focus: String,
    /// Names of the tests. Default: conformance/suites/SUITE.txt.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// What is known of them. Default: conformance/expected/SUITE.txt.
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// Folder for junit.xml, report.html and the logs.
    #[arg(long, value_name = "DIR", default_value = "target/conformance")]
    report: PathBuf,
    /// Test this cluster instead of starting --binary.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubectl that tests of it drive. Default: the one in PATH.
    #[arg(long, value_name = "FILE")]
    kubectl: Option<PathBuf>,
    /// Minutes after which the run is ended; what has not run counts as failed.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1440))]
    timeout: u64,
    /// Another flag of the server; may be repeated.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// More flags for e2e.test, after `--`: `-- --kube-api-content-type=application/json`.
    #[arg(last = true, value_name = "FLAG")]
    more: Vec<String>,
}

/// Runs a suite, reports, and says whether something got worse.
pub(crate) fn run(suite: &str, binary: Result<PathBuf>, flags: &Flags) -> Result<ExitCode> {
    let names = chosen(suite, flags)?;
    let known = Known::read(&flags.expected.clone().unwrap_or_else(|| format!("conformance/expected/{suite}.txt").into()))?;
    std::fs::create_dir_all(&flags.report).with_context(|| format!("--report: cannot make {}", flags.report.display()))?;
    let tests = ginkgo::Tests::find(&flags.e2e_test, &flags.ginkgo, flags.procs)?;
    let kubectl = match &flags.kubectl {
        Some(file) => file.canonicalize().with_context(|| format!("--kubectl: {} is not there", file.display()))?,
        None => in_path("kubectl").context("kubectl is not in PATH; --kubectl names it")?,
    };

    let (cluster, kubeconfig) = match &flags.kubeconfig {
        Some(file) => (None, file.canonicalize().with_context(|| format!("--kubeconfig: {} is not there", file.display()))?),
        None => {
            let mut server = vec![NODES.to_owned()];
            server.extend(flags.server_flag.iter().cloned());
            let cluster = Cluster::start(&binary?, &server)?;
            let kubeconfig = cluster.kubeconfig();
            (Some(cluster), kubeconfig)
        }
    };
    let mut out = std::io::stdout();
    writeln!(out, "{} tests of suite {suite}, {} side by side; logs in {}", names.len(), flags.procs, flags.report.display())?;
    let started = Instant::now();
    let run = ginkgo::Run {
        names: &names,
        procs: flags.procs,
        kubeconfig: &kubeconfig,
        kubectl: &kubectl,
        folder: &flags.report,
        patience: Duration::from_secs(flags.timeout * 60),
        more: &flags.more,
    };
    let results = tests.run(&run);
    if let Some(cluster) = &cluster {
        cluster.keep_log(&flags.report.join("server.log"))?;
    }
    let results = results?;
    let compared = known.compare(results);
    report::print(&compared, started.elapsed(), &mut out)?;
    write(&flags.report.join("junit.xml"), &report::junit(suite, &compared))?;
    write(&flags.report.join("report.html"), &report::html(suite, &compared, started.elapsed()))?;
    let worse = compared.iter().any(|case| case.verdict == Verdict::Regression);
    Ok(if worse { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The names of the tests to run: those of the list that contain the focus.
fn chosen(suite: &str, flags: &Flags) -> Result<Vec<String>> {
    let file = flags.list.clone().unwrap_or_else(|| format!("conformance/suites/{suite}.txt").into());
    let text = std::fs::read_to_string(&file).with_context(|| format!("--list: cannot read {}", file.display()))?;
    let all = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: Vec<String> = all.filter(|name| name.contains(&flags.focus)).map(String::from).collect();
    if names.is_empty() {
        bail!("--focus: no test in {} has {:?} in its name", file.display(), flags.focus);
    }
    Ok(names)
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("--report: cannot write {}", file.display()))
}

/// Where the shell finds a program.
fn in_path(name: &str) -> Option<PathBuf> {
    let output = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(path.trim())).filter(|path| path.is_file())
}
