//! The messages that cross the process boundary between the agent and a module.
//!
//! One message is one line: `{"class": CLASS, "parameters": ANY, "persistsock": SPEC}`. The format is that of
//! Mozilla's MIG, so that a module written for it runs unmodified; keys beyond it are optional and ignored by
//! programs that do not know them.

mod parameters;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::condition::Condition;
use crate::json::CompactWriter;

pub use parameters::{
    ACCEPTED_EXTENSIONS, AckParameters, AlertParameters, Asker, ConfigParameters, ConfiguredParameters,
    Environment, HealthParameters, LogParameters, PingParameters, Progress, QueryOptions, RegisterParameters,
};

/// Longest line that an agent accepts from a module unless it is configured otherwise, in bytes.
pub const DEFAULT_MAX_LINE_BYTES: usize = 1024 * 1024;

/// Largest query result that is accepted unless configured otherwise, in bytes.
pub const DEFAULT_MAX_RESULT_BYTES: usize = 16 * 1024 * 1024;

/// Version that our modules state when they register.
pub const PROTOCOL_VERSION: u32 = 1;

/// Environment variable through which the agent tells a module the directory for its query socket, because a
/// module registers before it reads its configuration.
pub const RUN_DIR_VARIABLE: &str = "VIGIE_RUN_DIR";

/// Environment variable through which the agent tells a module the directory where it may keep its state.
pub const STATE_DIR_VARIABLE: &str = "VIGIE_STATE_DIR";

/// What a module can do beyond MIG's protocol, stated when it registers.
pub mod capability {
    /// The module takes further `config` messages while it runs.
    pub const RECONFIGURE: &str = "reconfigure";
    /// The module exits when it reads a `stop` message.
    pub const STOP: &str = "stop";
    /// The module's alerts carry ids, and it keeps each one until the agent acknowledges it.
    pub const ALERT_ACK: &str = "alert-ack";
    /// The module says of every configuration whether it took it.
    pub const CONFIGURED: &str = "configured";
    /// The module takes the alerts of other modules.
    pub const DISPATCH: &str = "dispatch";
}

/// The kind of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class<'a> {
    /// Agent to module: the module's configuration, always the first line.
    Config,
    /// Agent to module and back: the heartbeat.
    Ping,
    /// Module to agent: where the module listens for queries.
    Register,
    /// Module to agent: a line for the agent's log.
    Log,
    /// Module to agent: an alert.
    Alert,
    /// Agent to module: the alert with this id is safe on disk.
    Ack,
    /// A query, to a standard module's stdin or a persistent module's socket.
    Parameters,
    /// Module to whoever asked, ahead of the result and only when the query asked for it: how far the work is.
    Progress,
    /// Agent to module: finish and exit.
    Stop,
    /// Module to agent: everything that is wrong with the module at present.
    Health,
    /// Module to agent: what became of a `config` message.
    Configured,
    /// A class that this version does not know; the line is dropped and counted.
    Unknown(Cow<'a, str>),
}

impl<'a> From<Cow<'a, str>> for Class<'a> {
    fn from(name: Cow<'a, str>) -> Self {
        match name.as_ref() {
            "config" => Self::Config,
            "ping" => Self::Ping,
            "register" => Self::Register,
            "log" => Self::Log,
            "alert" => Self::Alert,
            "ack" => Self::Ack,
            "parameters" => Self::Parameters,
            "progress" => Self::Progress,
            "stop" => Self::Stop,
            "health" => Self::Health,
            "configured" => Self::Configured,
            _ => Self::Unknown(name),
        }
    }
}

impl fmt::Display for Class<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Ping => "ping",
            Self::Register => "register",
            Self::Log => "log",
            Self::Alert => "alert",
            Self::Ack => "ack",
            Self::Parameters => "parameters",
            Self::Progress => "progress",
            Self::Stop => "stop",
            Self::Health => "health",
            Self::Configured => "configured",
            Self::Unknown(name) => name,
        })
    }
}

/// Why a line is not a message. The line is dropped and counted under this reason; the next one is read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// The line is longer than the limit in force.
    #[error("line is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// The line is not UTF-8.
    #[error("line is not UTF-8")]
    NotUtf8,
    /// The line is not a JSON object with a class.
    #[error("line is not a message: {reason}")]
    NotMessage {
        /// What the JSON parser says, without the line's own text.
        reason: String,
    },
    /// The class is unknown, or is not one that this side receives.
    #[error("message has the unexpected class {class:?}")]
    UnexpectedClass {
        /// The class as received, cut to 64 characters.
        class: String,
    },
    /// The parameters do not have the form that the class asks for.
    #[error("invalid parameters of {class:?}: {reason}")]
    BadParameters {
        /// The message's class.
        class: &'static str,
        /// What is wrong, naming the field.
        reason: String,
    },
}

