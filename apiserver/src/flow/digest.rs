//! From FlowSchema and PriorityLevelConfiguration objects to what is in force (upstream `flowcontrol/apf_controller.go`).

use std::{collections::BTreeMap, sync::Arc};

use coracle_tree::Value;
use http::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    allocation::{self, Claim},
    hand,
    level::{CATCH_ALL, EXEMPT, Level, LevelSpec, Schema},
    metrics::Counts,
    queues::Mode,
    rule::SchemaSpec,
};
use crate::bootstrap::flow;

/// The levels and schemas in force.
pub(super) struct Config {
    /// In the order in which they are tried.
    pub schemas: Vec<Arc<Schema>>,
    /// The one of what no other takes.
    pub catch_all: Arc<Schema>,
    pub levels: BTreeMap<String, Arc<Level>>,
    /// Seats of all levels: rounding gives a few more than there should be.
    pub seats: usize,
}

/// An object of either kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Given<S> {
    pub metadata: Metadata,
    pub spec: S,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub name: String,
    pub uid: String,
}

/// A FlowSchema object.
pub(super) type GivenSchema = Given<SchemaSpec>;
/// A PriorityLevelConfiguration object.
pub(super) type GivenLevel = Given<LevelSpec>;

/// The counts of all schemas, by level and schema: they outlive the objects.
pub(super) type AllCounts = BTreeMap<(String, String), Arc<Counts>>;

/// What is in force from now on. `limit` is how many requests there may be at a time.
pub(super) fn digest(
    before: &Config,
    levels: &[GivenLevel],
    schemas: &[GivenSchema],
    limit: usize,
    counts: &mut AllCounts,
    now: Instant,
) -> (Config, f64) {
    let mut config = Config { schemas: Vec::new(), catch_all: Arc::clone(&before.catch_all), levels: BTreeMap::new(), seats: 0 };
    let mut uids: BTreeMap<&str, &str> = BTreeMap::new();
    for given in levels {
        let name = &given.metadata.name;
        let Some(mode) = given.spec.mode(name) else { continue };
        let level = before.levels.get(name).cloned().unwrap_or_else(|| Arc::new(Level::new(name, given.spec.clone(), mode, now)));
        {
            let mut state = level.state.lock();
            state.spec = given.spec.clone();
            state.quiescing = false;
        }
        config.levels.insert(name.clone(), level);
        uids.insert(name, &given.metadata.uid);
    }
    let mut usable: Vec<&GivenSchema> =
        schemas.iter().filter(|given| config.levels.contains_key(&given.spec.priority_level_configuration.name)).collect();
    usable.sort_by(|a, b| (a.spec.matching_precedence, &a.metadata.name).cmp(&(b.spec.matching_precedence, &b.metadata.name)));
    let mut ordered: Vec<GivenSchema> = usable.into_iter().cloned().collect();
    keep_old_levels(before, &mut config);
    let (exempt, catch_all) = (imagined_schema(EXEMPT), imagined_schema(CATCH_ALL));
    if !ordered.iter().any(|given| given.metadata.name == EXEMPT) {
        ordered.insert(0, exempt);
    }
    if !ordered.iter().any(|given| given.metadata.name == CATCH_ALL) {
        ordered.push(catch_all);
    }
    for name in [EXEMPT, CATCH_ALL] {
        if !config.levels.contains_key(name) {
            let spec = imagined::<LevelSpec>("prioritylevelconfigurations", name).spec;
            let mode = spec.mode(name).unwrap_or(Mode::Exempt);
            config.levels.insert(name.to_owned(), Arc::new(Level::new(name, spec, mode, now)));
        }
    }
    for given in ordered {
        let Some(level) = config.levels.get(&given.spec.priority_level_configuration.name) else { continue };
        let uid = uids.get(level.name.as_str()).copied().unwrap_or_default();
        let counts = counts.entry((level.name.clone(), given.metadata.name.clone())).or_default();
        let made = Arc::new(compiled(given, level, uid, counts));
        if made.name == CATCH_ALL {
            config.catch_all = Arc::clone(&made);
        }
        config.schemas.push(made);
    }
    let fair = divide(&mut config, before, limit, now);
    (config, fair)
}

impl Config {
    /// With the level of what no other takes, before anything is known.
    pub(super) fn new(now: Instant) -> Self {
        let level = imagined::<LevelSpec>("prioritylevelconfigurations", CATCH_ALL);
        let mode = level.spec.mode(CATCH_ALL).unwrap_or(Mode::Reject);
        let level = Arc::new(Level::new(CATCH_ALL, level.spec, mode, now));
        let catch_all = Arc::new(compiled(imagined_schema(CATCH_ALL), &level, "", &Arc::default()));
        Self { schemas: Vec::new(), catch_all, levels: BTreeMap::from([(CATCH_ALL.to_owned(), level)]), seats: 0 }
    }
}

