//! Under the names `kube-apiserver` and `etcd` the binary is the pair that test environments start.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use tempfile::TempDir;

use crate::cluster::{self, PATIENCE, Running, free_port};

/// A folder of two links to the binary, as KUBEBUILDER_ASSETS names one.
fn assets() -> TempDir {
    let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
    for name in ["kube-apiserver", "etcd"] {
        symlink(env!("CARGO_BIN_EXE_coracle"), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("tokens"), "secret,admin,1,\"system:masters\"\n").unwrap();
    folder
}

fn says(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(folder.join(program)).args(arguments).output().unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// An etcd as started by a test environment, and its URL.
fn etcd(folder: &Path) -> (Running, String) {
    let url = format!("http://127.0.0.1:{}", free_port());
    let child = Command::new(folder.join("etcd"))
        .args([format!("--listen-client-urls={url}"), format!("--data-dir={}", folder.join("data").display())])
        .args(["--listen-peer-urls=http://127.0.0.1:0", "--unsafe-no-fsync=true"])
        .stderr(Stdio::null())
        .spawn();
    (Running(child.unwrap()), url)
}

/// A kube-apiserver with its own certificate directory and log, as started by a test environment; waits until anybody may see it healthy.
fn api_server(folder: &Path, name: &str, etcd: &str, more: &[&str]) -> (Running, u16) {
    let port = free_port();
    let certificates = folder.join(name);
    let log = File::create(folder.join(format!("{name}.log"))).unwrap();
    let child = Command::new(folder.join("kube-apiserver"))
        .args([
            "--allow-privileged=true",
            "--authorization-mode=RBAC",
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.0.0.0/24",
        ])
        .args([format!("--secure-port={port}"), format!("--cert-dir={}", certificates.display())])
        .arg(format!("--etcd-servers={etcd}"))
        .args(["--disable-admission-plugins=ServiceAccount"])
        .arg(format!("--token-auth-file={}", folder.join("tokens").display()))
        .args(more)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut running = Running(child);
    until("/healthz answers everybody", || {
        let log = || std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
        assert!(running.0.try_wait().unwrap().is_none(), "it ended: {}", log());
        kubectl(folder, name, port, None, &["get", "--raw=/healthz"]).is_ok_and(|said| said == "ok")
    });
    (running, port)
}

fn kubectl(folder: &Path, name: &str, port: u16, token: Option<&str>, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("kubectl");
    command.env("KUBECONFIG", folder.join("none")).stdin(Stdio::null());
    command.args([format!("--server=https://127.0.0.1:{port}"), format!("--cache-dir={}", folder.join("cache").display())]);
    command.arg(format!("--certificate-authority={}", folder.join(name).join("apiserver.crt").display()));
    // Without any credentials kubectl asks for some; basic ones are none to a Kubernetes server.
    command
        .args(token.map_or_else(|| vec!["--username=nobody".into(), "--password=none".into()], |token| vec![format!("--token={token}")]));
    command.args(arguments);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn their_flags_are_listed_and_others_refused_with_the_nearest() {
    let folder = assets();
    for (program, listed, absent) in
        [("kube-apiserver", "--secure-port ", "--insecure-port"), ("etcd", "--unsafe-no-fsync ", "--secure-port")]
    {
        let help = says(folder.path(), program, &["--help"]);
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success() && text.contains(listed) && !text.contains(absent), "{text}");
    }
    let refused = says(folder.path(), "kube-apiserver", &["--etcd-server=x"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("unknown flag: --etcd-server; did you mean --etcd-servers?"), "{said}");
    let version = says(folder.path(), "kube-apiserver", &["--version"]);
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("Kubernetes v1.37"));
}

#[test]
fn etcd_says_that_it_is_well_and_ends_when_told() {
    let folder = assets();
    let (mut etcd, url) = etcd(folder.path());
    let address = url.trim_start_matches("http://");
    let ask = |path: &str| -> Option<String> {
        let mut stream = TcpStream::connect(address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    until("/health answers", || {
        ask("/health").is_some_and(|said| said.starts_with("HTTP/1.1 200") && said.contains("\"health\":\"true\""))
    });
    assert!(ask("/v3/kv/range").unwrap().starts_with("HTTP/1.1 404"));
    assert!(etcd.stop());
}

#[test]
fn the_api_server_serves_warns_of_a_shared_etcd_and_ends_when_told() {
    let folder = assets();
    let path = folder.path();
    let (mut store, url) = etcd(path);
    let (mut first, port) =
        api_server(path, "first", &url, &["--goaway-chance=0.01", "--enable-logs-handler=true", "--tls-curve-preferences=29"]);
    let as_admin = |arguments: &[&str]| kubectl(path, "first", port, Some("secret"), arguments);
    assert_eq!(as_admin(&["create", "configmap", "a", "--from-literal=k=v"]).unwrap(), "configmap/a created\n");
    assert!(kubectl(path, "first", port, Some("wrong"), &["get", "--raw=/api/v1/configmaps"]).unwrap_err().contains("Unauthorized"));
    let anonymous = kubectl(path, "first", port, None, &["get", "--raw=/api/v1/configmaps"]);
    assert!(anonymous.unwrap_err().contains("forbidden"));
    let log = std::fs::read_to_string(path.join("first.log")).unwrap();
    assert!(log.contains("without effect in this kube-apiserver: --enable-logs-handler\n"), "{log}");

    let (mut second, second_port) = api_server(path, "second", &url, &[]);
    assert!(kubectl(path, "second", second_port, Some("secret"), &["get", "configmap", "a"]).unwrap_err().contains("NotFound"));
    let log = std::fs::read_to_string(path.join("second.log")).unwrap();
    assert!(log.contains("another kube-apiserver names it, too"), "{log}");
    assert!(first.stop() && second.stop() && store.stop(), "SIGTERM is a good end");
}

#[test]
fn controllers_and_nodes_run_beside_the_api_when_asked_for() {
    let folder = assets();
    let path = folder.path();
    let (_server, port) =
        api_server(path, "with", "memory", &["--controllers=*", "--hollow-nodes=1", "--enable-admission-plugins=NodeRestriction"]);
    let as_admin = |arguments: &[&str]| kubectl(path, "with", port, Some("secret"), arguments);
    as_admin(&["create", "namespace", "shop"]).unwrap();
    as_admin(&["-n", "shop", "create", "deployment", "web", "--image=registry.example/web:1"]).unwrap();
    as_admin(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=60s"]).unwrap();
    as_admin(&["delete", "namespace", "shop", "--timeout=60s"]).unwrap();
    assert!(as_admin(&["get", "namespace", "shop"]).unwrap_err().contains("NotFound"));
}

#[test]
fn before_a_real_etcd_the_api_server_keeps_its_objects_there_as_upstream_does() {
    let folder = assets();
    let path = folder.path();
    let (_etcd, url) = cluster::etcd(path);
    let value = |key: &str| {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args([format!("--endpoints={url}").as_str(), "get", "--print-value-only", key])
            .output()
            .expect("etcdctl is needed: the Debian package etcd-client");
        output.stdout
    };
    let (mut first, port) = api_server(path, "first", &url, &["--etcd-prefix=/other"]);
    let as_admin = |name: &str, port: u16, arguments: &[&str]| kubectl(path, name, port, Some("secret"), arguments).unwrap();
    as_admin("first", port, &["create", "configmap", "a", "--from-literal=k=v"]);
    let kept = value("/other/configmaps/default/a");
    assert!(kept.starts_with(b"k8s\0\n\x0f\n\x02v1\x12\x09ConfigMap"), "{}", kept.escape_ascii());
    assert!(value("/other/apiregistration.k8s.io/apiservices/v1.apps").starts_with(b"{"), "this group is JSON upstream, too");
    let before = as_admin("first", port, &["get", "configmap,namespace,ipaddress", "-A", "-o", "json"]);
    assert!(first.stop());

    let (mut second, port) = api_server(path, "second", &url, &["--etcd-prefix=/other", "--storage-media-type=application/json"]);
    let after = as_admin("second", port, &["get", "configmap,namespace,ipaddress", "-A", "-o", "json"]);
    assert_eq!(after, before, "another server on the same etcd");
    as_admin("second", port, &["create", "configmap", "b", "--from-literal=k=v"]);
    assert!(value("/other/configmaps/default/b").starts_with(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"#));
    as_admin("second", port, &["annotate", "configmap", "a", "by=second"]);
    as_admin("second", port, &["delete", "configmap", "b"]);
    assert!(second.stop());
}
