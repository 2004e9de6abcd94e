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
    if value.is_array() {
        // Serde would read a list as the fields in their order.
        return Err(serde::de::Error::custom("expected an object, found a list"));
    }
    let value = if value.is_null() { Value::Object(Map::new()) } else { lower_keys(value) };
    serde_json::from_value(value)
}

/// Checks the value of one key; the error says what it must be.
pub type KeyCheck<'a> = &'a dyn Fn(&Value) -> Result<(), String>;

/// Checks a module's configuration of sections with keys, whose names may have any case. `sections` lists what
/// there may be.
///
/// # Errors
/// Every problem, as the key that has it, `section.key`, and what is wrong.
pub fn check_sections(
    config: &Value,
    sections: &[(&str, &[(&str, KeyCheck<'_>)])],
) -> Result<(), Vec<(String, String)>> {
    let mut problems = Vec::new();
    let empty = Map::new();
    let config = match config {
        Value::Null => &empty,
        Value::Object(map) => map,
        _ => return Err(vec![(String::new(), "the configuration must consist of sections".to_owned())]),
    };
    for (name, content) in config {
        let Some((_, keys)) = sections.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            let known: Vec<&str> = sections.iter().map(|(known, _)| *known).collect();
            problems.push((name.clone(), format!("unknown section; known: {}", known.join(", "))));
            continue;
        };
        let Value::Object(content) = content else {
            if !content.is_null() {
                problems.push((name.clone(), "must be a section".to_owned()));
            }
            continue;
        };
        for (key, value) in content {
            let found = keys.iter().find(|(known, _)| known.eq_ignore_ascii_case(key));
            let checked = match found {
                Some((_, check)) => check(value),
                None => {
                    let known: Vec<&str> = keys.iter().map(|(known, _)| *known).collect();
                    Err(format!("unknown key; known: {}", known.join(", ")))
                }
            };
            if let Err(problem) = checked {
                problems.push((format!("{name}.{key}"), problem));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
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
    fn a_list_is_not_an_object() {
        let raw = RawValue::from_string("[null]".to_owned()).unwrap();

        assert!(from_any_case::<Outer>(Some(&raw)).is_err());
    }

    #[test]
    fn nothing_reads_as_an_empty_object() {
        let outer: Outer = from_any_case(None).unwrap();

        assert_eq!(outer, Outer { inner: None });
    }
}
