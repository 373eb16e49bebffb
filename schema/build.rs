//! Packs the descriptions of Kubernetes' messages and fields for the OpenAPI documents: `kubectl explain` shows them.
//!
//! They are not kept in this repository: they are read from the sources of the crate `k8s-openapi`, which every build has because the rooms
//! depend on it, and put compressed into the program. Cargo is asked where that crate is, so registries, mirrors and vendored sources
//! all do; `K8S_OPENAPI_DIR` names it where cargo cannot tell. Without it the documents have no descriptions, and the build says so.
#![allow(clippy::print_stdout)] // This is how a build script speaks to cargo.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, write::ZlibEncoder};

/// The sources of the version this API is of.
const VERSION: &str = "src/v1_37";

/// The description of a message, and those of its fields by name.
type Message = (String, BTreeMap<String, String>);

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    println!("cargo::rerun-if-env-changed=K8S_OPENAPI_DIR");
    let mut messages = BTreeMap::new();
    match sources() {
        Some(folder) => read(&folder, &mut messages)?,
        None => {
            println!("cargo::warning=the sources of k8s-openapi are not found: no descriptions for kubectl explain; set K8S_OPENAPI_DIR");
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("descriptions.zz"), packed(&messages)?)
}

/// Where the crate's sources are.
fn sources() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("K8S_OPENAPI_DIR") {
        return Some(PathBuf::from(folder).join(VERSION)).filter(|folder| folder.is_dir());
    }
    // What is not needed on this platform may not have been downloaded, and nothing is to be downloaded for this.
    ask(&["--offline"]).or_else(|| ask(&[]))
}

fn ask(more: &[&str]) -> Option<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let target = env::var("TARGET").ok()?;
    let output = Command::new(cargo).args(["metadata", "--format-version=1", "--filter-platform", &target]).args(more).output().ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let packages = metadata["packages"].as_array()?;
    let manifests =
        packages.iter().filter(|package| package["name"] == "k8s-openapi").filter_map(|package| package["manifest_path"].as_str());
    manifests.filter_map(|manifest| Some(Path::new(manifest).parent()?.join(VERSION))).find(|folder| folder.is_dir())
}

/// Reads every source file below a folder, save for versions that are not served.
fn read(folder: &Path, messages: &mut BTreeMap<String, Message>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !name.contains("alpha") && !name.contains("beta") {
                read(&path, messages)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            messages.extend(message(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The message of a source file: the JSON schema it is given for `schemars` holds the descriptions word for word.
fn message(source: &str) -> Option<(String, Message)> {
    let mut lines = source.lines().skip_while(|line| !line.contains("fn schema_name()")).skip(1);
    let name = lines.next()?.trim().strip_prefix('"')?.split('"').next()?.to_owned();
    let mut message = Message::default();
    let mut field = None;
    for line in lines {
        let text = line.trim_start();
        match (line.len() - text.len(), words(text)) {
            (12, Some(words)) => message.0 = words,
            (20, Some(words)) => {
                if let Some(field) = field.take() {
                    message.1.insert(field, words);
                }
            }
            // `"name": {`, or `"name": ({` where it is another message's.
            (16, None) => field = text.split_once("\": ").and_then(|(name, _)| name.strip_prefix('"')).map(str::to_owned),
            _ => {}
        }
    }
    Some((name, message))
}

/// The description a line gives, in either of the forms it is given.
fn words(line: &str) -> Option<String> {
    let own = line.strip_prefix("\"description\": \"").and_then(|rest| rest.strip_suffix("\","));
    let call = "schema_obj.ensure_object().insert(\"description\".into(), \"";
    let source = own.or_else(|| line.strip_prefix(call)?.strip_suffix("\".into());"))?;
    literal(source)
}

/// The text of a string literal's inside.
fn literal(source: &str) -> Option<String> {
    let mut chars = source.chars();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        text.push(match (c, c == '\\') {
            (c, false) => c,
            (_, true) => match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'u' => {
                    let digits: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                }
                other => other,
            },
        });
    }
    Some(text)
}

/// A line for each message and below it one for each field, `name TAB description`; fields begin with a tab.
fn packed(messages: &BTreeMap<String, Message>) -> io::Result<Vec<u8>> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
    for (name, (words, fields)) in messages {
        writeln!(packer, "{name}\t{}", escaped(words))?;
        for (field, words) in fields {
            writeln!(packer, "\t{field}\t{}", escaped(words))?;
        }
    }
    packer.finish()
}

/// On one line.
fn escaped(words: &str) -> String {
    words.replace('\\', "\\\\").replace('\n', "\\n")
}
