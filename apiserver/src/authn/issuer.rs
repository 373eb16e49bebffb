//! Issues service-account tokens: the `token` subresource of service accounts (`pkg/registry/core/serviceaccount/storage/token.go`), and the
//! documents by which others verify them (OIDC discovery and the key set).

use std::sync::Arc;

use coracle_schema::{FieldErrors, time};
use coracle_tree::{Value, json};
use jiff::{SignedDuration, Timestamp};

use super::{
    claims::{self, Binding, Claims, Reference},
    external::Signer,
    keys::{SigningKey, VerifyingKey},
};
use crate::{
    registry::{Object, Reader},
    wire::{Status, status::Subject},
};

/// The lifetime the ServiceAccount plugin asks for: clients that never reread the file get a longer token, with a warning mark at this age.
pub const WARN_SECONDS: i64 = 3607;

/// How long such a token really lives, in seconds.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Shortest lifetime that may be asked for, in seconds.
const SHORTEST_SECONDS: i64 = 600;

/// Longest lifetime that may be asked for, in seconds.
const LONGEST_SECONDS: i64 = 1 << 32;

/// Lifetime when none is asked for, in seconds.
const DEFAULT_SECONDS: i64 = 3600;

/// Who signs new tokens.
pub enum Signing {
    /// This server.
    Here(SigningKey),
    /// Somebody who is asked.
    Elsewhere(Arc<Signer>),
}

impl Signing {
    async fn seal(&self, claims: &Claims) -> Result<String, String> {
        match self {
            Self::Here(key) => claims::seal(claims, key).ok_or_else(|| "no randomness".to_owned()),
            Self::Elsewhere(signer) => signer.seal(claims).await,
        }
    }

    /// The longest lifetime a token may have, in seconds.
    fn longest(&self) -> i64 {
        match self {
            Self::Here(_) => i64::MAX,
            Self::Elsewhere(signer) => signer.longest(),
        }
    }
}

/// Issues tokens in the name of one issuer.
pub struct Issuer {
    /// `iss` of new tokens; an https URL for OIDC.
    pub name: String,
    /// Signs new tokens.
    pub signing: Signing,
    /// The API server's own audiences, used when a request names none.
    pub audiences: Vec<String>,
    /// Longer requests are shortened to this, with a warning (`--service-account-max-token-expiration`).
    pub longest: Option<SignedDuration>,
    /// Prolong the tokens of pods (`--service-account-extend-token-expiration`).
    pub extend: bool,
    /// Where accounts and bound objects are looked up.
    pub reader: Arc<dyn Reader>,
}

