//! Extra privacy mode, seen from outside a module: whether a result shows what it must not.
//!
//! A module masks its own answers. That is forgotten easily, by a new key or an error that names a path, so the
//! agent looks at every answer of a module that it knows once more: a module says with a [`MaskedForm`] what its
//! answers may show, and everything else is refused. The text is read once, as it comes, and no tree is made of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::result::ModuleResult;

/// What stands for what extra privacy mode hides; MIG's word.
pub const MASKED: &str = "masked";

/// Longest key that is shown when a result is refused, in characters.
const SHOWN_KEY_CHARACTERS: usize = 40;

/// What may be shown at a place of a masked result.
#[derive(Debug, Clone, Copy)]
pub enum Showing {
    /// Everything, with all that is inside: what the investigator asked for himself, or what identifies nobody.
    Anything,
    /// An object or a list (or `null`); what is inside is asked for again.
    Inside,
    /// Nothing but that there is something: [`MASKED`], an empty text, 0 or `null`, or a list of these.
    Hidden,
    /// Numbers, and texts that name no path and no address (see [`identifies`]); what is inside is asked for again.
    Unnamed,
    /// A text of which this says that it may be shown.
    Text(fn(&str) -> bool),
    /// Nothing may be here at all. What a form does not know belongs here.
    Nothing,
}

/// What a module's results may show in extra privacy mode, by place. A place is the names of the keys from
/// `elements`, `statistics` or `errors` on; lists add nothing to it.
pub type MaskedForm = fn(place: &[&str]) -> Showing;

/// A result shows something that it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} is not masked")]
pub struct Unmasked {
    /// Where, by keys joined with dots; never what is there.
    pub place: String,
}

/// Looks whether a result shows only what `form` allows.
///
/// # Errors
/// The first place that shows more.
pub fn check(result: &ModuleResult, form: MaskedForm) -> Result<(), Unmasked> {
    check_answer(result, form, &Asked::default())
}

/// The words of a question, which its own errors may repeat: what a person typed wrongly is told in clear.
#[derive(Debug, Clone, Default)]
pub struct Asked(String);

impl Asked {
    /// The words of a query's parameters.
    #[must_use]
    pub fn of(parameters: Option<&RawValue>) -> Self {
        fn gather(value: &serde_json::Value, words: &mut String) {
            match value {
                serde_json::Value::String(text) => {
                    words.push_str(text);
                    words.push('\0');
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| gather(item, words)),
                serde_json::Value::Object(map) => map.iter().for_each(|(key, item)| {
                    words.push_str(key);
                    words.push('\0');
                    gather(item, words);
                }),
                _ => {}
            }
        }
        let mut words = String::new();
        if let Some(value) = parameters.and_then(|raw| serde_json::from_str(raw.get()).ok()) {
            gather(&value, &mut words);
        }
        Self(words)
    }

    /// Whether a text names a path or an address that the question does not.
    #[must_use]
    pub(crate) fn is_exceeded_by(&self, text: &str) -> bool {
        identifying_words(text).any(|word| !self.0.contains(word))
    }
}

/// [`check`] for the answer to a question, whose own words its errors may repeat.
///
/// # Errors
/// The first place that shows more.
pub fn check_answer(result: &ModuleResult, form: MaskedForm, asked: &Asked) -> Result<(), Unmasked> {
    part("elements", result.elements.as_deref(), form)?;
    part("statistics", result.statistics.as_deref(), form)?;
    // Coverage has one form for all modules, and it must not name what it did not examine.
    for skipped in result.coverage.iter().flat_map(|coverage| &coverage.not_examined) {
        if identifies(&skipped.what) || identifies(&skipped.why) {
            return Err(Unmasked { place: "coverage.not_examined".to_owned() });
        }
    }
    let showing = form(&["errors"]);
    let may_be = |error: &String| match showing {
        Showing::Unnamed => !asked.is_exceeded_by(error),
        _ => may_be_text(showing, error),
    };
    match result.errors.iter().flatten().all(may_be) {
        true => Ok(()),
        false => Err(Unmasked { place: "errors".to_owned() }),
    }
}

fn part(name: &'static str, text: Option<&RawValue>, form: MaskedForm) -> Result<(), Unmasked> {
    let Some(text) = text else { return Ok(()) };
    let mut place = vec![name.to_owned()];
    let mut json = serde_json::Deserializer::from_str(text.get());
    // Also what is nested too deeply to be read is refused.
    Node { place: &mut place, form, inherited: None }.deserialize(&mut json).map_err(|_| {
        let keys: Vec<String> = place.iter().map(|key| shown_key(key)).collect();
        Unmasked { place: keys.join(".") }
    })
}

