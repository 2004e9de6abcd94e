//! `vigie man`: the manual pages. They are made from what `--help` prints, and from the tables of files and variables
//! below.

use std::fmt::Write as _;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::config_view::escape;
use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::Printer;

/// Section of the manual: administration commands.
const SECTION: &str = "8";

/// A file or a variable that commands use.
struct Used {
    name: &'static str,
    meaning: &'static str,
    /// The commands below `vigie`, with all of theirs; the page of `vigie` itself has everything.
    by: &'static [&'static str],
}

/// Commands that ask the agent.
const CLIENTS: &[&str] = &[
    "agent",
    "alerts",
    "config",
    "console",
    "diagnostics",
    "doctor",
    "metrics",
    "module",
    "query",
    "reload",
    "sink",
    "status",
    "top",
];

/// Commands that read the configuration.
const READERS: &[&str] = &["agent", "check-config", "config", "diagnostics", "doctor", "reload"];

/// Commands that reach a fleet.
const OF_FLEETS: &[&str] = &["alerts", "fleet", "query"];

const FILES: &[Used] = &[
    Used {
        name: "/etc/vigie/vigie.toml",
        meaning: "The configuration, see vigie.toml(5). For users other than root: $XDG_CONFIG_HOME/vigie/vigie.toml.",
        by: READERS,
    },
    Used {
        name: "/etc/vigie/modules.d/NAME.cfg, NAME.toml",
        meaning: "The configuration of each module.",
        by: READERS,
    },
    Used {
        name: "/run/vigie/agent.sock",
        meaning: "The agent's control socket. For users other than root: $XDG_RUNTIME_DIR/vigie/agent.sock if it exists.",
        by: CLIENTS,
    },
    Used {
        name: "/var/lib/vigie/",
        meaning: "The alert journal and the state of modules. For users other than root: $XDG_STATE_HOME/vigie/.",
        by: &["agent", "alerts", "diagnostics", "doctor"],
    },
    Used {
        name: "/var/log/vigie/agent.log",
        meaning: "The agent's log. For users other than root: agent.log in the directory of the state.",
        by: &["agent", "diagnostics", "doctor"],
    },
    Used {
        name: "~/.config/vigie/fleet.toml",
        meaning: "How to reach the fleet; written by vigie fleet init.",
        by: OF_FLEETS,
    },
    Used {
        name: "~/.local/state/vigie/fleet/",
        meaning: "The newest policy and keys of each fleet that this user has seen, so that nobody can show older ones.",
        by: OF_FLEETS,
    },
    Used {
        name: "~/.local/state/vigie/console_history",
        meaning: "The history of the console.",
        by: &["console"],
    },
];

const ENVIRONMENT: &[Used] = &[
    Used { name: "NO_COLOR", meaning: "If it is set and not empty: no colours.", by: &[] },
    Used { name: "TERM", meaning: "With the value dumb: no colours.", by: &[] },
    Used { name: "TZ", meaning: "The time zone of times in tables; JSON has UTC.", by: &[] },
    Used {
        name: "XDG_CONFIG_HOME",
        meaning: "Directory of configurations; default ~/.config.",
        by: &["agent", "alerts", "check-config", "config", "diagnostics", "doctor", "fleet", "query"],
    },
    Used { name: "XDG_RUNTIME_DIR", meaning: "Directory of sockets of users other than root.", by: CLIENTS },
    Used {
        name: "XDG_STATE_HOME",
        meaning: "Directory of state; default ~/.local/state.",
        by: &["agent", "alerts", "console", "diagnostics", "doctor", "fleet", "query"],
    },
    Used {
        name: "VIGIE_FLEET",
        meaning: "The file that defines how to reach the fleet, if --fleet is not given.",
        by: OF_FLEETS,
    },
    Used {
        name: "VIGIE_NATS_SERVER",
        meaning: "The nats-server program that vigie fleet up runs; default the first one in PATH.",
        by: &["fleet up"],
    },
    Used {
        name: "NOTIFY_SOCKET",
        meaning: "systemd's socket, where the agent reports that it is ready.",
        by: &["agent"],
    },
];