impl BadLine {
    /// Short fixed name under which lines of this kind are counted.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::NotUtf8 => "not_utf8",
            Self::NotMessage { .. } => "not_message",
            Self::UnexpectedClass { .. } => "unexpected_class",
            Self::BadParameters { .. } => "bad_parameters",
        }
    }

    /// A message of a class that the reader does not expect.
    #[must_use]
    pub fn unexpected(class: &Class<'_>) -> Self {
        Self::UnexpectedClass { class: class.to_string().chars().take(64).collect() }
    }
}

/// A message as it stands in its line. Parameters stay unparsed: a value tree can need 85 times the memory of
/// its text, and most messages are only passed on.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageRef<'a> {
    /// The kind of message.
    pub class: Class<'a>,
    /// The parameters' JSON text; absent and `null` are the same.
    pub parameters: Option<RawJson<'a>>,
    /// For an adapter: the socket of the persistent module to ask.
    pub persistsock: Option<Cow<'a, str>>,
    /// Extension on `parameters`: mask what identifies.
    pub extraprivacy: bool,
    /// Extension on `parameters`: RFC 3339 time after which nobody waits for the answer.
    pub deadline: Option<Cow<'a, str>>,
    /// Extension on `parameters`: who asks.
    pub asker: Option<Asker>,
    /// Extension on `parameters`: whoever asks takes [`Class::Progress`] messages ahead of the result.
    pub progress: bool,
}

/// JSON text that has been checked for syntax and is otherwise untouched.
#[derive(Debug, Clone, Copy)]
pub struct RawJson<'a>(pub &'a RawValue);

impl PartialEq for RawJson<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl<'a> MessageRef<'a> {
    /// Reads one line. Keys are matched without regard to case and the last of several wins, as in Go's
    /// `encoding/json`, which MIG's programs were written with.
    ///
    /// # Errors
    /// [`BadLine::NotMessage`] when the line is not a JSON object with a string `class`.
    pub fn parse(line: &'a str) -> Result<Self, BadLine> {
        if let Some(message) = Self::parse_usual(line) {
            return Ok(message);
        }
        serde_json::from_str(line).map_err(|error| BadLine::NotMessage { reason: describe(&error) })
    }

    /// Reads a line that has a class and parameters only, in the form that agents and SDKs write, at half of the cost:
    /// it is most of what is sent.
    fn parse_usual(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix(r#"{"class":""#)?;
        let (class, rest) = rest.split_at(rest.bytes().position(|byte| !byte.is_ascii_lowercase())?);
        let parameters = rest.strip_prefix(r#"","parameters":"#)?.strip_suffix('}')?;
        let raw: &RawValue = serde_json::from_str(parameters).ok()?;
        Some(Self::new(Class::from(Cow::Borrowed(class)), raw))
    }

    fn new(class: Class<'a>, parameters: &'a RawValue) -> Self {
        Self {
            class,
            parameters: (parameters.get() != "null").then_some(RawJson(parameters)),
            persistsock: None,
            extraprivacy: false,
            deadline: None,
            asker: None,
            progress: false,
        }
    }

    /// Reads the parameters as `T`, keys exactly as `T` spells them.
    ///
    /// # Errors
    /// [`BadLine::BadParameters`] when they are missing or of another form.
    pub fn parameters_as<T: Deserialize<'a>>(&self, class: &'static str) -> Result<T, BadLine> {
        let text = self.parameters.map_or("null", |raw| raw.0.get());
        // Serde would read an array as the fields in their order; Go and we do not.
        if text.starts_with('[') {
            return Err(BadLine::BadParameters {
                class,
                reason: "expected an object, found a list".to_owned(),
            });
        }
        serde_json::from_str(text).map_err(|error| BadLine::BadParameters { class, reason: describe(&error) })
    }
}

/// Says what is wrong with a JSON text without quoting it: the text comes from a module, its length is not
/// ours to print.
fn describe(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl<'de: 'a, 'a> Deserialize<'de> for MessageRef<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor(std::marker::PhantomData))
    }
}

struct MessageVisitor<'a>(std::marker::PhantomData<&'a ()>);

