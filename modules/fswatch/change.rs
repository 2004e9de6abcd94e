//! What a difference between two looks at an object means, and how it is told.

mod values;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::values::PASSING_KEYS;
pub use self::values::{description, hex, not_read, shown};
use self::values::{selection, text_of};
use crate::extended::{ACL_NAMES, CAPABILITIES_NAME, SELINUX_NAME};
use crate::object::{Content, Kind, NotRead, Object, flag};
use crate::process::{Managed, Process};
use crate::rules::{Attribute, Options, Severity};
use crate::trust::Lane;

/// `S_ISUID`
const SETUID: u16 = 0o4000;

/// `S_ISGID`
const SETGID: u16 = 0o2000;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It was not known.
    Created,
    /// It is another one than was known.
    Changed,
    /// It is gone.
    Removed,
    /// It has another name.
    Renamed,
    /// It is as it was known, but was not in between: something was done and undone.
    Touched,
    /// What is in it is known now; that it came or changed was told before.
    Digest,
    /// So many changes that they are told together.
    Group,
    /// Changes may have gone unseen for a time, or cannot be seen.
    Notice,
    /// Somebody approved of a change.
    Accepted,
    /// Somebody planned changes, or what he planned is over.
    Expected,
    /// What a package manager did, and its packages explain.
    Transaction,
    /// Nothing happened: the whole way from the kernel to the journal was proved.
    Canary,
}

impl Event {
    /// The name in alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Renamed => "renamed",
            Self::Touched => "touched",
            Self::Digest => "digest",
            Self::Group => "group",
            Self::Notice => "notice",
            Self::Accepted => "accepted",
            Self::Expected => "expected",
            Self::Transaction => "transaction",
            Self::Canary => "canary",
        }
    }
}

/// An alert; the keys `severity` and `alert` are MIG's, the others are an extension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// How much it matters.
    pub severity: Severity,
    /// The sentence for people.
    pub alert: String,
    /// Where it happened.
    pub path: String,
    /// What happened.
    pub event: Event,
    /// The kind of the object: of what is there, or of what was there before it was removed.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: &'static str,
    /// What is not as it was, by the names of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<&'static str>,
    /// What was there: all that is known of what was removed, or what has changed.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub before: Value,
    /// What is there now: all that is known of what was created, or what has changed.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub after: Value,
    /// The entry of the configuration that covers the path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// The labels of that entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The name that it had before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The id of the alert, or of the group, that told the beginning of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refers_to: Option<String>,
    /// How many objects it is about, when it is more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Who did it, as far as it is known.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub process: Value,
    /// Who else wrote to it in the same moment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_processes: Vec<Value>,
    /// The package that the path belongs to, and whether it is as that says.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub package: Value,
    /// Between which moments it happened, when nobody saw it happen.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub window: Value,
    /// What changed together.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub group: Value,
    /// How far the baseline had got, for the next life.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub mark: Value,
    /// Somebody gained rights by it: it is never told only as one of many.
    #[serde(skip)]
    pub gains_rights: bool,
    /// Who can cause changes at its path.
    #[serde(skip)]
    pub lane: Lane,
    /// Another alert about it follows, when its content is known.
    #[serde(skip)]
    pub begins: bool,
    /// It is that other alert.
    #[serde(skip)]
    pub completes: bool,
    /// Its writer has not closed the file.
    #[serde(skip)]
    pub unfinished: bool,
    /// The tool for accounts that made it.
    #[serde(skip)]
    pub tool: Option<Arc<Process>>,
    /// The package manager that made it.
    #[serde(skip)]
    pub managed: Option<Arc<Managed>>,
    /// When the module saw it, RFC 3339 in UTC.
    pub time: String,
}

/// How an object is not as it was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What happened.
    pub event: Event,
    /// What is another one, for something that changed.
    pub attributes: Vec<Attribute>,
    /// How much it matters.
    pub severity: Severity,
    /// Whether somebody gained rights by it.
    pub gains_rights: bool,
}

/// Compares what is known of an object with what is there now, by the rule that covers it; `None` when there is
/// nothing to tell.
#[must_use]
pub fn compare(known: Option<&Object>, now: Option<&Object>, options: &Options) -> Option<Difference> {
    let (event, attributes, usual) = match (known, now) {
        (None, None) => return None,
        (None, Some(now)) => {
            let usual = if gives_rights(None, now) { Severity::Critical } else { Severity::Medium };
            (Event::Created, Vec::new(), usual)
        }
        (Some(_), None) => (Event::Removed, Vec::new(), Severity::Low),
        (Some(before), Some(after)) => {
            let attributes: Vec<_> = options
                .attributes
                .iter()
                .filter(|attribute| differs(*attribute, before, after))
                .filter(|attribute| *attribute != Attribute::Content || options.hash)
                .collect();
            let usual = attributes.iter().map(|attribute| usual_severity(*attribute, before, after)).max()?;
            (Event::Changed, attributes, usual)
        }
    };
    // A right that somebody gained matters whatever the rule says of the path.
    let gained = now.is_some_and(|now| gives_rights(known, now));
    let severity = match options.severity {
        Some(severity) if !gained => severity,
        _ => usual,
    };
    Some(Difference { event, attributes, severity, gains_rights: gained })
}