/// Carries out `man` for what the program takes.
pub(crate) fn run(program: Command, out: Option<&Path>, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut command = program.disable_help_subcommand(true);
    command.build();
    let general = after_help(&command).exit_status;
    match out {
        None => printer.raw(&page(command, None, &general)?.1)?,
        Some(directory) => {
            let unwritable = |error: std::io::Error| {
                Failure::new(
                    Exit::Io,
                    format!("cannot write manual pages to {directory:?}: {error}"),
                    "name a directory with --out that you may write to",
                )
            };
            std::fs::create_dir_all(directory).map_err(unwritable)?;
            let file_page = crate::config_view::page(&vigie_config::files::keys(BUILTINS));
            std::fs::write(directory.join("vigie.toml.5"), file_page).map_err(unwritable)?;
            for (name, text) in pages(command, None, &general)? {
                std::fs::write(directory.join(name), text).map_err(unwritable)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// The pages of a command and of the commands below it.
fn pages(command: Command, above: Option<&str>, general: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let name = display_name(&command).to_owned();
    let mut all = Vec::new();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()).cloned() {
        all.extend(pages(below, Some(&name), general)?);
    }
    all.push(page(command, above, general)?);
    Ok(all)
}

fn display_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page of one command; `general` is what exit codes mean for every command.
fn page(command: Command, above: Option<&str>, general: &str) -> Result<(String, Vec<u8>), Failure> {
    let parts = after_help(&command);
    let path = command.get_bin_name().unwrap_or_default().split_once(' ').map(|(_, path)| path.to_owned());
    let below: Vec<String> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .map(|below| display_name(below).to_owned())
        .collect();
    let man = Man::new(command).section(SECTION).manual("Vigie");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    text.extend(paragraphs(&parts.notes).bytes());
    man.render_options_section(&mut text)?;
    if !below.is_empty() {
        man.render_subcommands_section(&mut text)?;
    }

    let mut rest = String::from(".SH \"EXIT STATUS\"\n");
    if path.is_some() && !parts.exit_status.is_empty() {
        rest += &paragraphs(&parts.exit_status);
        rest += &paragraphs(&format!("Codes of every command: {general}"));
    } else {
        rest += &paragraphs(general);
    }
    rest += &table("ENVIRONMENT", ENVIRONMENT, path.as_deref());
    rest += &table("FILES", FILES, path.as_deref());
    if !parts.examples.is_empty() {
        write!(rest, ".SH EXAMPLES\n.nf\n{}.fi\n", lines(&parts.examples))
            .expect("a String takes everything");
    }
    let own_page = |name: &str| format!(".BR {} ({SECTION})", escape(name));
    let mut see: Vec<String> = above.into_iter().filter(|above| *above != "vigie").map(own_page).collect();
    see.extend(below.iter().map(|name| own_page(name)));
    see.extend(path.is_some().then(|| own_page("vigie")));
    see.push(".BR vigie.toml (5)".to_owned());
    writeln!(rest, ".SH \"SEE ALSO\"\n{}", see.join(",\n")).expect("a String takes everything");
    text.extend(rest.bytes());
    if path.is_none() {
        man.render_version_section(&mut text)?;
    }
    Ok((man.get_filename(), text))
}

/// What stands below the options in `--help`.
#[derive(Default)]
struct AfterHelp {
    examples: String,
    exit_status: String,
    notes: String,
}

/// Splits the text that `--help` ends with. Its examples are a paragraph, its exit codes go to the end of theirs.
fn after_help(command: &Command) -> AfterHelp {
    let mut parts = AfterHelp::default();
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for paragraph in text.split("\n\n") {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            parts.examples += examples;
            continue;
        }
        let (notes, codes) = paragraph.split_once("Exit codes:").unwrap_or((paragraph, ""));
        for (part, text) in [(&mut parts.notes, notes), (&mut parts.exit_status, codes)] {
            if !text.trim().is_empty() {
                if !part.is_empty() {
                    part.push_str("\n\n");
                }
                part.push_str(text.trim_start_matches(' ').trim_end());
            }
        }
    }
    parts
}

/// Text as paragraphs; a line that is indented in the help stays a line, and `  2   nothing was found` an item.
fn paragraphs(text: &str) -> String {
    let mut page = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        page.push_str(".PP\n");
        let mut follows_item = false;
        for line in paragraph.lines().filter(|line| !line.is_empty()) {
            let item = line.strip_prefix("  ").and_then(|line| line.trim_start().split_once("  "));
            match item {
                Some((name, meaning)) => {
                    writeln!(page, ".TP\n.B {}\n{}", escape(name), escape(meaning.trim_start()))
                }
                None if line.starts_with(' ') => writeln!(page, ".br\n{}", escape(line.trim_start())),
                // After items the text goes on at the margin.
                None if follows_item => writeln!(page, ".PP\n{}", escape(line)),
                None => writeln!(page, "{}", escape(line)),
            }
            .expect("a String takes everything");
            follows_item = item.is_some();
        }
    }
    page
}

/// Lines that stay as they are.
fn lines(text: &str) -> String {
    text.lines().fold(String::new(), |page, line| page + &escape(line) + "\n")
}

/// The section of what a command uses; none if it uses nothing.
fn table(heading: &str, all: &[Used], path: Option<&str>) -> String {
    let is_of = |used: &&Used| {
        let Some(path) = path else { return true };
        used.by.is_empty()
            || used
                .by
                .iter()
                .any(|by| path.strip_prefix(by).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
    };
    let mut section = String::new();
    for used in all.iter().filter(is_of) {
        if section.is_empty() {
            writeln!(section, ".SH {heading}").expect("a String takes everything");
        }
        writeln!(section, ".TP\n.I {}\n{}", escape(used.name), escape(used.meaning))
            .expect("a String takes everything");
    }
    section
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;
    use crate::print::tests::Captured;

    fn all_pages() -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        run(Cli::command(), Some(directory.path()), &mut Printer::into(Box::new(Captured::default()), false))
            .unwrap();
        let mut pages: Vec<(String, String)> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| {
                (file.file_name().into_string().unwrap(), std::fs::read_to_string(file.path()).unwrap())
            })
            .collect();
        pages.sort();
        pages
    }

    #[test]
    fn every_command_for_people_has_a_page_and_no_other() {
        let names: Vec<String> = all_pages().into_iter().map(|(name, _)| name).collect();

        for name in ["vigie.8", "vigie.toml.5", "vigie-module-tap.8"] {
            assert!(names.contains(&name.to_owned()), "{names:?}");
        }
        let is_internal = |name: &String| name.contains("launch") || name.contains("module-persist");
        assert!(!names.iter().any(is_internal), "{names:?}");
    }

    #[test]
    fn every_page_has_the_sections_that_a_reader_looks_for() {
        let pages = all_pages();

        for (name, page) in &pages {
            let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            for wanted in
                ["NAME", "SYNOPSIS", "DESCRIPTION", "\"EXIT STATUS\"", "ENVIRONMENT", "\"SEE ALSO\""]
            {
                let is_of_file =
                    name == "vigie.toml.5" && !["NAME", "DESCRIPTION", "\"SEE ALSO\""].contains(&wanted);
                assert!(
                    is_of_file || sections.contains(&wanted),
                    "{name}: {wanted} is missing in {sections:?}"
                );
            }
            assert!(!sections.contains(&"EXTRA"), "{name}");
            for line in page.lines().filter_map(|line| line.strip_prefix(".BR ")) {
                let (other, section) = line.trim_end_matches(',').split_once(" (").unwrap();
                let file = format!("{}.{}", other.replace("\\-", "-"), section.trim_end_matches(')'));
                assert!(pages.iter().any(|(name, _)| *name == file), "{name} refers to {file}");
            }
        }
        let page = |name: &str| &pages.iter().find(|(of, _)| of == name).unwrap().1;
        let status = page("vigie-status.8");
        assert!(
            status.contains("0 healthy, 1 degraded or failed") && status.contains("77 not permitted"),
            "{status}"
        );
        assert!(status.contains(".SH FILES\n.TP\n.I /run/vigie/agent.sock\n"), "{status}");
        assert!(!status.contains("fleet.toml"), "{status}");
        let query = page("vigie-query.8");
        assert!(query.contains(".TP\n.B 2\nnothing was found, but"), "{query}");
        assert!(
            query.contains("\n.PP\nWith an action file: 0 every")
                && query.contains("the result of\nan operation"),
            "{query}"
        );
        assert!(page("vigie-fleet-audit.8").contains(".SH FILES\n.TP\n.I ~/.config/vigie/fleet.toml\n"));
    }

    #[test]
    fn what_uses_a_file_or_variable_is_a_command_and_places_are_those_of_the_program() {
        let command = Cli::command();
        for used in FILES.iter().chain(ENVIRONMENT) {
            for by in used.by {
                let found = by.split(' ').try_fold(&command, |above, name| above.find_subcommand(name));
                assert!(found.is_some(), "{by}");
            }
        }
        let places = vigie_config::files::Places::system();
        let named: Vec<&str> = FILES.iter().map(|used| used.name).collect();
        for (place, below) in [
            (Some(places.config_file), ""),
            (Some(places.run_dir), "/agent.sock"),
            (Some(places.state_dir), "/"),
            (places.log_file, ""),
        ] {
            let place = format!("{}{below}", place.unwrap().display());
            assert!(named.contains(&place.as_str()), "{place}");
        }
    }
}
