//! Logs that grow and are rotated, by rename, by copy and emptying, and compressed; and what only looks like it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::CWD;
use serde_json::json;

use super::running::{Alert, CEILING, Running, Said, sorted_texts, texts, with_backend};

on_every_backend! {
    a_log_that_is_rotated_is_no_change_and_one_that_is_exchanged_is,
    a_log_that_is_copied_and_emptied_is_no_change_and_one_that_is_only_emptied_is,
    a_log_that_is_written_while_it_is_copied_is_no_change_and_one_that_lost_lines_is,
    a_log_that_is_emptied_before_its_copy_is_complete_is_no_change,
    rights_that_are_set_before_a_copy_is_written_do_not_end_it,
    a_rotation_is_no_change_however_long_it_takes,
    a_log_with_an_extension_is_found_in_its_copy_of_an_earlier_round,
    what_only_looks_like_a_rotation_is_told,
    a_copy_that_is_overwritten_and_is_not_the_oldest_is_told,
    a_log_that_is_renamed_and_compressed_in_one_moment_is_no_change,
    a_copy_that_lets_others_read_or_write_what_the_log_does_not_is_told,
    what_is_done_to_a_log_while_it_is_renamed_is_told,
    a_log_that_comes_back_with_other_rights_and_one_that_is_exchanged_with_its_copy_are_told,
    what_is_no_copy_any_more_excuses_no_loss,
    a_log_that_is_written_all_the_time_is_compared_with_what_it_was,
    a_large_log_that_is_copied_and_emptied_is_no_change,
    a_log_that_is_compressed_is_no_change_and_one_in_whose_place_something_else_comes_is,
    a_log_that_only_grows_is_no_change,
    a_time_that_is_set_on_a_log_is_told,
}

fn a_log_that_is_rotated_is_no_change_and_one_that_is_exchanged_is() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, "one\n").unwrap();
    let mut running =
        Running::configured(json!({"paths": {"path": [temp.path()], "growing": true, "exclude": ["new"]}}));

    fs::rename(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "two\n").unwrap();
    let rotated = running.told(temp.path());
    fs::write(temp.path().join("new"), "three\n").unwrap();
    fs::rename(temp.path().join("new"), &log).unwrap();
    let exchanged = running.told(temp.path());

    assert_eq!(texts(&rotated, temp.path()), [""; 0]);
    assert_eq!(texts(&exchanged, temp.path()), ["changed log"]);
}

fn a_log_that_is_copied_and_emptied_is_no_change_and_one_that_is_only_emptied_is() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    // As logrotate does with copytruncate, twice.
    fs::copy(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let first = running.told(temp.path());
    fs::write(&log, "two\nthree\n").unwrap();
    let grown = running.told(temp.path());
    fs::rename(temp.path().join("log.1"), temp.path().join("log.2")).unwrap();
    fs::copy(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let second = running.told(temp.path());
    fs::write(&log, "four\n").unwrap();
    running.told(temp.path());
    fs::write(&log, "").unwrap();
    let emptied = running.told(temp.path());

    for told in [first, grown, second] {
        assert_eq!(texts(&told, temp.path()), [""; 0]);
    }
    assert_eq!(texts(&emptied, temp.path()), ["changed log"]);
}

fn a_log_that_is_written_while_it_is_copied_is_no_change_and_one_that_lost_lines_is() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    // Nobody sees the second line before it is in the copy.
    fs::write(at("log.1"), "one\ntwo\n").unwrap();
    fs::write(at("log"), "").unwrap();
    let copied = running.told(temp.path());
    fs::write(at("log"), "three\n").unwrap();
    let grown = running.told(temp.path());
    fs::write(at("log.2"), "thr\n").unwrap();
    fs::write(at("log"), "").unwrap();
    let lost = running.told(temp.path());

    assert_eq!((copied, grown), (Vec::new(), Vec::new()));
    assert_eq!(sorted_texts(&lost, temp.path()), ["changed log", "created log.2"]);
}

fn a_log_that_is_emptied_before_its_copy_is_complete_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "two\n").unwrap();
    fs::write(at("log.1"), "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    fs::rename(at("log.1"), at("log.2")).unwrap();
    let mut copy = fs::File::create(at("log.1")).unwrap();
    copy.write_all(b"tw").unwrap();
    let begun = running.told_unfinished(temp.path());
    fs::write(at("log"), "").unwrap();
    let emptied = running.told_unfinished(temp.path());
    copy.write_all(b"o\n").unwrap();
    drop(copy);
    let complete = running.told(temp.path());

    assert_eq!((begun, emptied, complete), (Vec::new(), Vec::new(), Vec::new()));
}

