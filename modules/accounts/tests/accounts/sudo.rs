//! Rules beside those of `cvtsudoers`.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vigie_accounts::sudoers::{Rule, of_text};

/// What a rule says, in an order of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    users: Vec<String>,
    hosts: Vec<String>,
    runas_users: Vec<String>,
    runas_groups: Vec<String>,
    options: Vec<String>,
    command: String,
}

fn ours(rule: &Rule) -> Said {
    let mut options: Vec<String> = Vec::new();
    for tag in &rule.tags {
        let words: &[&str] = match *tag {
            "NOPASSWD" => &["!authenticate"],
            "PASSWD" => &["authenticate"],
            "NOEXEC" => &["noexec"],
            "EXEC" => &["!noexec"],
            "SETENV" => &["setenv"],
            "NOSETENV" => &["!setenv"],
            "LOG_INPUT" => &["log_input"],
            "NOLOG_INPUT" => &["!log_input"],
            // cvtsudoers 1.9.13 writes the opposite of this one.
            "LOG_OUTPUT" | "NOLOG_OUTPUT" => &["log_output"],
            "FOLLOW" => &["sudoedit_follow"],
            "NOFOLLOW" => &["!sudoedit_follow"],
            "MAIL" => &["mail_all_cmnds"],
            "NOMAIL" => &["!mail_all_cmnds", "!mail_always", "!mail_no_perms"],
            other => panic!("{other}"),
        };
        options.extend(words.iter().map(|word| (*word).to_owned()));
    }
    for option in &rule.options {
        let (name, value) = option.split_once('=').unwrap();
        options.push(match name {
            "cwd" => format!("runcwd={value}"),
            "timeout" => format!("command_timeout={value}"),
            other => format!("{other}={value}"),
        });
    }
    options.sort();
    let digests: String = rule.digests.iter().map(|digest| format!("{digest} ")).collect();
    Said {
        users: rule.users.clone(),
        hosts: rule.hosts.clone(),
        runas_users: rule.runas_users.clone(),
        runas_groups: rule.runas_groups.clone(),
        options,
        command: format!("{digests}{}", rule.command),
    }
}

/// The rows of cvtsudoers. It quotes lists within lists in its own way, so what a word is shows in its first letter.
fn theirs(csv: &str) -> Vec<Said> {
    const WORDS: [&str; 9] = [
        "authenticate",
        "noexec",
        "setenv",
        "log_input",
        "log_output",
        "sudoedit_follow",
        "mail_all_cmnds",
        "mail_always",
        "mail_no_perms",
    ];
    let mut all = Vec::new();
    for row in
        csv.lines().filter_map(|line| line.strip_prefix("rule,")).filter(|row| !row.starts_with("user,host"))
    {
        let mut said = Said {
            users: vec![],
            hosts: vec![],
            runas_users: vec![],
            runas_groups: vec![],
            options: vec![],
            command: String::new(),
        };
        let mut commands = Vec::new();
        for word in row.replace('"', "").split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let plain = word.trim_start_matches('!');
            if WORDS.contains(&plain) || plain.starts_with("runcwd=") || plain.starts_with("command_timeout=")
            {
                said.options.push(word.replace("!log_output", "log_output"));
            } else if plain.starts_with('/') || plain.starts_with("sha224:") || plain.starts_with("sudoedit ")
            {
                commands.push(word.to_owned());
            } else {
                match plain.chars().next().unwrap() {
                    'h' | '1' => said.hosts.push(word.to_owned()),
                    'r' => said.runas_users.push(word.to_owned()),
                    'g' => said.runas_groups.push(word.to_owned()),
                    _ => said.users.push(word.to_owned()),
                }
            }
        }
        said.options.sort();
        all.extend(commands.into_iter().map(|command| Said { command, ..said.clone() }));
    }
    all
}

/// Members of a list: names, aliases, perhaps with marks before them.
fn list(name: &'static str, alias: &'static str) -> impl Strategy<Value = String> {
    let member = prop_oneof![
        4 => (0..5_u8).prop_map(move |number| format!("{name}{number}")),
        1 => (0..3_u8).prop_map(move |number| format!("{alias}{number}")),
    ];
    let marks = prop_oneof![5 => Just(""), 1 => Just("!"), 1 => Just("!!")];
    prop::collection::vec((marks, member), 1..4).prop_map(|members| {
        members.into_iter().map(|(marks, member)| format!("{marks}{member}")).collect::<Vec<_>>().join(", ")
    })
}

