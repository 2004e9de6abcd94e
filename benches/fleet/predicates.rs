//! Random targets, good and bad ones, parsed and evaluated: what the worst of them takes.
//!
//! Anybody with a key can write a target, and every agent evaluates it as root. The texts follow the grammar with
//! random parts, are cut and changed at random, or are made of what should cost most within the limits; the facts
//! are those of a usual host and of one with as many facts as there may be.

use std::time::Duration;

use tokio::time::Instant;
use vigie_fleet::facts::{Facts, MAX_ADDRESSES, MAX_GROUPS, MAX_MODULES, MAX_TAGS};
use vigie_fleet::predicate::{MAX_TEXT_BYTES, Target};

use crate::Size;
use crate::simulator;
use vigie_benchmark::{BenchResult, Goal, Measure, Report};

/// Most time for one predicate, to parse and evaluate it, in microseconds.
const MICROSECONDS: f64 = 100.0;

/// A predicate that took longer than this is measured again, because the system may have run something else.
const SUSPICIOUS: Duration = Duration::from_micros(25);

/// How often a suspicious one is measured again; the best counts.
const REPEATS: usize = 8;

/// Row 8, the part about time. That OpenSSH agrees about signatures is a test of the crate.
pub(crate) fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let usual = simulator::facts(4711);
    let largest = largest(&usual);
    // A fixed seed: every run measures the same texts.
    let mut random = Random(0x5eed_0000_0000_0001);
    let (mut sum, mut worst, mut worst_large) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut parsed, mut worst_bytes, mut text) = (0_u64, 0, String::new());
    for _ in 0..size.predicates {
        text.clear();
        random.target(&mut text);
        let (is_target, time) = best_time(&text, &usual);
        parsed += u64::from(is_target);
        sum += time;
        if time > worst {
            (worst, worst_bytes) = (time, text.len());
        }
        if is_target {
            worst_large = worst_large.max(best_time(&text, &largest).1);
        }
    }
    let count = f64::from(size.predicates);
    let row = |what: &str, value, unit| Measure::new("8 targets", what, value, unit);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    report.add(row("random texts, none made it panic", count, "texts"));
    report.add(row("of these a target", parsed as f64 / count * 100.0, "%"));
    report.add(row("parse and evaluate, mean", micros(sum) / count, "us"));
    report.add(row("parse and evaluate, worst", micros(worst), "us").goal(Goal::AtMost(MICROSECONDS)));
    report.add(row("length of the worst text", worst_bytes as f64, "bytes"));
    report.add(row("worst on a host with all facts that there may be", micros(worst_large), "us"));
    for (what, text) in costly() {
        let what = format!("4 KiB of {what}");
        let (is_target, time) = best_time(&text, &largest);
        if !is_target {
            return Err(format!("not a target: {what}").into());
        }
        report.add(row(&format!("{what}, all facts"), micros(time), "us"));
        report.add(row(&format!("{what}, usual facts"), micros(best_time(&text, &usual).1), "us"));
    }
    Ok(())
}

/// Whether a text is a target, and how long it takes to find that out and to evaluate it.
fn best_time(text: &str, facts: &Facts) -> (bool, Duration) {
    let (is_target, mut best) = time(text, facts);
    for _ in 0..REPEATS {
        if best < SUSPICIOUS {
            break;
        }
        best = best.min(time(text, facts).1);
    }
    (is_target, best)
}

fn time(text: &str, facts: &Facts) -> (bool, Duration) {
    let began = Instant::now();
    let target = Target::parse(text);
    let answer = target.as_ref().is_ok_and(|target| target.matches(facts));
    let time = began.elapsed();
    std::hint::black_box(answer);
    (target.is_ok(), time)
}

/// The facts of a host with as many as are allowed, none of which a target finds early.
fn largest(usual: &Facts) -> Facts {
    let number = |index: usize| format!("{index:060}");
    Facts {
        hostname: "a".repeat(256),
        modules: (0..MAX_MODULES).map(|index| format!("m{}", number(index))).collect(),
        addresses: (0..MAX_ADDRESSES)
            .map(|index| std::net::Ipv6Addr::from(0xfd00_u128 << 112 | index as u128).into())
            .collect(),
        tags: (0..MAX_TAGS).map(|index| (number(index), "x".repeat(256))).collect(),
        groups: (0..MAX_GROUPS).filter_map(|index| format!("g{}", number(index)).parse().ok()).collect(),
        ..usual.clone()
    }
}