/// A string that borrows from the line when it holds no escape.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Visitor<'de> for MessageVisitor<'a> {
    type Value = MessageRef<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message object with a class")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut class = None;
        let mut message = MessageRef {
            class: Class::Ping,
            parameters: None,
            persistsock: None,
            extraprivacy: false,
            deadline: None,
            asker: None,
            progress: false,
        };
        while let Some(Text(key)) = map.next_key()? {
            if key.eq_ignore_ascii_case("class") {
                class = Some(Class::from(map.next_value::<Text<'a>>()?.0));
            } else if key.eq_ignore_ascii_case("parameters") {
                let raw = map.next_value::<&'a RawValue>()?;
                message.parameters = (raw.get() != "null").then_some(RawJson(raw));
            } else if key.eq_ignore_ascii_case("persistsock") {
                message.persistsock = map.next_value::<Option<Text<'a>>>()?.map(|text| text.0);
            } else if key.eq_ignore_ascii_case("extraprivacy") {
                message.extraprivacy = map.next_value()?;
            } else if key.eq_ignore_ascii_case("deadline") {
                message.deadline = map.next_value::<Option<Text<'a>>>()?.map(|text| text.0);
            } else if key.eq_ignore_ascii_case("asker") {
                message.asker = map.next_value()?;
            } else if key.eq_ignore_ascii_case("progress") {
                message.progress = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        message.class = class.ok_or_else(|| serde::de::Error::missing_field("class"))?;
        Ok(message)
    }
}

/// A message to be written.
#[derive(Debug, Clone, Serialize, Default)]
pub struct Message {
    class: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistsock: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    extraprivacy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asker: Option<Asker>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    progress: bool,
}

impl Message {
    fn with<T: Serialize>(class: &'static str, parameters: &T) -> Self {
        let parameters = to_raw_value(parameters).expect("wire types have string keys and finite numbers");
        Self { class: class.into(), parameters: Some(parameters), ..Self::default() }
    }

    /// The first message to a module.
    #[must_use]
    pub fn config(parameters: &ConfigParameters) -> Self {
        Self::with("config", parameters)
    }

    /// A heartbeat; the module echoes the whole message.
    #[must_use]
    pub fn ping(nonce: u64) -> Self {
        Self::with("ping", &PingParameters { nonce: Some(nonce) })
    }

    /// The echo of a heartbeat as it came in.
    #[must_use]
    pub fn pong(ping: &MessageRef<'_>) -> Self {
        Self {
            class: "ping".into(),
            parameters: ping.parameters.map(|raw| raw.0.to_owned()),
            persistsock: ping.persistsock.as_deref().map(str::to_owned),
            ..Self::default()
        }
    }

    /// Where the module listens for queries, and what it can do.
    #[must_use]
    pub fn register(parameters: &RegisterParameters<'_>) -> Self {
        Self::with("register", parameters)
    }

    /// A line for the agent's log.
    #[must_use]
    pub fn log(message: &str) -> Self {
        Self::with("log", &LogParameters { message: message.into() })
    }

    /// An alert, with an id where the agent acknowledges it.
    #[must_use]
    pub fn alert(message: &str, id: Option<&str>) -> Self {
        Self::with("alert", &AlertParameters { message: message.into(), id: id.map(Cow::Borrowed) })
    }

    /// Tells a module that the alert with this id is safe on disk.
    #[must_use]
    pub fn ack(id: &str) -> Self {
        Self::with("ack", &AckParameters { id: id.into() })
    }

    /// Appends the line of [`Message::ack`] to `buffer` without making the message first: an agent under load
    /// writes hundreds of thousands of them a second. `id` is a valid JSON string, and is copied as it is.
    pub fn write_ack_line(buffer: &mut Vec<u8>, id: &str) {
        buffer.extend_from_slice(br#"{"class":"ack","parameters":{"id":"#);
        buffer.extend_from_slice(id.as_bytes());
        buffer.extend_from_slice(b"}}\n");
    }

    /// Tells a module to finish.
    #[must_use]
    pub fn stop() -> Self {
        Self { class: "stop".into(), ..Self::default() }
    }

    /// Everything that is wrong with a module at present.
    #[must_use]
    pub fn health(conditions: &[Condition], values: &BTreeMap<String, u64>) -> Self {
        let parameters = HealthParameters { conditions: conditions.to_vec(), values: values.clone() };
        Self::with("health", &parameters)
    }

    /// What became of a configuration.
    #[must_use]
    pub fn configured(parameters: &ConfiguredParameters) -> Self {
        Self::with("configured", parameters)
    }

    /// How far a query is.
    #[must_use]
    pub fn progress(progress: &Progress) -> Self {
        Self::with("progress", progress)
    }

    /// A query.
    #[must_use]
    pub fn parameters(parameters: Option<Box<RawValue>>, options: QueryOptions) -> Self {
        Self {
            class: "parameters".into(),
            parameters,
            persistsock: options.persistsock,
            extraprivacy: options.extraprivacy,
            deadline: options.deadline,
            asker: options.asker,
            progress: options.progress,
        }
    }

    /// Appends the message and its line feed to `buffer`.
    pub fn write_line(&self, buffer: &mut Vec<u8>) {
        // The parameters may be foreign text: a line feed in them must not end the message.
        serde_json::to_writer(CompactWriter::new(&mut *buffer), self)
            .expect("a message is plain data and a Vec takes it all");
        buffer.push(b'\n');
    }

    /// The message as one line with its line feed.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(128);
        self.write_line(&mut line);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_form_is_read_as_any_other() {
        for line in [
            r#"{"class":"ack","parameters":{"id":"a-1"}}"#,
            r#"{"class":"log","parameters": {"message":"\"}\u0061"} }"#,
            r#"{"class":"ping","parameters":null}"#,
            r#"{"class":"other","parameters":[1]}"#,
            r#"{"class":"ping","parameters":{"nonce":1},"persistsock":"s"}"#,
            r#"{"class":"ping","parameters":{"nonce":1},"parameters":{"nonce":2}}"#,
            r#"{"class":"ping","parameters":{}}}"#,
            r#"{"class":"ping","parameters":}"#,
            r#"{"class":"","parameters":1}"#,
            r#"{"class":"p\u0069ng","parameters":1}"#,
            r#"{"class":"ping"}"#,
        ] {
            let read: Result<MessageRef<'_>, _> = serde_json::from_str(line);
            assert_eq!(MessageRef::parse(line).ok(), read.ok(), "{line}");
        }
    }

    #[test]
    fn a_message_of_migs_agent_is_read() {
        let line = r#"{"class":"config","parameters":{"config":{"Paths":{"Path":null}},"hostname":"vm"}}"#;

        let message = MessageRef::parse(line).unwrap();
        let parameters: ConfigParameters = message.parameters_as("config").unwrap();

        assert_eq!(message.class, Class::Config);
        assert_eq!(parameters.hostname, "vm");
        assert_eq!(parameters.config.unwrap().get(), r#"{"Paths":{"Path":null}}"#);
    }

    #[test]
    fn keys_are_matched_without_case_and_the_last_one_wins() {
        let message = MessageRef::parse(r#"{"CLASS":"ping","Class":"stop","extra":[1,{"a":2}]}"#).unwrap();

        assert_eq!(message.class, Class::Stop);
    }

    #[test]
    fn a_pong_repeats_parameters_and_socket_and_drops_unknown_keys() {
        let ping =
            MessageRef::parse(r#"{"parameters":{"b":1},"class":"ping","persistsock":"unix:/x","extra":1}"#)
                .unwrap();

        let line = Message::pong(&ping).to_line();

        assert_eq!(
            line,
            b"{\"class\":\"ping\",\"parameters\":{\"b\":1},\"persistsock\":\"unix:/x\"}\n".to_vec()
        );
    }

    #[test]
    fn the_short_way_to_write_an_acknowledgement_gives_the_same_line() {
        for id in ["e-1", "", "a\"b\\c\n\u{7f}é"] {
            let mut line = Vec::new();
            Message::write_ack_line(&mut line, &serde_json::to_string(id).unwrap());

            assert_eq!(line, Message::ack(id).to_line());
        }
    }

    #[test]
    fn wrong_parameters_name_the_class_and_the_field() {
        let message = MessageRef::parse(r#"{"class":"log","parameters":{"text":"x"}}"#).unwrap();

        let error = message.parameters_as::<LogParameters<'_>>("log").unwrap_err();

        assert_eq!(error.reason(), "bad_parameters");
        assert!(error.to_string().contains("log"), "{error}");
        assert!(error.to_string().contains("message"), "{error}");
    }

    #[test]
    fn a_list_is_not_an_object() {
        let message = MessageRef::parse(r#"{"class":"config","parameters":[]}"#).unwrap();

        assert!(message.parameters_as::<ConfigParameters>("config").is_err());
    }

    #[test]
    fn absent_and_null_parameters_are_the_same() {
        let absent = MessageRef::parse(r#"{"class":"ping"}"#).unwrap();
        let null = MessageRef::parse(r#"{"class":"ping","parameters":null}"#).unwrap();

        assert_eq!(absent, null);
    }

    #[test]
    fn what_is_not_an_object_with_a_class_is_refused() {
        for line in
            ["", "null", "[1,2]", "hello", r#"{"parameters":{}}"#, r#"{"class":5}"#, r#"{"class":"ping"} x"#]
        {
            assert!(MessageRef::parse(line).is_err(), "{line:?} was accepted");
        }
    }
}
