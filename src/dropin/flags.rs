//! Upstream's command-line syntax: which flags there are, how they are written, what each value must look like.
//!
//! kube-apiserver reads as pflag does (`--name value`, `--name=value`, a lone `--name` for what is true or false, `_` for `-`), etcd as Go's
//! flag package does, which also takes one dash. The last value wins save for lists, which grow.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Command};

use crate::options::{self, ServerOptions, nearest};

/// One of the two programs.
pub(crate) struct Program {
    /// As whom the binary was called.
    pub(crate) name: &'static str,
    /// What `--version` says.
    version: &'static str,
    /// Its flags: `name type [acts|same]` a line.
    table: &'static str,
    /// Flags that only we have: (name, type, what it does).
    own: &'static [(&'static str, &'static str, &'static str)],
}

/// The API server.
pub(crate) static KUBE_APISERVER: Program = Program {
    name: "kube-apiserver",
    version: "Kubernetes v1.37.1",
    table: include_str!("kube-apiserver.flags"),
    own: &[
        ("controllers", "strings", "Controllers to run beside the API: * for all, a name, or -name for not this one"),
        ("etcd-username", "string", "User of etcd, where it has users"),
        ("etcd-password-file", "string", "File with the password of --etcd-username"),
        ("hollow-nodes", "int", "Nodes without containers to run beside the API, and a scheduler for them"),
    ],
};

/// The store, of which only the health is there.
pub(crate) static ETCD: Program = Program { name: "etcd", version: "etcd Version: 3.7.3", table: include_str!("etcd.flags"), own: &[] };

/// One flag of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flag {
    name: &'static str,
    kind: &'static str,
    /// Giving it changes nothing that anybody could miss, or it does here what it does upstream.
    quiet: bool,
}

impl Program {
    fn flags(&self) -> impl Iterator<Item = Flag> {
        let table = self.table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let mut words = line.split(' ');
            Some(Flag { name: words.next()?, kind: words.next()?, quiet: words.next().is_some() })
        });
        table.chain(self.own.iter().map(|(name, kind, _)| Flag { name, kind, quiet: true }))
    }

    fn find(&self, name: &str) -> Option<Flag> {
        self.flags().find(|flag| flag.name == name)
    }

    /// The flags as upstream's help lists them: test environments search it for names.
    pub(crate) fn help(&self) -> String {
        let mut text = format!("Usage:\n  {} [flags]\n\nFlags:\n\n", self.name);
        for flag in self.flags() {
            let kind = if flag.kind == "bool" { String::new() } else { format!(" {}", flag.kind) };
            let own = self.own.iter().find(|(name, ..)| *name == flag.name).map_or("", |(.., what)| what);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "      --{}{kind}   {own}", flag.name);
        }
        text
    }

    /// What `--version` says; `--version=raw` says it in more words, as upstream does.
    pub(crate) fn version(&self, form: &str) -> String {
        match form {
            "raw" => format!("{} (coracle {})", self.version, env!("CARGO_PKG_VERSION")),
            _ => self.version.to_owned(),
        }
    }
}

/// A command line, read.
#[derive(Debug)]
pub(crate) struct Flags {
    program: &'static str,
    /// In the order given.
    given: Vec<(Flag, String)>,
}

impl Flags {
    /// Reads a command line; the error names the flag, and for an unknown one the nearest.
    pub(crate) fn parse(program: &'static Program, arguments: &[String]) -> Result<Self> {
        let mut flags = Self { program: program.name, given: Vec::new() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let Some(name) = long(program, name) else {
                bail!("{:?} does not take any arguments, got {:?}", program.name, [argument]);
            };
            let Some(flag) = program.find(&name) else { bail!(unknown(program, &name)) };
            let value = match value {
                Some(value) => value,
                None if ["bool", "version[=true]"].contains(&flag.kind) => "true".to_owned(),
                None => match rest.next() {
                    Some(value) => value.clone(),
                    None => bail!("flag needs an argument: --{name}"),
                },
            };
            check(flag, &value)?;
            flags.given.push((flag, value));
        }
        Ok(flags)
    }

