//! Links the program at a fixed address. Every pod's shim and one-shot is this program executed again; a movable one writes to each page of
//! its constants before it begins, more than a megabyte that each shim would then keep to itself.
#![allow(clippy::print_stdout)] // This is how a build script speaks to cargo.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    tell_origin();
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        // Equal functions, of which generic code makes thousands, are kept once. Rust promises no function a pointer of its own.
        if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
            println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        }
    }
}

/// Of what the program is built, for `/version`: the commit of a release and its date, if there is a repository with git. Other builds are
/// of what lies around, and are not linked anew because something was committed.
fn tell_origin() {
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let said = |program: &str, arguments: &[&str]| {
        let out = Command::new(program).args(arguments).env("TZ", "UTC").output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
    };
    let git = |arguments: &[&str]| said("git", arguments).filter(|_| is_release);
    // A crate from elsewhere may lie in somebody else's repository.
    let own = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let git = |arguments: &[&str]| git(arguments).filter(|_| own).unwrap_or_default();
    let dirty = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    let tree = match own {
        false => "",
        true if dirty => "dirty",
        true => "clean",
    };
    println!("cargo::rustc-env=CORACLE_COMMIT={}", git(&["rev-parse", "HEAD"]));
    println!("cargo::rustc-env=CORACLE_TREE={tree}");
    println!("cargo::rustc-env=CORACLE_DATE={}", git(&["show", "-s", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd", "HEAD"]));
    let compiler = std::env::var("RUSTC").ok().and_then(|rustc| said(&rustc, &["--version"])).unwrap_or_default();
    let language: Vec<&str> = compiler.split(' ').take(2).collect();
    println!("cargo::rustc-env=CORACLE_LANGUAGE={}", language.join(" "));
    if own {
        println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"]));
    }
}
