//! Leader election over the lease `kube-system/kube-controller-manager`, for several servers on one store.
//! Durations are upstream's: a lease lasts 15 s, is renewed every 2 s and given up when not renewed for 10 s.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Client,
    api::{Api, PostParams},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::run::ROOM;

const LASTS: Duration = Duration::from_secs(15);
const GIVE_UP: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// Who this process is among those that want to lead.
fn identity() -> String {
    static IDENTITY: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    IDENTITY.get_or_init(|| format!("coracle_{}_{:x}", std::process::id(), Timestamp::now().as_nanosecond())).clone()
}

/// Waits until this process leads; `false` when stopped before.
pub(crate) async fn wait_to_lead(client: &Client, stop: &CancellationToken) -> bool {
    // The holder's clock is not ours: what counts is how long we have not seen the lease change (client-go does the same).
    let mut seen: Option<(Option<MicroTime>, Instant)> = None;
    loop {
        let led = tokio::select! {
            () = stop.cancelled() => return false,
            led = try_lead(client, &mut seen) => led,
        };
        match led {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot read or write the lease"),
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Renews the lease until `work` ends; ends `work` when the lease is lost.
pub(crate) async fn keep_leading(client: Client, work: CancellationToken) {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = work.cancelled() => return release(&client).await,
            () = tokio::time::sleep(RETRY) => {}
        }
        match tokio::time::timeout(GIVE_UP, try_lead(&client, &mut None)).await {
            Ok(Ok(true)) => renewed = Instant::now(),
            Ok(Ok(false)) => {
                tracing::error!("lost the lease; the controllers stop");
                return work.cancel();
            }
            Ok(Err(_)) | Err(_) if renewed.elapsed() < GIVE_UP => {}
            Ok(Err(_)) | Err(_) => {
                tracing::error!("could not renew the lease; the controllers stop");
                return work.cancel();
            }
        }
    }
}

async fn try_lead(client: &Client, seen: &mut Option<(Option<MicroTime>, Instant)>) -> Result<bool, kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let (me, now) = (identity(), MicroTime(Timestamp::now()));
    let Some(mut lease) = api.get_opt(ROOM).await? else {
        let metadata = ObjectMeta { name: Some(ROOM.into()), namespace: Some("kube-system".into()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(claim(LeaseSpec::default(), me, now)) };
        return won(api.create(&PostParams::default(), &lease).await);
    };
    let spec = lease.spec.take().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if holder != me && !holder.is_empty() {
        let unchanged = seen.as_ref().filter(|(renewed, _)| *renewed == spec.renew_time).map(|(_, since)| *since);
        let since = unchanged.unwrap_or_else(Instant::now);
        *seen = Some((spec.renew_time.clone(), since));
        if since.elapsed() < LASTS {
            return Ok(false);
        }
    }
    lease.spec = Some(claim(spec, me, now));
    won(api.replace(ROOM, &PostParams::default(), &lease).await)
}

fn claim(mut spec: LeaseSpec, me: String, now: MicroTime) -> LeaseSpec {
    if spec.holder_identity.as_ref() != Some(&me) {
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count + 1));
        spec.acquire_time = Some(now.clone());
        spec.holder_identity = Some(me);
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds = Some(15);
    spec
}

/// A lost race is no error, and no victory.
fn won<T>(result: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the next one lead at once.
async fn release(client: &Client) {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let me = identity();
    if let Ok(Some(mut lease)) = api.get_opt(ROOM).await
        && let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&me))
    {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = api.replace(ROOM, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "lease not released");
        }
    }
}
