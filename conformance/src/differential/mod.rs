//! The differential suite: the same requests to this server and to kube-apiserver, and what differs in their answers.

mod accepted;
pub(crate) mod api;
mod cases;
mod compare;
pub(crate) mod corpus;
pub(crate) mod http;
mod mutate;
pub(crate) mod peer;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    accepted::{Accepted, Known},
    api::Api,
    cases::{Case, Subject},
    corpus::Seed,
    http::{Connection, Reply, Server},
    peer::{Peer, Programs},
};
use crate::cluster::Cluster;

/// Requests that are under way at once.
const WORKERS: usize = 8;
/// Differences shown; `--out` writes all.
const SHOWN: usize = 40;
/// The user both servers see.
const USER: &str = "admin";

/// Flags of `coracle-conformance diff`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Folder of objects and requests.
    #[arg(long, value_name = "DIR", default_value = "conformance/corpus")]
    corpus: PathBuf,
    /// List of accepted differences.
    #[arg(long, value_name = "FILE", default_value = "conformance/expected/differences.txt")]
    accepted: PathBuf,
    /// List of differences that are to be mended.
    #[arg(long, value_name = "FILE", default_value = "conformance/expected/differences-open.txt")]
    open: PathBuf,
    /// Write the list of open differences anew.
    #[arg(long, conflicts_with = "only")]
    bless: bool,
    /// Only resources whose group, version and plural contain this (`apps/v1/deploy`); the list of accepted differences may then have more.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Write every difference that is not accepted here.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How the cases of one resource went.
#[derive(Default)]
struct Tally {
    cases: usize,
    equal: usize,
    accepted: usize,
    open: usize,
    differing: usize,
}

/// Both servers, what was asked of them and what came out.
struct Suite {
    left: Arc<Server>,
    right: Arc<Server>,
    accepted: Accepted,
    tallies: BTreeMap<String, Tally>,
    differences: Vec<String>,
}

/// Runs the suite; whether nothing unexpected was found.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(compare_servers(options))
}

async fn compare_servers(options: &Options) -> Result<bool> {
    let [binary, apiserver, etcd] = options.programs.find()?;
    let seeds = corpus::seeds(&options.corpus)?;
    let accepted = Accepted::read(&options.accepted, &options.open)?;
    let mut peer = Peer::start(&apiserver, &etcd, USER)?;
    let cluster = Cluster::start(&binary, &["--without=scheduler,controllers".into()])?;
    let left = Arc::new(Server::from_kubeconfig(&cluster.kubeconfig())?);
    let right = peer.ready().await?;
    let start = Instant::now();
    let mut suite = Suite { left, right, accepted, tallies: BTreeMap::new(), differences: Vec::new() };
    let api = Api::read(&mut Connection::new(&suite.right)).await?;
    suite.objects(&api, &seeds, &options.only).await?;
    if options.only.is_empty() {
        suite.requests(options).await?;
    }
    suite.report(options, start)
}

impl Suite {
    /// All objects through their whole life.
    async fn objects(&mut self, api: &Api, seeds: &[Seed], only: &str) -> Result<()> {
        let mut subjects = Vec::new();
        let mut missing: BTreeSet<String> = api.resources().iter().map(api::Resource::label).collect();
        for seed in seeds {
            let what = || format!("the peer serves no {} {}", seed.api_version(), seed.kind());
            let resource = api.resource(seed.api_version(), seed.kind()).with_context(what)?;
            missing.remove(&resource.label());
            subjects.push(Subject { seed, resource, stored: None });
        }
        if !missing.is_empty() {
            bail!("the corpus has no object of {missing:?}");
        }
        for subject in subjects.iter_mut().filter(|s| s.seed.setup) {
            self.make(subject).await;
        }
        let mut chosen: Vec<Subject<'_>> = subjects.into_iter().filter(|s| !s.seed.setup && s.resource.label().contains(only)).collect();
        let spoiled = chosen.iter().flat_map(|s| std::iter::once(s.create(true)).chain(s.spoiled())).collect();
        self.ask_all(spoiled).await;
        for subject in &mut chosen {
            self.make(subject).await;
        }
        // The servers' own controllers have answered by now, each in its own time.
        for subject in chosen.iter_mut().filter(|subject| subject.stored.is_some()) {
            self.look(subject).await;
        }
        self.ask_all(chosen.iter().flat_map(Subject::updated).collect()).await;
        self.ask_all(chosen.iter().flat_map(Subject::patches).collect()).await;
        for subject in &mut chosen {
            if let Some(status) = subject.status() {
                self.ask(&status).await;
                self.look(subject).await;
            }
        }
        self.ask_all(chosen.iter().flat_map(Subject::statuses).collect()).await;
        self.ask_all(chosen.iter().flat_map(Subject::deletes).collect()).await;
        for subject in chosen.iter().rev().filter(|s| s.stored.is_some() && s.resource.takes("DELETE")) {
            self.ask(&subject.delete()).await;
        }
        Ok(())
    }