/// A key as it may be told: one that is no plain name may itself be what was to be masked.
fn shown_key(key: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if key.chars().all(plain) && key.len() <= SHOWN_KEY_CHARACTERS {
        key.to_owned()
    } else {
        "…".to_owned()
    }
}

fn may_be_text(showing: Showing, text: &str) -> bool {
    match showing {
        Showing::Anything => true,
        Showing::Hidden => text.is_empty() || text == MASKED,
        Showing::Unnamed => !identifies(text),
        Showing::Text(may_be) => may_be(text),
        Showing::Inside | Showing::Nothing => false,
    }
}

/// Whether a text names a path or an address: an absolute path outside `/proc` and `/sys`, an IP address other than
/// the loopback and unspecified ones, or a hardware address. Names of hosts and users look like any word.
#[must_use]
pub fn identifies(text: &str) -> bool {
    identifying_words(text).next().is_some()
}

fn identifying_words(text: &str) -> impl Iterator<Item = &str> {
    let separator = |letter: char| letter.is_whitespace() || "\"'`(),;=<>{}[]|".contains(letter);
    text.split(separator).map(|word| word.trim_end_matches(['.', ':', '!', '?'])).filter(
        |word| match address(word) {
            Some(address) => !address.is_unspecified() && !address.is_loopback(),
            None => names_path(word) || is_hardware_address(word),
        },
    )
}

/// Masks every error of a result that names more than the question does, and every entry of its coverage that
/// [`identifies`] something.
pub fn mask_errors(result: &mut ModuleResult, asked: &Asked) {
    let skipped = result.coverage.iter_mut().flat_map(|coverage| &mut coverage.not_examined);
    let coverage = skipped.flat_map(|skipped| [&mut skipped.what, &mut skipped.why]);
    for text in coverage.filter(|text| identifies(text)) {
        MASKED.clone_into(text);
    }
    for error in result.errors.iter_mut().flatten().filter(|error| asked.is_exceeded_by(error)) {
        MASKED.clone_into(error);
    }
}

/// The address that a word is, perhaps with a port, a zone or the length of a prefix.
fn address(word: &str) -> Option<IpAddr> {
    let bare = word.split(['/', '%']).next().unwrap_or_default();
    bare.parse().ok().or_else(|| word.parse::<SocketAddr>().ok().map(|at| at.ip()))
}

/// Whether a slash begins a path in this word: at its beginning, or after a mark as in `unix:/run/x`.
fn names_path(word: &str) -> bool {
    word.match_indices('/').any(|(start, _)| {
        let before = word[..start].chars().next_back();
        let path = word[start..].trim_start_matches('/');
        let first = path.split('/').next().unwrap_or_default();
        before.is_none_or(|letter| !letter.is_alphanumeric() && letter != '/')
            && !path.is_empty()
            && !matches!(first, "proc" | "sys")
    })
}

fn is_hardware_address(word: &str) -> bool {
    let pairs = word.split([':', '-']);
    let is_pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
    pairs.clone().count() == 6 && pairs.into_iter().all(is_pair)
}

/// One value of a result while it is read.
struct Node<'p> {
    /// Where it stands; left as it is when something is refused.
    place: &'p mut Vec<String>,
    form: MaskedForm,
    /// What holds for the list that it stands in.
    inherited: Option<Showing>,
}

impl Node<'_> {
    fn showing(&self) -> Showing {
        self.inherited.unwrap_or_else(|| {
            let place: Vec<&str> = self.place.iter().map(String::as_str).collect();
            (self.form)(&place)
        })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let showing = self.showing();
        match showing {
            Showing::Anything => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            Showing::Nothing => Err(D::Error::custom(MASKED)),
            _ => deserializer.deserialize_any(Look { node: self, showing }),
        }
    }
}

struct Look<'p> {
    node: Node<'p>,
    showing: Showing,
}

