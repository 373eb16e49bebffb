//! Kinds that have nothing odd but fields to select by (upstream's `AddFieldLabelConversionFunc` of each kind).

use coracle_tree::Value;

use crate::registry::Rules;

/// What can be selected by: labels, and where their values stand.
pub(super) struct Fields(pub(super) &'static [(&'static str, &'static str)]);

/// `clustertrustbundles`
pub(super) static CLUSTER_TRUST_BUNDLE: Fields = Fields(&[("spec.signerName", "/spec/signerName")]);
/// `podcertificaterequests`
pub(super) static POD_CERTIFICATE_REQUEST: Fields =
    Fields(&[("spec.signerName", "/spec/signerName"), ("spec.podName", "/spec/podName"), ("spec.nodeName", "/spec/nodeName")]);
/// `resourceslices`
pub(super) static RESOURCE_SLICE: Fields =
    Fields(&[("spec.nodeName", "/spec/nodeName"), ("spec.driver", "/spec/driver"), ("spec.pool.name", "/spec/pool/name")]);

impl Rules for Fields {
    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        self.0
            .iter()
            .map(|(label, pointer)| (*label, object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_field_that_is_not_there_is_empty() {
        let slice = json!({"spec": {"driver": "d", "pool": {"name": "p"}}});
        let expected = [("spec.nodeName", ""), ("spec.driver", "d"), ("spec.pool.name", "p")].map(|(l, v)| (l, v.to_owned()));
        assert_eq!(RESOURCE_SLICE.selectable(&slice), expected);
    }
}
