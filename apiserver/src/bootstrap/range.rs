//! The `ServiceCIDR` `kubernetes`, which says where services have their addresses: made of `--service-cluster-ip-range`, given a second
//! network when the flag gets one, and otherwise left to people (`controlplane/controller/defaultservicecidr`).

use std::{sync::Arc, time::Duration};

use coracle_schema::time;
use coracle_tree::{Value, json};
use futures::StreamExt;
use jiff::Timestamp;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    registry::{Reader, Writer, reader},
    verbs::Clock,
    wire::Status,
};

const GROUP: &str = "networking.k8s.io";
const NAME: &str = "kubernetes";
/// Before what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Keeps the object.
pub(crate) struct DefaultRange {
    cidrs: Vec<String>,
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    clock: Clock,
    /// What was told people, who are told once.
    told: Vec<&'static str>,
}

/// What is to be done about the object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    /// It gets the second network.
    Widen,
    /// Addresses may be taken of it.
    MakeReady,
    /// It says something else than the flag, which is people's affair: reason and note.
    Tell(String, String),
}

const MISMATCH: &str = "KubernetesDefaultServiceCIDRInconsistent";
const ERROR: &str = "KubernetesDefaultServiceCIDRError";

impl DefaultRange {
    /// Of these networks; services that do not say have an address of the first.
    pub(crate) fn new(cidrs: Vec<String>, reader: Arc<dyn Reader>, writer: Arc<dyn Writer>, clock: Clock) -> Self {
        Self { cidrs, reader, writer, clock, told: Vec::new() }
    }

    /// Looks at the object, and again whenever it changes, for ever.
    pub(crate) async fn run(mut self) {
        let mut changes = self.reader.follow(GROUP, "servicecidrs").filter(|change| std::future::ready(change.name == NAME));
        loop {
            let again = match self.settle().await {
                Ok(()) => Duration::MAX,
                Err(status) => {
                    warn!(%status, "the ServiceCIDR {NAME} is not settled yet");
                    AGAIN
                }
            };
            tokio::select! {
                _ = changes.next() => {}
                () = sleep(again) => {}
            }
        }
    }

    /// Makes it what it should be.
    pub(crate) async fn settle(&mut self) -> Result<(), Status> {
        let mut now = reader::one::<Value>(&*self.reader, GROUP, "servicecidrs", "", NAME).await?;
        if step(now.as_ref(), &self.cidrs) == Step::Create {
            info!(cidrs = self.cidrs.join(","), "creating the default ServiceCIDR");
            now = match self.writer.create("servicecidrs", "", self.wanted()).await {
                Ok(made) => Some(made),
                // Another server was first; it sees to the rest, too.
                Err(status) if status.code == 409 => return Ok(()),
                Err(status) => return Err(status),
            };
        }
        let Some(mut object) = now else { return Ok(()) };
        (object["apiVersion"], object["kind"]) = ("networking.k8s.io/v1".into(), "ServiceCIDR".into());
        match step(Some(&object), &self.cidrs) {
            Step::Widen => self.widen(object).await,
            Step::MakeReady => {
                let mut next = object.clone();
                set_ready(&mut next, (self.clock)());
                if let Err(status) = self.writer.update("servicecidrs", "status", "", next).await {
                    self.tell(&object, ERROR, "The default ServiceCIDR Status can not be set to Ready=True").await;
                    return Err(status);
                }
            }
            Step::Tell(reason, note) => {
                let key = if reason == MISMATCH { MISMATCH } else { "" };
                if !self.told.contains(&key) {
                    self.told.push(key);
                    self.tell(&object, &reason, &note).await;
                }
            }
            Step::Nothing | Step::Create => {}
        }
        Ok(())
    }

    /// Whoever forbids it is asked again when the object changes, or at the next start.
    async fn widen(&self, object: Value) {
        let (from, to) = (&self.cidrs[0], self.cidrs.join(" "));
        info!(from, to, "the default ServiceCIDR becomes one of both families");
        let mut next = object.clone();
        next["spec"]["cidrs"] = self.cidrs.clone().into();
        if let Err(status) = self.writer.update("servicecidrs", "", "", next).await {
            let note = format!("The default ServiceCIDR can not be upgraded from {from} to dual stack [{to}] : {}", status.message);
            self.tell(&object, ERROR, &note).await;
        }
    }

