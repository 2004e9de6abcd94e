//! Whole files through [`load`].

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::builtin::tests::BUILTINS;
use crate::model::{LogLevel, LogMode};

/// A directory with an agent's file.
struct Host {
    directory: tempfile::TempDir,
    file: &'static str,
    previous: Option<Arc<LoadedConfig>>,
}

impl Host {
    fn new(file: &'static str, text: &str) -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap(), file, previous: None };
        host.write(file, text);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // An empty file is refused; one without settings holds a comment.
        std::fs::write(path, if text.is_empty() { "# nothing\n" } else { text }).unwrap();
    }

    fn load(&self) -> Result<LoadedConfig, Vec<ConfigProblem>> {
        let file = Some(self.path(self.file));
        let options = LoadOptions {
            file,
            places: Places::system(),
            previous: self.previous.clone(),
            run_dir: None,
            remembers_privacy: false,
        };
        load(&options, BUILTINS)
    }
}

/// The problems of a text as `LINE KEY MESSAGE`.
fn problems(text: &str) -> Vec<String> {
    let problems = Host::new("vigie.toml", text).load().expect_err(text);
    show(&problems)
}

fn show(problems: &[ConfigProblem]) -> Vec<String> {
    let line = |problem: &ConfigProblem| problem.line.map_or("-".to_owned(), |line| line.to_string());
    let key = |problem: &ConfigProblem| problem.key.clone().unwrap_or("-".to_owned());
    problems.iter().map(|problem| format!("{} {} {}", line(problem), key(problem), problem.message)).collect()
}

fn spec<'a>(config: &'a LoadedConfig, name: &str) -> &'a ModuleSpec {
    config.modules.iter().find(|spec| spec.name().as_str() == name).unwrap()
}

fn json(spec: &ModuleSpec) -> &str {
    spec.config.usable().unwrap().get()
}

#[test]
fn the_shipped_file_is_the_defaults_as_it_is_and_with_every_key_uncommented() {
    let shipped = include_str!("../../../conf/vigie.toml");
    let mut uncommented = String::new();
    for line in shipped.lines() {
        // "#key" and "#[table]" are keys, "# text" is text; "##key" shows a key that has no default.
        let key = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        uncommented.push_str(key.unwrap_or(line));
        uncommented.push('\n');
    }
    let places = Places::system();
    let read = |text: &str| {
        let path = places.config_file.clone();
        let root = parse(&path, text, Toml { file: path.clone() }).unwrap();
        let (mut problems, mut warnings) = (Problems::new(&path), Problems::new(&path));
        let directory = modules_directory(&path);
        let context = Context { places: &places, persistconfigdir: &directory, builtins: BUILTINS };
        let config = read_agent(root, context, &mut problems, &mut warnings);
        assert_eq!(show(&problems.into_sorted()), [""; 0]);
        assert_eq!(show(&warnings.into_sorted()), [""; 0]);
        config
    };
    let defaults = default_config(&places, BUILTINS);

    let as_is = read(shipped);
    let mut full = read(&uncommented);

    assert_eq!(as_is, defaults);
    // Four keys have no default that could be written down; their examples are these.
    assert_eq!(full.agent.operators_group.take().as_deref(), Some("vigie"));
    assert_eq!(full.agent.hostname.take().as_deref(), Some("host.example.org"));
    assert_eq!(full.tags.remove("zone").as_deref(), Some("dc1"));
    let mut module = full.modules.pop().unwrap();
    // Written out, limits are asked for.
    assert_eq!((module.limits.tasks(), module.limits.resident_bytes()), (Some(512), Some(2 << 30)));
    (module.limits.tasks, module.limits.resident_bytes) = (None, None);
    assert_eq!(module, builtin_section("fswatch".parse().unwrap(), &BUILTINS[0]));
    assert_eq!(full, defaults);
}

