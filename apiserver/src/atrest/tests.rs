//! Values that kube-apiserver made, what it says of bad configurations, and a key service.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_schema::Tables;
use coracle_store::{
    At, Entry, Events, Expect, Page, Revision, StoreError, Write,
    embedded::{self, Embedded},
    faulty::{Faults, Faulty},
};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha2::{Digest, Sha256};

use super::{ciphers::Gcm, *};
use crate::{
    registry::catalog::{self, Odd},
    wire::message::{self, Field, Writer},
};

/// Keys of the store and what kube-apiserver 1.37.1 wrote there with the configuration of [`vectors_are_read_and_what_is_written_reads_back`].
const VECTORS: &str = include_str!("vectors.txt");

const KEY16: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const KEY24: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
const KEY32: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn header(rules: &str) -> String {
    format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{rules}")
}

fn catalog() -> Catalog {
    let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
    catalog::built_in(&Tables::load().unwrap(), odd)
}

async fn open(folder: &Path, rules: &str) -> Result<Arc<AtRest>, String> {
    let store = Arc::new(Embedded::open(&embedded::Options::memory()).unwrap());
    over(store, folder, rules).await
}

async fn over(store: Arc<dyn Store>, folder: &Path, rules: &str) -> Result<Arc<AtRest>, String> {
    let file = folder.join("encryption.yaml");
    std::fs::write(&file, header(rules)).unwrap();
    AtRest::open(Options { file, reload: false }, store, &catalog()).await
}

/// What kube-apiserver 1.37.1 with `--etcd-prefix=/x` wrote, under the key as it is known here.
const OF_A_PREFIX: &str = include_str!("vector-of-a-prefix.txt");

/// A store that keeps what is under `/registry` under `/x`, as one in etcd does.
struct Elsewhere(Embedded);

#[async_trait::async_trait]
impl Store for Elsewhere {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }
    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.0.get(key).await
    }
    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.0.range(prefix, page).await
    }
    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        self.0.commit(key, expect, write).await
    }
    fn watch(&self, prefix: &str, from: Revision) -> Events {
        self.0.watch(prefix, from)
    }
    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.compact(to).await
    }
    fn bound_to(&self, key: &Key) -> Vec<u8> {
        key.as_str().replacen("/registry", "/x", 1).into_bytes()
    }
}

#[tokio::test]
async fn values_are_bound_to_the_key_with_the_prefix_of_the_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let rules = format!("- resources: [configmaps]\n  providers: [{{aesgcm: {{keys: [{{name: key1, secret: {KEY24}}}]}}}}]\n");
    let elsewhere = Arc::new(Elsewhere(Embedded::open(&embedded::Options::memory()).unwrap()));
    let rest = over(elsewhere.clone(), folder.path(), &rules).await.unwrap();
    let (key, value) = OF_A_PREFIX.trim().split_once(' ').unwrap();
    let (key, value) = (Key::from(key), STANDARD.decode(value).unwrap());
    let opened = rest.open_value(&key, &value).await.unwrap();
    assert!(opened.plain.windows(15).any(|part| part == b"plaintext-proof"));
    let again = rest.seal_value(&key, &opened.plain).unwrap();
    assert!(rest.open_value(&key, &again).await.unwrap().plain == opened.plain);
    // Whatever stands between hands the question on.
    let between: Arc<dyn Store> = Arc::new(crate::registry::translated::Translated(Arc::clone(&rest)));
    assert_eq!(Faulty::new(between, Faults::default()).bound_to(&key), b"/x/configmaps/default/elsewhere");
    let here = open(folder.path(), &rules).await.unwrap();
    assert!(here.open_value(&key, &value).await.is_err() && here.open_value(&key, &again).await.is_err());
}

/// A key service on a socket. Its keys are made of their ids, as those of `conformance/clients/go/kms`.
async fn service(socket: &Path, id: Arc<RwLock<String>>, calls: Arc<AtomicUsize>) {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (id, calls) = (Arc::clone(&id), Arc::clone(&calls));
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (id, calls) = (id.read().clone(), Arc::clone(&calls));
                async move {
                    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    calls.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, std::convert::Infallible>(answered(&method, &body[5..], &id))
                }
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer));
        }
    });
}

