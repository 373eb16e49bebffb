//! What an operator does beside the server: snapshots, forks, history, checks.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::cluster::{Cluster, Running, etcd};

/// Runs `coracle` with these arguments.
fn coracle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coracle")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What it says when it must do as told.
fn done(arguments: &[&str]) -> String {
    let output = coracle(arguments);
    assert!(output.status.success(), "coracle {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it says when it must not.
fn refused(arguments: &[&str]) -> String {
    let output = coracle(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !said.contains("panicked"), "coracle {}: {said}", arguments.join(" "));
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_snapshot_of_a_running_cluster_becomes_the_same_cluster_elsewhere() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=0"]);
    cluster.ok(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let token = cluster.ok(&["create", "token", "default"]);
    let (data, folder) = (cluster.data_dir(), cluster.folder().to_owned());
    let file = folder.join("a.snapshot");
    let said = done(&["snapshot", "save", text(&file), "--data-dir", text(&data)]);
    assert!(said.contains("objects at revision"), "{said}");
    assert!(refused(&["snapshot", "save", text(&file), "--data-dir", text(&data)]).contains("never overwritten"));
    cluster.ok(&["create", "configmap", "later", "--from-literal=a=b"]);
    let version: u64 = cluster.ok(&["get", "configmap", "later", "-o", "jsonpath={.metadata.resourceVersion}"]).parse().unwrap();

    let said = done(&["snapshot", "inspect", text(&file), "--keys"]);
    assert!(said.contains("/registry/configmaps/default/kept\t") && said.contains("pki/ca.key"), "{said}");
    assert!(refused(&["snapshot", "restore", text(&file), "--data-dir", text(&data)]).contains("in use by the server"));
    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    cluster.kill();
    assert!(refused(&["snapshot", "restore", text(&file), "--data-dir", text(&data)]).contains("--replace"));

    // In an empty directory, then served from there: the same to whoever has a kubeconfig or a token.
    std::fs::rename(&data, folder.join("old")).unwrap();
    let said = done(&["snapshot", "restore", text(&file), "--data-dir", text(&data)]);
    assert!(said.contains("kubeconfigs and tokens of then are valid"), "{said}");
    cluster.run();
    assert_eq!(cluster.ok(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]), "b");
    assert!(cluster.kubectl(&["get", "configmap", "later"]).unwrap_err().contains("NotFound"));
    let own = folder.join("own.kubeconfig");
    std::fs::write(&own, kubeconfig).unwrap();
    cluster.ok(&["--kubeconfig", text(&own), "get", "namespaces"]);
    cluster.ok(&["--token", &token, "get", "--raw=/version"]);
    cluster.ok(&["create", "configmap", "new", "--from-literal=a=b"]);
    let new: u64 = cluster.ok(&["get", "configmap", "new", "-o", "jsonpath={.metadata.resourceVersion}"]).parse().unwrap();
    assert!(new > version + 1_000_000, "{new} after {version}");
    // Whoever goes on from what was seen before is told to list again.
    let watched = cluster.kubectl(&["get", "--raw", &format!("/api/v1/configmaps?watch=1&resourceVersion={version}&timeoutSeconds=5")]);
    assert!(format!("{watched:?}").contains("410") || format!("{watched:?}").contains("Expired"), "{watched:?}");

    // A fork shows whether a snapshot is good.
    let (running, kubeconfig, _) = fork(&data, &["--snapshot", text(&file)]);
    assert_eq!(cluster.ok(&["--kubeconfig", text(&kubeconfig), "get", "configmap", "kept", "-o", "jsonpath={.data.a}"]), "b");
    assert!(cluster.kubectl(&["--kubeconfig", text(&kubeconfig), "get", "configmap", "new"]).unwrap_err().contains("NotFound"));
    drop(running);

    // In place of what is there, which is kept.
    cluster.kill();
    let said = done(&["snapshot", "restore", text(&file), "--replace", "--data-dir", text(&data)]);
    assert!(said.contains("store.before-"), "{said}");
    cluster.run();
    assert!(cluster.kubectl(&["get", "configmap", "new"]).unwrap_err().contains("NotFound"));
}

/// A snapshot of the store's test data, unpacked.
fn unpacked(name: &str, folder: &Path) -> PathBuf {
    let file = folder.join(name);
    let packed = crate::cluster::repository(&format!("store/testdata/{name}.gz"));
    let gzip = Command::new("gzip").arg("-dc").arg(packed).stdout(std::fs::File::create(&file).unwrap()).status();
    assert!(gzip.unwrap().success());
    file
}

#[test]
fn a_snapshot_of_a_real_cluster_in_etcd_is_inspected_and_served() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=0", "--without=scheduler,controllers"]);
    let (data, folder) = (cluster.data_dir(), cluster.folder().to_owned());
    cluster.kill();
    // kube-apiserver 1.37 and etcd 3.7 wrote it.
    let file = unpacked("kube-apiserver.snapshot", &folder);
    let said = done(&["snapshot", "inspect", text(&file)]);
    assert!(said.contains("written by: etcd") && said.contains("revision:   224") && said.contains(", matches"), "{said}");
    assert!(said.contains("widgets.example.com"), "{said}");
    let said = done(&["snapshot", "restore", text(&file), "--replace", "--data-dir", text(&data)]);
    assert!(said.contains("208 objects of revision 224, begins at revision 1000000224") && !said.contains("cannot be read"), "{said}");
    cluster.run();
    let read = |arguments: &[&str]| cluster.ok(&[&["get", "-o"], arguments].concat());
    assert_eq!(read(&["jsonpath={.spec.replicas}", "deployment", "web"]), "3");
    assert_eq!(read(&["jsonpath={.data.a}", "configmap", "c1"]), "b");
    assert_eq!(read(&["jsonpath={.data.x}", "widgets", "w"]), "1");
    cluster.ok(&["scale", "deployment/web", "--replicas=5"]);
}

#[test]
fn what_is_no_cluster_and_no_snapshot_is_told_apart() {
    let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
    // Keys of a cluster, values of none.
    let file = unpacked("etcd.snapshot", folder.path());
    let data = folder.path().join("data");
    let said = done(&["snapshot", "restore", text(&file), "--data-dir", text(&data)]);
    assert!(said.contains("values cannot be read by this version and stay as they are:\n  /registry/"), "{said}");
    assert!(refused(&["snapshot", "restore", text(&file), "--data-dir", text(&data)]).contains("--replace"));
    let said = refused(&["snapshot", "restore", text(&file), "--replace", "--etcd-prefix=/other", "--data-dir", text(&data)]);
    assert!(said.contains("holds nothing under /other/; --etcd-prefix says"), "{said}");
    let said = refused(&["fork", "--snapshot", text(&file), "--etcd-prefix=/other", "--data-dir", text(&data)]);
    assert!(said.contains("holds nothing under /other/"), "{said}");
    std::fs::write(&file, b"no snapshot at all").unwrap();
    let said = refused(&["snapshot", "restore", text(&file), "--replace", "--data-dir", text(&data)]);
    assert!(said.contains("is no snapshot"), "{said}");
    assert!(done(&["db", "export", "--data-dir", text(&data)]).lines().count() > 100, "what was there is untouched");
}

/// Starts a fork; its kubeconfig, and what it said until it was ready.
fn fork(data: &Path, more: &[&str]) -> (Running, PathBuf, String) {
    let started = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["fork", "--data-dir", text(data)])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut running = Running(started.unwrap());
    let mut said = String::new();
    for line in BufReader::new(running.0.stdout.take().unwrap()).lines().map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if let Some(path) = line.strip_prefix("export KUBECONFIG=") {
            return (running, path.into(), said);
        }
    }
    let mut why = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut why).unwrap();
    panic!("the fork ended: {said}{why}");
}