#[test]
fn every_key_of_the_shipped_file_without_a_default_is_valid_too() {
    let shipped = include_str!("../../../conf/vigie.toml");
    let everything: String = shipped
        .lines()
        .map(|line| {
            let bare = line.trim_start_matches('#');
            let key = bare.starts_with('[') || bare.contains(" = ") && !bare.starts_with(' ');
            format!("{}\n", if key { bare } else { line })
        })
        .collect();
    // A directory that is named must be there.
    let everything = everything.replace("\"/etc/vigie/modules.d\"", "\"/etc\"");
    let host = Host::new("vigie.toml", &everything);

    let config = host.load().unwrap();

    let module = &config.agent.modules[0];
    assert_eq!(module.command.as_ref().unwrap().len(), 2);
    assert_eq!(module.limits.nice, Some(10));
    assert_eq!(module.limits.cpu_percent, Some(150));
    assert_eq!(module.env["RUST_BACKTRACE"], "1");
    let fleet = config.agent.fleet.as_ref().unwrap();
    assert_eq!(fleet.agent.as_str(), "web-1");
    assert_eq!(fleet.answer_bytes, 64 << 20);
}

#[test]
fn what_is_wrong_with_a_fleet_is_said_all_at_once() {
    let text = "[fleet]\norg = \"a.b\"\nurls = [\"http://x:1\"]\nroots = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqz1ak4G0bHFKTnHZxXtXbWbPmAVvMJG4yBYTPEmvVZ\"]\nroot_threshold = 2\n\
                certificate = \"/c.pem\"\nworkers = 3\n";

    assert_eq!(
        problems(text),
        [
            "1 fleet.agent is missing: [fleet] needs one",
            "2 fleet.org \"a.b\" is not a name for an agent or a group (1 to 64 letters, digits, - and _, starting \
             with a letter or digit)",
            "3 fleet.urls \"http://x:1\" is not nats://HOST:PORT or tls://HOST:PORT",
            "5 fleet.root_threshold 2 keys must sign, but roots contains 1",
            "6 fleet.certificate has no effect without certificate_key",
            "7 fleet.workers unknown key \"workers\"; known are org, agent, urls, roots, certificate, \
             certificate_key, root_threshold, credentials, key_file, ca, groups, policy_file, running_actions, \
             waiting_actions, answer_bytes",
        ]
    );
    let unsigned =
        problems("[fleet]\norg = \"o\"\nagent = \"a\"\nurls = [\"nats://h:1\"]\nroots = [\"nonsense\"]\n");
    assert!(unsigned[0].starts_with("5 fleet.roots \"nonsense\" cannot sign a policy: "), "{unsigned:?}");
    for url in ["nats://user:secret@h:4222", "nats://h", "tls://:4222", "nats://h:99999"] {
        let text = format!(
            "[fleet]\norg = \"o\"\nagent = \"a\"\nroots = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqz1ak4G0bHFKTnHZxXtXbWbPmAVvMJG4yBYTPEmvVZ\"]\nurls = [\"{url}\"]\n"
        );
        assert!(problems(&text)[0].starts_with("5 fleet.urls "), "{url}");
    }
}

#[test]
fn all_problems_are_found_at_once_each_with_line_key_and_range() {
    let text = "[agent]\nheartbeat_misses = 2.9\nmoduletimeout = 7\nextraprivacymode = 1\nrun_dir = \"run\"\n\
                hartbeat_interval = \"1s\"\n[limits]\nclients = \"7\"\nrunning_queries = 0\nline_bytes = \"1 MB\"\n\
                [logging]\nlevel = \"loud\"\n[colour]\n";

    assert_eq!(
        problems(text),
        [
            "2 agent.heartbeat_misses 2.9 is not an integer from 1 to 100",
            "3 agent.moduletimeout 7 is not a duration with its unit such as \"10s\" or \"300ms\", from 1s to 1h",
            "4 agent.extraprivacymode 1 is not true or false",
            "5 agent.run_dir \"run\" is not an absolute path in quotes",
            "6 agent.hartbeat_interval unknown key \"hartbeat_interval\", did you mean \"heartbeat_interval\"?",
            "8 limits.clients \"7\" is not an integer from 16 to 100000",
            "9 limits.running_queries 0 is not an integer from 1 to 10000",
            "10 limits.line_bytes \"1 MB\" is not a number of bytes or a size such as \"64 MiB\" (units B, KiB, MiB, \
             GiB, TiB), from 1 KiB to 64 MiB",
            "12 logging.level \"loud\" is not one of \"error\", \"warning\", \"info\", \"debug\"",
            "13 colour unknown key \"colour\"; known are agent, tags, logging, restart, limits, journal, metrics, fleet, sink, module",
        ]
    );
}