/// Whether whoever runs it now gets rights that it did not give before.
fn gives_rights(before: Option<&Object>, after: &Object) -> bool {
    let bits =
        |object: &Object| if object.kind == Kind::File { object.permissions & (SETUID | SETGID) } else { 0 };
    let had = before.map_or(0, bits);
    let could = before.and_then(|before| before.extended.get(CAPABILITIES_NAME));
    let can = after.extended.get(CAPABILITIES_NAME);
    bits(after) & !had != 0 || can.is_some() && can != could
}

fn differs(attribute: Attribute, before: &Object, after: &Object) -> bool {
    let same_kind = before.kind == after.kind;
    let extended = |name: &[u8]| before.extended.get(name) != after.extended.get(name);
    let is_target = |content: &Content| matches!(content, Content::Target(_) | Content::LongTarget(_));
    match attribute {
        Attribute::Kind => !same_kind,
        Attribute::Content => match (before.content.last_read(), &after.content) {
            // Digests of two kinds cannot be compared: it became mostly holes, or is so no longer.
            (Some(before), after @ (Content::Digest(_) | Content::Sparse(_))) => before != after,
            // Which error it is says nothing about the file, and what was not read before is known from now on.
            (Some(_), after) => {
                let is_told = |why| matches!(why, NotRead::Failed(_) | NotRead::OpenForWriting);
                after.not_read().is_some_and(is_told) && !before.content.not_read().is_some_and(is_told)
            }
            (None, _) => false,
        },
        Attribute::Size => same_kind && before.size != after.size,
        Attribute::Mode => before.permissions != after.permissions,
        Attribute::Owner => before.owner != after.owner,
        Attribute::Group => before.group != after.group,
        Attribute::ModificationTime => {
            same_kind && before.modified != after.modified && before.kind == Kind::File
        }
        Attribute::Target => {
            is_target(&before.content) && is_target(&after.content) && before.content != after.content
        }
        Attribute::Inode => (before.device, before.inode) != (after.device, after.inode),
        Attribute::Links => same_kind && before.links != after.links,
        Attribute::Device => same_kind && before.special != after.special,
        Attribute::Flags => before.flags != after.flags,
        Attribute::Acl => ACL_NAMES.into_iter().any(extended),
        Attribute::Capabilities => extended(CAPABILITIES_NAME),
        Attribute::SelinuxLabel => extended(SELINUX_NAME),
        Attribute::ExtendedAttributes => !before.extended.others().eq(after.extended.others()),
    }
}

fn usual_severity(attribute: Attribute, before: &Object, after: &Object) -> Severity {
    match attribute {
        Attribute::Content if after.content.not_read().is_some() => Severity::High,
        Attribute::Kind | Attribute::Content | Attribute::Target | Attribute::Device => Severity::Critical,
        Attribute::Mode | Attribute::Capabilities if gives_rights(Some(before), after) => Severity::Critical,
        Attribute::Mode
        | Attribute::Owner
        | Attribute::Group
        | Attribute::Acl
        | Attribute::Capabilities
        | Attribute::SelinuxLabel => Severity::High,
        Attribute::Flags if before.flags & flag::IMMUTABLE & !after.flags != 0 => Severity::High,
        Attribute::Flags | Attribute::ExtendedAttributes => Severity::Medium,
        // Without a digest the size is what tells that the content is another one.
        Attribute::Size if !matches!(after.content, Content::Digest(_) | Content::Sparse(_)) => {
            Severity::Critical
        }
        Attribute::Size | Attribute::ModificationTime | Attribute::Inode | Attribute::Links => Severity::Low,
    }
}

/// Makes the alert for a difference.
#[must_use]
pub fn alert(
    path: &Path,
    known: Option<&Object>,
    now: Option<&Object>,
    difference: Difference,
    options: &Options,
    rule: &str,
    time: &str,
) -> Alert {
    let path = shown(path);
    let (before, after) = match (known, now) {
        (Some(known), Some(now)) if known.kind == now.kind => {
            let select = |object, is_after| selection(object, &difference.attributes, is_after);
            (select(known, false), select(now, true))
        }
        (known, now) => (known.map_or(Value::Null, description), now.map_or(Value::Null, description)),
    };
    Alert {
        severity: difference.severity,
        alert: sentence(&path, known, now, &difference),
        path,
        event: difference.event,
        kind: now.or(known).map_or("", |object| object.kind.name()),
        attributes: difference.attributes.iter().copied().map(Attribute::name).collect(),
        before,
        after,
        rule: rule.to_owned(),
        tags: options.tags.clone(),
        gains_rights: difference.gains_rights,
        ..notice(String::new(), String::new(), time)
    }
}