#[test]
fn a_fork_has_what_the_cluster_has_and_neither_sees_the_other() {
    let cluster = Cluster::start(&["--agent=off", "--hollow-nodes=0"]);
    cluster.ok(&["create", "configmap", "both", "--from-literal=a=b"]);
    let (running, kubeconfig, said) = fork(&cluster.data_dir(), &[]);
    assert!(said.contains("copied in") && said.contains("ready after"), "{said}");
    let own = ["--kubeconfig", text(&kubeconfig)];
    let ok = |arguments: &[&str]| cluster.ok(&[&own[..], arguments].concat());
    assert_eq!(ok(&["get", "configmap", "both", "-o", "jsonpath={.data.a}"]), "b");
    ok(&["delete", "configmap", "both"]);
    ok(&["create", "configmap", "theirs", "--from-literal=a=b"]);
    cluster.ok(&["create", "configmap", "ours", "--from-literal=a=b"]);
    cluster.ok(&["get", "configmap", "both"]);
    assert!(cluster.kubectl(&["get", "configmap", "theirs"]).unwrap_err().contains("NotFound"));
    assert!(cluster.kubectl(&[&own[..], &["get", "configmap", "ours"]].concat()).unwrap_err().contains("NotFound"));
    drop(running);
    assert!(!kubeconfig.exists() && !cluster.data_dir().join("forks").exists(), "a fork leaves nothing behind");
    assert!(refused(&["fork", "--data-dir", text(&cluster.folder().join("none"))]).contains("holds no objects"));
}

