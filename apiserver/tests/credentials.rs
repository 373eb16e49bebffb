//! Credentials that are forged, stale or somebody else's: each is refused with 401 and nothing else, whatever it claims.

use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use coracle_apiserver::{
    Options, Server,
    authn::{
        self, Anonymous, User,
        claims::{self, Binding, Claims, Reference},
        keys::SigningKey,
        legacy,
    },
};
use coracle_store::embedded::{self, Embedded};
use coracle_tree::{Value, json};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::house::House;

const ISSUER: &str = "https://issuer.example";

struct World {
    house: House,
    key: SigningKey,
    now: i64,
    uid: String,
    pod: String,
}

fn key() -> SigningKey {
    SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
}

async fn world() -> World {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let signing = || SigningKey::from_pem(pem.as_bytes()).unwrap();
    let second = key();
    let authentication = authn::Options {
        issuers: vec![ISSUER.into(), "https://old.example".into()],
        audiences: vec!["api".into()],
        signing_key: Some(signing()),
        verifying_keys: vec![second.public().clone()],
        anonymous: Anonymous::On,
        bootstrap_tokens: true,
        ..authn::Options::default()
    };
    let store = Arc::new(Embedded::open(&embedded::Options::memory()).unwrap());
    let server = Server::build(Options { authentication, ..House::options(store) }).await.unwrap();
    let house = House { server, user: Arc::new(User::new("admin", &["system:masters"])) };
    let account = house.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "a"}})).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "a", "containers": [{"name": "c", "image": "i"}]}});
    let pod = house.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    for name in ["gone", "again"] {
        house.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": name}})).await.ok();
    }
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    World { key: signing(), now: jiff::Timestamp::now().as_second(), uid: uid(&account), pod: uid(&pod), house }
}

impl World {
    fn claims(&self) -> Claims {
        let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
        Claims {
            aud: vec!["api".into()],
            exp: self.now + 600,
            iat: self.now,
            iss: ISSUER.into(),
            jti: "j".into(),
            kubernetes: Binding {
                namespace: "default".into(),
                serviceaccount: reference("a", &self.uid),
                pod: Some(reference("p", &self.pod)),
                ..Binding::default()
            },
            nbf: self.now,
            sub: "system:serviceaccount:default:a".into(),
        }
    }

    /// A token of these claims, changed, by our key.
    fn changed(&self, change: impl Fn(&mut Claims)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        claims::seal(&claims, &self.key).unwrap()
    }

    /// A token of any header and claims, signed by a key.
    fn raw(&self, key: &SigningKey, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
    }

    fn json(&self) -> Value {
        coracle_tree::to_value(self.claims()).unwrap()
    }

