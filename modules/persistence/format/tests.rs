use proptest::prelude::*;

use super::*;

fn found(format: Format, text: &str) -> Vec<(u32, String)> {
    items(format, text.as_bytes()).into_iter().map(|item| (item.line, item.command)).collect()
}

fn pairs(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
    expected.iter().map(|(line, command)| (*line, (*command).to_owned())).collect()
}

#[test]
fn a_crontab_has_jobs_users_and_variables() {
    let text =
        "# a\nPATH=/bin\nBASH_ENV = /tmp/x\n0 5 * * * root run\\%it %input\n@reboot ann  : a b\n@daily\n";

    assert_eq!(
        found(Format::Crontab { user: true }, text),
        pairs(&[(3, "BASH_ENV=/tmp/x"), (4, "run%it "), (5, ": a b")])
    );
    let jobs = items(Format::Crontab { user: true }, text.as_bytes());
    assert_eq!((jobs[1].when.as_deref(), jobs[1].user.as_deref()), (Some("0 5 * * *"), Some("root")));
    assert_eq!(found(Format::Crontab { user: false }, "@reboot : x\n"), pairs(&[(1, ": x")]));
}

#[test]
fn other_schedules() {
    assert_eq!(
        found(Format::Anacron, "SHELL=/bin/sh\n1\t5\tcron.daily\trun-parts x\n"),
        pairs(&[(2, "run-parts x")])
    );
    assert_eq!(
        found(
            Format::At,
            "#!/bin/sh\n# atrun uid=7 gid=0\numask 22\nA=1; export A\ncd / || {\n\t echo x\n\t exit 1\n}\nrun\n"
        ),
        pairs(&[(9, "")])
    );
    assert_eq!(items(Format::At, b"# atrun uid=7 gid=0\nx\n")[0].user.as_deref(), Some("uid 7"));
}

#[test]
fn pam_lines_run_programs_or_open_doors() {
    let items = items(
        Format::Pam { service: false },
        b"@include common-auth\nauth [success=1 default=ignore] pam_unix.so nullok\nauth optional pam_exec.so /x\n-session optional /tmp/y.so\nauth sufficient pam_permit.so\n",
    );

    let strange: Vec<bool> = items.iter().map(|item| item.strange).collect();
    assert_eq!(strange, [false, false, true, true, true]);
}

#[test]
fn apt_runs_what_stands_in_and_after_its_keys() {
    let text = "// DPkg::Pre-Invoke {\"no\";};\nDPkg {\n Post-Invoke { \"a\"; \"b\"; };\n};\nAPT::Update::Pre-Invoke:: \"c\";\nAPT::Other \"no\";\nDPkg::Pre-Install-Pkgs {\n\"d\";\n};\nX \"no\";\n";

    assert_eq!(found(Format::Apt, text), pairs(&[(3, "a"), (3, "b"), (5, "c"), (8, "d")]));
    // As `apt-config dump` reads them.
    for text in [
        "#clear X; DPkg::Post-Invoke {\"/e\";};",
        "DPkg::Pre-Invoke:: /e;",
        "Dir { Bin { dpkg \"/e\"; }; };",
        "AptCli { Hooks { Install { \"/e\"; }; }; };",
        "\"DPkg::Post-Invoke::\" \"/e\";",
        "DPkg::\"Post-Invoke\" /e",
        "/* c */ A \"//\"; DPkg { Post-Invoke { /e",
        "#include \"/e\"",
    ] {
        assert_eq!(found(Format::Apt, text), pairs(&[(1, "/e")]), "{text}");
    }
    assert_eq!(found(Format::Apt, "# DPkg::Pre-Invoke \"/no\";\n/*\nDPkg::Pre-Invoke \"/no\";*/"), []);
    let items = items(Format::Apt, b"DPkg {\n Post-Invoke {\n\"/e\" }};");
    assert_eq!((items[0].line, items[0].when.as_deref()), (3, Some("DPkg::Post-Invoke")));
}

#[test]
fn keys_of_a_login_may_carry_commands() {
    let text = "# x\nssh-ed25519 AAAAC3 ann@x\nno-pty,command=\"run \\\"it\\\" now\",restrict ssh-rsa AAAAB3 y\nenvironment=\"A=b\" ssh-rsa AAAAB3\n";
    let items = items(Format::AuthorizedKeys, text.as_bytes());

    let said: Vec<_> = items.iter().map(|item| (item.line, item.command.as_str(), item.technique)).collect();
    assert_eq!(
        said,
        [
            (2, "ssh-ed25519 ann@x", None),
            (3, "run \"it\" now", Some("ssh-authkeys-cmd")),
            (4, "", Some("ssh-authkeys-cmd")),
        ]
    );
}

