//! The Prometheus text format, version 0.0.4 (`prometheus/common/expfmt`): families by name, series by their labels.

use std::{collections::BTreeMap, fmt::Write as _};

use super::series::Histogram;

/// `# TYPE`
#[derive(Clone, Copy, Debug)]
pub(crate) enum Type {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts up to bounds.
    Histogram,
}

/// A document in the making.
#[derive(Default)]
pub(crate) struct Page(BTreeMap<&'static str, Section>);

struct Section {
    of: Type,
    help: &'static str,
    /// The lines of each series, by its labels.
    series: BTreeMap<String, String>,
}

/// One family of a page.
pub(crate) struct Lines<'p> {
    name: &'static str,
    section: &'p mut Section,
}

impl Page {
    /// A family; one that has no series in the end is left out.
    pub(crate) fn family(&mut self, name: &'static str, of: Type, help: &'static str) -> Lines<'_> {
        let section = self.0.entry(name).or_insert_with(|| Section { of, help, series: BTreeMap::new() });
        Lines { name, section }
    }

    /// One series of a gauge.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: f64) {
        self.family(name, Type::Gauge, help).pairs(labels, value);
    }

    /// Leaves out a family, if there is one of this name.
    pub(crate) fn leave_out(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The text.
    pub(crate) fn finish(self) -> String {
        let mut out = String::new();
        for (name, section) in self.0.iter().filter(|(_, section)| !section.series.is_empty()) {
            let of = match section.of {
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram => "histogram",
            };
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {of}", section.help);
            section.series.values().for_each(|lines| out.push_str(lines));
        }
        out
    }
}

impl Lines<'_> {
    /// A series with one value.
    pub(crate) fn value<V: AsRef<str>>(&mut self, names: &[&str], values: &[V], value: f64) {
        let pairs: Vec<_> = names.iter().copied().zip(values.iter().map(AsRef::as_ref)).collect();
        self.pairs(&pairs, value);
    }

    /// The same, with name and value of each label together.
    pub(crate) fn pairs(&mut self, pairs: &[(&str, &str)], value: f64) {
        let labels = labels(pairs);
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let line = format!("{}{braces} {}\n", self.name, number(value));
        self.section.series.insert(labels, line);
    }

    /// A series of buckets.
    pub(crate) fn histogram<V: AsRef<str>>(&mut self, names: &[&str], values: &[V], histogram: &Histogram) {
        if histogram.is_empty() {
            return;
        }
        let pairs: Vec<_> = names.iter().copied().zip(values.iter().map(AsRef::as_ref)).collect();
        let (buckets, sum, count) = histogram.read();
        self.buckets(&pairs, (&buckets, sum, count));
    }

    /// The same of bounds with how many were below, the sum and the count of all.
    pub(crate) fn buckets(&mut self, pairs: &[(&str, &str)], (buckets, sum, count): (&[(f64, u64)], f64, u64)) {
        let labels = labels(pairs);
        let (mut lines, name) = (String::new(), self.name);
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, below) in buckets {
            let _ = writeln!(lines, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {below}", number(*bound));
        }
        let _ = writeln!(lines, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(lines, "{name}_sum{braces} {}\n{name}_count{braces} {count}", number(sum));
        self.section.series.insert(labels, lines);
    }
}

/// `a="x",b="y"`, by name.
fn labels(pairs: &[(&str, &str)]) -> String {
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    let mut out = String::new();
    for (name, value) in pairs {
        let comma = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{comma}{name}=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

/// A number as Go's `strconv.FormatFloat(f, 'g', -1, 64)` writes it.
fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return match value {
            v if v.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "+Inf".to_owned(),
            f64::NEG_INFINITY => "-Inf".to_owned(),
            _ => "0".to_owned(),
        };
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let cases = [
            (0.005, "0.005"),
            (1e6, "1e+06"),
            (100_000.0, "100000"),
            (0.00001, "1e-05"),
            (50_000.0, "50000"),
            (1_050_000.0, "1.05e+06"),
            (2.5, "2.5"),
            (-1.0, "-1"),
            (1_795_291_094.25, "1.79529109425e+09"),
            (3.39, "3.39"),
            (f64::INFINITY, "+Inf"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_page_is_sorted_and_escaped() {
        let mut page = Page::default();
        page.gauge("b", "Two.", &[("y", "2"), ("x", "a\"\\\n")], 2.0);
        page.gauge("b", "Two.", &[("x", "0"), ("y", "1")], 1.0);
        page.gauge("a", "One.", &[], 7.0);
        page.family("empty", Type::Counter, "None.");
        assert_eq!(
            page.finish(),
            "# HELP a One.\n# TYPE a gauge\na 7\n# HELP b Two.\n# TYPE b gauge\nb{x=\"0\",y=\"1\"} 1\nb{x=\"a\\\"\\\\\\n\",y=\"2\"} 2\n"
        );
    }
}