    /// What a request with these headers gets: code and body.
    async fn asks(&self, headers: &[(&str, &str)]) -> (StatusCode, Value) {
        let mut request = Request::builder().method(Method::GET).uri("/api/v1/namespaces/default/secrets");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.house.service().oneshot(request.body(Full::default()).unwrap()).await.unwrap();
        let code = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// Tokens that say something wrong, though our key signed them.
fn wrong_claims(w: &World) -> Vec<(&'static str, String)> {
    let uid = |kind: fn(&mut Claims, Reference)| move |c: &mut Claims| kind(c, Reference { name: "p".into(), uid: "0".into() });
    vec![
        ("expired", w.changed(|c| c.exp = w.now - 61)),
        ("ended at the beginning of time", w.changed(|c| c.exp = 0)),
        ("ended before", w.changed(|c| c.exp = i64::MIN)),
        ("not valid yet", w.changed(|c| c.nbf = w.now + 120)),
        ("issued in the future", w.changed(|c| c.iat = w.now + 120)),
        ("never begins", w.changed(|c| c.nbf = i64::MAX)),
        ("for somebody else", w.changed(|c| c.aud = vec!["vault".into()])),
        ("for nobody", w.changed(|c| c.aud.clear())),
        ("for an audience that begins alike", w.changed(|c| c.aud = vec!["api2".into(), "ap".into(), String::new()])),
        ("of another issuer", w.changed(|c| c.iss = "https://else.example".into())),
        ("of an issuer with a slash", w.changed(|c| c.iss = format!("{ISSUER}/"))),
        ("of no issuer", w.changed(|c| c.iss = String::new())),
        ("of another subject", w.changed(|c| c.sub = "system:serviceaccount:default:b".into())),
        ("of a subject that is no account", w.changed(|c| c.sub = "system:admin".into())),
        ("of another namespace", w.changed(|c| c.kubernetes.namespace = "kube-system".into())),
        ("of an account of another uid", w.changed(|c| c.kubernetes.serviceaccount.uid = "0".into())),
        ("of an account without uid", w.changed(|c| c.kubernetes.serviceaccount.uid = String::new())),
        ("of an account that never was", w.changed(|c| c.kubernetes.serviceaccount.name = "never".into())),
        ("of a pod of another uid", w.changed(uid(|c, r| c.kubernetes.pod = Some(r)))),
        ("of a pod that never was", w.changed(|c| c.kubernetes.pod = Some(Reference { name: "never".into(), uid: "1".into() }))),
        ("of a secret that never was", w.changed(uid(|c, r| (c.kubernetes.pod, c.kubernetes.secret) = (None, Some(r))))),
        ("of a node that never was", w.changed(uid(|c, r| (c.kubernetes.pod, c.kubernetes.node) = (None, Some(r))))),
    ]
}

/// Tokens that our key did not sign, or not so.
fn forged(w: &World) -> Vec<(&'static str, String)> {
    let (other, json, good) = (key(), w.json(), w.changed(|_| {}));
    let id = &w.key.public().id;
    let parts: Vec<&str> = good.split('.').collect();
    let mut root = w.json();
    root["sub"] = "system:serviceaccount:kube-system:root".into();
    let changed = URL_SAFE_NO_PAD.encode(root.to_string());
    let mut flipped = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    flipped[10] ^= 1;
    let rsa = SigningKey::from_pem(include_bytes!("../src/authn/testdata/rsa.pem")).unwrap();
    vec![
        ("by another key", w.raw(&other, &json!({"alg": "ES256"}), &json)),
        ("by another key in our name", w.raw(&other, &json!({"alg": "ES256", "kid": id}), &json)),
        ("by a key it brings along", w.raw(&other, &json!({"alg": "ES256", "jwk": other.public().jwk()}), &json)),
        ("by a key at an address", w.raw(&other, &json!({"alg": "ES256", "jku": "https://127.0.0.1/keys"}), &json)),
        ("by RSA in the name of our key", w.raw(&rsa, &json!({"alg": "RS256", "kid": id}), &json)),
        ("by RSA said to be ours", w.raw(&rsa, &json!({"alg": "ES256", "kid": id}), &json)),
        ("of no algorithm", format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), parts[1])),
        ("of no algorithm in capitals", format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"NONE"}"#), parts[1])),
        ("of no algorithm, signed", w.raw(&w.key, &json!({"alg": "none", "kid": id}), &json)),
        ("of a symmetric algorithm", w.raw(&w.key, &json!({"alg": "HS256", "kid": id}), &json)),
        ("of an algorithm of another curve", w.raw(&w.key, &json!({"alg": "ES384", "kid": id}), &json)),
        ("of a kid that is a path", w.raw(&other, &json!({"alg": "ES256", "kid": "../../etc/passwd"}), &json)),
        ("of a kid that is no text", w.raw(&w.key, &json!({"alg": "ES256", "kid": 7}), &json)),
        ("with other claims", format!("{}.{changed}.{}", parts[0], parts[2])),
        ("with another signature", format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode(flipped))),
        ("without signature", format!("{}.{}.", parts[0], parts[1])),
        ("with a signature of nothing", format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode([0; 64]))),
        ("with half a signature", format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40])),
        ("with a fourth part", format!("{good}.x")),
        ("with padding", format!("{good}==")),
        ("of two parts", format!("{}.{}", parts[0], parts[1])),
        ("of empty parts", "..".to_owned()),
        ("that is not base64", format!("{}.!.{}", parts[0], parts[2])),
        ("whose claims are a list", w.raw(&w.key, &json!({"alg": "ES256", "kid": id}), &json!([1]))),
        ("whose claims are of other types", w.raw(&w.key, &json!({"alg": "ES256", "kid": id}), &json!({"iss": ISSUER, "exp": "x"}))),
        ("that is nonsense", "nonsense".to_owned()),
        ("that is long", "a.".repeat(20_000)),
    ]
}

