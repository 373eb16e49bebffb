//! The binary: options, certificates, wiring, signals. Dull on purpose.

mod admission;
mod audit;
mod authn;
mod authorization;
mod certs;
mod clients;
mod commands;
mod db;
mod dropin;
mod encryption;
mod etcd;
mod files;
mod fork;
mod front;
mod history;
mod kubeconfig;
mod leadership;
mod lock;
mod logging;
mod machine;
mod migrate;
mod nodes;
mod options;
mod pages;
mod peers;
mod remote;
mod renewal;
mod rooms;
mod schedule;
mod server;
mod setup;
mod shared;
mod snapshot;
mod stop;
mod store;
mod tls;
mod tokens;
mod upstream;
mod version;
mod whocan;

use std::{ffi::OsString, process::ExitCode, time::Instant};

use options::Command;

/// Parsed objects are trees of small pieces, which glibc's allocator needs a third of a write's time to make and to free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    let arguments: Vec<OsString> = arguments.collect();
    // A pod's shim is this binary executed again; it stays small only if nothing of the server is touched.
    if let Some(code) = coracle_agent::embedded::shim_main(&arguments) {
        return code;
    }
    let started = Instant::now();
    if let Some(code) = dropin::main(name, &arguments, started) {
        return code;
    }
    let result = options::parse().and_then(|cli| match cli.command {
        Command::Server(options) => server::main(&options, started),
        Command::Agent(options) => commands::agent(&options),
        Command::Stop(options) => commands::stop(&options),
        Command::Image(options) => commands::image(&options),
        Command::Kubeconfig(options) => commands::kubeconfig(&options),
        Command::Token(options) => commands::token(&options),
        Command::Secrets(options) => commands::secrets(&options),
        Command::Snapshot(options) => snapshot::run(&options),
        Command::Db(options) => db::run(&options),
        Command::Migrate(options) => migrate::run(&options),
        Command::Fork(options) => fork::run(&options, started),
        Command::History(options) => history::run(&options),
        Command::WhoCan(options) => whocan::run(&options),
        Command::Version => commands::version(),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&error);
            ExitCode::FAILURE
        }
    }
}
