//! The odd rules of a kind: synchronous and pure, no store, no clock, no client.

use coracle_schema::FieldErrors;
use coracle_tree::Value;

use super::object::Object;
use crate::user::User;

/// Which part of an object a write addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// The main resource.
    Whole,
    /// `status`
    Status,
    /// Any other subresource that writes the object (`ephemeralcontainers`, `resize`, `finalize`, `approval`).
    Other(&'a str),
}

/// Switches of the generic path.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// PUT of an object that is not there creates it.
    pub create_on_update: bool,
    /// PUT without a resource version is taken as "whatever is there".
    pub unconditional_update: bool,
    /// Deletes take a grace period (pods).
    pub graceful: bool,
    /// Objects live at most this many seconds (events).
    pub ttl_seconds: Option<u64>,
    /// Objects may have others that depend on them, which a delete frees or awaits: not events.
    pub dependents: bool,
}

impl Policy {
    /// What most kinds have.
    pub const DEFAULT: Self =
        Self { create_on_update: false, unconditional_update: true, graceful: false, ttl_seconds: None, dependents: true };
    /// As most, but a PUT creates what is not there.
    pub const CREATING: Self = Self { create_on_update: true, ..Self::DEFAULT };
    /// As most, but a PUT has to say which version it replaces.
    pub const CONDITIONAL: Self = Self { unconditional_update: false, ..Self::DEFAULT };
}

/// Rules of one kind. The generic path does, without them: system metadata, keeping status and spec apart, generation, name and
/// metadata validation, pruning, table defaults and structural validation.
pub trait Rules: Send + Sync {
    /// Switches of the generic path.
    fn policy(&self) -> Policy {
        Policy::DEFAULT
    }

    /// Defaults that depend on other fields; runs after the table's defaults on every decoded object.
    fn default(&self, _object: &mut Object) {}

    /// Makes fields that stand for one another agree before anything is claimed for the object, where that is done of its kind.
    fn begin(&self, _new: &mut Object, _old: Option<&Object>) {}

    /// What keeps claims from being made for the object; after [`Rules::begin`].
    fn claimable(&self, _new: &Object, _old: Option<&Object>) -> FieldErrors {
        FieldErrors::none()
    }

