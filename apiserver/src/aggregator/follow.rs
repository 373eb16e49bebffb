//! The task: what `APIService` objects, services and endpoints say is looked at when it changes, and other servers are asked again and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use coracle_tree::Value;
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    Aggregator, Remote, SERVICES,
    availability::{self, Verdict},
    register::{self, Wanted},
    remote::ApiService,
    told,
};
use crate::{
    authn::User,
    authz::MASTERS,
    registry::{Change, Reader, Writer},
    verbs::Api,
    wire::Status,
};

/// Changes taken together at most.
const BATCH: usize = 256;
/// How often a server's availability is looked at although nothing changed, and its documents.
const AGAIN: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(60)];
/// Pauses after the first failure, doubled each time up to [`AGAIN`].
const RETRY: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(500)];
/// How often the files of the client certificate are looked at.
const FILES: Duration = Duration::from_secs(10);
/// Pause before an object that could not be written is tried again.
const REWRITE: Duration = Duration::from_secs(1);
/// How many times a server is asked at once, of which one must succeed, and how long each may take.
const ATTEMPTS: usize = 5;
const ATTEMPT: Duration = Duration::from_secs(5);

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Availability = 0,
    Documents = 1,
}

/// When one server is asked next.
struct Plan {
    due: [Instant; 2],
    running: [bool; 2],
    failures: [u32; 2],
}

/// Follows `APIService` objects.
pub struct Follower {
    aggregator: Arc<Aggregator>,
    api: Arc<Api>,
    writer: Arc<dyn Writer>,
    /// All objects there are, and the remotes of those that have one.
    objects: BTreeSet<String>,
    remotes: BTreeMap<String, Arc<Remote>>,
    plans: HashMap<String, Plan>,
    wanted: BTreeMap<String, Wanted>,
    jobs: JoinSet<(String, Job, bool)>,
    /// Objects that could not be written.
    again: BTreeSet<String>,
    /// Services and endpoints, while there is anybody to find.
    around: Option<BoxStream<'static, (String, String)>>,
}

impl Follower {
    /// Knows what there is already. Afterwards [`Follower::run`] is to be run with the changes returned.
    pub async fn start(
        aggregator: Arc<Aggregator>,
        api: Arc<Api>,
        writer: Arc<dyn Writer>,
    ) -> Result<(Self, BoxStream<'static, Change>), Status> {
        let (now, changes) = aggregator.reader.begin_readable(SERVICES.0, SERVICES.1).await?;
        let mut follower = Self {
            aggregator,
            api,
            writer,
            objects: BTreeSet::new(),
            remotes: BTreeMap::new(),
            plans: HashMap::new(),
            wanted: BTreeMap::new(),
            jobs: JoinSet::new(),
            again: BTreeSet::new(),
            around: None,
        };
        for bytes in now {
            // Requests find those that were there before from the start.
            if let Some(object) = ApiService::read(&bytes) {
                follower.objects.insert(object.metadata.name.clone());
                follower.route(&object);
            }
        }
        Ok((follower, changes))
    }

