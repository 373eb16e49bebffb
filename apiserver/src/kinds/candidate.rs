//! Those who would lead by agreement (upstream `apis/coordination/validation`, `registry/coordination/leasecandidate`).

use std::cmp::Ordering;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::view;
use crate::registry::{Object, Part, Policy, Rules};

/// The one way to choose that is Kubernetes' own.
const OLDEST: &str = "OldestEmulationVersion";

/// Rules of `leasecandidates`.
pub(super) struct LeaseCandidate;

impl Rules for LeaseCandidate {
    fn policy(&self) -> Policy {
        Policy { create_on_update: true, ..Policy::CONDITIONAL }
    }

    fn name_faults(&self, _new: &Object, _old: Option<&Object>, text: &str, _prefix: bool) -> Option<Vec<String>> {
        Some(name::config_key(text))
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.leaseName", view::text(view::member(object, "spec"), "leaseName").to_owned())]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        let lease = view::text(spec, "leaseName");
        if lease.is_empty() {
            errors.required("spec.leaseName", "");
        }
        let emulated = version(spec, "emulationVersion", &mut errors);
        let binary = view::text(spec, "binaryVersion");
        if binary.is_empty() {
            errors.required("spec.binaryVersion", "");
        }
        let binaries = version(spec, "binaryVersion", &mut errors);
        // What is no version counts as 0.0.0.
        let given = !binary.is_empty() && !view::text(spec, "emulationVersion").is_empty();
        if given && binaries.unwrap_or_default().is_below(&emulated.unwrap_or_default()) {
            errors.invalid("spec.binaryVersion", view::quoted(binary), "must be greater than or equal to `emulationVersion`");
        }
        strategy(view::text(spec, "strategy"), emulated.unwrap_or_default(), &mut errors);
        if let Some(old) = old
            && view::text(view::member(old.value(), "spec"), "leaseName") != lease
        {
            errors.invalid("spec.leaseName", view::quoted(lease), "field is immutable");
        }
        errors
    }
}

fn strategy(text: &str, emulated: Semantic<'_>, errors: &mut FieldErrors) {
    if text.is_empty() {
        // The table asks for it.
        return;
    }
    if text == OLDEST && emulated == Semantic::default() {
        errors.required("spec.emulationVersion", "must be specified when `strategy` is 'OldestEmulationVersion'");
    }
    // Upstream names the field twice.
    let path = "spec.strategy.strategy";
    if text.contains('/') {
        errors.invalid_each(path, text, name::qualified(text));
    } else if text != OLDEST {
        errors.not_supported(path, view::quoted(text), &[OLDEST]);
    }
}

/// A field's version, if it is one.
fn version<'v>(spec: &'v Value, field: &str, errors: &mut FieldErrors) -> Option<Semantic<'v>> {
    let text = view::text(spec, field);
    let parsed = Semantic::parse(text);
    if parsed.is_none() && !text.is_empty() {
        errors.invalid(format!("spec.{field}"), view::quoted(text), "must be a valid semantic version");
    }
    parsed
}

/// `1.37.0-rc.1+build`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Semantic<'v> {
    numbers: [u64; 3],
    /// `rc.1`; a version without is above those with.
    before: &'v str,
}

impl<'v> Semantic<'v> {
    fn parse(text: &'v str) -> Option<Self> {
        let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
        let (core, before) = rest.split_once('-').map_or((rest, None), |(core, before)| (core, Some(before)));
        let number = |part: &str| part.parse().ok().filter(|_| part == "0" || !part.starts_with(['0', '+']));
        let numbers: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let are_words = |words: Option<&str>| words.is_none_or(|words| words.split('.').all(is_word));
        (are_words(before) && are_words(build)).then_some(Self { numbers: numbers.try_into().ok()?, before: before.unwrap_or_default() })
    }

    fn is_below(&self, other: &Self) -> bool {
        let word = |a: &str, b: &str| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        };
        let before = match (self.before.is_empty(), other.before.is_empty()) {
            (true, _) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let (mine, theirs) = (self.before.split('.'), other.before.split('.'));
                let differing = mine.clone().zip(theirs.clone()).map(|(a, b)| word(a, b)).find(|order| order.is_ne());
                differing.unwrap_or_else(|| mine.count().cmp(&theirs.count()))
            }
        };
        self.numbers.cmp(&other.numbers).then(before).is_lt()
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn told(spec: Value, old: Option<Value>) -> Vec<String> {
        let object = |spec: Value| Object::new(json!({"metadata": {"name": "c"}, "spec": spec})).unwrap();
        let old = old.map(object);
        LeaseCandidate.validate(&object(spec), old.as_ref(), Part::Whole).0.iter().map(ToString::to_string).collect()
    }

    fn candidate(binary: &str, emulated: &str, strategy: &str) -> Value {
        json!({"leaseName": "l", "binaryVersion": binary, "emulationVersion": emulated, "strategy": strategy})
    }

    #[test]
    fn a_candidate_says_what_it_is_and_how_is_chosen() {
        assert_eq!(told(candidate("1.37.0", "1.36.0", OLDEST), Some(candidate("1.36.0", "", "a.b/c"))), [""; 0]);
        assert_eq!(told(candidate("1.36.0-rc.1", "1.36.0", OLDEST), None).len(), 1);
        assert_eq!(told(candidate("v1.36", "01.2.3", "a.b/c"), None).len(), 2);
        assert_eq!(told(json!({}), None), ["spec.leaseName: Required value", "spec.binaryVersion: Required value"]);
        assert_eq!(
            told(candidate("1.36.0", "", OLDEST), None),
            ["spec.emulationVersion: Required value: must be specified when `strategy` is 'OldestEmulationVersion'"]
        );
        assert_eq!(
            told(candidate("1.36.0", "1.36.0", "Any"), None),
            ["spec.strategy.strategy: Unsupported value: \"Any\": supported values: \"OldestEmulationVersion\""]
        );
        let mut other = candidate("1.36.0", "1.36.0", OLDEST);
        other["leaseName"] = "m".into();
        assert_eq!(told(other, Some(candidate("1.36.0", "1.36.0", OLDEST))).len(), 1);
    }

    #[test]
    fn versions_are_ordered_as_their_authors_say() {
        let below = |a: &'static str, b: &'static str| Semantic::parse(a).unwrap().is_below(&Semantic::parse(b).unwrap());
        let rising = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-rc.2", "1.0.0-rc.11", "1.0.0", "1.0.10"];
        for pair in rising.windows(2) {
            assert!(below(pair[0], pair[1]) && !below(pair[1], pair[0]) && !below(pair[0], pair[0]), "{pair:?}");
        }
        assert!(["1.2", "1.2.x", "1.2.3-", "1.2.3+", "1.02.3", "1.2.+3", ""].iter().all(|text| Semantic::parse(text).is_none()));
    }
}
