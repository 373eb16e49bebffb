//! Sets of completion indexes, as the API writes them: `1,3-5,7`.

use std::collections::BTreeSet;

use crate::pod::Pod;

/// The annotation and label that tell a pod its index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The index of a pod, if it has a valid one below `completions`.
pub(super) fn of(pod: &Pod, completions: i32) -> Option<i32> {
    pod.metadata.annotations.get(INDEX)?.parse().ok().filter(|index| (0..completions).contains(index))
}

/// Reads a set; what is no number below `completions` is left out.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..last.saturating_add(1).min(completions));
        }
    }
    set
}

/// Writes a set: runs of two are written apart, longer ones with a dash.
pub(super) fn format(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = set.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| *next == last + 1) {
            last = next;
        }
        parts.push(match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_survive_being_written_and_read() {
        for text in ["", "0", "0,1", "1,3-5,7", "0-9"] {
            assert_eq!(format(&parse(text, 10)), text);
        }
        assert_eq!(format(&parse("2-100", 5)), "2-4");
        assert!(parse("x,-", 5).is_empty());
    }
}