fn rights_that_are_set_before_a_copy_is_written_do_not_end_it() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "one\ntwo\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    let mut copy = fs::File::options().create_new(true).write(true).mode(0o600).open(at("log.1")).unwrap();
    copy.set_permissions(PermissionsExt::from_mode(0o644)).unwrap();
    copy.write_all(b"one\n").unwrap();
    let open = running.told_unfinished(temp.path());
    copy.write_all(b"two\n").unwrap();
    drop(copy);
    fs::write(at("log"), "").unwrap();
    let told = running.told(temp.path());

    assert_eq!(texts(&open, temp.path()), [""; 0]);
    assert_eq!(texts(&told, temp.path()), [""; 0]);
}

fn a_rotation_is_no_change_however_long_it_takes() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));
    let (mut told, copy) = (Vec::new(), std::cell::RefCell::new(None));
    let mut step = |running: &mut Running, step: &dyn Fn()| {
        step();
        let steps = if copy.borrow().is_some() {
            running.told_unfinished(temp.path())
        } else {
            running.told(temp.path())
        };
        told.extend(texts(&steps, temp.path()));
    };

    // As logrotate does with `copytruncate`, on a host on which each step takes longer than the engine waits.
    let write =
        |text: &[u8]| copy.borrow_mut().as_mut().map(|copy: &mut fs::File| copy.write_all(text).unwrap());
    let opened = |name: &str| *copy.borrow_mut() = Some(fs::File::create(at(name)).unwrap());
    step(&mut running, &|| opened("log.1"));
    step(&mut running, &|| write(b"on").unwrap());
    step(&mut running, &|| write(b"e\n").unwrap());
    step(&mut running, &|| *copy.borrow_mut() = None);
    step(&mut running, &|| fs::write(at("log"), "").unwrap());
    step(&mut running, &|| fs::write(at("log"), "two\n").unwrap());
    // As it does with `create`, `compress` and `delaycompress`.
    for (first, second) in [("log.3", "log.4"), ("log-20261128", "log-1")] {
        step(&mut running, &|| fs::rename(at("log"), at(first)).unwrap());
        step(&mut running, &|| fs::write(at("log"), "").unwrap());
        step(&mut running, &|| fs::write(at("log"), first).unwrap());
        step(&mut running, &|| fs::rename(at(first), at(second)).unwrap());
        step(&mut running, &|| fs::rename(at("log"), at(first)).unwrap());
        step(&mut running, &|| fs::write(at("log"), "").unwrap());
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&fs::read(at(second)).unwrap()).unwrap();
        let packed = packed.finish().unwrap();
        let (head, rest) = packed.split_at(7);
        step(&mut running, &|| opened(&format!("{second}.gz")));
        step(&mut running, &|| write(head).unwrap());
        step(&mut running, &|| write(rest).unwrap());
        step(&mut running, &|| *copy.borrow_mut() = None);
        step(&mut running, &|| fs::remove_file(at(second)).unwrap());
    }

    assert_eq!(told, [""; 0]);
}

/// The copy stands before the log in the order of names, and is known already when the log is emptied.
fn a_log_with_an_extension_is_found_in_its_copy_of_an_earlier_round() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["a.log", "b.log"] {
        fs::write(at(name), "one\n").unwrap();
    }
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));
    let mut told = Vec::new();
    for (log, copy) in [("a.log", "a-20261128.log"), ("b.log", "b.1.log")] {
        fs::copy(at(log), at(copy)).unwrap();
        told.extend(texts(&running.told(temp.path()), temp.path()));
        fs::write(at(log), "").unwrap();
        told.extend(texts(&running.told(temp.path()), temp.path()));
    }

    assert_eq!(told, [""; 0]);
}

