//! With several servers on one store, one leads: it runs the scheduler and the controllers, and says so in upstream's Leases
//! `kube-system/kube-scheduler` and `kube-system/kube-controller-manager`. Upstream's own components beside it take part in the same election.
//!
//! A leader that cannot renew ends its room before another may begin, and its writes are fenced by the same clock; one that is stopped
//! releases the lease when its room has ended. Others watch the lease, so a release is taken up at once.

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
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub(crate) use election::Times;
use election::{Candidate, Step, held, released};

use crate::clients::InProcess;
pub(crate) use fence::Fence;
pub(crate) use flags::LeadershipFlags;

/// Where the leases are.
const NAMESPACE: &str = "kube-system";
/// How long a leader that ends tries to release its lease.
const RELEASE: Duration = Duration::from_secs(1);

/// What is run by whoever leads, over these clients. It ends soon after its token is cancelled.
pub(crate) type Room = Arc<dyn Fn(&InProcess, CancellationToken) -> anyhow::Result<BoxFuture<'static, ()>> + Send + Sync>;

/// One thing that one server at a time does.
pub(crate) struct Leadership {
    /// The lease's name.
    pub(crate) name: &'static str,
    /// Who this server is to the others.
    pub(crate) identity: String,
    pub(crate) times: Times,
    /// The user that may read, watch and write the lease.
    pub(crate) user: &'static str,
    pub(crate) clients: InProcess,
    pub(crate) room: Room,
}

/// Why a term ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The server is told to stop.
    Told,
    /// The lease is somebody else's, or could not be renewed.
    Lost,
}

