//! The last steps inside a container: find the command, load the filter, drop capabilities, execute. Words about failures go to the
//! report pipe, because by then nothing else leads back.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use caps::Capability;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use seccompiler::BpfProgram;

use super::{capabilities, streams, sys};
use crate::runtime::TerminalSize;

/// Begins a line of the report that says why it failed; other lines are libcontainer's.
pub(super) const VERDICT: &str = "E ";

/// Executes a container's process.
#[derive(Clone)]
pub(super) struct Exec {
    /// What the process keeps.
    pub(super) capabilities: HashSet<Capability>,
    /// Filters to load.
    pub(super) filters: Vec<BpfProgram>,
    /// How large its terminal is, when it has one whose size is known.
    pub(super) size: Option<TerminalSize>,
    /// Where failures are told.
    pub(super) report: Arc<File>,
}

impl Exec {
    fn fail(&self, words: &str) -> String {
        let _ = (&*self.report).write_all(format!("{VERDICT}{words}\n").as_bytes());
        words.to_owned()
    }

    fn run(&self, spec: &Spec) -> String {
        let Some(process) = spec.process() else { return "no process in the specification".to_owned() };
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let path = match find(args, env) {
            Ok(path) => path,
            Err(words) => return words,
        };
        if let Some(size) = self.size
            && let Err(e) = rustix::termios::tcsetwinsize(std::io::stdin(), streams::window(size))
        {
            return format!("set size of the terminal: {e}");
        }
        for filter in &self.filters {
            if let Err(e) = sys::load_filter(filter) {
                return format!("load seccomp filter: {e}");
            }
        }
        if let Err(words) = capabilities::keep(&self.capabilities) {
            return words;
        }
        let mut command = Command::new(&path);
        command.arg0(&args[0]).args(&args[1..]).env_clear();
        command.envs(env.iter().filter_map(|variable| variable.split_once('=')).filter(|(name, _)| !name.is_empty()));
        // Restores the signals that the Rust runtime changed; returns only when it fails.
        let error = command.exec();
        format!("exec {}: {}", path.display(), words_of(&error))
    }
}

impl Executor for Exec {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let words = self.run(spec);
        Err(ExecutorError::Other(self.fail(&words)))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let args = process.and_then(|p| p.args().as_deref()).unwrap_or_default();
        let env = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
        match find(args, env) {
            Ok(_) => Ok(()),
            Err(words) => Err(ExecutorValidationError::ArgValidationError(self.fail(&words))),
        }
    }

    /// Nothing: the environment goes with `exec`, from the specification, in its order.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// The program to execute; words as runc has them when there is none.
fn find(args: &[String], env: &[String]) -> Result<PathBuf, String> {
    let Some(name) = args.first().filter(|name| !name.is_empty()) else { return Err("no command specified".to_owned()) };
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(words) => Err(format!("exec: {name:?}: {words}")),
        };
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = false;
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(words) => denied |= words == "permission denied",
        }
    }
    let words = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(format!("exec: {name:?}: {words}"))
}

fn check(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|e| format!("stat {}: {}", path.display(), words_of(&e)))?;
    if meta.is_dir() {
        return Err("is a directory".to_owned());
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err("permission denied".to_owned());
    }
    Ok(())
}

/// The system's words without the number, in lower case as other runtimes have them.
fn words_of(error: &std::io::Error) -> String {
    let words = error.to_string();
    words.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &[&str], path: &str) -> String {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        find(&args, &[format!("PATH={path}")]).unwrap_err()
    }

    #[test]
    fn a_missing_command_is_told_as_runc_tells_it() {
        assert_eq!(words(&["nope"], "/bin"), r#"exec: "nope": executable file not found in $PATH"#);
        assert_eq!(words(&["/no/such"], ""), r#"exec: "/no/such": stat /no/such: no such file or directory"#);
        assert_eq!(words(&["/etc"], ""), r#"exec: "/etc": is a directory"#);
        assert_eq!(words(&["/etc/passwd"], ""), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(words(&[], ""), "no command specified");
        assert_eq!(find(&["sh".to_owned()], &["PATH=/nowhere:/bin".to_owned()]).unwrap(), Path::new("/bin/sh"));
    }
}