#[test]
fn rules_of_udev_run_programs() {
    let text = "ACTION==\"add\", RUN+=\"/bin/x y\", \\\n  PROGRAM=\"/z\"\nENV{A}=\"b\"\nSUBSYSTEM==\"x\", ENV{SYSTEMD_WANTS}+=\"a.service\"\n";

    assert_eq!(found(Format::Udev, text), pairs(&[(1, "/bin/x y ; /z"), (3 + 1, "a.service")]));
}

#[test]
fn rules_of_udev_need_no_commas_and_have_quotes_in_quotes() {
    for (text, command) in [
        ("ACTION==\"add\" RUN+=\"/bin/x\"\n", "/bin/x"),
        ("ACTION==\"a,b\",RUN{program}+=e\"/bin/x\"\n", "/bin/x"),
        ("ENV{x}=\"\\\"\" RUN += \"/bin/x\"\n", "/bin/x"),
        ("ACTION==\"add\", \\\n# c \\\nRUN+=\"/bin/x\"\n", "/bin/x"),
        ("KERNEL==\"x\" IMPORT{program}=\"/bin/x\"\n", "/bin/x"),
    ] {
        assert_eq!(found(Format::Udev, text), pairs(&[(1, command)]), "{text}");
    }
    assert_eq!(found(Format::Udev, "ENV{RUN}==\"/no\" ATTR{x}=\"RUN+=\", =\"\" \"=\n"), []);
}

#[test]
fn no_backslash_at_the_end_of_a_line_hides_the_next_one() {
    for (format, text) in [
        (Format::Words(&["ForceCommand"]), "Banner /x\\\nForceCommand /e\n"),
        (Format::Words(&["install"]), "options a b=\\\\\ninstall /e\n"),
        (Format::Keys(&["Exec"]), "Comment=x\\\nExec=/e\n"),
        (Format::Environment, "A=x\\\nBASH_ENV=/e\n"),
        (Format::Has(&["|"]), "a: b\\\n|/e\n"),
        (Format::Lines, "# c \\\n/e\n"),
        (Format::JoinedLines, "x # c \\\n/e\n"),
        (Format::JoinedLines, "x \\\\\n/e\n"),
        (Format::Git, "[core]\\\npager = /e\n"),
    ] {
        let items = items(format, text.as_bytes());
        let last = items.last().map(|item| (item.line, item.command.trim_start_matches(['|']).to_owned()));
        let line = u32::try_from(text.lines().count()).unwrap();
        let expected = if format == Format::Environment { "BASH_ENV=/e" } else { "/e" };
        assert_eq!(last, Some((line, expected.to_owned())), "{text}");
    }
    assert_eq!(found(Format::JoinedLines, "a \\\n b\n"), pairs(&[(1, "a b")]));
    assert_eq!(found(Format::Lines, ";x.so\n"), pairs(&[(1, ";x.so")]));
    let pam = "auth required pam_x.so # \\\nAUTH sufficient pam_permit.so\n";
    assert_eq!(found(Format::Pam { service: false }, pam).last().map(|(line, _)| *line), Some(2));
    assert_eq!(found(Format::Words(&["ForceCommand"]), "\"ForceCommand\" /e\n"), pairs(&[(1, "/e")]));
}

#[test]
fn a_semicolon_makes_a_comment_where_no_program_reads_on() {
    for (format, comment) in [
        (Format::Keys(&["*command", "*script"]), ";   logon script = logon.cmd\n; panic command = x\n"),
        (Format::Git, "[alias]\n; a = !x\n[pager] ;b = x\n ;c = x\n"),
        (Format::Sources, "[x]\n;gpgcheck=0\n; deb [trusted=yes] x y\n"),
    ] {
        assert_eq!(found(format, comment), [], "{comment}");
    }
    let continued = "; a \\\nlogon script = /e\n";
    assert_eq!(found(Format::Keys(&["*script"]), continued), pairs(&[(2, "/e")]));
}

#[test]
fn code_behind_an_assignment_is_code() {
    for code in ["A=1; /e", "A=$(/e)", "A=\"`/e`\"", "A=1 /e", "A= /e", "A='x' && /e", "A='x\\\n'; /e"] {
        let items = items(Format::Settings, format!("{code}\n").as_bytes());
        assert!(items.iter().any(|item| item.note.as_deref() == Some("code") && item.strange), "{code}");
    }
    for plain in ["A=1 # c", "A='x; y' ", "A=\"a b\"", "export A=x", "A=(a b)", "A=\"a \\\n  -b\""] {
        assert_eq!(found(Format::Settings, &format!("{plain}\n")), [], "{plain}");
    }
}