fn users() -> impl Strategy<Value = String> {
    prop_oneof![3 => list("u", "U"), 1 => Just("%u1, #100, +u2".to_owned()), 1 => Just("\"u 7\"".to_owned()), 1 => Just("%#20".to_owned())]
}

fn command() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "/[a-z]{1,4}(/[a-z]{1,4})?( -[a-z]| [a-z]{1,3}){0,2}",
        1 => Just("/bin/a x\\=y z\\:w".to_owned()),
        1 => Just("/usr/bin/".to_owned()),
        1 => Just("sudoedit /etc/x".to_owned()),
        1 => Just("sha224:11111111111111111111111111111111111111111111111111111111 /bin/d".to_owned()),
        2 => (0..3_u8).prop_map(|number| format!("C{number}")),
    ]
}

fn spec() -> impl Strategy<Value = String> {
    let runas = prop_oneof![
        3 => Just(String::new()),
        2 => list("r", "R").prop_map(|users| format!("({users}) ")),
        1 => (list("r", "R"), Just("g1, g2")).prop_map(|(users, groups)| format!("({users} : {groups}) ")),
        1 => Just("(:g3) ".to_owned()),
    ];
    // cvtsudoers forgets a TIMEOUT that does not stand before the first command of a list.
    let options = prop_oneof![6 => Just(""), 1 => Just("CWD=/tmp ")];
    let tags = prop::collection::vec(
        prop::sample::select(vec![
            "NOPASSWD",
            "PASSWD",
            "NOEXEC",
            "EXEC",
            "SETENV",
            "NOSETENV",
            "LOG_INPUT",
            "NOLOG_OUTPUT",
            "MAIL",
            "NOMAIL",
            "FOLLOW",
        ]),
        0..3,
    );
    let marks = prop_oneof![5 => Just(""), 1 => Just("!")];
    (runas, options, tags, marks, command()).prop_map(|(runas, options, tags, marks, command)| {
        let marks = if command.starts_with("sha224") { "" } else { marks };
        let tags: String = tags.iter().map(|tag| format!("{tag}: ")).collect();
        format!("{runas}{options}{tags}{marks}{command}")
    })
}

fn rule() -> impl Strategy<Value = String> {
    let privilege = (
        prop_oneof![4 => list("h", "H"), 1 => Just("10.0.0.0/8".to_owned())],
        prop::collection::vec(spec(), 1..4),
    )
        .prop_map(|(hosts, specs)| format!("{hosts} = {}", specs.join(", ")));
    (users(), prop::collection::vec(privilege, 1..3))
        .prop_map(|(users, privileges)| format!("{users} {}", privileges.join(" : ")))
}

fn file() -> impl Strategy<Value = String> {
    let aliases = (
        prop::collection::vec(list("u", "V"), 3),
        prop::collection::vec(list("h", "V"), 3),
        prop::collection::vec(list("r", "V"), 3),
        prop::collection::vec("/[a-z]{1,3}( [a-z]{1,3})?", 3),
    )
        .prop_map(|(users, hosts, runas, commands)| {
            let mut text = String::new();
            for (kind, letter, lists) in [("User", "U", users), ("Host", "H", hosts), ("Runas", "R", runas)] {
                for (number, list) in lists.into_iter().enumerate() {
                    // An alias in an alias: only of those before it.
                    let list = list
                        .split(", ")
                        .filter(|member| !member.contains('V'))
                        .collect::<Vec<_>>()
                        .join(", ");
                    let inside = if number == 2 {
                        format!("{letter}1, !{letter}0")
                    } else {
                        format!("{}9", letter.to_lowercase())
                    };
                    let list = if list.is_empty() { inside } else { format!("{list}, {inside}") };
                    text.push_str(&format!("{kind}_Alias {letter}{number} = {list}\n"));
                }
            }
            for (number, command) in commands.into_iter().enumerate() {
                text.push_str(&format!("Cmnd_Alias C{number} = {command}, !/no{number}\n"));
            }
            text
        });
    (
        aliases,
        prop::collection::vec(
            (rule(), prop_oneof![3 => Just(""), 1 => Just(" # c"), 1 => Just("\n\n# c, d")]),
            1..6,
        ),
    )
        .prop_map(|(aliases, rules)| {
            let rules: String = rules.into_iter().map(|(rule, end)| format!("{rule}{end}\n")).collect();
            format!("{aliases}Defaults env_reset\n{rules}").replace(" : h", " \\\n : h")
        })
}

