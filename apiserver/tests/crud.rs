//! The verbs over objects, one behaviour a test.

use coracle_tree::{Value, json};
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use crate::house::House;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})
}

#[tokio::test]
async fn what_is_created_can_be_read_listed_changed_and_deleted() {
    let house = House::new().await;
    let made = house.post(MAPS, &map("one")).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let made = made.ok();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string(), "{made}");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");

    let mut read = house.get(&format!("{MAPS}/one")).await.ok();
    assert_eq!(read, made);
    read["data"]["a"] = "2".into();
    let changed = house.put(&format!("{MAPS}/one"), &read).await.ok();
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stale = house.put(&format!("{MAPS}/one"), &made).await;
    assert_eq!(stale.code, StatusCode::CONFLICT);
    assert!(stale.json()["message"].as_str().unwrap().contains("the object has been modified"), "{}", stale.json());

    let list = house.get(&format!("{MAPS}?labelSelector=app%3Done")).await.ok();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("ConfigMapList"), 1));
    let gone = house.delete(&format!("{MAPS}/one")).await.ok();
    assert_eq!((gone["status"].as_str(), gone["details"]["kind"].as_str()), (Some("Success"), Some("configmaps")));
    assert_eq!(house.get(&format!("{MAPS}/one")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version() {
    let house = House::new().await;
    let made = house.post(MAPS, &map("same")).await.ok();
    let again = house.put(&format!("{MAPS}/same"), &made).await.ok();
    assert_eq!(again, made);
    let patched = house.patch(&format!("{MAPS}/same"), "application/merge-patch+json", &json!({"data": {"a": "1"}})).await.ok();
    assert_eq!(patched["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn every_patch_type_changes_the_object() {
    let house = House::new().await;
    house.post(MAPS, &map("p")).await.ok();
    let path = format!("{MAPS}/p");
    let ops = json!([{"op": "add", "path": "/data/b", "value": "2"}]);
    assert_eq!(house.patch(&path, "application/json-patch+json", &ops).await.ok()["data"]["b"], "2");
    let merge = json!({"data": {"a": null}});
    assert!(house.patch(&path, "application/merge-patch+json", &merge).await.ok()["data"].get("a").is_none());
    let strategic = json!({"data": {"c": "3"}});
    assert_eq!(house.patch(&path, "application/strategic-merge-patch+json", &strategic).await.ok()["data"]["c"], "3");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"d": "4"}});
    let applied = house.patch(&format!("{path}?fieldManager=me"), "application/apply-patch+yaml", &config).await.ok();
    assert_eq!(applied["data"]["d"], "4");
    assert_eq!(house.patch(&path, "text/plain", &merge).await.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn apply_creates_what_is_not_there_and_others_fields_conflict() {
    let house = House::new().await;
    let path = format!("{MAPS}/a?fieldManager=me");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "mine"}});
    let first = house.patch(&path, "application/apply-patch+yaml", &config).await;
    assert_eq!(first.code, StatusCode::CREATED, "{}", first.json());
    let again = house.patch(&path, "application/apply-patch+yaml", &config).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], first.json()["metadata"]["resourceVersion"]);
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "yours"}});
    let conflict = house.patch(&format!("{MAPS}/a?fieldManager=you"), "application/apply-patch+yaml", &other).await;
    assert_eq!(conflict.code, StatusCode::CONFLICT);
    assert_eq!(conflict.json()["details"]["causes"][0]["field"], ".data.k");
    let forced = house.patch(&format!("{MAPS}/a?fieldManager=you&force=true"), "application/apply-patch+yaml", &other).await.ok();
    assert_eq!(forced["data"]["k"], "yours");
}

#[tokio::test]
async fn names_are_generated_and_bad_ones_refused() {
    let house = House::new().await;
    let mut object = map("x");
    object["metadata"] = json!({"generateName": "gen-"});
    let made = house.post(MAPS, &object).await.ok();
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("gen-"));
    let bad = house.post(MAPS, &map("Not_A_Name")).await;
    assert_eq!(bad.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(bad.json()["details"]["causes"][0]["field"], "metadata.name");
    house.post(MAPS, &map("twice")).await.ok();
    let twice = house.post(MAPS, &map("twice")).await.json();
    assert_eq!((twice["reason"].as_str(), twice["message"].as_str()), (Some("AlreadyExists"), Some("configmaps \"twice\" already exists")));
}

