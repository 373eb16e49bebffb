//! Drives a finished `coracle` binary from outside: starts it, runs suites against it, writes a report. Imports nothing of the product.

mod access;
mod cluster;
mod differential;
mod report;
mod scenario;
mod stored;
mod suite;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs suites against a coracle binary.
#[derive(Parser)]
#[command(name = "coracle-conformance", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a suite: scenario files (kubectl commands with their golden answers), or upstream's own conformance tests.
    Run(Box<RunOptions>),
    /// Try every verb on every resource as many identities, and whatever might get one further than one may.
    Access(access::Options),
    /// Let the binary and kube-apiserver take turns on one etcd, and see that each reads all that the other wrote.
    Store(stored::Options),
    /// Ask the binary and kube-apiserver the same things, for every kind, and compare the answers.
    Diff(differential::Options),
}

#[derive(Args)]
struct RunOptions {
    /// What to run.
    #[arg(long, value_enum, default_value_t = Suite::Scenarios)]
    suite: Suite,
    /// The binary to drive.
    #[arg(long, value_name = "FILE", default_value = "target/release/coracle")]
    binary: PathBuf,
    #[command(flatten, next_help_heading = "Scenarios")]
    scenarios: ScenarioOptions,
    #[command(flatten, next_help_heading = "Upstream suites")]
    upstream: suite::Flags,
}

#[derive(Args)]
struct ScenarioOptions {
    /// Folder of scenario files.
    #[arg(long, value_name = "DIR", default_value = "conformance/scenarios")]
    scenarios: PathBuf,
    /// Only files whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Rewrite the golden answers with what the server said; review the difference.
    #[arg(long)]
    bless: bool,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// Scenario files, each against a server of its own.
    Scenarios,
    /// Upstream's conformance tests that need no containers, against hollow nodes.
    Api,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::Access(options) => Ok(if access::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Store(options) => Ok(if stored::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Diff(options) => Ok(if differential::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

fn run(options: &RunOptions) -> Result<ExitCode> {
    let binary = options
        .binary
        .canonicalize()
        .with_context(|| format!("--binary: {} is not there; `make build` makes it", options.binary.display()));
    match options.suite {
        Suite::Scenarios => scenarios(&binary?, &options.scenarios),
        Suite::Api => suite::run("api", binary, &options.upstream),
    }
}

/// Each file against a server of its own.
fn scenarios(binary: &std::path::Path, options: &ScenarioOptions) -> Result<ExitCode> {
    let mut results = Vec::new();
    for file in scenario::files(&options.scenarios, &options.only)? {
        results.push(scenario::run(binary, &file, options.bless)?);
    }
    report::print(&results, &mut std::io::stdout())?;
    if let Some(file) = &options.junit {
        std::fs::write(file, report::junit(&results)).with_context(|| format!("--junit: cannot write {}", file.display()))?;
    }
    let failed = results.iter().any(|result| result.failure.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
