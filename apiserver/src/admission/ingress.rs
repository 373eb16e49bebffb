//! DefaultIngressClass (`plugin/pkg/admission/network/defaultingressclass`).

use std::sync::Arc;

use async_trait::async_trait;

use super::{Admission, Attempt, Operation, look, storage::default_class};
use crate::{
    registry::{Object, Reader},
    wire::Status,
};

const GROUP: &str = "networking.k8s.io";

/// The plugin.
pub struct DefaultIngressClass {
    /// Where classes are looked up.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, GROUP, "ingresses")
    }

    async fn mutate(&self, _attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(ingress) = new else { return Ok(()) };
        let named = ingress.value().pointer("/spec/ingressClassName").is_some_and(coracle_tree::Value::is_string);
        if named || ingress.annotation("kubernetes.io/ingress.class").is_some() {
            return Ok(());
        }
        let classes = look::all(&*self.reader, GROUP, "ingressclasses", "").await?;
        if let Some(name) = default_class(classes, &["ingressclass.kubernetes.io/is-default-class"]) {
            ingress.member_mut("spec").insert("ingressClassName", name.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::Bench;

    #[tokio::test]
    async fn the_default_class_is_used_when_none_is_named() {
        let b = Bench::new();
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
        b.reader.put(GROUP, "ingressclasses", json!({"metadata": {"name": "web", "annotations": annotations}}));
        let plugin = DefaultIngressClass { reader: b.reader.clone() };
        let at = "ingresses.networking.k8s.io live i";
        let made = b.create(&plugin, at, json!({"metadata": {"name": "i"}, "spec": {}})).await.unwrap();
        assert_eq!(made["spec"]["ingressClassName"], "web");
        let own = json!({"metadata": {"name": "i", "annotations": {"kubernetes.io/ingress.class": "own"}}, "spec": {}});
        assert_eq!(b.create(&plugin, at, own.clone()).await.unwrap(), own);
    }
}
