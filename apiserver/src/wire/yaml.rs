//! YAML in bodies, read as `sigs.k8s.io/yaml` reads it: the first document counts, of a key that is there twice the last value, and the
//! rest is said where it matters.

use coracle_schema::decode::MAX_NESTING;
use serde_json::Value;
use serde_saphyr::{Error, Options, budget::BudgetBreach, options::DuplicateKeyPolicy};

/// Nesting that is read: as much as objects may have ([`MAX_NESTING`]), which takes a third of the server's stacks in unoptimized builds.
/// Upstream reads 10,000 levels, in YAML as in JSON; of the CRDs in use none has fifty.
const DEPTH: usize = MAX_NESTING;
/// Nodes of a document: more than fit into a request.
const NODES: usize = 3 << 20;
/// Nodes that aliases may repeat: more than people write, and little enough for a bomb to go off at once.
const REPEATED: usize = 100_000;

/// What a body says.
#[derive(Debug)]
pub struct Read {
    /// The first document.
    pub value: Value,
    /// The first key that stands twice: `line 4: key "a" already set in map`.
    pub doubled: Option<String>,
}

/// Reads a body; the error begins with `yaml: `. JSON, its subset, is tried first because it is what clients send most.
pub fn read(body: &[u8]) -> Result<Read, String> {
    if body.first().is_some_and(|b| *b == b'{')
        && let Ok(value) = serde_json::from_slice(body)
    {
        return Ok(Read { value, doubled: None });
    }
    let text = std::str::from_utf8(body).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let error = match document(text, DuplicateKeyPolicy::Error) {
        Ok(value) => return Ok(Read { value, doubled: None }),
        Err(error) => error,
    };
    let Error::DuplicateMappingKey { key: Some(key), location } = cause(&error) else { return Err(fault(&error)) };
    let doubled = Some(format!("line {}: key {key:?} already set in map", location.line()));
    document(text, DuplicateKeyPolicy::LastWins).map(|value| Read { value, doubled }).map_err(|error| fault(&error))
}

fn document(text: &str, keys: DuplicateKeyPolicy) -> Result<Value, Error> {
    match serde_saphyr::from_str_with_options(text, options(keys)) {
        Err(error) if matches!(cause(&error), Error::MultipleDocuments { .. }) => {
            let all: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options(keys))?;
            Ok(all.into_iter().next().unwrap_or_default())
        }
        read => read,
    }
}

fn options(keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        duplicate_keys: keys,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH,
            flow_nesting_limit: DEPTH,
            max_nodes: NODES,
            max_events: 2 * NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPEATED },
    }
}

/// What is wrong; of what people look for, in the words of Go's library.
fn fault(error: &Error) -> String {
    match cause(error) {
        Error::AliasReplayLimitExceeded { .. } => "yaml: document contains excessive aliasing".to_owned(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => format!("yaml: exceeded max depth of {DEPTH}"),
        _ => format!("yaml: {error}"),
    }
}

/// The error without the places around it.
fn cause(mut error: &Error) -> &Error {
    while let Error::AliasError { error: within, .. } | Error::WithSnippet { error: within, .. } = error {
        error = within;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_becomes_the_same_values_as_json() {
        let yaml = b"a: 1\nb:\n- x\n- true\nc: \"7\"\n";
        assert_eq!(read(yaml).unwrap().value, serde_json::json!({"a": 1, "b": ["x", true], "c": "7"}));
        assert_eq!(read(b"").unwrap().value, Value::Null);
        assert!(read(b"a: [").unwrap_err().starts_with("yaml: "));
        assert!(read(b"a: \xff").unwrap_err().starts_with("yaml: invalid leading UTF-8 octet"));
    }

    #[test]
    fn of_a_key_that_is_there_twice_the_last_value_counts_and_its_line_is_told() {
        let read = read(b"\na: 1\nb:\n  c: 1\n  c: 2\n").unwrap();
        assert_eq!(read.value, serde_json::json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(read.doubled.as_deref(), Some("line 5: key \"c\" already set in map"));
    }

    #[test]
    fn the_first_document_counts() {
        assert_eq!(read(b"a: 1\n---\na: 2\n").unwrap().value, serde_json::json!({"a": 1}));
    }

    #[test]
    fn aliases_of_aliases_are_refused_before_they_are_many() {
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for pair in ('a'..='i').zip('b'..='j') {
            let list = vec![format!("*{}", pair.0); 9].join(",");
            bomb += &format!("{0}: &{0} [{list}]\n", pair.1);
        }
        assert_eq!(read(bomb.as_bytes()).unwrap_err(), "yaml: document contains excessive aliasing");
        let few = "a: &a {x: 1}\nb: [*a, *a, *a]\n";
        assert_eq!(read(few.as_bytes()).unwrap().value["b"][2]["x"], 1);
    }

    #[test]
    fn deep_documents_are_read_to_a_limit() {
        for depth in [30, DEPTH - 2] {
            assert!(read(format!("a: {}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes()).is_ok(), "{depth}");
        }
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000), "{a: ".repeat(100_000)] {
            assert!(read(format!("a: 1\nb:\n  {deep}").as_bytes()).is_err());
        }
    }
}
