//! Flags of leader election, under upstream's names. Their defaults are shorter than upstream's: a server that dies is replaced in less than
//! three seconds.

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{ArgAction, Args};

use super::Times;
use crate::dropin::flags::{duration, truth};

/// Who leads of several servers on one store.
#[derive(Args, Debug, Clone)]
pub(crate) struct LeadershipFlags {
    /// Take part in the election of the server that runs scheduler and controllers. Default: with --store=etcd; one server alone needs none.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    pub(crate) leader_elect: Option<bool>,

    /// How long the others wait after a leader's last renewal before they replace it; whole seconds.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive)]
    pub(crate) leader_elect_lease_duration: Duration,

    /// A leader that could not renew for this long stops leading; shorter than the lease.
    #[arg(long, value_name = "DURATION", default_value = "1500ms", value_parser = positive)]
    pub(crate) leader_elect_renew_deadline: Duration,

    /// Time between two renewals, and between two tries.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = positive)]
    pub(crate) leader_elect_retry_period: Duration,
}

fn positive(text: &str) -> Result<Duration, String> {
    let found = duration(text).filter(|seconds| *seconds > 0.0 && *seconds < 1e6);
    found.map(Duration::from_secs_f64).ok_or_else(|| "must be a positive duration such as 2s".to_owned())
}

impl LeadershipFlags {
    /// The times of the election; `None`: this server leads without one. `shared`: others may work on the same store.
    pub(crate) fn times(&self, shared: bool) -> Result<Option<Times>> {
        let times = Times {
            lease: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry: self.leader_elect_retry_period,
        };
        times.check().map_err(|why| anyhow!(why))?;
        Ok(self.leader_elect.unwrap_or(shared).then_some(times))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        leadership: LeadershipFlags,
    }

    fn of(line: &str) -> LeadershipFlags {
        Alone::try_parse_from(format!("x {line}").split_whitespace()).unwrap().leadership
    }

    #[test]
    fn one_server_alone_leads_without_an_election() {
        assert_eq!(of("").times(false).unwrap(), None);
        assert!(of("").times(true).unwrap().is_some_and(|times| times.lease == Duration::from_secs(2)));
        assert!(of("--leader-elect").times(false).unwrap().is_some() && of("--leader-elect=false").times(true).unwrap().is_none());
    }

    #[test]
    fn times_that_do_not_fit_are_refused_by_their_flags_names() {
        let error = of("--leader-elect-lease-duration=1s").times(true).unwrap_err().to_string();
        assert!(error.contains("--leader-elect-renew-deadline"), "{error}");
        assert!(
            of("--leader-elect-lease-duration=15s --leader-elect-renew-deadline=10s --leader-elect-retry-period=2s").times(true).is_ok()
        );
    }
}
