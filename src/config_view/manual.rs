//! The reference of the configuration, as a page of the documentation and as vigie.toml(5), from the keys themselves.

use std::fmt::Write as _;

use vigie_config::files::{Key, KeyKind};

/// The range of a key's values; empty where there is none.
pub(super) fn range(kind: &KeyKind) -> String {
    let time = |time: &std::time::Duration| humantime::format_duration(*time).to_string();
    match kind {
        KeyKind::Boolean => "true or false".to_owned(),
        KeyKind::Integer { least, most } => format!("{least} to {most}"),
        KeyKind::Bytes { least, most } => format!("{} to {}", bytes(*least), bytes(*most)),
        KeyKind::Duration { least, most } => format!("{} to {}", time(least), time(most)),
        KeyKind::Choice(words) => words.join(", "),
        KeyKind::Path => "an absolute path".to_owned(),
        KeyKind::Texts => "a list of texts".to_owned(),
        KeyKind::Text | KeyKind::Table => String::new(),
    }
}

/// A number of bytes in the largest unit that divides it.
fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or(format!("{bytes} B"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

/// Splits `module.limits.nice` into its table and its key.
fn place(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// How a table is written.
fn heading(table: &str) -> String {
    if matches!(table, "module" | "sink") { format!("[[{table}]]") } else { format!("[{table}]") }
}

/// The page docs/configuration.md.
#[cfg(test)]
fn reference(keys: &[Key]) -> String {
    let mut page = String::from(
        "# The configuration file\n\n<!-- Generated from conf/vigie.toml and the ranges that its reader checks, by a test of src/config_view. -->\
         \n\nThe agent reads `/etc/vigie/vigie.toml`, a user's own agent \
         `$XDG_CONFIG_HOME/vigie/vigie.toml`, or the file in `--config`. Every key has a default; the shipped file lists \
         all keys as comments. Times have a unit (`300ms`, `10s`, `5m`, `1h`), sizes are bytes or texts such as `64 MiB`.\n\n\
         `vigie check-config` lists errors in a file, `vigie config show --origin` shows which file and line sets each key, \
         `vigie reload` applies the file, and `vigie config schema` prints its schema for editors. A file with an error \
         changes nothing.\n",
    );
    let mut before = "";
    for key in keys {
        let (table, name) = place(&key.name);
        if table != before {
            write!(
                page,
                "\n## `{}`\n\n| key | range | default | meaning |\n|---|---|---|---|\n",
                heading(table)
            )
            .expect("a String takes everything");
            before = table;
        }
        let default = key.default.as_ref().map_or(String::new(), |value| format!("`{value}`"));
        let meaning = key.meaning.replace('|', "\\|").replace('<', "&lt;");
        writeln!(page, "| `{name}` | {} | {default} | {meaning} |", range(&key.kind))
            .expect("a String takes everything");
    }
    page
}

/// The manual page vigie.toml(5).
pub(crate) fn page(keys: &[Key]) -> String {
    let mut page = String::from(
        ".TH VIGIE.TOML 5 \"\" \"Vigie\" \"Vigie\"\n.SH NAME\nvigie.toml \\- configuration of Vigie's agent\n.SH DESCRIPTION\n\
         The agent reads this file when it starts and when it reloads (\\fBvigie reload\\fR, SIGHUP). It is TOML. Every key has \
         a default. Times have a unit (300ms, 10s, 5m, 1h), sizes are bytes or texts such as \"64 MiB\". A file with an error \
         changes nothing.\n",
    );
    let mut before = "";
    for key in keys {
        let (table, name) = place(&key.name);
        if table != before {
            writeln!(page, ".SH {}", escape(&heading(table))).expect("a String takes everything");
            before = table;
        }
        write!(page, ".TP\n.B {}\n{}", escape(name), escape(&key.meaning))
            .expect("a String takes everything");
        let range = range(&key.kind);
        if !range.is_empty() {
            write!(page, " Range: {}.", escape(&range)).expect("a String takes everything");
        }
        match &key.default {
            Some(default) => writeln!(page, " Default: {}.", escape(default)),
            None => writeln!(page),
        }
        .expect("a String takes everything");
    }
    page.push_str(
        ".SH FILES\n.TP\n.I /etc/vigie/vigie.toml\nThe system's agent.\n.TP\n.I $XDG_CONFIG_HOME/vigie/vigie.toml\nA user's own \
         agent.\n.TP\n.I /etc/vigie/modules.d/NAME.cfg, NAME.toml\nThe configuration of each module.\n.SH \"SEE ALSO\"\n\
         .BR vigie (8),\n.BR vigie-check-config (8),\n.BR vigie-config-show (8),\n.BR vigie-reload (8)\n",
    );
    page
}

/// Text that roff takes as it is.
pub(crate) fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use vigie_config::files;

    use super::*;
    use crate::modules::BUILTINS;

    #[test]
    fn the_page_of_the_configuration_is_the_one_in_the_repository() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = reference(&files::keys(BUILTINS));
        if std::env::var_os("VIGIE_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }

        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            written, page,
            "run the tests once with VIGIE_WRITE_DOCS=1 and commit docs/configuration.md"
        );
    }

    #[test]
    fn the_manual_page_has_every_key_and_no_line_that_roff_takes_for_a_command_of_its_own() {
        let keys = files::keys(BUILTINS);

        let page = page(&keys);

        for key in &keys {
            assert!(page.contains(&format!("\n.B {}\n", escape(place(&key.name).1))), "{}", key.name);
        }
        let known = [".TH", ".SH", ".TP", ".B ", ".I ", ".BR"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(known.iter().any(|command| line.starts_with(command)), "{line}");
        }
    }

    #[test]
    fn sizes_are_in_the_largest_unit_that_divides_them() {
        assert_eq!(
            (bytes(1 << 40), bytes(64 << 10), bytes(1000), bytes(0)),
            ("1 TiB".into(), "64 KiB".into(), "1000 B".into(), "0 B".into())
        );
    }
}
