//! What extension API servers are told of how clients are recognised here: the ConfigMap `extension-apiserver-authentication` of kube-system
//! (`controlplane/controller/clusterauthenticationtrust`). Several servers write it, each adding what it knows.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::{Map, Value, json};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tracing::warn;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authenticator, FrontProxy, authorities::Current};
use crate::{
    registry::{Reader, Writer},
    verbs::Clock,
    wire::Status,
};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// How often it is looked after.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps the ConfigMap.
pub(crate) struct Publisher {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) writer: Arc<dyn Writer>,
}

impl Publisher {
    /// Looks after it for ever: authorities change, and so may the map.
    pub(crate) async fn follow(self, clock: Clock) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(status) = self.publish(clock()).await {
                warn!(%status, "{NAMESPACE}/{NAME} is not up to date");
            }
        }
    }

    /// Writes it if it does not say what it should.
    pub(crate) async fn publish(&self, now: Timestamp) -> Result<(), Status> {
        let current = self.authenticator.authorities().now();
        if current.client_bundle.is_empty() && current.proxy_bundle.is_empty() {
            return Ok(());
        }
        let found = self.reader.get("", "configmaps", NAMESPACE, NAME).await?;
        let found = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let there = found.as_ref().and_then(|map| map["data"].as_object()).cloned().unwrap_or_default();
        let data = wanted(&there, &current, self.authenticator.front_proxy(), now.as_second());
        let written = match found {
            Some(map) if map["data"] == Value::Object(data.clone()) => return Ok(()),
            Some(mut map) => {
                map["data"] = data.into();
                self.writer.update("configmaps", "", NAMESPACE, map).await
            }
            None => {
                let metadata = json!({"name": NAME, "namespace": NAMESPACE});
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
                self.writer.create("configmaps", NAMESPACE, map).await
            }
        };
        match written {
            // Another server was quicker; the next look sees what it wrote.
            Err(status) if status.code == 409 => Ok(()),
            written => written.map(|_| ()),
        }
    }
}

/// What the map should say: what is there, and what this server knows. Certificates that have ended go.
fn wanted(there: &Map, current: &Current, proxy: Option<&FrontProxy>, now: i64) -> Map {
    let mut data = there.clone();
    let bundle = |key: &str, own: &str| {
        let old = there.get(key).and_then(Value::as_str).unwrap_or_default();
        (!own.is_empty()).then(|| if old.is_empty() || old == own { own.to_owned() } else { combined(old, own, now) })
    };
    if let Some(pem) = bundle("client-ca-file", &current.client_bundle) {
        data.insert("client-ca-file", pem.into());
    }
    let (Some(pem), Some(proxy)) = (bundle("requestheader-client-ca-file", &current.proxy_bundle), proxy) else { return data };
    data.insert("requestheader-client-ca-file", pem.into());
    let lists = [
        ("requestheader-username-headers", &proxy.username_headers),
        ("requestheader-uid-headers", &proxy.uid_headers),
        ("requestheader-group-headers", &proxy.group_headers),
        ("requestheader-extra-headers-prefix", &proxy.extra_prefixes),
        ("requestheader-allowed-names", &proxy.allowed_names),
    ];
    for (key, own) in lists {
        let old = there.get(key).and_then(Value::as_str).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
        let mut all: Vec<&String> = Vec::new();
        for name in old.iter().flatten().chain(own) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        if key == "requestheader-uid-headers" && all.is_empty() {
            continue;
        }
        data.insert(key, json!(all).to_string().into());
    }
    data
}

/// The certificates of both bundles that have not ended, each once.
fn combined(old: &str, own: &str, now: i64) -> String {
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect::<Vec<_>>();
    let lives = |der: &CertificateDer<'_>| X509Certificate::from_der(der).is_ok_and(|(_, c)| c.validity().not_after.timestamp() > now);
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for der in read(old).into_iter().chain(read(own)).filter(lives) {
        if !all.contains(&der) {
            all.push(der);
        }
    }
    all.iter().map(|der| pem(der)).collect()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authn::{Authorities, Options},
        registry::fake::FakeReader,
    };

    fn certificate(year: i32) -> String {
        let mut params = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(year, 1, 1));
        pem(params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der())
    }

    #[tokio::test]
    async fn what_each_server_knows_is_there_and_what_has_ended_is_not() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let (reader, authorities) = (Arc::new(FakeReader::default()), Arc::<Authorities>::default());
        let front_proxy =
            FrontProxy { allowed_names: vec!["front".into()], username_headers: vec!["X-Remote-User".into()], ..Default::default() };
        let options = Options { authorities: authorities.clone(), front_proxy: Some(front_proxy), ..Options::default() };
        let authenticator = Arc::new(Authenticator::new(options, reader.clone()).unwrap());
        let publisher = Publisher { authenticator, reader: reader.clone(), writer: reader.clone() };
        publisher.publish(now).await.unwrap();
        assert!(reader.look("", "configmaps", NAMESPACE, NAME).is_none(), "nothing to tell");

        let (own, proxies, other, old) = (certificate(2030), certificate(2030), certificate(2030), certificate(2025));
        authorities.replace(&own, &proxies).unwrap();
        publisher.publish(now).await.unwrap();
        let data = |reader: &FakeReader| reader.look("", "configmaps", NAMESPACE, NAME).unwrap()["data"].clone();
        let expected = json!({
            "client-ca-file": own, "requestheader-client-ca-file": proxies, "requestheader-allowed-names": "[\"front\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]", "requestheader-group-headers": "[]",
            "requestheader-extra-headers-prefix": "[]",
        });
        assert_eq!(data(&reader), expected);
        let writes = reader.writes();
        publisher.publish(now).await.unwrap();
        assert_eq!(reader.writes(), writes);

        let mut map = reader.look("", "configmaps", NAMESPACE, NAME).unwrap().clone();
        map["data"]["client-ca-file"] = format!("{other}{old}").into();
        map["data"]["requestheader-allowed-names"] = "[\"back\"]".into();
        reader.put("", "configmaps", map);
        publisher.publish(now).await.unwrap();
        let now_there = data(&reader);
        assert_eq!(now_there["client-ca-file"], format!("{other}{own}"));
        assert_eq!(now_there["requestheader-allowed-names"], "[\"back\",\"front\"]");
    }
}
