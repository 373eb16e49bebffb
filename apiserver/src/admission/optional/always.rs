//! AlwaysAdmit and AlwaysDeny (`plugin/pkg/admission/{admit,deny}`): of no real meaning, for tests of what asks them.

use async_trait::async_trait;

use crate::{
    admission::{Admission, Attempt, look},
    registry::Object,
    wire::Status,
};

/// Lets everything pass.
pub struct AlwaysAdmit;

/// Lets nothing pass.
pub struct AlwaysDeny;

#[async_trait]
impl Admission for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn concerns(&self, _attempt: &Attempt<'_>) -> bool {
        false
    }
}

#[async_trait]
impl Admission for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        Err(look::forbidden(attempt, new.as_deref(), "admission control is denying all modifications"))
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        Err(look::forbidden(attempt, new, "admission control is denying all modifications"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn one_lets_nothing_pass() {
        let status = Bench::new().create(&AlwaysDeny, "pods live web", pod()).await.unwrap_err();
        assert_eq!(status.message, "pods \"web\" is forbidden: admission control is denying all modifications");
        Bench::new().create(&AlwaysAdmit, "pods live web", pod()).await.unwrap();
    }
}