    /// Follows until the server stops; run it as a task.
    pub async fn run(mut self, mut changes: BoxStream<'static, Change>) {
        let mut catalog = self.api.storage.catalog_changes();
        let mut rewrite: Option<Instant> = None;
        let mut files = Instant::now() + FILES;
        self.reconsider(&mut catalog).await;
        loop {
            let next = self.next(rewrite, files);
            let timer = async { if let Some(at) = next { sleep_until(at).await } else { std::future::pending().await } };
            let around = async { if let Some(around) = &mut self.around { around.next().await } else { std::future::pending().await } };
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else { return };
                    let batch = gather(change, &mut changes);
                    self.take(batch).await;
                }
                _ = catalog.changed() => self.reconsider(&mut catalog).await,
                Some((namespace, service)) = around => self.moved(&namespace, &service),
                Some(Ok((name, job, ok))) = self.jobs.join_next() => self.done(&name, job, ok),
                () = timer => {
                    let now = Instant::now();
                    if now >= files {
                        files = now + FILES;
                        self.look_at_files().await;
                    }
                    if rewrite.is_some_and(|at| now >= at) {
                        rewrite = None;
                        let again = std::mem::take(&mut self.again);
                        self.look_at(again).await;
                    }
                    self.begin(now);
                }
            }
            if !self.again.is_empty() && rewrite.is_none() {
                rewrite = Some(Instant::now() + REWRITE);
            }
        }
    }

    /// When something is due.
    fn next(&self, rewrite: Option<Instant>, files: Instant) -> Option<Instant> {
        let due = self.plans.values().flat_map(|plan| (0..2).filter(|job| !plan.running[*job]).map(|job| plan.due[job])).min();
        let files = (!self.remotes.is_empty()).then_some(files);
        [due, rewrite, files].into_iter().flatten().min()
    }

    /// Custom versions have come or gone.
    async fn reconsider(&mut self, catalog: &mut watch::Receiver<u64>) {
        catalog.borrow_and_update();
        let wanted = register::wanted(&self.api.storage.catalog());
        let differ = |a: &BTreeMap<String, Wanted>, b: &BTreeMap<String, Wanted>| {
            a.iter().filter(|(name, want)| b.get(*name) != Some(want)).map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
        };
        let mut names = differ(&wanted, &self.wanted);
        names.extend(differ(&self.wanted, &wanted));
        if self.wanted.is_empty() {
            // At the start: also those that nobody wants any more.
            names.extend(self.objects.iter().cloned());
        }
        self.wanted = wanted;
        self.look_at(names).await;
    }

    /// Looks at objects as they are now.
    async fn look_at(&mut self, names: BTreeSet<String>) {
        let mut batch = BTreeMap::new();
        for name in names {
            match self.aggregator.reader.get(SERVICES.0, SERVICES.1, "", &name).await {
                Ok(found) => drop(batch.insert(name, found)),
                Err(_) => drop(self.again.insert(name)),
            }
        }
        self.take(batch).await;
    }

    /// Takes objects over as they are now, and sees to those kept here.
    async fn take(&mut self, batch: BTreeMap<String, Option<bytes::Bytes>>) {
        let mut steps = Vec::new();
        for (name, bytes) in batch {
            let read = bytes.as_ref().and_then(|bytes| Some((ApiService::read(bytes)?, serde_json::from_slice::<Value>(bytes).ok()?)));
            match &read {
                Some((object, _)) => {
                    self.objects.insert(name.clone());
                    self.route(object);
                }
                None => {
                    self.objects.remove(&name);
                    self.forget(&name);
                }
            }
            let step = register::step(self.wanted.get(&name), read.as_ref().map(|(object, value)| (object, value)));
            steps.extend(step.map(|step| (name, step)));
        }
        if !steps.is_empty() {
            self.again.extend(register::run(&self.api, &*self.writer, steps).await);
        }
    }

    /// From now on requests go where this object says.
    fn route(&mut self, object: &ApiService) {
        let name = &object.metadata.name;
        let before = self.remotes.get(name);
        let identity = self.aggregator.files.identity();
        if let Some(before) = before.filter(|before| before.spec == object.spec && before.shows(identity.as_ref())) {
            if before.is_available() != object.is_available() {
                before.set_available(object.is_available());
                self.due(&name.clone(), Job::Documents);
            }
            return;
        }
        let Some(remote) = Remote::new(object, identity, &self.aggregator.way, before.map(|before| &**before)).map(Arc::new) else {
            return self.forget(name);
        };
        if let Err(why) = &remote.link {
            warn!(name, why, "an APIService can never be reached as it is");
        }
        self.aggregator.put(before.map(|before| &**before), Some(remote.clone()));
        self.remotes.insert(name.clone(), remote);
        let now = Instant::now();
        self.plans.insert(name.clone(), Plan { due: [now, now], running: [false, false], failures: [0, 0] });
        if self.around.is_none() {
            self.around = Some(around(&*self.aggregator.reader));
        }
    }

    fn forget(&mut self, name: &str) {
        let Some(gone) = self.remotes.remove(name) else { return };
        self.plans.remove(name);
        self.aggregator.put(Some(&gone), None);
        self.aggregator.uncount(name);
        if self.remotes.is_empty() {
            self.around = None;
        }
    }

    /// A service or its endpoints have changed.
    fn moved(&mut self, namespace: &str, service: &str) {
        let found: Vec<String> = self
            .remotes
            .iter()
            .filter(|(_, remote)| remote.service.namespace == namespace && remote.service.name == service)
            .map(|(name, remote)| {
                remote.moved();
                name.clone()
            })
            .collect();
        for name in found {
            self.due(&name, Job::Availability);
        }
    }

    /// With a new client certificate everybody is spoken to anew; until then requests go where they went.
    async fn look_at_files(&mut self) {
        if self.aggregator.files.look() {
            let names: BTreeSet<String> = self.remotes.keys().cloned().collect();
            self.look_at(names).await;
        }
    }

    fn due(&mut self, name: &str, job: Job) {
        if let Some(plan) = self.plans.get_mut(name) {
            plan.due[job as usize] = Instant::now();
            plan.failures[job as usize] = 0;
        }
    }

    /// Begins what is due.
    fn begin(&mut self, now: Instant) {
        for (name, plan) in &mut self.plans {
            let Some(remote) = self.remotes.get(name) else { continue };
            for job in [Job::Availability, Job::Documents] {
                let at = job as usize;
                if plan.running[at] || plan.due[at] > now {
                    continue;
                }
                plan.running[at] = true;
                // Whatever changes from here on is looked at afterwards.
                plan.due[at] = now + Duration::from_secs(3600);
                let (aggregator, api, writer) = (self.aggregator.clone(), self.api.clone(), self.writer.clone());
                let (name, remote) = (name.clone(), remote.clone());
                self.jobs.spawn(async move {
                    let work = async {
                        match job {
                            Job::Availability => aggregator.check(&remote, &api, &*writer).await,
                            Job::Documents => aggregator.refresh(&remote).await,
                        }
                    };
                    // Whatever another server says, it is asked again.
                    let ok = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                        error!(name, ?job, "asking another API server panicked");
                        false
                    });
                    (name, job, ok)
                });
            }
        }
    }

    fn done(&mut self, name: &str, job: Job, ok: bool) {
        let Some(plan) = self.plans.get_mut(name) else { return };
        let at = job as usize;
        plan.running[at] = false;
        let pause = if ok {
            plan.failures[at] = 0;
            AGAIN[at]
        } else {
            plan.failures[at] = plan.failures[at].saturating_add(1);
            RETRY[at].saturating_mul(1 << plan.failures[at].min(14)).min(AGAIN[at])
        };
        plan.due[at] = plan.due[at].min(Instant::now() + pause);
    }
}

