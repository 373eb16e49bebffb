//! Runs one pod from an image archive, without a cluster, to try the embedded runtime by hand (as root):
//!
//! ```text
//! cargo run -p coracle-agent --example pod -- DIR ARCHIVE.tar [COMMAND…]
//! ```
//!
//! Prints how long each step took, the container's output and its exit code, then removes everything again. The same program is the shim
//! of the runtime's tests.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use coracle_agent::embedded::{self, Embedded};
use coracle_agent::images::{Registries, Store};
use coracle_agent::network;
use coracle_agent::runtime::{ContainerConfig, ContainerState, Runtime, SandboxConfig};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = embedded::shim_main(&args) {
        return code;
    }
    let [dir, archive, command @ ..] = &args[..] else {
        eprintln!("usage: pod DIR ARCHIVE [COMMAND…]");
        return ExitCode::from(2);
    };
    let command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(Path::new(dir), Path::new(archive), command)));
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(dir: &Path, archive: &Path, command: Vec<String>) -> Result<i32, Box<dyn std::error::Error>> {
    let store = Store::open(&dir.join("images"), Registries::default())?;
    let start = Instant::now();
    let names = store.import(archive)?;
    eprintln!("imported {names:?} in {:?}", start.elapsed());
    let image = store.find(&names[0])?.ok_or("the imported image is gone")?;
    let options = embedded::Options { dir: dir.join("sandboxes"), shim: None, network: network::Options::default() };
    let runtime = Embedded::open(options.clone(), store).await?;
    runtime.set_pod_cidrs(&["10.42.0.0/24".to_owned()]).await?;

    let start = Instant::now();
    let sandbox =
        runtime.run_sandbox(SandboxConfig { name: "try".to_owned(), hostname: "try".to_owned(), ..SandboxConfig::default() }).await?;
    eprintln!("sandbox with {:?} in {:?}", sandbox.addresses, start.elapsed());
    let log_path = dir.join("logs/0.log");
    let config =
        ContainerConfig { name: "main".to_owned(), image_id: image.id, command, log_path: log_path.clone(), ..ContainerConfig::default() };
    let id = runtime.create_container(&sandbox.id, config).await?;
    let created = start.elapsed();
    let started = runtime.start_container(&id).await;
    eprintln!("created after {created:?}, running after {:?}", start.elapsed());
    if started.is_ok() {
        while runtime.container_status(&id).await?.state == ContainerState::Running {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let status = runtime.container_status(&id).await?;
    eprint!("{}", std::fs::read_to_string(&log_path).unwrap_or_default());
    eprintln!("exit code {} {} {}", status.exit_code, status.reason, status.message);
    drop(runtime);
    embedded::teardown(&options)?;
    Ok(status.exit_code)
}
