//! Numbers: ranges of formats, limits, multiples (kube-openapi `validate/validator.go`, `values.go`).

use std::cmp::Ordering;

use coracle_tree::Number;

use super::{
    node::{Kind, Node},
    text,
    value::{Check, Found, Place},
};

/// Checks a number. Whole ones are compared as such, and then so are limits, cut to whole numbers.
pub(super) fn check(check: &Check<'_>, node: &Node, number: &Number, place: &Place<'_>, found: &mut Found) {
    let range = Range::of(node);
    let value = number.as_f64().unwrap_or_default();
    if number.as_i64().is_none_or(|whole| !range.holds_whole(whole)) && !range.holds(value) {
        found.add(check.placeless(range.fault("Checked", place)));
    }
    let Some(checks) = node.checks.as_deref() else { return };
    let mut against = Against { check, number, value, range, place, found };
    if let Some(factor) = checks.multiple_of {
        against.multiple(factor);
    }
    if let Some(limit) = checks.maximum {
        let or_equal = if checks.exclusive_maximum { "" } else { " or equal to" };
        against.limit(limit, "Maximum", &format!("less than{or_equal}"), |order| match order {
            Ordering::Less => true,
            Ordering::Equal => !checks.exclusive_maximum,
            Ordering::Greater => false,
        });
    }
    if let Some(limit) = checks.minimum {
        let or_equal = if checks.exclusive_minimum { "" } else { " or equal to" };
        against.limit(limit, "Minimum", &format!("greater than{or_equal}"), |order| match order {
            Ordering::Less => false,
            Ordering::Equal => !checks.exclusive_minimum,
            Ordering::Greater => true,
        });
    }
}

/// Whether a float is a whole number, give or take rounding (go-openapi `swag.IsFloat64AJSONInteger`).
pub(super) fn is_whole(value: f64) -> bool {
    const MOST: f64 = 9_007_199_254_740_991.0;
    if !value.is_finite() || value.abs() > MOST {
        return false;
    }
    let cut = value.trunc();
    cut == value || (cut != 0.0 && (value - cut).abs() / (value.abs() + cut.abs()) < 1e-9)
}

/// A number that is being compared.
struct Against<'a> {
    check: &'a Check<'a>,
    number: &'a Number,
    value: f64,
    range: Range<'a>,
    place: &'a Place<'a>,
    found: &'a mut Found,
}

impl Against<'_> {
    /// The number as a whole one, where the limit it is compared with fits its type, too.
    fn whole(&mut self, limit: f64, what: &str) -> Option<i64> {
        if self.range.holds(limit) {
            return self.number.as_i64();
        }
        self.found.add(self.check.placeless(self.range.fault(what, self.place)));
        None
    }

    fn multiple(&mut self, factor: f64) {
        let whole = self.whole(factor, "MultipleOf");
        let (positive, factor_shown) = match whole {
            Some(_) => (factor as i64 > 0, (factor as i64).to_string()),
            None => (factor > 0.0, text::float_text(factor)),
        };
        if !positive {
            let text = format!("factor MultipleOf declared for {} must be positive: {factor_shown}", self.place.text());
            return self.found.add(self.check.invalid_whole(self.place, &factor_shown, text));
        }
        let (fits, shown) = match whole {
            Some(whole) => (whole % factor as i64 == 0, whole.to_string()),
            None => {
                let times = if factor < 1.0 { 1.0 / factor * self.value } else { self.value / factor };
                (is_whole(times), text::float_text(self.value))
            }
        };
        if !fits {
            let text = format!("should be a multiple of {factor_shown}");
            self.found.add(self.check.invalid(self.place, &shown, &text));
        }
    }

    fn limit(&mut self, limit: f64, what: &str, words: &str, fits: impl Fn(Ordering) -> bool) {
        let (order, shown, limit_shown) = match self.whole(limit, &format!("{what} boundary")) {
            Some(whole) => (Some(whole.cmp(&(limit as i64))), whole.to_string(), (limit as i64).to_string()),
            None => (self.value.partial_cmp(&limit), text::float_text(self.value), text::float_text(limit)),
        };
        if !order.is_some_and(fits) {
            self.found.add(self.check.invalid(self.place, &shown, &format!("should be {words} {limit_shown}")));
        }
    }
}

/// What numbers of a type and a format can be.
#[derive(Clone, Copy)]
struct Range<'a> {
    kind: &'static str,
    format: &'a str,
}

impl<'a> Range<'a> {
    fn of(node: &'a Node) -> Self {
        match node.kind {
            Kind::Integer | Kind::Number if !node.int_or_string => {
                let format = node.checks.as_ref().and_then(|checks| checks.format.as_deref()).unwrap_or_default();
                Self { kind: node.kind.as_str(), format }
            }
            _ => Self { kind: "", format: "" },
        }
    }

    fn holds_whole(self, value: i64) -> bool {
        match (self.kind, self.format) {
            ("integer", "int32") => i32::try_from(value).is_ok(),
            _ => true,
        }
    }

    fn holds(self, value: f64) -> bool {
        match (self.kind, self.format) {
            ("integer", "int32") => value.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value),
            ("integer", _) => value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0,
            ("number", "float") => value.abs() <= f64::from(f32::MAX),
            _ => true,
        }
    }

    fn fault(self, what: &str, place: &Place<'_>) -> String {
        let (kind, format, place) = (self.kind, self.format, place.text());
        match format {
            "" => format!("{what} value must be of type {kind} (default format) in {place}"),
            format => format!("{what} value must be of type {kind} with format {format} in {place}"),
        }
    }
}
