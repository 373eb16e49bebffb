//! The runtime with real containers: as root, with the machine's busybox. Each test has a network namespace of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::images::{ImageConfig, Registries};
use crate::runtime::{
    ContainerConfig, ContainerState, ExecRequest, NamespaceMode, Resources, Runtime, Sandbox, SandboxConfig, SandboxState, Seccomp,
    SecurityContext, TerminalSize,
};

const BUSYBOX: &str = "/bin/busybox";

struct World {
    dir: tempfile::TempDir,
    options: Options,
    image: String,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(e) = teardown(&self.options) {
            eprintln!("teardown: {e}");
        }
    }
}

/// Runs a test with a runtime of its own, or says why not.
fn with_world(test: impl AsyncFnOnce(&World, Embedded) + Send) {
    let shim = shim();
    let reason = if !rustix::process::geteuid().is_root() {
        "containers need root"
    } else if !Path::new(BUSYBOX).exists() {
        "busybox-static is not installed"
    } else if !shim.exists() {
        "the example `pod` is not built: cargo build -p coracle-agent --example pod"
    } else {
        ""
    };
    if !reason.is_empty() {
        return eprintln!("skipped: {reason}");
    }
    crate::network::in_a_network_of_its_own(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options { dir: dir.path().join("sandboxes"), shim: Some(shim), network: network::Options::default() };
        let store = Store::open(&dir.path().join("images"), Registries::default()).unwrap();
        let image = import_busybox(&store, dir.path());
        let world = World { dir, options, image };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let embedded = Embedded::open(world.options.clone(), store).await.unwrap();
            embedded.set_pod_cidrs(&["10.42.0.0/24".to_owned()]).await.unwrap();
            test(&world, embedded).await;
        });
        drop(world);
    });
}

/// The program that the runtime executes as shim: the example, built now when cargo runs the tests.
fn shim() -> PathBuf {
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        if let Some(cargo) = std::env::var_os("CARGO") {
            let build = ["build", "--quiet", "--package", "coracle-agent", "--example", "pod"];
            let _ = std::process::Command::new(cargo).args(build).status();
        }
    });
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/pod")
}

/// An image of busybox with an account, made as `docker save` makes it.
fn import_busybox(store: &Store, dir: &Path) -> String {
    let busybox = std::fs::read(BUSYBOX).unwrap();
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n";
    let layer = crate::images::tests::tar_of(&[
        ("bin/busybox", &busybox),
        ("etc/passwd", passwd),
        ("etc/group", b"root:x:0:\nweb:x:1000:\nextra:x:7:web\n"),
        ("tmp/.keep", b""),
    ]);
    let archive = crate::images::tests::docker_archive(dir, "busybox:test", &layer);
    store.import(&archive).unwrap();
    store.find("busybox:test").unwrap().unwrap().id
}

async fn sandbox(embedded: &Embedded, name: &str) -> Sandbox {
    let config = SandboxConfig { name: name.to_owned(), uid: format!("uid-{name}"), hostname: name.to_owned(), ..SandboxConfig::default() };
    embedded.run_sandbox(config).await.unwrap()
}

impl World {
    fn container(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            name: name.to_owned(),
            image_id: self.image.clone(),
            command: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: self.dir.path().join("logs").join(format!("{name}.log")),
            security: SecurityContext { uid: Some(0), ..SecurityContext::default() },
            ..ContainerConfig::default()
        }
    }

    /// The log without times.
    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("logs").join(format!("{name}.log"))).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }
}

async fn start(embedded: &Embedded, sandbox: &Sandbox, config: ContainerConfig) -> String {
    let id = embedded.create_container(&sandbox.id, config).await.unwrap();
    embedded.start_container(&id).await.unwrap();
    id
}

