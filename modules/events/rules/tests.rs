use vigie_kernel_events::{Account, File};

use super::*;
use crate::record::{Program, Record, Run, What};
use crate::table::Table;

const ANN: Account = Account::user(1000);

fn exec(path: &str, arguments: &[&str]) -> Record {
    let run = Run {
        program: Program { path: path.into(), file: File { links: 1, mode: 0o100_755, ..File::default() } },
        arguments: vigie_kernel_events::Listed::from_bytes(arguments.join("\0").into_bytes()),
        ..Run::default()
    };
    Record { time: 1, who: Key { pid: 7, start: 1 }, what: What::Exec(Box::new(run)) }
}

fn fires(rules: &mut Rules, record: &Record) -> Vec<String> {
    let table = Table::default();
    let facts = Facts::new(record, ANN, &table, [0; 4]);
    rules.ask(&facts).iter().map(|fired| fired.rule.id.clone()).collect()
}

const RULES: &str = r#"
[lists]
tools = ["nc", "ncat*"]

[[rule]]
id = "one"
title = "One"
severity = "high"
on = ["exec"]
when = [{ exe.name = "$tools", argument = "-e" }, { exe.path = "/tmp/*", arguments = ">=3" }]
unless = [{ argument = "quiet" }]
"#;

#[test]
fn one_of_when_must_fit_and_none_of_unless() {
    let mut rules = Rules::new(parse(RULES).unwrap(), &[]);

    assert_eq!(fires(&mut rules, &exec("/usr/bin/ncat.openbsd", &["ncat", "-e", "sh"])), ["one"]);
    assert!(fires(&mut rules, &exec("/usr/bin/nc", &["nc", "-l"])).is_empty());
    assert_eq!(fires(&mut rules, &exec("/tmp/x", &["x", "1", "2"])), ["one"]);
    assert!(fires(&mut rules, &exec("/tmp/y", &["y", "1"])).is_empty());
    assert!(fires(&mut rules, &exec("/usr/bin/nc", &["nc", "-e", "quiet"])).is_empty());
}

#[test]
fn the_same_again_is_counted_and_not_told() {
    let mut rules = Rules::new(parse(RULES).unwrap(), &[]);
    let mut record = exec("/tmp/x", &["x", "1", "2"]);

    assert_eq!(fires(&mut rules, &record).len(), 1);
    assert!(fires(&mut rules, &record).is_empty());
    record.time += QUIET;
    let table = Table::default();
    let facts = Facts::new(&record, ANN, &table, [0; 4]);
    let again: Vec<u64> = rules.ask(&facts).iter().map(|fired| fired.repeated).collect();

    assert_eq!(again, [1]);
}

#[test]
fn what_is_wrong_is_told_with_its_rule() {
    for (from, to, problem) in [
        ("exe.name", "exe.nome", "unknown field"),
        ("\"$tools\"", "\"$nothing\"", "unknown list"),
        ("\"high\"", "\"loud\"", "unknown severity"),
        ("[\"exec\"]", "[\"execute\"]", "unknown kind"),
        ("\">=3\"", "\"many\"", "not a number"),
        ("title", "titel", "unknown field"),
    ] {
        let problems = parse(&RULES.replacen(from, to, 1)).unwrap_err();

        assert!(problems.iter().any(|text| text.contains(problem)), "{problems:?}");
    }
}

#[test]
fn the_built_in_rules_are_whole() {
    let rules = parse(BUILTIN).unwrap();

    assert!(rules.len() >= 40, "{}", rules.len());
    for rule in &rules {
        assert!(rule.trigger.is_some(), "{} has no trigger", rule.id);
        assert!(!rule.attack.is_empty(), "{} has no technique", rule.id);
        assert!(rule.attack.iter().all(|id| id.starts_with('T') && id.len() >= 5), "{}", rule.id);
    }
}
