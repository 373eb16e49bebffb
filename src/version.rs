//! Of what this program was built, as `build.rs` found it.

use coracle_apiserver::BuildInfo;

/// What `/version` tells.
pub(crate) fn build() -> BuildInfo {
    BuildInfo {
        commit: env!("CORACLE_COMMIT").to_owned(),
        tree_state: env!("CORACLE_TREE").to_owned(),
        date: env!("CORACLE_DATE").to_owned(),
        language: env!("CORACLE_LANGUAGE").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_the_build_is_whole_or_nothing() {
        let BuildInfo { commit, tree_state, date, language } = build();
        assert!(language.starts_with("rustc 1."), "{language}");
        assert!(commit.is_empty() || (commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit())), "{commit}");
        assert_eq!((commit.is_empty(), commit.is_empty()), (tree_state.is_empty(), date.is_empty()));
        assert!(date.is_empty() || date.parse::<jiff::Timestamp>().is_ok(), "{date}");
    }
}
