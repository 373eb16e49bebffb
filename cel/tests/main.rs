//! Expressions answered as Kubernetes' own CEL answers them: `testdata/golden.txt` was made by `testdata/oracle`.
#![expect(clippy::unwrap_used, reason = "a broken expectation ends the test")]

use std::fmt::Write as _;

use coracle_cel::{Activation, Decl, Env, List, Map, Val, display, limits};
use coracle_tree::{Value, json};

mod bounds;
mod schema;

use schema::decl;

/// A value as cel-go's `types.Format` shows it.
fn show(value: &Val<'_>, out: &mut String) {
    match value {
        Val::Null => out.push_str("null"),
        Val::Bool(value) => write!(out, "{value}").unwrap(),
        Val::Int(number) => write!(out, "{number}").unwrap(),
        Val::Uint(number) => write!(out, "{number}u").unwrap(),
        Val::Double(number) if number.is_nan() => out.push_str("double(\"NaN\")"),
        Val::Double(number) if number.is_infinite() => write!(out, "double(\"{}Infinity\")", if *number < 0.0 { "-" } else { "" }).unwrap(),
        Val::Double(number) => {
            let text = number.to_string();
            write!(out, "{text}{}", if text.contains('.') { "" } else { ".0" }).unwrap();
        }
        Val::String(text) => write!(out, "{}", json!(text.as_str())).unwrap(),
        Val::Bytes(bytes) => {
            out.push_str("b\"");
            bytes.iter().for_each(|byte| write!(out, "\\{byte:03o}").unwrap());
            out.push('"');
        }
        Val::Duration(_) => write!(out, "duration(\"{value}\")").unwrap(),
        Val::Timestamp(_) => write!(out, "timestamp(\"{value}\")").unwrap(),
        Val::List(list) => show_list(list, out),
        Val::Map(map) => show_map(map, out),
        Val::Optional(None) => out.push_str("optional.none()"),
        Val::Optional(Some(value)) => {
            out.push_str("optional.of(");
            show(value, out);
            out.push(')');
        }
        Val::Type(ty) => out.push_str(ty.name()),
        other => write!(out, "{other}").unwrap(),
    }
}

fn show_list(list: &List<'_>, out: &mut String) {
    out.push('[');
    for (at, item) in list.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        show(&item.unwrap(), out);
    }
    out.push(']');
}

fn show_map(map: &Map<'_>, out: &mut String) {
    let Map::Shared(table) = map else { return out.push_str("{...}") };
    out.push('{');
    for (at, (key, value)) in table.entries().iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        show(key, out);
        out.push_str(": ");
        show(value, out);
    }
    out.push('}');
}

fn answer(env: &Env, data: &Value, expr: &str) -> Value {
    let program = match env.compile(expr) {
        Ok(program) => program,
        Err(issues) => return json!({"expr": expr, "issue": display(&issues)}),
    };
    let estimate = program.estimate();
    let mut answer = json!({"expr": expr, "type": program.result().to_string(), "min": estimate.min, "max": estimate.max});
    let activation = Activation::new().json(0, data).json(1, data);
    let (result, cost) = program.eval(&activation, limits::PER_CALL);
    answer["cost"] = cost.into();
    match result {
        Ok(value) => {
            let mut text = String::new();
            show(&value, &mut text);
            answer["value"] = text.into();
        }
        Err(error) => answer["error"] = error.message().into(),
    }
    answer
}

#[test]
fn expressions_are_answered_as_kubernetes_answers_them() {
    let file: Value = serde_json::from_str(include_str!("../testdata/data.json")).unwrap();
    let env = Env::new().variable("self", decl(&file["schema"], "selfType")).variable("any", Decl::dynamic());
    let (mut compared, mut differences) = (0, String::new());
    for line in include_str!("../testdata/golden.txt").lines().filter(|line| line.starts_with('{')) {
        let golden: Value = serde_json::from_str(line).unwrap();
        let expr = golden["expr"].as_str().unwrap();
        let ours = answer(&env, &file["data"], expr);
        compared += 1;
        // Of what is refused there is nothing else to say; what an evaluation cost that failed depends on where it failed.
        let refused = golden["issue"].is_string();
        let keys: &[&str] = if refused { &["issue"] } else { &["issue", "type", "min", "max", "value", "error", "cost"] };
        let same = keys.iter().all(|key| ours[key] == golden[key] || (*key == "cost" && golden["error"].is_string()));
        if !same {
            writeln!(differences, "wanted {golden}\n   got {ours}").unwrap();
        }
    }
    assert!(compared > 500, "{compared}");
    assert!(differences.is_empty(), "\n{differences}{} differ", differences.lines().count() / 2);
}