/// Waits for the end and answers exit code and reason.
async fn end(embedded: &Embedded, id: &str) -> (i32, String) {
    for _ in 0..600 {
        let status = embedded.container_status(id).await.unwrap();
        if status.state == ContainerState::Exited {
            return (status.exit_code, status.reason);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} did not end: {:?}", embedded.container_status(id).await);
}

async fn run(world: &World, embedded: &Embedded, sandbox: &Sandbox, config: ContainerConfig) -> (i32, String, String) {
    let name = config.name.clone();
    let id = start(embedded, sandbox, config).await;
    let (code, reason) = end(embedded, &id).await;
    embedded.remove_container(&id).await.unwrap();
    (code, reason, world.log(&name))
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec()
}

#[test]
fn a_pod_runs_containers_with_logs_exit_codes_and_a_shared_network() {
    with_world(async |world, embedded| {
        let pod = sandbox(&embedded, "pod").await;
        assert_eq!(pod.state, SandboxState::Ready);
        let serve = "echo hello; echo oops >&2; B=/bin/busybox; $B hostname; $B mkdir /www; echo served > /www/index.html; exec $B httpd -f -p 8080 -h /www";
        let web = start(&embedded, &pod, world.container("web", serve)).await;
        let ask = "for i in 1 2 3 4 5 6 7 8 9; do /bin/busybox wget -q -O - http://127.0.0.1:8080/ && exit 7; /bin/busybox sleep 0.2; done";
        let (code, _, log) = run(world, &embedded, &pod, world.container("ask", ask)).await;
        assert_eq!((code, log.lines().last()), (7, Some("stdout F served")), "{log}");
        let log = world.log("web");
        for line in ["stdout F hello\n", "stderr F oops\n", "stdout F pod\n"] {
            assert!(log.contains(line), "{log}");
        }
        // Another pod reaches it by its address.
        let other = sandbox(&embedded, "other").await;
        let script = format!("/bin/busybox wget -q -O - http://{}:8080/", pod.addresses[0]);
        let (code, _, log) = run(world, &embedded, &other, world.container("far", &script)).await;
        assert_eq!((code, log.as_str()), (0, "stdout F served\n"));

        let mut events = embedded.events();
        embedded.stop_container(&web, Duration::from_secs(1)).await.unwrap();
        embedded.stop_container(&web, Duration::from_secs(1)).await.unwrap();
        assert_eq!(end(&embedded, &web).await.0, 137, "as pid 1 it has no handler for SIGTERM");
        let RuntimeEvent::ContainerExited { pod_uid, container } = events.recv().await.unwrap() else { panic!() };
        assert_eq!((pod_uid.as_str(), container.id.as_str()), ("uid-pod", web.as_str()));
        for id in [&pod.id, &other.id] {
            embedded.stop_sandbox(id).await.unwrap();
            embedded.remove_sandbox(id).await.unwrap();
            embedded.remove_sandbox(id).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(&world.options.dir).unwrap().count(), 0);
    });
}

#[test]
fn processes_run_in_containers_with_pipes_and_with_a_terminal() {
    with_world(async |world, embedded| {
        let pod = sandbox(&embedded, "pod").await;
        let id = start(&embedded, &pod, world.container("main", "echo up; exec /bin/busybox sleep 1000")).await;
        let out = embedded.exec_sync(&id, &sh("echo out; echo err >&2; exit 3"), Duration::from_secs(20)).await.unwrap();
        assert_eq!((out.exit_code, &out.stdout[..], &out.stderr[..]), (3, &b"out\n"[..], &b"err\n"[..]));
        let slow = embedded.exec_sync(&id, &sh("/bin/busybox sleep 100"), Duration::from_secs(2)).await;
        assert!(matches!(slow, Err(RuntimeError::Timeout(_))), "{slow:?}");
        let missing = embedded.exec_sync(&id, &["nope".to_owned()], Duration::from_secs(20)).await.unwrap_err().to_string();
        assert!(missing.contains(r#"exec: "nope": executable file not found in $PATH"#), "{missing}");

        let request = ExecRequest { command: sh("read line; echo got $line"), stdin: true, stdout: true, ..ExecRequest::default() };
        let mut session = embedded.exec(&id, request).await.unwrap();
        session.stdin.take().unwrap().write_all(b"word\n").await.unwrap();
        let mut text = String::new();
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), session.exit.await.unwrap()), ("got word\n", 0));

        let request = ExecRequest {
            command: sh("/bin/busybox stty size; read x; /bin/busybox stty size; /bin/busybox tty"),
            tty: true,
            size: Some(TerminalSize { width: 90, height: 30 }),
            stdin: true,
            stdout: true,
            stderr: false,
        };
        let mut session = embedded.exec(&id, request).await.unwrap();
        let mut first = [0; 7];
        session.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"30 90\r\n");
        session.resize.as_ref().unwrap().send(TerminalSize { width: 101, height: 33 }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
        let mut text = String::new();
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(session.exit.await.unwrap(), 0);
        assert!(text.contains("33 101") && text.contains("/dev/pts/"), "{text:?}");

        // Letting go of a session ends its process.
        let request = ExecRequest { command: sh("exec /bin/busybox sleep 777"), stdout: true, ..ExecRequest::default() };
        drop(embedded.exec(&id, request).await.unwrap());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let out = embedded.exec_sync(&id, &sh("/bin/busybox ps"), Duration::from_secs(20)).await.unwrap();
        assert!(!String::from_utf8_lossy(&out.stdout).contains("777"));
        assert_eq!(embedded.stats().await.unwrap().len(), 1);
        embedded.remove_sandbox(&pod.id).await.unwrap();
    });
}

