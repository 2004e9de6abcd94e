//! Rules and what they cover.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Complaints;
use crate::pattern::names_of;

fn rules(config: &Value) -> Rules {
    let raw = serde_json::value::to_raw_value(config).unwrap();
    Rules::compile(&vigie_sdk::json::from_any_case(Some(&raw)).unwrap()).unwrap()
}

fn coverage(config: &Value) -> Coverage {
    Coverage::new(&rules(config), &|_| None)
}

fn paths(list: &[&str]) -> Coverage {
    coverage(&json!({"paths": {"path": list}}))
}

fn rule(coverage: &Coverage, path: &str) -> Option<String> {
    coverage.rule_text(Path::new(path)).map(str::to_owned)
}

/// Links of a host: each with where it really leads.
fn links(links: &'static [(&'static str, &'static str)]) -> impl Fn(&Path) -> Option<PathBuf> {
    move |path: &Path| {
        links.iter().find_map(|(link, target)| {
            let rest = path.strip_prefix(link).ok()?;
            let target = PathBuf::from(target);
            Some(if rest.as_os_str().is_empty() { target } else { target.join(rest) })
        })
    }
}

#[test]
fn an_entry_covers_itself_and_what_is_in_it() {
    let flat = paths(&["/etc"]);
    let deep = paths(&["recursive:/etc"]);
    let bounded = coverage(&json!({"paths": {"path": ["recursive:/etc"], "depth": 2}}));

    for (path, by_flat, by_deep, by_bounded) in [
        ("/etc", true, true, true),
        ("/etc/passwd", true, true, true),
        ("/etc/ssh/config", false, true, true),
        ("/etc/a/b/c", false, true, false),
        ("/etcetera", false, false, false),
        ("/", false, false, false),
    ] {
        assert_eq!(rule(&flat, path).is_some(), by_flat, "{path}");
        assert_eq!(rule(&deep, path).is_some(), by_deep, "{path}");
        assert_eq!(rule(&bounded, path).is_some(), by_bounded, "{path}");
    }
}

#[test]
fn paths_are_made_plain_and_repeated_ones_count_once() {
    let rules = rules(&json!({"paths": {"path": [
        "/etc/", "/etc", "recursive:/a/../b//c/.", "recursive: /x", "/../..", r"/odd\[1]", "/home/*/./.ssh/",
    ]}}));

    assert_eq!(rules.entries(), ["/etc", "recursive:/b/c", "recursive:/x", "/", "/odd[1]", "/home/*/.ssh"]);
}

#[test]
fn the_root_directory_can_be_watched() {
    let flat = paths(&["/"]);
    let deep = paths(&["recursive:/"]);

    assert!(rule(&flat, "/").is_some() && rule(&flat, "/vmlinuz").is_some() && rule(&flat, "/a/b").is_none());
    assert!(rule(&deep, "/a/b/c").is_some());
    assert_eq!(flat.interest(Path::new("/")), Interest::Covered);
    assert_eq!(flat.interest(Path::new("/a")), Interest::Nothing);
}

#[test]
fn the_nearest_entry_counts() {
    let coverage = paths(&[
        "/etc/ssh/sshd_config",
        "recursive:/etc/ssh",
        "/etc/ssh",
        "recursive:/etc",
        "/etc/*/sshd_config",
        "recursive:/home/*/.ssh",
        "/home/ada",
    ]);

    for (path, expected) in [
        ("/etc/ssh/sshd_config", "/etc/ssh/sshd_config"),
        ("/etc/ssh/ssh_config", "/etc/ssh"),
        ("/etc/ssh/a/b", "recursive:/etc/ssh"),
        ("/etc/x/sshd_config", "/etc/*/sshd_config"),
        ("/etc/x/y", "recursive:/etc"),
        ("/home/ada/.ssh", "recursive:/home/*/.ssh"),
        ("/home/ada/.ssh/keys/a", "recursive:/home/*/.ssh"),
        ("/home/ada/x", "/home/ada"),
    ] {
        assert_eq!(rule(&coverage, path).as_deref(), Some(expected), "{path}");
    }
    assert_eq!(rule(&coverage, "/home/bob"), None);
}

#[test]
fn of_equal_entries_the_later_one_counts() {
    let coverage = coverage(&json!({"paths": {"path": ["/etc"], "groups": [
        {"name": "a", "path": ["/etc"], "severity": "low"},
        {"name": "b", "path": ["/etc"], "severity": "high"},
    ]}}));

    assert_eq!(coverage.options(Path::new("/etc/passwd")).unwrap().severity, Some(Severity::High));
}