#[test]
fn no_value_of_another_type_is_taken_for_any_key() {
    for key in ["run_dir", "hostname", "extraprivacymode", "stop_grace", "heartbeat_misses"] {
        for value in ["2.9", "[]", "{}", "-1", "\"\\u0000\"", "nan"] {
            let found = problems(&format!("[agent]\n{key} = {value}\n"));
            assert!(found[0].starts_with(&format!("2 agent.{key} ")), "{key} = {value}: {found:?}");
        }
    }
}

#[test]
fn a_run_directory_that_is_too_long_for_its_sockets_is_refused() {
    let fits = format!("[agent]\nrun_dir = \"/{}\"\n", "r".repeat(60));
    let long = format!("[agent]\nrun_dir = \"/{}\"\n", "r".repeat(61));

    assert!(Host::new("vigie.toml", &fits).load().is_ok());
    assert!(problems(&long)[0].contains("at most 61 bytes"), "{:?}", problems(&long));
}

#[test]
fn modules_are_checked_one_by_one() {
    let text = "[[module]]\nname = \"Bad Name\"\n[[module]]\nkind = \"standard\"\n[[module]]\nname = \"fswatch\"\n\
                kind = \"standard\"\n[[module]]\nname = \"scanner\"\n[[module]]\nname = \"fswatch\"\n[[module]]\n\
                name = \"x\"\ncommand = [\"bin/x\"]\n[module.env]\n\"1A\" = \"x\"\nVIGIE_RUN_DIR = \"/x\"\n\
                [module.limits]\nnice = -5\n";

    let found = problems(text);

    let expected = [
        "2 module.name \"Bad Name\" is not a module name",
        "3 module.name is missing",
        "7 module.fswatch.kind the built-in module fswatch is persistent",
        "8 module.scanner.command is missing: an external module needs one (unknown built-in module \"scanner\"",
        "10 module.name duplicate [[module]] with the name fswatch",
        "14 module.x.command the program \"bin/x\" is not an absolute path",
        "16 module.x.env.1A a variable's name",
        "17 module.x.env.VIGIE_RUN_DIR is set by the agent itself",
        "19 module.x.limits.nice -5 is not an integer from 0 to 19",
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found:?} is not {expected:?}");
    }
}

#[test]
fn a_program_that_everyone_may_replace_is_refused() {
    let host = Host::new("vigie.toml", "");
    host.write("bin/scanner", "#!/bin/sh\n");
    let program = host.path("bin/scanner");
    host.write("vigie.toml", &format!("[[module]]\nname = \"scanner\"\ncommand = [{program:?}]\n"));
    let mode = |mode| std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();

    mode(0o755);
    let good = host.load().unwrap();
    mode(0o757);
    let bad = host.load().unwrap_err();

    assert_eq!(show(&good.warnings), [""; 0]);
    assert!(spec(&good, "scanner").section.enabled);
    assert!(bad[0].message.contains("chmod o-w"), "{bad:?}");
}

#[test]
fn migs_own_file_is_read_and_its_other_keys_are_named() {
    let text = "[agent]\n  relay = \"amqp://h/\"\n  isimmortal = on\n  persistconfigdir = \"/etc\"\n  \
                extraprivacymode = on\n  moduletimeout = \"1m30s\"\n  tags = \"operator:example\"\n  \
                tags = zone:dc1\n[certs]\n  ca = x\n[logging]\n  mode = \"stdout\"\n  level = \"notice\"\n  \
                maxfilesize = 10485760\n";
    let host = Host::new("mig-agent.cfg", text);

    let config = host.load().unwrap();

    assert!(config.agent.agent.extraprivacymode);
    assert_eq!(config.agent.agent.persistconfigdir, PathBuf::from("/etc"));
    assert_eq!(config.agent.agent.moduletimeout, Duration::from_secs(90));
    assert_eq!(config.agent.tags["operator"], "example");
    assert_eq!(config.agent.tags["zone"], "dc1");
    assert_eq!((config.agent.logging.mode, config.agent.logging.level), (LogMode::Stderr, LogLevel::Info));
    assert_eq!(config.agent.logging.max_file_bytes, 10 << 20);
    assert_eq!(show(&config.warnings), [""; 0]);
    assert_eq!(
        show(&config.notes),
        [
            "2 agent.relay is not used by Vigie",
            "3 agent.isimmortal is not used by Vigie",
            "10 certs.ca is not used by Vigie"
        ]
    );
}

