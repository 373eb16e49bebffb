//! Two ways of looking, as upstream has them for devices: rules that are written come first, those that its types declare stand at the
//! end, in words of their own (apiserver `rest.ValidateDeclarativelyWithMigrationChecks`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::super::view;

/// What is wrong, by who says it.
pub(super) struct Faults {
    /// What written rules say.
    pub(super) written: FieldErrors,
    declared: FieldErrors,
    /// Whether upstream looks at what types declare here; where it does not, a written rule says the same.
    declarative: bool,
}

/// How it is found out that an item stands twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unique {
    /// It may.
    No,
    /// A written rule looks, after the items.
    Written,
    /// The type declares it.
    Declared,
}

/// A list as its rules see it.
pub(super) struct Set<'v> {
    /// The items.
    pub(super) items: &'v [Value],
    /// More are too many.
    pub(super) most: usize,
    /// Whether each stands once.
    pub(super) unique: Unique,
    /// What items are told apart by.
    pub(super) key: fn(&Value) -> String,
}

impl Faults {
    /// Nothing wrong yet.
    pub(super) fn new(declarative: bool) -> Self {
        Self { written: FieldErrors::none(), declared: FieldErrors::none(), declarative }
    }

    /// Where a fault belongs that both ways find.
    pub(super) fn declared(&mut self) -> &mut FieldErrors {
        if self.declarative { &mut self.declared } else { &mut self.written }
    }

    /// All, in upstream's order.
    pub(super) fn into_errors(self) -> FieldErrors {
        let mut all = self.written;
        all.extend(self.declared);
        all
    }

    /// Looks at a list and, unless there are too many, at each item.
    pub(super) fn each<'v>(&mut self, set: &Set<'v>, path: &str, mut look: impl FnMut(&mut Self, &'v Value, &str)) {
        if set.items.len() > set.most {
            return self.declared().too_many(path, set.items.len(), set.most as u64);
        }
        let declared = set.unique == Unique::Declared && self.declarative;
        if declared {
            self.repeated(set, path, true);
        }
        for (at, item) in set.items.iter().enumerate() {
            look(self, item, &format!("{path}[{at}]"));
        }
        if set.unique != Unique::No && !declared {
            self.repeated(set, path, false);
        }
    }

    /// A declared rule shows the whole item, a written one its key.
    fn repeated(&mut self, set: &Set<'_>, path: &str, whole: bool) {
        let mut seen = HashSet::new();
        for (at, item) in set.items.iter().enumerate() {
            let key = (set.key)(item);
            if seen.contains(&key) {
                let shown = if whole { item.to_string() } else { view::quoted(&key) };
                let of = if whole { &mut self.declared } else { &mut self.written };
                of.duplicate(format!("{path}[{at}]"), shown);
            }
            seen.insert(key);
        }
    }

    /// The name of a driver (`ValidateCSIDriverName`).
    pub(super) fn driver(&mut self, driver: &str, path: &str) {
        driver_name(driver, path, &mut self.written);
    }

    /// The name of a driver where the type declares its form.
    pub(super) fn declared_driver(&mut self, driver: &str, path: &str) {
        if !self.declarative {
            return self.driver(driver, path);
        }
        let errors = &mut self.declared;
        if driver.is_empty() {
            return errors.required(path, "");
        }
        errors.invalid_each(path, driver, name::in_bytes(name::subdomain_of_any_case(driver)));
        if driver.len() > name::LABEL_MAX {
            errors.too_long(path, name::LABEL_MAX as u64, "character");
        }
    }

    /// The name of a pool.
    pub(super) fn pool(&mut self, pool: &str, path: &str) {
        pool_name(pool, path, &mut self.written);
    }

    /// The name of a pool where the type declares its form.
    pub(super) fn declared_pool(&mut self, pool: &str, path: &str) {
        if !self.declarative {
            return self.pool(pool, path);
        }
        if pool.is_empty() {
            return self.declared.required(path, "");
        }
        if pool.len() > name::SUBDOMAIN_MAX {
            self.declared.too_long(path, name::SUBDOMAIN_MAX as u64, "byte");
        }
        for (at, part) in pool.split('/').enumerate() {
            if part.is_empty() {
                self.declared.invalid(path, view::quoted(pool), &format!("segment {at}: must not be empty"));
            }
            for why in name::in_bytes(name::subdomain(part)).iter().filter(|_| !part.is_empty()) {
                self.declared.invalid(path, view::quoted(part), &format!("segment {at}: {why}"));
            }
        }
    }

