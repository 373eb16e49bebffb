//! The log: where it goes, and its levels, which may change while the program runs.

use std::{
    io::IsTerminal,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result, anyhow};
use coracle_apiserver::{LogLevels, TracingOptions};
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The log of this process, once it is started.
static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// Changes the levels.
struct Log(reload::Handle<Targets, Registry>);

/// Starts the log on standard error: a level, or per part `info,coracle_agent=debug`.
pub(crate) fn start(levels: &str) -> Result<()> {
    let filter: Targets = levels.parse().context("takes error, warn, info, debug, trace, or per part: info,coracle_agent=debug")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    // A second log is not started: the first one's levels are those that can be changed.
    let _ = LOG.set(Arc::new(Log(handle)));
    Ok(())
}

/// What changes the levels of this process.
pub(crate) fn levels() -> Option<Arc<dyn LogLevels>> {
    LOG.get().map(|log| Arc::clone(log) as Arc<dyn LogLevels>)
}

/// `--tracing-config-file`
pub(crate) fn tracing(file: Option<&Path>) -> Result<Option<TracingOptions>> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("--tracing-config-file: cannot read {}", file.display()))?;
    TracingOptions::parse(&text).map(Some).map_err(|why| anyhow!("--tracing-config-file: {why}"))
}

/// `--v` as our levels.
pub(crate) fn of_verbosity(verbosity: i32) -> &'static str {
    match verbosity {
        ..=1 => "warn",
        2..=3 => "info",
        4..=5 => "info,coracle_apiserver=debug,coracle_controllers=debug",
        _ => "debug",
    }
}

/// `--vmodule`: `apiserver=4,audit=6`. A pattern names one of our parts or a module of the API server.
pub(crate) fn of_modules(levels: &str, patterns: &[&str]) -> String {
    const PARTS: [&str; 7] = ["agent", "apiserver", "cel", "controllers", "scheduler", "schema", "store"];
    let mut all = levels.to_owned();
    for (pattern, verbosity) in patterns.iter().filter_map(|pattern| pattern.split_once('=')) {
        let Ok(verbosity) = verbosity.parse::<i32>() else { continue };
        let name = pattern.trim_end_matches('*').replace('-', "_");
        let level = match verbosity {
            ..=1 => "warn",
            2..=3 => "info",
            _ => "debug",
        };
        let part = if PARTS.contains(&name.as_str()) { format!("coracle_{name}") } else { format!("coracle_apiserver::{name}") };
        all.push_str(&format!(",{part}={level}"));
    }
    all
}

impl LogLevels for Log {
    fn set(&self, levels: &str) -> Result<(), String> {
        let filter: Targets = levels.trim().parse().map_err(|e: tracing_subscriber::filter::ParseError| e.to_string())?;
        self.0.reload(filter).map_err(|e| e.to_string())
    }

    fn verbosity(&self, verbosity: i32) -> Result<(), String> {
        self.set(of_verbosity(verbosity))
    }

    fn now(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_and_modules_become_levels() {
        assert_eq!((of_verbosity(0), of_verbosity(2), of_verbosity(9)), ("warn", "info", "debug"));
        assert_eq!(of_modules("warn", &["store=4", "audit*=2"]), "warn,coracle_store=debug,coracle_apiserver::audit=info");
        assert!(of_modules("warn", &["store=4", "audit*=2"]).parse::<Targets>().is_ok());
    }
}