fn what_only_looks_like_a_rotation_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["log", "log-access"] {
        fs::write(at(name), "one\n").unwrap();
    }
    fs::write(at("log.1"), "two\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    fs::rename(at("log-access"), at("log-other")).unwrap();
    let other_name = running.told(temp.path());
    fs::rename(at("log.1"), at("log.2")).unwrap();
    fs::set_permissions(at("log.2"), PermissionsExt::from_mode(0o4755)).unwrap();
    let rights = running.told(temp.path());
    let program = fs::File::options().create_new(true).write(true).mode(0o755).open(at("log.3")).unwrap();
    let open = running.next(|alert| alert.path.ends_with("/log.3"));
    drop(program);
    running.told(temp.path());
    // As a rotation or growth, and other rights in the same moment.
    let set_user = || PermissionsExt::from_mode(0o4755);
    fs::write(at("log"), "one\nmore\n").unwrap();
    fs::set_permissions(at("log"), set_user()).unwrap();
    let grown = running.told(temp.path());
    fs::copy(at("log"), at("log.4")).unwrap();
    fs::set_permissions(at("log.4"), set_user()).unwrap();
    let copied = running.told(temp.path());
    fs::write(at("other"), "one\n").unwrap();
    running.told(temp.path());
    fs::rename(at("other"), at("other.1")).unwrap();
    fs::set_permissions(at("other.1"), set_user()).unwrap();
    fs::write(at("other"), "").unwrap();
    let renamed = running.told(temp.path());

    assert_eq!(texts(&grown, temp.path()), ["changed log"]);
    assert_eq!(grown[0].attributes, ["mode"]);
    assert_eq!(texts(&copied, temp.path()), ["created log.4"]);
    assert!(texts(&renamed, temp.path()).iter().any(|text| text.ends_with("other.1")), "{renamed:?}");
    assert_eq!(texts(&other_name, temp.path()), ["renamed log-other"]);
    assert!(!rights.is_empty());
    assert_eq!(texts(&[open], temp.path()), ["created log.3"]);
}

fn a_copy_that_is_overwritten_and_is_not_the_oldest_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let made = |name: &str, age: u64| {
        fs::write(at(name), name).unwrap();
        let modified = std::time::SystemTime::now() - std::time::Duration::from_secs(age * 86_400);
        fs::File::options().write(true).open(at(name)).unwrap().set_modified(modified).unwrap();
    };
    for log in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        made(log, 0);
        for number in 1..=3 {
            // As if somebody had set their times, or a program gave the newest copy the highest number.
            made(&format!("{log}.{number}"), if log == "h" { 4 - number } else { number });
        }
    }
    for log in ["mail", "mail.err", "x", "x.old"] {
        made(log, 1);
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);

    let mut told = |moves: &[(&str, &str)], log: &str| {
        for (from, to) in moves {
            fs::rename(at(from), at(to)).unwrap();
        }
        if !at(log).exists() {
            fs::write(at(log), "").unwrap();
        }
        sorted_texts(&running.told(temp.path()), temp.path())
    };

    // As a rotation that keeps three does.
    assert_eq!(told(&[("a.2", "a.3"), ("a.1", "a.2"), ("a", "a.1")], "a"), [""; 0]);
    assert_eq!(told(&[("b", "b.1")], "b"), ["changed b.1"]);
    // An older one over a newer one, alone and all of them.
    assert_eq!(told(&[("c.2", "c.1")], "c"), ["changed c.1"]);
    assert_eq!(told(&[("d.2", "d.1"), ("d.3", "d.2")], "d"), ["changed d.1"]);
    assert_eq!(told(&[("e.2", "e.3"), ("e", "e.1")], "e"), ["changed e.1"]);
    assert_eq!(told(&[("g.1", "g.9")], "g"), [""; 0]);
    assert_eq!(told(&[("g.2", "g.9")], "g"), ["changed g.9"]);
    // Its age alone, which whoever writes the files can set, makes no copy the oldest.
    assert_eq!(told(&[("h.2", "h.1"), ("h.3", "h.2"), ("h", "h.3")], "h"), ["changed h.1"]);
    // Another log that only has a longer name.
    assert_eq!(told(&[("mail", "mail.err")], "mail"), ["changed mail.err"]);
    assert_eq!(told(&[("x", "x.old")], "x"), [""; 0]);
    // The newest is compressed before.
    assert!(Command::new("gzip").arg("-k").arg(at("f.1")).status().unwrap().success());
    assert_eq!(told(&[("f.2", "f.3"), ("f.1.gz", "f.2.gz"), ("f", "f.1")], "f"), [""; 0]);
}

fn a_log_that_is_renamed_and_compressed_in_one_moment_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "one\n").unwrap();
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 1000);

    fs::rename(at("log"), at("log.1")).unwrap();
    fs::write(at("log"), "two\n").unwrap();
    assert!(Command::new("gzip").arg(at("log.1")).status().unwrap().success());
    let told = running.told(temp.path());

    assert_eq!(texts(&told, temp.path()), [""; 0]);
}

fn a_copy_that_lets_others_read_or_write_what_the_log_does_not_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for (name, mode) in [("a", 0o640), ("b", 0o640), ("c", 0o644)] {
        fs::write(at(name), format!("{name}\n")).unwrap();
        fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);

    // The second has more at its end, as when the log is written meanwhile.
    for (name, text, mode) in [("a.1", "a\n", 0o644), ("b.1", "b\nmore\n", 0o666), ("c.1", "c\n", 0o600)] {
        fs::write(at(name), text).unwrap();
        fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let told = running.told(temp.path());

    assert_eq!(sorted_texts(&told, temp.path()), ["created a.1", "created b.1"]);
}

