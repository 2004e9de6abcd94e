//! An object's attributes as text and JSON, and paths and bytes as people read them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    ACCESS_ACL_NAME, CAPABILITIES_NAME, DEFAULT_ACL_NAME, SELINUX_NAME, attribute_value, is_other_attribute,
};
use crate::attributes;
use crate::object::{Content, Kind, NotRead, Object, Timestamp, flag};
use crate::rules::Attribute;

/// Longest part of an attribute's value that is shown, in bytes.
const SHOWN_BYTES: usize = 256;

/// Most entries of an ACL that are shown; the kernel keeps up to 8,191.
pub(super) const SHOWN_ENTRIES: usize = 64;

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
    let extended = |name: &[u8]| attribute_value(&object.extended, name);
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
            json!(
                extended(CAPABILITIES_NAME).map(|value| {
                    attributes::capabilities(value).unwrap_or_else(|_| in_hexadecimal(value))
                })
            )
        }
        Attribute::SelinuxLabel => json!(extended(SELINUX_NAME).map(|value| {
            attributes::selinux_label(value).map_or_else(|_| in_hexadecimal(value), str::to_owned)
        })),
        Attribute::ExtendedAttributes => {
            let others = object.extended.iter().filter(|attribute| is_other_attribute(&attribute.name));
            let texts =
                others.map(|attribute| format!("{}={}", bytes(&attribute.name), bytes(&attribute.value)));
            json!(texts.collect::<Vec<_>>())
        }
    }
}

/// The entries of an ACL, or its bytes when they are none.
fn acl_entries(value: &[u8], prefix: &str) -> Vec<String> {
    let Ok(entries) = attributes::acl(value) else {
        return vec![format!("{prefix}{}", in_hexadecimal(value))];
    };
    let more = entries.len().saturating_sub(SHOWN_ENTRIES);
    let mut shown: Vec<_> =
        entries.into_iter().take(SHOWN_ENTRIES).map(|entry| format!("{prefix}{entry}")).collect();
    if more > 0 {
        shown.push(format!("{prefix}… {more} more"));
    }
    shown
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
    let (cut, more) = cut(value);
    match std::str::from_utf8(cut) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text}{more}"),
        _ => in_hexadecimal(value),
    }
}

fn in_hexadecimal(value: &[u8]) -> String {
    let (cut, more) = cut(value);
    format!("0x{}{more}", hex(cut))
}

/// What is shown of a value, and the sign that there is more.
fn cut(value: &[u8]) -> (&[u8], &'static str) {
    if value.len() > SHOWN_BYTES { (&value[..SHOWN_BYTES], "…") } else { (value, "") }
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