fn compiled(given: GivenSchema, level: &Arc<Level>, level_uid: &str, counts: &Arc<Counts>) -> Schema {
    let mode = level.state.lock().spec.mode(&level.name);
    let uid = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    Schema {
        uids: [uid(&given.metadata.uid), uid(level_uid)],
        begun: hand::begun(&given.metadata.name),
        name: given.metadata.name,
        distinguished: matches!(mode, Some(Mode::Queue { queues: 2.., .. })),
        exempt: mode == Some(Mode::Exempt),
        spec: given.spec,
        level: Arc::clone(level),
        counts: Arc::clone(counts),
    }
}

/// Levels without objects stay as long as anybody waits there, and the mandatory ones for ever.
fn keep_old_levels(before: &Config, config: &mut Config) {
    for (name, level) in &before.levels {
        if config.levels.contains_key(name) {
            continue;
        }
        let mandatory = name == EXEMPT || name == CATCH_ALL;
        let mut state = level.state.lock();
        if !mandatory && state.queues.is_idle() {
            continue;
        }
        state.quiescing = !mandatory;
        drop(state);
        config.levels.insert(name.clone(), Arc::clone(level));
    }
}

/// A mandatory object that is not there, as it should be.
fn imagined<S: for<'de> Deserialize<'de> + Default>(resource: &str, name: &str) -> Given<S> {
    let found = flow::all("").into_iter().find(|wanted| wanted.resource == resource && wanted.object["metadata"]["name"] == name);
    let object = found.map_or(Value::Null, |wanted| wanted.object);
    coracle_tree::from_value(object).unwrap_or_default()
}

fn imagined_schema(name: &str) -> GivenSchema {
    imagined("flowschemas", name)
}

/// Divides the seats among the levels. Returns the proportion of what they want that they get.
fn divide(config: &mut Config, before: &Config, limit: usize, now: Instant) -> f64 {
    let sum: f64 = config.levels.values().map(|level| f64::from(level.state.lock().spec.shares().nominal)).sum();
    config.seats = 0;
    for (name, level) in &config.levels {
        let mut state = level.state.lock();
        let shares = state.spec.shares();
        let nominal = if sum > 0.0 { (limit as f64 * f64::from(shares.nominal) / sum).ceil() } else { 0.0 };
        let part = |percent: u32| (nominal * f64::from(percent) / 100.0).round() as usize;
        let (nominal_seats, lendable) = (nominal as usize, part(shares.lendable));
        let borrowing = shares.borrowing.map_or(limit, part);
        (state.nominal, state.lower, state.upper) = (nominal_seats, nominal_seats - lendable.min(nominal_seats), nominal_seats + borrowing);
        state.widest = state.spec.widest(nominal_seats);
        if !before.levels.contains_key(name) {
            state.current = nominal_seats - (lendable / 2).min(nominal_seats);
        }
        config.seats += nominal_seats;
    }
    borrow(config, now)
}

