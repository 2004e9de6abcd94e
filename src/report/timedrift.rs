//! What `timedrift` found out about the clock.

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use super::{Report, local_time, read, text_of};
use crate::print::Tone;
use crate::table::{Cell, Column, Fit, Table};

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Value = read(result.elements.as_deref())?;
    let statistics: Value = read(result.statistics.as_deref()).unwrap_or_default();
    let mut lines =
        vec![(Tone::Plain, format!("local time    {}", local_time(&text_of(&elements, "localtime"))))];
    if let Some(kernel) = elements["kernel"].as_object() {
        let (tone, word) = match kernel.get("synchronised") {
            Some(Value::Bool(true)) => (Tone::Plain, "synchronised"),
            _ => (Tone::Doubtful, "not synchronised"),
        };
        let error = kernel.get("maximum_error").and_then(Value::as_str).unwrap_or_default();
        lines.push((tone, format!("kernel        {word}, maximum error {error}")));
    }
    match text_of(&elements, "verdict").as_str() {
        "" => {}
        "within" => lines.push((Tone::Good, "the clock is within the tolerance".to_owned())),
        "outside" => lines.push((Tone::Bad, "the clock is outside the tolerance".to_owned())),
        _ => lines.push((Tone::Doubtful, "cannot tell whether the clock is within the tolerance".to_owned())),
    }
    if let Some(why) = elements["why"].as_str() {
        lines.push((Tone::Doubtful, format!("because       {why}")));
    }
    if let Some(agreed) = elements["agreed"].as_object() {
        let offset = |key: &str| agreed.get(key).and_then(Value::as_i64).map(seconds).unwrap_or_default();
        let number = |key: &str| agreed.get(key).and_then(Value::as_u64).unwrap_or_default();
        let (low, high) = (offset("lowest_offset_nanoseconds"), offset("highest_offset_nanoseconds"));
        let (servers, of) = (number("servers"), number("of"));
        lines.push((
            Tone::Plain,
            format!("true time     {low} to {high} from here, by {servers} of {of} servers"),
        ));
    }
    if let Some(daemon) = elements["daemon"].as_object() {
        let text = |key: &str| daemon.get(key).and_then(Value::as_str).unwrap_or_default();
        let follows = match text("server") {
            "" => "follows no server".to_owned(),
            server => format!("follows {server}"),
        };
        let (tone, word) = match text("judgement") {
            "liar" => (Tone::Bad, ", contradicted by the others"),
            "agrees" => (Tone::Plain, ", in agreement with the others"),
            _ => (Tone::Plain, ""),
        };
        lines.push((tone, format!("daemon        {} {follows}{word}", text("name"))));
    }
    for sentence in elements["drifts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push((Tone::Bad, sentence.to_owned()));
    }
    let mut table = Table::new([
        Column::new("SERVER").fit(Fit::CutEnd),
        Column::new("ADDRESS").rank(4),
        Column::new("OFFSET").right(),
        Column::new("± ERROR").right().rank(1),
        Column::new("LATENCY").right().rank(3),
        Column::new("STRATUM").right().rank(2),
        Column::new("JUDGEMENT").rank(1),
        Column::new("SOURCE").wide(),
        Column::new("NOTE").fit(Fit::CutEnd).rank(5),
    ]);
    for server in statistics["ntpstats"].as_array().into_iter().flatten() {
        let seconds = |key: &str| server[key].as_i64().map(seconds).unwrap_or_default();
        let latency = if server["reachable"] == true { text_of(server, "latency") } else { String::new() };
        let cells = [
            text_of(server, "host"),
            text_of(server, "address"),
            seconds("offset_nanoseconds"),
            seconds("error_bound_nanoseconds"),
            latency,
            text_of(server, "stratum"),
            text_of(server, "judgement"),
            text_of(server, "source"),
            text_of(server, "error"),
        ];
        table.add(cells.map(Cell::from));
    }
    Some(Report { lines, table, ..Report::default() })
}

/// Nanoseconds in the unit that suits them.
#[expect(clippy::cast_precision_loss, reason = "three digits after the point are shown")]
fn seconds(nanoseconds: i64) -> String {
    let value = nanoseconds as f64;
    match nanoseconds.unsigned_abs() {
        0..1_000_000 => format!("{:.0} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.3} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;
    use super::*;

    #[test]
    fn each_server_is_a_line() {
        let text = shown(
            "timedrift",
            r#"{"foundanything":true,"success":true,"elements":{"hascheckeddrift":true,"localtime":"x","verdict":"outside"},
                "statistics":{"exectime":"2ms","ntpstats":[{"host":"a.b","latency":"1ms","reachable":true,
                "offset_nanoseconds":-2500000000,"error_bound_nanoseconds":1500000,"stratum":2,"source":"/etc/x"}]}}"#,
            None,
        );

        assert_eq!(
            text,
            "\
timedrift: found
local time    x
the clock is outside the tolerance
SERVER  ADDRESS    OFFSET  ± ERROR  LATENCY  STRATUM  JUDGEMENT  NOTE
a.b              -2.500 s   1.5 ms      1ms        2
"
        );
    }

    #[test]
    fn what_all_servers_say_is_told_above_them() {
        let text = shown(
            "timedrift",
            r#"{"foundanything":false,"success":true,"elements":{"hascheckeddrift":false,"localtime":"x",
                "verdict":"cannot tell","why":"no","liars":[],
                "agreed":{"lowest_offset_nanoseconds":-2000000,"highest_offset_nanoseconds":1500000000,"servers":2,"of":3},
                "daemon":{"name":"chronyd","synchronised":true,"server":"192.0.2.1","judgement":"liar"}},
                "statistics":{"exectime":"2ms","ntpstats":[{"host":"a.b","reachable":false,"judgement":"liar"}]},
                "coverage":{"complete":false,"examined":1,"not_examined":[]}}"#,
            None,
        );

        assert_eq!(
            text,
            "\
timedrift: found nothing but did not examine everything
local time    x
cannot tell whether the clock is within the tolerance
because       no
true time     -2.0 ms to 1.500 s from here, by 2 of 3 servers
daemon        chronyd follows 192.0.2.1, contradicted by the others
SERVER  ADDRESS  OFFSET  ± ERROR  LATENCY  STRATUM  JUDGEMENT  NOTE
a.b                                                 liar
"
        );
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        assert_eq!([-12_000, 1_500_000, 2_000_000_000].map(seconds), ["-12 µs", "1.5 ms", "2.000 s"]);
    }
}