#[test]
fn exclusions_concern_their_own_group() {
    let coverage = coverage(&json!({"paths": {
        "path": ["recursive:/etc", "/etc/keep.swp", "recursive:/srv/*"],
        "exclude": ["*.swp", "/etc/cups/*.conf", "cache/tmp", "/srv/guest", "log/"],
        "groups": [{"name": "all", "path": ["recursive:/etc/ssh"]}],
    }}));

    for (path, expected) in [
        ("/etc/a.swp", None),
        ("/etc/x.swp/below", None),
        ("/etc/keep.swp", Some("/etc/keep.swp")),
        ("/etc/ssh/a.swp", Some("recursive:/etc/ssh")),
        ("/etc/cups/a.conf", None),
        ("/etc/cups/b/a.conf", Some("recursive:/etc")),
        ("/etc/cache/tmp/x", None),
        ("/etc/x/cache/tmp", Some("recursive:/etc")),
        ("/srv/guest/x", None),
        ("/srv/web/x", Some("recursive:/srv/*")),
        ("/srv/web/log/x", None),
    ] {
        assert_eq!(rule(&coverage, path).as_deref(), expected, "{path}");
    }
    assert!(!coverage.descends(Path::new("/etc/x.swp")));
    assert!(!coverage.descends(Path::new("/srv/guest")));
    assert!(coverage.descends(Path::new("/srv/web")));
}

#[test]
fn what_one_group_excludes_another_may_cover() {
    let coverage = coverage(&json!({"paths": {"groups": [
        {"name": "wide", "path": ["recursive:/etc"]},
        {"name": "near", "path": ["recursive:/etc/ssh"], "exclude": ["*.tmp"]},
    ]}}));

    assert_eq!(rule(&coverage, "/etc/ssh/a.tmp").as_deref(), Some("recursive:/etc"));
}

#[test]
fn only_what_leads_somewhere_is_entered() {
    let coverage = paths(&["/var/log/auth.log", "recursive:/opt/**/bin", "/home/*/.ssh"]);
    let interest = |path: &str| coverage.interest(Path::new(path));

    assert_eq!(interest("/"), Interest::OnTheWay);
    assert_eq!(interest("/var"), Interest::OnTheWay);
    assert_eq!(interest("/var/log/auth.log"), Interest::Covered);
    assert_eq!(interest("/var/lib"), Interest::Nothing);
    assert_eq!(interest("/opt/x/y"), Interest::OnTheWay);
    assert_eq!(interest("/opt/x/bin"), Interest::Covered);
    assert_eq!(interest("/home/ada"), Interest::OnTheWay);
    assert_eq!(interest("/home/ada/.ssh"), Interest::Covered);
    assert_eq!(interest("/home/ada/.ssh/keys"), Interest::Nothing);
    assert!(coverage.concerns(Path::new("/home/ada")) && coverage.concerns(Path::new("/var")));
    assert!(!coverage.concerns(Path::new("/usr")) && !coverage.concerns(Path::new("/var/log/syslog")));
}

#[test]
fn a_symbolic_link_as_root_is_watched_and_followed() {
    let rules = rules(&json!({"paths": {
        "path": ["recursive:/bin", "/lib/x.so", "/srv/www/*/conf"], "exclude": ["/bin/skip"],
    }}));
    let resolve = links(&[("/bin", "/usr/bin"), ("/lib", "/usr/lib"), ("/srv/www", "/data/www")]);

    let coverage = Coverage::new(&rules, &resolve);

    assert!(rule(&coverage, "/bin").is_some() && rule(&coverage, "/bin/ls").is_none());
    assert_eq!(rule(&coverage, "/usr/bin/ls").as_deref(), Some("recursive:/bin"));
    assert_eq!(rule(&coverage, "/usr/bin/skip"), None);
    assert_eq!(rule(&coverage, "/usr/lib/x.so").as_deref(), Some("/lib/x.so"));
    assert!(rule(&coverage, "/data/www/a/conf/x").is_some());
    assert!(coverage.concerns(Path::new("/lib")) && coverage.concerns(Path::new("/srv/www")));
    let roots: Vec<_> =
        coverage.roots().iter().map(|root| (root.path.to_str().unwrap(), root.link_to.is_some())).collect();
    assert_eq!(roots, [("/bin", true), ("/usr/bin", false), ("/usr/lib/x.so", false), ("/data/www", false)]);
}

