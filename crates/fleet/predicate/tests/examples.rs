use crate::facts::Facts;
use crate::predicate::{MAX_DEPTH, MAX_TEXT_BYTES, Problem, Target};

fn facts() -> Facts {
    Facts {
        agent: "web-1".parse().unwrap(),
        hostname: "web-1.example.org".to_owned(),
        os: "linux".to_owned(),
        os_id: Some("debian".to_owned()),
        os_version: None,
        arch: "amd64".to_owned(),
        kernel: "6.1.0-13-amd64".to_owned(),
        agent_version: "1.10.2".to_owned(),
        modules: vec!["file".to_owned(), "netstat".to_owned()],
        addresses: vec!["10.1.2.3".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        tags: [("env".to_owned(), "prod".to_owned()), ("rack".to_owned(), "9".to_owned())].into(),
        groups: vec!["dmz".parse().unwrap()],
    }
}

fn matches(text: &str) -> bool {
    Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).matches(&facts())
}

fn error(text: &str) -> String {
    Target::parse(text).expect_err(text).to_string()
}

#[test]
fn these_are_true() {
    for text in [
        "all",
        r#"os == "linux" && (tag.env == "prod" || hostname ~ "db-*") && !(module has "fswatch") && agent.version >= 1.2 && addr cidr "10.0.0.0/8""#,
        r#"agent == "web-1""#,
        r#"agent != "web-2""#,
        r#"hostname ~ "web-?.*""#,
        r#"arch in ["arm64", "amd64"]"#,
        r#"os.id == "debian""#,
        "kernel >= 6.1",
        "kernel < 6.1.76",
        "kernel <= 6.1.0-13-amd64 && kernel >= 6.1.0-13-amd64",
        "kernel > 6.1.0-9-amd64",
        "agent.version > 1.9",
        "tag.rack < 12",
        r#"tag.rack < "12""#,
        "tag.rack == 9",
        r#"module has "netstat" && group has "dmz""#,
        r#"addr has "2001:db8::7""#,
        r#"addr has "2001:0db8:0::0007""#,
        r#"addr has "::ffff:10.1.2.3""#,
        r#"addr cidr "10.1.2.3""#,
        r#"addr in cidr "2001:db8::/32""#,
        "!!all",
        "\n\tall\r\n&&\tall",
        r#"os=="linux"&&arch!="arm64""#,
        // && binds closer than ||.
        r#"all || all && os == "none""#,
    ] {
        assert!(matches(text), "{text}");
    }
}

#[test]
fn these_are_false() {
    for text in [
        "!all",
        r#"os == "Linux""#,
        r#"os == "linux ""#,
        r#"hostname ~ "web-1""#,
        r#"arch in ["arm64"]"#,
        r#"module has "fil*""#,
        r#"group has "DMZ""#,
        r#"addr cidr "192.168.0.0/16""#,
        r#"addr has "10.1.2.4""#,
        "agent.version < 1.9",
        // The same number for the order, another text.
        "tag.rack == 09",
        // No version, so no place in the order.
        "tag.env > 0",
        "tag.env <= 999",
        r#"(all || all) && os == "none""#,
    ] {
        assert!(!matches(text), "{text}");
    }
}

#[test]
fn what_the_document_shows_can_be_read() {
    let document = include_str!("../../../../docs/targets.md");
    let examples = document.lines().filter_map(|line| line.strip_prefix("    "));
    let examples: Vec<&str> = examples.filter(|example| !example.starts_with("vigie")).collect();

    assert!(examples.len() > 8, "{examples:?}");
    for example in examples {
        Target::parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
    }
}

