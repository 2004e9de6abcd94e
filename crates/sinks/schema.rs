//! Alerts as JSON documents. `docs/sinks.md` has the tables of what becomes what.

mod ecs;
mod ocsf;
mod own;

use serde_json::{Map, Value};

use crate::alert::Alert;

/// Which schema a document follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Schema {
    /// Our own: everything that the module said, in its words.
    #[default]
    Vigie,
    /// The Open Cybersecurity Schema Framework, version 1.8.0.
    Ocsf,
    /// The Elastic Common Schema, version 9.4.0.
    Ecs,
}

impl Schema {
    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vigie => "vigie",
            Self::Ocsf => "ocsf",
            Self::Ecs => "ecs",
        }
    }

    /// The document of an alert.
    #[must_use]
    pub fn document(self, alert: &Alert) -> Map<String, Value> {
        match self {
            Self::Vigie => own::document(alert),
            Self::Ocsf => ocsf::document(alert),
            Self::Ecs => ecs::document(alert),
        }
    }

    /// The document on one line, without a line feed.
    #[must_use]
    pub fn line(self, alert: &Alert) -> Vec<u8> {
        serde_json::to_vec(&self.document(alert)).expect("a document is plain data")
    }
}

/// Builds a JSON object and leaves out what is not known.
#[derive(Debug, Default)]
struct Object(Map<String, Value>);

impl Object {
    fn new() -> Self {
        Self::default()
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn set_some(&mut self, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// Adds an object unless it is empty.
    fn set_full(&mut self, key: &str, object: Object) -> &mut Self {
        if !object.0.is_empty() {
            self.set(key, object.0);
        }
        self
    }
}

fn object<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a Map<String, Value>> {
    fields.get(key).and_then(Value::as_object)
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A number that other systems can hold: they keep 63 bits.
fn number(fields: &Map<String, Value>, key: &str) -> Option<u64> {
    fields.get(key).and_then(Value::as_u64).filter(|number| i64::try_from(*number).is_ok())
}

/// A number of 31 bits: process and user ids where a schema has integers.
fn small(fields: &Map<String, Value>, key: &str) -> Option<u64> {
    number(fields, key).filter(|number| i32::try_from(*number).is_ok())
}

/// A container's name, whether it stands alone or in an object.
fn container(process: &Map<String, Value>) -> Option<&str> {
    text(process, "container").or_else(|| text(object(process, "container")?, "id"))
}

fn texts(fields: &Map<String, Value>, key: &str) -> Vec<String> {
    let items = fields.get(key).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether the alert is of one file, and says which.
fn is_of_a_file(alert: &Alert) -> bool {
    matches!(alert.event(), "created" | "changed" | "removed" | "renamed" | "touched" | "digest")
        && !alert.text("path").is_empty()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::strategy::{Strategy as _, ValueTree as _};
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::alert::tests::{any_alert, hard};

    /// Writes 200 alerts in each schema where the checkers of `make schemas` find them.
    #[test]
    #[ignore = "make schemas runs it for its checkers"]
    fn documents_for_the_checkers_are_written() {
        let directory = std::env::var_os("VIGIE_SCHEMA_SAMPLES").unwrap();
        let mut runner = TestRunner::deterministic();
        for schema in [Schema::Vigie, Schema::Ocsf, Schema::Ecs] {
            let path = std::path::Path::new(&directory).join(format!("{}.jsonl", schema.name()));
            let mut file = std::fs::File::create(path).unwrap();
            let mut alerts = vec![hard()];
            alerts.extend((0..200).map(|_| any_alert().new_tree(&mut runner).unwrap().current()));
            for alert in alerts {
                file.write_all(&schema.line(&alert)).unwrap();
                file.write_all(b"\n").unwrap();
            }
        }
    }

    #[test]
    fn every_schema_has_the_number_the_severity_and_the_path_of_a_hard_alert() {
        let alert = hard();
        let [own, ocsf, ecs] =
            [Schema::Vigie, Schema::Ocsf, Schema::Ecs].map(|schema| Value::Object(schema.document(&alert)));

        assert_eq!(
            (&own["seq"], &own["severity"], &own["alert"]["path"]),
            (&42.into(), &"critical".into(), &alert.text("path").into())
        );
        assert_eq!(
            (&ocsf["metadata"]["sequence"], &ocsf["severity_id"], &ocsf["file"]["path"]),
            (&42.into(), &5.into(), &alert.text("path").into())
        );
        assert_eq!(
            (&ecs["event"]["sequence"], &ecs["event"]["severity"], &ecs["file"]["path"]),
            (&42.into(), &99.into(), &alert.text("path").into())
        );
        assert_eq!(ocsf["type_uid"], 100_103);
    }

    proptest::proptest! {
        #[test]
        fn every_document_is_one_line_and_its_type_uid_is_made_of_class_and_activity(alert in any_alert()) {
            for schema in [Schema::Vigie, Schema::Ocsf, Schema::Ecs] {
                let line = schema.line(&alert);
                proptest::prop_assert!(!line.contains(&b'\n'));
                let back: Value = serde_json::from_slice(&line).unwrap();
                if schema == Schema::Ocsf {
                    let id = |key: &str| back[key].as_u64().unwrap();
                    proptest::prop_assert_eq!(id("type_uid"), id("class_uid") * 100 + id("activity_id"));
                    proptest::prop_assert_eq!(id("category_uid"), id("class_uid") / 1000);
                }
            }
        }
    }
}
