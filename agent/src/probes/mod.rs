//! Startup, readiness and liveness probes (kubelet `prober/worker.go`). One light task per probe; only changes reach the pod's worker.

pub mod http;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::task::AbortHandle;

use crate::clock::{after, until};
use crate::context::Context;
use crate::pods::object::BoundPod;
use crate::pods::registry::{PodHandle, Signal};
use crate::runtime::RuntimeError;

/// First pause between the early tries of a container that is starting.
const SOON: Duration = Duration::from_millis(50);

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Holds the others back until it passed once.
    Startup,
    /// Decides whether traffic is sent.
    Readiness,
    /// Restarts the container when it fails.
    Liveness,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What is probed.
#[derive(Debug, Clone)]
pub struct Target {
    /// Runtime id of the container.
    pub id: String,
    /// Address of the pod.
    pub address: Option<IpAddr>,
    /// When the container started: delays count from here.
    pub started_at: Timestamp,
    /// Whether it counts as ready now (an adopted container).
    pub ready: bool,
}

/// The running probes of one container; dropping ends them.
#[derive(Debug, Default)]
pub struct Probes(Vec<AbortHandle>);

impl Drop for Probes {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Starts the probes that apply: the startup probe alone until the container is `started`, then the other two.
#[must_use]
pub fn start(
    ctx: &Arc<Context>,
    handle: &Arc<PodHandle>,
    pod: &Arc<BoundPod>,
    spec: &ContainerSpec,
    target: &Target,
    started: bool,
) -> Probes {
    let due: Vec<(Kind, &Probe)> = match (&spec.startup_probe, started) {
        (Some(startup), false) => vec![(Kind::Startup, startup)],
        _ => {
            let readiness = spec.readiness_probe.iter().map(|p| (Kind::Readiness, p));
            readiness.chain(spec.liveness_probe.iter().map(|p| (Kind::Liveness, p))).collect()
        }
    };
    let spawn = |(kind, probe): (Kind, &Probe)| {
        let prober = Prober {
            ctx: ctx.clone(),
            handle: handle.clone(),
            pod: pod.clone(),
            spec: spec.clone(),
            probe: probe.clone(),
            kind,
            target: target.clone(),
        };
        ctx.tasks.spawn(prober.run()).abort_handle()
    };
    Probes(due.into_iter().map(spawn).collect())
}

struct Prober {
    ctx: Arc<Context>,
    handle: Arc<PodHandle>,
    pod: Arc<BoundPod>,
    spec: ContainerSpec,
    probe: Probe,
    kind: Kind,
    target: Target,
}

/// Counts results in a row and tells when the threshold turns the verdict.
#[derive(Debug)]
struct Counter {
    verdict: Option<bool>,
    last: Option<bool>,
    row: i32,
    successes: i32,
    failures: i32,
}

impl Counter {
    fn new(probe: &Probe, verdict: Option<bool>) -> Self {
        let (successes, failures) = (probe.success_threshold.unwrap_or(1).max(1), probe.failure_threshold.unwrap_or(3).max(1));
        Self { verdict, last: None, row: 0, successes, failures }
    }