#[test]
fn two_names_of_one_tree_are_one_root() {
    let rules = rules(&json!({"paths": {"path": ["/usr/bin", "/bin"]}}));

    let coverage = Coverage::new(&rules, &links(&[("/bin", "/usr/bin")]));

    let roots: Vec<_> = coverage.roots().iter().map(|root| root.path.to_str().unwrap()).collect();
    assert_eq!(roots, ["/usr/bin", "/bin"]);
}

#[test]
fn links_found_in_a_scan_are_followed_where_the_rule_says_so() {
    let mut coverage = coverage(&json!({"paths": {
        "path": ["recursive:/home/*/.ssh", "recursive:/etc"],
        "groups": [{"name": "f", "path": ["recursive:/opt"], "follow": true}],
    }}));

    assert!(coverage.follow_link(Path::new("/home/ada/.ssh"), Path::new("/data/ada"), false));
    assert!(!coverage.follow_link(Path::new("/etc/localtime"), Path::new("/usr/share/zoneinfo/UTC"), false));
    assert!(coverage.follow_link(Path::new("/opt/x/link"), Path::new("/srv/file"), false));
    assert!(coverage.follow_link(Path::new("/home/bob"), Path::new("/etc"), true));

    assert_eq!(rule(&coverage, "/etc/.ssh/x").as_deref(), Some("recursive:/etc"), "a user's link is weak");
    assert!(rule(&coverage, "/data/ada/deep/er").is_some());
    assert_eq!(rule(&coverage, "/usr/share/zoneinfo/UTC"), None);
    assert_eq!(rule(&coverage, "/srv/file").as_deref(), Some("recursive:/opt"));
    assert_eq!(rule(&coverage, "/srv/file/below"), None);
    assert!(coverage.follows(Path::new("/opt/x")) && !coverage.follows(Path::new("/etc/x")));
}

#[test]
fn the_modules_own_files_are_never_watched() {
    let coverage = paths(&["recursive:/var", "/var/lib/vigie/x"]).without(Path::new("/var/lib/vigie"));

    assert!(rule(&coverage, "/var/lib").is_some());
    assert_eq!(rule(&coverage, "/var/lib/vigie"), None);
    assert_eq!(rule(&coverage, "/var/lib/vigie/x"), None);
    assert!(
        !coverage.descends(Path::new("/var/lib/vigie")) && !coverage.concerns(Path::new("/var/lib/vigie/x"))
    );
    assert!(coverage.explain(Path::new("/var/lib/vigie/y")).sentence().contains("belongs to the module"));
}

#[test]
fn missing_roots_are_waited_for() {
    let coverage = paths(&["/there", "/missing", "recursive:/gone", "/home/*/x"]);

    let waiting = coverage.waiting(&|path| path == Path::new("/there"));

    assert_eq!(waiting, [PathBuf::from("/gone"), PathBuf::from("/missing")]);
}

#[test]
fn attributes_are_chosen_by_name_group_and_minus() {
    let of = |items: Value| {
        let coverage = coverage(&json!({"paths": {"path": ["/a"], "attributes": items}}));
        coverage.options(Path::new("/a")).unwrap().clone()
    };

    assert_eq!(of(Value::Null).attributes, Attributes::DEFAULT);
    assert!(
        !Attributes::DEFAULT.contains(Attribute::Inode) && Attributes::DEFAULT.contains(Attribute::Links)
    );
    assert_eq!(of(json!(["all"])).attributes, Attributes::ALL);
    assert_eq!(
        of(json!(["-modification_time, -links"])).attributes,
        Attributes::DEFAULT.without(Attribute::ModificationTime).without(Attribute::Links)
    );
    assert_eq!(
        of(json!(["mode owner"])).attributes,
        Attributes::NONE.with(Attribute::Kind).with(Attribute::Mode).with(Attribute::Owner)
    );
    let metadata = of(json!(["metadata", "inode"]));
    assert!(!metadata.hash && !metadata.attributes.contains(Attribute::Content));
    assert!(metadata.attributes.contains(Attribute::Inode));
}

#[test]
fn a_group_without_hashing_compares_no_content() {
    let coverage = coverage(&json!({"paths": {"path": ["/a"], "hash": false, "largest_hashed": "1 MiB"}}));
    let options = coverage.options(Path::new("/a")).unwrap();

    assert!(!options.hash && !options.attributes.contains(Attribute::Content));
    assert_eq!(options.largest_hashed, Some(1 << 20));
}