/// The alert for a file whose content is known now; that it came, changed or could not be read was told before. `last`
/// is what it held when it was read last.
#[must_use]
pub(crate) fn digest_known(
    path: &Path,
    there: &Object,
    last: Option<&Content>,
    rule: &str,
    time: &str,
) -> Alert {
    let path = shown(path);
    let after = selection(there, &[Attribute::Content, Attribute::Size], true);
    let digest = text_of(Attribute::Content, there);
    let text = match last {
        Some(last) if *last == there.content => {
            format!("content of {path} was read and is unchanged: {digest}")
        }
        _ => format!("content of {path} was read: {digest}"),
    };
    Alert {
        severity: Severity::Low,
        event: Event::Digest,
        kind: there.kind.name(),
        after,
        rule: rule.to_owned(),
        ..notice(path, text, time)
    }
}

/// What was done to something that is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It was opened for writing.
    Written,
    /// Its name came more than once.
    Replaced,
    /// Something else about it.
    Changed,
}

/// The alert for what was done and undone; `there` is what is there again, nothing when it came and went.
#[must_use]
pub fn touched(
    path: &Path,
    there: Option<&Object>,
    undone: Undone,
    options: &Options,
    rule: &str,
    time: &str,
) -> Alert {
    let path = shown(path);
    let (severity, what) = match there {
        // What is not run any more was run: whoever removes it at once does not want it seen.
        None => (Severity::High, "was created, executed and deleted"),
        Some(there) => {
            let is_program = there.kind == Kind::File && there.permissions & 0o111 != 0;
            let (severity, what) = match undone {
                Undone::Written => (
                    Severity::Medium,
                    "was opened for writing; its content and metadata are the same as before, also its modification time",
                ),
                Undone::Replaced => (
                    Severity::Medium,
                    "was replaced more than once; what is there is the same as before, in between it may have been something else",
                ),
                Undone::Changed => (
                    Severity::Low,
                    "was changed and changed back: its attributes or its location differed in between",
                ),
            };
            (if is_program { Severity::High } else { severity }, what)
        }
    };
    Alert {
        severity: options.severity.filter(|_| there.is_some()).unwrap_or(severity),
        event: Event::Touched,
        kind: there.map_or("", |there| there.kind.name()),
        rule: rule.to_owned(),
        tags: options.tags.clone(),
        ..notice(path.clone(), format!("{path} {what}"), time)
    }
}

/// An alert that is about no single change.
#[must_use]
pub fn notice(path: String, text: String, time: &str) -> Alert {
    Alert {
        severity: Severity::Medium,
        alert: text,
        path,
        event: Event::Notice,
        kind: "",
        attributes: Vec::new(),
        before: Value::Null,
        after: Value::Null,
        rule: String::new(),
        tags: Vec::new(),
        from: None,
        refers_to: None,
        count: None,
        process: Value::Null,
        other_processes: Vec::new(),
        package: Value::Null,
        window: Value::Null,
        group: Value::Null,
        mark: Value::Null,
        gains_rights: false,
        lane: Lane::Trusted,
        begins: false,
        completes: false,
        unfinished: false,
        tool: None,
        managed: None,
        time: time.to_owned(),
    }
}

/// MIG's sentence where it has one, and everything else that changed after it.
fn sentence(path: &str, known: Option<&Object>, now: Option<&Object>, difference: &Difference) -> String {
    let (known, now) = match (known, now) {
        (Some(known), Some(now)) => (known, now),
        (None, Some(now)) => {
            let kind = if now.kind == Kind::File { String::new() } else { format!(" ({})", now.kind.name()) };
            let rights = if gives_rights(None, now) { ", whoever runs it gains its rights" } else { "" };
            return format!("path {path} created{kind}{rights}");
        }
        _ => return format!("path {path} removed"),
    };
    let mut parts = Vec::new();
    for attribute in &difference.attributes {
        let (before, after) = (text_of(*attribute, known), text_of(*attribute, now));
        parts.push(match attribute {
            Attribute::Content => match now.content.not_read() {
                Some(why @ NotRead::Failed(_)) => format!("can no longer be read: {}", not_read(why)),
                Some(why) => format!("has unknown content: {}", not_read(why)),
                None => format!("signature changed {before} -> {after}"),
            },
            Attribute::Kind => format!("is now a {after} instead of a {before}"),
            Attribute::Target => format!("points to {after} instead of {before}"),
            Attribute::Mode => {
                let gained = now.permissions & !known.permissions;
                let named = match (gained & SETUID != 0, gained & SETGID != 0) {
                    (true, true) => " (setuid and setgid)",
                    (true, false) => " (setuid)",
                    (false, true) => " (setgid)",
                    (false, false) => "",
                };
                format!("mode changed {before} -> {after}{named}")
            }
            // The digest or the new object says it already.
            Attribute::Size | Attribute::ModificationTime | Attribute::Inode
                if difference.attributes.contains(&Attribute::Content) =>
            {
                continue;
            }
            other => format!("{} changed {before} -> {after}", other.name().replace('_', " ")),
        });
    }
    format!("{path} {}", parts.join("; "))
}

#[cfg(test)]
mod tests;
