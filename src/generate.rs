//! `vigie completions` and `vigie man`.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Section of the manual: administration commands.
const MANUAL_SECTION: &str = "8";

/// Carries out `completions`.
pub(crate) fn completions(shell: Shell, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vigie", &mut script);
    printer.raw(&script)?;
    Ok(Exit::Ok)
}

/// Carries out `man`.
pub(crate) fn man(out: Option<&Path>, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
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
            for (name, text) in pages(command)? {
                std::fs::write(directory.join(name), text).map_err(unwritable)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// File names and texts of the pages for a command and all below it.
fn pages(command: clap::Command) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut all = Vec::new();
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()).cloned() {
        all.extend(pages(below)?);
    }
    all.push(page(command)?);
    Ok(all)
}

fn page(command: clap::Command) -> Result<(String, Vec<u8>), Failure> {
    let man = Man::new(command).section(MANUAL_SECTION).manual("Vigie");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::tests::Captured;

    #[test]
    fn every_command_for_people_has_a_page_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let mut printer = Printer::into(Box::new(Captured::default()), false);

        man(Some(directory.path()), &mut printer).unwrap();

        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(
            names.contains(&"vigie.8".to_owned()) && names.contains(&"vigie-module-tap.8".to_owned()),
            "{names:?}"
        );
        assert!(!names.iter().any(|name| name.contains("launch") || name.contains("persist")), "{names:?}");
    }

    #[test]
    fn completions_know_the_commands() {
        let captured = Captured::default();

        completions(Shell::Bash, &mut Printer::into(Box::new(captured.clone()), false)).unwrap();

        assert!(captured.text().contains("check-config"));
    }
}
