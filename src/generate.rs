//! `vigie completions`.

use std::sync::LazyLock;

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::Printer;

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;
    use crate::print::tests::Captured;

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