#[test]
fn an_explanation_names_entry_rule_and_what_left_a_path_out() {
    let coverage = coverage(&json!({"paths": {
        "path": ["recursive:/etc"], "exclude": ["*.swp"],
        "groups": [{"name": "ssh", "path": ["/etc/ssh"], "severity": "critical", "follow": true}],
    }}));
    let explain = |path: &str| coverage.explain(Path::new(path));

    let near = explain("/etc/ssh/config");
    assert!(near.watched());
    assert!(near.sentence().starts_with(
        "/etc/ssh/config is watched by /etc/ssh of [paths \"ssh\"]: compared are kind, content"
    ));
    assert!(
        near.sentence().ends_with(
            "any change is critical; recursive:/etc of [paths] covers it too, but is less specific"
        )
    );
    assert_eq!(near.to_json()["options"]["severity"], "critical");
    assert_eq!(near.to_json()["options"]["follow"], true);
    assert_eq!(
        explain("/etc/x.swp").sentence(),
        "/etc/x.swp is not watched; recursive:/etc of [paths] excludes it by *.swp"
    );
    assert_eq!(explain("/usr").sentence(), "/usr is not watched: no entry covers it");
    assert!(explain("/").sentence().contains("leads to watched paths"));
}

#[test]
fn any_difference_in_a_configuration_changes_its_digest() {
    let configs = [
        json!({"paths": {"path": ["/a"]}}),
        json!({"paths": {"path": ["recursive:/a"]}}),
        json!({"paths": {"path": ["/a"], "exclude": ["x"]}}),
        json!({"paths": {"path": ["/a"], "severity": "low"}}),
        json!({"paths": {"path": ["/a"], "follow": true}}),
        json!({"paths": {"path": ["recursive:/a"], "depth": 3}}),
        json!({"paths": {"path": ["/a"]}, "fswatch": {"quick_scan_minutes": 30}}),
        json!({}),
    ];

    let digests: std::collections::BTreeSet<_> =
        configs.iter().map(|config| rules(config).digest()).collect();

    assert_eq!(digests.len(), configs.len());
    assert_eq!(rules(&configs[0]).digest(), rules(&json!({"Paths": {"Path": ["/a/"]}})).digest());
}

#[test]
fn the_profiles_are_valid_and_say_what_matters_most() {
    for profile in ["default", "minimal"] {
        let rules = rules(&json!({"fswatch": {"profile": profile}}));
        for group in rules.settings().profile.groups() {
            let mut problems = Vec::new();
            let title = group.name.clone().unwrap();
            let mut alone = Rules { groups: Vec::new(), entries: Vec::new(), settings: Settings::default() };
            alone.add(&group, title.clone(), &mut Complaints { section: title, list: &mut problems });
            assert_eq!(problems, []);
        }
    }
    let coverage = coverage(&json!({}));
    let severity =
        |path: &str| coverage.options(Path::new(path)).unwrap_or_else(|| panic!("{path}")).severity;

    for path in [
        "/etc/ld.so.preload",
        "/etc/shadow",
        "/etc/sudoers.d/x",
        "/etc/pam.d/sshd",
        "/root/.ssh/authorized_keys",
        "/home/ada/.ssh/authorized_keys2",
        "/usr/lib/x86_64-linux-gnu/security/pam_unix.so",
        "/usr/lib64/security/a.so",
        "/etc/ssh/sshd_config",
    ] {
        assert_eq!(severity(path), Some(Severity::Critical), "{path}");
    }
    for path in [
        "/etc/cron.d/x",
        "/var/spool/cron/crontabs/root",
        "/etc/periodic/daily/x",
        "/root/.bashrc",
        "/home/ada/.config/systemd/user/x.service",
        "/usr/lib/systemd/system/a/b.conf",
        "/boot/vmlinuz",
        "/usr/lib/modules/6.1/kernel/a.ko",
        "/etc/apt/sources.list",
        "/etc/yum.repos.d/x.repo",
        "/etc/apk/repositories",
    ] {
        assert_eq!(severity(path), Some(Severity::High), "{path}");
    }
    assert_eq!(severity("/etc/resolv.conf"), Some(Severity::Low));
    for path in [
        "/usr/bin/ls",
        "/etc/hosts",
        "/usr/local/bin/x",
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/opt/x/bin/y",
    ] {
        assert_eq!(severity(path), None, "{path}");
    }
    for path in [
        "/etc/adjtime",
        "/etc/.hosts.swp",
        "/etc/mtab",
        "/home/ada/.ssh/known_hosts",
        "/home/ada/x",
        "/var/log/x",
    ] {
        assert!(coverage.options(Path::new(path)).is_none(), "{path}");
    }
}

