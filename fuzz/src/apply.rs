//! Server-side apply.

use coracle_schema::{
    apply,
    decode::{FieldValidation, from_value},
    managed::{Who, keep_times_if_unchanged, record_update},
};
use coracle_tree::{Value, json};

use crate::kind;

/// `live \xFF configuration`: a forced apply succeeds or is refused for what it says, and the same apply again changes nothing.
pub(crate) fn apply(data: &[u8]) {
    let Some((schema, rest)) = kind(data) else { return };
    let Some(at) = rest.iter().position(|b| *b == 0xFF) else { return };
    let parse = |bytes: &[u8]| -> Option<Value> {
        let value = serde_json::from_slice(bytes).ok()?;
        from_value(value, &schema, FieldValidation::Ignore).ok().map(|d| d.value)
    };
    let (Some(mut live), Some(mut config)) = (parse(&rest[..at]), parse(&rest[at + 1..])) else { return };
    let who = |manager| Who {
        manager,
        api_version: "v1",
        kind: "Thing",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[],
        versions: None,
    };
    record_update(&schema, None, &mut live, &who("first"));
    for object in [&mut live, &mut config] {
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Thing");
    }
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let Ok(once) = apply::apply(&schema, Some(&live), &config, &who("second"), true) else { return };
    let twice = apply::apply(&schema, Some(&once), &config, &who("second"), true);
    let mut twice = twice.unwrap_or(Value::Null);
    keep_times_if_unchanged(&once, &mut twice);
    assert_eq!(once, twice, "the same apply again changes something");
}
