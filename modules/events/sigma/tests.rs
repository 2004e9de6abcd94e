//! Rules written by us in Sigma's form: what becomes of them, and what is refused.

use super::Imported;
use crate::rules;

fn import(text: &str) -> Imported {
    let mut imported = Imported::default();
    imported.add("proc_creation_lnx_test.yml", text);
    imported
}

fn rule(category: &str, detection: &str) -> Imported {
    import(&format!(
        "title: A test\nid: 0b2c8a0e-0000-4000-8000-000000000001\nlevel: high\nauthor: us\n\
         tags:\n  - attack.execution\n  - attack.t1059.004\nfalsepositives:\n  - administrators\n\
         logsource:\n  product: linux\n  category: {category}\ndetection:\n{detection}"
    ))
}

#[track_caller]
fn refused(category: &str, detection: &str, place: &str, why: &str) {
    let imported = rule(category, detection);
    assert_eq!(imported.taken, 0, "{}", imported.rules);
    let all = imported.refused.join("\n");
    assert!(
        all.contains("proc_creation_lnx_test.yml: ") && all.contains(place) && all.contains(why),
        "{all}"
    );
}

#[test]
fn a_rule_about_a_program_becomes_one_of_ours() {
    let imported = rule(
        "process_creation",
        "  selection:\n    Image|endswith:\n      - /nc\n      - /ncat\n    CommandLine|contains|all:\n      - ' -e '\n      - /bin/\n\
         \x20 filter_ci:\n    ParentImage: /usr/bin/runner\n  condition: selection and not 1 of filter_*\n",
    );

    assert_eq!((imported.taken, imported.refused.as_slice()), (1, &[][..]));
    let expected = "# Sigma 0b2c8a0e-0000-4000-8000-000000000001, by us\n[[rule]]\nid = \"sigma-proc-creation-lnx-test\"\n\
        title = \"A test\"\nattack = [\"T1059.004\"]\nseverity = \"high\"\non = [\"exec\"]\nignore_case = true\nwhen = [\n  \
        { exe.path = [\"*/nc\", \"*/ncat\"], command = [\"* -e *\"], and = [{ command = [\"*/bin/*\"] }] },\n]\n\
        unless = [\n  { parent.path = [\"/usr/bin/runner\"] },\n]\nbenign = \"administrators\"\n\n";
    assert_eq!(imported.rules, expected);
    assert_eq!(rules::parse(&imported.rules).unwrap().len(), 1);
}

#[test]
fn conditions_are_written_out_and_different_exceptions_make_different_rules() {
    let imported = rule(
        "process_creation",
        "  a:\n    Image: /bin/a\n  b:\n    - CommandLine|startswith: b\n    - CommandLine|endswith: c\n  x:\n    CurrentDirectory: /x\n\
         \x20 y:\n    CurrentDirectory: /y\n  condition: (a or b) and not x or a and not (x or y)\n",
    );

    let made = rules::parse(&imported.rules).unwrap();
    let ids: Vec<&str> = made.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(
        ids,
        ["sigma-proc-creation-lnx-test-1", "sigma-proc-creation-lnx-test-2"],
        "{}",
        imported.rules
    );
    assert!(imported.rules.contains("command = [\"*c\"]") && imported.rules.contains("command = [\"b*\"]"));
}

#[test]
fn a_rule_about_connections_becomes_one_of_ours() {
    let imported = rule(
        "network_connection",
        "  selection:\n    Initiated: 'true'\n    DestinationIp|cidr: 203.0.113.0/24\n    DestinationPort|gte: 4000\n  condition: selection\n",
    );

    assert_eq!(imported.refused, Vec::<String>::new());
    assert!(imported.rules.contains("on = [\"connect\"]"), "{}", imported.rules);
    assert!(
        imported.rules.contains("remote = [\"203.0.113.0/24\"], remote_port = [\">=4000\"]"),
        "{}",
        imported.rules
    );
}

#[test]
fn a_rule_about_files_becomes_paths_for_fswatch() {
    let imported = rule(
        "file_event",
        "  selection:\n    TargetFilename|startswith:\n      - /etc/cron.d/\n  other:\n    TargetFilename: /etc/ld.so.preload\n  condition: 1 of them\n",
    );

    assert_eq!(imported.refused, Vec::<String>::new());
    assert!(imported.rules.is_empty());
    let expected = "[[paths.groups]]\nname = \"sigma-proc-creation-lnx-test\"\npath = [\"recursive:/etc/cron.d\", \"/etc/ld.so.preload\"]\n\
        severity = \"high\"\ntags = [\"T1059.004\"]\n";
    assert!(imported.paths.contains(expected), "{}", imported.paths);
    assert!(toml::from_str::<toml::Table>(&imported.paths).is_ok());
}

