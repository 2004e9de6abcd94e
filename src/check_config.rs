//! `vigie check-config`.

use std::path::{Path, PathBuf};

use clap::Args;

use vigie_protocol::control::ConfigProblem;

use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, safe};

/// A configuration that the agent would take.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The file that was read; `None` when there is none and the defaults hold.
    pub(crate) path: Option<PathBuf>,
    /// What does not keep the agent from running, such as a module's invalid file.
    pub(crate) warnings: Vec<ConfigProblem>,
    /// What has no meaning here and is no problem.
    pub(crate) notes: Vec<ConfigProblem>,
    /// A module's file is invalid: the agent would start without that module.
    pub(crate) invalid: bool,
    /// Names of the persistent modules that would be started.
    pub(crate) modules: Vec<String>,
}

/// `check-config`
#[derive(Debug, Args)]
pub(crate) struct CheckConfigArgs {
    /// The configuration file [default: the file that the agent would read]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Print problems as JSON, one per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Carries out `check-config`. `load` reads a file, or the default one, as the agent does.
pub(crate) fn run(
    args: &CheckConfigArgs,
    load: impl FnOnce(Option<&Path>) -> Result<Checked, Vec<ConfigProblem>>,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let (problems, checked) = match load(args.file.as_deref()) {
        Ok(checked) => (checked.warnings.clone(), Some(checked)),
        Err(problems) => (problems, None),
    };
    for problem in &problems {
        if args.json { printer.json(problem)? } else { print::problem(&problem.to_string()) }
    }
    match checked {
        // A module's invalid file would leave that module without a configuration: not what one wants to learn
        // from a running agent.
        Some(checked) if !checked.invalid => {
            for note in &checked.notes {
                if !args.json {
                    printer.line(&format!("note: {}", safe(&note.to_string())))?;
                }
            }
            if !args.json {
                printer.line(&render(&checked))?;
            }
            Ok(Exit::Ok)
        }
        _ => Err(Failure::new(
            Exit::Config,
            format!("the configuration is invalid: {}", count(problems.len())),
            "",
        )),
    }
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}

/// What a valid configuration is good for.
fn render(checked: &Checked) -> String {
    let file = checked
        .path
        .as_ref()
        .map_or("no configuration file; using the defaults".into(), |path| path.to_string_lossy());
    let modules =
        if checked.modules.is_empty() { "no module".to_owned() } else { checked.modules.join(", ") };
    format!("{}: valid; starts {}", safe(&file), safe(&modules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::tests::Captured;

    fn problem() -> ConfigProblem {
        ConfigProblem {
            file: "vigie.toml".into(),
            line: Some(3),
            key: Some("agent.stop_grace".to_owned()),
            message: "is \"x\"".to_owned(),
        }
    }

    fn checked(warnings: Vec<ConfigProblem>) -> Checked {
        let invalid = !warnings.is_empty();
        Checked {
            path: Some("vigie.toml".into()),
            warnings,
            notes: Vec::new(),
            invalid,
            modules: vec!["fswatch".to_owned()],
        }
    }

    fn run_with(json: bool, loaded: Result<Checked, Vec<ConfigProblem>>) -> (Result<Exit, Exit>, String) {
        let captured = Captured::default();
        let args = CheckConfigArgs { file: None, json };
        let result = run(&args, |_| loaded, &mut Printer::into(Box::new(captured.clone()), json));
        (result.map_err(|failure| failure.exit), captured.text())
    }

    #[test]
    fn a_valid_configuration_says_what_it_starts() {
        let (exit, text) = run_with(false, Ok(checked(Vec::new())));

        assert_eq!(exit, Ok(Exit::Ok));
        assert_eq!(text, "vigie.toml: valid; starts fswatch\n");
    }

    #[test]
    fn an_invalid_configuration_and_an_invalid_module_s_file_exit_with_78() {
        let (exit, text) = run_with(true, Err(vec![problem()]));
        assert_eq!(exit, Err(Exit::Config));
        assert_eq!(
            text,
            "{\"file\":\"vigie.toml\",\"line\":3,\"key\":\"agent.stop_grace\",\"message\":\"is \\\"x\\\"\"}\n"
        );

        assert_eq!(run_with(false, Ok(checked(vec![problem()]))), (Err(Exit::Config), String::new()));
    }
}
