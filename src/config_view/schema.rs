//! The JSON Schema of the configuration file, made of the keys that its reader knows.

use serde_json::{Map, Value, json};
use vigie_config::files::{Key, KeyKind};

/// A schema that editors take (draft 2020-12).
pub(super) fn of(keys: &[Key]) -> Value {
    let mut root = object();
    for key in keys {
        put(&mut root, &key.name.split('.').collect::<Vec<_>>(), key);
    }
    // Blocks that may be there several times.
    for listed in ["module", "sink"] {
        if let Some(block) = root["properties"].get_mut(listed) {
            let mut item = block.take();
            item["required"] = json!(["name"]);
            *block = json!({"type": "array", "items": item});
        }
    }
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("vigie.toml");
    root["description"] = json!("Configuration of Vigie's agent");
    root
}

fn object() -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": {}})
}

fn put(table: &mut Value, path: &[&str], key: &Key) {
    match path {
        // Any name may stand here.
        ["NAME"] => table["additionalProperties"] = of_key(key),
        [name] => table["properties"][*name] = of_key(key),
        [name, rest @ ..] => {
            if table["properties"].get(*name).is_none() {
                table["properties"][*name] = object();
            }
            put(&mut table["properties"][*name], rest, key);
        }
        [] => {}
    }
}

fn of_key(key: &Key) -> Value {
    let mut schema = match &key.kind {
        KeyKind::Boolean => json!({"type": "boolean"}),
        KeyKind::Text => json!({"type": "string"}),
        KeyKind::Integer { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
        KeyKind::Bytes { least, most } => json!({
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": most},
                {"type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$"},
            ]
        }),
        KeyKind::Duration { .. } => {
            json!({"type": "string", "pattern": "^[0-9]+ ?[a-z]+( [0-9]+ ?[a-z]+)*$"})
        }
        KeyKind::Choice(words) => json!({"enum": words}),
        KeyKind::Path => json!({"type": "string", "pattern": "^/"}),
        KeyKind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        KeyKind::Table => object(),
    };
    let described = schema.as_object_mut().map_or_else(Map::new, std::mem::take);
    let mut schema = described;
    let range = super::manual::range(&key.kind);
    let meaning =
        if range.is_empty() { key.meaning.clone() } else { format!("{} Range: {range}.", key.meaning) };
    schema.insert("description".to_owned(), json!(meaning.trim()));
    // JSON's form of a value is TOML's as well.
    if let Some(default) = key.default.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        schema.insert("default".to_owned(), default);
    }
    Value::Object(schema)
}

#[cfg(test)]
mod tests {
    use vigie_config::files;

    use super::*;
    use crate::modules::BUILTINS;

    #[test]
    fn the_schema_knows_kinds_ranges_defaults_and_free_names() {
        let schema = of(&files::keys(BUILTINS));

        let misses = &schema["properties"]["agent"]["properties"]["heartbeat_misses"];
        assert_eq!(
            (&misses["minimum"], &misses["maximum"], &misses["default"]),
            (&json!(1), &json!(100), &json!(3))
        );
        let mode = &schema["properties"]["logging"]["properties"]["mode"];
        assert_eq!(mode["enum"], json!(["stderr", "file", "syslog"]));
        assert_eq!(schema["properties"]["tags"]["additionalProperties"]["type"], "string");
        let module = &schema["properties"]["module"]["items"]["properties"];
        assert_eq!(module["limits"]["properties"]["nice"]["maximum"], 19);
        assert!(
            schema["properties"]["fleet"]["properties"]["urls"]["description"]
                .as_str()
                .unwrap()
                .contains("Addresses of the brokers")
        );
    }
}
