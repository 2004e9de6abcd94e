//! The Elastic Common Schema 9.4.0. What has no field there is under `vigie`.

use serde_json::{Map, Value, json};
use vigie_protocol::severity::Severity;

use super::{Object, container, is_of_a_file, number, object, text, texts};
use crate::alert::Alert;
use crate::text::{milliseconds, split_path};

const VERSION: &str = "9.4.0";

/// Longest keyword in bytes: Lucene refuses a document with a longer term (32,766), and what a mapping ignores is not
/// found.
const MAX_KEYWORD_BYTES: usize = 8191;

pub(super) fn document(alert: &Alert) -> Map<String, Value> {
    let fields = &alert.fields;
    let mut document = Object::new();
    let time = text(fields, "time").filter(|time| milliseconds(time).is_some()).unwrap_or(&alert.time);
    document
        .set("@timestamp", time)
        .set("message", alert.sentence.as_str())
        .set("ecs", json!({ "version": VERSION }))
        .set("event", event(alert))
        .set("log", json!({"level": alert.severity.name()}))
        .set("host", host(alert));
    let tags = texts(fields, "tags");
    if !tags.is_empty() {
        document.set("tags", tags);
    }
    document.set_some("rule", text(fields, "rule").map(|rule| json!({ "name": keyword(rule) })));
    if let Some(path) = text(fields, "path") {
        let known = object(fields, "after").or_else(|| object(fields, "before"));
        document.set_full("file", file(path, text(fields, "kind"), known));
    }
    if let Some(process) = object(fields, "process") {
        document.set_full("process", self::process(process));
        let login = number(process, "login_user").map(|uid| json!({"id": uid.to_string()}));
        document.set_some("user", login);
        document.set_some("container", container(process).map(|id| json!({ "id": keyword(id) })));
    }
    if let Some(package) = object(fields, "package") {
        let mut result = Object::new();
        result
            .set_some("name", text(package, "name").map(keyword))
            .set_some("version", text(package, "version").map(keyword))
            .set_some("type", text(package, "manager").map(keyword));
        document.set_full("package", result);
    }
    document.set_full("vigie", own(alert));
    document.0
}

fn keyword(text: &str) -> String {
    crate::text::cut(text, MAX_KEYWORD_BYTES)
}

fn event(alert: &Alert) -> Value {
    let (category, kind) = match alert.event() {
        "created" => ("file", "creation"),
        "removed" => ("file", "deletion"),
        _ if is_of_a_file(alert) => ("file", "change"),
        "accepted" | "expected" | "transaction" => ("configuration", "change"),
        "notice" | "" => ("host", "info"),
        _ => ("intrusion_detection", "info"),
    };
    let mut event = Object::new();
    event
        .set("kind", "alert")
        .set("category", json!([category]))
        .set("type", json!([kind]))
        .set("module", "vigie")
        .set("dataset", format!("vigie.{}", alert.module))
        .set("severity", severity(alert.severity))
        .set("sequence", alert.seq)
        .set("id", alert.unique())
        .set("created", alert.time.as_str())
        .set("reason", keyword(&alert.sentence));
    if !alert.event().is_empty() {
        let what = if is_of_a_file(alert) { "file" } else { "alert" };
        event.set("action", format!("{what}-{}", keyword(alert.event())));
    }
    if let Some(window) = object(&alert.fields, "window") {
        let time = |key| text(window, key).filter(|time| milliseconds(time).is_some());
        event.set_some("start", time("from")).set_some("end", time("to"));
    }
    event.0.into()
}

/// As Elastic's own rules number them.
fn severity(severity: Severity) -> u64 {
    match severity {
        Severity::Low => 21,
        Severity::Medium => 47,
        Severity::High => 73,
        Severity::Critical => 99,
    }
}

fn host(alert: &Alert) -> Value {
    let source = &alert.source;
    let mut os = Object::new();
    os.set("type", "linux");
    for (key, value) in [("name", &source.os_name), ("version", &source.os_version)] {
        if !value.is_empty() {
            os.set(key, value.as_str());
        }
    }
    let mut host = Object::new();
    host.set("name", source.host.as_str()).set("hostname", source.host.as_str()).set_full("os", os);
    for (key, value) in [("id", &source.machine_id), ("architecture", &source.arch)] {
        if !value.is_empty() {
            host.set(key, value.as_str());
        }
    }
    host.0.into()
}

fn file(path: &str, kind: Option<&str>, known: Option<&Map<String, Value>>) -> Object {
    let (parent, name) = split_path(path);
    let mut file = Object::new();
    file.set("path", keyword(path)).set("name", keyword(name));
    if !parent.is_empty() {
        file.set("directory", keyword(parent));
    }
    if let Some((stem, extension)) = name.rsplit_once('.')
        && !stem.is_empty()
        && !extension.is_empty()
    {
        file.set("extension", keyword(extension));
    }
    file.set_some(
        "type",
        kind.map(|kind| match kind {
            "directory" => "dir",
            "symbolic link" => "symlink",
            other => other,
        }),
    );
    if let Some(known) = known {
        attributes(&mut file, known);
    }
    file
}

/// What is known of an object, by the names of `file.*`.
fn attributes(file: &mut Object, known: &Map<String, Value>) {
    file.set_some("size", number(known, "size"))
        .set_some("mode", text(known, "mode"))
        .set_some("uid", number(known, "owner").map(|uid| uid.to_string()))
        .set_some("gid", number(known, "group").map(|gid| gid.to_string()))
        .set_some("inode", number(known, "inode").map(|inode| inode.to_string()))
        .set_some("mtime", text(known, "modified").filter(|time| milliseconds(time).is_some()))
        .set_some("target_path", text(known, "target").map(keyword));
    file.set_some("hash", text(known, "sha256").map(|digest| json!({ "sha256": digest })));
}

fn process(process: &Map<String, Value>) -> Object {
    let mut result = Object::new();
    result.set_some("pid", number(process, "pid"));
    if let Some(executable) = text(process, "executable") {
        result.set("executable", keyword(executable)).set("name", keyword(split_path(executable).1));
    }
    result.set_some("command_line", text(process, "command").map(keyword));
    let mut user = Object::new();
    user.set_some("id", number(process, "user").map(|uid| uid.to_string()))
        .set_some("name", text(process, "user_name").map(keyword));
    result.set_full("user", user);
    if let Some(parent) = object(process, "parent") {
        let mut ancestor = Object::new();
        ancestor
            .set_some("pid", number(parent, "pid"))
            .set_some("executable", text(parent, "executable").map(keyword));
        result.set_full("parent", ancestor);
    }
    result
}

/// What ECS has no field for. Each key has one type, because an index refuses a key of two.
fn own(alert: &Alert) -> Object {
    let fields = &alert.fields;
    let mut own = Object::new();
    own.set("journal", &*alert.journal)
        .set_some("alert_id", alert.id.as_deref())
        .set_some("count", number(fields, "count"));
    if let Some(before) = object(fields, "before").filter(|_| object(fields, "after").is_some()) {
        let mut known = Object::new();
        attributes(&mut known, before);
        own.set_full("before", known);
    }
    let attributes = texts(fields, "attributes");
    if !attributes.is_empty() {
        own.set("attributes", attributes);
    }
    own.set_some("from", text(fields, "from").map(keyword));
    if let Some(group) = object(fields, "group") {
        own.set_some("group_id", text(group, "id").map(keyword));
        let samples: Vec<String> = texts(group, "samples").iter().map(|path| keyword(path)).collect();
        if !samples.is_empty() {
            own.set("samples", samples);
        }
    }
    if alert.resent {
        own.set("resent", true);
    }
    own
}
