//! YAML in bodies, read as `sigs.k8s.io/yaml` reads it: the first document counts, of a key that is there twice the last value, and the
//! rest is said where it matters.

use std::{collections::BTreeSet, fmt};

use coracle_schema::decode::{self, FieldValidation, MAX_NESTING};
use coracle_tree::Value;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Error, Options, Spanned, budget::BudgetBreach, options::DuplicateKeyPolicy};

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
    /// The keys that stand twice, each where it stands again: `line 4: key "a" already set in map`.
    pub doubled: Vec<String>,
}

impl Read {
    /// All keys that stand twice, as strict readers refuse them.
    pub fn strict(&self) -> Option<String> {
        let lines = || self.doubled.iter().map(|line| format!("\n  {line}")).collect::<String>();
        (!self.doubled.is_empty()).then(|| format!("yaml: unmarshal errors:{}", lines()))
    }
}

/// Reads a body; the error begins with `yaml: `. JSON, its subset, is tried first because it is what clients send most.
pub fn read(body: &[u8]) -> Result<Read, String> {
    let text = str::from_utf8(body).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    if text.starts_with('{')
        && let Ok((value, doubled)) = decode::plain_json(text, FieldValidation::Warn)
        && doubled.is_empty()
    {
        return Ok(Read { value, doubled });
    }
    match document(text, DuplicateKeyPolicy::Error) {
        Ok(value) => return Ok(Read { value, doubled: Vec::new() }),
        Err(error) if !matches!(cause(&error), Error::DuplicateMappingKey { .. }) => return Err(fault(&error)),
        Err(_) => {}
    }
    let value = document(text, DuplicateKeyPolicy::LastWins).map_err(|error| fault(&error))?;
    let Doubled(doubled) = document(text, DuplicateKeyPolicy::LastWins).map_err(|error| fault(&error))?;
    Ok(Read { value, doubled })
}

/// Reads all documents of a file, in which nothing may stand twice; those that are empty are none.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let all: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options(DuplicateKeyPolicy::Error)).map_err(|error| fault(&error))?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// The first document.
fn document<T: DeserializeOwned + Default>(text: &str, keys: DuplicateKeyPolicy) -> Result<T, Error> {
    match serde_saphyr::from_str_with_options(text, options(keys)) {
        Err(error) if matches!(cause(&error), Error::MultipleDocuments { .. }) => {
            let all: Vec<T> = serde_saphyr::from_multiple_with_options(text, options(keys))?;
            Ok(all.into_iter().next().unwrap_or_default())
        }
        read => read,
    }
}

/// The keys that stand twice in a value, in the order of the document.
#[derive(Default)]
struct Doubled(Vec<String>);

impl<'de> Deserialize<'de> for Doubled {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Doubled;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Doubled, E> {
        Ok(Doubled::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Doubled, E> {
        Ok(Doubled::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Doubled, E> {
        Ok(Doubled::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Doubled, E> {
        Ok(Doubled::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Doubled, E> {
        Ok(Doubled::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Doubled, E> {
        Ok(Doubled::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Doubled, A::Error> {
        let mut all = Vec::new();
        while let Some(Doubled(below)) = source.next_element()? {
            all.extend(below);
        }
        Ok(Doubled(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Doubled, A::Error> {
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(key) = source.next_key::<Spanned<String>>()? {
            if seen.contains(&key.value) {
                all.push(format!("line {}: key {:?} already set in map", key.defined.line(), key.value));
            }
            seen.insert(key.value);
            let Doubled(below) = source.next_value()?;
            all.extend(below);
        }
        Ok(Doubled(all))
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
        assert_eq!(read(yaml).unwrap().value, coracle_tree::json!({"a": 1, "b": ["x", true], "c": "7"}));
        assert_eq!(read(b"").unwrap().value, Value::Null);
        assert!(read(b"a: [").unwrap_err().starts_with("yaml: "));
        assert!(read(b"a: \xff").unwrap_err().starts_with("yaml: invalid leading UTF-8 octet"));
    }

    #[test]
    fn of_a_key_that_is_there_twice_the_last_value_counts_and_all_their_lines_are_told() {
        let read = read(b"\na: 1\nb:\n  c: 1\n  c: 2\n  d: [{e: x, e: 2}]\na:\n  f: 1\n").unwrap();
        assert_eq!(read.value, coracle_tree::json!({"a": {"f": 1}, "b": {"c": 2, "d": [{"e": 2}]}}));
        let lines =
            ["line 5: key \"c\" already set in map", "line 6: key \"e\" already set in map", "line 7: key \"a\" already set in map"];
        assert_eq!(read.doubled, lines);
        assert_eq!(read.strict().unwrap(), format!("yaml: unmarshal errors:\n  {}", lines.join("\n  ")));
    }

    #[test]
    fn what_stands_twice_in_json_is_told_too() {
        let read = read(b"{\n\"a\": 1,\n\"b\": {\"c\": 1, \"c\": 2}}").unwrap();
        assert_eq!(
            (read.value, read.doubled),
            (coracle_tree::json!({"a": 1, "b": {"c": 2}}), vec!["line 3: key \"c\" already set in map".to_owned()])
        );
    }

    #[test]
    fn the_first_document_counts() {
        assert_eq!(read(b"a: 1\n---\na: 2\n").unwrap().value, coracle_tree::json!({"a": 1}));
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
