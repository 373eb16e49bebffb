//! CEL expressions.

use coracle_cel::{Activation, Decl, Env, limits};
use coracle_tree::Value;

/// `expression \xFF value of self`: compiled or refused; evaluation ends within its limit, and twice with the same outcome.
pub(crate) fn cel(data: &[u8]) {
    let at = data.iter().position(|b| *b == 0xFF).unwrap_or(data.len());
    let Ok(text) = std::str::from_utf8(&data[..at]) else { return };
    let value: Value = data.get(at + 1..).and_then(|rest| serde_json::from_slice(rest).ok()).unwrap_or_default();
    let Ok(program) = Env::new().variable("self", Decl::dynamic()).compile(text) else { return };
    let activation = Activation::new().json(0, &value);
    let (first, cost) = program.eval(&activation, limits::PER_CALL);
    let (second, again) = program.eval(&activation, limits::PER_CALL);
    assert_eq!((first.is_ok(), cost), (second.is_ok(), again), "{text}: two evaluations differ");
    // The step that goes over the limit is counted, and no step costs more than the text and the value can make it.
    assert!(first.is_err() || cost <= limits::PER_CALL, "{text}: an answer above the limit");
}
