//! One program for every target; the environment variable `TARGET` names it.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<String> = LazyLock::new(|| std::env::var("TARGET").unwrap_or_default());

libfuzzer_sys::fuzz_target!(|data: &[u8]| coracle_fuzz::run(&TARGET, data));
