//! What retention deletes, and how the rest is still proved.

use std::fs;
use std::path::Path;

use crate::segment;
use crate::tests::{ALL, Journal, missing, old_journal, segments, seqs, temporary};
use crate::{Cause, Item, Reader, Sizes, Why, verify};

#[test]
fn a_flood_of_lesser_alerts_pushes_no_severe_one_out_and_what_is_left_is_proved() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 4000, keep_segments: 5 };
    let mut journal = Journal::open(directory.path(), sizes);
    journal.append(&["low", "critical", "medium"]);
    journal.append(&["high"]);
    let mut reader = Reader::new(directory.path(), 0);
    let mut followed = Vec::new();
    reader.read(2, ALL, &mut followed).unwrap();

    for batch in 0..300 {
        journal.append(if batch % 50 == 0 { &["low", "high", "low"] } else { &["medium", "low"] });
    }

    let items = journal.items();
    let severe: Vec<u64> = items
        .iter()
        .filter_map(|item| match item {
            Item::Alert(record) if record.severity() >= vigie_protocol::severity::Severity::High => {
                Some(record.seq)
            }
            _ => None,
        })
        .collect();
    assert_eq!(severe.len(), 2 + 6, "{severe:?}");
    assert_eq!(missing(&items), []);
    let deleted: u64 = journal.writer.deleted().iter().sum();
    assert_eq!(seqs(&items).len() as u64 + deleted, journal.writer.recorded());
    assert_eq!(journal.writer.deleted()[2..], [0, 0]);
    assert!(journal.writer.bytes() <= 4000 * 5 + 1000, "{}", journal.writer.bytes());
    let on_disk: u64 = segments(directory.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(journal.writer.bytes(), on_disk);
    let verification = verify(directory.path(), None).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
    assert!(verification.thinned_batches >= 4, "{verification:?}");
    assert_eq!(verification.deleted.values().sum::<u64>(), deleted);

    // A follower goes on in files that are rewritten under it.
    reader.read(journal.writer.recorded(), ALL, &mut followed).unwrap();
    assert_eq!(missing(&followed), []);
    assert!(severe.iter().all(|seq| seqs(&followed).contains(seq)));

    // What is counted is what is read after a restart.
    drop(journal);
    let again = Journal::open(directory.path(), sizes);
    assert_eq!(again.writer.bytes(), on_disk);
    assert_eq!(again.writer.deleted().iter().sum::<u64>(), deleted);
}

/// Critical alerts that are left of each share that told any.
pub(crate) fn critical(items: &[Item]) -> Vec<(String, u64)> {
    let alerts = items.iter().filter_map(|item| match item {
        Item::Alert(record) if record.severity() == vigie_protocol::severity::Severity::Critical => {
            Some((record.module.clone(), record.seq))
        }
        _ => None,
    });
    alerts.collect()
}

#[test]
fn a_module_that_floods_critical_alerts_pushes_out_no_other_module_s_and_what_is_left_is_proved() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 4000, keep_segments: 5 };
    let mut journal = Journal::open(directory.path(), sizes);
    // In batches of their own, in one with the flood, and about the module that floods.
    journal.append_of(&[("quiet", "critical"), ("quiet", "medium")]);
    journal.append_of(&[("loud", "critical"), ("quiet", "critical"), ("loud", "high"), ("loud", "critical")]);
    journal.append_of(&[("agent", "critical"), ("agent:loud", "critical")]);

    for batch in 0..400 {
        journal.append_of(&match batch % 3 {
            0 => [("loud", "critical"); 3],
            1 => [("loud", "high"), ("loud", "critical"), ("agent:loud", "critical")],
            _ => [("loud", "low"), ("loud", "medium"), ("loud", "critical")],
        });
        if batch == 200 {
            // The module starts anew, and so does the agent.
            drop(journal);
            journal = Journal::open(directory.path(), sizes);
        }
    }

    let items = journal.items();
    let critical = critical(&items);
    for (module, seq) in [("quiet", 1), ("quiet", 4), ("agent", 7)] {
        assert!(critical.contains(&(module.to_owned(), seq)), "{module} {seq}: {critical:?}");
    }
    assert_eq!(missing(&items), []);
    assert!(journal.writer.bytes() <= 4000 * 5 + 1500, "{}", journal.writer.bytes());
    let modules = journal.writer.deleted_by_module().clone();
    assert_eq!(modules.keys().collect::<Vec<_>>(), ["agent:loud", "loud"]);
    let mut sum = [0; 4];
    modules.values().for_each(|counts| sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count));
    assert_eq!(sum, journal.writer.deleted());
    assert_eq!(seqs(&items).len() as u64 + sum.iter().sum::<u64>(), journal.writer.recorded());
    let verification = verify(directory.path(), None).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
    assert!(verification.thinned_batches > 0);
    assert_eq!(verification.deleted_by_module, crate::by_module(&modules));
    let given_up = journal.writer.take_given_up().unwrap();
    assert!(given_up.message(false)["alert"].as_str().unwrap().contains(" of loud"), "{given_up:?}");
    drop(journal);
    let again = Journal::open(directory.path(), sizes);
    assert_eq!(again.writer.deleted_by_module(), &modules);
}