#[test]
fn an_error_in_migs_file_never_turns_privacy_off() {
    // MIG falls back to its built-in configuration on any of these, and with it to privacy off.
    for text in [
        "[agent]\nextraprivacymode = maybe\n",
        "[agent]\nextraprivacymode = on\nunknownkey = 1\n",
        "[agent]\nextraprivacymode = on\nnopersistmods = \"\n",
        "[agent]\nextraprivacymode = on\nmoduletimeout = 300\n",
        "[agent \"x\"]\nextraprivacymode = on\n",
        "[agents]\nextraprivacymode = on\n",
        "[agent]\ntags = zone\n",
    ] {
        let problems = Host::new("mig-agent.cfg", text).load().expect_err(text);
        assert!(problems[0].line.is_some(), "{text:?}: {problems:?}");
    }
}

#[test]
fn modules_of_mig_are_looked_for_beside_its_file() {
    let host = Host::new("mig-agent.cfg", "");
    host.write("fswatch.cfg", "[paths]\npath = /a\n");

    let config = host.load().unwrap();

    assert_eq!(json(spec(&config, "fswatch")), r#"{"Paths":{"Path":["/a"]}}"#);
    assert_eq!(show(&config.warnings), [""; 0]);
}

#[test]
fn a_module_that_is_an_example_runs_when_something_names_it() {
    let quiet = Host::new("vigie.toml", "");
    let with_file = Host::new("vigie.toml", "");
    with_file.write("modules.d/examplepersist.toml", "[examplepersist]\ninterval = 5\n");
    let with_section = Host::new("vigie.toml", "[[module]]\nname = \"examplepersist\"\n");
    let switched_off = Host::new("vigie.toml", "[[module]]\nname = \"examplepersist\"\nenabled = false\n");
    switched_off.write("modules.d/examplepersist.cfg", "");
    let none =
        Host::new("vigie.toml", "[agent]\nnopersistmods = true\n[[module]]\nname = \"examplepersist\"\n");

    let enabled = |host: &Host, name: &str| spec(&host.load().unwrap(), name).section.enabled;

    assert!(!enabled(&quiet, "examplepersist"));
    assert!(enabled(&quiet, "fswatch"));
    assert!(enabled(&with_file, "examplepersist"));
    assert!(enabled(&with_section, "examplepersist"));
    assert!(!enabled(&switched_off, "examplepersist"));
    assert!(!enabled(&none, "examplepersist") && !enabled(&none, "fswatch") && enabled(&none, "netstat"));
}

#[test]
fn a_modules_invalid_file_concerns_that_module_alone_and_it_keeps_the_last_good_one() {
    let mut host = Host::new("vigie.toml", "");
    host.write("modules.d/fswatch.cfg", "[paths]\npath = /a\npathh = /b\n");
    let never_good = host.load().unwrap();
    host.write("modules.d/fswatch.cfg", "[paths]\npath = /a\n");
    host.previous = Some(Arc::new(host.load().unwrap()));
    host.write("modules.d/fswatch.cfg", "[paths]\npath = \"/a\npath = /b\n");

    let kept = host.load().unwrap();

    let first = spec(&never_good, "fswatch");
    assert!(first.config.usable().is_none());
    assert_eq!(first.config.problem().unwrap().line, Some(3));
    let second = spec(&kept, "fswatch");
    assert_eq!(json(second), r#"{"Paths":{"Path":["/a"]}}"#);
    assert_eq!(second.config.problem().unwrap().line, Some(2));
    assert_eq!(kept.warnings.len(), 1);
    assert_eq!(kept.generation, 2);
}

#[test]
fn two_files_for_one_module_are_a_problem_and_a_file_for_none_is_a_warning() {
    let host = Host::new("vigie.toml", "");
    host.write("modules.d/fswatch.cfg", "");
    host.write("modules.d/fswatch.toml", "");
    host.write("modules.d/fswach.cfg", "");
    host.write("modules.d/fswatch.cfg.bak", "");

    let config = host.load().unwrap();

    let found = show(&config.warnings).join("\n");
    assert!(spec(&config, "fswatch").config.usable().is_none());
    assert!(found.contains("keep only one of the two"), "{found}");
    assert!(found.contains("unknown persistent module \"fswach\", did you mean \"fswatch\"?"), "{found}");
    assert_eq!(config.warnings.len(), 2, "{found}");
}

#[test]
fn a_missing_file_is_a_problem_only_when_it_was_named_or_was_there_before() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("vigie.toml");
    let places = Places { config_file: missing.clone(), ..Places::system() };
    let named = LoadOptions {
        file: Some(missing.clone()),
        places: places.clone(),
        previous: None,
        run_dir: None,
        remembers_privacy: false,
    };
    let default = LoadOptions { file: None, places, previous: None, run_dir: None, remembers_privacy: false };

    let refused = load(&named, BUILTINS).unwrap_err();
    let defaults = load(&default, BUILTINS).unwrap();
    std::fs::write(&missing, "[agent]\nextraprivacymode = true\n").unwrap();
    let private = Arc::new(load(&default, BUILTINS).unwrap());
    std::fs::remove_file(&missing).unwrap();
    let vanished = load(&LoadOptions { previous: Some(private), ..default }, BUILTINS).unwrap_err();

    assert_eq!(refused[0].message, "does not exist");
    assert_eq!((defaults.path, defaults.generation), (None, 1));
    assert!(vanished[0].message.starts_with("was removed"));
}

#[test]
fn every_beginning_of_a_file_is_read_or_refused_with_a_line() {
    let text = "[agent]\nheartbeat_interval = \"10s\" # why\n[tags]\nzone = \"dc1\"\n[[module]]\nname = \"fswatch\"\n";
    let host = Host::new("vigie.toml", "");
    for end in 0..text.len() {
        host.write("vigie.toml", &text[..end]);
        let whole_lines = end > 0 && text[..end].ends_with('\n');
        match host.load() {
            Ok(_) => assert!(whole_lines || end == 0, "{:?} was taken", &text[..end]),
            Err(problems) => assert!(problems[0].line.is_some(), "{problems:?}"),
        }
    }
}

#[test]
fn privacy_is_turned_off_by_nothing_but_a_whole_file_that_says_so() {
    let mut host = Host::new("vigie.toml", "[agent]\nextraprivacymode = true\n");
    let private = host.load().unwrap();
    assert!(!private.privacy_kept);
    host.previous = Some(Arc::new(private));

    host.write("vigie.toml", "[agent]\n");
    let short = host.load().unwrap();
    assert!(short.agent.agent.extraprivacymode && short.privacy_kept);

    host.previous = None;
    let file = Some(host.path("vigie.toml"));
    let restarted = LoadOptions { file, remembers_privacy: true, ..LoadOptions::at_start(None) };
    assert!(load(&restarted, BUILTINS).unwrap().agent.agent.extraprivacymode);

    host.write("vigie.toml", "[agent]\nextraprivacymode = false\n");
    assert!(!load(&restarted, BUILTINS).unwrap().agent.agent.extraprivacymode);
}

#[test]
fn a_directory_of_modules_that_was_named_and_is_not_there_is_a_problem() {
    let found = problems("[agent]\npersistconfigdir = \"/nonexistent/modules\"\n");

    assert!(
        found[0].starts_with("2 agent.persistconfigdir \"/nonexistent/modules\" is not a directory"),
        "{found:?}"
    );
}

#[test]
fn a_module_that_would_be_taken_for_the_agent_or_a_command_is_refused() {
    for name in ["agent", "status", "vigie"] {
        let found = problems(&format!("[[module]]\nname = \"{name}\"\ncommand = [\"/bin/true\"]\n"));
        assert!(found[0].contains("is reserved"), "{found:?}");
    }
}

#[test]
fn a_file_that_others_may_write_is_refused_before_it_decides_anything() {
    let host = Host::new("vigie.toml", "[agent]\nhostname = \"x\"\n");
    let mode =
        |mode| std::fs::set_permissions(host.path("vigie.toml"), PermissionsExt::from_mode(mode)).unwrap();

    mode(0o646);

    assert!(show(&host.load().unwrap_err())[0].contains("every user can write this file"));
    mode(0o640);
    assert!(host.load().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_in_any_file_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), which in 0_usize..4) {
        let file = if which == 0 { "mig-agent.cfg" } else { "vigie.toml" };
        let host = Host::new(file, "");
        let name = ["mig-agent.cfg", "vigie.toml", "modules.d/fswatch.cfg", "modules.d/fswatch.toml"][which];
        host.write(name, "");
        std::fs::write(host.path(name), &bytes).unwrap();

        match host.load() {
            Ok(config) => prop_assert!(which > 1 || !bytes.contains(&0), "{config:?}"),
            Err(problems) => prop_assert!(which < 2 && !problems.is_empty(), "{problems:?}"),
        }
    }

    #[test]
    fn any_edit_of_a_valid_file_is_read_or_refused(at in 0_usize..200, with in "\\PC{0,6}") {
        let mut text = "[agent]\nrun_dir = \"/run/v\"\nstop_grace = \"5s\"\n[tags]\na = \"b\"\n[[module]]\n\
                        name = \"fswatch\"\nenv = { A = \"b\" }\nlimits = { nice = 3 }\n".to_owned();
        let at = at.min(text.len());
        text.insert_str(at, &with);
        let host = Host::new("vigie.toml", &text);

        if let Err(problems) = host.load() {
            prop_assert!(problems.iter().all(|problem| problem.line.is_some()), "{text:?}: {problems:?}");
        }
    }
}

