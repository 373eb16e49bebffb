//! The rules of the house that a program can check: layering, bans, dead links. Sizes are printed, not judged.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What each crate may name of ours.
const MAY_USE: &[(&str, &[&str])] = &[
    ("store", &[]),
    ("tree", &[]),
    ("cel", &["coracle_tree"]),
    ("schema", &["coracle_tree", "coracle_cel"]),
    ("apiserver", &["coracle_store", "coracle_tree", "coracle_schema", "coracle_cel"]),
    ("scheduler", &[]),
    ("controllers", &[]),
    ("agent", &[]),
    ("conformance", &[]),
];

/// Texts that may not stand in product code, and why.
const BANNED: &[(&str, &str)] = &[
    ("danger_accept_invalid", "certificates are verified"),
    ("todo!(", "no stubs"),
    ("unimplemented!(", "no stubs"),
    ("#[ignore]", "say who runs it: a test that never runs is no test"),
    ("mod util", "names say what is inside"),
    ("mod common", "names say what is inside"),
    ("mod helpers", "names say what is inside"),
];

/// Arrows inside the API server: (folder, modules it may not use).
const APISERVER: &[(&str, &[&str])] = &[
    ("wire", &["verbs", "admission", "authz", "request::layers", "bootstrap"]),
    ("registry", &["verbs", "admission", "authz"]),
    ("kinds", &["verbs", "admission", "authz", "authn"]),
];

/// What the `use` statements of a file name of its own crate, each with the line the statement begins in: `registry::Object`.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim_start();
        let public = line.strip_prefix("pub").map(|rest| rest.split_once(") ").map_or(rest.trim_start(), |(_, rest)| rest));
        let Some(statement) = public.unwrap_or(line).strip_prefix("use crate::") else { continue };
        let mut whole = code(statement).to_owned();
        while !whole.contains(';') {
            let Some((_, more)) = lines.next() else { break };
            whole.push_str(code(more));
        }
        let whole: String = whole.chars().filter(|c| !c.is_whitespace() && *c != ';').collect();
        found.extend(paths(&whole).into_iter().map(|path| (at + 1, path)));
    }
    found
}

/// A line without what is said about it.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// `a::{b,c::{d,e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn paths(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let inside = rest.strip_suffix('}').unwrap_or(rest);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in inside.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match parts.last_mut() {
            Some(part) if c != ',' || depth > 0 => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts.iter().filter(|part| !part.is_empty()).flat_map(|part| paths(part)).map(|path| format!("{head}{path}")).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root().join(folder), ".rs", &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (folder, allowed) in MAY_USE {
        let own = format!("coracle_{folder}");
        for (path, text) in rust_files(folder) {
            for (at, line) in text.lines().enumerate() {
                let names = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| word.starts_with("coracle_"));
                let rooms = ["store", "tree", "cel", "schema", "apiserver", "scheduler", "controllers", "agent"]
                    .map(|room| format!("coracle_{room}"));
                for name in names.filter(|n| rooms.iter().any(|room| room == n)) {
                    // A log filter or a crate's own tests may spell the crate's own name.
                    if name != own && !allowed.contains(&name) {
                        wrong.push(format!("{}:{}: {name}", path.display(), at + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "layering:\n{}", wrong.join("\n"));
}

#[test]
fn modules_of_the_api_server_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (folder, forbidden) in APISERVER {
        for (path, text) in rust_files(&format!("apiserver/src/{folder}")) {
            for (line, used) in uses(&text) {
                let is_of = |module: &&&str| used.strip_prefix(**module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
                for module in forbidden.iter().filter(is_of) {
                    wrong.push(format!("{}:{line}: {module}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "layering inside the API server:\n{}", wrong.join("\n"));
}

#[test]
fn every_use_of_a_statement_is_seen() {
    let text = "use std::fmt;\nuse crate::wire::Status;\n\npub(crate) use crate::{\n    authn::{User, keys::Key}, // why\n    authz,\n};\npub use crate::a::b;\n";
    let seen: Vec<(usize, String)> = uses(text);
    let seen: Vec<(usize, &str)> = seen.iter().map(|(line, path)| (*line, path.as_str())).collect();
    assert_eq!(seen, [(2, "wire::Status"), (4, "authn::User"), (4, "authn::keys::Key"), (4, "authz"), (8, "a::b")]);
}

#[test]
fn nothing_banned_stands_in_the_code() {
    let mut wrong = Vec::new();
    for folder in ["src", "store", "tree", "cel", "schema", "apiserver", "scheduler", "controllers", "agent", "conformance", "fuzz"] {
        for (path, text) in rust_files(folder) {
            for (at, line) in text.lines().enumerate() {
                for (word, why) in BANNED.iter().filter(|(word, _)| line.contains(word)) {
                    wrong.push(format!("{}:{}: {word}: {why}", path.display(), at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "banned:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_one_file_of_the_agent() {
    let mut lifted = Vec::new();
    for folder in ["src", "store", "tree", "cel", "schema", "apiserver", "scheduler", "controllers", "agent", "conformance", "fuzz"] {
        for (path, text) in rust_files(folder) {
            if text.contains("allow(unsafe_code)") || text.contains("expect(unsafe_code") {
                lifted.push(path);
            }
        }
    }
    assert!(lifted.len() <= 1 && lifted.iter().all(|path| path.starts_with(root().join("agent"))), "{lifted:?}");
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut pages = Vec::new();
    files(&root(), ".md", &mut pages);
    let mut dead = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            if !outside && !page.parent().unwrap().join(target).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn sizes_are_printed() {
    let mut sizes = BTreeMap::new();
    let mut total = 0;
    for folder in ["src", "store/src", "schema/src", "apiserver/src", "scheduler/src", "controllers/src", "agent/src", "conformance/src"] {
        for (path, text) in rust_files(folder) {
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().count();
            total += product;
            sizes.insert((product, path.strip_prefix(root()).unwrap().to_path_buf()), ());
        }
    }
    let largest: Vec<String> = sizes.keys().rev().take(8).map(|(lines, path)| format!("{lines:5} {}", path.display())).collect();
    println!("{total} lines of product code in {} files; the largest:\n{}", sizes.len(), largest.join("\n"));
    assert!(total > 0);
}
