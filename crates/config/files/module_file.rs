//! A module's own file, `NAME.cfg` or `NAME.toml`: from the value tree to the JSON that the module receives.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::mig_agent_file::{as_boolean, as_integer};
use super::origin::{cut, line};
use super::reader::{Problems, describe, in_file_order, unknown};
use crate::builtin::{ConfigCheck, FOREIGN_MODULES, KeyShape, KeyType, TypedKey, find};

/// In which format a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    /// MIG's: all values are texts or absent.
    Gcfg,
    /// TOML: values have types.
    Toml,
}

/// What is known of a module's configuration.
#[derive(Debug, Clone)]
pub(crate) struct ModuleShape<'a> {
    keys: Vec<KnownKey<'a>>,
    empty_config: &'static str,
    check: Option<ConfigCheck>,
    /// A list without items is `null`, as MIG's agent writes it; otherwise it is a list.
    empty_is_null: bool,
}

/// A key with its spelling and its type.
#[derive(Debug, Clone, Copy)]
struct KnownKey<'a> {
    section: &'a str,
    key: &'a str,
    kind: KeyType,
}

impl<'a> From<&'a KeyShape> for KnownKey<'a> {
    fn from(shape: &'a KeyShape) -> Self {
        Self { section: shape.section, key: shape.key, kind: shape.kind }
    }
}

impl<'a> From<&'a TypedKey> for KnownKey<'a> {
    fn from(typed: &'a TypedKey) -> Self {
        Self { section: &typed.section, key: &typed.key, kind: typed.kind }
    }
}

impl<'a> ModuleShape<'a> {
    /// Finds the shape of a module: among those built in, in what the agent's configuration says of it (`types`), and
    /// among those known by name.
    pub(crate) fn of(
        builtins: &[crate::builtin::BuiltinModule],
        name: &str,
        types: &'a [TypedKey],
    ) -> Option<Self> {
        let known = |keys: &'static [KeyShape], empty_config, check| Self {
            keys: keys.iter().map(KnownKey::from).collect(),
            empty_config,
            check,
            empty_is_null: true,
        };
        if let Some(builtin) = find(builtins, name) {
            return Some(known(builtin.keys, builtin.empty_config, Some(builtin.check)));
        }
        if !types.is_empty() {
            let keys = types.iter().map(KnownKey::from).collect();
            return Some(Self { keys, empty_config: "{}", check: None, empty_is_null: false });
        }
        let foreign = FOREIGN_MODULES.iter().find(|foreign| foreign.name == name)?;
        Some(known(foreign.keys, foreign.empty_config, None))
    }

    /// The configuration of a module that has no file.
    pub(crate) fn empty(shape: Option<&Self>) -> Json {
        let text = shape.map_or("{}", |shape| shape.empty_config);
        serde_json::from_str(text).unwrap_or_else(|_| Json::Object(serde_json::Map::new()))
    }
}

/// The lines of a file's keys, for problems that are found later: by `section.key` and `section.key[index]`.
type LineIndex = BTreeMap<String, usize>;

/// Turns a file's tree into the module's configuration.
pub(crate) fn module_config(
    tree: &Map<String, Value>,
    notation: Notation,
    shape: Option<&ModuleShape<'_>>,
    problems: &mut Problems,
) -> Json {
    match shape {
        Some(shape) => shaped(tree, notation, shape, problems),
        None => match notation {
            Notation::Gcfg => Json::Object(gcfg_as_written(tree, problems)),
            Notation::Toml => Json::Object(toml_as_written(tree, problems)),
        },
    }
}