    /// A domain and a name (`validateFullyQualifiedName`).
    pub(super) fn full_name(&mut self, text: &str, path: &str) {
        let declarative = self.declarative;
        let errors = self.declared();
        match text.split('/').collect::<Vec<_>>()[..] {
            [identifier] => c_identifier(identifier, path, errors),
            [domain, identifier] => {
                if domain.is_empty() {
                    errors.invalid(path, "\"\"", if declarative { "prefix must not be empty" } else { "the domain must not be empty" });
                } else if declarative {
                    if domain.len() > name::LABEL_MAX {
                        errors.too_long(path, name::LABEL_MAX as u64, "byte");
                    }
                    for why in name::in_bytes(name::subdomain(domain)) {
                        errors.invalid(path, view::quoted(domain), &format!("prefix: {why}"));
                    }
                } else {
                    driver_name(domain, path, errors);
                }
                if identifier.is_empty() {
                    errors.invalid(path, "\"\"", if declarative { "name must not be empty" } else { "the name must not be empty" });
                } else {
                    c_identifier(identifier, path, errors);
                }
            }
            _ => {}
        }
        if !text.contains('/') {
            errors.invalid(path, view::quoted(text), "a fully qualified name must be a domain and a name separated by a slash");
        }
    }

    /// An id of the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub(super) fn uid(&mut self, uid: &str, path: &str) {
        let dash = |at| matches!(at, 8 | 13 | 18 | 23);
        let fits = |(at, byte): (usize, u8)| if dash(at) { byte == b'-' } else { matches!(byte, b'0'..=b'9' | b'a'..=b'f') };
        if uid.len() != 36 || !uid.bytes().enumerate().all(fits) {
            self.declared().invalid(path, view::quoted(uid), "must be a lowercase UUID in 8-4-4-4-12 format");
        }
    }
}

/// A key of a set of texts.
pub(super) fn itself(item: &Value) -> String {
    item.as_str().unwrap_or_default().to_owned()
}

/// A key of a set of messages with names.
pub(super) fn named(item: &Value) -> String {
    view::text(item, "name").to_owned()
}

/// An attribute's or capacity's name, with or without a domain (`validateQualifiedName`).
pub(super) fn qualified_name(text: &str, path: &str, errors: &mut FieldErrors) {
    match text.split('/').collect::<Vec<_>>()[..] {
        [identifier] => c_identifier(identifier, path, errors),
        [domain, identifier] => {
            if domain.is_empty() {
                errors.invalid(path, "\"\"", "the domain must not be empty");
            } else {
                driver_name(domain, path, errors);
            }
            if identifier.is_empty() {
                errors.invalid(path, "\"\"", "the name must not be empty");
            } else {
                c_identifier(identifier, path, errors);
            }
        }
        // Upstream says nothing of more than one slash.
        _ => {}
    }
}

fn driver_name(driver: &str, path: &str, errors: &mut FieldErrors) {
    if driver.is_empty() {
        return errors.required(path, "");
    }
    if driver.len() > name::LABEL_MAX {
        errors.too_long(path, name::LABEL_MAX as u64, "byte");
    }
    errors.invalid_each(path, driver, name::subdomain(&driver.to_lowercase()));
}

fn pool_name(pool: &str, path: &str, errors: &mut FieldErrors) {
    if pool.is_empty() {
        return errors.required(path, "");
    }
    if pool.len() > name::SUBDOMAIN_MAX {
        errors.too_long(path, name::SUBDOMAIN_MAX as u64, "byte");
    }
    for part in pool.split('/') {
        errors.invalid_each(path, part, name::subdomain(part));
    }
}

fn c_identifier(id: &str, path: &str, errors: &mut FieldErrors) {
    const MOST: usize = 32;
    if id.len() > MOST {
        errors.too_long(path, MOST as u64, "byte");
    }
    errors.invalid_each(path, id, name::c_identifier(id));
}
