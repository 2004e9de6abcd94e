//! What a difference between two looks at an object means, and how it is told.

use std::path::Path;

use serde::Serialize;

use crate::object::{Content, Object, hex, shown};

/// How much a change matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The content of something that was known is another one.
    Critical,
    /// Something that was readable no longer is.
    High,
    /// Something new is there.
    Medium,
    /// Something is gone.
    Low,
}

/// An alert; the keys `severity` and `alert` are MIG's, the others are an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// How much it matters.
    pub severity: Severity,
    /// The sentence for people.
    pub alert: String,
    /// Where it happened.
    pub path: String,
    /// What happened: `changed`, `created`, `removed`.
    pub event: &'static str,
    /// What was there: the digest of a file, the target of a link, or the kind of anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// When the module saw it, RFC 3339 in UTC.
    pub time: String,
}

/// Compares what is known of `path` with what is there now; `None` when there is nothing to tell.
#[must_use]
pub fn compare(path: &Path, known: Option<&Object>, now: Option<&Object>, time: &str) -> Option<Alert> {
    let shown_path = shown(path);
    let (severity, event, text) = match (known.map(|known| &known.content), now.map(|now| &now.content)) {
        (None, None) => return None,
        (None, Some(_)) => (Severity::Medium, "created", format!("path {shown_path} created")),
        (Some(_), None) => (Severity::Low, "removed", format!("path {shown_path} removed")),
        (Some(before), Some(after)) => {
            let (severity, text) = content_change(&shown_path, before, after)?;
            (severity, "changed", text)
        }
    };
    Some(Alert {
        severity,
        alert: text,
        path: shown_path,
        event,
        before: known.and_then(|known| describe(&known.content)),
        after: now.and_then(|now| describe(&now.content)),
        time: time.to_owned(),
    })
}

fn content_change(path: &str, before: &Content, after: &Content) -> Option<(Severity, String)> {
    use Content::{File, Link, Special, Unreadable};
    let changed = match (before, after) {
        (File(before), File(after)) => {
            if before == after {
                return None;
            }
            (Severity::Critical, format!("{path} signature changed {} -> {}", hex(before), hex(after)))
        }
        (Link(before), Link(after)) => {
            if before == after {
                return None;
            }
            (Severity::Critical, format!("{path} points to {} instead of {}", shown(after), shown(before)))
        }
        // Which error it is says nothing about the file.
        (Unreadable(_), Unreadable(_)) => return None,
        // Its digest is known from now on; whether it changed meanwhile nobody can say.
        (Unreadable(_), File(_)) => return None,
        (File(_), Unreadable(why)) => (Severity::High, format!("{path} cannot be read any more: {why}")),
        (Special(before), Special(after)) if before == after => return None,
        (before, after) => {
            (Severity::Critical, format!("{path} is now a {} instead of a {}", kind(after), kind(before)))
        }
    };
    Some(changed)
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::File(_) | Content::Unreadable(_) => "file",
        Content::Link(_) => "symbolic link",
        Content::Special(kind) => kind,
    }
}

fn describe(content: &Content) -> Option<String> {
    match content {
        Content::File(digest) => Some(hex(digest)),
        Content::Unreadable(_) => None,
        Content::Link(target) => Some(shown(target)),
        Content::Special(kind) => Some((*kind).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Found, look};

    fn with(content: Content) -> Object {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, "").unwrap();
        match look(&path).unwrap() {
            Found::Object(object) => Object { content, ..object },
            other => panic!("{other:?}"),
        }
    }

    fn alert(known: Option<Content>, now: Option<Content>) -> Option<Alert> {
        let (known, now) = (known.map(with), now.map(with));
        compare(Path::new("/p/x"), known.as_ref(), now.as_ref(), "2026-01-02T03:04:05Z")
    }

    #[test]
    fn a_changed_file_is_told_as_mig_tells_it() {
        let alert = alert(Some(Content::File([1; 32])), Some(Content::File([2; 32]))).unwrap();

        let (one, two) = ("01".repeat(32), "02".repeat(32));
        assert_eq!(
            serde_json::to_string(&alert).unwrap(),
            format!(
                r#"{{"severity":"critical","alert":"/p/x signature changed {one} -> {two}","path":"/p/x","event":"changed","before":"{one}","after":"{two}","time":"2026-01-02T03:04:05Z"}}"#
            )
        );
    }

    #[test]
    fn what_comes_and_goes_is_told() {
        let created = alert(None, Some(Content::Special("fifo"))).unwrap();
        let removed = alert(Some(Content::File([1; 32])), None).unwrap();

        assert_eq!((created.severity, created.alert.as_str()), (Severity::Medium, "path /p/x created"));
        assert_eq!((removed.severity, removed.alert.as_str()), (Severity::Low, "path /p/x removed"));
    }

    #[test]
    fn what_is_the_same_is_not_told() {
        for content in [Content::File([1; 32]), Content::Link("/a".into()), Content::Special("fifo")] {
            assert_eq!(alert(Some(content.clone()), Some(content)), None);
        }
        assert_eq!(alert(None, None), None);
        assert_eq!(
            alert(Some(Content::Unreadable("a".to_owned())), Some(Content::Unreadable("b".to_owned()))),
            None
        );
    }

    #[test]
    fn another_kind_another_target_and_a_lost_right_to_read_are_told() {
        let kind = alert(Some(Content::File([1; 32])), Some(Content::Link("/a".into()))).unwrap();
        let target = alert(Some(Content::Link("/a".into())), Some(Content::Link("/b".into()))).unwrap();
        let lost = alert(Some(Content::File([1; 32])), Some(Content::Unreadable("no".to_owned()))).unwrap();

        assert_eq!(kind.alert, "/p/x is now a symbolic link instead of a file");
        assert_eq!(target.alert, "/p/x points to /b instead of /a");
        assert_eq!((lost.severity, lost.event), (Severity::High, "changed"));
    }
}
