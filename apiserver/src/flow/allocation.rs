//! How seats are shared by levels that lend and borrow (upstream `flowcontrol/conc_alloc.go`).

/// One level: what it would like, and between which bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// At least the lower bound.
    pub target: f64,
    pub lower: f64,
    pub upper: f64,
}

/// Targets below this count as this.
const SMALLEST: f64 = 0.001;
const EPSILON: f64 = 1e-7;

/// The shares that sum to `sum`, each the same proportion of its target unless a bound is in the way; and that proportion.
/// `None` when the bounds leave no such shares.
pub(super) fn share(sum: f64, claims: &[Claim]) -> Option<(Vec<f64>, f64)> {
    let targets: Vec<f64> = claims.iter().map(|c| c.target.max(SMALLEST)).collect();
    let valid = |c: &Claim| c.lower >= 0.0 && c.target >= c.lower && c.upper >= c.lower;
    if sum < 0.0 || !claims.iter().all(valid) {
        return None;
    }
    let total = |of: fn(&Claim) -> f64| claims.iter().map(of).sum::<f64>();
    let (low, high) = (total(|c| c.lower), total(|c| c.upper));
    if low - sum > EPSILON || sum - high > EPSILON {
        return None;
    }
    let bounds = |of: fn(&Claim) -> f64| claims.iter().zip(&targets).map(move |(c, target)| of(c) / target);
    if sum == 0.0 {
        return Some((vec![0.0; claims.len()], 0.0));
    }
    if low - sum > -EPSILON {
        return Some((claims.iter().map(|c| c.lower).collect(), bounds(|c| c.lower).fold(f64::MAX, f64::min)));
    }
    if sum - high > -EPSILON {
        return Some((claims.iter().map(|c| c.upper).collect(), bounds(|c| c.upper).fold(0.0, f64::max)));
    }
    let proportion = solve(sum, claims, &targets);
    let shares = claims.iter().zip(&targets).map(|(c, target)| (proportion * target).min(c.upper).max(c.lower)).collect();
    Some((shares, proportion))
}

/// The proportion at which the shares sum to `sum`: their sum rises with it, piece by piece a straight line that bends at each bound.
fn solve(sum: f64, claims: &[Claim], targets: &[f64]) -> f64 {
    let at = |proportion: f64| claims.iter().zip(targets).map(|(c, target)| (proportion * target).min(c.upper).max(c.lower)).sum::<f64>();
    let mut bends: Vec<f64> = claims.iter().zip(targets).flat_map(|(c, target)| [c.lower / target, c.upper / target]).collect();
    bends.sort_by(f64::total_cmp);
    let mut before = (0.0, at(0.0));
    for bend in bends {
        let here = (bend, at(bend));
        if here.1 >= sum {
            let rise = here.1 - before.1;
            return if rise <= 0.0 { here.0 } else { before.0 + (sum - before.1) / rise * (here.0 - before.0) };
        }
        before = here;
    }
    before.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(target: f64, lower: f64, upper: f64) -> Claim {
        Claim { target, lower, upper }
    }

    #[test]
    fn shares_are_in_proportion_where_no_bound_is_in_the_way() {
        let (shares, proportion) = share(60.0, &[claim(10.0, 0.0, 100.0), claim(20.0, 0.0, 100.0)]).unwrap();
        assert_eq!((shares, proportion), (vec![20.0, 40.0], 2.0));
    }

    #[test]
    fn bounds_hold_and_the_rest_is_shared_by_the_others() {
        let claims = [claim(10.0, 10.0, 10.0), claim(0.0, 0.0, 300.0), claim(50.0, 5.0, 60.0), claim(1.0, 0.0, 300.0)];
        let (shares, proportion) = share(200.0, &claims).unwrap();
        assert!((shares.iter().sum::<f64>() - 200.0).abs() < 1e-6, "{shares:?}");
        assert_eq!((shares[0], shares[2]), (10.0, 60.0));
        assert!((shares[3] - proportion).abs() < 1e-9 && shares[1] < 1.0);
    }

    #[test]
    fn what_bounds_forbid_has_no_shares() {
        assert!(share(1.0, &[claim(2.0, 2.0, 3.0)]).is_none() && share(4.0, &[claim(2.0, 2.0, 3.0)]).is_none());
        assert!(share(2.0, &[claim(1.0, 2.0, 3.0)]).is_none());
        assert_eq!(share(2.0, &[claim(2.0, 2.0, 3.0)]).unwrap().0, [2.0]);
        assert_eq!(share(3.0, &[claim(2.0, 2.0, 3.0)]).unwrap().0, [3.0]);
    }
}