#[test]
fn how_distributions_ask_for_their_name_is_no_code_as_long_as_nothing_is_added() {
    for known in [
        "GRUB_DISTRIBUTOR=\"$(sed 's, release .*$,,g' /etc/system-release)\"",
        "GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Debian} ) 2>/dev/null || echo Debian`",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Ubuntu} ) 2>/dev/null || echo Ubuntu`",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release && echo ${NAME} )`",
    ] {
        assert_eq!(found(Format::Settings, &format!("{known}\n")), [], "{known}");
        let replaced = known.replace("/etc/", "/tmp/").replace("lsb_release", "/tmp/x");
        for other in [format!("{known}; /e"), format!("{known}$(/e)"), format!("{known} /e"), replaced] {
            assert_eq!(found(Format::Settings, &format!("{other}\n")), pairs(&[(1, "")]), "{other}");
        }
    }
}

#[test]
fn settings_hold_assignments_and_code() {
    let items = items(Format::Settings, b"A=1\nexport LD_PRELOAD=/x.so\n: code\nPERL5OPT=secret\n");

    let said: Vec<_> = items.iter().map(|item| (item.line, item.command.as_str(), item.strange)).collect();
    assert_eq!(said, [(2, "LD_PRELOAD=/x.so", true), (3, "", true), (4, "PERL5OPT", true)]);
}

#[test]
fn other_forms() {
    assert_eq!(found(Format::Inittab, "vg:2345:once:/bin/true\nx:3:wait:\n"), pairs(&[(1, "/bin/true")]));
    assert_eq!(found(Format::Inetd, "x stream tcp nowait root /bin/a a -b\n"), pairs(&[(1, "/bin/a a -b")]));
    assert_eq!(found(Format::Logrotate, "/x {\n postrotate\n a\n endscript\n}\n"), pairs(&[(3, "a")]));
    assert_eq!(found(Format::Logrotate, "/x {\n compresscmd /e\n}\n"), pairs(&[(2, "/e")]));
    assert_eq!(
        found(
            Format::Git,
            "[core]\n pager = x\n bare = no\n[alias]\n a = !b\n c = d\n[filter \"l\"]\nclean=e\n"
        ),
        pairs(&[(2, "x"), (5, "!b"), (8, "e")])
    );
    assert_eq!(
        found(Format::Nsswitch, "passwd: files evil [NOTFOUND=return x] sss\n"),
        pairs(&[(1, "libnss_evil.so.2")])
    );
    assert_eq!(found(Format::Grub, "linux /vmlinuz quiet init=/x\nset root=1\n"), pairs(&[(1, "init=/x")]));
    assert_eq!(found(Format::Fstab, "/dev/x / ext4 rw 0 1\n/opt/v /usr/bin/true none bind 0 0\n").len(), 1);
    assert_eq!(
        found(Format::Sysctl, "kernel.core_pattern=|/x\nnet.a=1\nkernel/yama/ptrace_scope = 0\n").len(),
        2
    );
    assert_eq!(
        found(Format::Sources, "deb [trusted=yes] https://u:p@h/x y z\n"),
        pairs(&[(1, "deb [trusted=yes] https://…@h/x y z")])
    );
    assert_eq!(
        found(Format::Words(&["LocalCommand", "up"]), " LocalCommand=/x y\nupper z\n"),
        pairs(&[(1, "/x y")])
    );
    let docker = items(Format::Docker, br#"{"RestartPolicy":{"Name":"always"},"Privileged":true}"#);
    assert_eq!(docker[0].note.as_deref(), Some("restart always, privileged"));
}

const FORMATS: [Format; 28] = [
    Format::Lines,
    Format::JoinedLines,
    Format::Keys(&["a*"]),
    Format::Words(&["a"]),
    Format::Has(&["a"]),
    Format::Settings,
    Format::Environment,
    Format::Crontab { user: true },
    Format::Anacron,
    Format::At,
    Format::Inittab,
    Format::Inetd,
    Format::Pam { service: true },
    Format::Nsswitch,
    Format::Fstab,
    Format::Grub,
    Format::AuthorizedKeys,
    Format::Logrotate,
    Format::Apt,
    Format::Dpkg,
    Format::Git,
    Format::Docker,
    Format::Udev,
    Format::Interfaces,
    Format::Sources,
    Format::Shells,
    Format::PythonPath,
    Format::Sysctl,
];

proptest! {
    #[test]
    fn any_bytes_are_read_and_lines_are_those_of_the_text(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(&b"\\\n=\"{}@% #a[:"[..])], 0..200),
        format in proptest::sample::select(&FORMATS[..]),
    ) {
        let count = bytes.split(|byte| *byte == b'\n').count();
        for item in items(format, &bytes) {
            prop_assert!(item.line >= 1 && item.line as usize <= count);
        }
        prop_assert!(first_line(&bytes) as usize <= count);
    }
}
