//! Links the program at a fixed address. Every pod's shim and one-shot is this program executed again; a movable one writes to each page of
//! its constants before it begins, more than a megabyte that each shim would then keep to itself.
#![allow(clippy::print_stdout)] // This is how a build script speaks to cargo.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        // Equal functions, of which generic code makes thousands, are kept once. Rust promises no function a pointer of its own.
        if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
            println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
        }
    }
}
