//! The pair that test environments start: this binary under the names `kube-apiserver` and `etcd`, with upstream's command lines.
//!
//! The contract is envtest's (controller-runtime, `pkg/internal/testing`): `--help` lists the flags and ends well, `etcd` answers `/health`,
//! `kube-apiserver` answers `/healthz` to anybody, SIGTERM to the group ends both at once. Objects live in the memory of the
//! API server, and `etcd` only says that it is well; before a real etcd the API server keeps them there, as upstream's does.

mod apiserver;
mod etcd;
pub(crate) mod features;
pub(crate) mod flags;
mod keys;
mod objects;
mod run;
mod sole;

use std::{
    ffi::OsString,
    io::Write,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use flags::{Flags, Program};

use crate::logging;

/// Blocking work that hangs must not keep the process.
const END: Duration = Duration::from_millis(200);

/// Runs as the upstream program whose name the binary was called by; `None`: it was called by its own name.
pub(crate) fn main(name: Option<OsString>, arguments: &[OsString], started: Instant) -> Option<ExitCode> {
    let name = name?;
    let program = match Path::new(&name).file_name()?.to_str()? {
        "kube-apiserver" => &flags::KUBE_APISERVER,
        "etcd" => &flags::ETCD,
        _ => return None,
    };
    Some(match run_as(program, arguments, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error:#}", program.name);
            ExitCode::FAILURE
        }
    })
}

fn run_as(program: &'static Program, arguments: &[OsString], started: Instant) -> Result<()> {
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let flags = Flags::parse(program, &arguments)?;
    let mut out = std::io::stdout();
    if flags.on("help") {
        return out.write_all(program.help().as_bytes()).context("standard output");
    }
    if let Some(form) = flags.last("version").filter(|form| *form != "false") {
        return writeln!(out, "{}", program.version(form)).context("standard output");
    }
    start_log(&flags)?;
    if let Some(line) = flags.without_effect() {
        tracing::warn!("{line}");
    }
    let runtime = threads(program).build().context("cannot start threads")?;
    let result = if program.name == "etcd" {
        runtime.block_on(etcd::run(&flags))
    } else {
        apiserver::Settings::new(&flags).and_then(|settings| runtime.block_on(run::run(settings, started)))
    };
    runtime.shutdown_timeout(END);
    result
}

/// Few threads, for many of these run side by side: one for health, two for the API.
fn threads(program: &Program) -> tokio::runtime::Builder {
    let mut builder = if program.name == "etcd" {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)));
        builder
    };
    builder.enable_all().thread_name("coracle").thread_stack_size(crate::server::STACK);
    builder
}

/// `--v` and `--vmodule` as our levels; `CORACLE_LOG` takes what `coracle server --log` takes.
fn start_log(flags: &Flags) -> Result<()> {
    let verbosity = flags.last("v").map_or(Ok(0), str::parse::<i32>).unwrap_or_default();
    let levels = logging::of_modules(logging::of_verbosity(verbosity), &flags.list("vmodule"));
    let own = std::env::var("CORACLE_LOG").ok();
    logging::start(own.as_deref().unwrap_or(&levels)).context("CORACLE_LOG, --vmodule")
}