type Answered = http::Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>;

fn answered(method: &str, asked: &[u8], id: &str) -> Answered {
    let gcm = |id: &str| Gcm::new(&Sha256::digest(id)).unwrap();
    let mut trailers = http::HeaderMap::new();
    let field = |number| {
        message::fields(asked).unwrap().into_iter().find_map(|(found, field)| match field {
            Field::Bytes(bytes) if found == number => Some(bytes.to_vec()),
            _ => None,
        })
    };
    let said = match method {
        "Status" => Ok(Writer::default().bytes(1, b"v2").bytes(2, b"ok").bytes(3, id.as_bytes()).finish()),
        "Encrypt" => {
            let sealed = gcm(id).seal(&field(1).unwrap(), b"").unwrap();
            let annotations = [("length.kms.coracle.example".to_owned(), b"32".to_vec())].into();
            Ok(messages::put_annotations(Writer::default().bytes(1, &sealed).bytes(2, id.as_bytes()), 3, &annotations).finish())
        }
        _ => {
            let id = String::from_utf8(field(3).unwrap()).unwrap();
            assert!(field(4).unwrap().ends_with(b"32"), "annotations come back");
            gcm(&id).open(&field(1).unwrap(), b"").map(|key| Writer::default().bytes(1, &key).finish())
        }
    };
    let frames = match said {
        Ok(said) => {
            trailers.insert("grpc-status", "0".parse().unwrap());
            let length = u32::try_from(said.len()).unwrap().to_be_bytes();
            vec![Frame::data(Bytes::from([&[0][..], &length, &said].concat())), Frame::trailers(trailers)]
        }
        Err(why) => {
            trailers.insert("grpc-status", "2".parse().unwrap());
            trailers.insert("grpc-message", why.replace(' ', "%20").parse().unwrap());
            vec![Frame::trailers(trailers)]
        }
    };
    http::Response::new(StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok))).boxed())
}

