//! With several servers on one store, one leads: it runs the scheduler and the controllers, and says so in upstream's Leases
//! `kube-system/kube-scheduler` and `kube-system/kube-controller-manager`. Upstream's own components beside it take part in the same election.
//!
//! A leader that cannot renew ends its room before another may begin, and its writes are fenced by the same clock; one that is stopped
//! releases the lease when its room has ended, and so does one whose room ends by itself. Others watch the lease, so a release is taken up at
//! once.

mod election;
mod fence;
mod flags;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
    runtime::watcher,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub(crate) use election::Times;
use election::{Candidate, Step, held, released};

pub(crate) use fence::Fence;
pub(crate) use flags::LeadershipFlags;

/// Where the leases are.
pub(crate) const NAMESPACE: &str = "kube-system";
/// How long a leader that ends tries to release its lease.
const RELEASE: Duration = Duration::from_secs(1);
/// After so many failures in a row a person is told that nobody is elected.
const FAILURES_TOLD: u32 = 10;

/// What is run by whoever leads, its writes behind this fence. It ends soon after its token is cancelled, and not before.
pub(crate) type Led = Arc<dyn Fn(&Fence, CancellationToken) -> anyhow::Result<BoxFuture<'static, ()>> + Send + Sync>;

/// One thing that one server at a time does.
pub(crate) struct Leadership {
    /// The lease's name.
    pub(crate) name: &'static str,
    /// Who this server is to the others.
    pub(crate) identity: String,
    pub(crate) times: Times,
    /// As a user that may read, watch and write the lease.
    pub(crate) leases: Api<Lease>,
    pub(crate) room: Led,
}

/// Why a term ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The server is told to stop.
    Told,
    /// The lease is somebody else's, or could not be renewed.
    Lost,
    /// What is to be run ended by itself.
    Ended,
}

