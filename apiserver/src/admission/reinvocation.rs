//! Who sees an object again that was changed after them (apiserver `admission/reinvocation.go`, `plugin/webhook/mutating/reinvocationcontext.go`).
//!
//! When a policy or webhook changed the object, all plugins run once more; of policies and webhooks, those that ran before the change and
//! ask for it.

use std::collections::BTreeSet;

use coracle_tree::Value;

/// What one attempt remembers between the two runs.
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// This is the second run.
    pub(super) again: bool,
    /// There is to be one.
    pub(super) wanted: bool,
    pub(super) policies: Round,
    pub(super) webhooks: Round,
    /// The managed fields before anybody outside changed the object.
    pub(super) fields: Option<Value>,
}

/// Who ran, and who is due again.
#[derive(Debug, Default)]
pub(super) struct Round {
    last: Option<Value>,
    ran: BTreeSet<String>,
    due: BTreeSet<String>,
}

impl Round {
    /// The plugin begins. In the second run all that ran are due if others changed the object meanwhile.
    pub(super) fn begin(&mut self, again: bool, object: Option<&Value>) {
        if again && self.last.as_ref() != object {
            self.changed();
        }
    }

    /// The object was changed: those that ran are due.
    pub(super) fn changed(&mut self) {
        self.due.append(&mut self.ran);
    }

    /// One that asks for it ran.
    pub(super) fn ran(&mut self, key: String) {
        self.ran.insert(key);
    }

    /// Whether it is to run in the second run.
    pub(super) fn is_due(&self, key: &str) -> bool {
        self.due.contains(key)
    }

    /// The plugin ends.
    pub(super) fn end(&mut self, object: Option<&Value>) {
        // Nobody is due who never ran.
        self.last = if self.ran.is_empty() { None } else { object.cloned() };
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn who_ran_before_a_change_is_due_and_who_ran_after_it_only_if_others_changed_more() {
        let mut round = Round::default();
        round.begin(false, Some(&json!(1)));
        round.ran("early".into());
        round.changed();
        round.ran("late".into());
        round.end(Some(&json!(2)));
        round.begin(true, Some(&json!(2)));
        assert!(round.is_due("early") && !round.is_due("late"));
        round.begin(true, Some(&json!(3)));
        assert!(round.is_due("late"));
    }
}