/// Targets of nearly the longest text, made of one kind of comparison that is never true.
fn costly() -> Vec<(&'static str, String)> {
    let many = |part: &str| {
        let count = (MAX_TEXT_BYTES + 4) / (part.len() + 4);
        vec![part; count].join(" || ")
    };
    vec![
        ("addresses in ranges", many(r#"addr cidr "10.0.0.0/8""#)),
        ("modules", many(r#"module has "x""#)),
        ("patterns", many(r#"hostname ~ "*b""#)),
        ("patterns that match late", many(r#"hostname ~ "*a*a*a*a*a*a*a*b""#)),
        ("versions", many(r#"kernel < 1"#)),
        ("lists", many(r#"os in ["a", "b", "c", "d", "e", "f", "g"]"#)),
        ("parentheses", many(&format!("{}all{}", "!(".repeat(16), ")".repeat(16)))),
    ]
}

/// Numbers that look random (xorshift64*, Vigna 2016); the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or_default() % bound.max(1)
    }

    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    /// A text that follows the grammar, and every eighth time is changed at some places.
    fn target(&mut self, out: &mut String) {
        let depth = self.below(6);
        self.expression(depth, out);
        // As long as it may be, now and then.
        if self.below(64) == 0 {
            while out.len() < MAX_TEXT_BYTES - 200 {
                out.push_str(self.one_of(&[" && ", " || "]));
                self.comparison(out);
            }
        }
        if self.below(8) == 0 {
            for _ in 0..=self.below(4) {
                self.change(out);
            }
        }
    }

    fn expression(&mut self, depth: usize, out: &mut String) {
        match self.below(if depth == 0 { 1 } else { 5 }) {
            0 => self.comparison(out),
            1 => {
                out.push_str("!(");
                self.expression(depth - 1, out);
                out.push(')');
            }
            kind => {
                let operator = [" && ", " || "][kind % 2];
                let parts = 2 + self.below(3);
                for part in 0..parts {
                    if part > 0 {
                        out.push_str(operator);
                    }
                    out.push('(');
                    self.expression(depth - 1, out);
                    out.push(')');
                }
            }
        }
    }

    fn comparison(&mut self, out: &mut String) {
        match self.below(8) {
            0 => out.push_str("all"),
            1 => {
                out.push_str(self.one_of(&["module has ", "group has "]));
                self.value(out);
            }
            2 => {
                let lengths = [0, 8, 24, 32, 33];
                let length = lengths[self.below(lengths.len())];
                let bytes = [0; 4].map(|_: u8| self.below(256));
                let [a, b, c, d] = bytes;
                out.push_str(&format!("addr cidr \"{a}.{b}.{c}.{d}/{length}\""));
            }
            3 => {
                out.push_str(self.one_of(&["addr has \"10.0.0.1\"", "addr has \"fd00::1\""]));
            }
            4 => {
                self.fact(out);
                out.push_str(" in [");
                for place in 0..=self.below(8) {
                    if place > 0 {
                        out.push_str(", ");
                    }
                    self.value(out);
                }
                out.push(']');
            }
            5 => {
                self.fact(out);
                out.push_str(self.one_of(&[" < ", " <= ", " > ", " >= "]));
                let (major, minor) = (self.below(100), self.below(100));
                out.push_str(&format!("{major}.{minor}"));
            }
            6 => {
                self.fact(out);
                out.push_str(" ~ \"");
                for _ in 0..=self.below(12) {
                    out.push_str(self.one_of(&["*", "?", "a", "web", "-", "*a", "e", "."]));
                }
                out.push('"');
            }
            _ => {
                self.fact(out);
                out.push_str(self.one_of(&[" == ", " != "]));
                self.value(out);
            }
        }
    }

    fn fact(&mut self, out: &mut String) {
        let facts = [
            "agent",
            "hostname",
            "os",
            "os.id",
            "os.version",
            "arch",
            "kernel",
            "agent.version",
            "tag.env",
            "tag.half",
            "tag.site",
            "tag.none",
        ];
        out.push_str(self.one_of(&facts));
    }

    fn value(&mut self, out: &mut String) {
        let values =
            ["linux", "debian", "12", "amd64", "prod", "web-4711.example.net", "", "é😀", "\\\"", "\\\\"];
        out.push('"');
        out.push_str(self.one_of(&values));
        out.push('"');
    }

    /// Puts a character in, takes one out or cuts the text off.
    fn change(&mut self, out: &mut String) {
        let place = out.floor_char_boundary(self.below(out.len() + 1));
        match self.below(8) {
            0 => out.truncate(place),
            1 | 2 if place < out.len() => drop(out.remove(place)),
            _ => out.insert_str(
                place,
                self.one_of(&["(", ")", "!", "\"", "&", "|", "*", " ", "[", "]", "\0", "é", "=="]),
            ),
        }
    }
}
