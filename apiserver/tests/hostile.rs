//! What no well-meaning client sends: each input is refused with a clear status, at once, and nothing has changed afterwards.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_tree::{Value, json};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{house::House, network::Pki};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// However bad an input is, the answer does not take longer (in an unoptimized build, beside other tests).
const AT_ONCE: Duration = Duration::from_secs(60);

fn nested(depth: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
}

fn bomb() -> String {
    let mut text = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (before, name) in ('a'..='i').zip('b'..='j') {
        text += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","));
    }
    text
}

async fn refused(house: &House, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>, code: u16, said: &str) {
    let body = body.into();
    let name = format!("{method} {path} {headers:?} {:?}", String::from_utf8_lossy(&body[..body.len().min(60)]));
    let reply = timeout(AT_ONCE, house.ask(method, path, headers, body)).await.unwrap_or_else(|_| panic!("{name}: no answer"));
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.code.as_u16(), code, "{name}: {}", text.chars().take(400).collect::<String>());
    assert!(text.contains(said), "{name}: {}", text.chars().take(400).collect::<String>());
    if reply.headers["content-type"] == JSON {
        assert_eq!((&reply.json()["kind"], &reply.json()["code"]), (&json!("Status"), &json!(code)), "{name}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_object_are_refused_and_nothing_is_created() {
    let house = House::new().await;
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}"#;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    let protobuf = |rest: &[u8]| [b"k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap".as_slice(), rest].concat();
    let no_json = "couldn't get version/kind; json parse error: ";
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        (JSON, b"".to_vec(), 400, no_json),
        (JSON, b"{".to_vec(), 400, "unexpected end of JSON input"),
        (JSON, map.into(), 400, "unexpected end of JSON input"),
        (JSON, format!("{map}}} x").into(), 400, "invalid character 'x' after top-level value"),
        (
            JSON,
            format!("{map},\"data\":{{\"a\":1}}}}").into(),
            400,
            "cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (JSON, format!("{map},\"data\":[]}}").into(), 400, "cannot unmarshal array into Go struct field ConfigMap.data"),
        (JSON, [map.as_bytes(), b",\"data\":{\"a\":\"\xff\"}}"].concat(), 400, no_json),
        (JSON, format!("{map},\"data\":{{\"a\":\"\\ud800\"}}}}").into(), 400, no_json),
        (JSON, format!("{map},\"data\":{}}}", nested(9000)).into(), 400, "ConfigMap.data"),
        (JSON, "[".repeat(1_000_000).into(), 400, no_json),
        (JSON, b"\x1f\x8b\x08\x00gzip".to_vec(), 400, "invalid character '\\\\x1f' looking for beginning of value"),
        (JSON, format!("{map}}}{}", " ".repeat(3 << 20)).into(), 413, "Request entity too large: limit is 3145728"),
        (YAML, format!("{yaml}data: [").into(), 400, "yaml: "),
        (YAML, format!("{yaml}{}", bomb()).into(), 400, "yaml: document contains excessive aliasing"),
        (YAML, format!("{yaml}data: &a {{a: *a}}").into(), 400, "yaml: "),
        (YAML, format!("{yaml}data: {}", "[".repeat(100_000)).into(), 400, "yaml: "),
        (YAML, format!("{yaml}data:\n  {}", "- ".repeat(100_000)).into(), 400, "yaml: "),
        (YAML, [yaml.as_bytes(), b"data: {a: \"\xff\"}"].concat(), 400, "yaml: invalid leading UTF-8 octet"),
        (PROTOBUF, b"".to_vec(), 400, ""),
        (PROTOBUF, b"k8s\x00".to_vec(), 400, ""),
        (PROTOBUF, b"k8s\x01\x0a".to_vec(), 400, ""),
        (PROTOBUF, protobuf(b"\x12\xff\xff\xff\xff\x0f"), 400, ""),
        (PROTOBUF, protobuf(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), 400, ""),
        (PROTOBUF, protobuf(b"\x12\x04\x0a\x80\x80\x80"), 400, ""),
        (PROTOBUF, protobuf(&[b"\x12\xa8\x46".as_slice(), &b"\x0b".repeat(9000)].concat()), 400, ""),
        ("application/cbor", b"\xd9\xd9\xf7\xa0".to_vec(), 415, "unknown format"),
        ("application/json;;;", format!("{map}}}").into(), 415, "unknown format"),
        ("text/plain", format!("{map}}}").into(), 415, "unknown format"),
    ];
    for (media, body, code, said) in cases {
        refused(&house, Method::POST, MAPS, &[("content-type", media)], body, code, said).await;
    }
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let twice = format!("{map},\"data\":{{\"a\":\"b\",\"a\":\"c\"}},\"zz\":1}}");
    refused(&house, Method::POST, &strict, &[("content-type", JSON)], twice, 400, "strict decoding error").await;
    let doubled = format!("{yaml}data: {{a: b, a: c}}\n");
    refused(&house, Method::POST, &strict, &[("content-type", YAML)], doubled, 400, "already set in map").await;
    assert_eq!(house.get(MAPS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn absurd_patches_leave_the_object_as_it_is() {
    let house = House::new().await;
    let one = format!("{MAPS}/one");
    let before = house.post(MAPS, &json!({"metadata": {"name": "one"}, "data": {"a": "b"}})).await.ok();
    let many = |n: usize| json!(vec![json!({"op": "test", "path": "/data/a", "value": "b"}); n]).to_string();
    let mut copies = vec![json!({"op": "add", "path": "/data/z", "value": "x".repeat(1000)})];
    copies.extend((0..40).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/c{n}")})));
    let apply = |rest: &str| format!("{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"one\"{rest}}}}}");
    let cases = [
        (JSON_PATCH, many(10_001), 413, "The allowed maximum operations in a JSON patch is 10000, got 10001"),
        (JSON_PATCH, Value::from(copies).to_string(), 422, ""),
        (JSON_PATCH, json!([{"op": "test", "path": "/data/a", "value": "c"}]).to_string(), 422, "the server rejected our request"),
        (JSON_PATCH, json!([{"op": "add", "path": "/a".repeat(50_000), "value": 1}]).to_string(), 422, ""),
        (JSON_PATCH, json!([{"op": "remove", "path": "/metadata/managedFields/99999999999999999999"}]).to_string(), 422, ""),
        (JSON_PATCH, json!([{"op": "replace", "path": "", "value": []}]).to_string(), 422, ""),
        (JSON_PATCH, "[{\"op\"".to_owned(), 400, "invalid JSON patch"),
        (MERGE, nested(20_000), 400, "invalid JSON patch"),
        (MERGE, "[]".to_owned(), 400, "cannot unmarshal array"),
        (MERGE, json!({"data": {"a": 5}}).to_string(), 422, ""),
        // Upstream's code, too.
        ("application/strategic-merge-patch+json", json!({"$patch": "zap"}).to_string(), 500, "unknown patch type: zap"),
        (APPLY, apply(",\"managedFields\":[{\"manager\":\"x\"}]"), 400, "metadata.managedFields must be nil"),
        (APPLY, "[".repeat(100_000), 400, "error converting YAML to JSON"),
        (APPLY, bomb(), 400, "excessive aliasing"),
        (APPLY, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n".to_owned(), 400, ""),
        ("application/foo", "{}".to_owned(), 415, ""),
    ];
    for (media, body, code, said) in cases {
        let path = if media == APPLY { format!("{one}?fieldManager=me") } else { one.clone() };
        refused(&house, Method::PATCH, &path, &[("content-type", media)], body, code, said).await;
    }
    assert_eq!(house.get(&one).await.ok(), before);
    refused(&house, Method::PATCH, &format!("{MAPS}/nobody"), &[("content-type", MERGE)], "[]", 404, "not found").await;
}

#[tokio::test]
async fn absurd_requests_are_answered_as_upstream_answers_them() {
    let house = House::new().await;
    let bad_name = |name: &str, why: &str| (Method::GET, format!("{MAPS}/{name}"), 400, format!("may not {why}"));
    let cases = [
        bad_name("..", "be '..'"),
        bad_name("%2e", "be '.'"),
        bad_name("a%25b", "contain '%'"),
        (Method::DELETE, format!("{MAPS}/.."), 400, "Name parameter invalid".to_owned()),
        (Method::GET, format!("{MAPS}?labelSelector={}", "(".repeat(10_000)), 400, "expected: !, identifier".to_owned()),
        (Method::GET, format!("{MAPS}?labelSelector=%ff"), 400, "unable to parse requirement".to_owned()),
        (Method::GET, format!("{MAPS}?labelSelector={}=b", "a".repeat(64)), 400, "63 ".to_owned()),
        (Method::GET, format!("{MAPS}?fieldSelector=spec.nope=1"), 400, "is not a known field selector".to_owned()),
        (Method::GET, format!("{MAPS}?limit=x"), 400, "strconv.ParseInt".to_owned()),
        (Method::GET, format!("{MAPS}?continue={}", "A".repeat(60_000)), 400, "continue key is not valid".to_owned()),
        (Method::GET, format!("{MAPS}?resourceVersion=99999999999999999999"), 400, "invalid resource version".to_owned()),
        (Method::GET, format!("{MAPS}?watch=1&timeoutSeconds=x"), 400, "strconv.ParseInt".to_owned()),
        (Method::POST, format!("{MAPS}?dryRun=Some"), 422, "dryRun".to_owned()),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods/x/log?tailLines=-1".to_owned(),
            422,
            "must be greater than or equal to 0".to_owned(),
        ),
        (Method::GET, "/api/v1/namespaces/default/pods/x/log?sinceSeconds=0".to_owned(), 422, "must be greater than 0".to_owned()),
        (Method::POST, "/nope".to_owned(), 404, "404 page not found".to_owned()),
        (Method::PUT, "/apis/nope.example/v1".to_owned(), 404, "404 page not found".to_owned()),
        (Method::DELETE, "/api/v9".to_owned(), 404, "NotFound".to_owned()),
        (Method::POST, "/version".to_owned(), 405, "MethodNotAllowed".to_owned()),
        (Method::GET, "/api/v1/proxy/nodes/x".to_owned(), 404, "NotFound".to_owned()),
        // No route leads to an object of a namespace that is not named; what spans namespaces can be read only.
        (Method::GET, "/api/v1/configmaps/a".to_owned(), 404, "NotFound".to_owned()),
        (Method::PATCH, "/api/v1/configmaps/a?fieldManager=m".to_owned(), 404, "the requested resource".to_owned()),
        (Method::GET, "/api/v1/pods/a/status".to_owned(), 404, "the requested resource".to_owned()),
        (Method::DELETE, "/api/v1/configmaps".to_owned(), 405, "MethodNotAllowed".to_owned()),
        (Method::OPTIONS, format!("{MAPS}/a/nope"), 404, "NotFound".to_owned()),
        // A prefix for watches is a route of its own, which is only read and has no namespace to spare.
        (Method::GET, "/api/v1/watch/configmaps/a".to_owned(), 404, "the requested resource".to_owned()),
        (Method::GET, "/api/v1/watch/nodes/a/status".to_owned(), 404, "the requested resource".to_owned()),
        (Method::POST, "/api/v1/watch/configmaps".to_owned(), 405, "MethodNotAllowed".to_owned()),
        (Method::GET, "/apis/authorization.k8s.io/v1/watch/subjectaccessreviews".to_owned(), 404, "NotFound".to_owned()),
        // A namespace without a name is a namespace; what is in none is not below one.
        (Method::GET, "/api/v1/namespaces//configmaps/a".to_owned(), 400, "Namespace parameter required.".to_owned()),
        (Method::DELETE, "/api/v1/namespaces//configmaps".to_owned(), 400, "Namespace parameter required.".to_owned()),
        (Method::OPTIONS, "/api/v1/namespaces//configmaps/a".to_owned(), 405, "MethodNotAllowed".to_owned()),
        (Method::GET, "/api/v1/namespaces/default/namespaces".to_owned(), 404, "the requested resource".to_owned()),
        (Method::GET, "/api/v1/namespaces/../configmaps".to_owned(), 500, r#"invalid key: \"/configmaps/..\""#.to_owned()),
        // Subresources have names before them and, but for proxies, nothing behind.
        (Method::GET, "/api/v1/namespaces/default/pods//status".to_owned(), 400, "name must be provided".to_owned()),
        (Method::DELETE, "/api/v1/namespaces/default/pods//status".to_owned(), 405, "MethodNotAllowed".to_owned()),
        (Method::GET, "/api/v1/namespaces/default/pods/a//status".to_owned(), 404, "the requested resource".to_owned()),
        (Method::DELETE, "/api/v1/namespaces/default/pods/a/status/b".to_owned(), 404, "the requested resource".to_owned()),
        (Method::GET, "/api/v1/namespaces/default/pods/a/exec/b".to_owned(), 404, "the requested resource".to_owned()),
        (Method::POST, "/api/v1/nodes/a/proxy?dryRun=All".to_owned(), 400, "dryRun is not supported".to_owned()),
        (Method::GET, "/api/v1/nodes/a/proxy".to_owned(), 404, r#"nodes \"a\" not found"#.to_owned()),
        // What is only created has no place for one of it, nor one over all namespaces.
        (Method::GET, "/api/v1/bindings".to_owned(), 404, "the requested resource".to_owned()),
        (Method::GET, "/apis/authorization.k8s.io/v1/subjectaccessreviews/a".to_owned(), 404, "the requested resource".to_owned()),
        (Method::GET, "/api/v1/componentstatuses/a".to_owned(), 404, r#"componentstatus \"a\" not found"#.to_owned()),
        (Method::GET, format!("{MAPS}/%00"), 404, r#"configmaps \"\\x00\" not found"#.to_owned()),
        // Slashes count where a path is registered as it stands.
        (Method::GET, "//".to_owned(), 404, "404 page not found".to_owned()),
        (Method::GET, "/apis//v1".to_owned(), 404, "404 page not found".to_owned()),
        (Method::GET, "/livez/".to_owned(), 404, "404 page not found".to_owned()),
        (Method::GET, "/version/x".to_owned(), 404, "the requested resource".to_owned()),
    ];
    for (method, path, code, said) in cases {
        refused(&house, method, &path, &[("content-type", JSON)], "{}", code, &said).await;
    }
    for over in ["-1", "-5", "9223372036854775807"] {
        let reply = timeout(AT_ONCE, house.get(&format!("{MAPS}?watch=1&timeoutSeconds={over}"))).await.unwrap();
        assert_eq!((reply.code, &*reply.body), (StatusCode::OK, b"".as_slice()), "{over}");
    }
    assert_eq!(house.ask(Method::POST, "/healthz", &[], "").await.body, "ok");
    assert_eq!(house.get("/index.html").await.body, house.get("/").await.body);
    // A PUT is told that its name is another before anybody looks for the object.
    let misnamed = house.put(&format!("{MAPS}/a"), &json!({"metadata": {"name": "b"}})).await;
    assert_eq!(misnamed.json()["message"], "the name of the object (b) does not match the name on the URL (a)");
    let lost = house.post("/api/v1/namespaces//configmaps", &json!({"metadata": {"name": "b"}})).await;
    assert_eq!(lost.json()["message"], "ConfigMap \"b\" is invalid: metadata.namespace: Required value");
}

/// A definition in `bad.example` whose objects have this schema.
fn definition(schema: &Value) -> Value {
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.bad.example"}, "spec": {
        "group": "bad.example", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [version],
    }})
}

#[tokio::test]
async fn hostile_definitions_are_refused_and_large_ones_are_not() {
    let house = House::new().await;
    let try_path = format!("{CRDS}?dryRun=All");
    let spec = |of: Value| json!({"type": "object", "properties": {"spec": of}});
    let pattern = |text: &str| spec(json!({"type": "string", "pattern": text}));
    let rule =
        |text: &str| spec(json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": text}]}));
    let mut deep = json!({"type": "string"});
    for _ in 0..50 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let ways = (0..20_000).map(|n| format!("abc{n}")).collect::<Vec<_>>().join("|");
    let nested_groups = format!("{}a{}", "(".repeat(900), ")".repeat(900));
    for fine in [
        pattern(&ways),
        pattern(&nested_groups),
        pattern(&"a".repeat(200_000)),
        pattern(r"[\p{L}\p{N}]{1,900}"),
        rule(r"self.a.matches('^[\\p{L}]{1,900}$')"),
        json!({"type": "object", "description": "x".repeat(3_000_000)}),
        deep,
    ] {
        let reply = timeout(AT_ONCE, house.post(&try_path, &definition(&fine))).await.unwrap();
        assert_eq!(reply.code, StatusCode::CREATED, "{}", String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]));
    }
    let schema_too_deep =
        format!("{}{{\"type\":\"string\"}}{}", "{\"type\":\"object\",\"properties\":{\"a\":".repeat(3000), "}}".repeat(3000));
    let deep_body = definition(&json!("@")).to_string().replace("\"@\"", &schema_too_deep);
    for (body, code, said) in [
        (definition(&pattern("(a{1,1000}){1,1000}")).to_string(), 422, "invalid repeat count: `{1,1000}`"),
        (definition(&pattern("(?=a)")).to_string(), 422, "invalid or unsupported Perl syntax"),
        (definition(&pattern(&format!("{}a{}", "(".repeat(2000), ")".repeat(2000)))).to_string(), 422, "expression nests too deeply"),
        (
            definition(&rule(&format!("{}1{} > 0", "(".repeat(1000), ")".repeat(1000)))).to_string(),
            422,
            "expression recursion limit exceeded",
        ),
        (definition(&rule("[1,2,3].all(a,[1,2,3].all(b,")).to_string(), 422, "Syntax error"),
        (definition(&rule("self.nope == 1")).to_string(), 422, "undefined field 'nope'"),
        (deep_body, 400, "exceeded max depth"),
        (definition(&json!({"type": "object", "description": "x".repeat(3_145_728)})).to_string(), 413, "limit is 3145728"),
    ] {
        refused(&house, Method::POST, &try_path, &[("content-type", JSON)], body, code, said).await;
    }
    assert_eq!(house.get(CRDS).await.ok()["items"], json!([]));
}

#[tokio::test]
async fn custom_resources_may_be_large_but_never_too_deep_to_be_read() {
    let house = House::new().await;
    house.post(CRDS, &definition(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))).await.ok();
    let things = "/apis/bad.example/v1/namespaces/default/things";
    let thing =
        |name: &str, spec: Value| json!({"apiVersion": "bad.example/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec});
    house.post(things, &thing("large", json!("x".repeat(1_500_000)))).await.ok();
    let larger = thing("larger", json!("x".repeat(3_200_000))).to_string();
    refused(&house, Method::POST, things, &[("content-type", JSON)], larger, 413, "Request entity too large").await;

    let level = |depth: usize| serde_json::from_str::<Value>(&nested(depth)).unwrap();
    let one = format!("{things}/deep");
    house.post(things, &thing("deep", level(90))).await.ok();
    let further = json!([{"op": "replace", "path": format!("/spec{}", "/a".repeat(90)), "value": level(90)}]);
    refused(&house, Method::PATCH, &one, &[("content-type", JSON_PATCH)], further.to_string(), 400, "nested deeper than 120 levels").await;
    house.patch(&one, MERGE, &json!({"metadata": {"labels": {"still": "here"}}})).await.ok();
    house.delete(&one).await.ok();
}

/// A server on a socket.
struct Listening {
    pki: Pki,
    port: u16,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Listening {
    async fn new() -> Self {
        let (house, pki) = (House::new().await, Pki::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, tls) = (CancellationToken::new(), pki.serving(house.server.authorities()));
        let token = stop.clone();
        let running = tokio::spawn(async move { house.server.run(listener, tls, token).await });
        Self { pki, port, stop, running }
    }

    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut config = (*self.pki.client_config(true)).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
    }

    /// Sends bytes and reads until the server closes the connection.
    async fn talk(&self, sent: &[u8]) -> String {
        let mut stream = self.connect(b"http/1.1").await;
        // A server that has heard enough closes while it is still spoken to.
        let _ = stream.write_all(sent).await;
        let mut heard = Vec::new();
        let read = timeout(AT_ONCE, stream.read_to_end(&mut heard)).await;
        assert!(read.is_ok(), "no end: {}", String::from_utf8_lossy(&heard));
        String::from_utf8_lossy(&heard).into_owned()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(AT_ONCE, self.running).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn malformed_http_is_refused_and_the_next_client_is_served() {
    let server = Listening::new().await;
    let post = |head: &str, body: &str| {
        format!("POST {MAPS}?dryRun=All HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {JSON}\r\n{head}\r\n{body}")
    };
    let get = |target: &str, head: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let lines = |n: usize| (0..n).map(|n| format!("h{n}: x\r\n")).collect::<String>();
    let upgrade =
        |rest: &str| format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n{rest}\r\n");
    let key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let cases = [
        (post("Content-Length: -1\r\n", ""), "400"),
        (post("Content-Length: 99999999999999999999\r\n", ""), "400"),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n", "{}"), "400"),
        (post("Content-Length: 3\r\n", "{\"a\":1}"), "400"),
        (post(chunked, "zz\r\n{}\r\n0\r\n\r\n"), "400"),
        (post(chunked, "ffffffffffffffffff\r\n{}"), "400"),
        (post(chunked, &format!("{}0\r\n\r\n", format!("10000\r\n{}\r\n", "x".repeat(65_536)).repeat(50))), "413"),
        (post(chunked, &format!("2\r\n{{}}\r\n0\r\n{}\r\n", lines(5000))), "400"),
        ("\x00\x01garbage\r\n\r\n".to_owned(), "400"),
        ("GET /version HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("GET /version HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), "400"),
        (get("/version", "Host: y\r\n"), "400"),
        (get("/api/v1/%zz", ""), "400"),
        ("CONNECT x:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(), "404"),
        (get("/version", &lines(300)), "200"),
        (get("/version", &lines(2000)), "431"),
        (get("/version", &format!("a: {}\r\n", "x".repeat(900_000))), "200"),
        (get("/version", &format!("a: {}\r\n", "x".repeat(1_200_000))), "431"),
        (get(&format!("{MAPS}?continue={}", "A".repeat(60_000)), ""), "400"),
        (get(&format!("/version?{}", "x".repeat(100_000)), ""), "414"),
        (get("/api/v1/namespaces", "Impersonate-User: \u{e9}\r\n"), "403"),
        (get("/api/v1/namespaces", "Impersonate-Uid: x\r\n"), "400"),
        (upgrade("Sec-WebSocket-Version: 13\r\n"), "400"),
        (upgrade(&format!("Sec-WebSocket-Version: 8\r\n{key}")), "400"),
        (upgrade("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"), "400"),
    ];
    for (sent, code) in cases {
        let heard = server.talk(sent.as_bytes()).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {code} ")), "{code} {:?}: {heard}", &sent[..sent.len().min(200)]);
    }
    let pipelined = get("/healthz", "").replace("Connection: close\r\n", "").repeat(50) + &get("/version", "");
    assert_eq!(server.talk(pipelined.as_bytes()).await.matches("HTTP/1.1 200 OK").count(), 51);
    server.end().await;
}

#[tokio::test]
async fn a_websocket_that_talks_nonsense_is_closed() {
    let server = Listening::new().await;
    let hello = format!(
        "GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    let unmasked = b"\x81\x05hello".to_vec();
    let endless = b"\x82\xff\x00\x00\x00\x10\x00\x00\x00\x00abcd".to_vec();
    for nonsense in [vec![0xff; 100], unmasked, endless] {
        let mut stream = server.connect(b"http/1.1").await;
        stream.write_all(hello.as_bytes()).await.unwrap();
        let mut heard = vec![0; 12];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, b"HTTP/1.1 101");
        stream.write_all(&nonsense).await.unwrap();
        let closed = timeout(AT_ONCE, stream.read_to_end(&mut heard)).await;
        assert!(closed.is_ok(), "{nonsense:?}");
    }
    server.end().await;
}

#[tokio::test]
async fn streams_that_are_reset_at_once_cost_no_answers() {
    let server = Listening::new().await;
    let ask = |path: &str| Request::get(format!("https://127.0.0.1{path}")).body(Empty::<Bytes>::new()).unwrap();
    for _ in 0..3 {
        let stream = TokioIo::new(server.connect(b"h2").await);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let talking = tokio::spawn(connection);
        for _ in 0..1000 {
            if sender.ready().await.is_err() {
                break;
            }
            // Begun and given up: the stream is reset.
            let begun = sender.send_request(ask("/api/v1/namespaces?watch=1"));
            let _ = timeout(Duration::ZERO, begun).await;
        }
        drop(sender);
        talking.abort();
    }
    let stream = TokioIo::new(server.connect(b"h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let talking = tokio::spawn(connection);
    let answer = timeout(AT_ONCE, sender.send_request(ask("/healthz"))).await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    let many = ask(&format!("{MAPS}?labelSelector={}", "a,".repeat(15_000)));
    assert_eq!(sender.send_request(many).await.unwrap().status(), StatusCode::BAD_REQUEST);
    talking.abort();
    server.end().await;
}
