//! What differs between two answers, once what must differ is taken out: uids, times, revisions, addresses the servers chose.

use serde_json::Value;

use super::http::Reply;

/// More differences of one case are not reported.
const MOST: usize = 8;
/// A value in a report is cut to this many characters.
const WIDTH: usize = 600;
/// Times of this year were in the request.
const GIVEN_YEAR: &str = "2020-";
/// What names that servers generate from the malformed prefix of the cases begin with; five random letters follow.
const GENERATED: &str = "Bad_-";
/// What the names of volumes with credentials begin with; five random letters follow.
const CREDENTIALS: &str = "kube-api-access-";
/// What the resource version of a stored object stands behind.
const RECORD: &str = "in record (";
/// What it stands behind where a namespace is refused to be deleted.
const IN_META: &str = "ResourceVersion in object meta: ";

/// The differences of two answers: `WHERE: LEFT | RIGHT`.
pub(crate) fn differences(left: &Reply, right: &Reply) -> Vec<String> {
    let mut found = Vec::new();
    if left.code != right.code {
        let text = |reply: &Reply| {
            let message = reply.body.get("message").and_then(Value::as_str).unwrap_or_default();
            cut(&format!("{} {message}", reply.code))
        };
        return vec![format!("code: {} | {}", text(left), text(right))];
    }
    let words = |reply: &Reply| reply.warnings.iter().map(|w| neutral(w)).collect::<Vec<_>>();
    let (one, other) = (words(left), words(right));
    if one != other {
        found.push(format!("warnings: {} | {}", cut(&format!("{one:?}")), cut(&format!("{other:?}"))));
    }
    let (mut one, mut other) = (left.body.clone(), right.body.clone());
    normalize(&mut one);
    normalize(&mut other);
    if let (Some(a), Some(b)) = (one.pointer("/details/causes"), other.pointer("/details/causes"))
        && a != b
    {
        // The message says the same once more.
        let (a, b) = (a.clone(), b.clone());
        if sorted(&a) == sorted(&b) {
            found.push(format!("order of causes: {} | {}", fields(&a), fields(&b)));
        } else {
            compare(&a, &b, "/details/causes", &mut found);
        }
        for side in [&mut one, &mut other] {
            side["message"] = Value::Null;
            side["details"]["causes"] = Value::Null;
        }
    }
    let text = |side: &Reply| side.body.get("message").and_then(Value::as_str).is_some_and(|text| text.contains('\n'));
    if text(left) != text(right) && one.pointer("/details/causes").is_some_and(Value::is_array) {
        // One has a picture of a difference in it; the causes have been compared.
        one["message"] = Value::Null;
        other["message"] = Value::Null;
    }
    compare(&one, &other, "", &mut found);
    found.truncate(MOST);
    found
}

fn sorted(causes: &Value) -> Vec<String> {
    let mut texts: Vec<String> = causes.as_array().into_iter().flatten().map(Value::to_string).collect();
    texts.sort();
    texts
}

fn fields(causes: &Value) -> String {
    let names = causes.as_array().into_iter().flatten().map(|cause| cause.get("field").and_then(Value::as_str).unwrap_or_default());
    cut(&names.collect::<Vec<_>>().join(" "))
}

fn compare(left: &Value, right: &Value, path: &str, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = format!("{path}/{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(a, b, &path, found),
                    (a, b) => report(a, b, &path, found),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for at in 0..a.len().max(b.len()) {
                let path = format!("{path}/{at}");
                match (a.get(at), b.get(at)) {
                    (Some(a), Some(b)) => compare(a, b, &path, found),
                    (a, b) => report(a, b, &path, found),
                }
            }
        }
        (a, b) if a == b => {}
        (a, b) => report(Some(a), Some(b), path, found),
    }
}

fn report(left: Option<&Value>, right: Option<&Value>, path: &str, found: &mut Vec<String>) {
    let text = |value: Option<&Value>| value.map_or_else(|| "-".to_owned(), |v| cut(&v.to_string()));
    found.push(format!("{path}: {} | {}", text(left), text(right)));
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    text.chars().take(WIDTH).chain("…".chars()).collect()
}

