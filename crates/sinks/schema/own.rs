//! Our own schema: the record, and in it what the module said.

use serde_json::{Map, Value};

use super::Object;
use crate::alert::Alert;

pub(super) fn document(alert: &Alert) -> Map<String, Value> {
    let mut host = Object::new();
    host.set("name", alert.source.host.as_str());
    if !alert.source.machine_id.is_empty() {
        host.set("id", alert.source.machine_id.as_str());
    }
    let mut document = Object::new();
    document
        .set("schema", "vigie.alert/1")
        .set("journal", &*alert.journal)
        .set("seq", alert.seq)
        .set("time", alert.time.as_str())
        .set_full("host", host)
        .set("module", alert.module.as_str())
        .set_some("id", alert.id.as_deref())
        .set("severity", alert.severity.name())
        .set("message", alert.sentence.as_str());
    if !alert.fields.is_empty() {
        document.set("alert", alert.fields.clone());
    }
    if alert.resent {
        document.set("resent", true);
    }
    document.0
}
