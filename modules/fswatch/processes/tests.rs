use super::*;
use crate::execs::Opened;
use proptest::prelude::*;

/// A queue that told nothing.
fn nowhere() -> Position<'static> {
    static NOTHING: std::sync::LazyLock<Opened> = std::sync::LazyLock::new(Opened::default);
    Position { opened: &NOTHING, horizon: 0, more: false }
}

#[test]
fn the_own_process_is_known_in_full() {
    let pid = i32::try_from(std::process::id()).unwrap();

    let process = Processes::default().of(pid, nowhere());

    assert_eq!(process.executable, Ok(std::env::current_exe().unwrap()));
    assert!(process.command.as_ref().is_ok_and(|command| !command.is_empty()));
    assert_eq!(process.user, Ok(rustix::process::geteuid().as_raw()));
    assert!(process.parent.as_ref().is_ok_and(|(parent, _)| *parent > 0));
}

#[test]
fn of_a_process_that_ended_its_program_is_known_from_its_start() {
    let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut processes = Processes::default();
    processes.starts(pid, Path::new("/bin/true"));
    processes.starts(pid, Path::new("/lib64/ld-linux-x86-64.so.2"));
    child.wait().unwrap();

    let process = processes.of(pid, nowhere());

    assert_eq!((process.executable.clone(), process.proof), (Ok("/bin/true".into()), Proof::Opened));
    assert_eq!(process.command, Err(Unknown::Ended));
    assert_eq!(process.to_json()["claimed"], serde_json::json!(["executable"]));
}

#[test]
fn a_program_that_was_only_opened_excuses_nobody() {
    let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut processes = Processes::default();
    processes.starts(pid, Path::new("/usr/bin/dpkg"));
    child.wait().unwrap();

    let process = processes.of(pid, nowhere());

    assert_eq!(process.executable, Err(Unknown::Ended));
    assert_eq!(process.claimed_executable, Some("/usr/bin/dpkg".into()));
    assert!(!matches!(process.managed, Ok(Some(_))));
}

#[test]
fn what_has_ended_and_waits_for_its_parent_has_a_reason_for_each_field_that_is_not_known() {
    let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let is_zombie =
        || read(pid, "stat").is_ok_and(|stat| stat_field::<String>(&stat, 3).as_deref() == Some("Z"));
    while !is_zombie() {
        std::thread::yield_now();
    }

    let told = Processes::default().of(pid, nowhere()).to_json();
    child.wait().unwrap();

    for field in ["executable", "command"] {
        assert!(told[field].is_null() && told["unknown"][field].is_string(), "{told}");
    }
    assert!(told["user"].is_u64(), "{told}");
}

#[test]
fn a_command_line_is_read_and_kept_up_to_a_bound() {
    let mut child = std::process::Command::new("sleep").arg("60").arg("0".repeat(100_000)).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();

    let raw = loop {
        // Until it is sleep.
        let raw = read(pid, "cmdline").unwrap();
        if raw.starts_with(b"sleep") {
            break raw;
        }
    };
    let process = Processes::default().of(pid, nowhere());
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(raw.len(), MAX_READ_BYTES);
    let command = process.command.clone().unwrap();
    assert!(command.len() <= MAX_COMMAND_BYTES + 3 && command.ends_with('…'), "{}", command.len());
}

#[test]
fn secrets_of_a_command_line_are_not_kept() {
    assert_eq!(command_text(b"x\0--password=geheim\0-v\0", false), "x --password=******** -v");
}

#[test]
fn files_of_proc_are_read_as_proc_5_describes_them() {
    assert_eq!(command_text(b"sh\0-c\0echo \x1b[31m\0", false), "sh -c echo \u{fffd}[31m");
    assert_eq!(user_and_parent(b"Name:\tx\nPPid:\t7\nUid:\t1\t2\t3\t4\n"), Some((2, 7)));
    let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
    assert_eq!(start_time(stat), Some(4242));
    let container = |text: &[u8]| container_of(text);
    assert_eq!(container(b"0::/system.slice/cron.service\n"), Some("cron.service".to_owned()));
    assert_eq!(container(b"12:cpu:/x\n1:name=systemd:/docker/abc\n"), Some("abc".to_owned()));
    assert_eq!(container(b"0::/\n"), None);
}

proptest! {
    #[test]
    fn nothing_in_proc_makes_the_readers_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop((command_text(&text, false), user_and_parent(&text), start_time(&text), container_of(&text)));
    }
}

/// Whoever runs thousands of programs with paths as long as the kernel takes.
#[test]
fn what_is_remembered_of_processes_takes_no_more_than_a_bound() {
    let mut processes = Processes::default();
    let program = PathBuf::from("/d".repeat(2000));
    // No host gives such numbers: each has ended.
    for pid in 10_000_000..10_004_000 {
        processes.starts(pid, &program);
        assert_eq!(processes.of(pid, nowhere()).executable, Ok(program.clone()));
    }

    let bytes = (processes.started.bytes(), processes.known.bytes());
    assert!(bytes.0 <= MAX_STARTED_BYTES && bytes.1 <= MAX_KNOWN_BYTES, "{bytes:?}");
    assert!(bytes.0 > MAX_STARTED_BYTES / 4 && bytes.1 > MAX_KNOWN_BYTES / 4, "{bytes:?}");
}