#[test]
fn containers_outlive_the_agent_and_are_found_again() {
    with_world(async |world, embedded| {
        let pod = sandbox(&embedded, "pod").await;
        let long = start(&embedded, &pod, world.container("long", "exec /bin/busybox sleep 1000")).await;
        let soon = start(&embedded, &pod, world.container("soon", "/bin/busybox sleep 1; exit 5")).await;
        let pid = pod_pid(&embedded, &long);
        let store = embedded.image_store().clone();
        drop(embedded);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let again = Embedded::open(world.options.clone(), store).await.unwrap();
        again.set_pod_cidrs(&["10.42.0.0/24".to_owned()]).await.unwrap();
        let found = again.list_sandboxes().await.unwrap();
        assert_eq!((found.len(), found[0].state, &found[0].addresses), (1, SandboxState::Ready, &pod.addresses));
        assert_eq!(end(&again, &soon).await.0, 5, "it ended while nobody looked");
        assert_eq!(again.container_status(&long).await.unwrap().state, ContainerState::Running);
        assert_eq!(pod_pid(&again, &long), pid, "it is the same process");
        let out = again.exec_sync(&long, &sh("echo still here"), Duration::from_secs(20)).await.unwrap();
        assert_eq!(out.stdout, b"still here\n");
        let second = sandbox(&again, "second").await;
        assert_ne!(second.addresses, pod.addresses);
        assert!(again.image_store().remove_image("busybox:test").is_err(), "the image is in use");
        again.remove_sandbox(&pod.id).await.unwrap();
        again.remove_sandbox(&second.id).await.unwrap();
        again.image_store().remove_image("busybox:test").unwrap();
    });
}

fn pod_pid(embedded: &Embedded, id: &str) -> i32 {
    let pods = embedded.inner.pods.lock();
    let pid = pods.values().find_map(|pod| Some(pod.containers.lock().get(id)?.status.borrow().pid));
    pid.unwrap()
}

#[test]
fn identity_rights_and_limits_are_as_asked() {
    with_world(async |world, embedded| {
        let pod = sandbox(&embedded, "pod").await;
        let script = "/bin/busybox id; echo $HOME $A; /bin/busybox grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status; echo x > /f || echo readonly; /bin/busybox pwd";
        let mut config = world.container("who", script);
        config.security = SecurityContext {
            uid: Some(1000),
            supplemental_groups: vec![2000],
            readonly_rootfs: true,
            no_new_privs: true,
            seccomp: Seccomp::RuntimeDefault,
            drop_capabilities: vec!["ALL".to_owned()],
            add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
            ..SecurityContext::default()
        };
        config.env = vec![("A".to_owned(), "b c".to_owned())];
        config.working_dir = "/made/for/this".to_owned();
        let (code, _, log) = run(world, &embedded, &pod, config).await;
        assert_eq!(code, 0, "{log}");
        for wanted in [
            "uid=1000(web) gid=1000(web) groups=7(extra),1000(web),2000",
            "/home/web b c",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "CapBnd:\t0000000000000400",
            "readonly",
            "/made/for/this",
        ] {
            assert!(log.contains(wanted), "{wanted} not in\n{log}");
        }
        // Seccomp without no_new_privs, for root: the filter forbids what needs SYS_ADMIN.
        let mut config =
            world.container("filter", "/bin/busybox unshare -m true; /bin/busybox grep -E 'NoNewPrivs|Seccomp:' /proc/self/status");
        config.security.seccomp = Seccomp::RuntimeDefault;
        let (_, _, log) = run(world, &embedded, &pod, config).await;
        assert!(log.contains("Operation not permitted") && log.contains("NoNewPrivs:\t0") && log.contains("Seccomp:\t2"), "{log}");

        let mut config = world.container("memory", "/bin/busybox head -c 200m /dev/zero | /bin/busybox tail -c 100m | /bin/busybox wc -c");
        config.command = sh("exec /bin/busybox tail -c 100m /dev/zero");
        config.resources = Resources {
            memory_limit_bytes: Some(32 << 20),
            cpu_shares: Some(100),
            pids_limit: Some(20),
            oom_score_adj: Some(900),
            ..Resources::default()
        };
        let (code, reason, _) = run(world, &embedded, &pod, config).await;
        assert_eq!((code, reason.as_str()), (137, "OOMKilled"));
        embedded.remove_sandbox(&pod.id).await.unwrap();
    });
}

