//! Drives a finished `coracle` binary from outside: starts it, runs suites against it, writes a report. Imports nothing of the product.

mod cluster;
mod report;
mod scenario;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Runs suites against a coracle binary.
#[derive(Parser)]
#[command(name = "coracle-conformance", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenario files: kubectl commands with their golden answers, each file against a server of its own.
    Run {
        /// The binary to drive.
        #[arg(long, value_name = "FILE", default_value = "target/release/coracle")]
        binary: PathBuf,
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
    },
}

fn main() -> Result<ExitCode> {
    let Command::Run { binary, scenarios, only, bless, junit } = Cli::parse().command;
    let binary = binary.canonicalize().with_context(|| format!("--binary: {} is not there; `make build` makes it", binary.display()))?;
    let mut results = Vec::new();
    for file in scenario::files(&scenarios, &only)? {
        results.push(scenario::run(&binary, &file, bless)?);
    }
    report::print(&results, &mut std::io::stdout())?;
    if let Some(file) = junit {
        std::fs::write(&file, report::junit(&results)).with_context(|| format!("--junit: cannot write {}", file.display()))?;
    }
    let failed = results.iter().any(|result| result.failure.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
