//! The commands beside `server`.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use tokio::task::JoinSet;

use crate::{
    encryption, kubeconfig, lock, nodes,
    options::{AgentOptions, ImageCommand, ImageOptions, KubeconfigOptions, SecretsCommand, SecretsOptions, StopOptions, TokenOptions},
    remote,
};

/// A server may take this long to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Says an error and its causes on one line each.
pub(crate) fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "coracle: {error:#}");
}

pub(crate) fn say(text: impl std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output")
}

/// `coracle agent`
pub(crate) fn agent(_options: &AgentOptions) -> Result<()> {
    bail!("joining another machine's server is not in this version; `coracle server` runs an agent for its own machine")
}

/// `coracle stop`
pub(crate) fn stop(options: &StopOptions) -> Result<()> {
    let was_running = lock::stop_holder(&options.data_dir, STOP_PATIENCE)?;
    say(if was_running { "the server is stopped" } else { "no server was running" })?;
    if options.all {
        let _lock = lock::take(&options.data_dir)?;
        coracle_agent::embedded::teardown(&nodes::runtime_options(&options.data_dir, None, None)).context("--all")?;
        coracle_agent::services::teardown().context("--all: service rules")?;
        coracle_agent::volumes::teardown(&options.data_dir.join("agent")).map_err(anyhow::Error::msg).context("--all: volumes")?;
        say("containers, mounts and network are removed")?;
    }
    Ok(())
}

/// `coracle image`
pub(crate) fn image(options: &ImageOptions) -> Result<()> {
    let store = nodes::image_store(&options.data_dir, &[])?;
    match &options.command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                for reference in store.import(archive).with_context(|| format!("{}", archive.display()))? {
                    say(format_args!("imported {reference}"))?;
                }
            }
        }
        ImageCommand::List => {
            for image in store.all()? {
                for name in image.tags.iter().chain(image.tags.is_empty().then_some(&image.id)) {
                    say(format_args!("{name}\t{} MB", image.size_bytes / 1_000_000))?;
                }
            }
        }
        ImageCommand::Remove { reference } => {
            store.remove_image(reference)?;
            say(format_args!("removed {reference}"))?;
        }
    }
    Ok(())
}

/// `coracle kubeconfig`
pub(crate) fn kubeconfig(options: &KubeconfigOptions) -> Result<()> {
    let file = options.data_dir.join("admin.kubeconfig");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}; is --data-dir the folder the server was started with?", file.display()))?;
    let Some(server) = options.server.as_deref() else { return say(text.trim_end()) };
    let access = kubeconfig::parse(&text).with_context(|| file.display().to_string())?;
    say(kubeconfig::render(server, &access.authority, &access.client).trim_end())
}

/// `coracle token`
pub(crate) fn token(options: &TokenOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let client = remote::administrator(&options.data_dir, &mut tasks).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &options.namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(options.expiration), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let answer = accounts.create_token_request(&options.service_account, &PostParams::default(), &request).await?;
        say(answer.status.and_then(|status| status.token).context("the server answered without a token")?)
    })
}

/// `coracle secrets`
pub(crate) fn secrets(options: &SecretsOptions) -> Result<()> {
    match options.command {
        SecretsCommand::Reencrypt => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(encryption::reencrypt(&options.data_dir))
        }
    }
}

/// `coracle version`
pub(crate) fn version() -> Result<()> {
    say(format_args!("coracle {} (Kubernetes 1.37.1)", env!("CARGO_PKG_VERSION")))
}
