//! Parameters of a query as they were given: taken one after the other, and every problem told by the parameter's name.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::module::Query;

/// What was given and not taken yet.
#[derive(Debug)]
pub struct Given {
    values: Map<String, Value>,
    problems: Vec<String>,
}

impl Given {
    /// The parameters of a query.
    ///
    /// # Errors
    /// When they are no object.
    pub fn of(query: &Query) -> Result<Self, Vec<String>> {
        let values = query.parse().map_err(|error| vec![error.to_string()])?;
        Ok(Self { values, problems: Vec::new() })
    }

    /// Takes a parameter; `null` is the same as none.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// Says what is wrong with a parameter, or with one value of it.
    pub fn complain(&mut self, place: &str, problem: &str) {
        self.problems.push(format!("parameter {place}: {problem}"));
    }

    /// Takes an absolute path.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        let value = self.take(name)?;
        let path = value.as_str().filter(|path| path.starts_with('/') && !path.contains('\0'));
        if path.is_none() {
            self.complain(name, "expected an absolute path");
        }
        path.map(PathBuf::from)
    }

    /// Takes a switch, which is off when it is not given.
    pub fn switch(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Bool(value)) => value,
            Some(_) => {
                self.complain(name, "expected true or false");
                false
            }
        }
    }

    /// Takes at most `most` texts, or one.
    pub fn texts<T>(&mut self, name: &str, most: usize, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.list(name, most, |value| match value {
            Value::String(text) => read(text),
            _ => Err("expected a text".to_owned()),
        })
    }

    /// As [`Given::texts`], and a number is as good as its digits.
    pub fn words<T>(&mut self, name: &str, most: usize, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.list(name, most, |value| match value {
            Value::String(text) => read(text),
            Value::Number(number) => read(&number.to_string()),
            _ => Err("expected a text".to_owned()),
        })
    }

    fn list<T>(&mut self, name: &str, most: usize, read: impl Fn(&Value) -> Result<T, String>) -> Vec<T> {
        let values = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(value @ (Value::String(_) | Value::Number(_))) => vec![value],
            Some(_) => {
                self.complain(name, "expected a list of texts");
                return Vec::new();
            }
        };
        if values.len() > most {
            self.complain(name, &format!("{} values, at most {most} are allowed", values.len()));
            return Vec::new();
        }
        let mut all = Vec::new();
        for (index, value) in values.iter().enumerate() {
            match read(value) {
                Ok(value) => all.push(value),
                Err(problem) => self.complain(&format!("{name}[{index}]"), &problem),
            }
        }
        all
    }

    /// Ends the reading: what was not taken is unknown.
    ///
    /// # Errors
    /// Every problem, as a sentence that names the parameter.
    pub fn end(mut self, known: &[&str]) -> Result<(), Vec<String>> {
        for name in self.values.keys() {
            self.problems.push(format!("unknown parameter {name:?}; known: {}", known.join(", ")));
        }
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    fn given(parameters: &Value) -> Given {
        Given::of(&Query::new(Some(to_raw_value(parameters).unwrap()))).unwrap()
    }

    #[test]
    fn one_value_is_a_list_and_null_is_nothing() {
        let mut given =
            given(&json!({"one": "a", "many": ["b", "c"], "number": 7, "none": null, "on": true}));
        let text = |text: &str| Ok(text.to_owned());

        assert_eq!(given.texts("one", 10, text), ["a"]);
        assert_eq!(given.texts("many", 10, text), ["b", "c"]);
        assert_eq!(given.words("number", 10, text), ["7"]);
        assert!(given.texts("none", 10, text).is_empty() && given.path("none").is_none());
        assert!(given.switch("on") && !given.switch("off"));
        assert_eq!(given.end(&[]), Ok(()));
    }

    #[test]
    fn every_problem_names_its_parameter() {
        let mut given = given(
            &json!({"root": "x", "many": ["a", 1], "long": ["a", "b"], "switch": 1, "object": {}, "odd": 1}),
        );
        let text = |text: &str| Ok(text.to_owned());

        assert_eq!(given.path("root"), None);
        assert_eq!(given.texts("many", 10, text), ["a"]);
        assert!(given.texts("long", 1, text).is_empty() && given.words("object", 1, text).is_empty());
        assert!(!given.switch("switch"));

        let problems = given.end(&["root", "many"]).unwrap_err();
        assert_eq!(
            problems,
            [
                "parameter root: expected an absolute path",
                "parameter many[1]: expected a text",
                "parameter long: 2 values, at most 1 are allowed",
                "parameter object: expected a list of texts",
                "parameter switch: expected true or false",
                "unknown parameter \"odd\"; known: root, many",
            ]
        );
    }
}
