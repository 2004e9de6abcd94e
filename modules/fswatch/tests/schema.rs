//! Alerts are as `docs/fswatch-alert.schema.json` promises, and the schema knows every key that is told.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use vigie_fswatch::change::{Alert, Difference, Event, alert, compare};
use vigie_fswatch::extended::ExtendedAttributes;
use vigie_fswatch::object::{Content, Kind, NotRead, Object, Timestamp};
use vigie_fswatch::rules::{Attribute, Attributes, Options, Severity};

const SCHEMA: &str = include_str!("../../../docs/fswatch-alert.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Checks the keywords of JSON Schema that the schema uses, and that it names every key of an object.
struct Checker {
    root: Value,
    problems: Vec<String>,
}

impl Checker {
    /// What is wrong with a value.
    fn problems(value: &Value) -> Vec<String> {
        let mut checker = Self { root: schema(), problems: Vec::new() };
        let root = checker.root.clone();
        checker.check(&root, value, "alert");
        checker.problems
    }

    fn expect(&mut self, holds: bool, place: &str, problem: &str) {
        if !holds {
            self.problems.push(format!("{place} {problem}"));
        }
    }

    fn check(&mut self, schema: &Value, value: &Value, place: &str) {
        let length = value.as_str().map(|text| text.chars().count() as u64);
        let items = value.as_array().map(|items| items.len() as u64);
        for (keyword, rule) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "then" => {}
                "$ref" => {
                    let definition =
                        self.root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap();
                    self.check(&definition.clone(), value, place);
                }
                "type" => {
                    let one = std::slice::from_ref(rule);
                    let types = rule.as_array().map_or(one, Vec::as_slice);
                    let is = types.iter().any(|name| is_of_type(value, name.as_str().unwrap()));
                    self.expect(is, place, &format!("is not of type {rule}: {value}"));
                }
                "enum" => {
                    let is = rule.as_array().unwrap().contains(value);
                    self.expect(is, place, &format!("is none of {rule}: {value}"));
                }
                "minLength" => self.expect(length >= length.and(rule.as_u64()), place, "is too short"),
                "maxLength" => self.expect(length <= length.and(rule.as_u64()), place, "is too long"),
                "minItems" => self.expect(items >= items.and(rule.as_u64()), place, "has too few items"),
                "minimum" => {
                    let is = value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap());
                    self.expect(is, place, "is too small");
                }
                "format" => {
                    assert_eq!(rule, "date-time");
                    let is = value.as_str().is_none_or(|text| humantime::parse_rfc3339(text).is_ok());
                    self.expect(is, place, &format!("is no time: {value}"));
                }
                "required" => {
                    for key in rule.as_array().unwrap() {
                        let has = value.get(key.as_str().unwrap()).is_some();
                        self.expect(has, place, &format!("lacks {key}"));
                    }
                }
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.check(rule, item, place);
                    }
                }
                "properties" => {
                    for (key, member) in value.as_object().into_iter().flatten() {
                        match rule.get(key) {
                            Some(rule) => self.check(rule, member, &format!("{place}.{key}")),
                            None => self.expect(false, place, &format!("has the unknown key {key}")),
                        }
                    }
                }
                "additionalProperties" => {
                    for (key, member) in value.as_object().into_iter().flatten() {
                        self.check(rule, member, &format!("{place}.{key}"));
                    }
                }
                "if" => {
                    // All that is asked here is whether one key has one of some values.
                    let (key, condition) = rule["properties"].as_object().unwrap().iter().next().unwrap();
                    if value
                        .get(key)
                        .is_none_or(|member| condition["enum"].as_array().unwrap().contains(member))
                    {
                        self.check(&schema["then"], value, place);
                    }
                }
                other => panic!("the keyword {other} is not checked"),
            }
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not checked"),
    }
}

/// The values that the schema allows somewhere.
fn allowed(pointer: &str) -> Vec<String> {
    let list = schema().pointer(pointer).unwrap().clone();
    serde_json::from_value(list).unwrap()
}

