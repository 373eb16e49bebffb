//! `coracle history KIND/NAME`: what was changed of an object, as far as the store still knows.

mod change;
mod resource;

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;

use self::{
    change::{Change, Hiding, writers},
    resource::Resource,
};
use crate::{kubeconfig, options::default_data_dir, remote};

/// Flags of `coracle history`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each change is one block: when, at which resource version, what was done,
by which field manager (kubectl-edit, kube-controller-manager, ...), and each
field that differs. The store keeps what was superseded as long as --history
and --history-size of the server say; deletions are part of it, so objects
that are gone can be asked for, too.

  coracle history deployment/web -n shop --no-status
  coracle history node/worker-1 --limit 3
  coracle history secret/db -n shop --show      with the secret's values

Whoever may get the object may see its history: the server decides as for a
read of it.")]
pub(crate) struct HistoryOptions {
    /// The object, as kubectl names it: pod/web-0, deploy/web, widgets.example.com/big.
    #[arg(value_name = "KIND/NAME")]
    pub(crate) object: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Leave out what only changes the status.
    #[arg(long)]
    pub(crate) no_status: bool,
    /// Only the latest changes.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Show the values of secrets.
    #[arg(long)]
    pub(crate) show: bool,
    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t = Output::Diff)]
    pub(crate) output: Output,
    /// Ask as this user, if the one of the kubeconfig may impersonate.
    #[arg(long = "as", value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The kubeconfig to ask with. Default: the administrator's in DIR.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Folder the server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    /// What differs from one version to the next.
    Diff,
    /// Every version whole, as the server tells it.
    Json,
}

/// What the server answers.
#[derive(Deserialize)]
struct Past {
    since: String,
    items: Vec<Version>,
}

/// One version of the object.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Version {
    verb: String,
    resource_version: String,
    time: Option<String>,
    #[serde(default)]
    object: Value,
}

/// `coracle history`
pub(crate) fn run(options: &HistoryOptions) -> Result<()> {
    let Some((kind, name)) = options.object.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty()) else {
        bail!("{:?} names no object; it takes KIND/NAME, such as deployment/web", options.object);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(async {
        let file = options.kubeconfig.clone().unwrap_or_else(|| options.data_dir.join("admin.kubeconfig"));
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}; is --data-dir the folder the server was started with?", file.display()))?;
        let access = kubeconfig::parse(&text).with_context(|| file.display().to_string())?;
        let mut tasks = JoinSet::new();
        let client = remote::client(&access, &mut tasks).await?;
        let resource = Resource::find(&client, kind).await?;
        ask(&client, options, &resource, name).await
    })?;
    let mut past: Past = serde_json::from_str(&text).context("the server's answer cannot be read; is it of this version?")?;
    if !options.show {
        let mut hiding = Hiding::default();
        past.items.iter_mut().for_each(|version| hiding.hide(&mut version.object));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match options.output {
        Output::Json => {
            for version in &past.items {
                writeln!(out, "{}", json(version))?;
            }
        }
        Output::Diff => tell(&mut out, options, &past)?,
    }
    out.flush().context("standard output")
}

async fn ask(client: &Client, options: &HistoryOptions, resource: &Resource, name: &str) -> Result<String> {
    let mut request = http::Request::get(format!("{}?coracleHistory=true", resource.path(&options.namespace, name)));
    if let Some(user) = &options.user {
        request = request.header("Impersonate-User", user);
    }
    match client.request_text(request.body(Vec::new())?).await {
        Err(kube::Error::Api(status)) if status.code == 404 => bail!(
            "nothing is kept of {}{}: it is not there, and was not deleted within the time that --history of the server names",
            options.object,
            if resource.namespaced { format!(" in namespace {}", options.namespace) } else { String::new() }
        ),
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        answer => Ok(answer?),
    }
}

fn json(version: &Version) -> Value {
    serde_json::json!({
        "verb": version.verb,
        "resourceVersion": version.resource_version,
        "time": version.time,
        "object": version.object,
    })
}