    /// The single requests of the corpus, in order.
    async fn requests(&mut self, options: &Options) -> Result<()> {
        for question in corpus::requests(&options.corpus)? {
            let label = format!("request {} {} {}", question.method, question.path, question.body.trim());
            let case =
                Case { label: label.trim_end().to_owned(), resource: "single requests".into(), left: question.clone(), right: question };
            self.ask(&case).await;
        }
        Ok(())
    }

    /// Creates an object and reads it back.
    async fn make(&mut self, subject: &mut Subject<'_>) {
        let (left, right) = self.ask(&subject.create(false)).await;
        if left.code == 201 && right.code == 201 && subject.resource.takes("GET") {
            self.look(subject).await;
        }
    }

    async fn look(&mut self, subject: &mut Subject<'_>) {
        let (left, right) = self.ask(&subject.read()).await;
        if left.code == 200 && right.code == 200 {
            subject.stored = Some((left.body, right.body));
        }
    }

    async fn ask(&mut self, case: &Case) -> (Reply, Reply) {
        let (mut left, mut right) = (Connection::new(&self.left), Connection::new(&self.right));
        let (left, right) = both(&mut left, &mut right, case).await;
        self.note(case, &compare::differences(&left, &right));
        (left, right)
    }

    /// Asks many cases that do not depend on one another, several at a time; notes them in their order.
    async fn ask_all(&mut self, cases: Vec<Case>) {
        let next = AtomicUsize::new(0);
        let workers = (0..WORKERS).map(|_| self.work(&cases, &next));
        let mut found: Vec<(usize, Vec<String>)> = Vec::new();
        for worker in futures::future::join_all(workers).await {
            found.extend(worker);
        }
        found.sort_by_key(|(at, _)| *at);
        for (at, differences) in found {
            self.note(&cases[at], &differences);
        }
    }

    async fn work(&self, cases: &[Case], next: &AtomicUsize) -> Vec<(usize, Vec<String>)> {
        let (mut left, mut right) = (Connection::new(&self.left), Connection::new(&self.right));
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else { return found };
            let (left, right) = both(&mut left, &mut right, case).await;
            found.push((at, compare::differences(&left, &right)));
        }
    }

    fn note(&mut self, case: &Case, differences: &[String]) {
        let tally = self.tallies.entry(case.resource.clone()).or_default();
        tally.cases += 1;
        if differences.is_empty() {
            tally.equal += 1;
            return;
        }
        let lines: Vec<String> = differences.iter().map(|difference| format!("{} {difference}", case.label)).collect();
        let (mut unknown, mut open) = (Vec::new(), false);
        for line in lines {
            match self.accepted.covers(&line) {
                Some(known) => open |= known == Known::Open,
                None => unknown.push(line),
            }
        }
        match (unknown.is_empty(), open) {
            (true, false) => tally.accepted += 1,
            (true, true) => tally.open += 1,
            (false, _) => tally.differing += 1,
        }
        self.differences.extend(unknown);
    }

    /// A line a resource, the first differences, and what to think of them.
    fn report(&self, options: &Options, start: Instant) -> Result<bool> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{:66} {:>6} {:>6} {:>8} {:>6} {:>9}", "resource", "cases", "equal", "accepted", "open", "differing")?;
        let mut all = Tally::default();
        for (resource, tally) in &self.tallies {
            writeln!(out, "{resource:66} {:6} {:6} {:8} {:6} {:9}", tally.cases, tally.equal, tally.accepted, tally.open, tally.differing)?;
            all.cases += tally.cases;
            all.equal += tally.equal;
            all.accepted += tally.accepted;
            all.open += tally.open;
            all.differing += tally.differing;
        }
        writeln!(out, "{:66} {:6} {:6} {:8} {:6} {:9}", "all", all.cases, all.equal, all.accepted, all.open, all.differing)?;
        writeln!(out, "\n{} resources, {:.1} s", self.tallies.len(), start.elapsed().as_secs_f64())?;
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(out, "{difference}")?;
        }
        if self.differences.len() > SHOWN {
            writeln!(out, "… and {} more; --out FILE writes all", self.differences.len() - SHOWN)?;
        }
        if let Some(file) = &options.out {
            let text: String = self.differences.iter().map(|difference| difference.replace('\n', "\\n") + "\n").collect();
            std::fs::write(file, text).with_context(|| format!("--out: cannot write {}", file.display()))?;
        }
        if options.bless {
            self.accepted.bless(&self.differences, &options.open)?;
        }
        let unmet = if options.only.is_empty() { self.accepted.unmet() } else { Vec::new() };
        for pattern in &unmet {
            writeln!(out, "known, but does not occur any more: {pattern}")?;
        }
        Ok(self.differences.is_empty() && unmet.is_empty())
    }
}

async fn both(left: &mut Connection, right: &mut Connection, case: &Case) -> (Reply, Reply) {
    futures::future::join(left.ask(&case.left), right.ask(&case.right)).await
}
