//! Adds a host's tags and its `[fleet]` to the agent's configuration, and leaves all else as it is written.

use std::collections::BTreeMap;

use super::files::quoted;

/// The text with these tags and this section (which begins with `[fleet]`) added. The tags go into the section `[tags]`
/// when there is one: TOML takes no section twice.
///
/// # Errors
///
/// When the text is no TOML, belongs to a fleet already, or gives a tag another value.
pub(super) fn with_fleet(
    text: &str,
    tags: &BTreeMap<String, String>,
    section: &str,
) -> Result<String, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    if table.contains_key("fleet") {
        return Err("it already has a section [fleet]".to_owned());
    }
    let mut new = Vec::new();
    let there = table.get("tags").and_then(toml::Value::as_table);
    for (name, value) in tags {
        match there.and_then(|there| there.get(name)) {
            Some(known) if known.as_str() == Some(value) => {}
            Some(known) => {
                return Err(format!("it sets the tag {name} to {:?} instead of {value:?}", known.as_str()));
            }
            None => new.push(format!("{} = {}", quoted(name), quoted(value))),
        }
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if !new.is_empty() {
        let is_header = |line: &String| {
            line.trim().strip_prefix("[tags]").is_some_and(|rest| {
                let rest = rest.trim_start();
                rest.is_empty() || rest.starts_with('#')
            })
        };
        match lines.iter().position(is_header) {
            Some(at) => drop(lines.splice(at + 1..=at, new)),
            None if there.is_some() => return Err("write its tags as a section [tags]".to_owned()),
            None => {
                lines.push(String::new());
                lines.push("[tags]".to_owned());
                lines.extend(new);
            }
        }
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    let text = format!("{}\n{section}", lines.join("\n"));
    toml::from_str::<toml::Table>(&text).map_err(|error| format!("cannot add to its sections: {error}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLEET: &str = "[fleet]\norg = \"example\"\n";

    fn tags(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn read(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    /// Two files put one behind the other would have two sections [tags].
    #[test]
    fn the_shipped_file_takes_tags_and_a_fleet() {
        let shipped = include_str!("../../conf/vigie.toml");
        let added = with_fleet(shipped, &tags(&[("env", "prod"), ("zone", "b")]), FLEET).unwrap();
        let table = read(&added);
        assert_eq!(table["tags"]["env"].as_str(), Some("prod"));
        assert_eq!(table["tags"]["zone"].as_str(), Some("b"));
        assert_eq!(table["fleet"]["org"].as_str(), Some("example"));
        for line in shipped.lines() {
            assert!(added.contains(line), "{line}");
        }
        assert!(with_fleet(&added, &tags(&[]), FLEET).unwrap_err().contains("already has a section [fleet]"));
    }

    #[test]
    fn a_tag_that_is_there_stays_and_another_value_is_said() {
        let text = "[tags] # of this host\nenv = \"prod\"\n";
        let added = with_fleet(text, &tags(&[("env", "prod"), ("site", "x")]), FLEET).unwrap();
        assert_eq!(read(&added)["tags"].as_table().unwrap().len(), 2);
        assert!(with_fleet(text, &tags(&[("env", "test")]), FLEET).unwrap_err().contains("env"));
        assert!(with_fleet("tags = {env = \"a\"}\n", &tags(&[("b", "c")]), FLEET).is_err());
        assert!(with_fleet("[", &tags(&[]), FLEET).is_err());
        assert_eq!(
            read(&with_fleet("", &tags(&[("a", "b")]), FLEET).unwrap())["tags"]["a"].as_str(),
            Some("b")
        );
    }

    proptest! {
        #[test]
        fn what_comes_out_is_toml_with_all_of_it(
            keys in prop::collection::btree_map("[a-z]{1,4}", "\\PC{0,12}", 0..4),
            text in prop::sample::select(vec!["", "# x", "[agent]\n", "[tags]\n\n[agent]\nx = 1", "a = 1\r\n[tags]\r\n"]),
        ) {
            let added = with_fleet(text, &keys, FLEET).unwrap();
            let table = read(&added);
            for (name, value) in &keys {
                prop_assert_eq!(table["tags"][name].as_str(), Some(value.as_str()));
            }
        }
    }
}