/// A change and those that have come meanwhile, of which the last of each object counts.
fn gather(first: Change, changes: &mut BoxStream<'static, Change>) -> BTreeMap<String, Option<bytes::Bytes>> {
    let mut batch = BTreeMap::from([(first.name, first.object)]);
    while batch.len() < BATCH
        && let Some(Some(change)) = changes.next().now_or_never()
    {
        batch.insert(change.name, change.object);
    }
    batch
}

/// The namespace and name of every service that changes, or whose endpoints do.
fn around(reader: &dyn Reader) -> BoxStream<'static, (String, String)> {
    let services = reader.follow("", "services").map(|change| (change.namespace, change.name));
    let slices = reader.follow("discovery.k8s.io", "endpointslices").map(|change| {
        let service = change.object.as_ref().and_then(|bytes| service_of(&serde_json::from_slice(bytes).ok()?));
        // Of one that is gone the name says whose it was: those of the controllers are `SERVICE-xxxxx`.
        let named = || change.name.rsplit_once('-').map_or(change.name.as_str(), |(service, _)| service).to_owned();
        (change.namespace.clone(), service.unwrap_or_else(named))
    });
    stream::select(services, slices).boxed()
}

fn service_of(slice: &Value) -> Option<String> {
    slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().map(str::to_owned)
}

