//! Tables that were captured together with MIG's answers about them.
//!
//! Where MIG is wrong the test says what we answer instead. Our own keys are left out of the comparison.

use std::path::{Path, PathBuf};

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use vigie_netstat::proc_net::ProcNet;
use vigie_netstat::run_with;
use vigie_netstat::search::Backend;
use vigie_sdk::Query;

/// Kinds that are answered from these tables; the others are about the host that runs the test.
const KINDS: [&str; 4] = ["neighbormac", "neighborip", "connectedip", "listeningport"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/netstat")
}

fn cases() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(directory().join("queries.json")).unwrap()).unwrap()
}

/// Our answer from the tables of one namespace.
fn ours(case: &Value, namespace: &str) -> Value {
    let mut parameters = case["params"].clone();
    if let Some(parameters) = parameters.as_object_mut() {
        parameters.remove("namespaces");
    }
    let mut query = Query::new(Some(to_raw_value(&parameters).unwrap()));
    query.extraprivacy = case["extraprivacy"] == json!(true);
    let backend = Backend::TextTables(ProcNet::below(directory().join(namespace)));
    serde_json::from_slice(&run_with(&query, &backend).to_line()).unwrap()
}

/// The elements of one value, comparable: without order and without keys that are not compared.
fn rows(result: &Value, kind: &str, asked: &str) -> Vec<String> {
    let mut rows: Vec<String> = super::elements(result, kind, asked)
        .iter()
        .map(|element| {
            let mut element = element.as_object().unwrap().clone();
            element.retain(|key, _| !["namespace", "protocol", "state"].contains(&key.as_str()));
            Value::Object(element).to_string()
        })
        .collect();
    rows.sort_unstable();
    rows
}

/// MIG's elements of one value without what is wrong in them.
fn corrected(result: &Value, kind: &str, asked: &str) -> Vec<String> {
    let mut rows = rows(result, kind, asked);
    match kind {
        // MIG calls listening sockets and unconnected UDP ones connected to nothing.
        "connectedip" => rows.retain(|row| row.contains("remoteport")),
        // Any socket with that local port: connections that came in look as if they listened, too …
        "listeningport" if asked != "40080" && asked != "40084" => rows.dedup(),
        // … and so do the other ends.
        "listeningport" => rows.clear(),
        // The case of hexadecimal digits says nothing.
        "neighbormac" if asked == "02:77:AA:BB:CC:09" => {
            rows.push(r#"{"remoteaddr":"10.77.0.9","remotemacaddr":"02:77:aa:bb:cc:09"}"#.to_owned());
        }
        _ => {}
    }
    rows
}

#[test]
fn what_mig_found_is_found_except_where_it_is_wrong() {
    let mut compared = 0;
    for case in cases() {
        let name = &case["name"];
        if case["result"]["success"] != json!(true) {
            continue;
        }
        let namespaces: &[&str] = match case["params"]["namespaces"] {
            Value::Bool(true) => &["default", "ns1"],
            _ => &["default"],
        };
        let answers: Vec<Value> = namespaces.iter().map(|namespace| ours(&case, namespace)).collect();
        for answer in &answers {
            assert_eq!(answer["success"], json!(true), "{name}: {answer}");
        }
        for kind in KINDS {
            for asked in case["params"][kind].as_array().into_iter().flatten() {
                let asked = asked.as_str().unwrap();
                let expected = corrected(&case["result"], kind, asked);
                let mut found: Vec<String> =
                    answers.iter().flat_map(|answer| rows(answer, kind, asked)).collect();
                found.sort_unstable();
                assert_eq!(found, expected, "{name}: {kind} {asked}");
                compared += 1;
            }
        }
    }
    assert!(compared > 35, "only {compared} values were compared");
}

#[test]
fn what_mig_refuses_is_refused_and_the_parameter_named() {
    let mut refused = 0;
    for case in cases().iter().filter(|case| case["result"]["success"] == json!(false)) {
        let answer = ours(case, "default");
        let mut parameter = case["params"].as_object().unwrap().keys();
        // The parameter `namespaces` is taken out for the other tests.
        if case["params"]["namespaces"].is_null() {
            assert_eq!(answer["success"], json!(false), "{case}");
            let error = answer["errors"][0].as_str().unwrap();
            assert!(error.contains(parameter.next().unwrap()), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 7, "only {refused} cases");
}

#[test]
fn extra_privacy_masks_the_peer_as_mig_does() {
    let cases = cases();
    let case = cases.iter().find(|case| case["extraprivacy"] == json!(true)).unwrap();

    let answer = ours(case, "default");

    let connected = super::elements(&answer, "connectedip", "0.0.0.0/0");
    assert!(!connected.is_empty());
    assert!(connected.iter().all(|element| element["remoteaddr"] == json!("masked")), "{answer}");
}

#[test]
fn an_answer_from_the_text_tables_says_so() {
    let answer = ours(&json!({"params": {"connectedip": ["10.77.0.2"]}}), "default");

    assert_eq!(answer["statistics"]["backend"], json!("procfs"));
    assert_eq!(answer["statistics"]["totalhits"], json!(2));
}
