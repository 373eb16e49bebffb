//! Real containers on this machine, as root; skipped aloud where the machine does not let it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use crate::cluster::{Cluster, PATIENCE, repository};

/// Whether containers can run here; says why not.
fn possible() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" {
        println!("skipped: containers need root");
        return false;
    }
    if !Command::new("busybox").arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: no busybox to make an image of");
        return false;
    }
    true
}

/// A cluster with the agent and the example's image imported.
fn start() -> Cluster {
    let mut cluster = Cluster::start(&["--agent=on", "--agent-port=0", "--node-name=here"]);
    let archive = cluster.data_dir().join("busybox.tar");
    let made = Command::new(repository("examples/busybox-image.sh"))
        .arg(&archive)
        .args(["docker.io/library/busybox:1.36", "docker.io/library/busybox:1.37"])
        .status();
    assert!(made.unwrap().success());
    let imported = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["image", "import"])
        .arg(&archive)
        .arg("--data-dir")
        .arg(cluster.data_dir())
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    cluster.until("the node is ready", |cluster| cluster.kubectl(&["wait", "--for=condition=Ready", "node/here", "--timeout=5s"]).is_ok());
    cluster
}

/// A page by HTTP, as this machine sees it.
fn get(host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect((host, 80)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn the_example_runs_serves_updates_and_goes() {
    if !possible() {
        return;
    }
    let mut cluster = start();
    let example = repository("examples/hello.yaml");
    cluster.ok(&["apply", "-f", example.to_str().unwrap()]);
    let status = ["-n", "hello", "rollout", "status", "deployment/web", "--timeout=90s"];
    cluster.ok(&status);
    let pods = cluster.ok(&["-n", "hello", "get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]);
    let pods: Vec<&str> = pods.split_whitespace().collect();
    assert_eq!(pods.len(), 3);

    // Its words, its name, its neighbours and its service.
    let log = cluster.ok(&["-n", "hello", "logs", pods[0]]);
    assert!(log.contains(&format!("Hello from Coracle, I am {} on here", pods[0])), "{log}");
    assert_eq!(cluster.ok(&["-n", "hello", "exec", pods[0], "--", "hostname"]).trim(), pods[0]);
    let failed = cluster.kubectl(&["-n", "hello", "exec", pods[0], "--", "sh", "-c", "exit 3"]).unwrap_err();
    assert!(failed.contains("exit code 3"), "{failed}");
    let piped =
        cluster.kubectl_command(&["-n", "hello", "exec", "-i", pods[0], "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut piped = piped.unwrap();
    piped.stdin.take().unwrap().write_all(b"through the pipe").unwrap();
    assert_eq!(piped.wait_with_output().unwrap().stdout, b"through the pipe");
    let service = cluster.ok(&["-n", "hello", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let from_pod = cluster.ok(&["-n", "hello", "exec", pods[1], "--", "wget", "-q", "-O", "-", &format!("http://{service}/name")]);
    assert!(pods.contains(&from_pod.trim()), "{from_pod}");
    assert!(get(&service, "/index.html").contains("Hello from Coracle"), "the service answers the host");

    // A rolling update and back.
    cluster.ok(&["-n", "hello", "set", "image", "deployment/web", "web=docker.io/library/busybox:1.37"]);
    cluster.ok(&status);
    cluster.ok(&["-n", "hello", "rollout", "undo", "deployment/web"]);
    cluster.ok(&status);

    cluster.ok(&["delete", "namespace", "hello", "--timeout=60s"]);
    cluster.until("nothing is left", |cluster| cluster.ok(&["get", "pods", "-A", "-o", "name"]).is_empty());
}

#[test]
fn containers_outlive_the_server() {
    if !possible() {
        return;
    }
    let mut cluster = start();
    cluster.ok(&["run", "keeper", "--image=docker.io/library/busybox:1.36", "--command", "--", "sleep", "3600"]);
    cluster.ok(&["wait", "--for=condition=Ready", "pod/keeper", "--timeout=60s"]);
    let started =
        ["get", "pod", "keeper", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}"];
    let before = cluster.ok(&started);
    cluster.kill();
    cluster.run();
    cluster.ok(&["wait", "--for=condition=Ready", "node/here", "--timeout=60s"]);
    cluster.ok(&["exec", "keeper", "--", "true"]);
    assert_eq!(cluster.ok(&started), before);
    assert!(cluster.stop().success());
    cluster.run();
    cluster.ok(&["exec", "keeper", "--", "true"]);
    assert_eq!(cluster.ok(&started), before);
    cluster.ok(&["delete", "pod", "keeper", "--grace-period=1"]);
}

#[test]
fn a_pod_that_cannot_run_says_why() {
    if !possible() {
        return;
    }
    let mut cluster = start();
    let image = "--image=docker.io/library/busybox:1.36";
    cluster.ok(&["run", "no-image", "--image=127.0.0.1:1/none:1"]);
    cluster.ok(&["run", "no-command", image, "--command", "--", "/does/not/exist"]);
    cluster.ok(&["run", "fails", image, "--command", "--", "false"]);
    cluster.ok(&["run", "done", image, "--restart=Never", "--command", "--", "true"]);
    let mount = r#"{"spec":{"containers":[{"name":"c","image":"docker.io/library/busybox:1.36","volumeMounts":[{"name":"v","mountPath":"/v"}]}],
        "volumes":[{"name":"v","configMap":{"name":"absent"}}]}}"#;
    cluster.ok(&["run", "no-mount", image, &format!("--overrides={mount}")]);
    let hungry = r#"{"spec":{"containers":[{"name":"c","image":"docker.io/library/busybox:1.36","command":["sh","-c","a=x; while true; do a=$a$a; done"],
        "resources":{"limits":{"memory":"16Mi"}}}],"restartPolicy":"Never"}}"#;
    cluster.ok(&["run", "hungry", image, &format!("--overrides={hungry}")]);
    for (pod, reasons) in [
        ("no-image", &["ErrImagePull", "ImagePullBackOff"][..]),
        ("no-command", &["RunContainerError", "CrashLoopBackOff", "StartError"]),
        ("fails", &["CrashLoopBackOff", "Error"]),
        ("done", &["Completed"]),
        ("hungry", &["OOMKilled"]),
    ] {
        cluster.until(pod, |cluster| {
            let line = cluster.ok(&["get", "pod", pod, "--no-headers"]);
            reasons.iter().any(|reason| line.contains(reason))
        });
    }
    cluster.until("the missing ConfigMap is named", |cluster| cluster.ok(&["get", "events"]).contains("configmap \"absent\" not found"));
}