    /// Notes a result; `Some` when the verdict changed by it.
    fn note(&mut self, passed: bool) -> Option<bool> {
        if self.last == Some(passed) {
            self.row = self.row.saturating_add(1);
        } else {
            self.last = Some(passed);
            self.row = 1;
        }
        let enough = if passed { self.successes } else { self.failures };
        if self.row < enough || self.verdict == Some(passed) {
            return None;
        }
        self.verdict = Some(passed);
        Some(passed)
    }
}

impl Prober {
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10);
        let delay = Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let first = after(self.target.started_at, delay);
        tokio::time::sleep(until(self.ctx.options.clock.now(), first)).await;
        let initially = match self.kind {
            Kind::Startup => None,
            Kind::Readiness => Some(self.target.ready),
            Kind::Liveness => Some(true),
        };
        let mut counter = Counter::new(&self.probe, initially);
        if self.kind != Kind::Liveness && counter.successes == 1 && !self.target.ready && self.soon(period, &mut counter).await {
            return;
        }
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = self.once().await;
            if let Err(words) = &outcome {
                let message = format!("{} probe failed: {words}", self.kind.title());
                self.ctx.recorder.warning(&self.pod, Some(&self.spec.name), "Unhealthy", message);
            }
            let Some(passed) = counter.note(outcome.is_ok()) else { continue };
            if self.tell(passed) {
                return;
            }
        }
    }

    /// Within the first period a container that is just starting is asked more often, so that it counts as ready when it is and not a period
    /// later. Only success counts here: what fails so early is neither counted nor told. True when nothing is left to probe.
    async fn soon(&self, period: Duration, counter: &mut Counter) -> bool {
        let mut pause = SOON;
        let mut spent = Duration::ZERO;
        while spent + pause < period {
            if self.once().await.is_ok() {
                let done = counter.note(true).is_some_and(|passed| self.tell(passed));
                if !done {
                    tokio::time::sleep(period).await;
                }
                return done;
            }
            tokio::time::sleep(pause).await;
            spent += pause;
            pause *= 2;
        }
        false
    }

    /// Tells the worker; true when this probe is over: what follows (other probes, a restart) is the worker's to start.
    fn tell(&self, passed: bool) -> bool {
        let probe = self.kind.title().to_lowercase();
        let message = format!("Container {} failed {probe} probe, will be restarted", self.spec.name);
        self.handle.signal(Signal::Probed { id: self.target.id.clone(), kind: self.kind, passed, message });
        self.kind == Kind::Startup || self.kind == Kind::Liveness && !passed
    }

    async fn once(&self) -> Result<(), String> {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        if let Some(exec) = &self.probe.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default(), timeout).await;
        }
        let probed = tokio::time::timeout(timeout, self.over_network()).await;
        probed.unwrap_or_else(|_| {
            Err(match &self.probe.http_get {
                Some(get) => {
                    let url = http::url(get, &self.spec, self.target.address).map(|url| url.to_string()).unwrap_or_default();
                    format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
                }
                None => "dial tcp: i/o timeout".to_owned(),
            })
        })
    }

    async fn over_network(&self) -> Result<(), String> {
        if let Some(get) = &self.probe.http_get {
            return http::get(get, &self.spec, self.target.address).await.map(drop);
        }
        let (host, port) = if let Some(tcp) = &self.probe.tcp_socket {
            (tcp.host.clone(), port(&tcp.port, &self.spec)?)
        } else if let Some(grpc) = &self.probe.grpc {
            // The gRPC health protocol has its place here; until then a connection is what is asked for.
            (None, u16::try_from(grpc.port).map_err(|_| format!("invalid port number: {}", grpc.port))?)
        } else {
            return Ok(());
        };
        let host = host.filter(|h| !h.is_empty()).or(self.target.address.map(|a| a.to_string())).ok_or("the pod has no address")?;
        tokio::net::TcpStream::connect((host.as_str(), port)).await.map(drop).map_err(|e| format!("dial tcp {host}:{port}: {}", words(&e)))
    }

    async fn exec(&self, command: &[String], timeout: Duration) -> Result<(), String> {
        match self.ctx.runtime.exec_sync(&self.target.id, command, timeout).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
            Err(RuntimeError::Timeout(limit)) => {
                Err(format!("command timed out: \"{}\" timed out after {}s", command.join(" "), limit.as_secs()))
            }
            Err(error) => Err(format!("rpc error: code = Unknown desc = failed to exec in container: {error}")),
        }
    }
}

fn seconds(given: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(given.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(default))
}

/// A connection error in the words Go uses.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// A port by number or by the name of one of the container's ports.
pub(crate) fn port(given: &IntOrString, spec: &ContainerSpec) -> Result<u16, String> {
    let number = match given {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match spec.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)) {
            Some(port) => port.container_port,
            None => name.parse().map_err(|_| format!("couldn't find port: {name:?} in container {:?}", spec.name))?,
        },
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_turn_at_their_thresholds_and_only_once() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(&probe, Some(false));
        let results = [true, false, true, true, true, false, false, true, false, false, false, false];
        let verdicts: Vec<_> = results.into_iter().map(|passed| counter.note(passed)).collect();
        let mut wanted = [None; 12];
        wanted[3] = Some(true);
        wanted[10] = Some(false);
        assert_eq!(verdicts, wanted);
    }

    #[test]
    fn a_liveness_probe_that_never_passed_still_fails_after_its_threshold() {
        let mut counter = Counter::new(&Probe::default(), Some(true));
        assert_eq!([false, false, false].map(|r| counter.note(r)), [None, None, Some(false)]);
    }

    #[test]
    fn named_ports_are_the_containers_own() {
        let spec: ContainerSpec =
            serde_json::from_str(r#"{"name":"c","ports":[{"name":"web","containerPort":8080}]}"#).expect("a container");
        assert_eq!(port(&IntOrString::String("web".to_owned()), &spec), Ok(8080));
        assert_eq!(port(&IntOrString::Int(80), &spec), Ok(80));
        assert!(port(&IntOrString::String("nope".to_owned()), &spec).is_err());
        assert!(port(&IntOrString::Int(70_000), &spec).is_err());
    }
}
