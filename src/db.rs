//! `coracle db`: looks after the embedded store's database.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand, ValueEnum};
use coracle_apiserver::registry::items::splice;
use coracle_store::{
    Store,
    embedded::{Dump, Embedded, OpenError, Options},
    snapshot::Record,
};
use serde_json::{Value, json};

use crate::{
    commands::say,
    lock,
    options::{default_data_dir, store_dir},
    upstream::is_encrypted,
};

/// Flags of `coracle db`.
#[derive(Args, Debug)]
pub(crate) struct DbOptions {
    /// Folder the server is started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir(), global = true)]
    pub(crate) data_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: DbCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum DbCommand {
    /// Read all of it and compare every checksum; names the first thing that is wrong. The server may run.
    Check,
    /// Forget superseded versions and make the file as small as it can be. The server must not run: while it does it compacts by itself.
    Compact,
    /// Print every object as of one moment, secrets among them. The server may run.
    ///
    /// As JSON each line is one object, with its resourceVersion, for jq; as YAML documents it is what kubectl takes. What is encrypted, or
    /// is no JSON, is told by its key, with its bytes in base64.
    Export {
        /// Only objects whose key begins so: /registry/secrets/default/.
        #[arg(long, value_name = "PREFIX", default_value = "/registry/")]
        prefix: String,
        /// How they are printed.
        #[arg(long, short, value_enum, default_value_t = Form::Json)]
        output: Form,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Form {
    /// One object a line.
    Json,
    /// One document an object.
    Yaml,
}

/// `coracle db`
pub(crate) fn run(options: &DbOptions) -> Result<()> {
    match &options.command {
        DbCommand::Check => check(&options.data_dir),
        DbCommand::Compact => compact(&options.data_dir),
        DbCommand::Export { prefix, output } => export(&options.data_dir, prefix, *output),
    }
}

fn open(folder: &Path) -> Result<Dump> {
    match Dump::open(&store_dir(folder)) {
        Err(OpenError::Missing { path }) => {
            bail!("{} is not there; is --data-dir the folder the server was started with?", path.display())
        }
        dump => Ok(dump?),
    }
}

fn check(folder: &Path) -> Result<()> {
    let advice = || {
        format!(
            "{} is damaged. Stop the server, keep a copy of that folder, and restore the latest snapshot: coracle snapshot restore FILE --replace",
            store_dir(folder).display()
        )
    };
    let dump = open(folder).with_context(advice)?;
    let found = dump.check().with_context(advice)?;
    let mut unreadable = 0_u64;
    let mut first = None;
    dump.each::<anyhow::Error>(|record| {
        if !is_readable(&record) {
            unreadable += 1;
            first.get_or_insert(record.entry.key);
        }
        Ok(())
    })?;
    say(format_args!("{}: sound", store_dir(folder).display()))?;
    say(format_args!("format {}, revision {}, compacted up to {}", found.format, dump.revision(), dump.compacted()))?;
    say(format_args!(
        "{} objects in {} rows, {} bytes of values, {} bytes free in the file",
        dump.count(),
        found.rows,
        found.bytes,
        found.free
    ))?;
    if let Some(key) = first {
        bail!("{unreadable} values are neither JSON nor encrypted: nobody can read them; the first is {key}");
    }
    Ok(())
}

/// Whether a server can make an object of the value.
fn is_readable(record: &Record) -> bool {
    let value = &record.entry.value;
    is_encrypted(value) || serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok()
}

fn compact(folder: &Path) -> Result<()> {
    // Said before anything is made where nothing is.
    open(folder)?;
    let _lock = lock::take(folder)?;
    let size = || std::fs::metadata(store_dir(folder).join("state.db")).map_or(0, |about| about.len());
    let before = size();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Embedded::open(&Options { ballast: 0, ..Options::at(store_dir(folder)) })?;
        let head = store.revision().await?;
        store.compact(head).await?;
        store.close().await;
        // Where the disk failed, what is there stays as it is.
        store.health()?;
        anyhow::Ok(())
    })?;
    Dump::shrink(&store_dir(folder))?;
    say(format_args!("{}: {before} bytes before, {} bytes now", store_dir(folder).display(), size()))
}

fn export(folder: &Path, prefix: &str, form: Form) -> Result<()> {
    let dump = open(folder)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    dump.each::<anyhow::Error>(|record| {
        if record.entry.key.as_str().starts_with(prefix) {
            print(&mut out, &record, form)?;
        }
        Ok(())
    })?;
    out.flush().context("standard output")
}

fn print(out: &mut impl Write, Record { entry, .. }: &Record, form: Form) -> Result<()> {
    let wire = splice(&entry.value, entry.revision);
    let object: Value = match serde_json::from_slice(&wire) {
        Ok(object) => object,
        Err(_) => json!({"key": entry.key.as_str(), "revision": entry.revision.0, "bytes": STANDARD.encode(&entry.value)}),
    };
    match form {
        Form::Json => writeln!(out, "{object}")?,
        Form::Yaml => {
            let text = serde_saphyr::to_string(&object).with_context(|| format!("{}", entry.key))?;
            writeln!(out, "---\n{}", text.trim_end())?;
        }
    }
    Ok(())
}