    fn wanted(&self) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME}, "spec": {"cidrs": self.cidrs}})
    }

    /// Writes a warning for people; nothing depends on it.
    async fn tell(&self, object: &Value, reason: &str, note: &str) {
        warn!(reason, "{note}");
        let now = (self.clock)();
        let metadata = &object["metadata"];
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{NAME}.{:x}", now.as_nanosecond()), "namespace": "default"},
            "involvedObject": {
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "name": NAME,
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            },
            "type": "Warning", "reason": reason, "message": note, "count": 1,
            "source": {"component": "kubernetes-service-cidr-controller"}, "reportingComponent": "kubernetes-service-cidr-controller",
            "firstTimestamp": time::seconds(now), "lastTimestamp": time::seconds(now),
        });
        if let Err(status) = self.writer.create("events", "default", event).await {
            warn!(%status, "an event is lost");
        }
    }
}

fn step(now: Option<&Value>, cidrs: &[String]) -> Step {
    let Some(now) = now else { return Step::Create };
    let said: Vec<&str> = now["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let ([first, _], [only]) = (cidrs, said.as_slice())
        && first == only
    {
        return Step::Widen;
    }
    if !now["metadata"]["deletionTimestamp"].is_null() {
        return Step::Nothing;
    }
    if said != cidrs {
        let note =
            format!("The default ServiceCIDR [{}] does not match the controller flag configurations [{}]", said.join(" "), cidrs.join(" "));
        return Step::Tell(MISMATCH.to_owned(), note);
    }
    let ready = now["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let text = |name: &str| ready.and_then(|ready| ready[name].as_str()).unwrap_or_default();
    match text("status") {
        "True" => Step::Nothing,
        "False" => Step::Tell(text("reason").to_owned(), format!("Configuration matches, but {}", text("message"))),
        _ => Step::MakeReady,
    }
}

fn set_ready(object: &mut Value, now: Timestamp) {
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": time::seconds(now),
    });
    let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "Ready");
    conditions.push(ready);
    object["status"] = json!({"conditions": conditions});
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn keeper(fake: &Arc<FakeReader>, cidrs: &[&str]) -> DefaultRange {
        let cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
        DefaultRange::new(cidrs, fake.clone(), fake.clone(), Arc::new(|| "2026-11-22T12:00:00Z".parse().unwrap()))
    }

    fn look(fake: &FakeReader) -> Value {
        fake.look(GROUP, "servicecidrs", "", NAME).unwrap()
    }

    #[tokio::test]
    async fn it_is_made_ready_and_gets_a_second_network_but_never_another_first() {
        let fake = Arc::new(FakeReader::default());
        let condition = |fake: &FakeReader| look(fake)["status"]["conditions"][0]["status"].clone();
        keeper(&fake, &["10.0.0.0/24"]).settle().await.unwrap();
        assert_eq!((&look(&fake)["spec"]["cidrs"], condition(&fake)), (&json!(["10.0.0.0/24"]), json!("True")));
        keeper(&fake, &["10.0.0.0/24", "fd00::/108"]).settle().await.unwrap();
        assert_eq!((&look(&fake)["spec"]["cidrs"], condition(&fake)), (&json!(["10.0.0.0/24", "fd00::/108"]), json!("True")));
        let before = look(&fake);
        for other in [&["fd00::/108", "10.0.0.0/24"][..], &["10.0.0.0/24"], &["10.1.0.0/24"]] {
            keeper(&fake, other).settle().await.unwrap();
            assert_eq!(look(&fake), before, "{other:?}");
        }
        assert_eq!(fake.list("", "events", "default").await.unwrap().len(), 1, "{:?}", fake.list("", "events", "default").await);
    }

    #[test]
    fn what_goes_or_was_made_unready_is_left_to_who_did_that() {
        let cidrs = ["10.0.0.0/24".to_owned()];
        let mut object = json!({"metadata": {}, "spec": {"cidrs": cidrs}});
        assert_eq!((step(None, &cidrs), step(Some(&object), &cidrs)), (Step::Create, Step::MakeReady));
        object["status"] = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "Mine", "message": "I say so"}]});
        assert_eq!(step(Some(&object), &cidrs), Step::Tell("Mine".into(), "Configuration matches, but I say so".into()));
        object["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z".into();
        assert_eq!(step(Some(&object), &cidrs), Step::Nothing);
    }
}