/// Tokens of secrets, and bootstrap tokens, that are not good.
async fn others(w: &World) -> Vec<(&'static str, String)> {
    let legacy = |change: fn(&mut legacy::Claims)| {
        let mut claims = legacy::Claims {
            iss: legacy::ISSUER.into(),
            sub: "system:serviceaccount:default:a".into(),
            namespace: "default".into(),
            secret: "s".into(),
            account: "a".into(),
            uid: w.uid.clone(),
            ..legacy::Claims::default()
        };
        change(&mut claims);
        claims::seal(&claims, &w.key).unwrap()
    };
    let kept = legacy(|_| {});
    let secret = |name: &str, kind: &str, data: Value| json!({"metadata": {"name": name}, "type": kind, "data": data});
    let stored = secret("s", "Opaque", json!({"token": STANDARD.encode(&kept)}));
    w.house.post("/api/v1/namespaces/default/secrets", &stored).await.ok();
    let bearer = format!("Bearer {kept}");
    let (code, _) = w.asks(&[("authorization", &bearer)]).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "the token its secret holds is good");
    let data = json!({"token-id": STANDARD.encode("abcdef"), "token-secret": STANDARD.encode("0123456789abcdef"),
        "usage-bootstrap-authentication": STANDARD.encode("true"), "expiration": STANDARD.encode("2020-01-01T00:00:00Z")});
    let stored = secret("bootstrap-token-abcdef", "bootstrap.kubernetes.io/token", data);
    w.house.post("/api/v1/namespaces/kube-system/secrets", &stored).await.ok();
    vec![
        ("of a secret that holds another", legacy(|_| {})),
        ("of a secret that is not there", legacy(|c| c.secret = "t".into())),
        ("of a secret, of another account", legacy(|c| c.account = "b".into())),
        ("of a secret, of another uid", legacy(|c| c.uid = "0".into())),
        ("of a secret, for another audience", legacy(|c| c.aud = vec!["vault".into()])),
        ("to join that has ended", "abcdef.0123456789abcdef".to_owned()),
        ("to join with another secret", "abcdef.0123456789abcdee".to_owned()),
        ("to join that is not there", "abcdeg.0123456789abcdef".to_owned()),
    ]
}

/// Tokens that were good until what they are bound to was deleted.
async fn deleted(w: &World) -> Vec<(&'static str, String)> {
    let mut tokens = Vec::new();
    for (what, name) in [("of a deleted account", "gone"), ("of an account that was made again", "again")] {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{name}");
        let issued = w.house.post(&format!("{path}/token"), &json!({"spec": {}})).await.ok();
        tokens.push((what, issued["status"]["token"].as_str().unwrap().to_owned()));
        w.house.delete(&path).await.ok();
    }
    w.house.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "again"}})).await.ok();
    tokens
}

#[tokio::test]
async fn forged_and_stale_credentials_are_refused_with_401_and_nothing_else() {
    let w = world().await;
    let good = format!("Bearer {}", w.changed(|_| {}));
    let (code, body) = w.asks(&[("authorization", &good)]).await;
    assert_eq!(
        (code, body["message"].as_str().unwrap_or_default().contains("system:serviceaccount:default:a")),
        (StatusCode::FORBIDDEN, true)
    );
    let mut tokens = wrong_claims(&w);
    tokens.extend(forged(&w));
    tokens.extend(others(&w).await);
    tokens.extend(deleted(&w).await);
    assert!(tokens.len() >= 55, "{}", tokens.len());
    for (what, token) in &tokens {
        let bearer = format!("Bearer {token}");
        let protocol = format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(token));
        for headers in [[("authorization", bearer.as_str())], [("sec-websocket-protocol", protocol.as_str())]] {
            let (code, body) = w.asks(&headers).await;
            assert_eq!(code, StatusCode::UNAUTHORIZED, "a token {what}");
            assert_eq!((&body["reason"], &body["message"]), (&"Unauthorized".into(), &"Unauthorized".into()), "a token {what}");
        }
    }
}

#[tokio::test]
async fn who_is_no_front_proxy_may_say_what_it_likes() {
    let w = world().await;
    for headers in [
        &[("x-remote-user", "admin"), ("x-remote-group", "system:masters")][..],
        &[("x-forwarded-user", "admin"), ("x-remote-extra-scopes", "all")],
        &[("authorization", "Basic YWRtaW46YWRtaW4=")],
    ] {
        let (code, body) = w.asks(headers).await;
        let message = body["message"].as_str().unwrap_or_default();
        assert!(code == StatusCode::FORBIDDEN && message.contains("system:anonymous"), "{headers:?}: {body}");
    }
}