impl Leadership {
    /// Waits to lead, leads, and begins anew when the lease is lost; until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let leases: Api<Lease> = Api::namespaced(self.clients.user(self.user, &[]), NAMESPACE);
        while let Some((lease, renewed)) = self.acquire(&leases, &stop).await {
            info!(lease = self.name, identity = self.identity, "leads");
            let fence = Fence::closed();
            fence.open_until(renewed + self.times.lease);
            let work = CancellationToken::new();
            let mut room = match (self.room)(&self.clients.fenced(&fence), work.clone()) {
                Ok(room) => tokio::spawn(room),
                Err(error) => {
                    tracing::error!(lease = self.name, "cannot lead: {error:#}");
                    return self.release(&leases, lease).await;
                }
            };
            let (lease, end) = self.renew(&leases, lease, renewed, &fence, &stop).await;
            work.cancel();
            if end == End::Lost {
                // What the room still writes would be another leader's to write.
                fence.open_until(Instant::now());
                warn!(lease = self.name, "leads no more: the lease could not be renewed");
            }
            let kept = self.keep_while_ending(&leases, lease, &fence, &mut room, end == End::Told).await;
            if end == End::Told {
                return self.release(&leases, kept).await;
            }
        }
    }

    /// The lease, and when it was asked for; `None` when told to stop.
    async fn acquire(&self, leases: &Api<Lease>, stop: &CancellationToken) -> Option<(Lease, Instant)> {
        let mut candidate = Candidate::new(&self.identity);
        let changes = watcher::watch_object(leases.clone(), self.name);
        let mut changes = std::pin::pin!(changes);
        let mut failed = false;
        loop {
            let step = if failed { Step::WaitUntil(Instant::now() + self.times.retry) } else { candidate.step(Instant::now()) };
            failed = false;
            match step {
                Step::Try => {
                    let asked = Instant::now();
                    let tried = tokio::select! {
                        () = stop.cancelled() => return None,
                        tried = timeout_at(asked + self.times.renew_deadline, self.try_to_lead(leases, &mut candidate)) => tried,
                    };
                    match tried {
                        Ok(Ok(Some(lease))) => return Some((lease, asked)),
                        Ok(Ok(None)) => {}
                        Ok(Err(error)) => {
                            debug!(lease = self.name, %error, "the lease cannot be read or written");
                            failed = true;
                        }
                        Err(_) => failed = true,
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
    async fn try_to_lead(&self, leases: &Api<Lease>, candidate: &mut Candidate) -> kube::Result<Option<Lease>> {
        let found = leases.get_opt(self.name).await?;
        let (now, written) = (Timestamp::now(), PostParams::default());
        let taken = match found {
            None => {
                let metadata =
                    ObjectMeta { name: Some(self.name.to_owned()), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
                leases.create(&written, &Lease { metadata, spec: Some(held(None, &self.identity, &self.times, now)) }).await
            }
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                candidate.see(&spec, Instant::now());
                if candidate.step(Instant::now()) != Step::Try {
                    return Ok(None);
                }
                lease.spec = Some(held(Some(&spec), &self.identity, &self.times, now));
                leases.replace(self.name, &written, &lease).await
            }
        };
        match taken {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews the lease while it can.
    async fn renew(
        &self,
        leases: &Api<Lease>,
        mut lease: Lease,
        mut renewed: Instant,
        fence: &Fence,
        stop: &CancellationToken,
    ) -> (Lease, End) {
        loop {
            let deadline = renewed + self.times.renew_deadline;
            tokio::select! {
                () = stop.cancelled() => return (lease, End::Told),
                () = sleep_until((Instant::now() + self.times.retry).min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return (lease, End::Lost);
            }
            let asked = Instant::now();
            let tried = tokio::select! {
                () = stop.cancelled() => return (lease, End::Told),
                tried = timeout_at(deadline, self.renew_once(leases, &lease)) => tried,
            };
            match tried {
                Ok(Ok(Some(now))) => {
                    (lease, renewed) = (now, asked);
                    fence.open_until(renewed + self.times.lease);
                }
                Ok(Ok(None)) | Err(_) => return (lease, End::Lost),
                Ok(Err(error)) => debug!(lease = self.name, %error, "the lease is not renewed yet"),
            }
        }
    }

    /// Renews the lease as it was seen last; if that was changed, as it is now. `None`: it is somebody else's.
    async fn renew_once(&self, leases: &Api<Lease>, seen: &Lease) -> kube::Result<Option<Lease>> {
        let written = PostParams::default();
        let mine = |spec: Option<&LeaseSpec>| held(spec, &self.identity, &self.times, Timestamp::now());
        let next = Lease { spec: Some(mine(seen.spec.as_ref())), ..seen.clone() };
        match leases.replace(self.name, &written, &next).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            answer => return answer.map(Some),
        }
        // A write whose answer was lost, or a person's.
        let Some(now) = leases.get_opt(self.name).await? else { return Ok(None) };
        if now.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.identity) {
            return Ok(None);
        }
        let next = Lease { spec: Some(mine(now.spec.as_ref())), ..now };
        leases.replace(self.name, &written, &next).await.map(Some)
    }

    /// Waits for the room to end. As long as the lease may be kept it is, so that nobody begins before.
    async fn keep_while_ending(
        &self,
        leases: &Api<Lease>,
        mut lease: Lease,
        fence: &Fence,
        room: &mut tokio::task::JoinHandle<()>,
        keep: bool,
    ) -> Lease {
        loop {
            tokio::select! {
                _ = &mut *room => return lease,
                () = sleep(self.times.retry), if keep => {}
            }
            let asked = Instant::now();
            if let Ok(Ok(Some(now))) = timeout_at(asked + self.times.retry, self.renew_once(leases, &lease)).await {
                lease = now;
                fence.open_until(asked + self.times.lease);
            }
        }
    }

    /// Lets the next one lead at once.
    async fn release(&self, leases: &Api<Lease>, lease: Lease) {
        let end = Instant::now() + RELEASE;
        let mut lease = lease;
        loop {
            let Some(spec) = lease.spec.as_ref().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) else { return };
            let next = Lease { spec: Some(released(spec, Timestamp::now())), ..lease.clone() };
            let written = PostParams::default();
            match timeout_at(end, leases.replace(self.name, &written, &next)).await {
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Ok(_)) => return info!(lease = self.name, "released"),
                _ => return debug!(lease = self.name, "the lease is not released: it ends by itself"),
            }
            match timeout_at(end, leases.get_opt(self.name)).await {
                Ok(Ok(Some(now))) => lease = now,
                _ => return,
            }
        }
    }
}