fn shaped(
    tree: &Map<String, Value>,
    notation: Notation,
    shape: &ModuleShape<'_>,
    problems: &mut Problems,
) -> Json {
    let mut config = ModuleShape::empty(Some(shape));
    let mut lines = LineIndex::new();
    for (section, value) in in_file_order(tree) {
        if problems.is_full() {
            return config;
        }
        let spelled = shape.keys.iter().find(|shape| shape.section.eq_ignore_ascii_case(section));
        let Some(spelled) = spelled.map(|shape| shape.section) else {
            let known = shape.keys.iter().map(|shape| shape.section);
            problems.add(line(value), cut(section), unknown("section", section, known));
            continue;
        };
        lines.extend(line(value).map(|line| (section.to_lowercase(), line)));
        let of_section = || shape.keys.iter().filter(|shape| shape.section == spelled);
        let named = of_section().find(|shape| shape.kind == KeyType::Named);
        let known = of_section().filter(|shape| shape.kind != KeyType::Named).collect();
        let mut reading =
            Reading { known, notation, empty_is_null: shape.empty_is_null, problems, lines: &mut lines };
        let Some((own, parts)) = reading.parts(spelled, value, named.is_some()) else { continue };
        for (key, json) in reading.keys(cut(section), own) {
            config[spelled][key] = json;
        }
        for (part, keys) in parts {
            let of_part = reading.keys(&format!("{}.{}", cut(section), cut(part)), in_file_order(keys));
            let mut object = serde_json::Map::from_iter([("name".to_owned(), Json::from(part.as_str()))]);
            object.extend(of_part.into_iter().map(|(key, json)| (key.to_owned(), json)));
            if let Some(named) = named {
                match &mut config[spelled][named.key] {
                    Json::Array(all) => all.push(object.into()),
                    none => *none = Json::Array(vec![object.into()]),
                }
            }
        }
    }
    // A half-read configuration would only give further problems that are not there.
    if let Some(check) = shape.check
        && problems.is_empty()
        && let Err(found) = check(&config)
    {
        for (key, message) in found {
            let lower = key.to_lowercase();
            let section = lower.split('.').next().unwrap_or_default();
            let plain = lower.split('[').next().unwrap_or_default();
            let line = [&lower, plain, section].iter().find_map(|key| lines.get(*key)).copied();
            problems.add(line, key, message);
        }
    }
    config
}

fn index_lines(name: &str, value: &Value, lines: &mut LineIndex) {
    let name = name.to_lowercase();
    if let ValueKind::Array(items) = &value.kind {
        let mut index = 0;
        for item in items {
            // A key without a value begins the list anew.
            if item.kind == ValueKind::Nil {
                index = 0;
                continue;
            }
            lines.extend(line(item).map(|line| (format!("{name}[{index}]"), line)));
            index += 1;
        }
    }
    lines.extend(line(value).map(|line| (name, line)));
}

/// A key and its value, as the file has them.
type Entry<'a> = (&'a String, &'a Value);

/// A named part of a section with its keys.
type Part<'a> = (&'a String, &'a Map<String, Value>);

/// Reads the keys of one section.
struct Reading<'a, 'p> {
    known: Vec<&'a KnownKey<'a>>,
    notation: Notation,
    empty_is_null: bool,
    problems: &'p mut Problems,
    lines: &'p mut LineIndex,
}

impl<'a> Reading<'a, '_> {
    /// The keys of a section itself and those of its named parts.
    fn parts<'v>(
        &mut self,
        section: &str,
        value: &'v Value,
        may_have_parts: bool,
    ) -> Option<(Vec<Entry<'v>>, Vec<Part<'v>>)> {
        let ValueKind::Table(table) = &value.kind else {
            let message = format!("{} is not a table: write it under [{section}]", describe(&value.kind));
            self.problems.add(line(value), section, message);
            return None;
        };
        let (mut own, mut parts) = (Vec::new(), Vec::new());
        for (name, value) in in_file_order(table) {
            match (&value.kind, self.notation) {
                (ValueKind::Table(keys), Notation::Gcfg) if name.is_empty() => {
                    own.extend(in_file_order(keys))
                }
                (ValueKind::Table(keys), _) if may_have_parts => {
                    let name_in_lines = format!("{section}.{name}").to_lowercase();
                    self.lines.extend(line(value).map(|line| (name_in_lines, line)));
                    parts.push((name, keys));
                }
                (_, Notation::Gcfg) => {
                    self.problems.add(
                        line(value),
                        section,
                        format!("the section has no part {:?}", cut(name)),
                    );
                }
                (_, Notation::Toml) => own.push((name, value)),
            }
        }
        Some((own, parts))
    }

    fn keys<'v>(&mut self, section: &str, keys: Vec<Entry<'v>>) -> Vec<(&'a str, Json)> {
        let mut read = Vec::new();
        for (key, value) in keys {
            if self.problems.is_full() {
                break;
            }
            let name = format!("{section}.{}", cut(key));
            let Some(found) = self.known.iter().find(|shape| shape.key.eq_ignore_ascii_case(key)) else {
                let message = unknown("key", key, self.known.iter().map(|shape| shape.key));
                self.problems.add(line(value), name, message);
                continue;
            };
            index_lines(&name, value, self.lines);
            let converted = match self.notation {
                Notation::Gcfg => gcfg_value(value, found.kind),
                Notation::Toml => toml_value(value, found.kind),
            };
            match converted {
                Ok(Json::Null) if !self.empty_is_null && found.kind == KeyType::Strings => {
                    read.push((found.key, Json::Array(Vec::new())));
                }
                Ok(json) => read.push((found.key, json)),
                Err((line, message)) => self.problems.add(line, name, message),
            }
        }
        read
    }
}