/// Levels that want little lend to those that want more. Returns the proportion of what they want that they get.
pub(super) fn borrow(config: &Config, now: Instant) -> f64 {
    let mut claims = Vec::new();
    let (mut left, mut lower_sum, mut floor_sum) = (config.seats as i64, 0_i64, 0_i64);
    for level in config.levels.values() {
        let mut state = level.state.lock();
        let seen = state.queues.demanded(now);
        state.demand.update(seen);
        let most = usize::try_from(state.demand.most).unwrap_or(usize::MAX);
        if state.spec.kind == "Exempt" {
            state.current = state.lower.max(most);
            state.target = state.current as f64;
            left -= state.current as i64;
            continue;
        }
        let floor = state.lower.max(state.nominal.min(most));
        state.target = (floor as f64).max(state.demand.smoothed);
        claims.push(Claim { target: state.target, lower: floor as f64, upper: state.upper as f64 });
        lower_sum += state.lower as i64;
        floor_sum += floor as i64;
    }
    let shares = if left > floor_sum { allocation::share(config.seats as f64, &claims) } else { None };
    let fraction = if floor_sum > lower_sum { (left - lower_sum) as f64 / (floor_sum - lower_sum) as f64 } else { 0.0 };
    let mut at = 0;
    for level in config.levels.values() {
        let mut state = level.state.lock();
        if state.spec.kind != "Exempt" {
            let floor = claims[at].lower;
            state.current = if left <= lower_sum {
                state.lower
            } else if left <= floor_sum {
                state.lower + ((floor - state.lower as f64) * fraction).round() as usize
            } else if let Some((shares, _)) = &shares {
                shares[at].round() as usize
            } else {
                state.current
            };
            at += 1;
        }
        if let Some(mode) = state.spec.mode(&level.name) {
            let current = state.current;
            state.queues.configure(mode, current, now);
        }
    }
    shares.map_or(0.0, |(_, fair)| fair)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn defaults() -> (Vec<GivenLevel>, Vec<GivenSchema>) {
        let all = flow::all("t");
        let of = |resource: &str| all.iter().filter(|w| w.resource == resource).map(|w| w.object.clone()).collect::<Vec<_>>();
        let levels = of("prioritylevelconfigurations").into_iter().map(|o| coracle_tree::from_value(o).unwrap()).collect();
        (levels, of("flowschemas").into_iter().map(|o| coracle_tree::from_value(o).unwrap()).collect())
    }

    fn seats(config: &Config) -> BTreeMap<&str, [usize; 4]> {
        let of = |level: &Level| {
            let state = level.state.lock();
            [state.nominal, state.lower, state.upper, state.current]
        };
        config.levels.iter().map(|(name, level)| (name.as_str(), of(level))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_levels_get_upstreams_seats() {
        let (levels, schemas) = defaults();
        let (config, _) = digest(&Config::new(Instant::now()), &levels, &schemas, 600, &mut AllCounts::new(), Instant::now());
        // As kube-apiserver 1.37 tells in nominal_limit_seats, lower_limit_seats and upper_limit_seats.
        let seats = seats(&config);
        let of = |name: &str| [seats[name][0], seats[name][1], seats[name][2]];
        assert_eq!(of("exempt"), [0, 0, 600]);
        assert_eq!(of("catch-all"), [13, 13, 613]);
        assert_eq!(of("global-default"), [49, 24, 649]);
        assert_eq!(of("leader-election"), [25, 25, 625]);
        assert_eq!(of("node-high"), [98, 73, 698]);
        assert_eq!(of("system"), [74, 50, 674]);
        assert_eq!(of("workload-high"), [98, 49, 698]);
        assert_eq!(of("workload-low"), [245, 24, 845]);
        let order: Vec<&str> = config.schemas.iter().map(|schema| schema.name.as_str()).collect();
        assert_eq!((order[0], order[1], order.len(), *order.last().unwrap()), ("exempt", "probes", 11, "catch-all"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_imagined_and_a_schema_without_a_level_does_not_count() {
        let schema: GivenSchema =
            coracle_tree::from_value(json!({"metadata": {"name": "lost"}, "spec": {"priorityLevelConfiguration": {"name": "none"}}}))
                .unwrap();
        let (config, _) = digest(&Config::new(Instant::now()), &[], &[schema], 600, &mut AllCounts::new(), Instant::now());
        let names: Vec<&str> = config.schemas.iter().map(|schema| schema.name.as_str()).collect();
        assert_eq!(names, ["exempt", "catch-all"]);
        assert!(config.schemas[0].exempt && !config.schemas[1].exempt);
        assert_eq!(seats(&config)["catch-all"][0], 600);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_more_borrows_from_who_wants_less() {
        let (levels, schemas) = defaults();
        let start = Instant::now();
        let (config, _) = digest(&Config::new(Instant::now()), &levels, &schemas, 600, &mut AllCounts::new(), start);
        let busy = config.schemas.iter().find(|schema| schema.name == "global-default").unwrap().clone();
        let of = (Arc::default(), Arc::default());
        for flow in 0..200 {
            let mut state = busy.level.state.lock();
            state.queues.start(&busy, (&of.0, &of.1), super::super::estimate::Estimate::ONE, flow, start);
        }
        let before = seats(&config)["global-default"][3];
        borrow(&config, start + std::time::Duration::from_secs(10));
        let after = seats(&config);
        assert!(after["global-default"][3] > 150 && before < 60, "{before} {after:?}");
        assert!(after["workload-low"][3] >= 24 && after.values().map(|s| s[3]).sum::<usize>() <= config.seats + 8, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_whose_object_is_gone_stays_until_its_last_request_ends() {
        let (levels, schemas) = defaults();
        let now = Instant::now();
        let mut counts = AllCounts::new();
        let (first, _) = digest(&Config::new(Instant::now()), &levels, &schemas, 600, &mut counts, now);
        let schema = first.schemas.iter().find(|schema| schema.name == "global-default").unwrap().clone();
        let of = (Arc::default(), Arc::default());
        schema.level.state.lock().queues.start(&schema, (&of.0, &of.1), super::super::estimate::Estimate::ONE, 1, now);
        let fewer: Vec<GivenLevel> = levels.into_iter().filter(|level| level.metadata.name != "global-default").collect();
        let (second, _) = digest(&first, &fewer, &schemas, 600, &mut counts, now);
        assert!(second.levels["global-default"].state.lock().quiescing);
        assert!(!second.schemas.iter().any(|schema| schema.name == "global-default"));
        schema.level.state.lock().queues.finish(0, now);
        let (third, _) = digest(&second, &fewer, &schemas, 600, &mut counts, now);
        assert!(!third.levels.contains_key("global-default"));
    }
}
