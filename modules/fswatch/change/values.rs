//! An object's attributes as text and JSON, and paths and bytes as people read them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::attributes;
use crate::extended::{ACCESS_ACL_NAME, AttributeValue, CAPABILITIES_NAME, DEFAULT_ACL_NAME, SELINUX_NAME};
use crate::object::{Content, Kind, NotRead, Object, Timestamp, flag};
use crate::rules::Attribute;

/// One attribute in words.
pub(super) fn text_of(attribute: Attribute, object: &Object) -> String {
    match value_of(attribute, object) {
        Value::String(text) => text,
        Value::Null => "none".to_owned(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

/// One attribute as JSON; null when the object has none.
pub(super) fn value_of(attribute: Attribute, object: &Object) -> Value {
    let extended = |name: &[u8]| object.extended.get(name);
    match attribute {
        Attribute::Kind => json!(object.kind.name()),
        Attribute::Content => match object.content.last_read() {
            Some(Content::Digest(digest) | Content::Sparse(digest)) => json!(hex(digest)),
            _ => Value::Null,
        },
        Attribute::Size => json!(object.size),
        Attribute::Mode => json!(format!("{:04o}", object.permissions)),
        Attribute::Owner => json!(object.owner),
        Attribute::Group => json!(object.group),
        Attribute::ModificationTime => json!(time(object.modified)),
        Attribute::Target => match &object.content {
            Content::Target(target) => json!(shown(target)),
            Content::LongTarget(long) => {
                json!(format!("{}… ({})", shown(&long.beginning), digest_text(long.length, &long.sha256)))
            }
            _ => Value::Null,
        },
        Attribute::Inode => json!(object.inode),
        Attribute::Links => json!(object.links),
        Attribute::Device => {
            json!(format!("{}:{}", rustix::fs::major(object.special), rustix::fs::minor(object.special)))
        }
        Attribute::Flags => json!(flag_names(object.flags)),
        Attribute::Acl => {
            let mut shown = extended(ACCESS_ACL_NAME).map_or_else(Vec::new, |value| acl_entries(value, ""));
            shown.extend(
                extended(DEFAULT_ACL_NAME).into_iter().flat_map(|value| acl_entries(value, "default:")),
            );
            json!(shown)
        }
        Attribute::Capabilities => {
            json!(extended(CAPABILITIES_NAME).map(|value| {
                text_or_digest(value, |value| {
                    attributes::capabilities(value).unwrap_or_else(|_| in_hexadecimal(value))
                })
            }))
        }
        Attribute::SelinuxLabel => json!(extended(SELINUX_NAME).map(|value| {
            text_or_digest(value, |value| {
                attributes::selinux_label(value).map_or_else(|_| in_hexadecimal(value), str::to_owned)
            })
        })),
        Attribute::ExtendedAttributes => {
            let texts = object.extended.others().map(|(name, value)| match value {
                AttributeValue::Together { .. } => text_or_digest(value, bytes),
                _ => format!("{}={}", bytes(name), text_or_digest(value, bytes)),
            });
            json!(texts.collect::<Vec<_>>())
        }
    }
}

/// A value in words, or what is known of one that is not kept.
fn text_or_digest(value: AttributeValue<'_>, text: impl Fn(&[u8]) -> String) -> String {
    match value {
        AttributeValue::Whole(value) => text(value),
        AttributeValue::Digest { length, sha256 } => digest_text(length, sha256),
        AttributeValue::Together { count: 0, sha256 } => {
            format!("more attributes than the kernel lists, sha256 {}", hex(sha256))
        }
        AttributeValue::Together { count, sha256 } => format!("{count} attributes, sha256 {}", hex(sha256)),
    }
}

fn digest_text(length: u64, sha256: &[u8]) -> String {
    format!("{length} bytes, sha256 {}", hex(sha256))
}

/// The entries of an ACL, or its bytes when they are none.
fn acl_entries(value: AttributeValue<'_>, prefix: &str) -> Vec<String> {
    let entries = match value {
        AttributeValue::Whole(value) => attributes::acl(value).ok(),
        _ => None,
    };
    let entries = entries.unwrap_or_else(|| vec![text_or_digest(value, in_hexadecimal)]);
    entries.into_iter().map(|entry| format!("{prefix}{entry}")).collect()
}

/// The key of a digest of data and layout.
const SPARSE_KEY: &str = "sha256_sparse_1";

/// Keys of an object whose values are others each time, also when the same is done to it again.
pub(crate) const PASSING_KEYS: [&str; 2] = ["modified", "inode"];

pub(super) fn key_of(attribute: Attribute, object: &Object) -> &'static str {
    match attribute {
        Attribute::Content if matches!(object.content.last_read(), Some(Content::Sparse(_))) => SPARSE_KEY,
        Attribute::Content => "sha256",
        Attribute::ModificationTime => "modified",
        other => other.name(),
    }
}

/// These attributes of an object.
pub(super) fn selection(object: &Object, attributes: &[Attribute], is_after: bool) -> Value {
    let mut map = Map::new();
    for attribute in attributes {
        // What it held before is no digest of what it holds now.
        let is_unknown = *attribute == Attribute::Content && is_after && object.content.is_open();
        let value = if is_unknown { Value::Null } else { value_of(*attribute, object) };
        map.insert(key_of(*attribute, object).to_owned(), value);
    }
    if let Some(why) = object.content.not_read()
        && is_after
        && (attributes.contains(&Attribute::Content) || why.is_for_now())
    {
        map.insert("not_read".to_owned(), json!(not_read(why)));
    }
    Value::Object(map)
}

/// All that is known of an object and worth telling.
#[must_use]
pub fn description(object: &Object) -> Value {
    let mut told = vec![Attribute::Kind, Attribute::Mode, Attribute::Owner, Attribute::Group];
    match object.kind {
        Kind::File => {
            told.extend([Attribute::Size, Attribute::Content, Attribute::ModificationTime, Attribute::Links]);
        }
        Kind::Link => told.push(Attribute::Target),
        Kind::CharacterDevice | Kind::BlockDevice => told.push(Attribute::Device),
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    told.push(Attribute::Inode);
    let optional = [
        Attribute::Flags,
        Attribute::Acl,
        Attribute::Capabilities,
        Attribute::SelinuxLabel,
        Attribute::ExtendedAttributes,
    ];
    told.extend(optional.into_iter().filter(|attribute| {
        let value = value_of(*attribute, object);
        !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty())
    }));
    let mut described = selection(object, &told, true);
    if let Some(map) = described.as_object_mut() {
        for key in ["sha256", SPARSE_KEY] {
            if map.get(key).is_some_and(Value::is_null) {
                map.remove(key);
            }
        }
    }
    described
}

/// Why a file was not read, in words.
#[must_use]
pub fn not_read(why: NotRead) -> String {
    match why {
        NotRead::MetadataOnly => "its rule asks for metadata only".to_owned(),
        NotRead::TooLarge => "it is larger than its rule allows to be hashed".to_owned(),
        NotRead::Failed(number) if number == rustix::io::Errno::AGAIN.raw_os_error() => {
            "a process holds a lease on it (fcntl F_SETLEASE), and is asked to give it up".to_owned()
        }
        NotRead::Failed(number) => std::io::Error::from_raw_os_error(number).to_string(),
        NotRead::OpenForWriting => {
            "it is being written; its content is reported when it is closed".to_owned()
        }
        NotRead::BeingRead => "it is large and being read; its digest follows".to_owned(),
    }
}

fn flag_names(flags: u32) -> Vec<&'static str> {
    [
        (flag::COMPRESSED, "compressed"),
        (flag::IMMUTABLE, "immutable"),
        (flag::APPEND_ONLY, "append_only"),
        (flag::NO_DUMP, "no_dump"),
        (flag::ENCRYPTED, "encrypted"),
        (flag::VERITY, "verity"),
    ]
    .into_iter()
    .filter(|(bit, _)| flags & bit != 0)
    .map(|(_, name)| name)
    .collect()
}

fn time(time: Timestamp) -> String {
    let since = |seconds| std::time::Duration::new(seconds, time.nanoseconds);
    match u64::try_from(time.seconds) {
        // The years that the format can write.
        Ok(seconds) if seconds < 253_402_300_800 => {
            humantime::format_rfc3339_nanos(std::time::SystemTime::UNIX_EPOCH + since(seconds)).to_string()
        }
        _ => format!("{} seconds since 1970", time.seconds),
    }
}

/// Bytes as text when they are text (a closing NUL left out), in hexadecimal otherwise.
fn bytes(value: &[u8]) -> String {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => in_hexadecimal(value),
    }
}

