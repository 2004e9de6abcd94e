use super::*;
use crate::extended::ExtendedAttributes;
use crate::object::Timestamp;
use crate::rules::Attributes;
use proptest::prelude::*;
use serde_json::json;
use sha2::Digest;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

fn options() -> Options {
    Options {
        attributes: Attributes::DEFAULT,
        severity: None,
        hash: true,
        largest_hashed: None,
        growing: false,
        tags: Vec::new(),
    }
}

fn file(digest: u8) -> Object {
    Object {
        kind: Kind::File,
        permissions: 0o644,
        owner: 0,
        group: 0,
        size: 3,
        modified: Timestamp { seconds: 1_767_323_045, nanoseconds: 0 },
        changed: Timestamp { seconds: 1_767_323_045, nanoseconds: 0 },
        device: 1,
        inode: 2,
        links: 1,
        special: 0,
        flags: 0,
        content: Content::Digest([digest; 32]),
        extended: ExtendedAttributes::none(),
    }
}

fn link(target: &str) -> Object {
    Object { kind: Kind::Link, size: 0, content: Content::target(target.into()), ..file(0) }
}

fn with_attribute(name: &str, value: &[u8]) -> Object {
    Object { extended: ExtendedAttributes::new([(name.as_bytes(), value)]), ..file(1) }
}

fn told(known: Option<&Object>, now: Option<&Object>) -> Option<Alert> {
    let options = options();
    let difference = compare(known, now, &options)?;
    Some(alert(Path::new("/p/x"), known, now, difference, &options, "/p", "2026-01-02T03:04:05Z"))
}

#[test]
fn a_changed_file_is_told_as_mig_tells_it_with_what_changed_in_keys_of_its_own() {
    let after = Object { size: 4, ..file(2) };
    let alert = told(Some(&file(1)), Some(&after)).unwrap();

    let (one, two) = ("01".repeat(32), "02".repeat(32));
    assert_eq!(
        serde_json::to_value(&alert).unwrap(),
        json!({
            "severity": "critical",
            "alert": format!("/p/x signature changed {one} -> {two}"),
            "path": "/p/x",
            "event": "changed",
            "kind": "file",
            "attributes": ["content", "size"],
            "before": {"sha256": one, "size": 3},
            "after": {"sha256": two, "size": 4},
            "rule": "/p",
            "time": "2026-01-02T03:04:05Z",
        })
    );
}

#[test]
fn what_comes_and_goes_is_told_with_all_that_is_known() {
    let created = told(None, Some(&link("/a"))).unwrap();
    let removed = told(Some(&file(1)), None).unwrap();

    assert_eq!(created.severity, Severity::Medium);
    assert_eq!(created.alert, "path /p/x created (symbolic link)");
    assert_eq!(created.after["target"], "/a");
    assert_eq!((removed.severity, removed.alert.as_str()), (Severity::Low, "path /p/x removed"));
    assert_eq!(removed.before["sha256"], "01".repeat(32));
}

