use super::*;
use futures_util::FutureExt;
use vigie_protocol::message::{AlertParameters, MessageRef};

/// The lines that the writer would write now.
fn written(outbox: &Outbox) -> Vec<String> {
    let mut all = Vec::new();
    let mut batch = Vec::new();
    while outbox.take(&mut batch).now_or_never() == Some(true) {
        all.append(&mut batch);
    }
    String::from_utf8(all).unwrap().lines().map(str::to_owned).collect()
}

/// Ids and messages of the alerts among `lines`.
fn alerts(lines: &[String]) -> Vec<(Option<String>, String)> {
    let alert = |line: &String| {
        let message = MessageRef::parse(line).unwrap();
        let alert: AlertParameters<'_> = message.parameters_as("alert").ok()?;
        (message.class == vigie_protocol::message::Class::Alert)
            .then(|| (alert.id.map(|id| id.into_owned()), alert.message.into_owned()))
    };
    lines.iter().filter_map(alert).collect()
}

#[test]
fn what_was_not_acknowledged_is_sent_again_with_the_same_id_by_the_next_life() {
    let dir = tempfile::tempdir().unwrap();
    let first = Outbox::new();
    first.keep_in(dir.path(), "m");
    let ids: Vec<String> = ["a", "b", "c"].map(|text| first.alert(text)).into();
    assert!(first.acknowledge(&ids[1]));
    drop(first);

    let second = Outbox::new();
    second.keep_in(dir.path(), "m");
    let next = second.alert("d");

    let sent = alerts(&written(&second));
    assert_eq!(
        sent,
        [(ids[0].clone(), "a"), (ids[2].clone(), "c"), (next.clone(), "d")]
            .map(|(id, text)| (Some(id), text.to_owned()))
    );
    assert!(!ids.contains(&next), "{next}");
}

#[test]
fn an_alert_that_the_module_keeps_is_sent_once_acknowledged_once_and_not_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new();
    outbox.keep_in(dir.path(), "m");
    let id = AlertId { epoch: fresh_epoch(), sequence: 1 };

    outbox.deliver(id, &"kept".into());
    outbox.deliver(id, &"kept".into());

    assert_eq!(alerts(&written(&outbox)), [(Some(id.to_string()), "kept".to_owned())]);
    assert_eq!(outbox.unacknowledged(), 1);
    assert!(outbox.acknowledge(&id.to_string()));
    assert!(!outbox.acknowledge(&id.to_string()));
    let file = std::fs::read_to_string(dir.path().join("alerts-m.outbox")).unwrap();
    assert!(!file.contains(&id.to_string()), "{file}");
}

#[test]
fn an_alert_is_in_the_file_before_it_is_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new();
    outbox.keep_in(dir.path(), "m");

    outbox.alert("text");

    let file = std::fs::read_to_string(dir.path().join("alerts-m.outbox")).unwrap();
    assert!(file.contains("\"text\""), "{file}");
}

#[test]
fn without_a_state_directory_alerts_have_no_id_and_are_not_kept() {
    let outbox = Outbox::new();

    assert_eq!(outbox.alert("a"), "");

    assert_eq!(alerts(&written(&outbox)), [(None, "a".to_owned())]);
    assert_eq!(outbox.unacknowledged(), 0);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_once_and_alerts_go_on_in_memory() {
    let outbox = Outbox::new();
    outbox.keep_in(Path::new("/nonexistent/state"), "m");

    let id = outbox.alert("a");
    let other = outbox.alert("b");

    let lines = written(&outbox);
    assert_eq!(lines.iter().filter(|line| line.contains("cannot use outbox")).count(), 1);
    assert_eq!(alerts(&lines).len(), 2);
    assert_ne!(id, other);
    assert!(outbox.acknowledge(&id));
    assert_eq!(outbox.unacknowledged(), 1);
}

#[test]
fn the_file_shrinks_when_most_of_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::new();
    outbox.keep_in(dir.path(), "m");
    let ids: Vec<String> = (0..5000).map(|number| outbox.alert(&format!("alert {number}"))).collect();
    for id in &ids[..4999] {
        assert!(outbox.acknowledge(id));
    }

    let bytes = std::fs::metadata(dir.path().join("alerts-m.outbox")).unwrap().len();

    assert!(bytes < 100_000, "{bytes}");
    drop(outbox);
    let next = Outbox::new();
    next.keep_in(dir.path(), "m");
    assert_eq!(alerts(&written(&next)), [(Some(ids[4999].clone()), "alert 4999".to_owned())]);
    assert!(!ids.contains(&next.alert("new")));
}

#[test]
fn a_link_in_the_files_place_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("precious");
    std::fs::write(&target, "content").unwrap();
    std::os::unix::fs::symlink(&target, dir.path().join("alerts-m.outbox")).unwrap();
    let outbox = Outbox::new();

    outbox.keep_in(dir.path(), "m");
    outbox.alert("a");

    assert_eq!(std::fs::read_to_string(&target).unwrap(), "content");
    assert_eq!(outbox.unacknowledged(), 1);
}

#[test]
fn an_alert_beyond_the_bound_waits_for_an_acknowledgement_and_an_echo_does_not() {
    let outbox = Outbox::new();
    outbox.keep_in(Path::new("/nonexistent/state"), "m");
    let first = outbox.alert("0");
    for number in 1..MAX_UNACKNOWLEDGED {
        outbox.alert(&number.to_string());
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let blocked = outbox.clone();
    let thread = std::thread::spawn(move || sender.send(blocked.alert("one too many")).unwrap());

    outbox.urgent(b"pong\n".to_vec());
    let mut batch = Vec::new();
    assert_eq!(outbox.take(&mut batch).now_or_never(), Some(true));
    assert!(batch.starts_with(b"pong\n"));
    assert!(receiver.try_recv().is_err());
    assert!(outbox.acknowledge(&first));

    assert!(!receiver.recv().unwrap().is_empty());
    thread.join().unwrap();
    assert_eq!(outbox.unacknowledged(), MAX_UNACKNOWLEDGED);
}

#[test]
fn a_log_line_beyond_the_bound_waits_until_the_agent_reads_or_is_gone() {
    let outbox = Outbox::new();
    let text = "x".repeat(MAX_TEXT_BYTES);
    outbox.log(&text);
    outbox.log(&text);
    let blocked = outbox.clone();
    let thread = std::thread::spawn(move || blocked.log("last"));

    outbox.close();

    thread.join().unwrap();
    assert!(written(&outbox).is_empty());
}

#[test]
fn a_text_that_would_not_fit_a_line_is_cut() {
    let outbox = Outbox::new();

    outbox.log(&"\u{1}".repeat(2 * MAX_TEXT_BYTES));

    assert!(written(&outbox)[0].len() < vigie_protocol::message::DEFAULT_MAX_LINE_BYTES);
}
