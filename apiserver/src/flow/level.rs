//! Priority levels and the schemas that lead to them, as they are in force.

use std::{hash::DefaultHasher, sync::Arc};

use http::HeaderValue;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    demand::Demand,
    hand,
    metrics::Counts,
    queues::{Mode, Queues},
    rule::SchemaSpec,
};

/// The level nobody waits at.
pub(super) const EXEMPT: &str = "exempt";
/// The level, and the schema, of what no other takes.
pub(super) const CATCH_ALL: &str = "catch-all";

/// Bits of a hash that hands are dealt from.
const HASH_BITS: f64 = 60.0;
/// Of a level's seats, what one request may have at most.
const WIDEST: f64 = 0.15;

/// `spec` of a PriorityLevelConfiguration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct LevelSpec {
    #[serde(rename = "type")]
    pub kind: String,
    pub limited: Option<Limited>,
    pub exempt: Option<Exempt>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Limited {
    pub nominal_concurrency_shares: Option<u32>,
    pub limit_response: LimitResponse,
    pub lendable_percent: Option<u32>,
    pub borrowing_limit_percent: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exempt {
    pub nominal_concurrency_shares: Option<u32>,
    pub lendable_percent: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct LimitResponse {
    #[serde(rename = "type")]
    pub kind: String,
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Queuing {
    pub queues: usize,
    pub hand_size: usize,
    pub queue_length_limit: usize,
}

/// Shares of concurrency, the percent lent, and the percent borrowed at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    pub nominal: u32,
    pub lendable: u32,
    pub borrowing: Option<u32>,
}

impl LevelSpec {
    /// What it does with those that find no seat; `None` when it is broken and does not count.
    pub(super) fn mode(&self, name: &str) -> Option<Mode> {
        let exempt = self.kind == "Exempt";
        if exempt != self.exempt.is_some() || (self.kind == "Limited") != self.limited.is_some() || exempt != (name == EXEMPT) {
            return None;
        }
        let Some(limited) = &self.limited else { return Some(Mode::Exempt) };
        match (&*limited.limit_response.kind, &limited.limit_response.queuing) {
            ("Reject", None) => Some(Mode::Reject),
            ("Queue", Some(Queuing { queues, hand_size, queue_length_limit })) => {
                let fits = (1..=hand::LARGEST.min(*queues)).contains(hand_size) && *queues <= 1 << 26;
                let bits = ((*queues as f64).log2() * *hand_size as f64).ceil();
                let mode = Mode::Queue { queues: *queues, hand: *hand_size, length: *queue_length_limit };
                (fits && bits <= HASH_BITS).then_some(mode)
            }
            _ => None,
        }
    }

    pub(super) fn shares(&self) -> Shares {
        match (&self.limited, &self.exempt) {
            (Some(limited), _) => Shares {
                nominal: limited.nominal_concurrency_shares.unwrap_or(30),
                lendable: limited.lendable_percent.unwrap_or(0),
                borrowing: limited.borrowing_limit_percent,
            },
            (None, exempt) => {
                let of = |get: fn(&Exempt) -> Option<u32>| exempt.as_ref().and_then(get).unwrap_or(0);
                Shares { nominal: of(|e| e.nominal_concurrency_shares), lendable: of(|e| e.lendable_percent), borrowing: None }
            }
        }
    }

    /// Seats one request may have at most; 0: as many as any.
    pub(super) fn widest(&self, nominal: usize) -> u64 {
        let queuing = self.limited.as_ref().and_then(|limited| limited.limit_response.queuing.as_ref());
        let Some(queuing) = queuing else { return 0 };
        let by_hand = (nominal / queuing.hand_size.max(1)) as f64;
        (nominal as f64 * WIDEST).ceil().min(by_hand).max(1.0) as u64
    }
}

/// A level in force.
pub(super) struct Level {
    pub name: String,
    pub state: Mutex<LevelState>,
}

/// What changes of a level.
pub(super) struct LevelState {
    pub spec: LevelSpec,
    pub queues: Queues,
    pub nominal: usize,
    pub lower: usize,
    pub upper: usize,
    pub current: usize,
    pub widest: u64,
    pub demand: Demand,
    pub target: f64,
    /// Its object is gone; so is it as soon as nobody waits any more.
    pub quiescing: bool,
}

/// A schema in force.
pub(super) struct Schema {
    pub name: String,
    pub spec: SchemaSpec,
    pub level: Arc<Level>,
    /// Whether its flows are told apart.
    pub distinguished: bool,
    /// What the hashes of its flows begin with.
    pub begun: DefaultHasher,
    pub exempt: bool,
    /// The uids of the schema and of its level, as answers tell them.
    pub uids: [HeaderValue; 2],
    pub counts: Arc<Counts>,
}

impl Level {
    pub(super) fn new(name: &str, spec: LevelSpec, mode: Mode, now: Instant) -> Self {
        let state = LevelState {
            spec,
            queues: Queues::new(mode, 0, now),
            nominal: 0,
            lower: 0,
            upper: 0,
            current: 0,
            widest: 0,
            demand: Demand::default(),
            target: 0.0,
            quiescing: false,
        };
        Self { name: name.to_owned(), state: Mutex::new(state) }
    }
}

/// A schema for tests of what needs one.
#[cfg(test)]
pub(super) fn test_schema() -> Arc<Schema> {
    let level = Level::new("test", LevelSpec::default(), Mode::Exempt, Instant::now());
    let uids = [HeaderValue::from_static("s"), HeaderValue::from_static("l")];
    let (name, spec) = ("test".to_owned(), SchemaSpec::default());
    Arc::new(Schema {
        name,
        spec,
        level: Arc::new(level),
        distinguished: true,
        begun: hand::begun("test"),
        exempt: false,
        uids,
        counts: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn mode(name: &str, spec: coracle_tree::Value) -> Option<Mode> {
        coracle_tree::from_value::<LevelSpec>(spec).unwrap().mode(name)
    }

    #[test]
    fn a_level_that_contradicts_itself_does_not_count() {
        let queue = |queues: u32, hand: u32| {
            let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}})
        };
        assert_eq!(mode("a", queue(64, 6)), Some(Mode::Queue { queues: 64, hand: 6, length: 50 }));
        assert_eq!([mode("a", queue(4, 6)), mode("a", queue(0, 0)), mode("a", queue(1 << 20, 4))], [None; 3]);
        let reject = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}});
        assert_eq!((mode("a", reject.clone()), mode(EXEMPT, reject)), (Some(Mode::Reject), None));
        let exempt = json!({"type": "Exempt", "exempt": {}});
        assert_eq!((mode(EXEMPT, exempt.clone()), mode("a", exempt)), (Some(Mode::Exempt), None));
        assert_eq!(mode("a", json!({"type": "Limited"})), None);
    }

    #[test]
    fn one_request_gets_a_part_of_its_levels_seats() {
        let spec: LevelSpec = coracle_tree::from_value(json!({"limited": {"limitResponse": {"queuing": {"handSize": 6}}}})).unwrap();
        assert_eq!([spec.widest(245), spec.widest(49), spec.widest(3)], [37, 8, 1]);
        assert_eq!(LevelSpec::default().widest(100), 0);
    }
}