#[test]
fn what_has_no_counterpart_is_refused_with_its_place() {
    let selection = |field: &str| format!("  selection:\n    {field}\n  condition: selection\n");
    let exec = "process_creation";
    refused(
        exec,
        &selection("CommandLine|re: a.*b"),
        "detection.selection.CommandLine|re",
        "re is not supported",
    );
    refused(exec, &selection("Hashes|contains: MD5=1"), "detection.selection.Hashes|contains", "the field");
    refused(exec, &selection("CommandLine|base64offset|contains: x"), "base64offset", "not supported");
    refused(exec, &selection("ParentImage: null"), "detection.selection.ParentImage", "null");
    refused(exec, &selection("CommandLine: '\\*'"), "detection.selection.CommandLine", "literal wildcard");
    refused(exec, &selection("CommandLine|startswith: '$x'"), "CommandLine|startswith", "begins with $");
    refused(exec, &selection("TargetFilename: /x"), "TargetFilename", "rules about files");
    refused(
        exec,
        "  keywords:\n    - evil\n  condition: keywords\n",
        "detection.keywords",
        "without a field",
    );
    refused(
        exec,
        "  a:\n    Image: x\n  condition: a | count() > 5\n",
        "detection.condition",
        "aggregations",
    );
    refused(exec, "  a:\n    Image: x\n  condition: 2 of them\n", "detection.condition", "2 of");
    refused(exec, "  a:\n    Image: x\n  condition: not a\n", "detection.condition", "only exclusions");
    refused(
        exec,
        "  a:\n    Image: x\n  condition: a and b\n",
        "detection.condition",
        "unknown selection \"b\"",
    );
    refused(exec, "  a:\n    Image: x\n  condition: (a\n", "detection.condition", "not closed");
    refused(
        exec,
        "  a:\n    Image: x\n  timeframe: 5m\n  condition: a\n",
        "detection.timeframe",
        "not supported",
    );
    refused("network_connection", &selection("DestinationPort: ssh"), "rule sigma-", "not a number");
    refused("network_connection", &selection("Initiated: 'false'"), "Initiated", "the field");
    refused("file_event", &selection("TargetFilename|endswith: .sh"), "TargetFilename", "is not supported");
    refused("dns_query", &selection("QueryName: x"), "QueryName", "the field");
    refused("registry_set", &selection("Image: x"), "logsource.category", "registry_set");
}

#[test]
fn what_is_no_rule_is_refused_and_several_in_one_file_are_told_apart() {
    for (text, why) in [
        ("a: [", "not YAML"),
        ("", "no rule"),
        ("title: x\nlogsource:\n  product: windows\n", "not linux"),
        ("title: x\ncorrelation:\n  type: event_count\n", "correlation: is not supported"),
        ("title: x\n", "detection: is missing"),
        ("- a\n", "title: is missing"),
    ] {
        let imported = import(text);
        assert!(
            imported.taken == 0 && imported.refused.join(" ").contains(why),
            "{text:?}: {:?}",
            imported.refused
        );
    }
    let good = "title: x\nlogsource:\n  category: process_creation\ndetection:\n  a:\n    Image: /x\n  condition: a\n";
    let imported = import(&format!("{good}---\n{good}---\ntitle: y\n"));
    assert_eq!((imported.taken, imported.refused.len()), (2, 1), "{:?}", imported.refused);
    assert!(imported.refused[0].starts_with("proc_creation_lnx_test.yml[3]: "), "{:?}", imported.refused);
    assert_eq!(rules::parse(&imported.rules).unwrap().len(), 2);
}

#[test]
fn a_condition_that_would_grow_without_end_is_refused() {
    let mut detection = String::new();
    for number in 0..12 {
        detection.push_str(&format!("  s{number}:\n    - Image: a\n    - Image: b\n"));
    }
    detection.push_str("  condition: all of s*\n");
    refused("process_creation", &detection, "detection.condition", "more than 64 cases");
    let deep = format!("  a:\n    Image: x\n  condition: {}a{}\n", "(".repeat(5000), ")".repeat(5000));
    refused("process_creation", &deep, "detection.condition", "nested too deeply");
}
