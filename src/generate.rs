//! `vigie completions` and `vigie man`.

use std::path::Path;
use std::sync::LazyLock;

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::Printer;

/// Section of the manual: administration commands.
const MANUAL_SECTION: &str = "8";

/// Carries out `completions` for what the program takes.
pub(crate) fn completions(program: &Command, shell: Shell, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let mut command = completed(program);
    clap_complete::generate(shell, &mut command, "vigie", &mut script);
    printer.raw(&script)?;
    Ok(Exit::Ok)
}

/// What a shell completes: everything that is not hidden, with the names of modules where one is wanted. Some
/// generators offer what is hidden as well.
fn completed(command: &Command) -> Command {
    // Lives as long as the program, which prints a script and ends.
    let name: &'static str = Box::leak(command.get_name().to_owned().into_boxed_str());
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set()).map(|argument| {
        let wants_module = argument
            .get_value_names()
            .is_some_and(|names| names.iter().any(|name| name.as_str() == "MODULE"));
        match wants_module {
            true => argument.clone().value_parser(PossibleValuesParser::new(MODULES.iter().copied())),
            false => argument.clone(),
        }
    });
    let commands = command.get_subcommands().filter(|below| !below.is_hide_set()).map(completed);
    let mut shown = Command::new(name).args(arguments).subcommands(commands);
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    shown
}

/// The modules that are part of this program.
static MODULES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| BUILTINS.iter().map(|builtin| builtin.name).collect());

/// Carries out `man` for what the program takes.
pub(crate) fn man(program: Command, out: Option<&Path>, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut command = program.disable_help_subcommand(true);
    command.build();
    match out {
        None => printer.raw(&page(command)?.1)?,
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
            for (name, text) in pages(command)? {
                std::fs::write(directory.join(name), text).map_err(unwritable)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// File names and texts of the pages for a command and all below it.
fn pages(command: Command) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut all = Vec::new();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()).cloned() {
        all.extend(pages(below)?);
    }
    all.push(page(command)?);
    Ok(all)
}

fn page(command: Command) -> Result<(String, Vec<u8>), Failure> {
    let man = Man::new(command).section(MANUAL_SECTION).manual("Vigie");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), text))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;
    use crate::print::tests::Captured;

    #[test]
    fn every_command_for_people_has_a_page_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let mut printer = Printer::into(Box::new(Captured::default()), false);

        man(Cli::command(), Some(directory.path()), &mut printer).unwrap();

        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(
            names.contains(&"vigie.8".to_owned())
                && names.contains(&"vigie.toml.5".to_owned())
                && names.contains(&"vigie-module-tap.8".to_owned()),
            "{names:?}"
        );
        assert!(
            !names.iter().any(|name| name.contains("launch") || name.contains("module-persist")),
            "{names:?}"
        );
    }

    #[test]
    fn completions_know_the_commands() {
        let captured = Captured::default();

        completions(&Cli::command(), Shell::Bash, &mut Printer::into(Box::new(captured.clone()), false))
            .unwrap();

        let script = captured.text();
        assert!(script.contains("check-config") && script.contains("netstat"));
    }

    #[test]
    fn completions_offer_no_internals() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let captured = Captured::default();

            completions(&Cli::command(), shell, &mut Printer::into(Box::new(captured.clone()), false))
                .unwrap();

            let script = captured.text();
            for internal in ["guard", "launch", "persist", "-P"] {
                let is_part = |letter: char| letter.is_alphanumeric() || letter == '-';
                let offers = |line: &&str| line.split(|letter| !is_part(letter)).any(|word| word == internal);
                assert_eq!(script.lines().find(offers), None, "{shell}: {internal}");
            }
        }
    }
}
