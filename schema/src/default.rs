//! The defaults of the tables, filled in where a field was not given. Those that depend on other fields are rules of the kind.

use coracle_tree::{Map, Value};

use crate::types::{Field, Presence, Schema, SchemaRef, Shape, Type};

/// Fills in every default of the schema. The object should be normalized (see [`crate::decode`]), so that messages that are always there are.
pub fn apply(object: &mut Value, schema: &SchemaRef) {
    if let Some(custom) = schema.custom() {
        return custom.default(object);
    }
    descend(&schema.schema, &Shape::Message(schema.root), object);
}

fn descend(schema: &Schema, shape: &Shape, value: &mut Value) {
    schema.enter_messages(shape, value, &mut |of, members| fill(schema, of, members));
}

fn fill(schema: &Schema, of: &Type, members: &mut Map) {
    for field in of.filled.iter().map(|at| &of.fields[*at as usize]) {
        if let Some(default) = &field.default
            && members.get(&field.name).is_none_or(|value| is_unset(field, value))
            // A default that is the zero value is only said in the published schema: the field stays left out.
            && (field.presence != Presence::WhenSet || !is_unset(field, default))
        {
            members.insert(field.key(), default.clone());
        }
        match members.get_mut(&field.name) {
            Some(value) => descend(schema, &field.shape, value),
            // Not a pointer upstream: it is there, empty, and its own defaults count.
            None if matches!(field.shape, Shape::Message(_)) && matches!(field.presence, Presence::WhenSet | Presence::Always) => {
                let mut value = Value::Object(Map::new());
                descend(schema, &field.shape, &mut value);
                members.insert(field.key(), value);
            }
            None => {}
        }
    }
}

/// Whether Go's defaulting functions would see the field as not given: nil for pointers, the zero value otherwise.
fn is_unset(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        _ if matches!(field.presence, Presence::Optional | Presence::Nullable) => false,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::{
        decode::{FieldValidation, from_value},
        tables::Tables,
        types::TypeId,
    };

    fn defaulted(message: &str, given: Value) -> Value {
        let schema = Tables::load().unwrap().message(message).unwrap();
        let mut value = from_value(given, &schema, FieldValidation::Strict).unwrap().value;
        apply(&mut value, &schema);
        value
    }

    #[test]
    fn a_deployment_gets_upstreams_defaults_down_to_its_containers() {
        let given = json!({"spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3}}],
            "volumes": [{"name": "s", "secret": {}}, {"name": "c", "configMap": {"defaultMode": 0}}]}}}});
        let spec = &defaulted("apps.Deployment", given)["spec"];
        assert_eq!((&spec["replicas"], &spec["strategy"]["type"]), (&json!(1), &json!("RollingUpdate")));
        assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
        let pod = &spec["template"]["spec"];
        assert_eq!(
            (&pod["restartPolicy"], &pod["securityContext"], &pod["terminationGracePeriodSeconds"]),
            (&json!("Always"), &json!({}), &json!(30))
        );
        let container = &pod["containers"][0];
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
        let probe = json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 3, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(container["livenessProbe"], probe);
        assert_eq!((&pod["volumes"][0]["secret"]["defaultMode"], &pod["volumes"][1]["configMap"]["defaultMode"]), (&json!(420), &json!(0)));
    }

    #[test]
    fn a_default_message_gets_its_own_defaults() {
        let set = defaulted("apps.StatefulSet", json!({}));
        assert_eq!(set["spec"]["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    }

    #[test]
    fn a_given_zero_stays_where_absence_differs_from_it() {
        let set = defaulted("apps.ReplicaSet", json!({"spec": {"replicas": 0}}));
        assert_eq!(set["spec"]["replicas"], 0);
        let probe = defaulted("core.Probe", json!({"periodSeconds": 0, "timeoutSeconds": 5}));
        assert_eq!((&probe["periodSeconds"], &probe["timeoutSeconds"]), (&json!(10), &json!(5)));
    }

    #[test]
    fn defaulting_any_type_twice_changes_nothing() {
        let tables = Tables::load().unwrap();
        for at in 0..tables.schema.types.len() {
            let schema = SchemaRef { schema: tables.schema.clone(), root: TypeId(at as u32) };
            let mut once = from_value(json!({}), &schema, FieldValidation::Strict).unwrap().value;
            apply(&mut once, &schema);
            let mut twice = once.clone();
            apply(&mut twice, &schema);
            assert_eq!(once, twice, "{}", schema.root());
            let again = from_value(once.clone(), &schema, FieldValidation::Strict).unwrap().value;
            assert_eq!(once, again, "{}", schema.root());
        }
    }
}
