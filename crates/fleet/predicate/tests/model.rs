//! A second evaluator, written for being obviously right: it works on the JSON of the facts and knows nothing
//! of the first one. Also makes predicates and facts that often meet.

use std::fmt;
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::Value;

use crate::facts::Facts;

#[derive(Debug, Clone)]
pub(super) enum Model {
    All,
    Not(Box<Model>),
    And(Box<Model>, Box<Model>),
    Or(Box<Model>, Box<Model>),
    Compare(String, &'static str, Vec<String>),
}

impl Model {
    pub(super) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }

    pub(super) fn holds(&self, facts: &Value) -> bool {
        match self {
            Self::All => true,
            Self::Not(inner) => !inner.holds(facts),
            Self::And(a, b) => a.holds(facts) && b.holds(facts),
            Self::Or(a, b) => a.holds(facts) || b.holds(facts),
            Self::Compare(name, operator, values) => {
                let found = fact(facts, name);
                if *operator == "!=" {
                    return !found.contains(&values[0]);
                }
                found.iter().any(|found| values.iter().any(|value| compare(found, operator, value)))
            }
        }
    }
}

/// All texts that a fact has: none when it is absent.
fn fact(facts: &Value, name: &str) -> Vec<String> {
    let value = match name.strip_prefix("tag.") {
        Some(tag) => facts["tags"].get(tag),
        None => facts.get(match name {
            "module" => "modules",
            "group" => "groups",
            "addr" => "addresses",
            "os.id" => "os_id",
            "os.version" => "os_version",
            "agent.version" => "agent_version",
            other => other,
        }),
    };
    match value {
        None => Vec::new(),
        Some(Value::Array(items)) => items.iter().map(|item| item.as_str().unwrap().to_owned()).collect(),
        Some(text) => vec![text.as_str().unwrap().to_owned()],
    }
}

fn compare(found: &str, operator: &str, value: &str) -> bool {
    match operator {
        "==" | "in" => found == value,
        "has" => match (found.parse::<IpAddr>(), value.parse::<IpAddr>()) {
            (Ok(found), Ok(value)) => bits(found) == bits(value),
            _ => found == value,
        },
        "~" => like(&value.chars().collect::<Vec<_>>(), &found.chars().collect::<Vec<_>>()),
        "cidr" => in_range(found, value),
        order => {
            let (mut left, mut right) = (parts(found), parts(value));
            let length = left.len().max(right.len());
            left.resize(length, (1, 0, String::new()));
            right.resize(length, (1, 0, String::new()));
            let order_holds = match order {
                "<" => left < right,
                "<=" => left <= right,
                ">" => left > right,
                ">=" => left >= right,
                other => panic!("{other}"),
            };
            found.chars().next().is_some_and(|c| c.is_ascii_digit()) && order_holds
        }
    }
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=text.len()).any(|skipped| like(rest, &text[skipped..])),
        (['?', rest @ ..], [_, behind @ ..]) => like(rest, behind),
        ([wanted, rest @ ..], [c, behind @ ..]) => wanted == c && like(rest, behind),
        _ => false,
    }
}

/// Rank, number and letters of each part of a version.
fn parts(text: &str) -> Vec<(u8, u128, String)> {
    let mut spaced = String::new();
    let mut last = ' ';
    for c in text.to_ascii_lowercase().chars() {
        let kind = |c: char| (c.is_ascii_digit(), c.is_ascii_lowercase());
        if kind(c) != kind(last) {
            spaced.push(' ');
        }
        spaced.push(if c.is_ascii_alphanumeric() { c } else { ' ' });
        last = c;
    }
    let part = |word: &str| match word.parse::<u128>() {
        Ok(0) => (1, 0, String::new()),
        Ok(number) => (3, number, String::new()),
        Err(_) if ["alpha", "beta", "dev", "pre", "rc"].contains(&word) => (0, 0, word.to_owned()),
        Err(_) => (2, 0, word.to_owned()),
    };
    spaced.split_whitespace().map(part).collect()
}

/// The address as zeros and ones.
fn bits(address: IpAddr) -> String {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let all: String = octets.iter().map(|octet| format!("{octet:08b}")).collect();
    let mapped = format!("{}{}", "0".repeat(80), "1".repeat(16));
    all.strip_prefix(&mapped).map_or(all.clone(), str::to_owned)
}

fn in_range(found: &str, range: &str) -> bool {
    let (network, length) = range.split_once('/').unwrap();
    let (network, mut length) = (network.parse::<IpAddr>().unwrap(), length.parse::<usize>().unwrap());
    let (found, mut wanted) = (bits(found.parse().unwrap()), bits(network));
    if network.is_ipv6() && wanted.len() == 32 {
        match length.checked_sub(96) {
            Some(rest) => length = rest,
            // Wider than the mapped addresses: an IPv6 range that only begins like them.
            None => wanted = format!("{}{}{wanted}", "0".repeat(80), "1".repeat(16)),
        }
    }
    found.len() == wanted.len() && found[..length] == wanted[..length]
}