impl Leadership {
    /// Waits to lead, leads, and begins anew when the lease is lost or the room ends; until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while let Some((mut lease, renewed)) = self.acquire(&stop).await {
            info!(lease = self.name, identity = self.identity, "leads");
            let fence = Fence::new();
            fence.open_until(renewed + self.times.renew_deadline);
            let work = CancellationToken::new();
            let mut room = match (self.room)(&fence, work.clone()) {
                Ok(room) => tokio::spawn(room),
                Err(error) => {
                    error!(lease = self.name, "cannot lead: {error:#}");
                    return self.release(lease).await;
                }
            };
            let end = tokio::select! {
                end = self.renew(&mut lease, renewed, &fence, &stop) => end,
                ended = &mut room => {
                    let why = ended.err().map_or_else(|| "it ended by itself".to_owned(), |error| error.to_string());
                    error!(lease = self.name, why, "leads no more: what a leader runs does not run any more");
                    End::Ended
                }
            };
            work.cancel();
            if end != End::Told {
                // What the room still writes would be another leader's to write.
                fence.close();
            }
            match end {
                End::Told => {
                    self.keep_while_ending(&mut lease, &fence, &mut room).await;
                    return self.release(lease).await;
                }
                End::Lost => {
                    warn!(lease = self.name, "leads no more: the lease could not be renewed");
                    let _ = room.await;
                }
                End::Ended => {
                    self.release(lease).await;
                    // Others go first.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(self.times.lease) => {}
                    }
                }
            }
        }
    }

    /// The lease, and when it was asked for; `None` when told to stop.
    async fn acquire(&self, stop: &CancellationToken) -> Option<(Lease, Instant)> {
        let mut candidate = Candidate::new(&self.identity);
        let changes = watcher::watch_object(self.leases.clone(), self.name);
        let mut changes = std::pin::pin!(changes);
        let (mut failed, mut failures) = (false, 0);
        loop {
            let step = if failed { Step::WaitUntil(Instant::now() + self.times.retry) } else { candidate.step(Instant::now()) };
            failed = false;
            match step {
                Step::Try => {
                    let asked = Instant::now();
                    let tried = tokio::select! {
                        () = stop.cancelled() => return None,
                        tried = timeout_at(asked + self.times.renew_deadline, self.try_to_lead(&mut candidate)) => tried,
                    };
                    let error = match tried {
                        Ok(Ok(Some(lease))) => return Some((lease, asked)),
                        Ok(Ok(None)) => {
                            failures = 0;
                            continue;
                        }
                        Ok(Err(error)) => error.to_string(),
                        Err(_) => format!("no answer within {:?}", self.times.renew_deadline),
                    };
                    (failed, failures) = (true, failures + 1);
                    if failures == FAILURES_TOLD {
                        warn!(lease = self.name, error, "nobody can be elected: the lease cannot be read or written");
                    } else {
                        debug!(lease = self.name, error, "the lease cannot be read or written");
                    }
                }
                Step::WaitUntil(end) => {
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        change = changes.next() => match change {
                            Some(Ok(Some(lease))) => candidate.see(&lease.spec.unwrap_or_default(), Instant::now()),
                            // Deleted: it is looked for.
                            Some(Ok(None)) => candidate = Candidate::new(&self.identity),
                            Some(Err(error)) => {
                                debug!(lease = self.name, %error, "the watch of the lease broke off");
                                sleep(self.times.retry.min(end.saturating_duration_since(Instant::now()))).await;
                            }
                            None => sleep_until(end).await,
                        },
                        () = sleep_until(end) => {}
                    }
                }
            }
        }
    }

    /// Reads the lease as it is now, and takes it if it can be taken. A lost race is no error and no victory.
    async fn try_to_lead(&self, candidate: &mut Candidate) -> kube::Result<Option<Lease>> {
        let found = self.leases.get_opt(self.name).await?;
        let (now, written) = (Timestamp::now(), PostParams::default());
        let taken = match found {
            None => {
                let metadata =
                    ObjectMeta { name: Some(self.name.to_owned()), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
                self.leases.create(&written, &Lease { metadata, spec: Some(held(None, &self.identity, &self.times, now)) }).await
            }
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                candidate.see(&spec, Instant::now());
                if candidate.step(Instant::now()) != Step::Try {
                    return Ok(None);
                }
                lease.spec = Some(held(Some(&spec), &self.identity, &self.times, now));
                self.leases.replace(self.name, &written, &lease).await
            }
        };
        match taken {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews the lease while it can.
    async fn renew(&self, lease: &mut Lease, mut renewed: Instant, fence: &Fence, stop: &CancellationToken) -> End {
        loop {
            let deadline = renewed + self.times.renew_deadline;
            tokio::select! {
                () = stop.cancelled() => return End::Told,
                () = sleep_until((Instant::now() + self.times.retry).min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return End::Lost;
            }
            let asked = Instant::now();
            let tried = tokio::select! {
                () = stop.cancelled() => return End::Told,
                tried = timeout_at(deadline, self.renew_once(lease)) => tried,
            };
            match tried {
                Ok(Ok(Some(now))) => {
                    (*lease, renewed) = (now, asked);
                    fence.open_until(renewed + self.times.renew_deadline);
                }
                Ok(Ok(None)) | Err(_) => return End::Lost,
                Ok(Err(error)) => debug!(lease = self.name, %error, "the lease is not renewed yet"),
            }
        }
    }

    /// Renews the lease as it was seen last; if that was changed, as it is now. `None`: it is somebody else's.
    async fn renew_once(&self, seen: &Lease) -> kube::Result<Option<Lease>> {
        let written = PostParams::default();
        let mine = |spec: Option<&LeaseSpec>| held(spec, &self.identity, &self.times, Timestamp::now());
        let next = Lease { spec: Some(mine(seen.spec.as_ref())), ..seen.clone() };
        match self.leases.replace(self.name, &written, &next).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            answer => return answer.map(Some),
        }
        // A write whose answer was lost, or a person's.
        let Some(now) = self.leases.get_opt(self.name).await? else { return Ok(None) };
        if now.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.identity) {
            return Ok(None);
        }
        let next = Lease { spec: Some(mine(now.spec.as_ref())), ..now };
        self.leases.replace(self.name, &written, &next).await.map(Some)
    }

    /// Waits for the room to end. As long as the lease may be kept it is, so that nobody begins before.
    async fn keep_while_ending(&self, lease: &mut Lease, fence: &Fence, room: &mut JoinHandle<()>) {
        // At once: the last time may be almost a retry period ago.
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                _ = &mut *room => return,
                () = sleep(pause) => pause = self.times.retry,
            }
            let asked = Instant::now();
            match timeout_at(asked + self.times.retry, self.renew_once(lease)).await {
                Ok(Ok(Some(now))) => {
                    *lease = now;
                    fence.open_until(asked + self.times.renew_deadline);
                }
                // Somebody else's.
                Ok(Ok(None)) => {
                    fence.close();
                    let _ = room.await;
                    return;
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Lets the next one lead at once.
    async fn release(&self, mut lease: Lease) {
        let end = Instant::now() + RELEASE;
        loop {
            let Some(spec) = lease.spec.as_ref().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) else { return };
            let next = Lease { spec: Some(released(spec, Timestamp::now())), ..lease.clone() };
            let written = PostParams::default();
            match timeout_at(end, self.leases.replace(self.name, &written, &next)).await {
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Ok(_)) => return info!(lease = self.name, "released"),
                _ => return debug!(lease = self.name, "the lease is not released: it ends by itself"),
            }
            match timeout_at(end, self.leases.get_opt(self.name)).await {
                Ok(Ok(Some(now))) => lease = now,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use futures::FutureExt;
    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::{Client, client::Body};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;

    const TIMES: Times =
        Times { lease: Duration::from_millis(100), renew_deadline: Duration::from_secs(60), retry: Duration::from_millis(10) };

    /// The one lease there is, and its revision.
    #[derive(Default)]
    struct Kept {
        revision: u64,
        lease: Option<Value>,
    }

    impl Kept {
        fn keep(&mut self, mut lease: Value) -> (u16, Value) {
            self.revision += 1;
            lease["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.lease = Some(lease.clone());
            (200, lease)
        }

        fn answer(&mut self, method: &Method, is_list: bool, body: &[u8]) -> (u16, Value) {
            let refused = |code: u16, reason: &str| (code, json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code}));
            let sent = || serde_json::from_slice::<Value>(body).unwrap();
            match (method, &self.lease) {
                (&Method::GET, kept) if is_list => {
                    let metadata = json!({"resourceVersion": self.revision.to_string()});
                    (200, json!({"kind": "LeaseList", "metadata": metadata, "items": kept.iter().collect::<Vec<_>>()}))
                }
                (&Method::GET, Some(kept)) => (200, kept.clone()),
                (&Method::GET, None) => refused(404, "NotFound"),
                (&Method::POST, None) => self.keep(sent()),
                (&Method::PUT, Some(kept)) if kept["metadata"]["resourceVersion"] == sent()["metadata"]["resourceVersion"] => {
                    self.keep(sent())
                }
                _ => refused(409, "Conflict"),
            }
        }
    }

    /// An API with one lease. Watches tell nothing.
    fn api(kept: &Arc<Mutex<Kept>>) -> Api<Lease> {
        let kept = kept.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let kept = kept.clone();
            async move {
                let (parts, body) = request.into_parts();
                if parts.uri.query().is_some_and(|query| query.contains("watch=")) {
                    return std::future::pending().await;
                }
                let (body, is_list) = (body.collect().await?.to_bytes(), parts.uri.path().ends_with("/leases"));
                let (code, said) = kept.lock().unwrap().answer(&parts.method, is_list, &body);
                Ok::<_, kube::Error>(Response::builder().status(code).body(Body::from(said.to_string().into_bytes())).unwrap())
            }
        });
        Api::namespaced(Client::new(service, "default"), NAMESPACE)
    }

    fn leadership(identity: &str, kept: &Arc<Mutex<Kept>>, room: Led) -> Leadership {
        Leadership { name: "kube-scheduler", identity: identity.to_owned(), times: TIMES, leases: api(kept), room }
    }

    fn spec(kept: &Mutex<Kept>) -> LeaseSpec {
        let lease: Lease = serde_json::from_value(kept.lock().unwrap().lease.clone().unwrap()).unwrap();
        lease.spec.unwrap()
    }

    #[tokio::test]
    async fn a_leader_whose_room_ends_by_itself_lets_others_lead_and_tries_again() {
        for panics in [false, true] {
            let kept = Arc::new(Mutex::new(Kept::default()));
            let (tell, mut told) = mpsc::unbounded_channel();
            let terms = Arc::new(AtomicU32::new(0));
            let room: Led = Arc::new(move |fence, stop| {
                let (fence, tell, first) = (fence.clone(), tell.clone(), terms.fetch_add(1, Ordering::Relaxed) == 0);
                Ok(Box::pin(async move {
                    tell.send((fence, stop.clone())).unwrap();
                    if first {
                        assert!(!panics, "a room that fails, for the test");
                        return;
                    }
                    stop.cancelled().await;
                }))
            });
            let stop = CancellationToken::new();
            let running = tokio::spawn(leadership("a", &kept, room).run(stop.clone()));
            let (fence, work) = told.recv().await.unwrap();
            work.cancelled().await;
            fence.closed().await;
            // The second term is one of its own: between the two the lease was nobody's.
            told.recv().await.unwrap();
            assert_eq!((spec(&kept).holder_identity.as_deref(), spec(&kept).lease_transitions), (Some("a"), Some(1)));
            stop.cancel();
            running.await.unwrap();
            assert_eq!(spec(&kept).holder_identity.as_deref(), Some(""));
        }
    }

    #[tokio::test]
    async fn a_leader_that_is_told_to_stop_renews_at_once_what_its_room_still_needs() {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (tell, mut told) = mpsc::unbounded_channel();
        let room: Led = Arc::new(move |_, stop| {
            let tell = tell.clone();
            Ok(Box::pin(async move {
                tell.send(()).unwrap();
                stop.cancelled().await;
                std::future::pending::<()>().await;
            }))
        });
        let stop = CancellationToken::new();
        let times = Times { retry: Duration::from_hours(1), ..TIMES };
        let running = tokio::spawn(Leadership { times, ..leadership("a", &kept, room) }.run(stop.clone()));
        told.recv().await.unwrap();
        let before = kept.lock().unwrap().revision;
        stop.cancel();
        let renewed = async {
            while kept.lock().unwrap().revision == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("a renewal, and not an hour later");
        running.abort();
    }

    #[tokio::test]
    async fn a_leader_that_is_told_to_stop_keeps_the_lease_until_its_room_has_ended() {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (tell, mut told) = mpsc::unbounded_channel();
        let end = CancellationToken::new();
        let room: Led = Arc::new({
            let end = end.clone();
            move |fence, stop| {
                let (fence, tell, end) = (fence.clone(), tell.clone(), end.clone());
                Ok(Box::pin(async move {
                    tell.send(fence.clone()).unwrap();
                    stop.cancelled().await;
                    tell.send(fence).unwrap();
                    end.cancelled().await;
                }))
            }
        });
        let stop = CancellationToken::new();
        let running = tokio::spawn(leadership("a", &kept, room).run(stop.clone()));
        told.recv().await.unwrap();
        stop.cancel();
        let fence = told.recv().await.unwrap();
        assert_eq!(spec(&kept).holder_identity.as_deref(), Some("a"));
        assert!(fence.closed().now_or_never().is_none(), "what it began it may finish");
        // Somebody takes it all the same: then it may not.
        {
            let mut kept = kept.lock().unwrap();
            let mut lease = kept.lease.clone().unwrap();
            lease["spec"]["holderIdentity"] = "b".into();
            kept.keep(lease);
        }
        fence.closed().await;
        end.cancel();
        running.await.unwrap();
        assert_eq!(spec(&kept).holder_identity.as_deref(), Some("b"));
    }
}