    /// The value given last.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(flag, _)| flag.name == name).map(|(_, value)| value.as_str())
    }

    /// Every value given, in order (`stringArray`).
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.given.iter().filter(|(flag, _)| flag.name == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Every value given, taken apart at commas (`strings`, and maps).
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.all(name).into_iter().flat_map(|value| value.split(',')).map(str::trim).filter(|part| !part.is_empty()).collect()
    }

    /// What holds: what was given, and of what was not the default where the flag is one of ours, too.
    pub(crate) fn in_effect(&self) -> BTreeMap<String, String> {
        let ours = ServerOptions::augment_args(Command::new(self.program)).ignore_errors(true);
        let defaults = options::in_effect(&ours, &ours.clone().get_matches_from([self.program]));
        let mut all: BTreeMap<_, _> = defaults.into_iter().filter(|(name, _)| KUBE_APISERVER.find(name).is_some()).collect();
        for (flag, _) in &self.given {
            let grows = ["strings", "stringArray", "stringToString"].iter().any(|kind| flag.kind.starts_with(kind));
            let value = if grows { self.all(flag.name).join(",") } else { self.last(flag.name).unwrap_or_default().to_owned() };
            all.insert(flag.name.to_owned(), value);
        }
        all
    }

    /// Whether a flag was given as true.
    pub(crate) fn on(&self, name: &str) -> bool {
        self.switch(name) == Some(true)
    }

    /// What a flag that is true or false was given as.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.last(name).and_then(go_truth)
    }

    /// One line about the flags that upstream knows and that do nothing here, if any were given.
    pub(crate) fn without_effect(&self) -> Option<String> {
        let mut names: Vec<&str> = self.given.iter().filter(|(flag, _)| !flag.quiet).map(|(flag, _)| flag.name).collect();
        names.dedup();
        let names: Vec<String> = names.iter().map(|name| format!("--{name}")).collect();
        (!names.is_empty()).then(|| format!("without effect in this {}: {}", self.program, names.join(", ")))
    }
}

/// The name behind the dashes.
fn long(program: &Program, argument: &str) -> Option<String> {
    if argument == "-h" {
        return Some("help".to_owned());
    }
    if argument == "-v" && program.name == "kube-apiserver" {
        return Some("v".to_owned());
    }
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-').filter(|_| program.name == "etcd"))?;
    (!name.is_empty()).then(|| name.replace('_', "-"))
}

fn unknown(program: &Program, name: &str) -> String {
    let known: Vec<&str> = program.flags().map(|flag| flag.name).collect();
    format!("unknown flag: --{name}; did you mean --{}? `{} --help` lists all", nearest(name, &known), program.name)
}

/// A value that the flag's type does not take is refused before anything is started.
fn check(flag: Flag, value: &str) -> Result<()> {
    let wanted = match flag.kind {
        "bool" if go_truth(value).is_none() => "true or false",
        "int" | "Level" if value.parse::<i64>().is_err() => "a whole number",
        "uint" if value.parse::<u64>().is_err() => "a whole number, not below 0",
        "float" | "float32" if value.parse::<f64>().is_err() => "a number",
        "duration" if duration(value).is_none() => "a duration such as 1h30m or 500ms",
        "ip" if value.parse::<std::net::IpAddr>().is_err() => "an IP address",
        _ => return Ok(()),
    };
    bail!("invalid argument {value:?} for \"--{}\" flag: must be {wanted}", flag.name)
}

/// The flags of one subject as kube-apiserver takes them: the last value wins save for lists, which grow; an empty one is none. `given` tells
/// all values of a flag. The error names the flag.
pub(crate) fn group<'a, T: Args>(given: impl Fn(&str) -> Vec<&'a str>) -> Result<T> {
    let command = T::augment_args(Command::new(KUBE_APISERVER.name).no_binary_name(true)).args_override_self(true);
    let mut line = Vec::new();
    for flag in command.get_arguments() {
        for name in flag.get_long().into_iter().chain(flag.get_all_aliases().into_iter().flatten()) {
            line.extend(given(name).into_iter().filter(|value| !value.is_empty()).map(|value| format!("--{name}={value}")));
        }
    }
    let read = command.try_get_matches_from(line).and_then(|found| T::from_arg_matches(&found));
    read.map_err(|wrong| anyhow!("{}", wrong.to_string().lines().next().unwrap_or_default()))
}

/// As Go's `strconv.ParseBool`.
fn go_truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What is true or false, as Go reads it, and as the configuration file writes it.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => go_truth(text).ok_or_else(|| "must be true or false".to_owned()),
    }
}

/// A duration as Go writes it, not below 0.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let seconds = duration(text).filter(|seconds| (0.0..1e9).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "must be a duration such as 1h30m or 500ms".to_owned())
}

/// A duration as Go writes it, above 0.
pub(crate) fn positive_span(text: &str) -> Result<Duration, String> {
    span(text).ok().filter(|span| !span.is_zero()).ok_or_else(|| "must be a positive duration such as 1m0s".to_owned())
}

