//! Output for programs: each command of a host, errors, and the page about them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::forms::{docs, forms};
use crate::harness::{Host, Settings, persistent, standard};

/// Checks what a command printed on standard error with `--json` when it was not carried out.
fn error_of(err: &str) -> Value {
    let schema = serde_json::from_str(&docs("error.schema.json")).unwrap();
    let value: Value = serde_json::from_str(err).unwrap_or_else(|error| panic!("{error}: {err}"));
    assert_eq!(vigie_schema::problems(&schema, "", &value), [""; 0]);
    value["error"].clone()
}

#[test]
fn each_command_of_a_host_prints_what_its_schema_says() {
    let host = Host::new(
        &Settings::default(),
        &(persistent("alerter.py", &["3", "number %d"])
            + &persistent("exits_at_once.sh", &[])
            + &persistent("bad_lines.py", &["garbage_json"])
            + &persistent("echo.py", &[])
            + &standard("standard_echo.sh")
            + "[[sink]]\nname = \"lines\"\nkind = \"file\"\npath = \"/nonexistent/vigie/alerts.jsonl\"\n"),
    );
    let _agent = host.start();
    host.wait_ready("echo");
    host.wait_for("exits_at_once", |module| module["state"] == "failed");
    host.wait_for("bad_lines", |module| module["logs"] == 2);
    host.wait_for("alerter", |module| module["alerts"] == 3);
    let (config, archive) = (host.path("vigie.toml"), host.path("d.tar.gz"));
    let config = config.to_str().unwrap();
    fs::write(host.path("bad.toml"), "[agent]\nstop_grace = 5\n").unwrap();
    let bad = host.path("bad.toml");
    let archive = archive.to_str().unwrap();

    let commands: &[(&[&str], i32)] = &[
        (&["status"], 1),
        (&["module", "list"], 0),
        (&["module", "restart", "echo"], 0),
        (&["module", "logs", "bad_lines"], 0),
        (&["module", "tap", "echo", "--for", "200ms"], 0),
        (&["sink", "list"], 0),
        (&["sink", "test", "lines"], 1),
        (&["alerts"], 0),
        (&["alerts", "--raw"], 0),
        (&["alerts", "--verify"], 0),
        // One of its modules does not run.
        (&["reload"], 1),
        (&["reload", "--dry-run"], 0),
        (&["check-config", bad.to_str().unwrap(), "--json"], 78),
        (&["config", "show", config, "--json"], 0),
        (&["diagnostics", "--config", config, "--out", archive], 0),
        (&["explain"], 0),
        (&["explain", "journal-unwritable"], 0),
        (&["query", "echo"], 0),
        (&["query", "standard_echo"], 0),
    ];
    for (arguments, code) in commands {
        // `Host::vigie` checks the form of each.
        let ran = host.vigie(arguments);
        assert_eq!(ran.code, *code, "{arguments:?}: {ran:?}");
        assert!(ran.out.starts_with('{'), "{arguments:?} printed no JSON: {ran:?}");
        assert!(forms().iter().any(|form| form.is_of(arguments)), "{arguments:?} is in no row");
    }
}

#[test]
fn what_goes_wrong_is_told_in_words_or_to_programs_that_ask() {
    let host = Host::new(&Settings::default(), "");

    let for_people = host.vigie(&["status"]);
    let for_programs = host.vigie(&["status", "--json"]);

    assert!(for_people.err.starts_with("vigie: no agent answers at"), "{for_people:?}");
    let error = error_of(&for_programs.err);
    assert_eq!((for_programs.code, &error["exit"]), (3, &serde_json::json!(3)));
    assert!(error["hint"].as_str().unwrap().contains("vigie agent"), "{error}");
    // Somebody else's option is not ours.
    let foreign = host.vigie(&["module", "test", "--", "relative", "--json"]);
    assert!(foreign.err.starts_with("vigie: "), "{foreign:?}");
}

#[test]
fn a_row_is_found_by_its_words_and_options() {
    let file =
        |arguments: &[&str]| forms().iter().find(|form| form.is_of(arguments)).map(|form| form.file.as_str());

    assert_eq!(file(&["alerts", "-n", "5"]), Some("alerts.schema.json"));
    assert_eq!(file(&["alerts", "--json", "--verify"]), Some("alerts-verify.schema.json"));
    assert_eq!(file(&["query", "-i", "x", "--target", "all"]), Some("fleet-results.schema.json"));
    assert_eq!(file(&["query", "-i", "x"]), Some("action-results.schema.json"));
    assert_eq!(file(&["fleet", "init", "fleet"]), Some("fleet-commands.schema.json"));
    assert_eq!(file(&["fleet", "up"]), None);
    assert_eq!(forms().iter().find(|form| form.is_of(&["module", "list"])).unwrap().pointer, "/$defs/module");
}

#[test]
fn every_schema_is_named_in_the_page() {
    let page = docs("json.md");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".schema.json") || page.contains(&format!("({name})")), "{name}");
    }
}