#[tokio::test]
async fn pages_are_consistent_and_know_how_many_follow() {
    let house = House::new().await;
    for i in 0..5 {
        house.post(MAPS, &map(&format!("m{i}"))).await.ok();
    }
    let first = house.get(&format!("{MAPS}?limit=2")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    house.post(MAPS, &map("m9")).await.ok();
    let rest = house.get(&format!("{MAPS}?limit=10&continue={token}")).await.ok();
    let names: Vec<&str> = rest["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m2", "m3", "m4"]);
    assert!(rest["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let house = House::new().await;
    let mut object = map("held");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    house.post(MAPS, &object).await.ok();
    let path = format!("{MAPS}/held");
    let marked = house.delete(&path).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let added = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(house.patch(&path, "application/merge-patch+json", &added).await.code, StatusCode::UNPROCESSABLE_ENTITY);
    let emptied = json!({"metadata": {"finalizers": null}});
    house.patch(&path, "application/merge-patch+json", &emptied).await.ok();
    assert_eq!(house.get(&path).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nothing_depends_on_an_event_so_that_no_policy_holds_it_back() {
    let house = House::new().await;
    let events = "/api/v1/namespaces/default/events";
    for policy in ["Orphan", "Foreground", "Background"] {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}});
        house.post(events, &event).await.ok();
        let gone = house.delete(&format!("{events}/e?propagationPolicy={policy}")).await.ok();
        assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")), "{policy}");
        assert_eq!(house.get(&format!("{events}/e")).await.code, StatusCode::NOT_FOUND, "{policy}");
    }
}

#[tokio::test]
async fn a_watch_sees_what_enters_changes_and_leaves_its_selection() {
    let house = House::new().await;
    let start = house.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("{MAPS}?watch=true&resourceVersion={start}&labelSelector=app%3Dw&timeoutSeconds=5");
    let mut body = house.open(Method::GET, &path, &[], "").await.into_body();
    house.post(MAPS, &map("other")).await.ok();
    house.post(MAPS, &map("w")).await.ok();
    let at = format!("{MAPS}/w");
    house.patch(&at, "application/merge-patch+json", &json!({"data": {"a": "9"}})).await.ok();
    house.patch(&at, "application/merge-patch+json", &json!({"metadata": {"labels": {"app": "x"}}})).await.ok();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        for line in frame.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let event: Value = serde_json::from_slice(line).unwrap();
            seen.push((event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap().to_owned()));
        }
    }
    let expected = ["ADDED", "MODIFIED", "DELETED"].map(|t| (t.to_owned(), "w".to_owned()));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn who_creates_may_watch_from_there_though_nobody_read_the_kind_before() {
    let house = House::new().await;
    let path = "/api/v1/namespaces/default/podtemplates";
    let template = |name: &str| {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        json!({"metadata": {"name": name}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}})
    };
    let first = house.post(path, &template("a")).await.ok();
    house.post(path, &template("b")).await.ok();
    house.post(MAPS, &map("later")).await.ok();
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut body = house.open(Method::GET, &format!("{path}?watch=true&resourceVersion={from}"), &[], "").await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
}