#[test]
fn exclusions_without_paths_hold_for_the_profile() {
    let coverage = coverage(&json!({"paths": {"exclude": ["/etc/puppet"]}}));

    assert!(rule(&coverage, "/etc/puppet/x").is_none() && rule(&coverage, "/etc/hosts").is_some());
}

/// What the rules say, by trying every entry: without links, exclusions and own files.
fn simple(entries: &[Entry], path: &Path) -> Option<usize> {
    let covers = |entry: &Entry| {
        path.ancestors().enumerate().find_map(|(above, ancestor)| {
            let root = entry.patterns.iter().find(|pattern| pattern.matches(ancestor))?;
            let literal = root.split().1.is_none();
            (above <= entry.reach).then(|| (names_of(ancestor).count(), literal))
        })
    };
    let found = entries.iter().enumerate().filter_map(|(index, entry)| {
        covers(entry).map(|(names, literal)| (names, !entry.recursive, literal, index))
    });
    found.max().map(|(.., index)| index)
}

proptest! {
    #[test]
    fn the_tree_says_the_same_as_trying_every_entry(
        texts in prop::collection::vec("(recursive:)?(/(a|b|\\*|\\*\\*|a\\*)){1,3}", 1..6),
        path in "(/(a|b|ab|c)){1,5}",
    ) {
        // Repeated, they mean the same and the first of two such entries is kept.
        prop_assume!(texts.iter().all(|text| !text.contains("**/**")));
        let rules = rules(&json!({"paths": {"path": texts}}));
        let coverage = Coverage::new(&rules, &|_| None);
        let path = Path::new(&path);

        let expected = simple(&rules.entries, path);

        let found = coverage.survey(path);
        let found = coverage.best(&found, path).map(|best| best.place.entry);
        prop_assert_eq!(
            found.map(|at| &rules.entries[at].text),
            expected.map(|at| &rules.entries[at].text)
        );
    }

    #[test]
    fn every_directory_above_a_watched_path_is_entered(
        texts in prop::collection::vec("(recursive:)?(/(a|b|\\*|\\*\\*)){1,3}", 1..5),
        exclude in prop::collection::vec("/?(a|b|\\*)(/(a|b|\\*)){0,2}", 0..3),
        path in "(/(a|b|c)){1,5}",
    ) {
        let coverage = coverage(&json!({"paths": {"path": texts, "exclude": exclude}}));
        let path = Path::new(&path);

        if coverage.options(path).is_some() {
            for directory in path.ancestors().skip(1) {
                prop_assert!(coverage.descends(directory), "{}", directory.display());
                prop_assert!(coverage.concerns(directory), "{}", directory.display());
            }
        }
    }

    #[test]
    fn what_is_said_of_all_names_is_what_is_said_of_each(
        texts in prop::collection::vec("(recursive:)?(/(a|b|\\*|\\*\\*|a\\*)){1,3}", 1..5),
        exclude in prop::collection::vec("/?(a|b|\\*)(/(a|b|\\*)){0,2}", 0..2),
        depth in prop::option::of(1u8..3),
        own in prop::option::of("(/(a|b)){1,3}"),
        directory in "(/(a|b|c)){0,4}",
    ) {
        let mut paths = json!({"path": texts, "exclude": exclude});
        if let Some(depth) = depth {
            paths["depth"] = json!(depth);
        }
        let mut coverage = coverage(&json!({"paths": paths}));
        if let Some(own) = own {
            coverage = coverage.without(Path::new(&own));
        }
        let directory = Path::new("/").join(directory.trim_start_matches('/'));

        if let NamesRule::Alike(options) = coverage.options_of_names(&directory) {
            for name in ["a", "b", "ab", "c"] {
                prop_assert_eq!(options, coverage.options(&directory.join(name)), "{}", name);
            }
        }
    }

    #[test]
    fn any_path_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let coverage = coverage(&json!({}));
        let path = Path::new(OsStr::from_bytes(&bytes));

        let explanation = coverage.explain(path);

        prop_assert_eq!(explanation.watched(), coverage.options(path).is_some());
        let _ = explanation.to_json();
    }
}