#[tokio::test]
async fn vectors_are_read_and_what_is_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    service(&socket, Arc::new(RwLock::new("kek-1".to_owned())), Arc::default()).await;
    let rules = format!(
        "- resources: [secrets]\n  providers: [{{aescbc: {{keys: [{{name: key1, secret: {KEY32}}}]}}}}]\n\
         - resources: [configmaps]\n  providers: [{{aesgcm: {{keys: [{{name: key1, secret: {KEY24}}}]}}}}]\n\
         - resources: [serviceaccounts]\n  providers: [{{secretbox: {{keys: [{{name: 'k:2', secret: {KEY32}}}]}}}}]\n\
         - resources: ['*.apps']\n  providers: [{{aesgcm: {{keys: [{{name: key16, secret: {KEY16}}}]}}}}]\n\
         - resources: ['*.batch']\n  providers: [{{kms: {{apiVersion: v2, name: local, endpoint: 'unix://{}'}}}}]\n\
         - resources: ['*.']\n  providers: [{{aescbc: {{keys: [{{name: key24, secret: {KEY24}}}]}}}}]\n",
        socket.display()
    );
    let rest = open(folder.path(), &rules).await.unwrap();
    let mut seen = 0;
    for line in VECTORS.lines() {
        let (key, value) = line.split_once(' ').unwrap();
        let (key, value) = (Key::from(key), STANDARD.decode(value).unwrap());
        let opened = rest.open_value(&key, &value).await.unwrap_or_else(|why| panic!("{key}: {why}"));
        assert!(opened.plain.starts_with(b"k8s\0"), "{key}");
        let needle = b"plaintext-proof";
        assert!(opened.plain.windows(needle.len()).any(|part| part == needle), "{key}");
        assert!(!value.windows(needle.len()).any(|part| part == needle), "{key}");
        let again = rest.seal_value(&key, &opened.plain).unwrap();
        let prefix = value.iter().take(24).copied().collect::<Vec<_>>();
        assert!(again.starts_with(&prefix[..20]) && again != value, "{key}");
        let back = rest.open_value(&key, &again).await.unwrap();
        assert!(back.plain == opened.plain && !back.stale, "{key}");
        // Where the cipher can tell, a value that was moved to another key is refused.
        let moved = rest.open_value(&Key::from(format!("{key}x")), &again).await;
        let tells = again.starts_with(b"k8s:enc:aesgcm") || again.starts_with(b"k8s:enc:kms");
        assert_eq!(moved.is_err(), tells, "{key}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[tokio::test]
async fn bad_configurations_are_refused_in_upstreams_words() {
    let folder = tempfile::tempdir().unwrap();
    // Asked of kube-apiserver 1.37.1.
    let cases = [
        (
            "- resources: [secrets]\n  providers:\n  - aescbc: {keys: [{name: k, secret: YWJj}]}",
            "error while parsing file: resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [16 24 32]",
        ),
        (
            "- resources: [secrets, '*.', Secrets]\n  providers: []",
            "error while parsing file: [resources[0].resources: Invalid value: [\"secrets\",\"*.\",\"Secrets\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked, resources[0].resources[2]: Invalid value: \"Secrets\": resource name should not contain capital letters, resources[0].providers: Required value: at least one resources[0].providers is required]",
        ),
        (
            "- resources: ['*.']\n  providers: [{identity: {}}]\n- resources: [secrets]\n  providers: [{identity: {}}]",
            "error while building transformers: resource \"secrets\" is masked by earlier rule \"*.\"",
        ),
        (
            "- resources: [secrets]\n  providers: [{}]",
            "error while parsing file: resources[0].providers[0]: Invalid value: {\"AESGCM\":null,\"AESCBC\":null,\"Secretbox\":null,\"Identity\":null,\"KMS\":null}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
        ),
        (
            "- resources: [secrets]\n  providers: [{kms: {name: a, endpoint: 'unix:///x.sock'}}]",
            "error while building transformers: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature.",
        ),
        (
            "- resources: [secrets]\n  providers: [{kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://x', timeout: 0s, cachesize: 5}}]",
            "error while parsing file: [resources[0].providers[0].kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':', resources[0].providers[0].kms.timeout: Invalid value: \"0s\": timeout should be a positive value, resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://x\": unsupported scheme \"tcp\" for KMS provider, only unix is supported, resources[0].providers[0].kms.cachesize: Invalid value: 5: cachesize is not supported in v2]",
        ),
    ];
    for (rules, expected) in cases {
        assert_eq!(open(folder.path(), rules).await.err().as_deref(), Some(expected), "{rules}");
    }
    let unknown = open(folder.path(), "- resources: [secrets]\n  providers: [{foo: {}}]").await.err().unwrap();
    assert!(unknown.ends_with("strict decoding error: unknown field \"resources[0].providers[0].foo\""), "{unknown}");
    let hidden = format!("- resources: [secrets]\n  providers: [{{identity: {{}}, aesgcm: {{keys: [{{name: k, secret: {KEY32}}}]}}}}]");
    let both = open(folder.path(), &hidden).await.err().unwrap();
    assert!(both.contains("more than one provider") && !both.contains(KEY32), "{both}");
}

#[tokio::test]
async fn the_first_key_writes_all_read_and_what_others_wrote_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::from("/registry/secrets/a/b");
    let old = format!("- resources: [secrets]\n  providers: [{{aesgcm: {{keys: [{{name: old, secret: {KEY32}}}]}}}}, {{identity: {{}}}}]");
    let written = open(folder.path(), &old).await.unwrap().seal_value(&key, b"{}").unwrap();
    let keys = format!("[{{name: new, secret: {KEY16}}}, {{name: old, secret: {KEY32}}}]");
    let new = format!("- resources: [secrets]\n  providers: [{{aesgcm: {{keys: {keys}}}}}, {{identity: {{}}}}]");
    let rest = open(folder.path(), &new).await.unwrap();
    let stale = |value: Vec<u8>| {
        let (rest, key) = (Arc::clone(&rest), key.clone());
        async move { rest.open_value(&key, &value).await.map(|opened| (opened.plain, opened.stale)) }
    };
    assert_eq!(stale(written.clone()).await, Ok((b"{}".to_vec(), true)));
    assert_eq!(stale(b"{}".to_vec()).await, Ok((b"{}".to_vec(), true)), "plaintext, too");
    let fresh = rest.seal_value(&key, b"{}").unwrap();
    assert!(fresh.starts_with(b"k8s:enc:aesgcm:v1:new:"));
    assert_eq!(stale(fresh).await, Ok((b"{}".to_vec(), false)));
    assert_eq!(
        stale(b"k8s:enc:aesgcm:v1:gone:xyz".to_vec()).await,
        Err("no matching key was found for the provided AES transformer".to_owned())
    );
    assert_eq!(stale(b"k8s:enc:secretbox:v1:k:xyz".to_vec()).await, Err(NO_PREFIX.to_owned()));
    // Encryption is given up by putting identity first.
    let off = format!("- resources: [secrets]\n  providers: [{{identity: {{}}}}, {{aesgcm: {{keys: [{{name: old, secret: {KEY32}}}]}}}}]");
    let rest = open(folder.path(), &off).await.unwrap();
    let opened = rest.open_value(&key, &written).await.unwrap();
    assert!(opened.stale && rest.seal_value(&key, b"{}").unwrap() == b"{}");
    // Where nothing is configured, what is encrypted is not taken for an object.
    let other = Key::from("/registry/pods/a/b");
    assert_eq!(rest.open_value(&other, &written).await.err().as_deref(), Some("identity transformer tried to read encrypted data"));
}

#[tokio::test]
async fn custom_resources_are_found_by_their_keys_and_wildcards_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let rules = format!(
        "- resources: [widgets.example.org]\n  providers: [{{secretbox: {{keys: [{{name: one, secret: {KEY32}}}]}}}}]\n\
         - resources: ['*.example.org']\n  providers: [{{secretbox: {{keys: [{{name: group, secret: {KEY32}}}]}}}}]\n\
         - resources: ['*.*']\n  providers: [{{secretbox: {{keys: [{{name: all, secret: {KEY32}}}]}}}}]"
    );
    let rest = open(folder.path(), &rules).await.unwrap();
    let with = |key: &str| String::from_utf8_lossy(&rest.seal_value(&Key::from(key), b"{}").unwrap()[21..27]).into_owned();
    assert!(with("/registry/example.org/widgets/a/b").starts_with("one:"));
    assert!(with("/registry/example.org/gadgets/a/b").starts_with("group:"));
    assert!(with("/registry/other.org/gadgets/a").starts_with("all:"));
    assert!(with("/registry/pods/a/b").starts_with("all:"));
}

