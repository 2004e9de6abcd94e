use std::fs;

use proptest::prelude::*;

use super::*;
use vigie_config::model::LogFormat;

fn section(file: &Path, max_file_bytes: u64, keep_files: u32) -> LoggingSection {
    LoggingSection {
        mode: LogMode::File,
        format: LogFormat::Text,
        file: file.to_owned(),
        max_file_bytes,
        keep_files,
        ..LoggingSection::default()
    }
}

fn log_file(directory: &Path, max_file_bytes: u64, keep_files: u32) -> LogFile {
    LogFile::open(&section(&directory.join("agent.log"), max_file_bytes, keep_files)).unwrap()
}

#[test]
fn the_file_and_its_directory_are_closed_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/agent.log");

    LogFile::open(&section(&path, 1 << 20, 1)).unwrap();

    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&path), 0o640);
    assert_eq!(mode(path.parent().unwrap()) & !0o750, 0);
}

#[test]
fn a_symbolic_link_a_fifo_and_a_directory_are_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.log");
    let refused = || matches!(LogFile::open(&section(&path, 1 << 20, 1)), Err(LogError::NotRegular { .. }));

    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(refused());
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refused());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused());
}

#[test]
fn a_full_file_is_rotated_and_the_oldest_one_goes() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = log_file(directory.path(), 10, 2);

    for line in ["one 56789\n", "two 56789\n", "three\n", "four\n"] {
        file.write(line.as_bytes()).unwrap();
    }

    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    assert_eq!(read("agent.log"), "four\n");
    assert_eq!(read("agent.log.1"), "three\n");
    assert_eq!(read("agent.log.2"), "two 56789\n");
    assert!(!directory.path().join("agent.log.3").exists());
    assert!(!directory.path().join("agent.log.new").exists());
}

#[test]
fn a_rotation_that_fails_is_said_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = log_file(directory.path(), 10, 1);
    fs::create_dir_all(directory.path().join("agent.log.1/occupied")).unwrap();

    file.write(b"one 56789\n").unwrap();
    file.write(b"two 56789, a line that is longer than a file may be\n").unwrap();

    assert!(file.problem.as_deref().unwrap().contains("not rotated"));
    assert_eq!(
        fs::read_to_string(directory.path().join("agent.log")).unwrap(),
        "one 56789\ntwo 56789, a line that is longer than a file may be\n"
    );
}

#[test]
fn a_file_that_was_deleted_is_created_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = log_file(directory.path(), 1 << 20, 2);
    file.write(b"one\n").unwrap();
    fs::remove_file(directory.path().join("agent.log")).unwrap();

    file.write(b"two\n").unwrap();

    assert_eq!(fs::read_to_string(directory.path().join("agent.log")).unwrap(), "two\n");
}

#[test]
fn a_file_that_was_moved_away_is_followed_until_it_is_reopened() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = log_file(directory.path(), 1 << 20, 2);
    fs::rename(directory.path().join("agent.log"), directory.path().join("moved")).unwrap();
    file.write(b"one\n").unwrap();

    file.reopen().unwrap();
    file.write(b"two\n").unwrap();

    assert_eq!(fs::read_to_string(directory.path().join("moved")).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(directory.path().join("agent.log")).unwrap(), "two\n");
}

/// Standard error as a pipe, and its reader.
fn piped() -> (Stderr, File) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    (Stderr { output: Arc::new(writer), torn: false }, File::from(reader))
}

#[test]
fn a_reader_that_stopped_reading_is_not_waited_for_and_gets_whole_lines() {
    let (mut stderr, mut reader) = piped();
    let lines = format!("{}\n", "x".repeat(99)).into_bytes().repeat(2000);

    let failed = stderr.write(&lines).unwrap_err();

    assert_eq!(failed.error.kind(), ErrorKind::WouldBlock);
    assert_eq!((failed.taken % 100, failed.lost), (0, 0));
    let mut text = Vec::new();
    drop(stderr);
    io::Read::read_to_end(&mut reader, &mut text).unwrap();
    assert_eq!(text, lines[..failed.taken]);
}

#[test]
fn a_line_cut_by_a_stuck_reader_is_ended_before_the_next_one() {
    let (mut stderr, mut reader) = piped();
    let long = format!("{}\n", "x".repeat(1 << 20));

    let failed = stderr.write(long.as_bytes()).unwrap_err();
    assert_eq!((failed.taken, failed.lost), (long.len(), 1));
    io::Read::read_exact(&mut reader, &mut [0; 8192]).unwrap();
    stderr.write(b"next\n").unwrap();

    let mut text = String::new();
    drop(stderr);
    io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert!(text.ends_with("x\nnext\n"));
}

#[test]
fn a_reader_that_went_away_is_an_error_and_no_more() {
    let (mut stderr, reader) = piped();
    drop(reader);

    assert_eq!(stderr.write(b"x\n").unwrap_err().error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_syslog_daemon_that_comes_back_gets_the_next_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut syslog = Syslog { path: path.clone(), socket: None };
    let mut datagram = [0; 64];
    assert!(syslog.write(b"<30>nobody listens\n").is_err());

    let daemon = UnixDatagram::bind(&path).unwrap();
    syslog.write(b"<30>one\n<30>two\n").unwrap();
    assert_eq!(daemon.recv(&mut datagram).unwrap(), 7);
    assert_eq!(&datagram[..7], b"<30>one");
    drop(daemon);
    fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    syslog.write(b"<30>three\n").unwrap();

    assert_eq!(daemon.recv(&mut datagram).unwrap(), 9);
    assert_eq!(&datagram[..9], b"<30>three");
}

#[test]
fn a_syslog_daemon_that_does_not_read_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let _daemon = UnixDatagram::bind(&path).unwrap();
    let mut syslog = Syslog { path, socket: None };
    let lines = b"<30>x\n".repeat(100_000);

    let failed = syslog.write(&lines).unwrap_err();

    assert_eq!(failed.error.kind(), ErrorKind::WouldBlock);
    assert!(failed.taken > 0 && failed.taken < lines.len());
}

proptest! {
    // Each case creates dozens of files.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_line_is_lost_or_torn_by_rotation(
        lines in proptest::collection::vec("[a-z]{0,30}\n", 1..60),
        batch in 1_usize..7,
        max_file_bytes in 1_u64..80,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut file = log_file(directory.path(), max_file_bytes, 1000);

        for batch in lines.chunks(batch) {
            file.write(batch.concat().as_bytes()).unwrap();
        }

        let mut found = Vec::new();
        for number in (1..=lines.len()).rev() {
            if let Ok(text) = fs::read(directory.path().join(format!("agent.log.{number}"))) {
                prop_assert!(text.len() as u64 <= max_file_bytes || text.iter().filter(|byte| **byte == b'\n').count() == 1);
                found.extend(text);
            }
        }
        found.extend(fs::read(directory.path().join("agent.log")).unwrap());
        prop_assert_eq!(String::from_utf8(found).unwrap(), lines.concat());
    }

    #[test]
    fn a_datagram_is_never_half_a_character(text in "\\PC{0,4000}") {
        prop_assert!(std::str::from_utf8(datagram(text.as_bytes())).is_ok());
    }
}