fn options() -> Options {
    Options {
        attributes: Attribute::ALL.into_iter().fold(Attributes::DEFAULT, Attributes::with),
        severity: None,
        hash: true,
        largest_hashed: None,
        growing: false,
        tags: vec!["boot".to_owned()],
    }
}

fn told(known: Option<&Object>, now: Option<&Object>) -> Option<Alert> {
    let options = options();
    let difference: Difference = compare(known, now, &options)?;
    Some(alert(Path::new("/p/x"), known, now, difference, &options, "/p", "2026-01-02T03:04:05.678Z"))
}

fn problems_of(alert: &Alert) -> Vec<String> {
    Checker::problems(&serde_json::to_value(alert).unwrap())
}

const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Link,
    Kind::Fifo,
    Kind::Socket,
    Kind::CharacterDevice,
    Kind::BlockDevice,
];

/// An object with everything that an object of its kind can have.
fn object(kind: Kind) -> Object {
    let content = match kind {
        Kind::File => Content::Digest([7; 32]),
        Kind::Link => Content::Target("/target".into()),
        _ => Content::NotRead(NotRead::MetadataOnly),
    };
    Object {
        kind,
        permissions: 0o644,
        owner: 1,
        group: 2,
        size: 3,
        modified: Timestamp { seconds: 4, nanoseconds: 5 },
        changed: Timestamp { seconds: 4, nanoseconds: 5 },
        device: 6,
        inode: 7,
        links: 8,
        special: 9,
        flags: u32::MAX,
        content,
        extended: ExtendedAttributes::new([
            (&b"security.capability"[..], &b"odd"[..]),
            (b"security.selinux", b"label\0"),
            (b"system.posix_acl_access", &[2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255]),
            (b"user.note", b"hello"),
        ]),
    }
}

#[test]
fn what_is_created_changed_or_removed_is_told_as_the_schema_says() {
    for kind in KINDS {
        let there = object(kind);
        let other =
            Object { permissions: 0, extended: ExtendedAttributes::none(), flags: 0, ..there.clone() };
        for (known, now, event) in [
            (None, Some(&there), Event::Created),
            (Some(&there), Some(&other), Event::Changed),
            (Some(&there), None, Event::Removed),
        ] {
            let alert = told(known, now).unwrap();

            assert_eq!(alert.event, event);
            assert_eq!(problems_of(&alert), [""; 0], "{alert:?}");
        }
    }
}

#[test]
fn the_schema_lists_what_the_module_can_say() {
    let severities: Vec<_> = Severity::ALL.map(Severity::name).into();
    let attributes: Vec<_> = Attribute::ALL.map(Attribute::name).into();
    let kinds: Vec<_> = KINDS.map(Kind::name).into();

    assert_eq!(allowed("/properties/severity/enum"), severities);
    assert_eq!(allowed("/properties/attributes/items/enum"), attributes);
    assert_eq!(allowed("/$defs/kind/enum"), kinds);
}

#[test]
fn alerts_with_all_keys_are_as_the_schema_says() {
    let process = json!({
        "pid": 7, "executable": "/usr/bin/vi", "command": "vi /etc/hosts", "user": 0, "login_user": 1000,
        "parent": {"pid": 1, "executable": "/sbin/init"}, "container": "web",
        "unknown": {"parent": "the process had ended"},
    });
    let time = "2026-01-02T03:04:05.678Z";
    let renamed = json!({
        "severity": "low", "alert": "path /b renamed from /a", "event": "renamed", "path": "/b", "from": "/a",
        "kind": "file", "time": time, "process": process, "window": {"from": time, "to": time},
        "package": {"manager": "dpkg", "name": "vim", "version": "2:9.0", "as_recorded": true}, "count": 2,
    });
    let group = json!({
        "severity": "low", "alert": "package vim changed 12 files", "event": "group", "time": time,
        "group": {"id": "g1", "writer": "/usr/bin/dpkg", "events": {"changed": 12}, "samples": ["/a"]},
    });
    let notice = json!({"severity": "high", "alert": "events were lost", "event": "notice", "time": time});
    let accepted = json!({
        "severity": "low", "alert": "accepted", "event": "accepted", "path": "/a", "time": time,
        "group": {"by": "ann", "asker": {"uid": 0, "user": "root", "investigator": "eve"}, "paths": ["/a"]},
    });

    for alert in [renamed, group, notice, accepted] {
        assert_eq!(Checker::problems(&alert), [""; 0], "{alert}");
    }
}