impl Look<'_> {
    /// A number, or true or false.
    fn plain<E: Error>(&self, is_zero: bool) -> Result<(), E> {
        match self.showing {
            Showing::Unnamed => Ok(()),
            Showing::Hidden if is_zero => Ok(()),
            _ => Err(E::custom(MASKED)),
        }
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a masked value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.plain(!value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.plain(value == 0)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.plain(value == 0)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.plain(value == 0.0)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if may_be_text(self.showing, value) { Ok(()) } else { Err(E::custom(MASKED)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Node { place, form, .. } = self.node;
        while list
            .next_element_seed(Node { place: &mut *place, form, inherited: Some(self.showing) })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        match self.showing {
            Showing::Inside | Showing::Unnamed => {}
            _ => return Err(A::Error::custom(MASKED)),
        }
        let Node { place, form, .. } = self.node;
        while let Some(key) = object.next_key::<String>()? {
            let names = matches!(self.showing, Showing::Unnamed) && identifies(&key);
            place.push(key);
            if names {
                return Err(A::Error::custom(MASKED));
            }
            object.next_value_seed(Node { place: &mut *place, form, inherited: None })?;
            place.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::to_raw_value;
    use serde_json::{Value, json};

    use super::*;

    fn form(place: &[&str]) -> Showing {
        match place {
            ["elements"] | ["elements", _] => Showing::Inside,
            ["elements", _, "name"] | ["errors"] => Showing::Hidden,
            ["elements", _, "asked"] => Showing::Anything,
            ["elements", _, "kind"] => Showing::Text(|text| text == "fifo"),
            ["statistics", ..] => Showing::Unnamed,
            _ => Showing::Nothing,
        }
    }

    fn result(elements: &Value, statistics: &Value, errors: &[&str]) -> ModuleResult {
        ModuleResult {
            elements: Some(to_raw_value(elements).unwrap()),
            statistics: Some(to_raw_value(statistics).unwrap()),
            errors: Some(errors.iter().map(|&error| error.to_owned()).collect()),
            ..ModuleResult::default()
        }
    }

    fn place(elements: &Value, statistics: &Value, errors: &[&str]) -> Option<String> {
        check(&result(elements, statistics, errors), form).err().map(|unmasked| unmasked.place)
    }

    #[test]
    fn what_the_form_allows_passes() {
        let elements = json!({"a": [{"name": "masked", "asked": {"x": "/etc"}, "kind": "fifo"}, {"name": ""}], "b": null});
        let statistics = json!({"n": 5, "took": "3ms", "tables": ["/proc/net/tcp"]});

        assert_eq!(place(&elements, &statistics, &["masked"]), None);
        assert_eq!(check(&ModuleResult::default(), form), Ok(()));
    }

    #[test]
    fn what_it_does_not_allow_is_refused_and_not_repeated() {
        for (elements, expected) in [
            (json!({"a": [{"name": "secret"}]}), "elements.a.name"),
            (json!({"a": [{"name": ["masked", "secret"]}]}), "elements.a.name"),
            (json!({"a": [{"name": {"secret": null}}]}), "elements.a.name"),
            (json!({"a": [{"name": 7}]}), "elements.a.name"),
            (json!({"a": [{"kind": "file"}]}), "elements.a.kind"),
            (json!({"a": "secret"}), "elements.a"),
            (json!({"a": [{"new": null}]}), "elements.a.new"),
            (json!({"a": [{"/home/secret": null}]}), "elements.a.…"),
            (json!("secret"), "elements"),
            (json!(["secret"]), "elements"),
        ] {
            assert_eq!(place(&elements, &json!({}), &[]).as_deref(), Some(expected), "{elements}");
        }
        assert_eq!(place(&json!({}), &json!({"x": "see /home/ann"}), &[]).as_deref(), Some("statistics.x"));
        assert_eq!(place(&json!({}), &json!({"/home/ann": 1}), &[]).as_deref(), Some("statistics.…"));
        assert_eq!(place(&json!({}), &json!({}), &["masked", "/x is gone"]).as_deref(), Some("errors"));
    }

    #[test]
    fn coverage_must_not_name_what_it_did_not_examine() {
        let mut coverage = crate::result::Coverage::whole();
        coverage.skip("directory", "cannot read /home/ann: denied");
        coverage.skip("/home/ann", "denied");
        coverage.skip("processes", "no permission");
        let mut result = result(&json!({}), &json!({}), &[]).with_coverage(coverage);

        let before = check(&result, form);
        mask_errors(&mut result, &Asked::default());

        assert_eq!(before, Err(Unmasked { place: "coverage.not_examined".to_owned() }));
        assert_eq!(check(&result, form), Ok(()));
        let skipped = &result.coverage.unwrap().not_examined;
        assert_eq!((&*skipped[0].why, &*skipped[1].what, &*skipped[2].what), (MASKED, MASKED, "processes"));
    }

    #[test]
    fn an_error_may_repeat_what_was_asked_and_nothing_else() {
        let asked =
            to_raw_value(&json!({"ip": ["10.1.2.3/99"], "searches": {"s": {"paths": ["/a/b"]}}})).unwrap();
        let asked = Asked::of(Some(&asked));
        let unnamed: MaskedForm = |_| Showing::Unnamed;
        let own = ["ip: \"10.1.2.3/99\" has a prefix longer than 32", "\"/a/b\" cannot be opened"];
        let mut result = result(&json!({}), &json!({}), &own);
        assert_eq!(check_answer(&result, unnamed, &asked), Ok(()));
        assert!(check(&result, unnamed).is_err());

        result.errors.as_mut().unwrap().push("\"/a/b/secret\" cannot be opened".to_owned());
        assert!(check_answer(&result, unnamed, &asked).is_err());
        mask_errors(&mut result, &asked);

        assert_eq!(result.errors.unwrap(), [own[0], own[1], MASKED]);
    }

    #[test]
    fn of_two_equal_keys_both_are_looked_at() {
        let twice = r#"{"a":{"name":"secret","name":"masked"}}"#.to_owned();
        let elements = Some(RawValue::from_string(twice).unwrap());
        let result = ModuleResult { elements, ..ModuleResult::default() };

        assert!(check(&result, form).is_err());
    }

    #[test]
    fn paths_and_addresses_identify_and_other_words_do_not() {
        for text in [
            "/etc/passwd",
            "cannot read \"/home/ann\": no",
            "unix:/run/x.sock gone",
            "(/srv)",
            "[/srv]",
            "~/letters",
            "a->/srv",
            "peer 10.0.0.2.",
            "10.0.0.0/8",
            "10.0.0.2:443",
            "[2001:db8::1]:443",
            "at 2001:db8::1",
            "fe80::1%eth0",
            "de:ad:be:ef:00:01",
        ] {
            assert!(identifies(text), "{text}");
        }
        for text in [
            "",
            "masked",
            "and/or",
            "/",
            "12:30:00",
            "2026-11-24T00:00:00.5Z",
            "user::rw-",
            "cannot read /proc/net/tcp6: denied",
            "127.0.0.1",
            "0.0.0.0/0",
            "::/0",
            "[::1]:22",
            "::",
            "text/plain",
            "1.5s",
            "-rw-r--r--",
        ] {
            assert!(!identifies(text), "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let key = prop_oneof![Just("name".to_owned()), Just("asked".to_owned()), "[a-z/]{0,6}"];
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(json!(MASKED)),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Whether a secret stands anywhere but below `asked`.
    fn shows(value: &Value, secret: &str) -> bool {
        match value {
            Value::String(text) => text.contains(secret),
            Value::Array(items) => items.iter().any(|item| shows(item, secret)),
            Value::Object(map) => map.iter().any(|(key, value)| key != "asked" && shows(value, secret)),
            _ => false,
        }
    }

    /// Puts the secret in the place of the `at`th leaf.
    fn plant(value: &mut Value, secret: &str, at: &mut usize) {
        match value {
            Value::Array(items) if !items.is_empty() => {
                items.iter_mut().for_each(|item| plant(item, secret, at));
            }
            Value::Object(map) if !map.is_empty() => {
                map.values_mut().for_each(|value| plant(value, secret, at));
            }
            leaf => {
                if *at == 0 {
                    *leaf = json!(secret);
                }
                *at = at.wrapping_sub(1);
            }
        }
    }

    proptest! {
        #[test]
        fn a_name_never_passes_wherever_it_stands(mut elements in values(), at in 0_usize..12) {
            let secret = "/home/ann/secret";
            plant(&mut elements, secret, &mut at.clone());

            if shows(&elements, secret) {
                prop_assert!(place(&elements, &json!(null), &[]).is_some(), "{}", elements);
                // The least strict place of all refuses it as well.
                prop_assert!(check(&result(&json!(null), &elements, &[]), |place| match place {
                    [.., "asked"] => Showing::Anything,
                    _ => Showing::Unnamed,
                }).is_err(), "{}", elements);
            }
        }

        #[test]
        fn any_text_can_be_asked_about(text in ".{0,64}") {
            let _ = identifies(&text);
        }
    }
}
