//! Label and field selectors of requests, evaluated over the few facts the cache keeps of each object. What they mean, and the words for
//! what is wrong with them, is [`coracle_schema::selector`]'s.

use coracle_schema::selector::{self, FieldTerm, Labels};
use coracle_tree::Value;

/// A parsed label selector; the default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(selector::LabelSelector);

/// A parsed field selector; the default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(selector::FieldSelector);

/// Labels that somebody looks up.
struct Lookup<'l, 'a>(&'l (dyn Fn(&str) -> Option<&'a str> + 'l));

impl Labels for Lookup<'_, '_> {
    fn label(&self, key: &str) -> Option<&str> {
        (self.0)(key)
    }
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),!h`. `Err` says what was found where.
    pub fn parse(text: &str) -> Result<Self, String> {
        selector::LabelSelector::parse(text).map(Self)
    }

    /// From a `meta/v1 LabelSelector`; `None` when it is malformed. An empty one selects everything.
    pub fn of_value(selector: &Value) -> Option<Self> {
        selector::LabelSelector::from_object(Some(selector)).ok().map(Self)
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_everything()
    }

    /// The conditions: label, what is asked of it, values.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, selector::Operator, &[Box<str>])> {
        self.0.requirements.iter().map(|one| (&*one.key, one.operator, &*one.values))
    }

    /// Whether the labels are selected; `get` looks one up.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.matches(&Lookup(&get))
    }
}

impl FieldSelector {
    /// Parses `a=b,c!=d`; `\` escapes `,`, `=` and itself in values.
    pub fn parse(text: &str) -> Result<Self, String> {
        selector::FieldSelector::parse(text).map(Self)
    }

    /// The same selector with its fields called by other names; `Err` is the first field that `to` has no name for.
    pub fn renamed(&self, to: impl Fn(&str) -> Option<String>) -> Result<Self, &str> {
        let term = |term: &FieldTerm| Some(FieldTerm { field: to(&term.field)?.into(), ..term.clone() });
        let terms = self.0.terms.iter().map(|of| term(of).ok_or(&*of.field)).collect::<Result<_, _>>()?;
        Ok(Self(selector::FieldSelector { terms }))
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_everything()
    }

    /// The value a field must have, if the selector says so.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.0.exact(field)
    }

    /// The conditions: field, value, and whether it is the one the field must not have.
    pub fn terms(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.0.terms.iter().map(|term| (&*term.field, &*term.value, term.negated))
    }

    /// The fields named.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.terms.iter().map(|term| &*term.field)
    }

    /// Whether the fields are selected; `get` looks one up (empty when the object has none).
    pub fn matches<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.0.matches(get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&'static str, &'static str)]) -> bool {
        LabelSelector::parse(selector).unwrap().matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn label_selectors_choose_as_upstream_does() {
        let web = &[("app", "web"), ("tier", "front"), ("rank", "7")];
        for yes in
            ["", "app=web", "app==web,tier", "app in (web, db)", "app notin (db)", "!gone", "gone!=x", "gone notin (x)", "rank>6", "rank<8"]
        {
            assert!(selects(yes, web), "{yes}");
        }
        for no in ["app=db", "!app", "gone", "app notin (web)", "rank>7", "gone in (x)", "app="] {
            assert!(!selects(no, web), "{no}");
        }
        assert!(selects("empty=", &[("empty", "")]));
    }

    #[test]
    fn malformed_label_selectors_say_what_was_found() {
        for bad in ["app in web", "=x", "a b", "a=b c", "-x=1", "a=-", "rank>x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_compare_values_and_know_escapes() {
        let get = |field: &str| match field {
            "metadata.name" => "a,b",
            "status.phase" => "Running",
            _ => "",
        };
        for yes in [r"metadata.name=a\,b", "status.phase!=Failed", "status.phase==Running,spec.nodeName="] {
            assert!(FieldSelector::parse(yes).unwrap().matches(get), "{yes}");
        }
        assert!(!FieldSelector::parse("spec.nodeName!=").unwrap().matches(get));
        assert!(FieldSelector::parse("nonsense").is_err());
        assert_eq!(FieldSelector::parse("metadata.name=x,a!=b").unwrap().requires("metadata.name"), Some("x"));
    }
}