#[test]
fn a_container_that_cannot_run_says_why() {
    with_world(async |world, embedded| {
        let pod = sandbox(&embedded, "pod").await;
        let mut config = world.container("missing", "");
        config.command = vec!["nope".to_owned()];
        let id = embedded.create_container(&pod.id, config).await.unwrap();
        let error = embedded.start_container(&id).await.unwrap_err().to_string();
        let wanted = r#"failed to start container: unable to start container process: exec: "nope": executable file not found in $PATH"#;
        assert_eq!(error, wanted);
        let status = embedded.container_status(&id).await.unwrap();
        assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 128, "StartError"));
        assert_eq!(status.message, wanted);

        let mut config = world.container("mount", "true");
        config.mounts.push(crate::runtime::Mount { host_path: "/no/such/path".into(), container_path: "/x".into(), ..Default::default() });
        let id = embedded.create_container(&pod.id, config).await.unwrap();
        let error = embedded.start_container(&id).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/path"), "{error}");
        let mut config = world.container("image", "true");
        config.image_id = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(embedded.create_container(&pod.id, config).await, Err(RuntimeError::NotFound { what: "image", .. })));
        embedded.remove_sandbox(&pod.id).await.unwrap();
        let _ = ImageConfig::default();
    });
}

#[test]
fn host_namespaces_privileges_and_terminals() {
    with_world(async |world, embedded| {
        let mut config = SandboxConfig { name: "host".to_owned(), ..SandboxConfig::default() };
        config.namespaces.network = NamespaceMode::Node;
        config.namespaces.pid = NamespaceMode::Node;
        config.namespaces.ipc = NamespaceMode::Node;
        let pod = embedded.run_sandbox(config).await.unwrap();
        assert!(pod.addresses.is_empty());
        let mut config = world.container(
            "all",
            "/bin/busybox ip link; /bin/busybox ls /proc/1/cwd >/dev/null && echo sees pid 1; /bin/busybox sleep 500 & true",
        );
        config.security.privileged = true;
        let (code, _, log) = run(world, &embedded, &pod, config).await;
        assert!(code == 0 && log.contains("coracle0"), "{log}");
        let mut config = world.container("tty", "/bin/busybox tty; echo done");
        config.tty = true;
        let (_, _, log) = run(world, &embedded, &pod, config).await;
        assert!(log.contains("/dev/pts/0") && log.contains("done"), "{log}");
        embedded.remove_sandbox(&pod.id).await.unwrap();
    });
}

#[test]
fn containers_of_a_pod_see_one_another_when_they_share_processes() {
    with_world(async |world, embedded| {
        let mut config = SandboxConfig { name: "shared".to_owned(), ..SandboxConfig::default() };
        config.namespaces.pid = NamespaceMode::Pod;
        let pod = embedded.run_sandbox(config).await.unwrap();
        let first = start(&embedded, &pod, world.container("first", "/bin/busybox sleep 4321 & exec /bin/busybox sleep 1234")).await;
        let (_, _, log) = run(world, &embedded, &pod, world.container("second", "/bin/busybox ps")).await;
        assert!(log.contains("sleep 1234") && log.contains("    1 root"), "{log}");
        embedded.stop_container(&first, Duration::ZERO).await.unwrap();
        let (_, _, log) = run(world, &embedded, &pod, world.container("third", "/bin/busybox ps")).await;
        assert!(!log.contains("sleep"), "its other processes end with a container: {log}");
        embedded.remove_sandbox(&pod.id).await.unwrap();
    });
}
