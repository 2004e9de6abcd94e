//! The predicate that says which agents an action is for.
//!
//! ```text
//! os == "linux" && (tag.env == "prod" || hostname ~ "web-*") && !(module has "file")
//! ```
//!
//! `docs/targets.md` describes the language. The client previews with this code and the agent decides with it,
//! each against [`Facts`]. It has no loops, functions or regular expressions: work and memory are bounded by the
//! length of the text.
//!
//! A fact that is absent makes every comparison false but `!=`, which is true.

mod error;
mod glob;
mod parse;
#[cfg(test)]
mod tests;
mod token;
mod version;

use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::str::FromStr;

/// Whether a text is one that a pattern means, in which `*` stands for any text and `?` for one character. A pattern
/// that is none means nothing.
#[must_use]
pub(crate) fn glob_matches(pattern: &str, text: &str) -> bool {
    glob::Glob::new(pattern).is_some_and(|glob| glob.matches(text))
}

pub use error::{Problem, TargetError};
use glob::Glob;
use vigie_host::AddressRange;

use crate::facts::Facts;

/// Longest text of a target in bytes, as it is given and in its canonical form.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Most parentheses and `!` inside each other.
pub const MAX_DEPTH: usize = 32;

/// A predicate over the facts of an agent. Its canonical text ([`fmt::Display`]) is read again as an equal target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    root: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All,
    Not(Box<Node>),
    /// Two or more, none of them an `And`.
    And(Vec<Node>),
    /// Two or more, none of them an `Or`.
    Or(Vec<Node>),
    Text(TextFact, TextTest),
    Has(ListFact, Box<str>),
    Addresses(AddressTest),
}

/// A fact that is one text, or absent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TextFact {
    Agent,
    Hostname,
    Os,
    OsId,
    OsVersion,
    Arch,
    Kernel,
    AgentVersion,
    Tag(Box<str>),
}

/// A fact that is any number of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListFact {
    Module,
    Group,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TextTest {
    Equal(Box<str>),
    NotEqual(Box<str>),
    Like(Glob),
    Order(Order, Box<str>),
    In(Box<[Box<str>]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum AddressTest {
    Has(IpAddr),
    In(AddressRange),
}

impl Target {
    /// Reads the text of a target.
    ///
    /// # Errors
    /// When it is not one, with the place and what to write instead. Such a target is for nobody.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let target = Self { root: parse::parse(text)? };
        let mut written = Length(0);
        // Counting cannot fail.
        let _ = write!(written, "{target}");
        if written.0 > MAX_TEXT_BYTES {
            return Err(TargetError::new(text, 0, Problem::TooLongWritten(written.0)));
        }
        Ok(target)
    }

    /// Whether it is true for an agent with these facts. Allocates nothing.
    #[must_use]
    pub fn matches(&self, facts: &Facts) -> bool {
        self.root.matches(facts)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

impl Node {
    fn matches(&self, facts: &Facts) -> bool {
        match self {
            Self::All => true,
            Self::Not(node) => !node.matches(facts),
            Self::And(nodes) => nodes.iter().all(|node| node.matches(facts)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(facts)),
            Self::Text(fact, test) => test.matches(fact.of(facts)),
            Self::Has(ListFact::Module, name) => facts.modules.iter().any(|module| **module == **name),
            Self::Has(ListFact::Group, name) => facts.groups.iter().any(|group| group.as_str() == &**name),
            Self::Addresses(test) => facts.addresses.iter().any(|address| match test {
                AddressTest::Has(wanted) => address.to_canonical() == *wanted,
                AddressTest::In(range) => range.contains(*address),
            }),
        }
    }
}

impl TextFact {
    fn of<'f>(&self, facts: &'f Facts) -> Option<&'f str> {
        match self {
            Self::Agent => Some(facts.agent.as_str()),
            Self::Hostname => Some(&facts.hostname),
            Self::Os => Some(&facts.os),
            Self::OsId => facts.os_id.as_deref(),
            Self::OsVersion => facts.os_version.as_deref(),
            Self::Arch => Some(&facts.arch),
            Self::Kernel => Some(&facts.kernel),
            Self::AgentVersion => Some(&facts.agent_version),
            Self::Tag(name) => facts.tags.get(&**name).map(String::as_str),
        }
    }
}

impl TextTest {
    fn matches(&self, fact: Option<&str>) -> bool {
        let Some(fact) = fact else { return matches!(self, Self::NotEqual(_)) };
        match self {
            Self::Equal(value) => *fact == **value,
            Self::NotEqual(value) => *fact != **value,
            Self::Like(glob) => glob.matches(fact),
            // A fact that is no version has no place in the order.
            Self::Order(order, value) => {
                version::is_version(fact) && order.holds(version::compare(fact, value))
            }
            Self::In(values) => values.iter().any(|value| *fact == **value),
        }
    }
}

impl Order {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// Writes one space around operators and behind commas, parentheses only where they are needed, and quotes
/// around every value but versions that are compared by order.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Not(node) => match &**node {
                Self::All | Self::Not(_) => write!(f, "!{node}"),
                _ => write!(f, "!({node})"),
            },
            Self::And(nodes) => joined(f, nodes, " && ", |f, node| match node {
                Self::Or(_) => write!(f, "({node})"),
                _ => write!(f, "{node}"),
            }),
            Self::Or(nodes) => joined(f, nodes, " || ", |f, node| write!(f, "{node}")),
            Self::Text(fact, test) => write!(f, "{fact} {test}"),
            Self::Has(ListFact::Module, name) => write!(f, "module has {}", Quoted(name)),
            Self::Has(ListFact::Group, name) => write!(f, "group has {}", Quoted(name)),
            Self::Addresses(AddressTest::Has(address)) => write!(f, "addr has \"{address}\""),
            Self::Addresses(AddressTest::In(range)) => write!(f, "addr cidr \"{range}\""),
        }
    }
}

impl fmt::Display for TextFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Hostname => "hostname",
            Self::Os => "os",
            Self::OsId => "os.id",
            Self::OsVersion => "os.version",
            Self::Arch => "arch",
            Self::Kernel => "kernel",
            Self::AgentVersion => "agent.version",
            Self::Tag(name) => return write!(f, "tag.{name}"),
        })
    }
}

impl fmt::Display for TextTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal(value) => write!(f, "== {}", Quoted(value)),
            Self::NotEqual(value) => write!(f, "!= {}", Quoted(value)),
            Self::Like(glob) => write!(f, "~ {}", Quoted(glob.as_str())),
            Self::Order(order, value) if token::is_bare_version(value) => {
                write!(f, "{} {value}", order.as_str())
            }
            Self::Order(order, value) => write!(f, "{} {}", order.as_str(), Quoted(value)),
            Self::In(values) => {
                f.write_str("in [")?;
                joined(f, values, ", ", |f, value| write!(f, "{}", Quoted(value)))?;
                f.write_char(']')
            }
        }
    }
}

fn joined<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    separator: &str,
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            f.write_str(separator)?;
        }
        write(f, item)?;
    }
    Ok(())
}

/// A text as the language writes it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for piece in self.0.split_inclusive(['"', '\\']) {
            match piece.char_indices().next_back() {
                Some((at, c @ ('"' | '\\'))) => write!(f, "{}\\{c}", &piece[..at])?,
                _ => f.write_str(piece)?,
            }
        }
        f.write_char('"')
    }
}

/// Counts the bytes that are written.
struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}
