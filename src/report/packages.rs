//! What `packages` found.

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use super::{Report, count, found_in, local_time, read, text_of};
use crate::print::{Tone, size};
use crate::table::{Cell, Column, Fit, Table};

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Value = read(result.elements.as_deref())?;
    let statistics: Value = read(result.statistics.as_deref()).unwrap_or_default();
    let took = text_of(&statistics, "exectime");
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    if let Some(findings) = elements["findings"].as_array() {
        let verified = &statistics["verified"];
        let files = count(number(&verified["files"]), "files");
        let packages = count(number(&verified["packages"]), "packages");
        let remembered = match number(&verified["remembered"]) {
            0 => String::new(),
            some => format!(", {} as remembered", count(some, "digests")),
        };
        let summary = format!(
            "{}in {files} of {packages}, {took}{remembered}",
            match findings.len() {
                0 => String::new(),
                some => format!("{} ", count(some as u64, "differences")),
            }
        );
        return Some(Report { summary, table: differences(findings), ..Report::default() });
    }
    let packages = elements["packages"].as_array()?;
    let examined = count(number(&statistics["examined"]), "packages");
    let summary = format!("{}, {took}", found_in(packages.len() as u64, &examined));
    Some(Report { summary, table: list(packages), ..Report::default() })
}

fn list(packages: &[Value]) -> Table {
    let mut table = Table::new([
        Column::new("NAME"),
        Column::new("VERSION").fit(Fit::CutEnd),
        Column::new("ARCH").rank(2),
        Column::new("STATE").rank(1),
        Column::new("OWNS").fit(Fit::CutStart).rank(3),
        Column::new("SOURCE").wide(),
        Column::new("INSTALLED").wide(),
        Column::new("SIZE").right().wide(),
        Column::new("MANAGER").wide(),
        Column::new("FILES").wide(),
    ]);
    for package in packages {
        let text = |key: &str| text_of(package, key);
        let joined = |key: &str| {
            let texts = package[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.collect::<Vec<_>>().join(" ")
        };
        let state = [text("state"), text("wanted")].into_iter().filter(|word| !word.is_empty());
        let state = state.collect::<Vec<_>>().join(", ");
        let tone = if state == "installed" { Tone::Plain } else { Tone::Doubtful };
        let installed = if package["install_time"].is_string() {
            local_time(&text("install_time"))
        } else {
            String::new()
        };
        table.add([
            Cell::from(text("name")),
            text("version").into(),
            text("arch").into(),
            Cell::new(tone, state),
            joined("owns").into(),
            text("source").into(),
            installed.into(),
            package["size"].as_u64().map(size).unwrap_or_default().into(),
            text("manager").into(),
            joined("files").into(),
        ]);
    }
    table
}

fn differences(findings: &[Value]) -> Table {
    let mut table = Table::new([
        Column::new("DIFFERS"),
        Column::new("PATH").fit(Fit::CutStart),
        Column::new("PACKAGE").fit(Fit::CutEnd),
        Column::new("EXPECTED").fit(Fit::CutEnd).rank(2),
        Column::new("FOUND").fit(Fit::CutEnd).rank(1),
        Column::new("VERSION").wide(),
        Column::new("NOTE").rank(3),
    ]);
    for finding in findings {
        let text = |key: &str| text_of(finding, key);
        let is = |key: &str| finding[key] == true;
        let what = text("what");
        // The administrator may well have changed these.
        let expected = is("configuration") || is("excluded");
        let tone = match &*what {
            "setuid" | "capabilities" => Tone::Bad,
            _ if expected => Tone::Plain,
            _ => Tone::Doubtful,
        };
        let notes =
            [("configuration", is("configuration")), ("excluded by dpkg's configuration", is("excluded"))];
        let notes: Vec<&str> = notes.iter().filter(|(_, is)| *is).map(|(note, _)| *note).collect();
        table.add([
            Cell::new(tone, what),
            text("path").into(),
            text("package").into(),
            text("expected").into(),
            text("found").into(),
            text("version").into(),
            notes.join(", ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;

    /// The words of each line.
    fn words(json: &str) -> Vec<Vec<String>> {
        let text = shown("packages", json, None);
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn packages_have_a_line_each() {
        let lines = words(
            r#"{"foundanything":true,"success":true,"elements":{"packages":[
            {"name":"openssl","version":"3.0.14-1~deb12u2","arch":"amd64","manager":"dpkg","state":"installed"},
            {"name":"b","version":"1","manager":"apk","state":"half-installed","wanted":"hold"}]},
            "statistics":{"examined":925,"exectime":"12ms"},"coverage":{"complete":true}}"#,
        );

        assert_eq!(lines[0].join(" "), "packages: found 2 in 925 packages, 12ms");
        assert_eq!(lines[2], ["openssl", "3.0.14-1~deb12u2", "amd64", "installed"]);
        assert_eq!(lines[3], ["b", "1", "half-installed,", "hold"]);
    }

    #[test]
    fn differences_have_a_line_each() {
        let lines = words(
            r#"{"foundanything":true,"success":true,"elements":{"findings":[
            {"what":"setuid","path":"/usr/bin/find","package":"findutils","version":"1","manager":"dpkg","expected":"0755","found":"4755"},
            {"what":"digest","path":"/etc/x","package":"x","version":"1","manager":"dpkg","configuration":true}]},
            "statistics":{"exectime":"2s","verified":{"packages":2,"files":7,"remembered":3}},"coverage":{"complete":true}}"#,
        );

        assert_eq!(
            lines[0].join(" "),
            "packages: found 2 differences in 7 files of 2 packages, 2s, 3 digests as remembered"
        );
        assert_eq!(lines[2], ["setuid", "/usr/bin/find", "findutils", "0755", "4755"]);
        assert_eq!(lines[3], ["digest", "/etc/x", "x", "configuration"]);
    }
}