#[test]
fn history_tells_what_was_changed_by_whom_to_those_who_may_read_it() {
    let cluster = Cluster::start(&["--agent=off", "--hollow-nodes=0"]);
    cluster.ok(&["create", "configmap", "a", "--from-literal=color=red"]);
    cluster.ok(&["patch", "configmap", "a", "--field-manager=painter", "-p", r#"{"data":{"color":"blue"}}"#]);
    cluster.ok(&["delete", "configmap", "a"]);
    cluster.ok(&["create", "secret", "generic", "s", "--from-literal=word=swordfish"]);
    let data = cluster.data_dir();
    fn history<'a>(data: &'a Path, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["history", "--data-dir", text(data)], arguments].concat()
    }
    let said = done(&history(&data, &["cm/a"]));
    assert!(said.contains("  update  by painter\n  - .data.color: \"red\"\n  + .data.color: \"blue\"\n"), "{said}");
    assert!(said.contains("  delete\n") && said.contains("  create  by kubectl-create\n"), "{said}");
    assert!(said.starts_with("20"), "the time comes first: {said}");
    let said = done(&history(&data, &["secret/s"]));
    assert!(said.contains("hidden value 1") && !said.contains("c3dvcmRmaXNo"), "{said}");
    assert!(done(&history(&data, &["secret/s", "--show"])).contains("c3dvcmRmaXNo"));

    let forbidden = refused(&history(&data, &["secret/s", "--as", "jane"]));
    assert!(forbidden.contains("secrets \"s\" is forbidden: User \"jane\" cannot get resource \"secrets\""), "{forbidden}");
    cluster.ok(&["create", "role", "reader", "--verb=get", "--resource=secrets"]);
    cluster.ok(&["create", "rolebinding", "jane", "--role=reader", "--user=jane"]);
    done(&history(&data, &["secret/s", "--as", "jane"]));
    assert!(refused(&history(&data, &["cm/never"])).contains("nothing is kept of cm/never"));
    assert!(refused(&history(&data, &["gadget/x"])).contains("no resource \"gadget\""));
    assert!(refused(&history(&data, &["pods"])).contains("KIND/NAME"));
}

#[test]
fn the_database_is_checked_exported_and_compacted_and_snapshots_are_written_by_themselves() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=0", "--snapshot-interval=1s", "--snapshot-retention=2"]);
    cluster.ok(&["create", "configmap", "a", "--from-literal=color=red"]);
    let data = cluster.data_dir();
    let (folder, last) = (data.join("snapshots"), std::cell::Cell::new(0));
    cluster.until("three snapshots were written, and two are kept", |cluster| {
        cluster.ok(&["create", "configmap", &format!("more-{}", last.replace(last.get() + 1)), "--from-literal=a=b"]);
        let names: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let whole = names.iter().filter(|name| name.extension().is_some_and(|end| end == "snapshot")).count();
        assert!(whole <= 3, "{names:?}");
        last.get() > 3 && whole == 2
    });
    let said = done(&["db", "check", "--data-dir", text(&data)]);
    assert!(said.contains(": sound\nformat 2, revision "), "{said}");
    let said = done(&["db", "export", "--data-dir", text(&data), "--prefix", "/registry/configmaps/default/a"]);
    assert!(said.contains("\"color\":\"red\"") && said.contains("\"resourceVersion\":\""), "{said}");
    let said = done(&["db", "export", "--data-dir", text(&data), "--prefix", "/registry/configmaps/default/a", "-o", "yaml"]);
    assert!(said.starts_with("---\n") && said.contains("color: red"), "{said}");
    assert!(refused(&["db", "compact", "--data-dir", text(&data)]).contains("in use by the server"));
    let metrics = cluster.ok(&["get", "--raw=/metrics"]);
    for name in [
        "apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"} ",
        "etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"configmaps\"} ",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} ",
        "apiserver_watch_cache_events_received_total{group=\"\",resource=\"configmaps\"} ",
        "coracle_store_disk_full 0",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    assert!(cluster.stop().success());
    let said = done(&["db", "compact", "--data-dir", text(&data)]);
    assert!(said.contains("bytes before"), "{said}");
    let said = done(&["db", "check", "--data-dir", text(&data)]);
    assert!(said.contains("sound"), "{said}");
    assert!(refused(&["db", "check", "--data-dir", text(&data.join("none"))]).contains("is not there"));

    // One byte that differs is found, and by its key.
    let file = data.join("store/state.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(b"\"color\":\"red\"".len()).position(|w| w == b"\"color\":\"red\"").unwrap();
    bytes[at + 9] = b'R';
    std::fs::write(&file, bytes).unwrap();
    let said = refused(&["db", "check", "--data-dir", text(&data)]);
    assert!(
        said.contains("of /registry/configmaps/default/a does not match its checksum") && said.contains("coracle snapshot restore"),
        "{said}"
    );
    assert!(
        refused(&["snapshot", "save", text(&cluster.folder().join("x")), "--data-dir", text(&data)])
            .contains("does not match its checksum")
    );
}

