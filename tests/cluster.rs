//! A server of the finished binary in a folder of its own, and the real kubectl against it; a real etcd.

use std::{
    ffi::OsString,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long anything in a test may take before it counts as broken; far beyond what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A running server.
pub(crate) struct Cluster {
    folder: TempDir,
    listen: String,
    arguments: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    server: Option<Child>,
}

impl Cluster {
    /// Starts a server with these flags on a free loopback port and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(|_| Vec::new(), arguments)
    }

    /// The same with these variables in its environment, made from its folder.
    pub(crate) fn start_in(environment: impl Fn(&Path) -> Vec<(&'static str, PathBuf)>, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap();
        let mut cluster = Self {
            environment: environment(folder.path()),
            folder,
            listen: format!("127.0.0.1:{}", free_port()),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            server: None,
        };
        cluster.run();
        cluster
    }

    /// Starts the server again over what is on disk.
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("server.log")).unwrap();
        let _ = std::fs::remove_file(self.kubeconfig());
        let child = Command::new(env!("CARGO_BIN_EXE_coracle"))
            .args(["server", "--listen", &self.listen, "--data-dir"])
            .arg(self.data_dir())
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(child);
        self.until("the server is ready", |cluster| cluster.kubeconfig().exists() && cluster.kubectl(&["get", "--raw=/readyz"]).is_ok());
    }

    /// Starts it again with these flags beside the first ones.
    pub(crate) fn run_with(&mut self, more: &[&str]) {
        let first = self.arguments.clone();
        self.arguments.extend(more.iter().map(ToString::to_string));
        self.run();
        self.arguments = first;
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// Runs kubectl; its standard output, or its error output.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        answer(self.kubectl_command(arguments).output().unwrap())
    }

    /// A kubectl command, ready to be changed or spawned.
    pub(crate) fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        // A cache of its own: discovery of one test must not be read by another.
        command.arg("--cache-dir").arg(self.folder.path().join("cache")).args(arguments);
        command.env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null());
        command
    }

    /// kubectl's answer, which must not be an error.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {}: {error}\n{}", arguments.join(" "), self.log()))
    }

    /// Waits for a condition that comes true by itself.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            if let Some(status) = self.server.as_mut().and_then(|server| server.try_wait().unwrap()) {
                panic!("the server ended with {status} before {what}\n{}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// SIGTERM; how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut server = self.server.take().unwrap();
        terminated(&mut server).unwrap_or_else(|| panic!("SIGTERM did not end the server\n{}", self.log()))
    }

    /// The end of the server's log.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.stop();
        }
        let _ = Command::new(env!("CARGO_BIN_EXE_coracle")).args(["stop", "--all", "--data-dir"]).arg(self.data_dir()).output();
    }
}

/// A process that ends with what holds it.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// SIGTERM; whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        terminated(&mut self.0).is_some_and(|status| status.success())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            terminated(&mut self.0);
        }
    }
}

/// SIGTERM to a process of ours; how it ended, unless it had to be killed.
fn terminated(process: &mut Child) -> Option<ExitStatus> {
    Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = process.kill();
    let _ = process.wait();
    None
}

/// The real etcd: the program in `$ETCD`, or `etcd` of the path.
pub(crate) fn etcd_program() -> OsString {
    std::env::var_os("ETCD").unwrap_or_else(|| "etcd".into())
}

/// An etcd of one member, which keeps its data in `folder`, and its URL.
pub(crate) fn etcd(folder: &Path) -> (Running, String) {
    let [client, peer] = [(); 2].map(|()| format!("http://127.0.0.1:{}", free_port()));
    let started = Command::new(etcd_program())
        .arg(format!("--data-dir={}", folder.join("etcd-data").display()))
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=default={peer}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    (Running(started.expect("etcd: install the package etcd-server, or name a program in $ETCD")), client)
}

fn answer(output: Output) -> Result<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A loopback port nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A manifest of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let mut cluster = Cluster::start(&["--agent=off"]);
    for round in 0..3 {
        for n in 0..5 {
            cluster.ok(&["create", "configmap", &format!("kept-{round}-{n}"), "--from-literal=a=b"]);
        }
        cluster.kill();
        cluster.run();
        let names = cluster.ok(&["get", "configmaps", "-o", "name"]);
        assert_eq!(names.matches("kept-").count(), 5 * (round + 1), "{names}");
    }
    assert!(cluster.stop().success(), "SIGTERM ends the server with exit code 0");
}

#[test]
fn servers_run_side_by_side() {
    let a = Cluster::start(&["--agent=off", "--store=memory"]);
    // Whoever does not mind which port it is leaves the choice to the machine; the kubeconfig knows.
    let b = Cluster::start(&["--agent=off", "--store=memory", "--listen=127.0.0.1:0"]);
    a.ok(&["create", "namespace", "only-in-a"]);
    assert!(b.kubectl(&["get", "namespace", "only-in-a"]).unwrap_err().contains("NotFound"));
    assert!(a.ok(&["auth", "can-i", "*", "*"]).contains("yes"));
}
