//! From one ruleset to the next: the messages in an order the kernel accepts (names exist before they are used, and nothing uses them
//! any more when they go).

use super::super::netlink::Message;
use super::{Ruleset, text, wire};

/// One message and what it is about, for errors.
pub(super) struct Change {
    pub(super) what: String,
    pub(super) message: Message,
}

impl Change {
    pub(super) fn new(what: impl Into<String>, message: Message) -> Self {
        Self { what: what.into(), message }
    }
}

/// Everything to send to come from `old` (`None`: unknown) to `new`.
pub(super) fn changes(old: Option<&Ruleset>, new: &Ruleset) -> Vec<Change> {
    let mut out = Vec::new();
    let empty = Ruleset::new(&new.table);
    let old = match old {
        Some(old) if same_definitions(old, new) => old,
        _ => {
            // Deleting needs it to exist; the three together start afresh whatever is there.
            out.push(Change::new("table", wire::new_table(&new.table)));
            out.push(Change::new("table", wire::delete_table(&new.table)));
            out.push(Change::new("table", wire::new_table(&new.table)));
            &empty
        }
    };
    add_names(old, new, &mut out);
    fill_chains(old, new, &mut out);
    fill_sets(old, new, &mut out);
    remove_names(old, new, &mut out);
    out
}

/// Sets and hooks cannot change their kind in place.
fn same_definitions(old: &Ruleset, new: &Ruleset) -> bool {
    old.table == new.table
        && new
            .sets
            .iter()
            .all(|(name, set)| old.sets.get(name).is_none_or(|o| (&o.key, o.value, o.timeout) == (&set.key, set.value, set.timeout)))
        && new.chains.iter().all(|(name, chain)| old.chains.get(name).is_none_or(|o| o.hook == chain.hook))
}

fn add_names(old: &Ruleset, new: &Ruleset, out: &mut Vec<Change>) {
    for (id, (name, set)) in (1..).zip(&new.sets).filter(|(_, (name, _))| !old.sets.contains_key(*name)) {
        out.push(Change::new(format!("set {name}"), wire::new_set(&new.table, name, set, id)));
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        out.push(Change::new(format!("chain {name}"), wire::new_chain(&new.table, name, chain)));
    }
}

fn fill_chains(old: &Ruleset, new: &Ruleset, out: &mut Vec<Change>) {
    // Ids tie a rule to its anonymous map within the transaction; those of named sets come before.
    let mut id = u32::try_from(new.sets.len()).unwrap_or(u32::MAX / 2) + 1;
    for (name, chain) in &new.chains {
        match old.chains.get(name) {
            Some(o) if o.rules == chain.rules => continue,
            Some(o) if !o.rules.is_empty() => out.push(Change::new(format!("rules of {name}"), wire::flush_chain(&new.table, name))),
            _ => {}
        }
        for rule in &chain.rules {
            let what = format!("rule {name}: {}", text(rule));
            out.extend(wire::new_rule(&new.table, name, rule, &mut id).into_iter().map(|m| Change::new(what.clone(), m)));
        }
    }
}

fn fill_sets(old: &Ruleset, new: &Ruleset, out: &mut Vec<Change>) {
    for (name, set) in &new.sets {
        let before = old.sets.get(name);
        let gone = before.into_iter().flat_map(|b| &b.elements).filter(|(key, element)| set.elements.get(*key) != Some(element));
        let gone: Vec<_> = gone.map(|(key, element)| (key.as_slice(), element)).collect();
        let come = set.elements.iter().filter(|(key, element)| before.and_then(|b| b.elements.get(*key)) != Some(element));
        let come: Vec<_> = come.map(|(key, element)| (key.as_slice(), element)).collect();
        let what = format!("elements of {name}");
        out.extend(wire::delete_elements(&new.table, name, &gone).into_iter().map(|m| Change::new(what.clone(), m)));
        out.extend(wire::new_elements(&new.table, name, &come).into_iter().map(|m| Change::new(what.clone(), m)));
    }
}

fn remove_names(old: &Ruleset, new: &Ruleset, out: &mut Vec<Change>) {
    let gone = |name: &String| !new.chains.contains_key(name);
    // Elements of removed maps may lead to removed chains, and removed chains may use removed sets.
    for (name, chain) in old.chains.iter().filter(|(name, _)| gone(name)) {
        if !chain.rules.is_empty() {
            out.push(Change::new(format!("rules of {name}"), wire::flush_chain(&new.table, name)));
        }
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        out.push(Change::new(format!("set {name}"), wire::delete_set(&new.table, name)));
    }
    for name in old.chains.keys().filter(|name| gone(name)) {
        out.push(Change::new(format!("chain {name}"), wire::delete_chain(&new.table, name)));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{Element, Field, Part, Step, Value};
    use super::*;

    fn base() -> Ruleset {
        let mut rules = Ruleset::new("t");
        rules.set("m", &[Field::Dport], Value::Verdict);
        rules.rule("a", vec![Step::Reject]);
        rules.element("m", &[Part::Port(80)], Element::Goto("a".to_owned()));
        rules
    }

    fn what(old: Option<&Ruleset>, new: &Ruleset) -> Vec<String> {
        changes(old, new).into_iter().map(|change| change.what).collect()
    }

    #[test]
    fn the_first_write_replaces_whatever_is_there() {
        let wanted = ["table", "table", "table", "set m", "chain a", "rule a: reject", "elements of m"];
        assert_eq!(what(None, &base()), wanted);
    }

    #[test]
    fn nothing_changed_is_nothing_to_send() {
        assert!(what(Some(&base()), &base()).is_empty());
    }

    #[test]
    fn a_chain_is_let_go_after_the_elements_that_lead_to_it() {
        let mut new = base();
        new.chains.remove("a");
        new.rule("b", vec![Step::Balance(vec![(Ipv4Addr::LOCALHOST, 1)])]);
        new.element("m", &[Part::Port(80)], Element::Goto("b".to_owned()));
        let wanted = ["chain b", "rule b: dnat to one of { 127.0.0.1:1 }", "elements of m", "elements of m", "rules of a", "chain a"];
        assert_eq!(what(Some(&base()), &new), wanted);
    }

    #[test]
    fn a_set_of_another_kind_means_starting_afresh() {
        let mut new = base();
        new.set("m", &[Field::Daddr], Value::Verdict);
        assert_eq!(what(Some(&base()), &new)[..3], ["table", "table", "table"]);
    }
}