#[test]
fn a_cluster_moves_to_etcd_and_back_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&["--agent=off", "--hollow-nodes=0", "--without=scheduler,controllers"]);
    let (data, folder) = (cluster.data_dir(), cluster.folder().to_owned());
    let (_etcd, url) = etcd(&folder);
    let servers = format!("--etcd-servers={url}");
    let to = |target: &'static str| ["migrate", "--to", target, &servers, "--data-dir", text(&data)].map(str::to_owned);
    let migrate = |target| done(&to(target).each_ref().map(String::as_str));
    cluster.ok(&["create", "configmap", "before", "--from-literal=a=b"]);
    cluster.ok(&["create", "configmap", "goes", "--from-literal=a=b"]);
    let said = migrate("etcd");
    assert!(said.contains("the server still runs"), "{said}");
    // What changes between the steps is in the second.
    cluster.ok(&["create", "configmap", "between", "--from-literal=a=b"]);
    cluster.ok(&["patch", "configmap", "before", "-p", r#"{"data":{"a":"c"}}"#]);
    cluster.ok(&["delete", "configmap", "goes"]);
    let version = |cluster: &Cluster| -> u64 {
        cluster
            .ok(&["get", "--raw", "/api/v1/configmaps?limit=1"])
            .split("\"resourceVersion\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let all = |cluster: &Cluster| {
        cluster.ok(&[
            "get",
            "configmaps,roles,namespaces,priorityclasses",
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.kind}/{.metadata.name}/{.metadata.uid} {.data.a}{'\\n'}{end}",
        ])
    };
    let (before, seen) = (all(&cluster), version(&cluster));
    assert!(cluster.stop().success());
    let said = migrate("etcd");
    assert!(said.contains("done; the embedded store is kept in"), "{said}");
    assert!(refused(&to("etcd").each_ref().map(String::as_str)).contains("is not there"));

    cluster.run_with(&["--store=etcd", &servers]);
    assert_eq!(all(&cluster), before);
    assert!(before.contains("ConfigMap/before/") && !before.contains("/goes/"), "{before}");
    assert!(version(&cluster) > seen, "{} after {seen}", version(&cluster));
    cluster.ok(&["create", "configmap", "in-etcd", "--from-literal=a=b"]);
    // The history of an object is told by etcd, too, as far as that has it.
    let said = done(&["history", "cm/in-etcd", "--data-dir", text(&data)]);
    assert!(said.contains("create  by kubectl-create"), "{said}");
    let (before, seen) = (all(&cluster), version(&cluster));
    assert!(cluster.stop().success());
    let said = migrate("embedded");
    assert!(said.contains("objects of revision"), "{said}");
    cluster.run_with(&[]);
    assert_eq!(all(&cluster), before);
    let now = version(&cluster);
    assert!(now >= seen, "{now} after {seen}; {said}");
    assert!(done(&["db", "check", "--data-dir", text(&data)]).contains("sound"));
}
