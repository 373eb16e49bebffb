//! One server of the binary in a folder of its own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; ends when dropped.
pub(crate) struct Cluster {
    folder: TempDir,
    server: Child,
}

impl Cluster {
    /// Starts `binary server` with these flags and waits until it is ready.
    pub(crate) fn start(binary: &Path, flags: &[String]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(folder.path().join("server.log"))?;
        let server = Command::new(binary)
            .args(["server", "--agent=off", "--store=memory", "--listen", &format!("127.0.0.1:{port}"), "--kubeconfig"])
            .arg(folder.path().join("kubeconfig"))
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut cluster = Self { folder, server };
        let start = Instant::now();
        while !cluster.shell("kubectl get --raw=/readyz")?.status.success() {
            if let Some(status) = cluster.server.try_wait()? {
                bail!("the server ended with {status}: {}", std::fs::read_to_string(cluster.folder.path().join("server.log"))?);
            }
            if start.elapsed() > PATIENCE {
                bail!("the server is not ready after {PATIENCE:?}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(cluster)
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Copies what the server has logged so far.
    pub(crate) fn keep_log(&self, to: &Path) -> Result<()> {
        std::fs::copy(self.folder.path().join("server.log"), to).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(())
    }

    /// Runs a line of shell with KUBECONFIG set, in the server's folder.
    pub(crate) fn shell(&self, line: &str) -> Result<Output> {
        Command::new("sh")
            .args(["-c", line])
            .current_dir(self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {line:?}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.server.id().to_string()).status();
        let start = Instant::now();
        while matches!(self.server.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
            sleep(Duration::from_millis(5));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