fn what_is_done_to_a_log_while_it_is_renamed_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let large = vec![b'x'; 20 << 20];
    for name in ["a", "a.1", "b", "c", "d", "e"] {
        fs::write(at(name), format!("one\ntwo {name}\n")).unwrap();
    }
    for name in ["f", "g"] {
        fs::write(at(name), &large).unwrap();
    }
    // All of a step within one settling.
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);
    let rotate = |name: &str, rest: &dyn Fn(&Path)| {
        fs::rename(at(name), at(&format!("{name}.1"))).unwrap();
        rest(&at(&format!("{name}.1")));
        fs::write(at(name), "").unwrap();
    };
    let append = |path: &Path| {
        fs::File::options().append(true).open(path).unwrap().write_all(b"more\n").unwrap();
    };

    for name in ["a", "b", "f"] {
        rotate(name, &append);
    }
    let appended = running.told(temp.path());
    rotate("c", &|path| fs::write(path, "evil\n").unwrap());
    let rewritten = running.told(temp.path());
    rotate("g", &|path| {
        fs::File::options().write(true).open(path).unwrap().write_all_at(b"evil", 1 << 20).unwrap();
    });
    let large = running.next(|alert| alert.path.contains("/g"));
    let set =
        |path: &Path| rustix::fs::setxattr(path, "user.note", b"x", rustix::fs::XattrFlags::empty()).is_ok();
    let can = set(&at("c"));
    running.told(temp.path());
    rotate("d", &|path| assert!(set(path) || !can));
    let attribute = running.told(temp.path());
    fs::hard_link(at("e"), at("e-other")).unwrap();
    append(&at("e"));
    let linked = running.told(temp.path());

    let is_about =
        |told: &[Alert], name: &str| texts(told, temp.path()).iter().any(|text| text.contains(name));
    assert_eq!(texts(&appended, temp.path()), [""; 0]);
    assert!(is_about(&rewritten, " c"), "{rewritten:?}");
    assert_eq!(texts(&[large], temp.path()), ["created g.1"]);
    assert!(!can || is_about(&attribute, " d"), "{attribute:?}");
    assert!(texts(&linked, temp.path()).contains(&"changed e".to_owned()), "{linked:?}");
}

fn a_log_that_comes_back_with_other_rights_and_one_that_is_exchanged_with_its_copy_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["a", "b", "b.1"] {
        fs::write(at(name), name).unwrap();
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);

    fs::rename(at("a"), at("a.1")).unwrap();
    let went = running.told(temp.path());
    fs::write(at("a"), "").unwrap();
    fs::set_permissions(at("a"), PermissionsExt::from_mode(0o666)).unwrap();
    let came = running.told(temp.path());
    rustix::fs::renameat_with(CWD, at("b"), CWD, at("b.1"), rustix::fs::RenameFlags::EXCHANGE).unwrap();
    let exchanged = running.told(temp.path());

    assert_eq!(texts(&went, temp.path()), [""; 0]);
    assert_eq!(texts(&came, temp.path()), ["created a"]);
    assert_eq!(sorted_texts(&exchanged, temp.path()), ["changed b", "changed b.1"]);
}