/// As Go's `time.ParseDuration`, in seconds.
pub(crate) fn duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, scale) = units.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(program: &'static Program, line: &str) -> Result<Flags, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Flags::parse(program, &arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_read_as_pflag_reads_them() {
        let flags =
            parse(&KUBE_APISERVER, "--secure-port 6443 --allow_privileged --authorization-mode=RBAC,Node -v 4 --anonymous-auth=false");
        let flags = flags.unwrap();
        assert_eq!(flags.last("secure-port"), Some("6443"));
        assert_eq!(flags.list("authorization-mode"), ["RBAC", "Node"]);
        assert_eq!((flags.on("allow-privileged"), flags.switch("anonymous-auth"), flags.last("v")), (true, Some(false), Some("4")));
        assert_eq!(flags.without_effect(), None);
    }

    #[test]
    fn of_each_flag_is_told_what_holds() {
        let flags =
            parse(&KUBE_APISERVER, "--authorization-mode=RBAC --authorization-mode=Node --audit-log-path=a --audit-log-path=b -v 4")
                .unwrap();
        let told = flags.in_effect();
        let known = [("authorization-mode", "RBAC,Node"), ("audit-log-path", "b"), ("v", "4"), ("audit-log-mode", "blocking")];
        for (name, value) in known {
            assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!told.contains_key("data-dir"), "{told:?}");
    }

    #[test]
    fn an_unknown_flag_is_refused_with_the_nearest_name() {
        let refused = parse(&KUBE_APISERVER, "--secure-prot=1").unwrap_err();
        assert_eq!(refused, "unknown flag: --secure-prot; did you mean --secure-port? `kube-apiserver --help` lists all");
        assert!(parse(&KUBE_APISERVER, "--insecure-port=0").unwrap_err().starts_with("unknown flag: --insecure-port"));
        assert!(parse(&KUBE_APISERVER, "serve").unwrap_err().contains("does not take any arguments"));
        assert!(parse(&ETCD, "--datadir=x").unwrap_err().contains("did you mean --data-dir?"));
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_by_the_flags_name() {
        for wrong in ["--secure-port=abc", "--profiling=maybe", "--request-timeout=1", "--bind-address=here", "--goaway-chance=x"] {
            let name = wrong.split('=').next().unwrap();
            let refused = parse(&KUBE_APISERVER, wrong).unwrap_err();
            assert!(refused.contains(name) && refused.contains("must be"), "{refused}");
        }
        assert!(parse(&KUBE_APISERVER, "--secure-port").unwrap_err().contains("needs an argument"));
    }

    #[test]
    fn one_line_names_the_flags_that_do_nothing() {
        let flags = parse(&KUBE_APISERVER, "--debug-socket-path=/s --profiling=false --enable-logs-handler").unwrap();
        assert_eq!(flags.without_effect().unwrap(), "without effect in this kube-apiserver: --debug-socket-path, --enable-logs-handler");
    }

    #[test]
    fn the_help_is_what_test_environments_search() {
        let lists = |program: &Program, name: &str| program.help().lines().any(|line| line.trim_start().starts_with(&format!("--{name} ")));
        assert!(lists(&ETCD, "unsafe-no-fsync") && lists(&ETCD, "listen-client-urls"));
        assert!(lists(&KUBE_APISERVER, "secure-port") && lists(&KUBE_APISERVER, "controllers"));
        assert!(!lists(&KUBE_APISERVER, "insecure-port"));
    }

    #[test]
    fn every_line_of_the_tables_is_a_flag_and_stands_once() {
        for program in [&KUBE_APISERVER, &ETCD] {
            let mut names: Vec<&str> = program.flags().map(|flag| flag.name).collect();
            assert!(names.len() > 100);
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", program.name);
        }
    }

    #[derive(Args, Debug)]
    struct Subject {
        #[arg(long, value_parser = truth, default_value_t = true, action = clap::ArgAction::Set)]
        whether: bool,
        #[arg(long, alias = "wait", value_parser = span, default_value = "1s")]
        pause: Duration,
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
        #[arg(long)]
        pairs: Vec<String>,
    }

    fn subject(given: &[(&'static str, &'static str)]) -> Result<Subject, String> {
        let all = |name: &str| given.iter().filter(|(flag, _)| *flag == name).map(|(_, value)| *value).collect();
        group(all).map_err(|error| error.to_string())
    }

    #[test]
    fn of_values_the_last_wins_and_of_lists_none_is_lost() {
        let twice =
            [("whether", "T"), ("whether", "0"), ("pause", "2s"), ("pause", ""), ("names", "a,b"), ("names", "c"), ("pairs", "a,b")];
        let Subject { whether, pause, names, pairs } = subject(&twice).unwrap();
        assert_eq!((whether, pause, names.len(), pairs), (false, Duration::from_secs(2), 3, vec!["a,b".to_owned()]));
        assert_eq!(subject(&[("wait", "3s")]).unwrap().pause, Duration::from_secs(3));
        assert!(subject(&[("pause", "soon")]).unwrap_err().contains("--pause"));
        assert!(subject(&[("whether", "maybe")]).unwrap_err().contains("must be true or false"));
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(5400.0));
        assert_eq!(duration("1.5s"), Some(1.5));
        assert_eq!(duration("500ms"), Some(0.5));
        assert_eq!(duration("0"), Some(0.0));
        assert_eq!((duration("10"), duration(""), duration("1x")), (None, None, None));
        assert_eq!((span("0"), span("1m30s")), (Ok(Duration::ZERO), Ok(Duration::from_secs(90))));
        assert!(span("-1s").is_err() && span("1e99h").is_err() && positive_span("0s").is_err());
    }
}
