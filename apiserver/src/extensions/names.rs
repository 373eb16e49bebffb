//! Who has which name: within a group no two CRDs may use the same plural, singular or short name, nor the same kind (upstream's
//! `controller/status/naming_controller.go`).

use std::collections::{BTreeMap, HashMap};

use super::definition::{Definition, Names};
use crate::registry::condition::Condition;

/// The names in use, by group and by CRD.
#[derive(Default)]
pub(super) struct Taken(HashMap<String, BTreeMap<String, Names>>);

impl Taken {
    /// Notes the names a CRD has been granted.
    pub(super) fn note(&mut self, definition: &Definition) {
        let group = self.0.entry(definition.spec.group.clone()).or_default();
        group.insert(definition.metadata.name.clone(), definition.status.accepted_names.clone());
    }

    /// Forgets the names of a CRD that is gone; its group.
    pub(super) fn forget(&mut self, group: &str, name: &str) {
        if let Some(all) = self.0.get_mut(group) {
            all.remove(name);
            if all.is_empty() {
                self.0.remove(group);
            }
        }
    }

    /// The other CRDs of a group.
    pub(super) fn others<'t>(&'t self, group: &str, name: &'t str) -> impl Iterator<Item = &'t String> {
        self.0.get(group).into_iter().flat_map(|all| all.keys()).filter(move |other| *other != name)
    }

    /// What a CRD is granted of the names it wants, and the condition `NamesAccepted` that says so.
    pub(super) fn grant(&self, definition: &Definition) -> (Names, Condition) {
        let all = || self.0.get(&definition.spec.group).into_iter().flat_map(BTreeMap::values);
        let resource = |name: &str| all().any(|n| n.plural == name || n.singular == name || n.short_names.iter().any(|s| s == name));
        let kind = |name: &str| all().any(|n| n.kind == name || n.list_kind == name);
        let (wanted, had) = (&definition.spec.names, &definition.status.accepted_names);
        let mut granted = had.clone();
        let mut refused: Option<(&str, String)> = None;
        let single: [(&str, &String, &String, &mut String, bool); 2] = [
            ("PluralConflict", &wanted.plural, &had.plural, &mut granted.plural, resource(&wanted.plural)),
            ("SingularConflict", &wanted.singular, &had.singular, &mut granted.singular, resource(&wanted.singular)),
        ];
        for (reason, wanted, had, granted, used) in single {
            settle(reason, wanted, had, granted, used, &mut refused);
        }
        let fresh = wanted.short_names.iter().filter(|s| !had.short_names.contains(s));
        let conflicts: Vec<String> = fresh.filter(|s| resource(s)).map(|s| in_use(s)).collect();
        match conflicts.as_slice() {
            [] => granted.short_names.clone_from(&wanted.short_names),
            [one] => refused = Some(("ShortNamesConflict", one.clone())),
            many => refused = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
        }
        let kinds: [(&str, &String, &String, &mut String, bool); 2] = [
            ("KindConflict", &wanted.kind, &had.kind, &mut granted.kind, kind(&wanted.kind)),
            ("ListKindConflict", &wanted.list_kind, &had.list_kind, &mut granted.list_kind, kind(&wanted.list_kind)),
        ];
        for (reason, wanted, had, granted, used) in kinds {
            settle(reason, wanted, had, granted, used, &mut refused);
        }
        granted.categories.clone_from(&wanted.categories);
        let (status, reason, message) = match refused {
            None => ("True", "NoConflicts", "no conflicts found".to_owned()),
            Some((reason, message)) => ("False", reason, message),
        };
        (granted, Condition { kind: "NamesAccepted".into(), status: status.into(), reason: reason.into(), message })
    }
}

/// Grants one name, unless somebody else has it. The last refusal is the one told.
fn settle<'r>(reason: &'r str, wanted: &str, had: &str, granted: &mut String, used: bool, refused: &mut Option<(&'r str, String)>) {
    if wanted != had && used {
        *refused = Some((reason, in_use(wanted)));
    } else {
        wanted.clone_into(granted);
    }
}

fn in_use(name: &str) -> String {
    format!("{name:?} is already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, kind: &str, short: &[&str]) -> Names {
        Names {
            plural: plural.into(),
            singular: kind.to_lowercase(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            short_names: short.iter().map(ToString::to_string).collect(),
            ..Names::default()
        }
    }

    fn definition(wanted: Names, had: Names) -> Definition {
        let mut made = Definition::default();
        made.metadata.name = format!("{}.example.com", wanted.plural);
        made.spec.group = "example.com".into();
        made.spec.names = wanted;
        made.status.accepted_names = had;
        made
    }

    #[test]
    fn free_names_are_granted() {
        let wanted = names("widgets", "Widget", &["w"]);
        let (granted, condition) = Taken::default().grant(&definition(wanted.clone(), Names::default()));
        assert_eq!((granted, condition.status.as_str(), condition.reason.as_str()), (wanted, "True", "NoConflicts"));
    }

    #[test]
    fn a_name_another_has_is_refused_and_the_others_are_granted() {
        let mut taken = Taken::default();
        taken.note(&definition(names("widgets", "Widget", &["w"]), names("widgets", "Widget", &["w"])));
        let (granted, condition) = taken.grant(&definition(names("wares", "Widget", &["w", "x"]), Names::default()));
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "ListKindConflict"));
        assert_eq!(condition.message, "\"WidgetList\" is already in use");
        assert_eq!((granted.plural.as_str(), granted.kind.as_str(), granted.short_names.len()), ("wares", "", 0));
        taken.forget("example.com", "widgets.example.com");
        assert_eq!(taken.grant(&definition(names("wares", "Widget", &["w"]), Names::default())).1.status, "True");
    }

    #[test]
    fn other_groups_do_not_matter() {
        let mut taken = Taken::default();
        let mut other = definition(names("widgets", "Widget", &[]), names("widgets", "Widget", &[]));
        other.spec.group = "other.com".into();
        taken.note(&other);
        assert_eq!(taken.grant(&definition(names("widgets", "Widget", &[]), Names::default())).1.status, "True");
    }
}
