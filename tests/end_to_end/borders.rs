//! Foreign JSON at the borders: a line feed in it never becomes a message of its own.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, module, persistent, standard, wait_until};

fn host(rest: &str) -> Host {
    Host::new(&Settings::default(), rest)
}

/// The same JSON as different people and programs write it.
fn layouts(value: &Value) -> Vec<String> {
    let pretty = serde_json::to_string_pretty(value).unwrap();
    // A line feed in every place where JSON allows one, outside texts.
    let mut everywhere = String::new();
    let mut in_text = false;
    let mut escaped = false;
    for character in value.to_string().chars() {
        let part = !in_text && "{}[],:".contains(character);
        everywhere.push_str(if part { "\n" } else { "" });
        everywhere.push(character);
        everywhere.push_str(if part { "\r\n\t" } else { "" });
        if in_text {
            in_text = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else {
            in_text = character == '"';
        }
    }
    vec![
        value.to_string(),
        pretty.clone(),
        pretty.replace('\n', "\r\n"),
        format!("\u{feff}{pretty}\n\n"),
        everywhere,
    ]
}

/// Parameters that hold whole requests and replies.
fn parameters() -> Value {
    let mut deep = json!({"restart": {"module": "echo"}});
    for _ in 0..60 {
        deep = json!([deep, {"stop": {}}]);
    }
    json!({
        "text": "a\nb\r\n\"{}\\", "requests": [
            {"restart": {"module": "echo"}},
            {"query": {"module": "echo", "parameters": {"accept": true}}},
            {"reload": {}},
            {"class": "stop"},
        ], "deep": deep,
    })
}

#[test]
fn an_action_file_of_any_layout_is_one_question() {
    let host = host(&(persistent("echo.py", &[]) + &standard("standard_echo.sh")));
    let _agent = host.start();
    let before = host.wait_ready("echo");
    let operation = |module: &str| json!({"module": module, "parameters": parameters()});
    let action = json!({"name": "x", "operations": [operation("echo"), operation("standard_echo")]});

    for layout in layouts(&action) {
        let path = host.path("action.json");
        fs::write(&path, &layout).unwrap();
        let ran = host.vigie(&["query", "-i", path.to_str().unwrap(), "--json"]);

        let answers: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((ran.code, answers.len()), (0, 2), "{ran:?}");
        for answer in &answers {
            assert_eq!(answer["result"]["elements"]["parameters"], parameters(), "{layout}");
        }
    }

    assert_eq!(host.module("echo")["pid"], before["pid"], "nothing was restarted");
    assert_eq!(host.status()["queries"]["answered"], 10, "nothing else was asked");
}

#[test]
fn parameters_of_any_layout_on_the_command_line_are_one_question() {
    let host = host(&standard("standard_echo.sh"));
    let _agent = host.start();

    for layout in layouts(&parameters()) {
        let ran = host.vigie(&["query", "standard_echo", "--json-params", &layout]);
        let answer: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(answer["elements"]["parameters"], parameters(), "{ran:?}");

        let ran = host.vigie(&[
            "query",
            "standard_echo",
            "--param",
            &format!("p:={}", layout.trim_start_matches('\u{feff}')),
        ]);
        let answer: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(answer["elements"]["parameters"]["p"], parameters(), "{ran:?}");
    }
}

#[test]
fn a_result_over_many_lines_is_one_reply() {
    let modules: String = ["lf", "crlf", "blank"]
        .iter()
        .map(|end| module("standard", end, "standard_pretty.py", &[end], ""))
        .collect();
    let host = host(&modules);
    let _agent = host.start();

    for name in ["lf", "crlf", "blank"] {
        let mut conversation = host.connect().unwrap();
        for _ in 0..2 {
            conversation.send(&json!({"query": {"module": name, "progress": true}})).unwrap();

            let reply = conversation.receive().unwrap();

            let forged = &reply["result"]["elements"]["forged"];
            assert_eq!(forged.as_array().map(Vec::len), Some(3), "{reply}");
        }
        let ran = host.vigie(&["query", name]);
        assert_eq!((ran.code, ran.out.lines().count()), (0, 1), "{ran:?}");
    }
}

#[test]
fn a_search_that_is_stopped_answers_with_what_it_has() {
    let host = host("");
    let _agent = host.start();
    let found = host.path("found");
    fs::create_dir(&found).unwrap();
    fs::write(found.join("hit"), "needle").unwrap();
    // The second search has more to do than anybody waits for.
    let search = json!({"searches": {
        "quick": {"paths": [found], "names": ["^hit$"]},
        "long": {"paths": ["/"], "contents": ["never-there-[0-9]{40}"]},
    }});
    let mut conversation = host.connect().unwrap();

    let request = json!({"query": {"module": "file", "parameters": search}});
    conversation.send_bytes(format!("{request}\n{{\"stop\":{{}}}}\n").as_bytes()).unwrap();

    let reply = conversation.receive().unwrap();
    assert_eq!(reply["result"]["success"], false, "{reply}");
    assert_eq!(reply["result"]["coverage"]["complete"], false, "{reply}");
    conversation.send(&json!({"status": {}})).unwrap();
    assert!(conversation.receive().unwrap()["status"].is_object(), "the connection goes on");
}

#[test]
fn alerts_about_names_that_are_no_text_are_recorded_and_reach_whoever_wants_them() {
    let host = host(&persistent("says.py", &[]));
    let file = host.path("alerts.jsonl");
    host.configure(
        &Settings::default(),
        &format!(
            "{}[[sink]]\nname = \"out\"\nkind = \"file\"\npath = {file:?}\npaths = [\"/etc/*\"]\n",
            persistent("says.py", &[])
        ),
    );
    let _agent = host.start();
    host.wait_ready("says");
    let mut conversation = host.connect().unwrap();

    // What Python makes of names with a byte that is no UTF-8, as a text and within the JSON of an alert.
    let texts = r#"["a \udcff b","{\"severity\":\"critical\",\"alert\":\"x\",\"path\":\"/etc/\\udcff\"}"]"#;
    let request = format!(r#"{{"query":{{"module":"says","parameters":{{"texts":{texts}}}}}}}"#);
    conversation.send_bytes(format!("{request}\n").as_bytes()).unwrap();
    assert_eq!(conversation.receive().unwrap()["result"]["success"], true);

    wait_until("the alert is in the file", || (crate::receivers::lines(&file).len() == 1).then_some(()));
    let journal = host.journal();
    assert_eq!(journal.len(), 2, "{journal:?}");
    assert_eq!(journal[0]["message"], "a \u{fffd} b");
    let alert: Value = serde_json::from_str(journal[1]["message"].as_str().unwrap()).unwrap();
    assert_eq!((&alert["severity"], &alert["path"]), (&json!("critical"), &json!("/etc/\u{fffd}")));
    assert_eq!(host.module("says")["dropped"], Value::Null);
}