#[test]
fn a_thousand_random_files_have_the_rules_of_cvtsudoers() {
    let tool = ["/usr/bin/cvtsudoers", "/usr/sbin/cvtsudoers"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let Some(tool) = tool else { return vigie_skipped::missing("cvtsudoers") };
    let config = Config { cases: 1_000, failure_persistence: None, ..Config::default() };

    TestRunner::new(config)
        .run(&file(), |text| {
            let mut child = Command::new(tool)
                .args(["-e", "-f", "csv", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            prop_assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
            let expected = theirs(&String::from_utf8_lossy(&output.stdout));
            let found: Vec<Said> = of_text(text.as_bytes(), "host").rules.iter().map(ours).collect();
            prop_assert_eq!(found, expected, "{}", text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn passwords_are_asked_for_as_tags_and_settings_say() {
    let policy = of_text(
        b"Defaults:ann !authenticate\nann ALL = /bin/a, PASSWD: /bin/b\nbob ALL = /bin/c, NOPASSWD: /bin/d, !/bin/e\nALL ALL = ALL, !/bin/f\nwrong\nDefaults !authenticate\n",
        "host",
    );

    let asks: Vec<bool> = policy.rules.iter().map(|rule| rule.password).collect();
    assert_eq!(asks, [false, true, false, false, false, false, false]);
    assert_eq!(policy.problems.len(), 1);
    assert_eq!(policy.rules.last().unwrap().notes.len(), 1);
}

/// Users, with what each may run.
fn said(text: &str) -> Vec<(String, String)> {
    let rules = of_text(text.as_bytes(), "host").rules;
    rules.into_iter().map(|rule| (rule.users.join(","), rule.command)).collect()
}

#[test]
fn a_backslash_at_the_end_of_a_comment_hides_no_rule() {
    for start in [
        "ann ALL=/bin/ls # c \\\n",
        "ann ALL=/bin/ls #\\\n",
        "ann ALL=/bin/ls \" # \\\n",
        "ann ALL=/bin/ls %#\\\n",
        "ann ALL=/bin/ls, \\\n /bin/x # c \\\n",
        "ann ALL=sudoedit \" # \\\n",
        "ann ALL=ALL#\\\n",
        "Defaults env_reset # \\\n",
        "User_Alias U=a # \\\n",
        "Cmnd_Alias C=/x \" # \\\n",
        "# c \\\n",
    ] {
        let found = said(&format!("{start}evil ALL=(ALL) NOPASSWD: ALL\n"));
        assert_eq!(found.last(), Some(&("evil".to_owned(), "ALL".to_owned())), "{start:?}");
    }
    let one = |users: &str, command: &str| vec![(users.to_owned(), command.to_owned())];
    assert_eq!(said("ann,#1\\\n ALL=ALL\n"), one("ann,#1", "ALL"));
    assert_eq!(said("ann\\\n ALL=/bin/a x\\\n y\n"), one("ann", "/bin/a x y"));
    assert_eq!(said("ann ALL=/bin/a x=y\\,z\n"), one("ann", "/bin/a x=y,z"));
    assert_eq!(said("ann ALL=/bin/a=b\n"), one("ann", "/bin/a =b"));
    assert_eq!(said("a\u{a0}b ALL=sha224 : 11 /bin/a!b\n"), one("a\u{a0}b", "/bin/a!b"));
}

#[test]
fn settings_of_users_hosts_commands_and_groups_waive_the_password() {
    for (settings, asks) in [
        ("User_Alias U = bob, ann\nDefaults:U !authenticate", false),
        ("User_Alias U = bob, !ann\nDefaults:U !authenticate", true),
        ("Defaults:ALL ! authenticate", false),
        ("Defaults:ann !authenticate\nDefaults:ALL authenticate", true),
        ("Defaults:bob !authenticate", true),
        ("Defaults@host !authenticate", false),
        ("Defaults@other !authenticate", true),
        ("Defaults>root !authenticate", false),
        ("Defaults>bob !authenticate", true),
        ("Defaults!/bin/a !authenticate\nDefaults authenticate", false),
        ("Defaults!/bin/b !authenticate", true),
        ("Defaults exempt_group=wheel", false),
        ("Defaults exempt_group=\"other\"", true),
    ] {
        let policy = of_text(format!("{settings}\nann, %wheel ALL = /bin/a\n").as_bytes(), "host");
        assert_eq!(policy.rules[0].password, asks, "{settings}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"=:,!()\\\"#@%^$ \nA"[..])], 0..200)) {
        let _ = of_text(&bytes, "host");
    }
}
