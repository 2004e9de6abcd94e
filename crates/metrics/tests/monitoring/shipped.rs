//! What ships for Prometheus and Grafana, and the pages themselves, judged by Prometheus' own `promtool`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use vigie_metrics::{EXAMPLE_STATUS, FAMILIES, Form, render};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `promtool`: the one that `VIGIE_PROMTOOL` names, or that `make test` has put below `target`, or the installed one.
fn promtool() -> Option<PathBuf> {
    let named = std::env::var_os("VIGIE_PROMTOOL").map(PathBuf::from);
    let fetched = root().join("target/promtool/usr/bin/promtool");
    let found = named.into_iter().chain([fetched, PathBuf::from("promtool")]).find(|program| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    if found.is_none() {
        vigie_skipped::missing("promtool");
    }
    found
}

/// Runs promtool; its output when it found nothing wrong.
fn judged(promtool: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(promtool)
        .args(arguments)
        .current_dir(root().join("conf/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes())
        .map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn example(form: Form) -> String {
    render(&serde_json::from_str(EXAMPLE_STATUS).unwrap(), form)
}

#[test]
fn promtool_finds_nothing_in_the_page() {
    let Some(promtool) = promtool() else { return };

    assert_eq!(judged(&promtool, &["check", "metrics"], &example(Form::Text)), Ok(String::new()));
    // It does find what is wrong.
    assert!(judged(&promtool, &["check", "metrics"], "vigie_x 1\nvigie_x 1\n").is_err());
}

#[test]
fn openmetrics_ends_with_its_mark_and_has_the_same_samples() {
    let samples = |page: &str| -> BTreeSet<String> {
        page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (text, open) = (example(Form::Text), example(Form::OpenMetrics));

    assert!(open.ends_with("\n# EOF\n"));
    assert_eq!(samples(&text), samples(&open));
}

#[test]
fn every_alert_rule_is_valid_and_has_a_case_that_holds() {
    let Some(promtool) = promtool() else { return };
    let read = |name: &str| std::fs::read_to_string(root().join("conf/prometheus").join(name)).unwrap();
    let rules: Vec<String> = read("vigie.rules.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned))
        .collect();
    let cases = read("vigie.rules.test.yml");

    assert!(rules.len() >= 15, "{rules:?}");
    for rule in &rules {
        let alerts = cases.contains(&format!("alertname: {rule}\n        exp_alerts:\n"));
        let is_quiet = cases.contains(&format!("alertname: {rule}, exp_alerts: []"));
        assert!(alerts && is_quiet, "{rule} has no case");
    }
    judged(&promtool, &["check", "rules", "vigie.rules.yml"], "").unwrap();
    judged(&promtool, &["test", "rules", "vigie.rules.test.yml"], "").unwrap();
}

/// Names of metrics of ours in an expression.
fn named(expression: &str) -> Vec<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    expression.split(|letter| !is_part(letter)).filter(|word| word.starts_with("vigie_")).collect()
}

fn exports(name: &str) -> bool {
    FAMILIES.iter().any(|family| family.name == name)
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_are_exported() {
    let rules = std::fs::read_to_string(root().join("conf/prometheus/vigie.rules.yml")).unwrap();
    for line in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        for name in named(line) {
            assert!(exports(name), "{name} in {line}");
        }
    }
    let expressions = dashboard_expressions();
    assert!(expressions.len() > 20);
    for expression in &expressions {
        let names = named(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(exports(name), "{name} in {expression}");
        }
    }
    // The same check finds a name that nobody exports.
    assert!(!exports("vigie_helth"));
}

fn dashboard_expressions() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("conf/grafana/vigie.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(39));
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_expression_of_the_dashboard_is_valid() {
    let Some(promtool) = promtool() else { return };
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (index, expression) in dashboard_expressions().iter().enumerate() {
        rules.push_str(&format!(
            "  - record: panel:{index}\n    expr: '{}'\n",
            expression.replace('\'', "''")
        ));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dashboard.yml");
    std::fs::write(&file, rules).unwrap();

    judged(&promtool, &["check", "rules", file.to_str().unwrap()], "").unwrap();
}

/// The list in docs/metrics.md is made from the one in the code: `VIGIE_WRITE_DOCS=1` writes it.
#[test]
fn the_documentation_lists_every_metric() {
    let path = root().join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mark = "<!-- The table is written by a test of crates/metrics. -->\n";
    let (before, rest) = text.split_once(mark).expect("the mark is there");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    for family in FAMILIES {
        let kind = format!("{:?}", family.kind).to_lowercase();
        table.push_str(&format!("| `{}` | {kind} | {} |\n", family.name, family.help));
    }
    let expected = format!("{before}{mark}{table}\n{after}");
    if std::env::var_os("VIGIE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert_eq!(text, expected, "write it with VIGIE_WRITE_DOCS=1 cargo test -p vigie-metrics");
}
