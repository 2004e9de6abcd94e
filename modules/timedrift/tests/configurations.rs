//! Which servers are found in the files of a host: trees as distributions have them, and hostile ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use vigie_timedrift::server_line::Family;
use vigie_timedrift::sources::{Configured, MAX_SERVERS, configured};

/// What Debian 12 ships for chrony, without its comments.
const DEBIAN_CHRONY: &str = "\
# Welcome to the chrony configuration file. See chrony.conf(5) for more
# information about usable directives.
confdir /etc/chrony/conf.d
pool 2.debian.pool.ntp.org iburst
sourcedir /run/chrony-dhcp
sourcedir /etc/chrony/sources.d
keyfile /etc/chrony/chrony.keys
driftfile /var/lib/chrony/chrony.drift
ntsdumpdir /var/lib/chrony
logdir /var/log/chrony
maxupdateskew 100.0
rtcsync
makestep 1 3
leapsectz right/UTC
";

/// A file system with these files; a name may have a bracket.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::Builder::new().prefix("host[1]").tempdir().unwrap();
    for (path, text) in files {
        write(root.path(), path, text);
    }
    root
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn hosts(found: &Configured) -> Vec<&str> {
    found.sources.iter().map(|source| source.server.host.as_str()).collect()
}

fn problems(found: &Configured) -> Vec<String> {
    found.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_host_without_any_time_daemon_has_no_servers_and_no_problems() {
    let found = configured(tree(&[]).path());

    assert!(found.sources.is_empty() && found.problems.is_empty());
}

#[test]
fn ntp_conf_comes_first_then_ntpsec_chrony_and_timesyncd() {
    let root = tree(&[
        ("/etc/systemd/timesyncd.conf", "[Time]\nNTP=time.example.org\n"),
        ("/etc/chrony/chrony.conf", "server chrony.example.org\n"),
        ("/etc/chrony.conf", "server fedora.example.org\n"),
        ("/etc/ntpsec/ntp.conf", "server ntpsec.example.org\n"),
        ("/etc/ntpsec/ntp.d/20.conf", "server dropin.example.org\n"),
        ("/etc/ntp.conf", "server ntp.example.org\nserver chrony.example.org\n"),
    ]);

    let found = configured(root.path());

    let expected = ["ntp", "chrony", "ntpsec", "dropin", "fedora", "time"];
    assert_eq!(hosts(&found), expected.map(|name| format!("{name}.example.org")));
    assert_eq!(found.sources[3].named_in.as_deref(), Some(Path::new("/etc/ntpsec/ntp.d/20.conf")));
}

#[test]
fn the_chrony_of_debian_is_read_with_its_directories() {
    let root = tree(&[
        ("/etc/chrony/chrony.conf", DEBIAN_CHRONY),
        ("/etc/chrony/conf.d/rack.conf", "server rack.example.org iburst port 1123\n"),
        ("/etc/chrony/conf.d/README", "server no.example.org\n"),
        ("/etc/chrony/sources.d/b.sources", "server -6 b.example.org\npeer c.example.org\n"),
        ("/run/chrony-dhcp/eth0.sources", "server 192.0.2.123 iburst\n"),
    ]);

    let found = configured(root.path());

    let expected =
        ["rack.example.org", "2.debian.pool.ntp.org", "192.0.2.123", "b.example.org", "c.example.org"];
    assert_eq!(hosts(&found), expected);
    assert_eq!(found.sources[0].server.port, Some(1123));
    assert!(found.sources[1].server.is_pool);
    assert_eq!(found.sources[3].server.family, Family::V6);
    assert_eq!(problems(&found), [""; 0]);
}

#[test]
fn of_files_with_one_name_the_first_directory_counts_and_names_are_in_order() {
    let root = tree(&[
        ("/etc/chrony.conf", "confdir /a /b /missing\n"),
        ("/a/20.conf", "server a20\n"),
        ("/b/20.conf", "server b20\n"),
        ("/b/10.conf", "server b10\n"),
    ]);

    assert_eq!(hosts(&configured(root.path())), ["b10", "a20"]);
}

#[test]
fn includes_are_followed_with_wildcards_and_relative_to_the_root_of_the_host() {
    let root = tree(&[
        ("/etc/chrony.conf", "include /etc/more/*.inc\ninclude /etc/one\ninclude /nowhere/*\n"),
        ("/etc/more/b.inc", "server b\n"),
        ("/etc/more/a.inc", "server a\n"),
        ("/etc/more/c.txt", "server no\n"),
        ("/etc/one", "server one\ninclude etc/two[x]\n"),
        ("/etc/two[x]", "server two\n"),
        ("/etc/ntp.conf", "server zero\nincludefile \"/etc/ntp.more\"\n"),
        ("/etc/ntp.more", "server more\n"),
    ]);

    let found = configured(root.path());

    assert_eq!(hosts(&found), ["zero", "more", "a", "b", "one", "two"]);
    assert_eq!(found.sources[2].named_in.as_deref(), Some(Path::new("/etc/more/a.inc")));
    assert_eq!(problems(&found), [""; 0]);
}

#[test]
fn timesyncd_reads_one_main_file_and_the_drop_ins_of_all_directories() {
    let root = tree(&[
        ("/etc/systemd/timesyncd.conf", "[Time]\n#NTP=\nFallbackNTP=fallback\n"),
        ("/usr/lib/systemd/timesyncd.conf", "[Time]\nNTP=not-read\n"),
        ("/usr/lib/systemd/timesyncd.conf.d/10-vendor.conf", "[Time]\nNTP=vendor\n"),
        ("/usr/lib/systemd/timesyncd.conf.d/20-masked.conf", "[Time]\nNTP=masked\n"),
        ("/run/systemd/timesyncd.conf.d/30-run.conf", "[Time]\nNTP=run second\n"),
        ("/usr/lib/systemd/timesyncd.conf.d/30-run.conf", "[Time]\nNTP=hidden\n"),
        ("/etc/systemd/timesyncd.conf.d/40.txt", "[Time]\nNTP=no\n"),
    ]);
    symlink("/dev/null", root.path().join("etc/systemd/timesyncd.conf.d/20-masked.conf")).unwrap();

    let found = configured(root.path());

    assert_eq!(hosts(&found), ["vendor", "run", "second", "fallback"]);
    let files: Vec<_> = found.sources.iter().map(|source| source.named_in.as_deref().unwrap()).collect();
    assert_eq!(files[0], Path::new("/usr/lib/systemd/timesyncd.conf.d/10-vendor.conf"));
    assert_eq!(files[3], Path::new("/etc/systemd/timesyncd.conf"));
    assert_eq!(problems(&found), [""; 0]);
}

#[test]
fn a_drop_in_can_take_back_what_was_there() {
    let root = tree(&[
        ("/etc/systemd/timesyncd.conf", "[Time]\nNTP=old\nFallbackNTP=older\n"),
        ("/etc/systemd/timesyncd.conf.d/a.conf", "[Time]\nNTP=\nNTP=new\nFallbackNTP=\n"),
    ]);

    assert_eq!(hosts(&configured(root.path())), ["new"]);
}

#[test]
fn files_that_include_themselves_end() {
    let root = tree(&[
        ("/etc/chrony.conf", "server a\ninclude /etc/chrony.conf\nserver b\n"),
        ("/etc/ntp.conf", "includefile /etc/x\nincludefile /etc/x\n"),
        ("/etc/x", "includefile /etc/ntp.conf\nserver c\n"),
    ]);

    let found = configured(root.path());

    assert_eq!(hosts(&found), ["c", "a", "b"]);
    assert!(problems(&found).iter().any(|text| text.contains("was not followed: more than")), "{found:?}");
}

#[test]
fn what_is_no_ordinary_file_is_a_problem_and_never_waited_for() {
    let root = tree(&[("/etc/ntp.conf/is/a/directory", ""), ("/etc/chrony/conf.d", "a file\n")]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.path().join("etc/chrony.conf"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    write(root.path(), "/etc/chrony/chrony.conf", "confdir /etc/chrony/conf.d\nserver a\n");

    let found = configured(root.path());

    assert_eq!(hosts(&found), ["a"]);
    let problems = problems(&found);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("\"/etc/ntp.conf\": it is not a file"), "{problems:?}");
    assert!(problems[1].contains("\"/etc/chrony/conf.d\": "), "{problems:?}");
    assert!(problems[2].contains("\"/etc/chrony.conf\": it is not a file"), "{problems:?}");
}

#[test]
fn sizes_and_numbers_are_bounded() {
    let many: String = (0..1000).map(|number| format!("server s{number}\n")).collect();
    let root = tree(&[("/etc/ntp.conf", &many), ("/etc/chrony.conf", &"#".repeat((1 << 20) + 1))]);
    for number in 0..300 {
        write(root.path(), &format!("/etc/ntp.d/{number:03}.conf"), "server\n");
    }

    let found = configured(root.path());

    assert_eq!(found.sources.len(), MAX_SERVERS);
    assert!(found.problems.len() <= 32);
    // Each reading of the second file would follow all of its lines again.
    let wide = tree(&[
        ("/etc/ntp.conf", "server a\nincludefile /etc/x\n"),
        ("/etc/x", &"includefile /etc/x\n".repeat(50_000)),
    ]);
    assert_eq!(hosts(&configured(wide.path())), ["a"]);
    let large = tree(&[("/etc/chrony.conf", &"#".repeat((1 << 20) + 1))]);
    assert!(problems(&configured(large.path()))[0].contains("larger than 1048576 bytes"));
}

#[test]
fn a_line_that_names_no_server_is_told_with_its_file() {
    let root = tree(&[("/etc/ntp.conf", "server\nserver a port nought\nserver b\n")]);

    let found = configured(root.path());

    assert_eq!(hosts(&found), ["b"]);
    assert!(problems(&found)[1].starts_with("in \"/etc/ntp.conf\": \"server a port nought\" does not name"));
}

#[test]
fn ntpsec_includes_directories_and_takes_relative_paths_from_the_file_at_hand() {
    let root = tree(&[
        ("/etc/ntpsec/ntp.conf", "includefile site\nincludefile one.conf\nserver last\n"),
        ("/etc/ntpsec/site/20-b.conf", "server b\nincludefile ../beside.inc\n"),
        ("/etc/ntpsec/site/10-a.conf", "server a noselect\n"),
        ("/etc/ntpsec/site/15-deep/x.conf", "server deep\n"),
        ("/etc/ntpsec/site/README", "server no\n"),
        ("/etc/ntpsec/site/.hidden.conf", "server no\n"),
        ("/etc/ntpsec/beside.inc", "server beside\n"),
        ("/etc/ntpsec/one.conf", "server one\n"),
        // What ntpd takes from the root of the host.
        ("/etc/ntp.conf", "includefile etc/from-root\n"),
        ("/etc/from-root", "server root\n"),
    ]);
    symlink("..", root.path().join("etc/ntpsec/site/90-loop.conf")).unwrap();

    let found = configured(root.path());

    assert_eq!(hosts(&found), ["root", "a", "deep", "b", "beside", "one", "last"]);
    assert!(found.sources[1].server.options.noselect);
    assert!(problems(&found).iter().all(|text| text.contains("was not followed")), "{found:?}");
}

#[test]
fn other_daemons_and_servers_of_leases_are_read() {
    let root = tree(&[
        ("/etc/ntpd-rs/ntp.toml", "[[source]]\nmode = \"pool\"\naddress = \"rs\"\ncount = 2\n"),
        ("/etc/openntpd/ntpd.conf", "servers open\n"),
        ("/etc/systemd/timesyncd.conf", "[Time]\nNTP=sync\nFallbackNTP=vendor\nRootDistanceMaxSec=2\n"),
        ("/run/systemd/netif/state", "OPER_STATE=routable\nNTP=192.0.2.7\n"),
        ("/run/ntpsec/ntp.conf.dhcp", "server leased-ntpsec\n"),
        ("/etc/chrony.conf", "server chrony offline prefer trust require\n"),
        ("/var/lib/dhclient/chrony.servers.eth0", "192.0.2.8 iburst\n\n"),
    ]);

    let found = configured(root.path());

    let expected = ["leased-ntpsec", "chrony", "192.0.2.8", "rs", "open", "sync", "192.0.2.7", "vendor"];
    assert_eq!(hosts(&found), expected);
    assert_eq!(problems(&found), [""; 0]);
    let limits: Vec<u128> = found.sources.iter().map(|source| source.max_distance.as_millis()).collect();
    assert_eq!(limits, [1_500, 3_000, 3_000, 1_500, 1_500, 2_000, 2_000, 2_000]);
    let last: Vec<bool> = found.sources.iter().map(|source| source.is_last_resort).collect();
    assert_eq!(last, [false, false, false, false, false, false, false, true]);
    let options = found.sources[1].server.options;
    assert!(options.offline && options.prefer && options.trust && options.require && !options.noselect);
    assert_eq!(found.sources[3].server.options.votes, 2);
    assert_eq!(found.sources[6].named_in.as_deref(), Some(Path::new("/run/systemd/netif/state")));
}

#[test]
fn a_limit_that_is_no_number_changes_nothing() {
    let root = tree(&[
        ("/etc/ntp.conf", "tos maxdist\ntos maxdist many\nserver a\ntos maxdist -1\n"),
        ("/etc/chrony.conf", "maxdistance NaN\nmaxdistance 1e400\nmaxdistance\nserver b\n"),
    ]);

    let found = configured(root.path());

    let limits: Vec<u128> = found.sources.iter().map(|source| source.max_distance.as_millis()).collect();
    assert_eq!(limits, [1_500, 3_000]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_content_panics_or_goes_on_for_ever(
        ntp in "((server|pool|includefile|#) ?[ -~]{0,12}\n){0,6}",
        chrony in "((server|include|confdir|sourcedir) [/a-z.*?\\[\\]]{0,12}\n){0,6}",
        systemd in "(\\[Time\\]\n)?((NTP|FallbackNTP)=[ -~]{0,12}\\\\?\n){0,6}",
        rs in "(\\[\\[source\\]\\]\n(mode|address|count) = [ -~]{0,12}\n){0,4}",
        open in "((server|servers) ?[ -~]{0,12}\n){0,6}",
        leases in "((NTP|DNS)=[ -~]{0,20}\n){0,3}",
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let root = tree(&[
            ("/etc/ntp.conf", &ntp),
            ("/etc/chrony.conf", &chrony),
            ("/etc/systemd/timesyncd.conf", &systemd),
            ("/etc/ntpd-rs/ntp.toml", &rs),
            ("/etc/openntpd/ntpd.conf", &open),
            ("/run/systemd/netif/state", &leases),
        ]);
        std::fs::create_dir(root.path().join("etc/ntp.d")).unwrap();
        std::fs::write(root.path().join("etc/ntp.d/noise.conf"), noise).unwrap();

        let found = configured(root.path());

        prop_assert!(found.sources.len() <= MAX_SERVERS);
        prop_assert!(found.sources.iter().all(|source| !source.server.host.is_empty()));
    }
}
