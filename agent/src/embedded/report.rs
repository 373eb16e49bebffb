//! The pipe out of a container that is being made: why it failed. libcontainer tells its causes only to the log, so the first error it
//! logs is taken along.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::executor::VERDICT;

/// A pipe takes 64 KiB before a writer blocks; nobody reads until the end.
const MAX_LINE: usize = 1024;

/// Sends errors that are logged in this process, and those it forks, to the pipe.
pub(super) fn log_errors_to(pipe: Arc<File>) {
    let _ = tracing::subscriber::set_global_default(Errors(pipe));
}

/// The reason in a report: what our own code says it is, else the first error logged.
pub(super) fn verdict(report: &str) -> Option<String> {
    let own = report.lines().find_map(|line| line.strip_prefix(VERDICT));
    own.or_else(|| report.lines().find(|line| !line.is_empty())).map(str::to_owned)
}

struct Errors(Arc<File>);

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        let mut line = format!("{}{}", words.message, words.fields).replace('\n', " ");
        let end = (0..=MAX_LINE.min(line.len())).rev().find(|i| line.is_char_boundary(*i)).unwrap_or(0);
        line.truncate(end);
        line.push('\n');
        let _ = (&*self.0).write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_words_win_over_logged_ones() {
        assert_eq!(verdict("failed to mount err=EPERM\nE exec: \"x\": gone\n").as_deref(), Some("exec: \"x\": gone"));
        assert_eq!(verdict("failed to mount err=EPERM\nmore\n").as_deref(), Some("failed to mount err=EPERM"));
        assert_eq!(verdict(""), None);
    }
}
