//! Checks JSON against the schemas in `docs/`, for tests: the keywords of JSON Schema that those use, and stricter in
//! one thing: an object may have no key that its schema does not name.

use serde_json::Value;

/// Everything that is wrong with a value. `pointer` says which part of the schema it must fit, `""` for all of it.
///
/// # Panics
/// When the schema has a keyword that is not checked here, or nothing at `pointer`.
#[must_use]
pub fn problems(schema: &Value, pointer: &str, value: &Value) -> Vec<String> {
    let mut checker = Checker { root: schema, problems: Vec::new() };
    let part = schema.pointer(pointer).expect("the schema has this part");
    checker.check(part, value, "value");
    checker.problems
}

struct Checker<'a> {
    root: &'a Value,
    problems: Vec<String>,
}

impl<'a> Checker<'a> {
    fn expect(&mut self, holds: bool, place: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(format!("{place} {}", problem()));
        }
    }

    fn check(&mut self, schema: &'a Value, value: &Value, place: &str) {
        let keywords = schema.as_object().expect("a schema is an object");
        for (keyword, rule) in keywords {
            match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "examples" => {}
                "$ref" => {
                    let pointer = rule.as_str().unwrap_or_default().trim_start_matches('#');
                    let part = self.root.pointer(pointer).expect("the schema has what it refers to");
                    self.check(part, value, place);
                }
                "type" => {
                    let one = std::slice::from_ref(rule);
                    let types = rule.as_array().map_or(one, Vec::as_slice);
                    let is = types.iter().any(|name| is_of_type(value, name.as_str().unwrap_or_default()));
                    self.expect(is, place, || format!("is not of type {rule}: {value}"));
                }
                "enum" => {
                    let is = rule.as_array().is_some_and(|allowed| allowed.contains(value));
                    self.expect(is, place, || format!("is none of {rule}: {value}"));
                }
                "minimum" => {
                    let is = value
                        .as_f64()
                        .is_none_or(|number| rule.as_f64().is_some_and(|least| number >= least));
                    self.expect(is, place, || format!("is too small: {value}"));
                }
                "required" => {
                    for key in rule.as_array().into_iter().flatten().filter_map(Value::as_str) {
                        self.expect(value.get(key).is_some(), place, || format!("lacks {key}"));
                    }
                }
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.check(rule, item, &format!("{place}[]"));
                    }
                }
                "properties" => {
                    for (key, member) in value.as_object().into_iter().flatten() {
                        match rule.get(key) {
                            Some(rule) => self.check(rule, member, &format!("{place}.{key}")),
                            None => self.expect(false, place, || format!("has the unknown key {key}")),
                        }
                    }
                }
                "additionalProperties" => {
                    for (key, member) in value.as_object().into_iter().flatten() {
                        self.check(rule, member, &format!("{place}.{key}"));
                    }
                }
                other => panic!("the keyword {other} is not checked"),
            }
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not checked"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_said_with_its_place() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": ["integer", "null"], "minimum": 1}, "b": {"type": "array", "items": {"$ref": "#/$defs/word"}},
        }, "$defs": {"word": {"enum": ["x"]}}});

        assert_eq!(problems(&schema, "", &json!({"a": 1, "b": ["x"]})), [""; 0]);
        for (value, problem) in [
            (json!({"a": 0}), "value.a is too small: 0"),
            (json!({"b": []}), "value lacks a"),
            (json!({"a": null, "c": 1}), "value has the unknown key c"),
            (json!({"a": null, "b": ["y"]}), "value.b[] is none of [\"x\"]: \"y\""),
        ] {
            assert_eq!(problems(&schema, "", &value), [problem]);
        }
    }
}
