use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_tree::{Value, json};
use parking_lot::Mutex;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::authn::keys::SigningKey;

/// An issuer on loopback: a certificate of its own, discovery and keys over TLS.
struct Served {
    url: String,
    certificate: String,
    keys: Arc<Mutex<Vec<SigningKey>>>,
    fetched: Arc<AtomicUsize>,
    /// Whether it answers.
    up: Arc<std::sync::atomic::AtomicBool>,
}

fn key() -> SigningKey {
    SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
}

async fn issuer() -> Served {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let served = Served {
        url: url.clone(),
        certificate: made.cert.pem(),
        keys: Arc::new(Mutex::new(vec![key()])),
        fetched: Arc::default(),
        up: Arc::new(true.into()),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let der = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], der).unwrap()));
    let (keys, fetched, up) = (served.keys.clone(), served.fetched.clone(), served.up.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if !up.load(Ordering::SeqCst) {
                continue;
            }
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
            let body = if asked.starts_with("GET /keys ") {
                fetched.fetch_add(1, Ordering::SeqCst);
                json!({"keys": keys.lock().iter().map(|key| key.public().jwk()).collect::<Vec<_>>()})
            } else {
                json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
            };
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    served
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn sign(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let mut header = header.clone();
    if header.get("alg").is_none() {
        header["alg"] = "ES256".into();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

impl Served {
    fn authenticator(&self, more: &Value) -> Value {
        let mut value = json!({
            "issuer": {"url": self.url, "audiences": ["kube"], "certificateAuthority": self.certificate},
            "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}},
        });
        for (name, field) in more.as_object().unwrap() {
            value[name] = field.clone();
        }
        value
    }

    fn configuration(&self, more: &Value) -> Configuration {
        coracle_tree::from_value(json!({"jwt": [self.authenticator(more)]})).unwrap()
    }

    async fn ready(&self, more: &Value) -> Jwt {
        let jwt = Jwt::new(&self.configuration(more), &Algorithm::ALL, &[]).unwrap();
        while jwt.health().is_err() {
            tokio::task::yield_now().await;
        }
        jwt
    }

    fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": "kube", "sub": "jane", "exp": now().as_second() + 60, "iat": now().as_second()})
    }

    /// A token of the issuer's first key.
    fn token(&self, change: impl Fn(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        let keys = self.keys.lock();
        sign(&keys[0], &json!({"kid": keys[0].public().id}), &claims)
    }
}

async fn outcome(jwt: &Jwt, token: &str) -> Result<String, String> {
    match jwt.authenticate(token, &["api".to_owned()], now()).await {
        Ok(Some(verified)) => Ok(verified.user.name.to_string()),
        Ok(None) => Err("nobody's".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn a_token_of_a_known_issuer_names_its_user_and_each_wrong_one_is_refused_with_its_reason() {
    let served = issuer().await;
    let jwt = served.ready(&json!({})).await;
    assert_eq!(outcome(&jwt, &served.token(|_| {})).await, Ok("oidc:jane".into()));
    assert_eq!(outcome(&jwt, &served.token(|c| c["aud"] = json!(["else", "kube"]))).await, Ok("oidc:jane".into()));
    assert_eq!(outcome(&jwt, &served.token(|c| c["iss"] = "https://else".into())).await, Err("nobody's".into()));
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 9] = [
        (|c| c["aud"] = "else".into(), "oidc: verify token: oidc: expected audience \"kube\" got [\"else\"]"),
        (|c| c["aud"] = json!([]), "expected audience"),
        (|c| c["exp"] = (now().as_second() - 1).into(), "token is expired"),
        (
            |c| {
                c.as_object_mut().unwrap().remove("exp");
            },
            "token is expired",
        ),
        (|c| c["nbf"] = (now().as_second() + 301).into(), "before the nbf (not before) time"),
        (
            |c| {
                c.as_object_mut().unwrap().remove("sub");
            },
            "oidc: parse username claims \"sub\": claim not present",
        ),
        (|c| c["sub"] = 7.into(), "failed to unmarshal claims"),
        (|c| c["exp"] = "soon".into(), "failed to unmarshal claims"),
        (|c| c["aud"] = 1.into(), "failed to unmarshal claims"),
    ];
    for (change, expected) in cases {
        let refused = outcome(&jwt, &served.token(change)).await.unwrap_err();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    assert_eq!(outcome(&jwt, &served.token(|c| c["nbf"] = (now().as_second() + 299).into())).await, Ok("oidc:jane".into()));
}

#[tokio::test]
async fn forged_tokens_are_refused_whatever_their_header_says() {
    let served = issuer().await;
    let jwt = served.ready(&json!({})).await;
    let (other, id) = (key(), served.keys.lock()[0].public().id.clone());
    for header in
        [json!({}), json!({"kid": id}), json!({"kid": other.public().id}), json!({"kid": ""}), json!({"jwk": other.public().jwk()})]
    {
        let refused = outcome(&jwt, &sign(&other, &header, &served.claims())).await.unwrap_err();
        assert!(refused.contains("failed to verify signature"), "{header}: {refused}");
    }
    for (header, expected) in [
        (json!({"alg": "none"}), "got \"none\""),
        (json!({"alg": "HS256"}), "got \"HS256\""),
        (json!({"alg": "RS256", "kid": id}), "failed to verify signature"),
        (json!({"crit": ["exp"]}), "crit"),
    ] {
        let keys = served.keys.lock().len();
        assert_eq!(keys, 1);
        let forged = { sign(&served.keys.lock()[0], &header, &served.claims()) };
        let refused = outcome(&jwt, &forged).await.unwrap_err();
        assert!(refused.contains(expected), "{header}: {refused}");
    }
    let good = served.token(|_| {});
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert!(outcome(&jwt, &format!("{signed}.")).await.is_err());
    assert_eq!(outcome(&jwt, "a.b").await, Err("nobody's".into()));
}

#[tokio::test(start_paused = true)]
async fn new_keys_are_fetched_when_a_token_needs_them_and_not_for_every_forgery() {
    let served = issuer().await;
    let jwt = served.ready(&json!({})).await;
    assert!(outcome(&jwt, &served.token(|_| {})).await.is_ok());
    assert_eq!(served.fetched.load(Ordering::SeqCst), 1);
    for _ in 0..20 {
        assert!(outcome(&jwt, &sign(&key(), &json!({"kid": "x"}), &served.claims())).await.is_err());
    }
    assert!(served.fetched.load(Ordering::SeqCst) <= 2, "forgeries fetch nothing");
    tokio::time::advance(std::time::Duration::from_secs(3)).await;
    *served.keys.lock() = vec![key()];
    assert_eq!(outcome(&jwt, &served.token(|_| {})).await, Ok("oidc:jane".into()), "rotated");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_not_there_yet_is_tried_until_it_is() {
    let served = issuer().await;
    served.up.store(false, Ordering::SeqCst);
    let jwt = Jwt::new(&served.configuration(&json!({})), &Algorithm::ALL, &[]).unwrap();
    assert_eq!(outcome(&jwt, &served.token(|_| {})).await, Err("oidc: authenticator not initialized".into()));
    served.up.store(true, Ordering::SeqCst);
    while jwt.health().is_err() {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(outcome(&jwt, &served.token(|_| {})).await, Ok("oidc:jane".into()));
}

#[tokio::test]
async fn claims_become_groups_uid_and_extras_and_rules_are_kept() {
    let served = issuer().await;
    let jwt = served
        .ready(&json!({
            "claimMappings": {
                "username": {"expression": "claims.sub + '@' + claims.org"},
                "groups": {"expression": "claims.roles.split(',').map(r, 'role:' + r)"},
                "uid": {"claim": "id"},
                "extra": [{"key": "acme.io/team", "valueExpression": "claims.?team.orValue('')"}, {"key": "acme.io/all", "valueExpression": "claims.list"}],
            },
            "claimValidationRules": [
                {"claim": "hd", "requiredValue": "acme.io"},
                {"expression": "claims.age >= 18.0", "message": "too young"},
            ],
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}],
        }))
        .await;
    let base = |c: &mut Value| {
        for (name, value) in [
            ("org", json!("acme")),
            ("roles", json!("a,b")),
            ("id", json!("u1")),
            ("list", json!(["x", ""])),
            ("hd", json!("acme.io")),
            ("age", json!(20)),
            ("jti", json!("j1")),
        ] {
            c[name] = value;
        }
    };
    let verified = jwt.authenticate(&served.token(base), &["api".to_owned()], now()).await.unwrap().unwrap();
    let user = &verified.user;
    assert_eq!((&*user.name, &*user.uid, &*verified.audiences), ("jane@acme", "u1", &["api".to_owned()][..]));
    assert!(user.in_group("role:a") && user.in_group("role:b") && user.in_group("system:authenticated"));
    assert_eq!((user.extra.get("acme.io/team"), user.extra["acme.io/all"].as_slice()), (None, &["x".to_owned()][..]));
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j1"]);
    assert_eq!(verified.until.map(Timestamp::as_second), Some(now().as_second() + 60));
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 6] = [
        (|c| c["hd"] = "else".into(), "oidc: required claim hd value does not match. Got = else, want = acme.io"),
        (
            |c| {
                c.as_object_mut().unwrap().remove("hd");
            },
            "oidc: required claim hd not present in ID token",
        ),
        (|c| c["age"] = 17.into(), "validation expression 'claims.age >= 18.0' failed: too young"),
        (
            |c| c["sub"] = "system:x".into(),
            "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('system:')' failed: reserved",
        ),
        (|c| c["id"] = json!(["x"]), "oidc: parse uid claim \"id\": json: cannot unmarshal array into Go value of type string"),
        (
            |c| {
                c.as_object_mut().unwrap().remove("roles");
            },
            "oidc: error evaluating group claim expression: expression 'claims.roles.split(',').map(r, 'role:' + r)' resulted in error: no such key: roles",
        ),
    ];
    for (change, expected) in cases {
        let refused = outcome(
            &jwt,
            &served.token(|c| {
                base(c);
                change(c);
            }),
        )
        .await
        .unwrap_err();
        assert!(refused.contains(expected), "{expected}\n{refused}");
    }
}

#[tokio::test]
async fn an_email_names_somebody_only_when_it_is_verified_and_groups_elsewhere_are_not_passed_over() {
    let served = issuer().await;
    let jwt = served
        .ready(&json!({"claimMappings": {"username": {"claim": "email", "prefix": ""}, "groups": {"claim": "groups", "prefix": "g:"}}}))
        .await;
    let with = |verified: Value| served.token(move |c| (c["email"], c["email_verified"]) = ("j@a.io".into(), verified.clone()));
    assert_eq!(outcome(&jwt, &with(true.into())).await, Ok("j@a.io".into()));
    assert_eq!(outcome(&jwt, &with(false.into())).await, Err("oidc: email not verified".into()));
    assert!(outcome(&jwt, &with("yes".into())).await.unwrap_err().contains("parse 'email_verified' claim"));
    let groups = |value: Value| served.token(move |c| (c["email"], c["groups"]) = ("j@a.io".into(), value.clone()));
    let of =
        async |value| jwt.authenticate(&groups(value), &[], now()).await.map(|v| v.unwrap().user.groups.clone()).map_err(|e| e.to_string());
    assert_eq!(of(json!("one")).await.unwrap()[0].as_ref(), "g:one");
    assert_eq!(of(json!(["a", "b"])).await.unwrap()[1].as_ref(), "g:b");
    assert!(of(json!(7)).await.unwrap_err().contains("oidc: parse groups claim \"groups\""));
    let elsewhere = served.token(|c| {
        c["email"] = "j@a.io".into();
        c["_claim_names"] = json!({"groups": "src"});
    });
    assert!(outcome(&jwt, &elsewhere).await.unwrap_err().contains("distributed claims"));
}

#[tokio::test]
async fn a_changed_file_counts_once_its_issuers_are_reached_and_a_wrong_one_does_not() {
    let (one, two) = (issuer().await, issuer().await);
    let options = |of: &Served| JwtOptions { configuration: of.configuration(&json!({})), algorithms: Algorithm::ALL.to_vec(), file: None };
    let reload = Reload::new(options(&one), &["https://self".to_owned()]).unwrap();
    let file = |authenticators: Value, more: &str| {
        format!(
            "{{\"apiVersion\": \"apiserver.config.k8s.io/v1\", \"kind\": \"AuthenticationConfiguration\", \"jwt\": {authenticators}{more}}}"
        )
    };
    let both = json!([one.authenticator(&json!({})), two.authenticator(&json!({}))]);
    reload.take(file(both.clone(), "").as_bytes()).await.unwrap();
    let name = async |of: &Served| reload.authenticate(&of.token(|_| {}), &[], now()).await.ok().flatten().map(|v| v.user.name.to_string());
    assert_eq!((name(&one).await, name(&two).await), (Some("oidc:jane".into()), Some("oidc:jane".into())));
    let mut own = one.authenticator(&json!({}));
    own["issuer"]["url"] = "https://self".into();
    for (text, expected) in [
        (file(json!([{}]), ""), "jwt[0].issuer.url: Required value"),
        (
            file(json!([own]), ""),
            "issuer.url: Invalid value: \"https://self\": URL must not overlap with disallowed issuers: [https://self]",
        ),
        (file(both, ", \"anonymous\": {\"enabled\": true}"), "anonymous: Forbidden: changed from initial configuration file"),
        ("kind: X".to_owned(), "Object 'apiVersion' is missing"),
    ] {
        let (refused, lasting) = reload.take(text.as_bytes()).await.unwrap_err();
        assert!(refused.contains(expected) && lasting, "{expected}: {refused}");
    }
    reload.take(file(json!([two.authenticator(&json!({}))]), "").as_bytes()).await.unwrap();
    assert_eq!((name(&one).await, name(&two).await), (None, Some("oidc:jane".into())));
}
