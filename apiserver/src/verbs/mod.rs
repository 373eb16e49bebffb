//! The verbs, one file each, over any kind.