impl Aggregator {
    /// Asks for a server's documents; whether it answered.
    async fn refresh(&self, remote: &Remote) -> bool {
        let (moved, result) = told::refresh(remote, &*self.reader).await;
        if moved {
            self.retold();
        }
        if let Err(why) = &result {
            debug!(name = remote.name, why, "an API server does not tell what it serves");
        }
        result.is_ok()
    }

    /// Looks whether a server can be asked, and says so in its object; whether it can and that was said.
    async fn check(&self, remote: &Remote, api: &Api, writer: &dyn Writer) -> bool {
        let verdict = self.judge(remote).await;
        let said = async {
            let Some(bytes) = self.reader.get(SERVICES.0, SERVICES.1, "", &remote.name).await? else { return Ok(()) };
            let Some(object) = ApiService::read(&bytes).filter(|object| object.spec == remote.spec) else { return Ok(()) };
            self.count(&remote.name, verdict.is_true(), object.is_available(), verdict.reason);
            if verdict.is_said(&object) {
                return Ok(());
            }
            info!(
                name = remote.name,
                status = verdict.status,
                reason = verdict.reason,
                message = verdict.message,
                "APIService availability"
            );
            let value = serde_json::from_slice(&bytes).map_err(|e| Status::internal(e.to_string()))?;
            register::say(api, writer, value, &verdict).await
        };
        match said.await {
            Ok(()) => verdict.is_true() || verdict.reason != "FailedDiscoveryCheck",
            Err(status) => {
                debug!(name = remote.name, %status, "the status of an APIService is not written");
                false
            }
        }
    }

    async fn judge(&self, remote: &Remote) -> Verdict {
        let of = &remote.service;
        let service = match self.reader.get("", "services", &of.namespace, &of.name).await {
            Ok(found) => found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()),
            Err(status) => return Verdict::unknown("ServiceAccessError", of, &status.message),
        };
        let slices = match self.reader.list("discovery.k8s.io", "endpointslices", &of.namespace).await {
            Ok(all) => all,
            Err(status) => return Verdict::unknown("EndpointsAccessError", of, &status.message),
        };
        let slices = slices.iter().filter_map(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        let slices: Vec<Value> = slices.filter(|slice| service_of(slice).as_deref() == Some(&of.name)).collect();
        if let Some(verdict) = availability::absent(of, service.as_ref(), &slices) {
            return verdict;
        }
        let mut attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| self.attempt(remote)).collect();
        let mut last = String::new();
        while let Some(tried) = attempts.next().await {
            match tried {
                Ok(()) => return Verdict::passed(),
                Err(why) => last = why,
            }
        }
        Verdict::undiscovered(last)
    }

    /// Asks a server for what it must serve.
    async fn attempt(&self, remote: &Remote) -> Result<(), String> {
        let link = remote.link.as_ref().map_err(Clone::clone)?;
        let url = format!("{}{}", link.origin(&*self.reader).await?, remote.path());
        // Whoever asks so may ask everything.
        let user = User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..User::default() };
        let failed = |why: String| format!("failing or missing response from {url}: {why}");
        let said = remote.get(&*self.reader, (&remote.path(), &user), &[], (ATTEMPT, 16 << 20)).await;
        match said.map_err(|why| failed(format!("Get {url:?}: {why}")))?.code.as_u16() {
            200..=299 => Ok(()),
            code => Err(failed(format!("bad status from {url}: {code}"))),
        }
    }
}
