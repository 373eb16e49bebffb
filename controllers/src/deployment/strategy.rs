//! The numbers a strategy allows (upstream `pkg/controller/deployment/util`).

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// Pods wanted; 1 when unset.
pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// Pods a set shall have.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Pods a set has.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map(|status| status.replicas).unwrap_or_default()
}

/// Pods of a set that are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

/// Whether all old pods go before new ones come.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// Whether it has a deadline for progress (the largest number stands for none).
pub(super) fn deadline_seconds(deployment: &Deployment) -> Option<i32> {
    deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// Pods above the wanted number a rolling update may have.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { bounds(deployment).0 }
}

/// Pods below the wanted number a rolling update may have.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) || wanted(deployment) == 0 {
        return 0;
    }
    bounds(deployment).1.min(wanted(deployment))
}

/// Surge rounded up and unavailability rounded down; both zero would never make progress, so one may be unavailable.
fn bounds(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted = wanted(deployment);
    let default = IntOrString::String("25%".to_owned());
    let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&default), wanted, true);
    let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&default), wanted, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A number, or a share of `total`.
pub(crate) fn scaled(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
            let product = percent * i64::from(total);
            let share = if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_upstream_rounds_them() {
        let percent = |text: &str| IntOrString::String(text.into());
        let cases = [
            (percent("25%"), 10, true, 3),
            (percent("25%"), 10, false, 2),
            (percent("25%"), 1, true, 1),
            (percent("25%"), 1, false, 0),
            (percent("100%"), 7, false, 7),
            (IntOrString::Int(3), 10, true, 3),
        ];
        for (value, total, up, expected) in cases {
            assert_eq!(scaled(&value, total, up), expected, "{value:?} of {total}");
        }
    }
}