/// A value of a shape, or where and why it is none.
type Converted = Result<Json, (Option<usize>, String)>;

/// Converts a key of MIG's format: the last of several values counts, a list takes all of them.
fn gcfg_value(value: &Value, kind: KeyType) -> Converted {
    let ValueKind::Array(items) = &value.kind else { return Ok(Json::Null) };
    if kind == KeyType::Strings {
        return Ok(gcfg_list(items));
    }
    let Some(last) = items.last() else { return Ok(Json::Null) };
    let json = match (kind, &last.kind) {
        (KeyType::Boolean, kind) => as_boolean(kind).map(Json::from),
        (KeyType::Integer, kind) => as_integer(kind).map(Json::from),
        (KeyType::String, ValueKind::String(text)) => Some(Json::from(text.as_str())),
        _ => None,
    };
    let expected = match kind {
        KeyType::Boolean => "one of true, yes, on, 1, false, no, off, 0",
        KeyType::Integer => "an integer of at most 64 bits, without a unit",
        KeyType::String | KeyType::Strings | KeyType::Named => "a text: write key = value",
    };
    json.ok_or_else(|| (line(last), format!("{} is not {expected}", describe(&last.kind))))
}

/// The texts since the last key without a value. An empty list is `null`, as MIG's agent writes it.
fn gcfg_list(items: &[Value]) -> Json {
    let mut list = Vec::new();
    for item in items {
        match &item.kind {
            ValueKind::String(text) => list.push(Json::from(text.as_str())),
            _ => list.clear(),
        }
    }
    if list.is_empty() { Json::Null } else { Json::Array(list) }
}

fn toml_value(value: &Value, kind: KeyType) -> Converted {
    let refuse = |value: &Value, expected: &str| {
        Err((line(value), format!("{} is not {expected}", describe(&value.kind))))
    };
    match (kind, &value.kind) {
        (KeyType::Boolean, ValueKind::Boolean(value)) => Ok(Json::from(*value)),
        (KeyType::Boolean, _) => refuse(value, "true or false"),
        (KeyType::Integer, ValueKind::I64(value)) => Ok(Json::from(*value)),
        (KeyType::Integer, _) => refuse(value, "an integer"),
        (KeyType::String, ValueKind::String(text)) => Ok(Json::from(text.as_str())),
        (KeyType::String, _) => refuse(value, "a text in quotes"),
        (KeyType::Strings, ValueKind::Array(items)) => {
            let mut list = Vec::new();
            for item in items {
                match &item.kind {
                    ValueKind::String(text) => list.push(Json::from(text.as_str())),
                    _ => return refuse(item, "a text in quotes"),
                }
            }
            Ok(if list.is_empty() { Json::Null } else { Json::Array(list) })
        }
        (KeyType::Strings | KeyType::Named, _) => refuse(value, "a list of texts in quotes"),
    }
}

