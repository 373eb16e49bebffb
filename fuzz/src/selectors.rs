//! Label and field selectors, quantities and names: small grammars that come with every request.

use coracle_schema::{
    Quantity,
    selector::{FieldSelector, LabelSelector},
};

/// Any text: parsed or refused, and what was parsed can be asked.
pub(crate) fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let labels = coracle_tree::Map::from_iter([("a", "b")]);
        let _ = selector.matches(&labels);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|_| "x");
    }
    if let Ok(quantity) = text.parse::<Quantity>() {
        let canonical = quantity.to_string();
        let again = canonical.parse::<Quantity>().map(|q| q.to_string());
        assert_eq!(again.as_ref(), Ok(&canonical), "{text} is written as {canonical}, which is not canonical");
    }
}