#[tokio::test]
async fn a_put_creates_objects_of_the_kinds_that_are_made_by_it() {
    let house = House::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let binding = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    let kinds = [
        ("/api/v1/namespaces/default/endpoints", json!({})),
        ("/api/v1/namespaces/default/services", json!({"spec": {"ports": [{"port": 80}]}})),
        ("/api/v1/namespaces/default/limitranges", json!({"spec": {"limits": []}})),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "h"})),
        (&format!("{rbac}/namespaces/default/roles"), json!({})),
        (&format!("{rbac}/clusterroles"), json!({})),
        (&format!("{rbac}/namespaces/default/rolebindings"), binding.clone()),
        (&format!("{rbac}/clusterrolebindings"), binding),
    ];
    for (path, mut object) in kinds {
        object["metadata"] = json!({"name": "put"});
        let made = house.put(&format!("{path}/put"), &object).await;
        assert_eq!(made.code, StatusCode::CREATED, "{path} {}", made.json());
        let again = house.put(&format!("{path}/put"), &house.get(&format!("{path}/put")).await.ok()).await;
        assert_eq!(again.code, StatusCode::OK, "{path}");
    }
    let service = house.get("/api/v1/namespaces/default/services/put").await.ok();
    assert!(service["spec"]["clusterIP"].is_string(), "{service}");
    assert_eq!(house.put(&format!("{MAPS}/put"), &map("put")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn initial_events_end_with_their_bookmark() {
    let house = House::new().await;
    house.post(MAPS, &map("a")).await.ok();
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Da";
    let mut body = house.open(Method::GET, &format!("{MAPS}?{query}"), &[], "").await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let lines: Vec<Value> = frame.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
    assert_eq!((lines[0]["type"].as_str(), lines[1]["type"].as_str()), (Some("ADDED"), Some("BOOKMARK")));
    assert_eq!(lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn unknown_fields_warn_or_are_refused_as_asked() {
    let house = House::new().await;
    let mut object = map("u");
    object["nonsense"] = 1.into();
    let strict = house.post(&format!("{MAPS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.code, StatusCode::BAD_REQUEST);
    assert!(strict.json()["message"].as_str().unwrap().contains("unknown field \"nonsense\""), "{}", strict.json());
    let warned = house.post(MAPS, &object).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"nonsense\\\"\"");
    assert!(warned.ok().get("nonsense").is_none());
}

#[tokio::test]
async fn what_stands_twice_in_a_patch_is_told_as_what_is_unknown_in_its_result() {
    let house = House::new().await;
    house.post(MAPS, &map("p")).await.ok();
    let one = format!("{MAPS}/p");
    let said = r#"duplicate field "data.a", duplicate field "odd.x", unknown field "odd""#;
    let merge = r#"{"data":{"a":"2","a":"3"},"odd":{"x":1,"x":2}}"#;
    let operations = r#"[{"op":"add","path":"/data/b","path":"/data/b","value":"1","foo":1}]"#;
    let of_operations = r#"json patch duplicate field "[0].path", json patch unknown field "[0].foo""#;
    let cases = [("merge-patch", merge, said), ("strategic-merge-patch", merge, said), ("json-patch", operations, of_operations)];
    for (of, body, said) in cases {
        let media = format!("application/{of}+json");
        let headers = [("content-type", media.as_str())];
        let strict = house.ask(Method::PATCH, &format!("{one}?fieldValidation=Strict"), &headers, body).await;
        let message = strict.json()["message"].as_str().unwrap().to_owned();
        assert!(strict.code == 422 && message.ends_with(&format!(": strict decoding error: {said}")), "{of}: {message}");
        let warned = house.ask(Method::PATCH, &format!("{one}?dryRun=All"), &headers, body).await;
        let warnings: Vec<&str> = warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
        let expected: Vec<String> = said.split(", ").map(|text| format!("299 - {text:?}")).collect();
        assert_eq!(warnings, expected, "{of}");
    }
    assert_eq!(house.get(&one).await.ok()["data"], json!({"a": "1"}));
    let config = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\n\"data\":{\"a\":\"2\",\n\"a\":\"3\"}}";
    let apply = format!("{one}?fieldManager=m&force=true&fieldValidation=Strict");
    let applied = house.ask(Method::PATCH, &apply, &[("content-type", "application/apply-patch+yaml")], config).await;
    let lines =
        "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  line 3: key \"a\" already set in map";
    assert_eq!((applied.code.as_u16(), applied.json()["message"].as_str()), (400, Some(lines)));
}

#[tokio::test]
async fn a_resource_version_that_is_no_number_does_not_keep_an_object_from_being_created() {
    let house = House::new().await;
    for (name, version, code) in [("a", "0", 201), ("b", "none", 201), ("c", "7", 500)] {
        let mut object = map(name);
        object["metadata"]["resourceVersion"] = version.into();
        object["apiVersion"] = "/v1".into();
        assert_eq!(house.post(MAPS, &object).await.code, code, "{version}");
    }
}

#[tokio::test]
async fn who_asks_in_the_old_way_for_dependents_to_go_is_told_that_a_delete_takes_time() {
    let house = House::new().await;
    for (name, options, code) in [("a", json!({"orphanDependents": false}), 202), ("b", json!({}), 200)] {
        let mut object = map(name);
        object["metadata"]["finalizers"] = json!(["example.com/wait"]);
        house.post(MAPS, &object).await.ok();
        let body = options.to_string();
        let gone = house.ask(Method::DELETE, &format!("{MAPS}/{name}"), &[("content-type", "application/json")], body).await;
        assert_eq!(gone.code, code, "{name}");
    }
}

#[tokio::test]
async fn a_list_of_any_version_is_whole_and_what_is_wrong_with_its_options_is_said_in_their_order() {
    let house = House::new().await;
    for name in ["a", "b", "c"] {
        house.post(MAPS, &map(name)).await.ok();
    }
    for (query, items) in
        [("limit=2", 2), ("limit=2&resourceVersion=0", 3), ("limit=2&resourceVersion=0&resourceVersionMatch=NotOlderThan", 3)]
    {
        assert_eq!(house.get(&format!("{MAPS}?{query}")).await.ok()["items"].as_array().unwrap().len(), items, "{query}");
    }
    let refusals = [
        ("resourceVersion=x", "invalid resource version: resourceVersion: Invalid value: \"x\""),
        ("resourceVersion=x&resourceVersionMatch=Odd", "resourceVersionMatch: Unsupported value: \"Odd\""),
        ("resourceVersion=x&continue=y", "continue key is not valid"),
        ("resourceVersion=x&continue=y&resourceVersionMatch=Exact", "resourceVersionMatch is forbidden when continue is provided"),
    ];
    for (query, said) in refusals {
        let refused = house.get(&format!("{MAPS}?{query}")).await;
        assert!(refused.json()["message"].as_str().unwrap().contains(said), "{query}: {}", refused.json());
    }
    assert_eq!(house.get(&format!("{MAPS}/a?export=true")).await.code, StatusCode::BAD_REQUEST);
    assert_eq!(house.get(&format!("{MAPS}/a?export=false")).await.code, StatusCode::OK);
}

#[tokio::test]
async fn a_dry_run_leaves_no_trace() {
    let house = House::new().await;
    let made = house.post(&format!("{MAPS}?dryRun=All"), &map("dry")).await;
    assert_eq!(made.code, StatusCode::CREATED);
    assert_eq!(house.get(&format!("{MAPS}/dry")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_collection_is_deleted_as_selected() {
    let house = House::new().await;
    for name in ["a", "b"] {
        house.post(MAPS, &map(name)).await.ok();
    }
    let gone = house.delete(&format!("{MAPS}?labelSelector=app%3Da")).await.ok();
    assert_eq!(gone["items"].as_array().unwrap().len(), 1);
    assert_eq!(house.get(&format!("{MAPS}/a")).await.code, StatusCode::NOT_FOUND);
    assert_eq!(house.get(&format!("{MAPS}/b")).await.code, StatusCode::OK);
}

#[tokio::test]
async fn the_history_of_an_object_is_told_to_whoever_asks_for_it() {
    let house = House::new().await;
    let made = house.post(MAPS, &map("one")).await.ok();
    house.delete(&format!("{MAPS}/one")).await.ok();
    let told = house.get(&format!("{MAPS}/one?coracleHistory=true")).await.ok();
    let verbs: Vec<&str> = told["items"].as_array().unwrap().iter().map(|item| item["verb"].as_str().unwrap()).collect();
    assert_eq!((&told["items"][0]["object"], verbs), (&made, vec!["create", "delete"]));
    assert_eq!(house.get(&format!("{MAPS}/one?coracleHistory=false")).await.code, StatusCode::NOT_FOUND);

    // Who owns a namespace reads nothing of what was in another of its name.
    let namespace = json!({"metadata": {"name": "shop"}});
    let maps = MAPS.replace("default", "shop");
    house.post("/api/v1/namespaces", &namespace).await.ok();
    house.post(&maps, &map("theirs")).await.ok();
    house.delete(&format!("{maps}/theirs")).await.ok();
    let mut going = house.delete("/api/v1/namespaces/shop").await.ok();
    going["spec"]["finalizers"] = json!([]);
    house.put("/api/v1/namespaces/shop/finalize", &going).await.ok();
    assert_eq!(house.get("/api/v1/namespaces/shop").await.code, StatusCode::NOT_FOUND);
    house.post("/api/v1/namespaces", &namespace).await.ok();
    assert_eq!(house.get(&format!("{maps}/theirs?coracleHistory=true")).await.code, StatusCode::NOT_FOUND);
    house.post(&maps, &map("theirs")).await.ok();
    let told = house.get(&format!("{maps}/theirs?coracleHistory=true")).await.ok();
    assert_eq!(told["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_object_that_is_too_large_with_its_owners_goes_without_unless_it_is_applied() {
    let house = House::new().await;
    let data: coracle_tree::Map = (0..20_000).map(|at| (format!("{at:080}"), "a")).collect();
    let path = "/api/v1/namespaces/default/configmaps";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let made = house.post(path, &map).await.ok();
    assert!(made["metadata"].get("managedFields").is_none());
    house.post(path, &json!({"metadata": {"name": "b"}, "data": {"k": "v"}})).await.ok();
    let grown = house.patch(&format!("{path}/b"), "application/merge-patch+json", &json!({"data": data})).await.ok();
    assert!(grown["metadata"].get("managedFields").is_none());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    assert_eq!(house.patch(&format!("{path}/c?fieldManager=m"), "application/apply-patch+yaml", &map).await.code, 413);
}

#[tokio::test]
async fn a_list_of_owners_without_entries_makes_the_server_forget_them() {
    let house = House::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = house.post(maps, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.ok();
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");
    let path = format!("{maps}/a");
    let forgotten = house.put(&path, &json!({"metadata": {"name": "a", "managedFields": []}, "data": {"k": "w"}})).await.ok();
    assert_eq!(forgotten["metadata"].get("managedFields"), None);
    let next = house.put(&path, &json!({"metadata": {"name": "a"}, "data": {"k": "x"}})).await.ok();
    assert_eq!(next["metadata"].get("managedFields"), None, "it is not tracked until the next apply");
}