    /// Sets or resets what the writer may not choose (`status.phase` of a new pod), after mutating admission.
    fn prepare(&self, _new: &mut Object, _old: Option<&Object>, _part: Part<'_>) {}

    /// Times the server writes into the object, where the kind has such; after [`Rules::prepare`]. `now` is in the form of the API.
    fn stamp(&self, _new: &mut Object, _old: Option<&Object>, _now: &str) {}

    /// Writes down who creates the object, where the object itself has to say so; after [`Rules::prepare`].
    fn note_creator(&self, _new: &mut Object, _creator: &User) {}

    /// What is to be counted of a change once it is stored.
    fn counts(&self, _new: &Object, _old: &Object) -> Option<Box<dyn FnOnce() + Send>> {
        None
    }

    /// Writes down when something happened, where the object itself has to say so; `now` as `metav1.Time` is written. After
    /// [`Rules::prepare`].
    fn note_time(&self, _new: &mut Object, _old: Option<&Object>, _part: Part<'_>, _now: &str) {}

    /// What is wrong with a name, or with the beginning of one (`prefix`), of a kind whose names depend on what the object says. `None`: its
    /// names follow the rule of the table.
    fn name_faults(&self, _new: &Object, _old: Option<&Object>, _name: &str, _prefix: bool) -> Option<Vec<String>> {
        None
    }

    /// What upstream fills in when it reads back what it has stored, so that nothing that looks at the write sees it.
    fn read_back(&self, _object: &mut Object) {}

    /// What an object that an earlier release wrote lacks, and upstream fills in whenever it reads one.
    fn complete_old(&self, _object: &mut Object) {}

    /// Cross-field rules; `old` is there on updates, for immutability.
    fn validate(&self, _new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        FieldErrors::none()
    }

    /// Whether the metadata of a new object is looked at only when nothing else is wrong: upstream's strategy says nothing of it, and the
    /// generic path comes after the strategy (`rest.BeforeCreate`).
    fn metadata_last(&self, _new: &Object) -> bool {
        false
    }

    /// Fields that may not change once the object is there. Upstream comes to these when everything else is said; what is said of them
    /// stands beside what tables and rules say of the same field.
    fn immutable(&self, _new: &Object, _old: &Object, _part: Part<'_>) -> FieldErrors {
        FieldErrors::none()
    }

    /// Paths of parts that upstream does not look at this time, because something before them is wrong (a pod template behind a malformed
    /// selector) or because they were there before: the tables are not heard of anything below them.
    fn passed_over(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Paths, without indexes, of which the tables are not heard: upstream does not apply the rule there, or says it elsewhere.
    fn unheard(&self) -> &'static [&'static str] {
        &[]
    }

    /// The order in which upstream looks at fields, where it is not that of the findings: paths without indexes, those of one parent
    /// together (`spec.selector`, `spec.template`). What is said of a field comes before what is said of its members, or after, where its
    /// path ends in a dot (`spec.selector.`). Fields that are not named come last. Empty: as found.
    fn order(&self) -> &'static [&'static str] {
        &[]
    }

    /// Texts for `Warning:` headers.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Seconds an object of a graceful kind gets to end when a delete names none.
    fn default_grace_seconds(&self, object: &Object) -> i64 {
        object.value().pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default()
    }

    /// Whether an object of a graceful kind has nothing to end: it never got a node, or is over.
    fn ends_at_once(&self, object: &Object) -> bool {
        object.text("/spec/nodeName").is_empty() || matches!(object.text("/status/phase"), "Succeeded" | "Failed")
    }

    /// Marks an object whose first delete is the kind's own affair; whether it did.
    fn mark_deleted(&self, _object: &mut Object, _now: jiff::Timestamp) -> bool {
        false
    }

    /// Fields beyond `metadata.name` and `metadata.namespace` that field selectors may name, with their values in `object`.
    fn selectable(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What clients of `group` call the selectable fields, where they have names of their own: (theirs, ours), all of them.
    fn field_labels(&self, _group: &str) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

/// What is wrong with an object, of what the tables and the kind's rules found: where both speak of a field the rule knows better; in the
/// order upstream finds it, the same thing once.
pub fn findings(tables: FieldErrors, rules: FieldErrors, of: &dyn Rules, new: &Object, old: Option<&Object>) -> FieldErrors {
    let (order, unheard, passed_over) = (of.order(), of.unheard(), of.passed_over(new, old));
    let below = |path: &str, of: &str| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    let spoken: std::collections::HashSet<String> = rules.0.iter().map(|error| error.path.clone()).collect();
    let heard = |path: &String| {
        let silent = unheard.contains(&plain(path).as_str()) || passed_over.iter().any(|part| below(path, part));
        !spoken.contains(path) && !silent
    };
    let mut found: Vec<_> = tables.0.into_iter().filter(|error| heard(&error.path)).chain(rules.0).collect();
    if !order.is_empty() {
        found.sort_by_cached_key(|error| place(&error.path, order));
    }
    let mut found = FieldErrors(found);
    found.say_once();
    found
}

/// A path without its indexes.
fn plain(path: &str) -> String {
    path.split('.').map(|step| step.split_once('[').map_or(step, |(name, _)| name)).collect::<Vec<_>>().join(".")
}

/// A path as something to sort by: for each step where its field stands in `order`, and which item it is.
fn place(path: &str, order: &[&str]) -> Vec<(usize, usize)> {
    let mut plain = String::new();
    let mut places = Vec::new();
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let (name, index) = step.split_once('[').unwrap_or((step, ""));
        if !plain.is_empty() {
            plain.push('.');
        }
        plain.push_str(name);
        let rank = order.iter().position(|known| known.strip_prefix(&*plain).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
        // An error of the list itself comes before those of its items; one of all its items, which names none, after them.
        let item = match index.trim_end_matches(']').parse::<usize>() {
            Ok(at) => at + 1,
            Err(_) if steps.peek().is_some() => usize::MAX,
            Err(_) => 0,
        };
        places.push((rank.unwrap_or(usize::MAX), item));
    }
    if order.iter().any(|known| known.strip_suffix('.') == Some(&*plain)) {
        if let Some((_, item @ 0)) = places.last_mut() {
            *item = usize::MAX;
        }
        places.push((usize::MAX, usize::MAX));
    }
    places
}

/// A kind without odd rules.
pub struct Plain;

/// The rules of most kinds.
pub static PLAIN: Plain = Plain;

impl Rules for Plain {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_says_of_a_field_replaces_what_the_table_says_and_comes_in_upstreams_order() {
        let mut tables = FieldErrors::none();
        tables.required("spec.template", "");
        tables.required("spec.items[1].name", "");
        tables.required("data", "");
        let mut rules = FieldErrors::none();
        rules.required("data", "data is mandatory");
        rules.invalid("spec.selector", "{}", "is empty");
        rules.forbidden("spec.items[0].kind", "no");
        struct Ordered;
        impl Rules for Ordered {
            fn order(&self) -> &'static [&'static str] {
                &["data", "spec.selector.", "spec.items.", "spec.template"]
            }

            fn unheard(&self) -> &'static [&'static str] {
                &["spec.items.size"]
            }

            fn passed_over(&self, _: &Object, _: Option<&Object>) -> Vec<String> {
                vec!["spec.passed".to_owned()]
            }
        }
        rules.required("spec.items", "nothing fits");
        rules.required("spec.items.kind", "of none");
        tables.required("spec.items[2].size", "");
        tables.required("spec.selector.key", "");
        tables.required("spec.passed.below", "");
        let object = Object::new(coracle_tree::json!({})).unwrap();
        let found = findings(tables, rules, &Ordered, &object, None);
        let texts: Vec<String> = found.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "data: Required value: data is mandatory",
                "spec.selector.key: Required value",
                "spec.selector: Invalid value: {}: is empty",
                "spec.items[0].kind: Forbidden: no",
                "spec.items[1].name: Required value",
                "spec.items.kind: Required value: of none",
                "spec.items: Required value: nothing fits",
                "spec.template: Required value",
            ]
        );
    }
}
