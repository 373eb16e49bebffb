//! What fifty rules of a custom resource cost: `cargo bench -p coracle-cel`.
//!
//! With `CEL_ORACLE` naming the built program of `testdata/oracle`, upstream's time for the same rules over the same object is measured in
//! the same run, and the ratio told.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

#[path = "../tests/schema.rs"]
mod schema;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use coracle_cel::{Activation, Env, Program, Val, limits};
use coracle_tree::Value;

const ROUNDS: u32 = 20_000;

fn main() {
    let file: Value = serde_json::from_str(include_str!("../testdata/data.json")).unwrap();
    let env = Env::new().variable("self", schema::decl(&file["schema"], "selfType"));
    let rules: Vec<&str> = include_str!("../testdata/rules.txt").lines().collect();
    let compiling = Instant::now();
    let programs: Vec<Program> = rules.iter().map(|rule| env.compile(rule).unwrap()).collect();
    println!("{:<24} {:>10.1} us", format!("compile {} rules", rules.len()), micros(compiling.elapsed()));
    validate(&programs, &file["data"]);

    let ours = (0..3).map(|_| time(&programs, &file["data"])).min().unwrap();
    println!("{:<24} {:>10.2} us", "validate an object", micros(ours));
    if let Some(theirs) = std::env::var_os("CEL_ORACLE").map(|oracle| upstream(&oracle)) {
        println!("{:<24} {:>10.2} us", "upstream", micros(theirs));
        println!("{:<24} {:>10.1} x", "ratio", theirs.as_secs_f64() / ours.as_secs_f64());
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn validate(programs: &[Program], object: &Value) {
    let activation = Activation::new().json(0, object);
    for program in programs {
        let (result, _) = program.eval(&activation, limits::PER_CALL);
        assert!(matches!(result, Ok(Val::Bool(true))), "{result:?}");
    }
}

fn time(programs: &[Program], object: &Value) -> Duration {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        validate(programs, std::hint::black_box(object));
    }
    start.elapsed() / ROUNDS
}

/// The program prints the nanoseconds that an object takes.
fn upstream(oracle: &std::ffi::OsStr) -> Duration {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let rules = std::fs::File::open(format!("{directory}/rules.txt")).unwrap();
    let output = Command::new(oracle).args([&format!("{directory}/data.json"), "time"]).stdin(Stdio::from(rules)).output().unwrap();
    Duration::from_nanos(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}
