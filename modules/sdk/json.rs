//! Reading JSON the way Go's `encoding/json` does, for input that MIG's programs and operators write.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Reads `T` from a JSON text whose keys may have any case at every level, as MIG accepts them. `T` names its
/// keys in lower case. Absent text and `null` read as an empty object.
///
/// # Errors
/// When the text does not have the form of `T`; the message names the field.
pub fn from_any_case<T: DeserializeOwned>(raw: Option<&RawValue>) -> Result<T, serde_json::Error> {
    let value = match raw {
        Some(raw) => serde_json::from_str(raw.get())?,
        None => Value::Null,
    };
    let value = if value.is_null() { Value::Object(Map::new()) } else { lower_keys(value) };
    serde_json::from_value(value)
}

fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), lower_keys(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(lower_keys).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Outer {
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Inner {
        path: Vec<String>,
    }

    #[test]
    fn keys_are_matched_without_regard_to_case_at_every_level() {
        let raw = RawValue::from_string(r#"{"INNER":{"Path":["/A"]}}"#.to_owned()).unwrap();

        let outer: Outer = from_any_case(Some(&raw)).unwrap();

        assert_eq!(outer.inner.unwrap().path, ["/A"]);
    }

    #[test]
    fn nothing_reads_as_an_empty_object() {
        let outer: Outer = from_any_case(None).unwrap();

        assert_eq!(outer, Outer { inner: None });
    }
}