#[test]
fn every_attribute_has_its_severity_and_its_words() {
    let base = file(1);
    for (after, severity, text) in [
        (Object { permissions: 0o600, ..base.clone() }, Severity::High, "mode changed 0644 -> 0600"),
        (
            Object { permissions: 0o4755, ..base.clone() },
            Severity::Critical,
            "mode changed 0644 -> 4755 (setuid)",
        ),
        (Object { owner: 7, ..base.clone() }, Severity::High, "owner changed 0 -> 7"),
        (Object { links: 2, ..base.clone() }, Severity::Low, "links changed 1 -> 2"),
        (
            Object { modified: Timestamp { seconds: 0, nanoseconds: 0 }, ..base.clone() },
            Severity::Low,
            "modification time changed 2026-01-02T03:04:05.000000000Z -> 1970-01-01T00:00:00.000000000Z",
        ),
        (
            Object { flags: flag::IMMUTABLE, ..base.clone() },
            Severity::Medium,
            "flags changed none -> immutable",
        ),
        (
            with_attribute("security.capability", &[1, 0]),
            Severity::Critical,
            "capabilities changed none -> 0x0100",
        ),
        (
            with_attribute(
                "security.capability",
                &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            Severity::Critical,
            "capabilities changed none -> cap_net_raw=ep",
        ),
        (
            with_attribute("system.posix_acl_default", &[2, 0, 0, 0, 2, 0, 6, 0, 0xe8, 3, 0, 0]),
            Severity::High,
            "acl changed none -> default:user:1000:rw-",
        ),
        (with_attribute("system.posix_acl_access", b"?"), Severity::High, "acl changed none -> 0x3f"),
        (
            with_attribute("security.selinux", b"system_u:object_r:etc_t:s0\0"),
            Severity::High,
            "selinux label changed none -> system_u:object_r:etc_t:s0",
        ),
        (
            with_attribute("user.note", b"hi"),
            Severity::Medium,
            "extended attributes changed none -> user.note=hi",
        ),
        (link("/a"), Severity::Critical, "is now a symbolic link instead of a file"),
    ] {
        let alert = told(Some(&base), Some(&after)).unwrap();
        assert_eq!(alert.severity, severity, "{}", alert.alert);
        assert!(alert.alert.starts_with(&format!("/p/x {text}")), "{}", alert.alert);
    }
    let target = told(Some(&link("/a")), Some(&link("/b"))).unwrap();
    assert_eq!(target.alert, "/p/x points to /b instead of /a");
}

#[test]
fn access_lists_and_capabilities_are_told_in_words_and_what_is_not_kept_by_its_digest() {
    let entry = |id: u8| [8, 0, 4, 0, id, 0, 0, 0];
    let list =
        |entries| -> Vec<u8> { [2, 0, 0, 0].into_iter().chain((0..entries).flat_map(entry)).collect() };
    let with_list = |entries| with_attribute("system.posix_acl_access", &list(entries));
    let sha256 = |bytes: &[u8]| hex(&sha2::Sha256::digest(bytes));

    let access = told(None, Some(&with_list(31))).unwrap();
    let long = told(Some(&with_list(70)), Some(&with_list(71))).unwrap();
    let note = told(Some(&with_attribute("user.note", b"hi")), Some(&with_attribute("user.note", &[1; 65])));
    let names: Vec<_> = (0..20).map(|number| format!("user.{number}")).collect();
    let extended = ExtendedAttributes::new(names.iter().map(|name| (name.as_bytes(), &b"v"[..])));
    let many = told(Some(&file(1)), Some(&Object { extended, ..file(1) })).unwrap();
    let far = told(Some(&link("/a")), Some(&link(&"b".repeat(300)))).unwrap();
    let capable = told(None, Some(&with_attribute("security.capability", &[0; 3]))).unwrap();

    let entries = access.after["acl"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[30]), (31, &json!("group:30:r--")));
    assert_eq!(long.after["acl"], json!([format!("572 bytes, sha256 {}", sha256(&list(71)))]));
    let expected = format!("user.note=hi -> user.note=65 bytes, sha256 {}", sha256(&[1; 65]));
    assert!(note.unwrap().alert.ends_with(&expected));
    let text = many.after["extended_attributes"][0].as_str().unwrap();
    assert!(text.starts_with("20 attributes, sha256 "), "{text}");
    let expected = format!("{}… (300 bytes, sha256 {})", "b".repeat(192), sha256("b".repeat(300).as_bytes()));
    assert_eq!(far.after["target"], expected);
    assert_eq!(capable.after["capabilities"], "0x000000");
}

#[test]
fn what_a_rule_does_not_compare_is_not_told_and_its_severity_counts_but_for_rights_that_are_gained() {
    let quiet = Options {
        attributes: Attributes::DEFAULT.without(Attribute::Owner),
        severity: Some(Severity::Low),
        ..options()
    };
    let severity = |after: &Object| compare(Some(&file(1)), Some(after), &quiet).map(|one| one.severity);

    assert_eq!(severity(&Object { owner: 7, ..file(1) }), None);
    assert_eq!(severity(&file(2)), Some(Severity::Low));
    assert_eq!(severity(&Object { permissions: 0o4755, ..file(1) }), Some(Severity::Critical));
}

#[test]
fn a_file_that_was_not_read_is_not_taken_for_another_one() {
    let unread = |why| Object { content: Content::NotRead(why), ..file(1) };
    let lost = told(Some(&file(1)), Some(&unread(NotRead::Failed(13)))).unwrap();

    assert_eq!(lost.severity, Severity::High);
    assert!(lost.alert.starts_with("/p/x can no longer be read: Permission denied"), "{}", lost.alert);
    for why in [NotRead::MetadataOnly, NotRead::TooLarge, NotRead::BeingRead] {
        assert_eq!(told(Some(&file(1)), Some(&unread(why))), None);
    }
    assert_eq!(told(Some(&unread(NotRead::Failed(13))), Some(&file(1))), None);
    assert_eq!(told(None, None), None);
}

proptest! {
    #[test]
    fn what_is_the_same_is_not_told(digest: u8, permissions in 0u16..0o7777) {
        let object = Object { permissions, ..file(digest) };
        prop_assert_eq!(told(Some(&object), Some(&object)), None);
    }

    /// No name looks like another one, breaks a line or reaches a terminal's controls.
    #[test]
    fn different_names_never_look_the_same(
        one in proptest::collection::vec(1u8..=255, 0..12), other in proptest::collection::vec(1u8..=255, 0..12),
    ) {
        let path = |bytes: &Vec<u8>| PathBuf::from(OsString::from_vec(bytes.clone()));
        let (one_shown, other_shown) = (shown(&path(&one)), shown(&path(&other)));
        prop_assert_eq!(one == other, one_shown == other_shown);
        prop_assert!(!one_shown.chars().any(char::is_control));
    }
}