/// Prints each change, oldest first.
fn tell(out: &mut impl Write, options: &HistoryOptions, past: &Past) -> Result<()> {
    let nothing = Value::Null;
    let mut blocks = Vec::new();
    for (at, version) in past.items.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| past.items.get(before));
        let (known, before) = (before.is_some() || version.verb == "create", before.map_or(&nothing, |before| &before.object));
        let mut changes = if known { change::between(before, &version.object) } else { Vec::new() };
        if options.no_status && version.verb == "update" && !changes.is_empty() {
            changes.retain(|change| !change.path.starts_with(".status"));
            if changes.is_empty() {
                continue;
            }
        }
        let mut block = head(version, before, &changes);
        if version.verb == "delete" {
            // All of it is gone: nothing is told by saying so field by field.
        } else if known {
            if changes.is_empty() {
                block.push_str("    nothing but managed fields\n");
            }
            changes.iter().for_each(|change| line(&mut block, change));
        } else {
            // What it was before is not known: it was compacted.
            block.push_str("    as it was then; what came before is not kept\n");
        }
        blocks.push(block);
    }
    let skipped = blocks.len().saturating_sub(options.limit.unwrap_or(usize::MAX));
    if skipped > 0 {
        writeln!(out, "({skipped} earlier changes are not shown)\n")?;
    }
    writeln!(out, "{}", blocks[skipped..].join("\n"))?;
    if past.items.first().is_some_and(|first| first.verb == "create") {
        return Ok(());
    }
    writeln!(out, "changes of {} before revision {} are not kept", options.object, past.since)?;
    Ok(())
}

fn head(version: &Version, before: &Value, changes: &[Change]) -> String {
    let time = version.time.as_deref().unwrap_or("time not kept");
    let by = match writers(before, &version.object, changes) {
        by if by.is_empty() => String::new(),
        by => format!("  by {}", by.join(", ")),
    };
    format!("{time}  revision {}  {}{by}\n", version.resource_version, version.verb)
}

fn line(block: &mut String, Change { path, before, after }: &Change) {
    for (sign, value) in [('-', before), ('+', after)] {
        if let Some(value) = value {
            block.push_str(&format!("  {sign} {path}: {value}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(verb: &str, revision: u64, object: Value) -> Version {
        Version { verb: verb.to_owned(), resource_version: revision.to_string(), time: Some("T".to_owned()), object }
    }

    fn told(items: Vec<Version>, limit: Option<usize>) -> String {
        let mut out = Vec::new();
        let options = HistoryOptions {
            object: "cm/a".to_owned(),
            namespace: "default".to_owned(),
            no_status: true,
            limit,
            show: false,
            output: Output::Diff,
            user: None,
            kubeconfig: None,
            data_dir: PathBuf::new(),
        };
        tell(&mut out, &options, &Past { since: "3".to_owned(), items }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_change_is_told_with_its_writer_and_what_differs() {
        let object = |value: &str, at: &str| json!({"data": {"k": value}, "metadata": {"resourceVersion": at, "managedFields": [{"manager": "kubectl-edit", "operation": "Update", "time": at}]}});
        let mut ready = object("2", "5");
        ready["status"] = json!({"ready": true});
        let quiet = told(vec![version("update", 5, object("2", "5")), version("update", 6, ready)], None);
        assert!(quiet.contains("revision 5") && !quiet.contains("revision 6"), "{quiet}");
        let items = vec![version("create", 4, object("1", "4")), version("update", 5, object("2", "5")), version("delete", 6, Value::Null)];
        let text = told(items.clone(), None);
        assert!(text.contains("T  revision 5  update  by kubectl-edit\n  - .data.k: \"1\"\n  + .data.k: \"2\"\n"), "{text}");
        assert!(text.contains("T  revision 6  delete\n"), "{text}");
        assert!(!text.contains("not kept"), "{text}");
        let last = told(items[1..].to_vec(), Some(1));
        assert!(last.starts_with("(1 earlier changes are not shown)\n\nT  revision 6  delete"), "{last}");
        assert!(last.contains("changes of cm/a before revision 3 are not kept"), "{last}");
    }
}