#[test]
fn what_is_left_of_a_thinned_batch_cannot_be_changed_unnoticed() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 2000, keep_segments: 3 };
    let mut journal = Journal::open(directory.path(), sizes);
    journal.append_of(&[("loud", "critical"), ("quiet", "critical"), ("loud", "critical")]);
    for _ in 0..50 {
        journal.append_of(&[("loud", "critical"); 3]);
    }
    assert!(verify(directory.path(), None).unwrap().is_whole());
    let path = segments(directory.path()).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.contains("step2\\\"")).unwrap();
    let previous = crate::line::check(line.as_bytes()).unwrap().previous;
    let mut forged = line.replace("step2", "Step2").into_bytes();
    forged.truncate(line.find(r#","p":"#).unwrap());
    crate::line::seal(&mut forged, 0, previous);
    fs::write(&path, text.replace(line, String::from_utf8(forged).unwrap().trim_end())).unwrap();

    let verification = verify(directory.path(), None).unwrap();

    // What followed is gone, but its note says what it followed.
    assert_eq!(verification.broken, 2, "{verification:?}");
    assert!(
        verification.problems[0].contains("alerts 3 to 3 were deleted does not follow"),
        "{verification:?}"
    );
    assert!(
        verification.problems[1].contains("batch that ends with alert 3 was changed"),
        "{verification:?}"
    );
}

/// A journal as version 2 wrote it: alerts of "loud" and "quiet" in two segments, the newest with a batch that a crash
/// cut off before its commit line.
fn journal_of_version_2(directory: &Path) {
    use crate::chain::{BatchDigest, next_head};
    use crate::line::{Commit, Header, seal_record, seal_value};
    use vigie_protocol::severity::Severity;

    let (mut seq, mut link, mut head) = (0, 0, crate::chain::Head::default());
    for segment in [0, 1] {
        let mut bytes = Vec::new();
        let why = [Why::First, Why::Full][segment];
        let header =
            Header { segment: seq + 1, version: 2, begun: "2026-01-02T03:04:05Z".to_owned(), why, head };
        let path = segment::Name { first: seq + 1, part: 0 }.path(directory);
        seal_value(&mut bytes, &header, link);
        for batch in 0..6 {
            let mut digest = BatchDigest::of_version(2);
            for (module, severity) in [("quiet", Severity::Critical), ("loud", Severity::High)] {
                seq += 1;
                let message = serde_json::json!({ "severity": severity, "alert": format!("step{seq}") });
                let body = serde_json::json!({
                    "seq": seq, "time": "2026-01-02T03:04:05Z", "module": module, "id": format!("e-{seq}"),
                    "message": message.to_string(),
                });
                let order = ["seq", "time", "module", "id", "message"];
                let fields: Vec<_> = order.iter().map(|key| format!("\"{key}\":{}", body[key])).collect();
                let start = bytes.len();
                let body = format!("{{{}", fields.join(","));
                link = seal_record(&mut bytes, body.as_bytes(), severity, link);
                digest.add(&bytes[start..], module, severity);
            }
            if segment == 1 && batch == 5 {
                break;
            }
            let n = digest.records();
            let digests = digest.finish();
            head = next_head(&head, seq, n, &digests);
            seal_value(&mut bytes, &Commit::new(seq, n, digests, head), link);
        }
        if segment == 0 {
            let counts = [0, 0, 6, 6];
            let total = bytes.len() as u64;
            let closed = crate::line::Closed {
                closed: seq,
                counts,
                bytes: (100, total - 100),
                shares: Default::default(),
            };
            seal_value(&mut bytes, &closed, link);
        }
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_journal_of_version_2_is_proved_goes_on_and_is_thinned_by_share() {
    let directory = temporary();
    journal_of_version_2(directory.path());
    let sizes = Sizes { segment_bytes: 4000, keep_segments: 6 };

    let mut journal = Journal::open(directory.path(), sizes);
    let verification = verify(directory.path(), None).unwrap();
    journal.append_of(&[("quiet", "critical")]);
    let continued = verify(directory.path(), None).unwrap();
    for _ in 0..100 {
        journal.append_of(&[("loud", "high"); 3]);
    }

    assert!(verification.is_whole(), "{verification:?}");
    assert_eq!((verification.alerts, verification.proved_batches), (24, 12));
    assert!(continued.is_whole(), "{continued:?}");
    assert_eq!((continued.alerts, continued.proved_batches), (25, 13));
    assert!(segments(directory.path()).len() > 3);
    let items = journal.items();
    assert_eq!(missing(&items), []);
    let quiet: Vec<u64> =
        critical(&items).into_iter().filter(|(module, _)| module == "quiet").map(|(_, seq)| seq).collect();
    assert_eq!(quiet, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25]);
    assert_eq!(journal.writer.deleted_by_module().keys().collect::<Vec<_>>(), ["loud"]);
    let verification = verify(directory.path(), None).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
    assert!(verification.thinned_batches >= 12, "{verification:?}");
}

#[test]
fn what_the_fleet_waits_for_is_told_when_it_goes() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 2000, keep_segments: 3 };
    let mut journal = Journal::open(directory.path(), sizes);
    journal.writer.set_sent_through(Some(5));
    for _ in 0..100 {
        journal.append(&["critical"]);
    }

    let left = seqs(&journal.items());
    let given_up = journal.writer.take_given_up().unwrap();

    assert_eq!(given_up.counts[3] + left.len() as u64, 95);
    assert_eq!(left.first(), Some(&(given_up.last_seq + 1)));
    assert!(given_up.message(true).to_string().contains("before they could be sent"));
    assert_eq!(journal.writer.take_given_up(), None);
    let items = journal.items();
    assert!(
        matches!(&items[0], Item::Missing(m) if matches!(m.why, Cause::Deleted([0, 0, 0, _]))),
        "{items:?}"
    );
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

#[test]
fn an_old_segment_is_thinned_and_goes() {
    let directory = temporary();
    for part in 0..10 {
        old_journal(directory.path(), part * 10 + 1, part * 10 + 10);
    }
    let sizes = Sizes { segment_bytes: 1500, keep_segments: 3 };
    let mut journal = Journal::open(directory.path(), sizes);
    for _ in 0..30 {
        journal.append(&["high"]);
    }

    let items = journal.items();
    assert_eq!(missing(&items), []);
    assert!(journal.writer.bytes() < 1500 * 4);
    assert_eq!(seqs(&items).last(), Some(&130));
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

#[test]
fn retention_goes_on_when_somebody_deleted_a_segment() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 2000, keep_segments: 4 };
    let mut journal = Journal::open(directory.path(), sizes);
    while segments(directory.path()).len() < 3 {
        journal.append_each(1);
    }
    fs::remove_file(&segments(directory.path())[0]).unwrap();

    journal.append_each(200);

    assert!(journal.writer.bytes() <= 2000 * 5, "{}", journal.writer.bytes());
    assert_eq!(journal.writer.trouble(), None);
    assert!(segments(directory.path()).len() < 6);
}

#[test]
fn what_retention_cannot_do_is_told() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 2000, keep_segments: 4 };
    let mut journal = Journal::open(directory.path(), sizes);
    while segments(directory.path()).len() < 3 {
        journal.append_each(1);
    }
    let first = segments(directory.path()).remove(0);
    fs::remove_file(&first).unwrap();
    fs::create_dir(&first).unwrap();

    journal.append_each(60);

    assert!(journal.writer.trouble().is_some_and(|trouble| trouble.contains("retention")));
}
