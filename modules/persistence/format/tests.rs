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
fn settings_hold_assignments_and_code() {
    let items = items(Format::Settings, b"A=1\nexport LD_PRELOAD=/x.so\n: code\nPERL5OPT=secret\n");

    let said: Vec<_> = items.iter().map(|item| (item.line, item.command.as_str(), item.strange)).collect();
    assert_eq!(said, [(2, "LD_PRELOAD=/x.so", true), (3, "", false), (4, "PERL5OPT", true)]);
}

#[test]
fn other_forms() {
    assert_eq!(found(Format::Inittab, "vg:2345:once:/bin/true\nx:3:wait:\n"), pairs(&[(1, "/bin/true")]));
    assert_eq!(found(Format::Inetd, "x stream tcp nowait root /bin/a a -b\n"), pairs(&[(1, "/bin/a a -b")]));
    assert_eq!(found(Format::Logrotate, "/x {\n postrotate\n a\n endscript\n}\n"), pairs(&[(3, "a")]));
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

const FORMATS: [Format; 27] = [
    Format::Lines,
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
