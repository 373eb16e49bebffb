//! How much an expression may cost (apiserver `pkg/apis/cel/config.go`, apiextensions `validation.go`).

/// The most that one evaluation may cost.
pub const PER_CALL: u64 = 1_000_000;
/// The most that all evaluations for one object, or one binding of a policy, may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// The most that all match conditions for one object may cost together.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// The most that one rule of a CRD may be estimated to cost.
pub const ESTIMATED: u64 = 10_000_000;
/// The most that all rules of a CRD may be estimated to cost together.
pub const ESTIMATED_CRD: u64 = 100_000_000;
/// The longest message that an expression may make, in bytes.
pub const MESSAGE_BYTES: usize = 5 * 1024;
/// The most elements of a list that an evaluation makes.
pub(crate) const ELEMENTS: usize = 4_000_000;