/// A file of a module whose types nobody told us: a key that occurs once is a text, one that is repeated a
/// list of texts; names are in lower case; a section's part is an object below the section.
fn gcfg_as_written(tree: &Map<String, Value>, problems: &mut Problems) -> serde_json::Map<String, Json> {
    let mut config = serde_json::Map::new();
    for (section, value) in tree {
        let ValueKind::Table(parts) = &value.kind else { continue };
        let mut object = serde_json::Map::new();
        // The keys without a part come first in the order of names, so a part never hides one.
        let parts: BTreeMap<_, _> = parts.iter().collect();
        for (part, keys) in parts {
            let ValueKind::Table(keys) = &keys.kind else { continue };
            let keys = keys.iter().map(|(key, value)| (key.clone(), gcfg_untyped(value)));
            if part.is_empty() {
                object.extend(keys);
            } else if object.contains_key(part) {
                let message = format!("{:?} is both a key and a part of the section", cut(part));
                problems.add(line(value), cut(section), message);
            } else {
                object.insert(part.clone(), Json::Object(keys.collect()));
            }
        }
        config.insert(section.clone(), Json::Object(object));
    }
    config
}

fn gcfg_untyped(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Array(items) => match items.as_slice() {
            [one] => match &one.kind {
                ValueKind::String(text) => Json::from(text.as_str()),
                _ => Json::Null,
            },
            items => gcfg_list(items),
        },
        _ => Json::Null,
    }
}

fn toml_as_written(tree: &Map<String, Value>, problems: &mut Problems) -> serde_json::Map<String, Json> {
    tree.iter().map(|(key, value)| (key.clone(), toml_untyped(key, value, problems))).collect()
}

