//! What `file` found.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use vigie_protocol::result::ModuleResult;

use super::{Report, count, found_in, local_time, read, text_of};
use crate::print::size;
use crate::table::{Cell, Column, Fit, Table};

#[derive(Deserialize)]
struct Found {
    file: String,
    #[serde(default)]
    search: Map<String, Value>,
    #[serde(default)]
    fileinfo: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Statistics {
    filescount: u64,
    exectime: String,
}

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: BTreeMap<String, Vec<Found>> = read(result.elements.as_deref())?;
    let statistics: Statistics = read(result.statistics.as_deref()).unwrap_or_default();
    let several = elements.len() > 1;
    // The search is named when there are several; what a file was found by, when not all filters had to match.
    let search = Column::new("SEARCH");
    let mut table = Table::new([
        if several { search } else { search.wide() },
        Column::new("MODE"),
        Column::new("OWNER").rank(2),
        Column::new("SIZE").right().rank(3),
        Column::new("CHANGED").rank(4),
        Column::new("BY").fit(Fit::CutEnd).rank(1),
        Column::new("GROUP").wide(),
        Column::new("LINKS").right().wide(),
        Column::new("INODE").right().wide(),
        Column::new("STATUS CHANGED").wide(),
        Column::new("CREATED").wide(),
        Column::new("CAPABILITIES").wide(),
        Column::new("ATTRIBUTES").wide(),
        Column::new("SHA256").wide(),
        Column::new("FILE").fit(Fit::CutStart),
    ]);
    let mut found = 0;
    for (label, matches) in &elements {
        // A search without a match has an entry without a file, as in MIG.
        for one in matches.iter().filter(|one| !one.file.is_empty()) {
            found += 1;
            table.add(row(label, one));
        }
    }
    let files = count(statistics.filescount, "files");
    let took =
        if statistics.exectime.is_empty() { String::new() } else { format!(", {}", statistics.exectime) };
    let summary = found_in(found, &files) + &took;
    let summary = if result.elements.is_some() { summary } else { String::new() };
    Some(Report { summary, table, ..Report::default() })
}

fn row(label: &str, one: &Found) -> Vec<Cell> {
    let info = &one.fileinfo;
    let text = |key: &str| text_of(info, key);
    let bytes = match info["size"].as_u64() {
        // In extra privacy mode.
        Some(0) if text("mode") == "masked" => String::new(),
        Some(bytes) => size(bytes),
        None => String::new(),
    };
    let list = |key: &str| match &info[key] {
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
        }
        _ => text(key),
    };
    let owner = if text("owner").is_empty() { text("uid") } else { text("owner") };
    let group = if text("group").is_empty() { text("gid") } else { text("group") };
    [
        label.to_owned(),
        text("mode"),
        owner,
        bytes,
        local_time(&text("lastmodified")),
        by(&one.search),
        group,
        text("links"),
        text("inode"),
        local_time(&text("ctime")),
        local_time(&text("btime")),
        text("capabilities"),
        list("xattrs"),
        text("sha256").to_lowercase(),
        one.file.clone(),
    ]
    .map(Cell::from)
    .into()
}

/// The filter that a file was found by, when it was one of several.
fn by(search: &Map<String, Value>) -> String {
    let all = search.get("options").is_some_and(|options| options["matchall"] == true);
    let filters =
        search.iter().filter(|(key, _)| !matches!(key.as_str(), "paths" | "options" | "description"));
    let filters = filters.flat_map(|(key, values)| {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
        values.map(move |value| format!("{} {value}", key.trim_end_matches('s')))
    });
    if all { String::new() } else { filters.collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;

    const RESULT: &str = r#"{"foundanything":true,"success":true,"elements":{"s":[
        {"file":"/etc/passwd","search":{"paths":["/etc"],"names":["^passwd$"],"options":{"matchall":true}},
         "fileinfo":{"size":1536,"mode":"-rw-r--r--","lastmodified":"x","owner":"root"}},
        {"file":"","search":{},"fileinfo":{"size":0,"mode":"","lastmodified":""}}]},
        "statistics":{"filescount":2345,"exectime":"1.5ms"},"errors":null}"#;

    #[test]
    fn each_file_is_a_line_and_no_match_is_none() {
        assert_eq!(
            shown("file", RESULT, None),
            "\
file: found 1 in 2,345 files, 1.5ms
MODE        OWNER     SIZE  CHANGED  BY  FILE
-rw-r--r--  root   1.5 KiB  x            /etc/passwd
"
        );
    }

    #[test]
    fn fifty_columns_show_the_file() {
        for line in
            shown("file", &RESULT.replace("/etc/passwd", &format!("/usr/{}/end", "x".repeat(90))), Some(50))
                .lines()
                .skip(1)
        {
            assert!(line.chars().count() <= 50, "{line}");
            assert!(line.ends_with("FILE") || line.ends_with("xxx/end"), "{line}");
        }
    }

    #[test]
    fn a_failure_has_no_table() {
        let text = shown("file", r#"{"success":false,"errors":["search \"a\": names: no"]}"#, None);

        assert_eq!(text, "file: failed\nerror search \"a\": names: no\n");
    }
}
