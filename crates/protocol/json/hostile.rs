//! JSON laid out in hostile ways, for tests of whatever passes JSON on.

use proptest::prelude::*;
use serde_json::Value;

/// Blanks that JSON allows between its parts, line feeds among them.
fn blanks() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\n\n\t ".to_owned()),
        "[ \\n\\r\\t]{0,4}",
    ]
}

/// Any value of at most a few dozen parts; texts with escapes and line separators.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("{\"class\":\"ping\"}\n\\\"\u{2028}\u{feff}")),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The text of a value with blanks in every place where JSON allows them.
pub(crate) fn laid_out(value: &Value, blanks: &mut impl FnMut() -> String) -> String {
    let mut text = blanks();
    match value {
        Value::Array(items) => {
            text.push('[');
            for (number, item) in items.iter().enumerate() {
                text.push_str(if number > 0 { "," } else { "" });
                text.push_str(&laid_out(item, blanks));
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            for (number, (key, item)) in map.iter().enumerate() {
                text.push_str(if number > 0 { "," } else { "" });
                text.push_str(&laid_out(&Value::from(key.as_str()), blanks));
                text.push(':');
                text.push_str(&laid_out(item, blanks));
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
    text.push_str(&blanks());
    text
}

/// A value and one of its hostile texts.
pub(crate) fn texts() -> impl Strategy<Value = (Value, String)> {
    (values(), prop::collection::vec(blanks(), 1..20)).prop_map(|(value, kinds)| {
        let mut kinds = kinds.into_iter().cycle();
        let text = laid_out(&value, &mut || kinds.next().unwrap_or_default());
        (value, text)
    })
}