/// Takes out what two servers cannot agree on.
fn normalize(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.contains_key("uid") && (members.contains_key("creationTimestamp") || members.contains_key("resourceVersion")) {
                members.remove("uid");
            }
            members.remove("resourceVersion");
            if let (Some(prefix), Some(name)) =
                (members.get("generateName").and_then(Value::as_str), members.get("name").and_then(Value::as_str))
                && name.len() > prefix.len()
                && name.starts_with(prefix)
            {
                members.remove("name");
            }
            for (key, member) in members.iter_mut() {
                match key.as_str() {
                    "clusterIP" | "nodePort" | "healthCheckNodePort" if member != "None" => chosen(member),
                    // Upstream walks its maps of roles in any order.
                    "resourceRules" | "nonResourceRules" => {
                        if let Some(rules) = member.as_array_mut() {
                            rules.sort_by_cached_key(Value::to_string);
                        }
                    }
                    "clusterIPs" => member.as_array_mut().into_iter().flatten().filter(|ip| *ip != "None").for_each(chosen),
                    _ => normalize(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::String(text) => *text = neutral(text),
        _ => {}
    }
}

/// A value that the server has chosen; one that is wrong on its face stays.
fn chosen(value: &mut Value) {
    let address = value.as_str().is_some_and(|v| v.starts_with("10.43."));
    let port = value.as_u64().is_some_and(|p| (30_000..=33_000).contains(&p));
    if address || port {
        *value = Value::String("<chosen>".into());
    }
}

/// A text without uids, without times of now, and without what is only how Go prints: the picture of a difference, for people, and the
/// value of an internal struct (`{"MatchLabels":…}`, in an order and with names that no client knows).
fn neutral(text: &str) -> String {
    let end = [")\n", "\n@@ ", ":\n  core.", ":\n  (core.", "\n  core", "\n\u{a0}"].iter().filter_map(|mark| text.find(mark)).min();
    let shown = without_objects(&without_structs(&text[..end.unwrap_or(text.len())]));
    let text = shown.as_str();
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        if is_shape(&bytes[at..], b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
            out += "<uid>";
            at += 36;
        } else if text[at..].starts_with(GENERATED) && is_shape(&bytes[at + GENERATED.len()..], b"lllll") {
            out += GENERATED;
            at += GENERATED.len() + 5;
        } else if text[at..].starts_with(CREDENTIALS) && bytes.len() >= at + CREDENTIALS.len() + 5 {
            out += CREDENTIALS;
            at += CREDENTIALS.len() + 5;
        } else if let Some(digits) = version_in_record(&text[at..]) {
            out += "in record (<version>";
            at += RECORD.len() + digits;
        } else if let Some(rest) = text[at..].strip_prefix(IN_META) {
            out += IN_META;
            out += "<version>";
            at += IN_META.len() + rest.bytes().take_while(u8::is_ascii_digit).count();
        } else if is_shape(&bytes[at..], b"X509SHA256=") {
            out += "<certificate>";
            at += bytes.len() - at;
        } else if is_shape(&bytes[at..], b"dddd-dd-ddTdd:dd:dd") && !text[at..].starts_with(GIVEN_YEAR) {
            out += "<time>";
            at += 19;
            at += bytes[at..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        } else {
            let Some(next) = text[at..].chars().next() else { break };
            out.push(next);
            at += next.len_utf8();
        }
    }
    out
}

/// `Invalid value: {"a":1}: no` becomes `Invalid value: {…}: no`.
fn without_structs(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = ["value: {", "value: [{", "many: {"].iter().filter_map(|mark| rest.find(mark).map(|at| at + mark.len())).min() {
        let opening = rest[..at].rfind(": ").map_or(at, |colon| colon + 2);
        let mut values = serde_json::Deserializer::from_str(&rest[opening..]).into_iter::<Value>();
        if !matches!(values.next(), Some(Ok(_))) {
            break;
        }
        out += &rest[..opening];
        out += "{…}";
        rest = &rest[opening + values.byte_offset()..];
    }
    out + rest
}

/// How many digits the resource version has in `in record (123)`, if that is what the text begins with; a uid stands there, too.
fn version_in_record(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(RECORD)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0 && rest[digits..].starts_with(')')).then_some(digits)
}

/// `patch: Invalid value: "{…}": no`: the object that a patch made, as text, in the order of its Go types.
fn without_objects(text: &str) -> String {
    const MARK: &str = "patch: Invalid value: ";
    let start =
        if text.starts_with("Invalid value: \"{") { Some("Invalid value: ".len()) } else { text.find(MARK).map(|at| at + MARK.len()) };
    let Some(start) = start.filter(|at| text[*at..].starts_with("\"{")) else { return text.to_owned() };
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<String>();
    if !matches!(values.next(), Some(Ok(_))) {
        return text.to_owned();
    }
    format!("{}{{…}}{}", &text[..start], &text[start + values.byte_offset()..])
}

/// Whether bytes begin with this shape: `x` a hexadecimal digit, `d` a digit, `l` a small letter or a digit, anything else itself.
fn is_shape(bytes: &[u8], shape: &[u8]) -> bool {
    let fits = |(byte, wanted): (&u8, &u8)| match wanted {
        b'x' => byte.is_ascii_hexdigit(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase() || byte.is_ascii_digit(),
        other => byte == other,
    };
    bytes.len() >= shape.len() && bytes.iter().zip(shape).all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(code: u16, body: Value) -> Reply {
        Reply { code, warnings: Vec::new(), body }
    }

    #[test]
    fn what_the_servers_chose_does_not_count() {
        let left = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let right = json!({"metadata": {"name": "a", "uid": "2", "resourceVersion": "9", "creationTimestamp": "2026-01-01T00:00:03Z"}});
        assert!(differences(&reply(200, left), &reply(200, right)).is_empty());
    }

    #[test]
    fn a_difference_is_named_by_its_place() {
        let (left, right) = (json!({"spec": {"a": [1, 2]}}), json!({"spec": {"a": [1, 3], "b": 1}}));
        assert_eq!(differences(&reply(200, left), &reply(200, right)), ["/spec/a/1: 2 | 3", "/spec/b: - | 1"]);
        let refused = json!({"message": "no"});
        assert_eq!(differences(&reply(201, json!({})), &reply(422, refused)), ["code: 201  | 422 no"]);
    }

    #[test]
    fn how_go_prints_a_struct_does_not_count() {
        assert_eq!(
            neutral("a: Invalid value: {\"B\":[1]}: no, c: Invalid value: [{\"d\":1}]: no"),
            "a: Invalid value: {…}: no, c: Invalid value: {…}: no"
        );
        assert_eq!(neutral("immutable after creation\n@@ -1 +1 @@\n x"), "immutable after creation");
    }

    #[test]
    fn the_order_of_rules_and_names_of_credentials_do_not_count() {
        let rules = |first: &str, other: &str| json!({"resourceRules": [{"verbs": [first]}, {"verbs": [other]}]});
        assert!(differences(&reply(200, rules("a", "b")), &reply(200, rules("b", "a"))).is_empty());
        assert_eq!(neutral("kube-api-access-k2mbn"), "kube-api-access-");
    }

    #[test]
    fn versions_objects_and_generated_names_of_refusals_do_not_count() {
        assert_eq!(neutral("the version in record (123). It"), "the version in record (<version>). It");
        assert_eq!(neutral("in record (9a2a3b4c-0000-1111-2222-333344445555)"), "in record (<uid>)");
        assert_eq!(neutral("x, ResourceVersion in object meta: 12"), "x, ResourceVersion in object meta: <version>");
        assert_eq!(neutral("\"Bad_-x7k2z\" is invalid"), "\"Bad_-\" is invalid");
        assert_eq!(neutral("\"Bad_-\": must be an address"), "\"Bad_-\": must be an address");
        assert_eq!(neutral(r#"patch: Invalid value: "{\"a\":1}": no"#), "patch: Invalid value: {…}: no");
    }

    #[test]
    fn times_that_were_sent_are_compared() {
        assert_eq!(neutral("at 2020-01-02T03:04:05Z"), "at 2020-01-02T03:04:05Z");
        assert_eq!(neutral("at 2026-01-02T03:04:05.1Z by 0f2a3b4c-0000-1111-2222-333344445555"), "at <time>Z by <uid>");
    }
}