impl Issuer {
    /// Answers a TokenRequest for an account: `request` with defaults and status filled. Texts for `Warning:` headers go to `warnings`.
    pub async fn issue(
        &self,
        namespace: &str,
        account: &str,
        mut request: Object,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        self.check_names(account, &request)?;
        let found = self.look_up("serviceaccounts", namespace, account).await?;
        is_of(&request, &found)?;
        let seconds = self.lifetime(&request, warnings)?;
        let audiences = audiences(&request).unwrap_or_else(|| self.audiences.clone());
        let mut binding = Binding { namespace: namespace.to_owned(), serviceaccount: reference(&found), ..Binding::default() };
        self.bind(&mut binding, account, &request).await?;
        let mut lives = seconds;
        if self.extend && seconds == WARN_SECONDS && binding.pod.is_some() && audiences == self.audiences {
            binding.warnafter = Some(now.as_second() + seconds);
            lives = self.signing.longest().min(EXTENDED_SECONDS);
        }
        let claims = Claims {
            aud: audiences.clone(),
            exp: now.as_second() + lives,
            iat: now.as_second(),
            iss: self.name.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: binding,
            nbf: now.as_second(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        };
        let token = self.signing.seal(&claims).await.map_err(|why| {
            let why = format!("failed to generate token: {why}");
            Status { details: json!({"causes": [{"message": why}]}), ..Status::internal(why) }
        })?;
        let expires = Timestamp::from_second(now.as_second() + seconds).unwrap_or(Timestamp::MAX);
        request.member_mut("spec").insert("audiences", audiences.into());
        request.member_mut("spec").insert("expirationSeconds", seconds.into());
        request.set_metadata("name", account);
        request.set_metadata("namespace", namespace);
        request.set_metadata("uid", found.uid());
        request.set_metadata("creationTimestamp", time::seconds(now));
        let status = json!({"token": token, "expirationTimestamp": time::seconds(expires)});
        if let Some(root) = request.value_mut().as_object_mut() {
            root.insert("status", status);
        }
        Ok(request)
    }

    /// Name and namespace may be left out of the body, but not differ from the path.
    fn check_names(&self, account: &str, request: &Object) -> Result<(), Status> {
        if !request.name().is_empty() && request.name() != account {
            let text = format!("must match the service account name if specified: {:?}", request.name());
            let mut errors = FieldErrors::none();
            errors.invalid("metadata.name", format!("{:?}", request.name()), &text);
            return Err(invalid(request, &errors));
        }
        Ok(())
    }

    /// The lifetime in seconds the request gets.
    fn lifetime(&self, request: &Object, warnings: &mut Vec<String>) -> Result<i64, Status> {
        let asked = request.value().pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
        let mut errors = FieldErrors::none();
        if asked < SHORTEST_SECONDS {
            errors.invalid("spec.expirationSeconds", asked, "may not specify a duration less than 10 minutes");
        }
        if asked > LONGEST_SECONDS {
            errors.invalid("spec.expirationSeconds", asked, "may not specify a duration larger than 2^32 seconds");
        }
        if !errors.is_empty() {
            return Err(invalid(request, &errors));
        }
        match self.longest.map(|l| l.as_secs()).filter(|longest| *longest < asked) {
            Some(longest) => {
                warnings.push(format!("requested expiration of {asked} seconds shortened to {longest} seconds"));
                Ok(longest)
            }
            None => Ok(asked),
        }
    }

    /// Checks `spec.boundObjectRef` and notes what it names.
    async fn bind(&self, binding: &mut Binding, account: &str, request: &Object) -> Result<(), Status> {
        let Some(bound) = request.value().pointer("/spec/boundObjectRef").filter(|b| b.is_object()) else { return Ok(()) };
        let text = |name: &str| bound.get(name).and_then(Value::as_str).unwrap_or_default();
        let namespace = binding.namespace.clone();
        let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
        let found = match (version, kind) {
            ("v1" | "", "Pod") => {
                let pod = self.look_up("pods", &namespace, name).await?;
                let runs_as = pod.text("/spec/serviceAccountName");
                if runs_as != account {
                    let text =
                        format!("cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name.");
                    return Err(Status::bad_request(text));
                }
                binding.pod = Some(reference(&pod));
                binding.node = self.node_of(&pod).await?;
                pod
            }
            ("v1" | "", "Secret") => {
                let secret = self.look_up("secrets", &namespace, name).await?;
                binding.secret = Some(reference(&secret));
                secret
            }
            ("v1" | "", "Node") => {
                let node = self.look_up("nodes", "", name).await?;
                binding.node = Some(reference(&node));
                node
            }
            _ => return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}"))),
        };
        let wanted = text("uid");
        if !wanted.is_empty() && wanted != found.uid() {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(Subject { group: "", resource: kind, name }, &why));
        }
        Ok(())
    }

    /// The node a pod is bound to; by name alone when its object is not there.
    async fn node_of(&self, pod: &Object) -> Result<Option<Reference>, Status> {
        let name = pod.text("/spec/nodeName");
        if name.is_empty() {
            return Ok(None);
        }
        match self.look_up("nodes", "", name).await {
            Ok(node) => Ok(Some(reference(&node))),
            Err(status) if status.code == 404 => Ok(Some(Reference { name: name.to_owned(), uid: String::new() })),
            Err(status) => Err(status),
        }
    }

    async fn look_up(&self, resource: &str, namespace: &str, name: &str) -> Result<Object, Status> {
        let found = self.reader.get("", resource, namespace, name).await?;
        let found = found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).and_then(Object::new);
        found.ok_or_else(|| Status::not_found(Subject { group: "", resource, name }))
    }
}

/// The key set at `/openid/v1/jwks`.
pub fn key_set(keys: &[VerifyingKey]) -> Value {
    json!({"keys": keys.iter().filter(|key| !key.is_hidden).map(VerifyingKey::jwk).collect::<Vec<_>>()})
}