#[tokio::test]
async fn a_key_service_is_asked_once_for_many_values_and_its_new_key_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, id, calls) = (folder.path().join("kms.sock"), Arc::new(RwLock::new("one".to_owned())), Arc::default());
    service(&socket, Arc::clone(&id), Arc::clone(&calls)).await;
    let rules = format!(
        "- resources: [secrets]\n  providers: [{{kms: {{apiVersion: v2, name: k, endpoint: 'unix://{}'}}}}, {{identity: {{}}}}]",
        socket.display()
    );
    let rest = open(folder.path(), &rules).await.unwrap();
    assert_eq!(rest.health().await, Some(Ok(())));
    let key = |n: usize| Key::from(format!("/registry/secrets/a/{n}"));
    let values: Vec<Vec<u8>> = (0..50).map(|n| rest.seal_value(&key(n), b"{\"a\":1}").unwrap()).collect();
    assert!(values[0].starts_with(b"k8s:enc:kms:v2:k:"));
    for (n, value) in values.iter().enumerate() {
        assert_eq!(rest.open_value(&key(n), value).await.unwrap().plain, b"{\"a\":1}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2, "one question for health and one for a seed");
    // Another process knows nothing of the seed: it asks once.
    let other = open(folder.path(), &rules).await.unwrap();
    for (n, value) in values.iter().enumerate() {
        assert!(!other.open_value(&key(n), value).await.unwrap().stale);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 5);
    "two".clone_into(&mut id.write());
    let third = open(folder.path(), &rules).await.unwrap();
    assert!(third.open_value(&key(0), &values[0]).await.unwrap().stale);
    let forged = [&values[0][..values[0].len() - 40], &[0; 40]].concat();
    assert!(third.open_value(&key(0), &forged).await.is_err());
}

#[tokio::test]
async fn what_was_written_before_a_new_key_is_read_without_asking_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, id, calls) = (folder.path().join("kms.sock"), Arc::new(RwLock::new("one".to_owned())), Arc::default());
    service(&socket, Arc::clone(&id), Arc::clone(&calls)).await;
    let endpoint = format!("unix://{}", socket.display());
    let kms = config::Kms { api_version: "v2".into(), name: "k".into(), cachesize: None, endpoint, timeout: None };
    let service = super::kms::Service::new(&kms);
    service.check().await.unwrap();
    let value = service.seal(b"{}", b"key").unwrap();
    service.rotate("one").await.unwrap();
    "two".clone_into(&mut id.write());
    service.rotate("two").await.unwrap();
    let asked = calls.load(Ordering::Relaxed);
    let opened = service.open(&value, b"key").await.unwrap();
    assert_eq!((&*opened.plain, opened.stale, calls.load(Ordering::Relaxed)), (&b"{}"[..], true, asked));
}