#[test]
fn what_the_schema_does_not_say_is_noticed() {
    let alert = serde_json::to_value(told(None, Some(&object(Kind::File))).unwrap()).unwrap();
    let wrong = |pointer: &str, key: &str, value: Value| {
        let mut wrong = alert.clone();
        wrong.pointer_mut(pointer).unwrap()[key] = value;
        Checker::problems(&wrong)
    };

    for (pointer, key, value, problem) in [
        ("", "novel", json!(1), "alert has the unknown key novel"),
        ("/after", "novel", json!(1), "alert.after has the unknown key novel"),
        ("/after", "size", json!(-1), "alert.after.size is too small"),
        ("/after", "sha256", json!("07"), "alert.after.sha256 is too short"),
        ("/after", "mode", json!("00644"), "alert.after.mode is too long"),
        ("", "tags", json!([]), "alert.tags has too few items"),
        ("", "time", json!("now"), "alert.time is no time: \"now\""),
        ("", "rule", json!(1), "alert.rule is not of type \"string\": 1"),
        ("", "window", json!({"from": "2026-01-02T03:04:05Z"}), "alert.window lacks \"to\""),
        (
            "",
            "process",
            json!({"pid": 1, "unknown": {"user": 1}}),
            "alert.process.unknown.user is not of type",
        ),
        ("", "event", json!("vanished"), "alert.event is none of"),
    ] {
        let problems = wrong(pointer, key, value);
        assert!(problems.iter().any(|found| found.starts_with(problem)), "{problem}: {problems:?}");
    }
    let mut nowhere = alert.clone();
    nowhere.as_object_mut().unwrap().remove("path");
    assert_eq!(Checker::problems(&nowhere), ["alert lacks \"path\""]);
}

fn any_object() -> impl Strategy<Value = Object> {
    let content = prop_oneof![
        any::<[u8; 32]>().prop_map(Content::Digest),
        (0..4i32).prop_map(|nth| {
            Content::NotRead(match nth {
                0 => NotRead::MetadataOnly,
                1 => NotRead::TooLarge,
                2 => NotRead::Failed(13),
                _ => NotRead::OpenForWriting,
            })
        }),
    ];
    let names = vec!["security.capability", "security.selinux", "system.posix_acl_default", "user.x"];
    let extended = proptest::collection::vec(
        (proptest::sample::select(names), proptest::collection::vec(any::<u8>(), 0..300)),
        0..3,
    );
    let numbers = (0u16..=0o7777, any::<u32>(), any::<u64>(), any::<i64>(), 0u32..1_000_000_000);
    (proptest::sample::select(&KINDS[..]), content, extended, numbers).prop_map(
        |(kind, content, extended, (permissions, small, large, seconds, nanoseconds))| Object {
            kind,
            permissions,
            owner: small,
            group: small / 2,
            size: large,
            modified: Timestamp { seconds, nanoseconds },
            inode: large / 2,
            links: small,
            special: large,
            flags: small,
            content: if kind == Kind::Link { Content::Target("/\n".into()) } else { content },
            extended: ExtendedAttributes::new(
                extended.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())),
            ),
            ..object(kind)
        },
    )
}

proptest! {
    #[test]
    fn any_difference_is_told_as_the_schema_says(
        known in proptest::option::of(any_object()), now in proptest::option::of(any_object()),
    ) {
        if let Some(alert) = told(known.as_ref(), now.as_ref()) {
            prop_assert_eq!(problems_of(&alert), [""; 0]);
        }
    }
}