#[test]
fn the_largest_files_give_a_bounded_number_of_problems() {
    let size = usize::try_from(text::MAX_FILE_BYTES).unwrap();
    let unknown: String = (0..size / 14).map(|n| format!("k{n:07} = 1\n")).collect();
    let list = format!("[agent]\nrun_dir = [{}]\n", "1,".repeat(size / 2 - 16));

    for text in [unknown, list] {
        let host = Host::new("vigie.toml", &text);
        let found = host.load().unwrap_err();
        assert!((1..=100).contains(&found.len()), "{}", found.len());
        assert!(found[0].line.is_some());
    }
    let host = Host::new("vigie.toml", "");
    host.write("modules.d/fswatch.cfg", &format!("[paths]\n{}", "pathh = /a\n".repeat(size / 14)));
    assert!((1..=100).contains(&host.load().unwrap().warnings.len()));
}

/// One edit of the files, and whether the agent's file is valid after it.
#[derive(Debug, Clone)]
enum Edit {
    Agent(u32),
    BrokenAgent,
    Module(u8),
    BrokenModule,
    NoModule,
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (1_u32..=100).prop_map(Edit::Agent),
        Just(Edit::BrokenAgent),
        any::<u8>().prop_map(Edit::Module),
        Just(Edit::BrokenModule),
        Just(Edit::NoModule),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_the_edits_the_last_valid_state_is_in_force(edits in prop::collection::vec(any_edit(), 1..40)) {
        use crate::difference::take_effect;

        const EMPTY: &str = r#"{"Paths":{"Path":null}}"#;
        let mut host = Host::new("vigie.toml", "");
        let mut current = host.load().unwrap();
        // The model: what is in the agent's file, whether it is valid, and the same for the module's.
        let (mut written, mut agent_valid, mut misses) = (3, true, 3);
        let (mut module_file, mut module) = (Some(EMPTY.to_owned()), EMPTY.to_owned());
        for edit in edits {
            match edit {
                Edit::Agent(number) => {
                    host.write("vigie.toml", &format!("[agent]\nheartbeat_misses = {number}\n"));
                    (written, agent_valid) = (number, true);
                }
                Edit::BrokenAgent => {
                    host.write("vigie.toml", "[agent]\nheartbeat_misses = 0\n");
                    agent_valid = false;
                }
                Edit::Module(number) => {
                    host.write("modules.d/fswatch.cfg", &format!("[paths]\npath = /{number}\n"));
                    module_file = Some(format!(r#"{{"Paths":{{"Path":["/{number}"]}}}}"#));
                }
                Edit::BrokenModule => {
                    host.write("modules.d/fswatch.cfg", "[paths]\npath = /x\npath = \"\n");
                    module_file = None;
                }
                Edit::NoModule => {
                    _ = std::fs::remove_file(host.path("modules.d/fswatch.cfg"));
                    module_file = Some(EMPTY.to_owned());
                }
            }
            if agent_valid {
                misses = written;
                module = module_file.clone().unwrap_or(module);
            }

            host.previous = Some(Arc::new(current.clone()));
            if let Ok(new) = host.load() {
                current = take_effect(&current, new).0;
            }

            prop_assert_eq!(current.agent.agent.heartbeat_misses, misses);
            prop_assert_eq!(json(spec(&current, "fswatch")), module.as_str());
        }
    }
}
