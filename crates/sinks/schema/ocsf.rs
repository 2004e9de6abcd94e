//! The Open Cybersecurity Schema Framework 1.8.0: File System Activity for what happened to one file, Detection Finding
//! for everything else. What has no place there is under `unmapped`.

use serde_json::{Map, Value, json};
use vigie_protocol::severity::Severity;

use super::{Object, container, is_of_a_file, number, object, small, text, texts};
use crate::alert::Alert;
use crate::text::{milliseconds, split_path};

const VERSION: &str = "1.8.0";

/// Most paths that a finding names as evidence.
const MAX_EVIDENCES: usize = 20;

pub(super) fn document(alert: &Alert) -> Map<String, Value> {
    let fields = &alert.fields;
    let mut document = Object::new();
    let (class, activity) =
        if is_of_a_file(alert) { (1001, file_activity(alert)) } else { (2004, finding_activity(alert)) };
    document
        .set("class_uid", class)
        .set("category_uid", class / 1000)
        .set("activity_id", activity)
        .set("type_uid", class * 100 + activity)
        .set("severity_id", severity(alert.severity))
        .set("time", text(fields, "time").and_then(milliseconds).unwrap_or_else(|| alert.milliseconds()))
        .set("metadata", metadata(alert))
        .set("device", device(alert))
        .set("message", alert.sentence.as_str())
        .set_some("count", small(fields, "count").filter(|count| *count > 0));
    if activity == 99 {
        document.set("activity_name", alert.event());
    }
    if let Some(window) = object(fields, "window") {
        document
            .set_some("start_time", text(window, "from").and_then(milliseconds))
            .set_some("end_time", text(window, "to").and_then(milliseconds));
    }
    if class == 1001 {
        document.set("actor", actor(fields));
        let (before, after) = (object(fields, "before"), object(fields, "after"));
        let path = alert.text("path");
        let old_path = text(fields, "from").filter(|_| alert.event() == "renamed").unwrap_or(path);
        match (before, after) {
            (Some(before), Some(after)) => {
                document.set("file", file(old_path, fields, Some(before)));
                document.set("file_result", file(path, fields, Some(after)));
            }
            (before, after) => {
                document.set("file", file(old_path, fields, before.or(after)));
                if old_path != path {
                    document.set("file_result", file(path, fields, after));
                }
            }
        }
    } else {
        finding(&mut document, alert);
    }
    document.set_full("unmapped", unmapped(alert));
    document.0
}