fn in_hexadecimal(value: &[u8]) -> String {
    format!("0x{}", hex(value))
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |half: u8| DIGITS[usize::from(half & 0x0f)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// A path for people and JSON, on one line and without ambiguity: what is not UTF-8, and what controls a terminal,
/// is shown as `\xNN`, and a backslash as two.
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    };
    let bytes = path.as_os_str().as_bytes();
    let mut offset = 0;
    for chunk in bytes.utf8_chunks() {
        for (at, character) in chunk.valid().char_indices() {
            let at = offset + at;
            let before = at.checked_sub(1).map(|at| bytes[at]);
            match character {
                ' ' if is_at_an_end(before, bytes.get(at + 1).copied()) => escape(&mut text, b" "),
                '\\' => text.push_str("\\\\"),
                control if control.is_control() || is_misleading(control) => {
                    escape(&mut text, control.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => text.push(other),
            }
        }
        offset += chunk.valid().len() + chunk.invalid().len();
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Characters that nobody sees, or that change how others are shown: blanks of other widths, line and paragraph
/// separators, fillers, variation selectors, tags, and those of UAX #9.
fn is_misleading(character: char) -> bool {
    matches!(character, '\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}'
        | '\u{3000}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a blank here would be taken for none: at either end of a name.
fn is_at_an_end(before: Option<u8>, after: Option<u8>) -> bool {
    before.is_none_or(|byte| byte == b'/') || after.is_none_or(|byte| byte == b'/')
}
