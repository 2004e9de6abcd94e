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

/// Other ways to do the same: which rule must report each. What the kernel has to tell for it is told by the kernel.
const VARIANTS: &[(&str, &str)] = &[
    (
        "deleted-or-memory-listen",
        r#"cp $(readlink -f /usr/bin/python3) $D/d
$D/d -c "import os,socket;os.unlink('$D/d');s=socket.socket();s.bind(('127.0.0.1',0));s.listen()""#,
    ),
    // Another process removes it.
    (
        "deleted-or-memory-listen",
        r#"cp $(readlink -f /usr/bin/python3) $D/e
$D/e -c "import subprocess,socket;subprocess.run(['rm','$D/e']);s=socket.socket();s.bind(('127.0.0.1',0));s.listen()""#,
    ),
];

#[test]
fn variants_of_what_rules_are_about_fire_them_on_this_kernel() {
    let mut silent = Vec::new();
    for (rule, script) in VARIANTS {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut engine, told)) = crate::tests::engine(dir.path(), serde_json::json!({})) else {
            return;
        };
        let work = tempfile::tempdir().unwrap();
        crate::tests::trigger(&mut engine, work.path(), script);
        crate::tests::all_is_read(&mut engine, &told, work.path());
        if !told.alerts().iter().any(|alert| alert["rule"] == **rule) {
            silent.push(format!("{rule}: {script}"));
        }
    }

    assert!(silent.is_empty(), "{silent:#?}");
}

/// A daemon whose package was upgraded listens again: its file is another one now.
#[test]
fn a_daemon_whose_file_was_replaced_by_an_upgrade_listens_without_an_alert() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = crate::tests::engine(dir.path(), serde_json::json!({})) else { return };
    let Ok(opt) = tempfile::Builder::new().prefix("vigie-upgraded").tempdir_in("/opt") else {
        return vigie_skipped::without_bpf("/opt cannot be written");
    };
    let daemon = opt.path().join("daemon");
    let script = format!(
        r#"P={}; cp $(readlink -f /usr/bin/python3) $P
$P -c "import os,shutil,socket;shutil.copy('$P','$P.new');os.rename('$P.new','$P');s=socket.socket();s.bind(('127.0.0.1',0));s.listen()""#,
        daemon.display()
    );
    crate::tests::trigger(&mut engine, dir.path(), &script);
    crate::tests::all_is_read(&mut engine, &told, dir.path());

    let alerts = told.alerts();
    let wrong = alerts.iter().filter(|alert| crate::tests::is_from(alert, opt.path()));
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&serde_json::Value>::new());
}