fn toml_untyped(key: &str, value: &Value, problems: &mut Problems) -> Json {
    match &value.kind {
        ValueKind::Boolean(value) => Json::from(*value),
        ValueKind::I64(value) => Json::from(*value),
        ValueKind::String(text) => Json::from(text.as_str()),
        ValueKind::Float(number) if number.is_finite() => Json::from(*number),
        ValueKind::Table(table) => Json::Object(toml_as_written(table, problems)),
        ValueKind::Array(items) => {
            Json::Array(items.iter().map(|item| toml_untyped(key, item, problems)).collect())
        }
        other => {
            let message = format!("{} cannot be sent to a module", describe(other));
            problems.add(line(value), cut(key), message);
            Json::Null
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use config::Format as _;
    use serde_json::json;

    use super::super::gcfg::Gcfg;
    use super::super::origin::SyntaxError;
    use super::super::toml_format::Toml;
    use super::*;
    use crate::builtin::tests::BUILTINS;

    /// Reads a module's text as the agent does; the problems as `LINE: KEY: MESSAGE`.
    fn read(module: &str, text: &str, notation: Notation) -> Result<Json, Vec<(Option<usize>, String)>> {
        let file = Path::new("/m.cfg").to_owned();
        let tree = match notation {
            Notation::Gcfg => Gcfg { file: file.clone() }.parse(None, text),
            Notation::Toml => Toml { file: file.clone() }.parse(None, text),
        };
        let tree = tree.map_err(|error| {
            let error = error.downcast::<SyntaxError>().expect("the formats have one error type");
            vec![(Some(error.position.line), error.to_string())]
        })?;
        let mut problems = Problems::new(&file);
        let types = types_of(module);
        let shape = ModuleShape::of(BUILTINS, module, &types);
        let config = module_config(&tree, notation, shape.as_ref(), &mut problems);
        if problems.is_empty() {
            Ok(config)
        } else {
            let list = problems.into_sorted();
            Err(list.into_iter().map(|p| (p.line, format!("{}: {}", p.key.unwrap(), p.message))).collect())
        }
    }

    /// What an agent's configuration says of the module `typed`.
    fn types_of(module: &str) -> Vec<TypedKey> {
        let key = |section: &str, key: &str, kind| TypedKey {
            section: section.to_owned(),
            key: key.to_owned(),
            kind,
        };
        let all = [
            key("Scan", "Limit", KeyType::Integer),
            key("Scan", "Deep", KeyType::Boolean),
            key("Scan", "Path", KeyType::Strings),
            key("Scan", "Name", KeyType::String),
        ];
        if module == "typed" { all.into() } else { Vec::new() }
    }

    #[test]
    fn values_of_a_module_whose_types_are_stated_arrive_typed_from_both_notations() {
        let expected =
            serde_json::json!({"Scan": {"Limit": 5, "Deep": true, "Path": ["/a", "/b"], "Name": "7"}});
        let cfg = "[scan]\nlimit = 5\ndeep = yes\npath = /a\npath = /b\nname = 7\n";
        let toml = "[Scan]\nlimit = 5\ndeep = true\npath = [\"/a\", \"/b\"]\nname = \"7\"\n";

        assert_eq!(read("typed", cfg, Notation::Gcfg), Ok(expected.clone()));
        assert_eq!(read("typed", toml, Notation::Toml), Ok(expected));
        let one = read("typed", "[scan]\npath = /a\n", Notation::Gcfg).unwrap();
        assert_eq!(one["Scan"]["Path"], serde_json::json!(["/a"]), "a list of one is a list");
        let none = read("typed", "[scan]\npath = /a\npath\n", Notation::Gcfg).unwrap();
        assert_eq!(none["Scan"]["Path"], serde_json::json!([]));
    }

    #[test]
    fn a_value_of_another_type_than_stated_is_refused_with_its_line_and_key() {
        for (text, line, problem) in [
            ("[scan]\n\nlimit = many\n", 3, "scan.limit: \"many\" is not an integer"),
            ("[scan]\ndeep = perhaps\n", 2, "scan.deep: \"perhaps\" is not one of true, yes"),
            ("[scan]\nlimmit = 5\n", 2, "scan.limmit: unknown key \"limmit\", did you mean \"Limit\"?"),
            ("[scann]\nlimit = 5\n", 1, "scann: unknown section \"scann\", did you mean \"Scan\"?"),
        ] {
            let problems = read("typed", text, Notation::Gcfg).unwrap_err();
            assert_eq!(problems[0].0, Some(line), "{problems:?}");
            assert!(problems[0].1.starts_with(problem), "{problems:?}");
        }
    }

    /// The line that an ignored error of MIG's names or, where it names none, the line of the bad key.
    fn line_of_ignored_error(case: &Json) -> usize {
        let error = case["gcfg_error_ignored_by_agent"].as_str().unwrap();
        let head = error.split(':').next().unwrap();
        match head.parse() {
            Ok(line) => line,
            Err(_) if error.contains("bogus") => 1,
            Err(_) => 2,
        }
    }

    #[test]
    fn every_captured_text_gives_migs_json_or_an_error_where_mig_ignored_one() {
        let text = include_str!("../../../tests/vectors/gcfg.json");
        let cases: Vec<Json> = serde_json::from_str(text).unwrap();
        assert!(cases.len() > 30);

        for case in &cases {
            let (module, text) = (case["module"].as_str().unwrap(), case["text"].as_str().unwrap());
            let ours = read(module, text, Notation::Gcfg);
            if case.get("gcfg_error_ignored_by_agent").is_some() {
                // MIG's agent goes on with what it had read up to the error, here "5" of "5s". A module that
                // watches half of what its operator wrote is worse than one that says why it does not run.
                let problems = ours.expect_err(text);
                assert_eq!(problems[0].0, Some(line_of_ignored_error(case)), "{text:?}: {problems:?}");
            } else {
                assert_eq!(ours.as_ref(), Ok(&case["config"]), "{text:?}");
            }
        }
    }

    #[test]
    fn toml_gives_the_same_json_and_takes_no_other_types() {
        let good = read("fswatch", "[paths]\npath = [\"/a\", \"recursive:/b\"]\n", Notation::Toml);
        let number = read("examplepersist", "[ExamplePersist]\ninterval = 5\n", Notation::Toml);
        let text = read("examplepersist", "[examplepersist]\n\ninterval = \"5\"\n", Notation::Toml);
        let float = read("examplepersist", "[examplepersist]\ninterval = 2.9\n", Notation::Toml);
        let mixed = read("fswatch", "[paths]\npath = [\"/a\",\n7]\n", Notation::Toml);

        assert_eq!(good, Ok(json!({"Paths": {"Path": ["/a", "recursive:/b"]}})));
        assert_eq!(number, Ok(json!({"ExamplePersist": {"interval": 5}})));
        assert_eq!(text, Err(vec![(Some(3), "examplepersist.interval: \"5\" is not an integer".to_owned())]));
        assert_eq!(float, Err(vec![(Some(2), "examplepersist.interval: 2.9 is not an integer".to_owned())]));
        assert_eq!(mixed, Err(vec![(Some(3), "paths.path: 7 is not a text in quotes".to_owned())]));
    }

    #[test]
    fn a_section_of_named_parts_gives_them_in_the_order_of_the_file_in_both_notations() {
        let expected = json!({"Paths": {"Path": ["/a"], "groups": [
            {"name": "web", "Path": ["/w", "/v"]}, {"name": "logs", "Path": ["/l"]},
        ]}});
        let cfg = "[paths]\npath = /a\n[paths \"web\"]\npath = /w\npath = /v\n[paths \"logs\"]\npath = /l\n";
        let toml =
            "[paths]\npath = [\"/a\"]\n[paths.web]\npath = [\"/w\", \"/v\"]\n[paths.logs]\npath = [\"/l\"]\n";

        assert_eq!(read("fswatch", cfg, Notation::Gcfg), Ok(expected.clone()));
        assert_eq!(read("fswatch", toml, Notation::Toml), Ok(expected));
        let unknown = read("fswatch", "[paths \"web\"]\npathh = /w\n", Notation::Gcfg).unwrap_err();
        assert_eq!(unknown[0].0, Some(2));
        assert_eq!(unknown[0].1, "paths.web.pathh: unknown key \"pathh\", did you mean \"Path\"?");
        let relative = read("fswatch", "[paths \"web\"]\npath = /w\npath = relative/b\n", Notation::Gcfg);
        assert_eq!(relative.unwrap_err()[0].0, Some(3));
        let itself = read("fswatch", "[paths]\ngroups = a\n", Notation::Gcfg).unwrap_err();
        assert!(itself[0].1.starts_with("paths.groups: unknown key"), "{itself:?}");
        assert!(read("examplepersist", "[examplepersist \"a\"]\ninterval = 5\n", Notation::Gcfg).is_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_one_that_is_meant() {
        let problems = read("fswatch", "[paths]\npath = /a\npathh = /b\n", Notation::Gcfg).unwrap_err();

        assert_eq!(problems[0].0, Some(3));
        assert_eq!(problems[0].1, "paths.pathh: unknown key \"pathh\", did you mean \"Path\"?");
    }

    #[test]
    fn what_the_module_itself_refuses_is_found_at_the_items_line() {
        let problems =
            read("fswatch", "[paths]\npath = /x\npath\npath = /a\npath = relative/b\n", Notation::Gcfg);

        assert_eq!(problems.unwrap_err()[0].0, Some(5));
    }

    #[test]
    fn a_module_of_unknown_shape_gets_its_keys_as_written() {
        let text = "[Main]\nOne = 1\nmany = a\nMany = b\nnone\n[main \"Part\"]\nx = y\n";
        let config = read("scanner", text, Notation::Gcfg);
        let toml = read("scanner", "Depth = 3\n[Main]\nratio = 0.5\nflags = [true]\n", Notation::Toml);
        let clash = read("scanner", "[main]\nx = 1\n[main \"x\"]\ny = 1\n", Notation::Gcfg);

        assert_eq!(
            config,
            Ok(json!({"main": {"one": "1", "many": ["a", "b"], "none": null, "Part": {"x": "y"}}}))
        );
        assert_eq!(toml, Ok(json!({"Depth": 3, "Main": {"ratio": 0.5, "flags": [true]}})));
        assert_eq!(clash.unwrap_err()[0].0, Some(1));
        assert!(read("scanner", "x = inf\n", Notation::Toml).is_err());
    }
}