/// As an investigator could write it, with more parentheses than are needed.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        match self {
            Self::All => write!(f, "all"),
            Self::Not(inner) => write!(f, "!({inner})"),
            Self::And(a, b) => write!(f, "({a})&&({b})"),
            Self::Or(a, b) => write!(f, "({a}) || ({b})"),
            Self::Compare(fact, "in", values) => {
                write!(f, "{fact} in [{}]", values.iter().map(quoted).collect::<Vec<_>>().join(","))
            }
            Self::Compare(fact, operator, values) => write!(f, "{fact} {operator} {}", quoted(&values[0])),
        }
    }
}

const TEXTS: [&str; 14] = [
    "",
    "a",
    "ab",
    "b",
    "linux",
    "web-1",
    "é",
    "a\"b\\",
    "9",
    "12",
    "1.2",
    "01.2.0",
    "6.1.0-13-amd64",
    "6.1-rc3",
];

fn some_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(&TEXTS[..]).prop_map(str::to_owned),
        1 => "[ab1é\"\\\\*?.-]{0,6}",
        1 => "\\PC{0,6}",
    ]
}

fn some_version() -> impl Strategy<Value = String> {
    prop_oneof![prop::sample::select(&TEXTS[8..]).prop_map(str::to_owned), "[0-9][0-9a-crd.~_é-]{0,8}"]
}

fn some_name() -> impl Strategy<Value = String> {
    prop::sample::select(&["a", "ab", "b", "web-1"][..]).prop_map(str::to_owned)
}

fn some_address() -> impl Strategy<Value = IpAddr> {
    let few =
        ["10.0.0.1", "10.0.0.2", "10.1.0.1", "::ffff:10.0.0.1", "2001:db8::1", "2001:db8::2", "::a00:1"];
    prop_oneof![prop::sample::select(few.to_vec()).prop_map(|text| text.parse().unwrap()), any::<IpAddr>()]
}

fn some_range() -> impl Strategy<Value = String> {
    (some_address(), 0..=128_u8).prop_map(|(address, length)| {
        let length = if address.is_ipv4() { length % 33 } else { length };
        format!("{address}/{length}")
    })
}

fn some_text_fact() -> impl Strategy<Value = String> {
    let names = [
        "agent",
        "hostname",
        "os",
        "os.id",
        "os.version",
        "arch",
        "kernel",
        "agent.version",
        "tag.a",
        "tag.b",
        "tag.x.y-z_0",
    ];
    prop::sample::select(names.map(str::to_owned).to_vec())
}

fn comparison() -> impl Strategy<Value = Model> {
    let one = |value: String| vec![value];
    prop_oneof![
        6 => (some_text_fact(), prop::sample::select(&["==", "!=", "~"][..]), some_text().prop_map(one)),
        3 => (some_text_fact(), Just("~"), "[ab1*?-]{0,6}".prop_map(one)),
        6 => (some_text_fact(), prop::sample::select(&["<", "<=", ">", ">="][..]), some_version().prop_map(one)),
        2 => (some_text_fact(), Just("in"), prop::collection::vec(some_text(), 1..4)),
        2 => (
            prop::sample::select(vec!["module".to_owned(), "group".to_owned()]),
            Just("has"),
            some_text().prop_map(one)
        ),
        2 => (Just("addr".to_owned()), Just("has"), some_address().prop_map(move |a| one(a.to_string()))),
        2 => (Just("addr".to_owned()), Just("cidr"), some_range().prop_map(one)),
    ]
    .prop_map(|(fact, operator, values)| Model::Compare(fact, operator, values))
}

pub(super) fn predicates() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![1 => Just(Model::All), 12 => comparison()];
    leaf.prop_recursive(5, 12, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(Model::not),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.and(b)),
            (inner.clone(), inner).prop_map(|(a, b)| a.or(b)),
        ]
    })
}

pub(super) fn some_facts() -> impl Strategy<Value = Facts> {
    let texts = (some_text(), some_text(), some_text(), some_version(), some_version());
    let optional = (prop::option::of(some_text()), prop::option::of(some_version()));
    let lists = (
        prop::collection::vec(some_name(), 0..3),
        prop::collection::vec(some_address(), 0..4),
        prop::collection::btree_map(
            prop::sample::select(vec!["a".to_owned(), "b".to_owned(), "x.y-z_0".to_owned()]),
            some_text(),
            0..3,
        ),
        prop::collection::vec(some_name(), 0..3),
    );
    (some_name(), texts, optional, lists).prop_map(|(agent, texts, optional, lists)| {
        let (hostname, os, arch, kernel, agent_version) = texts;
        let (os_id, os_version) = optional;
        let (modules, addresses, tags, groups) = lists;
        Facts {
            agent: agent.parse().unwrap(),
            hostname,
            os,
            os_id,
            os_version,
            arch,
            kernel,
            agent_version,
            modules,
            addresses,
            tags,
            groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        }
    })
}
