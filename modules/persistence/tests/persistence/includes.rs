//! Files that are read because others name them.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::host::Host;

/// The technique, the file that names another, its content, and the other file with the line that is found in it.
type Lead = (&'static str, &'static str, &'static str, &'static str, &'static str, u64);

const LEADS: &[Lead] = &[
    ("ifupdown", "/etc/network/interfaces", "source /opt/net/*\n", "/opt/net/a", "iface x\n up /opt/x\n", 2),
    ("ifupdown", "/etc/network/interfaces", "source-directory /opt/netd\n", "/opt/netd/a", "up /opt/x\n", 1),
    (
        "sshd-conf",
        "/etc/ssh/sshd_config",
        "include=/opt/sshd/[a-z]*.conf\n",
        "/opt/sshd/a.conf",
        "ForceCommand /opt/x\n",
        1,
    ),
    ("sudoers", "/etc/sudoers", "#include /etc/sud2\n", "/etc/sud2", "# x\np ALL = NOPASSWD: ALL\n", 2),
    ("sudoers", "/etc/sudoers", "@includedir /opt/sudo\\ d\n", "/opt/sudo d/a", "p ALL = NOPASSWD: ALL\n", 1),
    (
        "pam-conf",
        "/etc/pam.d/su",
        "@include /opt/paminc\n",
        "/opt/paminc",
        "auth optional pam_exec.so /opt/x\n",
        1,
    ),
    (
        "pam-conf",
        "/etc/pam.d/su",
        "-auth substack stack\n",
        "/etc/pam.d/stack",
        "auth optional pam_exec.so /x\n",
        1,
    ),
    ("ldso-conf", "/etc/ld.so.conf", "include ../opt/ld/*.conf\n", "/opt/ld/a.conf", "/tmp/x\n", 1),
    (
        "apt-hook",
        "/etc/apt/apt.conf",
        "#include \"/opt/aptinc\";\n",
        "/opt/aptinc",
        "DPkg::Pre-Invoke {\"/opt/x\";};\n",
        1,
    ),
    (
        "syslog",
        "/etc/rsyslog.conf",
        "include(\n file=\"/opt/rs/*\" mode=\"optional\")\n",
        "/opt/rs/a",
        "action(type=\"omprog\" binary=\"/x\")\n",
        1,
    ),
    ("syslog", "/etc/rsyslog.conf", "$IncludeConfig /opt/rs2/*\n", "/opt/rs2/a", "*.* |/opt/x\n", 1),
    (
        "logrotate",
        "/etc/logrotate.conf",
        "include /opt/lr\n",
        "/opt/lr/a",
        "/x {\n postrotate\n /opt/x\n endscript\n}\n",
        3,
    ),
    (
        "monitoring",
        "/etc/snmp/snmpd.conf",
        "includeDir /opt/snmp\n",
        "/opt/snmp/a.conf",
        "extend x /opt/x\n",
        1,
    ),
    (
        "supervise",
        "/etc/supervisord.conf",
        "[include]\nfiles = %(here)s/more/*.ini\n  /opt/sv/*.ini\n",
        "/opt/sv/a.ini",
        "command=/opt/x\n",
        1,
    ),
    ("inetd", "/etc/xinetd.conf", "includedir /opt/xi\n", "/opt/xi/a", "server = /opt/x\n", 1),
    (
        "git",
        "/home/ann/.gitconfig",
        "[include]\n path = ~/my conf\n",
        "/home/ann/my conf",
        "[core]\n pager = /opt/x\n",
        2,
    ),
    (
        "git",
        "/home/ann/.gitconfig",
        "[includeIf \"gitdir:~/w/\"]\n path = w\n",
        "/home/ann/w",
        "[alias]\n a = !x\n",
        2,
    ),
    (
        "git",
        "/etc/gitconfig",
        "[core]\nhooksPath = /opt/hooks\n",
        "/opt/hooks/pre-commit",
        "#!/bin/sh\n/opt/x\n",
        2,
    ),
    (
        "git",
        "/etc/gitconfig",
        "[init]\ntemplateDir = /opt/tmpl\n",
        "/opt/tmpl/hooks/pre-commit",
        "#!/bin/sh\n/opt/x\n",
        2,
    ),
    (
        "ssh-client",
        "/home/ann/.ssh/config",
        "Include more\n",
        "/home/ann/.ssh/more",
        "ProxyCommand /opt/x\n",
        1,
    ),
    (
        "zsh",
        "/etc/zsh/zshenv",
        "[ -z \"$ZDOTDIR\" ] && export ZDOTDIR=/opt/zdot\n",
        "/opt/zdot/.zshrc",
        "/opt/x\n",
        1,
    ),
    ("zsh", "/home/ann/.zshenv", "export ZDOTDIR=\"$HOME/z\"\n", "/home/ann/z/.zshrc", "/opt/x\n", 1),
    ("profile", "/etc/profile", "[ -r /opt/p ] && . /opt/p\n", "/opt/p", "/opt/x\n", 1),
    (
        "profile",
        "/etc/profile.d/more.sh",
        "for f in x; do source \"/opt/a b\"; done\n",
        "/opt/a b",
        "/opt/x\n",
        1,
    ),
    ("bashrc", "/etc/bash.bashrc", "if true; then . ~/all; fi\n", "/home/ann/all", "#\n/opt/x\n", 2),
    ("user-rc", "/home/ann/.bashrc", ". \"$HOME/.local/rc\"\n", "/home/ann/.local/rc", "/opt/x\n", 1),
    ("user-bashprofile", "/home/ann/.bash_profile", "source rc\n", "/home/ann/rc", "/opt/x\n", 1),
    ("zsh", "/home/ann/.zshrc", "source ~/.zsh/more\n", "/home/ann/.zsh/more", "/opt/x\n", 1),
    ("csh", "/home/ann/.cshrc", "source ~/.aliases\n", "/home/ann/.aliases", "/opt/x\n", 1),
    ("fish", "/etc/fish/config.fish", "and source /opt/fish\n", "/opt/fish", "/opt/x\n", 1),
    ("xsession", "/home/ann/.xprofile", ". /opt/xp\n", "/opt/xp", "/opt/x\n", 1),
    ("rc-local", "/etc/rc.local", "\n. /opt/rc\n", "/opt/rc", "/opt/x\n", 1),
    ("ldso-conf", "/etc/ld.so.conf", "include /opt/{l}/*.conf\n", "/opt/{l}/a.conf", "/tmp/x\n", 1),
    (
        "webconf",
        "/etc/nginx/nginx.conf",
        "http { include more/*; }\n",
        "/etc/nginx/more/a",
        "load_module /x.so;\n",
        1,
    ),
    (
        "webshell",
        "/etc/nginx/conf.d/a",
        "server { root\n /srv/app/public; }\n",
        "/srv/app/public/a/x.php",
        "<?php ?>\n",
        1,
    ),
    (
        "webconf",
        "/etc/nginx/conf.d/a",
        "location /a { alias /srv/al; }\n",
        "/srv/al/.user.ini",
        "auto_prepend_file=/x\n",
        1,
    ),
    (
        "webshell",
        "/etc/apache2/apache2.conf",
        "DocumentRoot \"/data/y\"\n",
        "/data/y/x.phtml",
        "<?php ?>\n",
        1,
    ),
    (
        "webshell",
        "/etc/apache2/apache2.conf",
        "ScriptAlias /cgi \"/data/cgi\"\n",
        "/data/cgi/x",
        "#!/bin/sh\nx\n",
        2,
    ),
    (
        "webconf",
        "/etc/apache2/apache2.conf",
        "IncludeOptional /opt/ap\n",
        "/opt/ap/deep/x",
        "LoadModule x /x.so\n",
        1,
    ),
    ("database", "/etc/my.cnf", "!includedir /opt/my/\n", "/opt/my/a.cnf", "init_file=/opt/x\n", 1),
    (
        "openssl-conf",
        "/etc/ssl/openssl.cnf",
        ".include = /opt/ossl\n",
        "/opt/ossl",
        "dynamic_path = /x.so\n",
        1,
    ),
    (
        "webshell",
        "/etc/lighttpd/lighttpd.conf",
        "alias.url += ( \"/a\" => \"/data/li\" )\n",
        "/data/li/x.cgi",
        "x\n",
        1,
    ),
    (
        "webshell",
        "/etc/caddy/Caddyfile",
        "a.test {\n root * /data/ca\n}\n",
        "/data/ca/x.php",
        "<?php ?>\n",
        1,
    ),
    ("monitoring", "/etc/collectd.conf", "<Include \"/opt/cd\">\n", "/opt/cd/a", "Exec nobody /opt/x\n", 1),
    (
        "lang-env",
        "/etc/php/8.2/fpm/php-fpm.conf",
        "include=/opt/fpm/*.conf\n",
        "/opt/fpm/a.conf",
        "php_value[auto_prepend_file] = /x\n",
        1,
    ),
];

fn is_found(found: &[Value], technique: &str, file: &str, line: u64) -> bool {
    found
        .iter()
        .any(|entry| entry["technique"] == technique && entry["file"] == file && entry["line"] == line)
}

fn skipped(host: &Host, parameters: Value) -> Vec<(String, String)> {
    let coverage = host.ask(parameters).coverage.expect("persistence always says what it covered");
    assert_eq!(coverage.complete, coverage.not_examined.is_empty());
    coverage.not_examined.into_iter().map(|skipped| (skipped.what, skipped.why)).collect()
}

#[test]
fn every_format_with_includes_is_followed() {
    let host = Host::fresh();
    for (_, from, lead, to, content, _) in LEADS {
        host.append(from, lead);
        host.write(to, content, 0o755);
    }

    let found = host.entries(json!({"local": true}));

    let missing: Vec<_> = LEADS
        .iter()
        .filter(|(technique, _, _, to, _, line)| !is_found(&found, technique, to, *line))
        .map(|(technique, from, lead, to, _, _)| (technique, from, lead, to))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn web_roots_are_searched_when_only_pages_are_asked_for() {
    let host = Host::fresh();
    host.write("/etc/nginx/nginx.conf", "root /srv/app;\n", 0o644);
    host.write("/srv/app/x.php", "<?php ?>\n", 0o644);

    let found = host.entries(json!({"technique": "webshell"}));

    assert!(is_found(&found, "webshell", "/srv/app/x.php", 1), "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn keys_are_found_where_an_included_file_says_and_for_accounts_without_a_home() {
    let host = Host::fresh();
    host.append("/etc/passwd", "alice:x:1001:1001::/nonexistent:/bin/bash\n");
    host.append("/etc/ssh/sshd_config", "Include /opt/sshd/*.conf\n");
    host.write("/opt/sshd/a.conf", "AuthorizedKeysFile /opt/kk/%u\n", 0o644);
    host.write("/opt/kk/alice", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA p\n", 0o600);

    let found = host.entries(json!({"technique": "ssh-authkeys"}));

    assert!(is_found(&found, "ssh-authkeys", "/opt/kk/alice", 1), "{found:?}");
    assert_eq!(found[0]["user"], "alice");
}

#[test]
fn what_cannot_be_followed_is_named_with_file_and_line() {
    let host = Host::fresh();
    host.append("/etc/sudoers", "# x\n@include /etc/sudoers.%h\n");
    host.append("/etc/network/interfaces", "source $DIR/x\n");
    host.append("/etc/ssh/sshd_config", "Include /opt/loop\n");
    host.write("/etc/gitconfig", "[core]\nhooksPath = .hooks\n", 0o644);
    std::fs::create_dir_all(host.path("/opt")).expect("the host is writable");
    symlink("loop", host.path("/opt/loop")).expect("the host is writable");

    let sudoers = skipped(&host, json!({"technique": "sudoers"}));
    let interfaces = skipped(&host, json!({"technique": "ifupdown"}));
    let sshd = skipped(&host, json!({"technique": "ssh-authkeys"}));

    let git = skipped(&host, json!({"technique": "git", "deep": true}));
    assert_eq!(git[0].0, "/etc/gitconfig:2: .hooks");
    std::fs::write(host.path("/etc/pam.conf"), b"x auth include \xff\n").expect("the host is writable");
    let pam = skipped(&host, json!({"technique": "pam-conf"}));
    assert!(pam[0].0.starts_with("/etc/pam.conf:1: ") && pam[0].1.contains("no text"), "{pam:?}");
    assert_eq!(sudoers[0].0, "/etc/sudoers:4: /etc/sudoers.%h");
    assert!(sudoers[0].1.contains("variable"), "{sudoers:?}");
    assert_eq!(interfaces[0].0, "/etc/network/interfaces:1: $DIR/x");
    assert!(sshd.iter().any(|(what, why)| what == "/opt/loop" && why.contains("links")), "{sshd:?}");
}

#[test]
fn lines_are_read_to_their_end_and_commands_are_shown_as_far_as_there_is_room() {
    let host = Host::fresh();
    let long = "x".repeat(5000);
    host.append("/etc/profile", &format!(": {long}; . /opt/far\n"));
    host.write("/opt/far", "/opt/x\n", 0o644);
    host.write("/etc/cron.d/long", &format!("* * * * * root /opt/{long} y\n"), 0o644);
    let unit = format!("[Service]\nExecStart=/opt/{long}{long} y\n");
    host.write("/etc/systemd/system/long.service", &unit, 0o644);

    let found = host.entries(json!({"local": true}));

    assert!(is_found(&found, "profile", "/opt/far", 1), "{found:?}");
    for file in ["/etc/cron.d/long", "/etc/systemd/system/long.service"] {
        let has_command =
            |entry: &&Value| entry["command"].as_str().is_some_and(|command| command.len() > 100);
        let entry = found.iter().filter(has_command).find(|entry| entry["file"] == file);
        let entry = entry.unwrap_or_else(|| panic!("{file}: {found:?}"));
        assert_eq!(entry["command"].as_str().map(str::len), Some(4096), "{file}");
        assert!(entry["notes"].to_string().contains("the command is longer"), "{entry}");
    }
}

#[test]
fn what_is_beyond_the_limits_of_one_file_is_not_said_to_be_absent() {
    let host = Host::fresh();
    host.write("/etc/cron.d/many", &"* * * * * root /x\n".repeat(10_001), 0o644);

    let jobs = skipped(&host, json!({"technique": "cron-d"}));

    assert!(jobs.iter().any(|(what, why)| what == "/etc/cron.d/many" && why.contains("10000")), "{jobs:?}");
}

#[test]
fn what_a_start_file_of_somebody_s_own_reads_by_a_variable_is_named() {
    let host = Host::fresh();
    host.write("/etc/profile.d/own.sh", ". \"$DIR/x\"\n. relative\n", 0o644);

    let skipped = skipped(&host, json!({"technique": "profile"}));

    let what: Vec<&str> = skipped.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(what, ["/etc/profile.d/own.sh:1: $DIR/x", "/etc/profile.d/own.sh:2: relative"], "{skipped:?}");
}

#[test]
fn files_that_name_each_other_end_and_long_chains_are_named() {
    let host = Host::fresh();
    host.append("/etc/sudoers", "@include /etc/a0\n");
    for number in 0..200 {
        let next = number + 1;
        let lines = format!("u{number} ALL = ALL\n@include /etc/a{next}\n@include /etc/a0\n");
        host.write(&format!("/etc/a{number}"), &lines, 0o440);
    }

    let found = host.entries(json!({"technique": "sudoers"}));
    let skipped = skipped(&host, json!({"technique": "sudoers"}));

    assert!(is_found(&found, "sudoers", "/etc/a127", 1));
    assert!(!is_found(&found, "sudoers", "/etc/a128", 1));
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].0, "/etc/a127:2: /etc/a128");
}

#[test]
fn an_include_that_a_fresh_host_has_leaves_the_answer_complete() {
    let host = Host::fresh();

    for technique in ["sshd-conf", "sudoers", "pam-conf", "ssh-authkeys", "profile", "bashrc", "user-rc"] {
        assert_eq!(skipped(&host, json!({"technique": technique})), []);
    }
}

#[test]
fn names_of_a_user_lead_to_no_files_of_others() {
    let host = Host::fresh();
    host.write("/home/ann/.ssh/config", "Include /etc/secret\n", 0o600);
    host.write("/etc/secret", "ProxyCommand secret\n", 0o600);
    let ann = Some(rustix::fs::Uid::from_raw(1000));
    let owner = |path: &str| {
        std::fs::metadata(host.path(path)).map(|file| std::os::unix::fs::MetadataExt::uid(&file))
    };
    if rustix::fs::chown(host.path("/home/ann/.ssh/config"), ann, None).is_err()
        || owner("/home/ann/.ssh/config").ok() == owner("/etc/secret").ok()
    {
        return vigie_skipped::skipped("only root can give a file to another user");
    }

    let result = host.ask(json!({"technique": "ssh-client"}));

    assert!(!result.elements.expect("there is an entry").get().contains("ProxyCommand"));
    let coverage = result.coverage.expect("persistence always says what it covered");
    assert_eq!(coverage.not_examined[0].what, "/home/ann/.ssh/config:1: /etc/secret");
}

#[test]
fn names_after_many_others_and_behind_long_blanks_are_followed() {
    let host = Host::fresh();
    let many = "Include nothing\n".repeat(12_000);
    host.write("/home/ann/.ssh/config", &format!("{many}Include ~/real\n"), 0o600);
    host.write("/etc/ssh/ssh_config", &format!("Include{}/opt/real\n", " ".repeat(5_000)), 0o644);
    for path in ["/home/ann/real", "/opt/real"] {
        host.write(path, "ProxyCommand /opt/x\n", 0o600);
    }

    let found = host.entries(json!({"technique": "ssh-client"}));

    for path in ["/home/ann/real", "/opt/real"] {
        assert!(is_found(&found, "ssh-client", path, 1), "{path}: {found:?}");
    }
}

#[test]
fn names_of_a_user_do_not_use_up_the_time_of_all() {
    let host = Host::fresh();
    std::fs::create_dir_all(host.path("/opt/large")).expect("the host is writable");
    // More than are listed of a directory, which costs as much as listing them.
    for number in 0..=65_536 {
        std::fs::write(host.path(&format!("/opt/large/{number}")), "").expect("the host is writable");
    }
    host.write("/home/ann/.ssh/config", &"Include /opt/large/*\n".repeat(1_000), 0o600);
    host.write("/home/bob/.ssh/config", "Include ~/real\n", 0o600);
    let accounts = std::fs::read_to_string(host.path("/etc/passwd")).expect("every host has one");
    host.write("/etc/passwd", &format!("all:x:998:998::/home:/bin/false\n{accounts}"), 0o644);
    host.write("/home/bob/real", "ProxyCommand /opt/x\n", 0o600);
    for user in ["ann", "bob"] {
        let uid = Some(rustix::fs::Uid::from_raw(if user == "ann" { 1000 } else { 1001 }));
        let desktop = format!("/home/{user}/.config/autostart/a.desktop");
        host.write(&desktop, "[Desktop Entry]\nExec=/opt/x\n", 0o644);
        for path in ["", "/.ssh/config", "/real"] {
            let path = host.path(&format!("/home/{user}{path}"));
            if path.exists() && rustix::fs::chown(&path, uid, None).is_err() {
                return vigie_skipped::skipped("only root can give a file to another user");
            }
        }
    }

    let result = host.ask(json!({"technique": ["ssh-client", "xdg-autostart"]}));

    let entries = result.elements.expect("there are entries");
    assert!(entries.get().contains("/home/bob/real"), "{entries}");
    assert!(entries.get().contains("/home/bob/.config/autostart/a.desktop"), "{entries}");
    assert!(!entries.get().contains("/home/ann/.config"), "{entries}");
    let skipped = result.coverage.expect("persistence always says what it covered").not_examined;
    let is_named = |what: &str, why: &str| {
        skipped.iter().any(|skipped| skipped.what.starts_with(what) && skipped.why.contains(why))
    };
    assert!(is_named("/home/ann/.ssh/config:", "this account"), "{skipped:?}");
    assert!(!is_named("/home/ann/.ssh/config:100:", "") && !is_named("/home/bob", ""), "{skipped:?}");
}

#[test]
fn patterns_end_with_the_query() {
    let host = Host::fresh();
    host.write("/etc/ssh/ssh_config", &"Include /etc/*/*\n".repeat(20_000), 0o644);
    let parameters = json!({"technique": "ssh-client", "root": host.path("/")});
    let mut query =
        vigie_sdk::Query::new(Some(serde_json::value::to_raw_value(&parameters).expect("it is JSON")));
    query.deadline = Some((jiff::Timestamp::now() + std::time::Duration::from_millis(300)).to_string());

    let started = jiff::Timestamp::now();
    let result = <vigie_persistence::Persistence as vigie_sdk::StandardModule>::run(&query);

    let took = jiff::Timestamp::now().duration_since(started);
    // All the patterns take hours; a busy host takes its time for one of them.
    assert!(took.as_secs() < 120, "{took:?}");
    let skipped = result.coverage.expect("persistence always says what it covered").not_examined;
    assert!(skipped.iter().any(|skipped| skipped.what == "the rest"), "{skipped:?}");
}

#[test]
fn keys_that_accounts_have_in_common_are_those_of_each() {
    let host = Host::fresh();
    host.append("/etc/ssh/sshd_config", "AuthorizedKeysFile /etc/ssh/keys\n");
    host.write("/etc/ssh/keys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA p\n", 0o600);

    let found = host.entries(json!({"technique": "ssh-authkeys"}));

    let mut users: Vec<_> = found.iter().filter_map(|entry| entry["user"].as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["ann", "daemon", "news", "root"], "{found:?}");
}