/// The discovery document at `/.well-known/openid-configuration`.
pub fn discovery(issuer: &str, jwks_uri: &str, keys: &[VerifyingKey]) -> Value {
    let mut algorithms: Vec<&str> = keys.iter().filter(|key| !key.is_hidden).map(|key| key.algorithm.name()).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

/// The audiences asked for; `None` when there are none.
fn audiences(request: &Object) -> Option<Vec<String>> {
    let list = request.value().pointer("/spec/audiences")?.as_array()?;
    let texts: Vec<String> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (!texts.is_empty()).then_some(texts)
}

/// Who asks for a token of the account that was does not get one of another of its name (`TokenRequestServiceAccountUIDValidation`).
fn is_of(request: &Object, account: &Object) -> Result<(), Status> {
    let (asked, now) = (request.uid(), account.uid());
    if asked.is_empty() || asked == now {
        return Ok(());
    }
    let why = format!("the UID in the token request ({asked}) does not match the UID of the service account ({now})");
    Err(Status::conflict(Subject { group: "authentication.k8s.io", resource: "TokenRequest", name: account.name() }, &why))
}

fn reference(object: &Object) -> Reference {
    Reference { name: object.name().to_owned(), uid: object.uid().to_owned() }
}

fn invalid(request: &Object, errors: &FieldErrors) -> Status {
    Status::invalid(Subject { group: "authentication.k8s.io", resource: "TokenRequest", name: request.name() }, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authn::tokens::Verifier, registry::fake::FakeReader};

    fn issuer(longest: Option<i64>) -> Issuer {
        let reader = Arc::new(FakeReader::default());
        reader.put("", "serviceaccounts", json!({"metadata": {"name": "a", "namespace": "ns", "uid": "sa-1"}}));
        let pod = |name: &str, account: &str| {
            json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-1")},
                   "spec": {"serviceAccountName": account, "nodeName": "n"}})
        };
        reader.put("", "pods", pod("p", "a"));
        reader.put("", "pods", pod("q", "b"));
        reader.put("", "nodes", json!({"metadata": {"name": "n", "uid": "node-1"}}));
        Issuer {
            name: "https://issuer".into(),
            signing: Signing::Here(SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()),
            audiences: vec!["api".into()],
            longest: longest.map(SignedDuration::from_secs),
            extend: true,
            reader,
        }
    }

    fn public(issuer: &Issuer) -> VerifyingKey {
        let Signing::Here(key) = &issuer.signing else { panic!("somebody else signs") };
        key.public().clone()
    }

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    async fn issue(issuer: &Issuer, spec: Value) -> Result<(Object, Vec<String>), Status> {
        let request = Object::new(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})).unwrap();
        let mut warnings = Vec::new();
        let answer = issuer.issue("ns", "a", request, now(), &mut warnings).await?;
        Ok((answer, warnings))
    }

    #[tokio::test]
    async fn a_plain_request_gets_the_servers_audience_and_an_hour() {
        let issuer = issuer(None);
        let (answer, _) = issue(&issuer, json!({})).await.unwrap();
        assert_eq!(answer.value()["spec"], json!({"audiences": ["api"], "expirationSeconds": 3600}));
        assert_eq!(answer.text("/status/expirationTimestamp"), "2026-11-21T13:00:00Z");
        let verifier = Verifier::new(vec![issuer.name.clone()], vec![public(&issuer)], Vec::new(), issuer.reader.clone());
        let verified = verifier.verify(answer.text("/status/token"), &["api".into()], now()).await.unwrap().unwrap();
        assert_eq!(&*verified.user.name, "system:serviceaccount:ns:a");
    }

    #[tokio::test]
    async fn a_request_that_names_its_account_gets_a_token_of_that_one_only() {
        let issuer = issuer(None);
        let ask = async |uid: &str| {
            let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {"uid": uid}, "spec": {}});
            issuer.issue("ns", "a", Object::new(request).unwrap(), now(), &mut Vec::new()).await
        };
        for uid in ["", "sa-1"] {
            assert_eq!(ask(uid).await.unwrap().uid(), "sa-1");
        }
        let refused = ask("sa-0").await.unwrap_err();
        let why = "Operation cannot be fulfilled on TokenRequest.authentication.k8s.io \"a\": the UID in the token request (sa-0) does not match the UID of the service account (sa-1)";
        assert_eq!((refused.code, refused.message.as_str()), (409, why));
    }

    #[tokio::test]
    async fn a_pods_token_names_pod_and_node_and_is_prolonged_with_a_warning_mark() {
        // However long others may last.
        let issuer = issuer(Some(7200));
        let spec = json!({"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p-1"}});
        let (answer, _) = issue(&issuer, spec).await.unwrap();
        let claims: Claims = claims::open(answer.text("/status/token"), &[public(&issuer)]).unwrap();
        assert_eq!(claims.kubernetes.pod, Some(Reference { name: "p".into(), uid: "p-1".into() }));
        assert_eq!(claims.kubernetes.node, Some(Reference { name: "n".into(), uid: "node-1".into() }));
        assert_eq!(claims.kubernetes.warnafter, Some(now().as_second() + 3607));
        assert_eq!(claims.exp - claims.iat, EXTENDED_SECONDS);
        assert_eq!(answer.text("/status/expirationTimestamp"), "2026-11-21T13:00:07Z");
    }

    #[tokio::test]
    async fn lifetimes_out_of_range_are_refused_and_long_ones_shortened() {
        let limited = issuer(Some(7200));
        let error = issue(&limited, json!({"expirationSeconds": 599})).await.unwrap_err();
        assert_eq!(error.code, 422);
        assert!(error.message.contains("may not specify a duration less than 10 minutes"), "{}", error.message);
        let (answer, warnings) = issue(&limited, json!({"expirationSeconds": 9000})).await.unwrap();
        assert_eq!(answer.value()["spec"]["expirationSeconds"], 7200);
        assert_eq!(warnings, ["requested expiration of 9000 seconds shortened to 7200 seconds"]);
    }

    #[tokio::test]
    async fn bound_objects_must_exist_fit_and_be_the_same() {
        let issuer = issuer(None);
        let bound =
            |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
        for (spec, code) in [
            (bound("Pod", "missing", ""), 404),
            (bound("Pod", "q", ""), 400),
            (bound("Pod", "p", "other"), 409),
            (bound("ConfigMap", "c", ""), 400),
        ] {
            assert_eq!(issue(&issuer, spec.clone()).await.unwrap_err().code, code, "{spec}");
        }
    }
}
