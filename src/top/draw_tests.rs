use std::time::Duration;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use vigie_protocol::control::{AgentStatus, AlertRecord, ModuleLine};

use super::*;
use crate::top::state::{Key, News, Order};

fn status() -> AgentStatus {
    serde_json::from_str(vigie_metrics::EXAMPLE_STATUS).unwrap()
}

fn alert(seq: u64, message: &str) -> News {
    News::Alert(AlertRecord {
        seq,
        time: "2026-11-23T06:29:22.123Z".to_owned(),
        module: "fswatch".parse().unwrap(),
        id: None,
        message: message.to_owned(),
    })
}

fn line(stream: u64, text: &str) -> News {
    News::Line(
        stream,
        ModuleLine {
            time: "2026-11-23T06:29:22.123Z".to_owned(),
            source: "from_module".to_owned(),
            text: text.to_owned(),
            ..ModuleLine::default()
        },
    )
}

/// The screen's lines, without the blanks at their ends.
fn picture(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, true)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width.max(1)));
    rows.map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

fn full() -> State {
    let mut state = State::new();
    state.take(News::Status(Box::new(status()), Duration::ZERO));
    let mut later = status();
    for module in &mut later.modules {
        module.logs += 20;
        if let Some(used) = &mut module.resources {
            used.cpu_ms += 500;
        }
    }
    state.take(News::Status(Box::new(later), Duration::from_secs(2)));
    state.take(alert(1, r#"{"severity":"high","alert":"/etc/shadow was modified"}"#));
    state.take(alert(2, "no json"));
    state
}

#[test]
fn a_terminal_without_utf_8_gets_the_same_picture_of_ascii() {
    let mut state = full();
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();

    let drawn = terminal.draw(|frame| {
        draw(frame, &mut state, true);
        draw_in_ascii(frame);
    });

    let text: String = drawn.unwrap().buffer.content.iter().map(|cell| cell.symbol()).collect();
    assert!(text.is_ascii(), "{text}");
    assert!(text.contains("q quit  ^v select") && text.contains("> modules"), "{text}");
}

#[test]
fn everything_is_on_a_screen_of_80_by_24() {
    let mut state = full();

    let lines = picture(&mut state, 80, 24);
    let text = lines.join("\n");

    let now = status();
    assert!(lines[0].starts_with(&format!("vigie {} on {}: ", now.version, now.hostname)), "{text}");
    for module in &now.modules {
        assert!(text.contains(module.name.as_str()), "{}: {text}", module.name);
    }
    for sink in &now.sinks {
        assert!(text.contains(&sink.name), "{}: {text}", sink.name);
    }
    let running = lines.iter().find(|line| line.starts_with("fswatch ")).unwrap();
    assert!(running.contains("25.0%") && running.contains("10.0"), "half a second in two: {running}");
    assert!(text.contains("06:29:22 fswatch      high     /etc/shadow was modified"), "{text}");
    assert!(text.contains("06:29:22 fswatch      -        no json"), "{text}");
    assert!(lines[23].starts_with("q quit  ↑↓ select  Tab next pane  Enter open"), "{text}");
}

#[test]
fn before_the_agent_answers_and_without_it_that_is_said() {
    let mut state = State::new();
    assert_eq!(picture(&mut state, 80, 24)[0], "asking the agent");

    state.take(News::Away("no agent answers at \"/run/x\"".to_owned()));
    assert_eq!(picture(&mut state, 80, 24)[0], "no agent answers at \"/run/x\"; waiting for it");

    let mut state = full();
    state.take(News::Away("the agent closed the connection".to_owned()));
    let lines = picture(&mut state, 80, 24);
    assert_eq!(lines[0], "the agent closed the connection; waiting for it");
    assert!(lines.join("\n").contains("fswatch"), "what was known last stays");
}

#[test]
fn a_module_is_looked_into() {
    let mut state = full();
    let first = status().modules[0].name.clone();

    let order = state.take(News::Key(Key::Letter('t')));
    assert_eq!(order, Some(Order::Open(1, first.clone(), Tab::Tap)));
    state.take(line(1, r#"{"class":"ping"}"#));
    state.take(line(7, "of a stream before"));
    let text = picture(&mut state, 80, 24).join("\n");
    assert!(text.contains(&format!("▸ tap of {first}")), "{text}");
    assert!(text.contains(r#"06:29:22 <--    {"class":"ping"}"#), "{text}");
    assert!(!text.contains("of a stream before"), "{text}");

    state.take(News::Key(Key::Enter));
    let text = picture(&mut state, 80, 24).join("\n");
    assert!(text.contains("\"class\": \"ping\""), "{text}");
    state.take(News::Key(Key::Back));

    assert_eq!(state.take(News::Key(Key::Letter('c'))), Some(Order::Close));
    assert_eq!(state.take(News::Key(Key::Letter('l'))), Some(Order::Open(3, first, Tab::Log)));
    state.take(News::Ended(3, "not permitted".to_owned()));
    assert!(picture(&mut state, 80, 24).join("\n").contains("not permitted"));
    assert_eq!(state.take(News::Key(Key::Back)), Some(Order::Close));
    assert_eq!(state.take(News::Key(Key::Letter('q'))), Some(Order::Quit));
}

#[test]
fn a_condition_an_alert_and_a_sink_are_explained() {
    let mut state = full();
    let condition = status().conditions[0].clone();

    let mut seen = Vec::new();
    for _ in 0..3 {
        state.take(News::Key(Key::Next));
        state.take(News::Key(Key::Enter));
        seen.push(picture(&mut state, 80, 40).join("\n"));
        state.take(News::Key(Key::Enter));
    }

    assert!(seen[0].contains("\"last_success\"") || seen[0].contains("\"position\""), "{}", seen[0]);
    assert!(seen[1].contains(&condition.condition.name) && seen[1].contains("Remedy: "), "{}", seen[1]);
    assert!(seen[2].contains("alert 2 of fswatch") && seen[2].contains("no json"), "{}", seen[2]);
}

#[test]
fn a_long_text_is_scrolled_no_further_than_its_end() {
    let mut state = full();
    let long = (1..=100).map(|number| format!("\"k{number:03}\":{number}")).collect::<Vec<_>>().join(",");
    state.take(alert(3, &format!("{{{long}}}")));
    for key in [Key::Previous, Key::Enter, Key::End] {
        state.take(News::Key(key));
    }
    let lines = picture(&mut state, 80, 24);
    assert_eq!(lines[22], "}");
    state.take(News::Key(Key::Up));
    assert!(picture(&mut state, 80, 24)[22].contains("k100"));
}

#[test]
fn no_text_of_the_agent_reaches_the_terminal_as_it_is() {
    const EVIL: &str = "a\u{1b}[2Jb\u{9b}c\r\nd\u{202e}e\u{7}";
    let mut text = serde_json::to_value(status()).unwrap();
    spoil(&mut text, EVIL);
    let mut state = State::new();
    // What cannot hold such a text, as the name of a module, refuses the status.
    state.take(News::Status(Box::new(serde_json::from_value(text).unwrap()), Duration::ZERO));
    state.take(alert(1, EVIL));
    state.take(News::Missing(EVIL.to_owned()));
    state.take(News::Away(EVIL.to_owned()));

    let keys = ["", "lE", "tE", "c", "nE", "nnE", "nnnE"];
    for keys in keys {
        let mut state_keys = Vec::new();
        for key in keys.chars() {
            state_keys.push(match key {
                'n' => Key::Next,
                'E' => Key::Enter,
                letter => Key::Letter(letter),
            });
        }
        for key in state_keys {
            state.take(News::Key(key));
            for stream in 0..9 {
                state.take(line(stream, EVIL));
                state.take(News::Ended(stream, EVIL.to_owned()));
            }
            for row in picture(&mut state, 120, 40) {
                assert!(!row.contains(vigie_log::escape::is_dangerous), "{keys}: {row:?}");
            }
        }
        state.take(News::Key(Key::Back));
        state.take(News::Key(Key::Back));
        while state.part != Part::Modules {
            state.take(News::Key(Key::Next));
        }
    }
}

/// Puts a text into every place of a status that holds any text.
fn spoil(value: &mut serde_json::Value, evil: &str) {
    const NOT_ANY_TEXT: [&str; 7] = ["state", "health", "kind", "severity", "about", "module", "unchecked"];
    match value {
        serde_json::Value::Object(fields) => {
            let is_module = fields.contains_key("incarnation");
            for (key, value) in fields {
                match value {
                    serde_json::Value::String(text)
                        if !(NOT_ANY_TEXT.contains(&key.as_str()) || key == "name" && is_module) =>
                    {
                        *text = evil.to_owned();
                    }
                    value if !NOT_ANY_TEXT.contains(&key.as_str()) => spoil(value, evil),
                    _ => {}
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| spoil(item, evil)),
        _ => {}
    }
}

#[test]
fn any_size_of_a_window_will_do() {
    for keys in [vec![], vec![Key::Letter('l')], vec![Key::Letter('c')], vec![Key::Next, Key::Enter]] {
        let mut state = full();
        for key in keys {
            state.take(News::Key(key));
        }
        state.take(line(1, "one"));
        for height in 1..26 {
            for width in [1, 2, 5, 10, 20, 39, 40, 79, 80, 81, 200] {
                let lines = picture(&mut state, width, height);
                assert_eq!(lines.len(), usize::from(height));
            }
        }
    }
    let small = picture(&mut full(), 40, 10).join("\n");
    assert!(small.contains("fswatch") && small.contains("q quit"), "{small}");
}

proptest! {
    #[test]
    fn what_parts_get_is_what_there_is(
        wants in proptest::array::uniform4(0_usize..30), room in 0_usize..60, focus in 0_usize..4,
    ) {
        let got = shares(wants, room, focus);

        prop_assert_eq!(got.iter().sum::<usize>(), room);
        prop_assert!(wants[focus] == 0 || room == 0 || got[focus] > 0);
    }
}