fn what_is_no_copy_any_more_excuses_no_loss() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["a", "b.1", "c", "d", "e"] {
        fs::write(at(name), format!("{name}\n")).unwrap();
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);
    let empty = |name: &str| fs::File::options().write(true).truncate(true).open(at(name)).unwrap();

    fs::write(at("a.1"), "a\nmore\n").unwrap();
    assert!(Command::new("gzip").arg("-k").arg(at("b.1")).status().unwrap().success());
    fs::copy(at("c"), at("c.1")).unwrap();
    fs::copy(at("e"), at("e.1")).unwrap();
    let copied = running.told(temp.path());
    fs::write(at("a.1"), "evil\n").unwrap();
    fs::remove_file(at("b.1.gz")).unwrap();
    running.told(temp.path());
    empty("a");
    fs::remove_file(at("b.1")).unwrap();
    // The copy goes in the same moment.
    fs::remove_file(at("c.1")).unwrap();
    empty("c");
    let lost = running.told(temp.path());
    // A copy that is the same file.
    fs::hard_link(at("d"), at("d.1")).unwrap();
    running.told(temp.path());
    empty("d");
    let linked = running.told(temp.path());
    // Something else with the number of its inode.
    fs::remove_file(at("e")).unwrap();
    nix::unistd::mkfifo(&at("e"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::set_permissions(at("e"), PermissionsExt::from_mode(0o644)).unwrap();
    let fifo = running.told(temp.path());

    assert_eq!(texts(&copied, temp.path()), [""; 0]);
    assert_eq!(sorted_texts(&lost, temp.path()), ["changed a", "changed c", "removed b.1", "removed c.1"]);
    assert!(texts(&linked, temp.path()).contains(&"changed d".to_owned()), "{linked:?}");
    assert_eq!(texts(&fifo, temp.path()), ["changed e"]);
}

fn a_log_that_is_written_all_the_time_is_compared_with_what_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, "one\ntwo\n".repeat(1_000_000)).unwrap();
    let running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));
    let done = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&log).unwrap();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                file.write_all(b"x").unwrap();
            }
        });
        fs::File::options().write(true).open(&log).unwrap().write_all_at(b"evil", 0).unwrap();
        let said = running.said.recv_timeout(CEILING);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(said, Ok(Said::Alert(alert)) if alert.attributes.contains(&"content".to_owned())));
    });
}

fn a_large_log_that_is_copied_and_emptied_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, vec![b'x'; 48 << 20]).unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    fs::copy(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let told = running.told(temp.path());

    assert_eq!(texts(&told, temp.path()), [""; 0], "{told:?}");
}

fn a_log_that_is_compressed_is_no_change_and_one_in_whose_place_something_else_comes_is() {
    let temp = tempfile::tempdir().unwrap();
    for (name, content) in [("log.1", "one\n"), ("log.2", "two\n"), ("outside", "evil\n")] {
        fs::write(temp.path().join(name), content).unwrap();
    }
    let mut running = Running::configured(
        json!({"paths": {"path": [temp.path()], "growing": true, "exclude": ["outside*"]}}),
    );
    let gzip = |name: &str| {
        assert!(Command::new("gzip").arg(temp.path().join(name)).status().unwrap().success());
    };

    gzip("log.1");
    let compressed = running.told(temp.path());
    gzip("outside");
    fs::rename(temp.path().join("outside.gz"), temp.path().join("log.2.gz")).unwrap();
    fs::remove_file(temp.path().join("log.2")).unwrap();
    let replaced = running.told(temp.path());

    assert_eq!(texts(&compressed, temp.path()), [""; 0]);
    assert_eq!(sorted_texts(&replaced, temp.path()), ["created log.2.gz", "removed log.2"]);
}

fn a_log_that_only_grows_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let log = directory.join("log");
    fs::write(&log, "one\n").unwrap();
    let mut running =
        Running::configured(json!({"paths": {"path": [directory.to_str().unwrap()], "growing": true}}));

    fs::write(&log, "one\ntwo\n").unwrap();
    let grown = running.told(directory);
    fs::write(&log, "two\n").unwrap();
    let rewritten = texts(&running.told(directory), directory);

    assert_eq!(grown, []);
    assert_eq!(rewritten, ["changed log"]);
}

fn a_time_that_is_set_on_a_log_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let names = ["back", "back and grown", "between", "future", "mode", "touched"];
    let made = SystemTime::now() - Duration::from_secs(86_400);
    let open = |name: &str| fs::File::options().append(true).create(true).open(at(name)).unwrap();
    for name in names {
        open(name).write_all(b"one\n").unwrap();
        open(name).set_modified(made).unwrap();
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);

    open("back").set_modified(made - Duration::from_secs(60)).unwrap();
    open("back and grown").write_all(b"two\n").unwrap();
    open("back and grown").set_modified(made - Duration::from_secs(60)).unwrap();
    open("between").set_modified(made + Duration::from_secs(60)).unwrap();
    open("future").write_all(b"two\n").unwrap();
    open("future").set_modified(made + Duration::from_secs(2 * 86_400)).unwrap();
    // These are as a program leaves them that writes.
    open("mode").write_all(b"two\n").unwrap();
    fs::set_permissions(at("mode"), fs::metadata(at("mode")).unwrap().permissions()).unwrap();
    open("touched").set_modified(SystemTime::now()).unwrap();
    open("touched").write_all(b"two\n").unwrap();

    let told = running.told(temp.path());
    let expected = ["changed back", "changed back and grown", "changed between", "changed future"];
    assert_eq!(sorted_texts(&told, temp.path()), expected);
    assert!(told.iter().all(|alert| alert.attributes == ["modification_time"]), "{told:?}");
}