#[test]
fn an_absent_fact_is_only_unequal() {
    for absent in ["os.version", "tag.none"] {
        assert!(matches(&format!(r#"{absent} != "12""#)));
        for comparison in [r#"== """#, r#"~ "*""#, r#"in ["", "12"]"#, "< 99", "<= 99", "> 0", ">= 0"] {
            assert!(!matches(&format!("{absent} {comparison}")), "{absent} {comparison}");
            assert!(matches(&format!("!({absent} {comparison})")), "{absent} {comparison}");
        }
    }
    let nothing = Facts { modules: vec![], addresses: vec![], groups: vec![], ..facts() };
    for text in [r#"module has """#, r#"group has """#, r#"addr cidr "0.0.0.0/0""#, r#"addr has "::""#] {
        assert!(!Target::parse(text).unwrap().matches(&nothing), "{text}");
    }
}

#[test]
fn the_canonical_text_has_one_form() {
    for (text, canonical) in [
        ("((all))", "all"),
        ("!(all)", "!all"),
        ("!(!(os==\"a\"))", r#"!!(os == "a")"#),
        ("all&&(all&&all)&&all", "all && all && all && all"),
        ("(all||all)||(all&&!all)", "all || all || all && !all"),
        ("(all||all)&&all", "(all || all) && all"),
        ("!(all||all)", "!(all || all)"),
        ("os.version==12", r#"os.version == "12""#),
        (r#"os.version>="12""#, "os.version >= 12"),
        (r#"kernel<"6.1~rc1""#, r#"kernel < "6.1~rc1""#),
        (r#"tag.a in["x","y\"\\"]"#, r#"tag.a in ["x", "y\"\\"]"#),
        (r#"addr in cidr"10.1.2.3/8""#, r#"addr cidr "10.0.0.0/8""#),
        (r#"addr cidr "::1""#, r#"addr cidr "::1/128""#),
        (r#"addr has "2001:DB8:0::1""#, r#"addr has "2001:db8::1""#),
    ] {
        let target = Target::parse(text).unwrap();
        assert_eq!(target.to_string(), canonical);
        assert_eq!(Target::parse(canonical), Ok(target));
    }
}

#[test]
fn an_error_says_where_and_what_to_write() {
    for (text, message) in [
        ("", "column 1: the target is empty; use all for every agent"),
        (
            "hostnme == \"a\"",
            "column 1: \"hostnme\" is not a fact; the facts are agent, hostname, os, os.id, os.version, arch, \
             kernel, agent.version, module, addr, group, tag.NAME",
        ),
        (
            "os",
            "column 3: expected an operator after os, found the end; os takes ==, !=, ~, <, <=, >, >= or in",
        ),
        ("os = \"a\"", "column 4: unexpected =; write =="),
        ("all & all", "column 5: unexpected &; write &&"),
        ("all and all", "column 5: unexpected and; write &&"),
        ("(all or all)", "column 6: unexpected or; write ||"),
        ("not all", "column 1: unexpected not; write !"),
        ("!os == \"a\"", "column 2: after ! a comparison must be in parentheses, as in !(os == \"linux\")"),
        (
            "os == linux",
            "column 7: expected a value after ==, found linux; texts are written in double quotes",
        ),
        ("os == 'a'", "column 7: unexpected '\\''; texts are written in double quotes, such as \"web-*\""),
        ("os == \"a", "column 7: the text that starts here has no closing double quote"),
        ("os == \"a\\", "column 7: the text that starts here has no closing double quote"),
        ("os == \"\\n\"", "column 9: unexpected 'n' after a backslash; only \\\" and \\\\ are known"),
        (
            "os == \"é\u{1b}\"",
            "column 9: the text contains the control character '\\u{1b}'; facts never contain any",
        ),
        ("module == \"x\"", "column 8: module is a list and does not take ==; it takes has"),
        ("group in [\"x\"]", "column 7: group is a list and does not take in; it takes has"),
        (
            "os has \"x\"",
            "column 4: os is one text and does not take has; it takes ==, !=, ~, <, <=, >, >= or in",
        ),
        (
            "addr == \"::1\"",
            "column 6: addr is a list of addresses and does not take ==; it takes has or cidr",
        ),
        (
            "addr in [\"::1\"]",
            "column 6: addr is a list of addresses and does not take in; it takes has or cidr",
        ),
        ("addr has \"web\"", "column 10: \"web\" is not an IPv4 or IPv6 address, such as \"192.0.2.1\""),
        (
            "addr cidr \"10.0.0.0/33\"",
            "column 11: \"10.0.0.0/33\" is not a range of addresses, such as \"192.0.2.0/24\" or \"2001:db8::/32\"",
        ),
        (
            "kernel > \"new\"",
            "column 10: \"new\" is not a number or version; these start with a digit, such as 12 or 6.1.0-13",
        ),
        ("os in \"a\"", "column 7: expected a list after in, such as [\"a\", \"b\"], found \"a\""),
        ("os in []", "column 8: expected a value after in, found ]; texts are written in double quotes"),
        ("os in [\"a\"", "column 11: expected a comma or ] in the list, found the end"),
        ("tag. == \"a\"", "column 1: \"\" is not the name of a tag (1 to 64 letters, digits, -, _ and .)"),
        ("(all", "column 5: expected &&, || or ), found the end"),
        ("all)", "column 4: expected &&, || or the end, found )"),
        ("all all", "column 5: expected &&, || or the end, found all"),
        ("all &&", "column 7: expected a comparison such as os == \"linux\", found the end"),
        (
            "all &&\n  os",
            "line 2, column 5: expected an operator after os, found the end; os takes ==, !=, ~, <, <=, >, >= or in",
        ),
        ("ünix", "column 1: unexpected 'ü'; texts are written in double quotes, such as \"web-*\""),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
}

#[test]
fn the_caret_is_below_the_place() {
    let caret = |text: &str| Target::parse(text).unwrap_err().caret();

    assert_eq!(caret("os = \"linux\""), "os = \"linux\"\n   ^");
    assert_eq!(caret("all &&\n\tos = \"a\"\n&& all"), " os = \"a\"\n    ^");
    assert_eq!(caret("all &&"), "all &&\n      ^");
    let long = format!("{} os = {}", "all &&".repeat(20), "x".repeat(60));
    let lines = caret(&long);
    let (excerpt, below) = lines.split_once('\n').unwrap();
    assert_eq!(below.chars().count(), excerpt.chars().position(|c| c == '=').unwrap() + 1);
    assert!(excerpt.starts_with('…') && excerpt.ends_with('…') && excerpt.chars().count() == 82, "{excerpt}");
}

#[test]
fn length_and_depth_have_their_limits() {
    let nested = |depth: usize| format!("{}all{}", "(".repeat(depth), ")".repeat(depth));
    assert!(matches(&nested(MAX_DEPTH)));
    assert!(matches(&format!("{}all", "!".repeat(MAX_DEPTH))));
    assert_eq!(error(&nested(MAX_DEPTH + 1)), "column 33: more than 32 nested parentheses and !");
    for deep in ["!".repeat(4096), "(".repeat(4096), "!(".repeat(2048)] {
        assert!(matches!(Target::parse(&deep).unwrap_err().problem(), Problem::TooDeep));
    }
    // Beside each other there may be any number.
    assert!(matches(&vec!["(all)"; 500].join("&&")));

    let longest = format!("{}all", " ".repeat(MAX_TEXT_BYTES - 3));
    assert!(matches(&longest));
    assert_eq!(
        error(&format!(" {longest}")),
        "column 1: the target has 4097 bytes; at most 4096 are allowed"
    );
    let dense = vec!["all"; 700].join("&&");
    assert_eq!(
        error(&dense),
        "column 1: the target has 4896 bytes with its spaces written out; at most 4096 are allowed"
    );
}

#[test]
fn a_pattern_that_is_too_long_to_look_for_is_refused() {
    let text = format!("hostname ~ \"*{}*\"", "?".repeat(65));
    assert_eq!(
        error(&text),
        "column 12: between two * of a pattern, a part with ? has at most 64 characters"
    );
}
