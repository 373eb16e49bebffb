//! What etcd's errors mean here (etcd `api/v3rpc/rpctypes/error.go`), and what can be done about them.

use crate::{Revision, StoreError, grpc::Fault};

/// As we say, like Go's gRPC, of an answer that is larger than is taken.
const OVER: &str = "received message larger than max";

const BUSY: &str = "etcdserver: too many requests";

/// Whether the token that went with a call is to be made anew.
pub(super) fn is_stale_token(fault: &Fault) -> bool {
    fault.text.contains("invalid auth token") || fault.text.contains("revision of auth store is old")
}

/// Whether etcd has users now and was not told who we are.
pub(super) fn is_nameless(fault: &Fault) -> bool {
    fault.text.contains("user name is empty")
}

/// Whether etcd has no users, so that there is no token to be had from it.
pub(super) fn has_no_users(fault: &Fault) -> bool {
    fault.text.contains("authentication is not enabled")
}

/// Whether an answer was larger than we take.
pub(super) fn is_over(fault: &Fault) -> bool {
    fault.text.contains(OVER)
}

/// Whether an answer did not come in time.
pub(super) fn is_late(fault: &Fault) -> bool {
    fault.code == "DeadlineExceeded"
}

/// Whether another member might do better: this one is gone, alone, or too slow.
pub(super) fn is_of_member(fault: &Fault) -> bool {
    matches!(fault.code, "Unavailable" | "DeadlineExceeded" | "Canceled")
        || fault.text.contains("not leader")
        || fault.text.contains("server stopped")
        || fault.text.contains("corrupt")
        || is_refused_before(fault)
}

/// Whether a member has too much to do: it is asked again, over the same connection.
pub(super) fn is_busy(fault: &Fault) -> bool {
    fault.text.contains(BUSY)
}

/// Whether a member refused before it did anything, so that even a write can be asked of another.
pub(super) fn is_refused_before(fault: &Fault) -> bool {
    ["etcdserver: no leader", "etcdserver: not leader", BUSY, "rpc not supported for learner"].iter().any(|text| fault.text.contains(text))
}

/// Whether the revision asked for is compacted.
pub(super) fn is_compacted(fault: &Fault) -> bool {
    fault.text.contains("required revision has been compacted")
}

/// Whether the lease of a write has ended.
pub(super) fn is_lease_gone(fault: &Fault) -> bool {
    fault.text.contains("requested lease not found")
}

/// The store's word for a call that failed. `size` is that of the value that was written, in bytes.
pub(super) fn store_error(fault: &Fault, size: usize) -> StoreError {
    /// `--max-request-bytes` as etcd has it when nobody says otherwise.
    const REQUEST: usize = 1_572_864;
    let said = |advice: &str| StoreError::Unavailable(format!("{}; {advice}", fault.text));
    let text = fault.text.as_str();
    match fault.code {
        _ if is_compacted(fault) => StoreError::Compacted { oldest: Revision(0) },
        _ if text.contains("request is too large") || text.contains("trying to send message larger than max") => {
            StoreError::TooLarge { size, limit: REQUEST.min(size.saturating_sub(1)) }
        }
        // etcd's word of a write; of a read it is ours, and nothing was written.
        "ResourceExhausted" if text.contains(OVER) && size > 0 => StoreError::TooLarge { size, limit: REQUEST.min(size.saturating_sub(1)) },
        "ResourceExhausted" if text.contains(OVER) => said("etcd's answer is too large"),
        "ResourceExhausted" if text.contains("database space exceeded") => {
            said("etcd takes no more writes: compact and defragment it, or raise its --quota-backend-bytes, then `etcdctl alarm disarm`")
        }
        "ResourceExhausted" => said("etcd is asked too much; try again"),
        "PermissionDenied" => said("grant the user of --etcd-username readwrite on the prefix, or use another certificate"),
        _ if text.contains("authentication failed") => said("check --etcd-username and the password file"),
        _ if is_nameless(fault) => said("etcd wants a user: give --etcd-username and --etcd-password-file"),
        _ if text.contains("corrupt") => said("a member's data differs from the others': replace that member"),
        "Unavailable" | "DeadlineExceeded" if text.contains("leader") || text.contains("timed out") => {
            said("etcd has no majority at the moment: see that most of its members run and reach one another")
        }
        "Unavailable" | "DeadlineExceeded" | "Canceled" => said("see that etcd runs and can be reached"),
        _ => StoreError::Unavailable(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: &'static str, text: &str) -> String {
        store_error(&Fault::new(code, text), 9).to_string()
    }

    #[test]
    fn an_error_says_what_to_do() {
        assert!(told("ResourceExhausted", "etcdserver: mvcc: database space exceeded").contains("alarm disarm"));
        assert!(told("Unavailable", "etcdserver: no leader").contains("majority"));
        assert!(told("Unavailable", "etcdserver: request timed out").contains("majority"));
        assert!(told("PermissionDenied", "etcdserver: permission denied").contains("readwrite"));
        assert!(told("Unavailable", "connection refused").contains("can be reached"));
    }

    #[test]
    fn only_a_refusal_before_anything_was_done_lets_a_write_be_made_again() {
        for (text, before) in [
            ("etcdserver: no leader", true),
            ("etcdserver: request timed out", false),
            ("etcdserver: request timed out, possibly due to previous leader failure", false),
            ("etcdserver: leader changed", false),
        ] {
            let fault = Fault::new("Unavailable", text);
            assert!(is_of_member(&fault), "{text}");
            assert_eq!(is_refused_before(&fault), before, "{text}");
        }
        for (code, text) in
            [("ResourceExhausted", "etcdserver: too many requests"), ("FailedPrecondition", "etcdserver: rpc not supported for learner")]
        {
            let fault = Fault::new(code, text);
            assert!(is_of_member(&fault) && is_refused_before(&fault), "{text}");
        }
        assert!(!is_of_member(&Fault::new("ResourceExhausted", "etcdserver: mvcc: database space exceeded")));
    }

    #[test]
    fn sizes_and_history_have_errors_of_their_own() {
        let too_large = store_error(&Fault::new("InvalidArgument", "etcdserver: request is too large"), 2 << 20);
        assert_eq!(too_large, StoreError::TooLarge { size: 2 << 20, limit: 1_572_864 });
        let answer = Fault::new("ResourceExhausted", "received message larger than max (9 vs. 8)");
        assert!(matches!(store_error(&answer, 9), StoreError::TooLarge { size: 9, .. }));
        assert!(matches!(store_error(&answer, 0), StoreError::Unavailable(_)), "nothing was written");
        assert!(is_over(&answer) && !is_late(&answer));
        let old = Fault::new("OutOfRange", "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(store_error(&old, 0), StoreError::Compacted { oldest: Revision(0) });
    }
}
