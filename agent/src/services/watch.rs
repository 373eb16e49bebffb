//! Watching, gathering bursts, and applying.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::plan::UdpTargets;
use super::{AT_LATEST, Known, Proxy, QUIET, Rules, view};

/// After a refusal of the kernel, and doubled after each further one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

const UNREACHABLE: &str = "service rules could not be written: services cannot be reached from this node; the kernel needs nf_tables with \
                           nft_nat, nft_masq, nft_numgen, nft_fib_ipv4 and nft_reject_ipv4";

type Name = (String, String);
type Seen<T> = Result<Event<T>, watcher::Error>;

/// One kind of object while it is watched.
struct Half<V> {
    listed: bool,
    /// What a list in progress has found.
    fresh: std::collections::BTreeMap<Name, V>,
}

impl<V: PartialEq> Half<V> {
    fn new() -> Self {
        Self { listed: false, fresh: std::collections::BTreeMap::new() }
    }

    /// Takes an event; true when something changed that rules depend on.
    fn take<T: ResourceExt>(
        &mut self,
        all: &mut std::collections::BTreeMap<Name, V>,
        event: Event<T>,
        view: impl Fn(&T) -> Option<V>,
    ) -> bool {
        let name = |object: &T| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => {
                self.fresh.clear();
                false
            }
            Event::InitApply(object) => {
                if let Some(value) = view(&object) {
                    self.fresh.insert(name(&object), value);
                }
                false
            }
            Event::InitDone => {
                let first = !std::mem::replace(&mut self.listed, true);
                let fresh = std::mem::take(&mut self.fresh);
                let changed = *all != fresh;
                *all = fresh;
                changed || first
            }
            Event::Apply(object) => match view(&object) {
                Some(value) if all.get(&name(&object)) == Some(&value) => false,
                Some(value) => {
                    all.insert(name(&object), value);
                    true
                }
                None => all.remove(&name(&object)).is_some(),
            },
            Event::Delete(object) => all.remove(&name(&object)).is_some(),
        }
    }
}

impl Proxy {
    /// Keeps the kernel's rules equal to the cluster's services until told to stop. The rules stay.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.work(stop))
    }

    async fn work(self, stop: CancellationToken) {
        let services = watch(Api::<core::Service>::all(self.client.clone()), watcher::Config::default());
        let slices = watch(Api::<discovery::EndpointSlice>::all(self.client.clone()), watcher::Config::default());
        let work = self.rules.follow(services.default_backoff(), slices.default_backoff());
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }
}

impl Rules {
    pub(super) async fn follow(
        self: Arc<Self>,
        services: impl Stream<Item = Seen<core::Service>>,
        slices: impl Stream<Item = Seen<discovery::EndpointSlice>>,
    ) {
        let (mut services, mut slices) = (pin!(services), pin!(slices));
        let (mut service_half, mut slice_half) = (Half::new(), Half::new());
        let mut known = Known::default();
        let mut targets = UdpTargets::default();
        let mut retry = RETRY;
        let mut timer = Timer::default();
        loop {
            let changed = tokio::select! {
                event = services.next() => match event {
                    Some(Ok(event)) => service_half.take(&mut known.services, event, view::service),
                    Some(Err(error)) => complain("services", &error),
                    None => return,
                },
                event = slices.next() => match event {
                    Some(Ok(event)) => slice_half.take(&mut known.slices, event, view::slice),
                    Some(Err(error)) => complain("endpoint slices", &error),
                    None => return,
                },
                () = timer.wait() => {
                    timer = Timer::default();
                    match self.clone().apply_once(known.clone(), targets.clone()).await {
                        Ok(now) => {
                            targets = now;
                            retry = RETRY;
                        }
                        Err(error) => {
                            tracing::error!(%error, again_in = ?retry, "{UNREACHABLE}");
                            timer.due = Some(Instant::now() + retry);
                            retry = (retry * 2).min(RETRY_AT_MOST);
                        }
                    }
                    false
                }
            };
            // Rules of a former life stay until everything is known again.
            if changed && service_half.listed && slice_half.listed {
                timer.change(Instant::now());
            }
        }
    }

    async fn apply_once(self: Arc<Self>, known: Known, mut targets: UdpTargets) -> std::io::Result<UdpTargets> {
        let work = tokio::task::spawn_blocking(move || {
            self.apply(&known, &mut targets)?;
            Ok(targets)
        });
        match timeout(Duration::from_secs(30), work).await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => Err(std::io::Error::other(e)),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

/// When to apply what has gathered.
#[derive(Default)]
struct Timer {
    /// The first change since the last time.
    first: Option<Instant>,
    due: Option<Instant>,
}

impl Timer {
    /// Each change puts it off a little, up to a limit from the first.
    fn change(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + QUIET).min(first + AT_LATEST));
    }

    async fn wait(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

fn complain(what: &str, error: &watcher::Error) -> bool {
    tracing::warn!(what, %error, "watch broke off; it goes on with back-off");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_gather_for_a_moment_but_not_for_ever() {
        let start = Instant::now();
        let mut timer = Timer::default();
        timer.change(start);
        assert_eq!(timer.due, Some(start + QUIET));
        for i in 1..30 {
            timer.change(start + Duration::from_millis(i * 10));
        }
        assert_eq!(timer.due, Some(start + AT_LATEST));
    }

    #[test]
    fn a_list_replaces_what_was_known_and_an_equal_object_changes_nothing() {
        let service = |name: &str, ip: &str| -> core::Service {
            serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"clusterIP": ip}})).unwrap()
        };
        let (mut half, mut all) = (Half::new(), std::collections::BTreeMap::new());
        let mut take = |event| half.take(&mut all, event, view::service);
        assert!(!take(Event::Init));
        assert!(!take(Event::InitApply(service("a", "10.43.0.1"))));
        assert!(take(Event::InitDone));
        assert!(!take(Event::Apply(service("a", "10.43.0.1"))));
        assert!(take(Event::Apply(service("b", "10.43.0.2"))));
        assert!(!take(Event::Apply(service("c", "None"))));
        assert!(take(Event::Apply(service("a", "None"))), "it lost its address");
        assert!(!take(Event::Delete(service("c", "None"))));
        assert!(!take(Event::Init));
        assert!(!take(Event::InitApply(service("b", "10.43.0.2"))));
        assert!(!take(Event::InitDone), "the list says what was known");
        assert_eq!(all.len(), 1);
    }
}