#[tokio::test(start_paused = true)]
async fn a_key_service_that_is_not_there_is_told_and_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let rules =
        "- resources: [secrets]\n  providers: [{kms: {apiVersion: v2, name: k, endpoint: 'unix:///nowhere/kms.sock'}}, {identity: {}}]";
    let rest = open(folder.path(), rules).await.unwrap();
    let why = rest.health().await.unwrap().unwrap_err();
    assert_eq!(
        why,
        "kms-provider-0: failed to perform status section of the healthz check for KMS Provider k, error: rpc error: code = DeadlineExceeded desc = context deadline exceeded"
    );
    let key = Key::from("/registry/secrets/a/b");
    assert_eq!(rest.seal_value(&key, b"{}").unwrap_err(), "got unexpected nil transformer");
    assert!(rest.open_value(&key, b"{}").await.unwrap().stale, "what is not encrypted is read");
}

#[tokio::test]
async fn a_changed_configuration_is_taken_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let rule = |name: &str, secret: &str| {
        format!("- resources: [secrets]\n  providers: [{{aesgcm: {{keys: [{{name: {name}, secret: {secret}}}]}}}}]")
    };
    let rest = open(folder.path(), &rule("one", KEY32)).await.unwrap();
    let key = Key::from("/registry/secrets/a/b");
    let writes = |name: &str| rest.seal_value(&key, b"{}").unwrap().starts_with(format!("k8s:enc:aesgcm:v1:{name}:").as_bytes());
    assert!(!rest.reload().await && writes("one"));
    let file = folder.path().join("encryption.yaml");
    std::fs::write(&file, header(&rule("two", KEY16))).unwrap();
    assert!(rest.reload().await && writes("two"));
    std::fs::write(&file, header(&rule("three", "short"))).unwrap();
    assert!(!rest.reload().await && writes("two"));
}

#[test]
fn what_is_no_message_is_refused_and_nothing_else_happens() {
    let hostile: [&[u8]; 5] =
        [b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x09\x00"];
    for bytes in hostile {
        assert!(message::fields(bytes).is_none(), "{bytes:?}");
    }
    let envelope = messages::Envelope {
        data: vec![1, 2],
        key_id: "k".into(),
        source: vec![3; 200],
        annotations: [("a.b".to_owned(), vec![4]), ("c.d".to_owned(), Vec::new())].into(),
        source_type: 1,
    };
    assert_eq!(messages::Envelope::read(&envelope.write()), Some(envelope));
}