fn severity(severity: Severity) -> u64 {
    match severity {
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}

/// The activity of class 1001.
fn file_activity(alert: &Alert) -> u64 {
    match alert.event() {
        "created" => 1,
        "removed" => 4,
        "renamed" => 5,
        "changed" => changed(&texts(&alert.fields, "attributes")),
        _ => 99,
    }
}

fn changed(attributes: &[String]) -> u64 {
    let any = |names: &[&str]| attributes.iter().any(|attribute| names.contains(&attribute.as_str()));
    if attributes.is_empty() || any(&["content", "size", "kind", "target"]) {
        3
    } else if any(&["owner", "group", "acl", "capabilities", "selinux_label"]) {
        7
    } else {
        6
    }
}

/// The activity of class 2004: created, or closed when somebody declared it right.
fn finding_activity(alert: &Alert) -> u64 {
    if alert.event() == "accepted" { 3 } else { 1 }
}

fn metadata(alert: &Alert) -> Value {
    let mut metadata = Object::new();
    metadata
        .set("version", VERSION)
        .set(
            "product",
            json!({"name": "Vigie", "vendor_name": "Vigie", "version": alert.source.version, "feature": {"name": alert.module}}),
        )
        .set("uid", alert.unique())
        .set("sequence", alert.seq)
        .set("profiles", json!(["host", "container", "linux/linux_users"]));
    let tags = texts(&alert.fields, "tags");
    if !tags.is_empty() {
        metadata.set("labels", tags);
    }
    if alert.milliseconds() != 0 {
        metadata.set("logged_time", alert.milliseconds());
    }
    metadata.0.into()
}

fn device(alert: &Alert) -> Value {
    let source = &alert.source;
    let mut os = Object::new();
    os.set("type_id", 200)
        .set("name", if source.os_name.is_empty() { "Linux" } else { source.os_name.as_str() });
    if !source.os_version.is_empty() {
        os.set("version", source.os_version.as_str());
    }
    let mut device = Object::new();
    device.set("type_id", 1).set("hostname", source.host.as_str()).set_full("os", os);
    if !source.machine_id.is_empty() {
        device.set("uid", source.machine_id.as_str());
    }
    device.0.into()
}

fn program(path: &str) -> Value {
    let (_, name) = split_path(path);
    json!({"name": name, "path": path, "type_id": 1})
}

fn actor(fields: &Map<String, Value>) -> Value {
    match object(fields, "process").and_then(process) {
        Some(process) => json!({ "process": process }),
        None => json!({"app_name": "unknown"}),
    }
}

fn process(process: &Map<String, Value>) -> Option<Value> {
    let mut result = Object::new();
    result.set("pid", small(process, "pid")?);
    if let Some(executable) = text(process, "executable") {
        let (_, name) = split_path(executable);
        result.set("name", name).set("path", executable).set("file", program(executable));
    }
    result.set_some("cmd_line", text(process, "command"));
    let mut user = Object::new();
    user.set_some("uid", number(process, "user").map(|uid| uid.to_string()))
        .set_some("name", text(process, "user_name"));
    result
        .set_full("user", user)
        .set_some("euid", small(process, "user_now").or_else(|| small(process, "user")))
        .set_some("auid", small(process, "login_user"));
    if let Some(id) = container(process) {
        result.set("container", json!({ "uid": id }));
    }
    if let Some(parent) = object(process, "parent")
        && let Some(pid) = small(parent, "pid")
    {
        let mut ancestor = Object::new();
        ancestor.set("pid", pid).set_some("file", text(parent, "executable").map(program));
        result.set("parent_process", ancestor.0);
    }
    Some(result.0.into())
}

fn file(path: &str, fields: &Map<String, Value>, known: Option<&Map<String, Value>>) -> Value {
    let (parent, name) = split_path(path);
    let empty = Map::new();
    let known = known.unwrap_or(&empty);
    let kind = text(known, "kind").or_else(|| text(fields, "kind")).unwrap_or_default();
    let mut file = Object::new();
    file.set("path", path).set("name", name).set("type_id", kind_number(kind));
    if !parent.is_empty() {
        file.set("parent_folder", parent);
    }
    if kind_number(kind) == 99 {
        file.set("type", kind);
    }
    file.set_some("size", number(known, "size"))
        .set_some("uid", number(known, "inode").map(|inode| inode.to_string()))
        .set_some("modified_time", text(known, "modified").and_then(milliseconds));
    if let Some(digest) = text(known, "sha256") {
        file.set("hashes", json!([{"algorithm_id": 3, "algorithm": "SHA-256", "value": digest}]));
    }
    if let Some(owner) = number(known, "owner") {
        file.set("owner", json!({"uid": owner.to_string()}));
    }
    file.0.into()
}

fn kind_number(kind: &str) -> u64 {
    match kind {
        "file" => 1,
        "directory" => 2,
        "character device" => 3,
        "block device" => 4,
        "socket" => 5,
        "fifo" => 6,
        "symbolic link" => 7,
        "" => 0,
        _ => 99,
    }
}

fn finding(document: &mut Object, alert: &Alert) {
    let fields = &alert.fields;
    let mut info = Object::new();
    info.set("uid", alert.unique()).set("title", alert.sentence.as_str());
    if let Some(rule) = text(fields, "rule") {
        info.set("analytic", json!({"name": rule, "type_id": 1}));
    }
    if !alert.event().is_empty() {
        info.set("types", json!([alert.event()]));
    }
    document.set("finding_info", info.0);
    document.set("status_id", if alert.event() == "accepted" { 4 } else { 1 });
    let mut paths = texts(object(fields, "group").unwrap_or(&Map::new()), "samples");
    if let Some(path) = text(fields, "path") {
        paths.insert(0, path.to_owned());
    }
    let actor = object(fields, "process").and_then(process);
    let evidences: Vec<Value> = paths
        .iter()
        .take(MAX_EVIDENCES)
        .map(|path| {
            let mut evidence = Object::new();
            evidence.set("file", file(path, fields, None));
            evidence.set_some("process", actor.clone());
            evidence.0.into()
        })
        .collect();
    if !evidences.is_empty() {
        document.set("evidences", evidences);
    }
}

/// What the alert has and the schema does not; in the alert's own words.
fn unmapped(alert: &Alert) -> Object {
    let mut unmapped = Object::new();
    for key in [
        "rule",
        "tags",
        "attributes",
        "package",
        "group",
        "refers_to",
        "other_processes",
        "path_sha256",
        "event",
    ] {
        unmapped.set_some(key, alert.fields.get(key).cloned());
    }
    for side in ["before", "after"] {
        let Some(known) = object(&alert.fields, side) else { continue };
        let mut rest = Object::new();
        for (key, value) in known {
            if !matches!(key.as_str(), "sha256" | "size" | "owner" | "modified" | "inode" | "kind") {
                rest.set(key, value.clone());
            }
        }
        unmapped.set_full(side, rest);
    }
    unmapped.set_some("alert_id", alert.id.as_deref());
    if alert.resent {
        unmapped.set("resent", true);
    }
    unmapped
}
