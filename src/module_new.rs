//! `vigie module new`: a directory with a module that runs, its test, and the block for the agent's configuration.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use vigie_protocol::module_name::ModuleName;

use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// `module new`
#[derive(Debug, Args)]
pub(crate) struct ModuleNewArgs {
    /// The language
    #[arg(value_name = "LANGUAGE")]
    pub(crate) language: Language,

    /// The module's name; a directory of this name is created here and must not exist yet
    #[arg(value_name = "NAME")]
    pub(crate) name: ModuleName,
}

/// The languages of skeletons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Python with the SDK: durable alerts, queries, configuration, conditions
    Python,
    /// A minimal shell script
    Shell,
    /// Go, standard library only
    Go,
    /// Rust, with serde_json
    Rust,
}

/// The file with the SDK for Python.
const PYTHON_SDK: &str = include_str!("../sdk/python/vigie_module.py");

/// One file of a skeleton: its name, its text, and whether it is a program.
type Skeleton = Vec<(String, String, bool)>;

/// Carries out `module new`.
pub(crate) fn run(args: &ModuleNewArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    let name = args.name.as_str();
    let directory = std::path::absolute(name)?;
    let unwritable = |path: &Path, error: std::io::Error| {
        let hint = "use a directory that you may write to, or choose another name";
        Failure::new(Exit::Io, format!("cannot write {path:?}: {error}"), hint)
    };
    std::fs::create_dir(&directory).map_err(|error| unwritable(&directory, error))?;
    for (file, text, is_program) in skeleton(args.language, name, &directory) {
        let path = directory.join(file);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| unwritable(parent, error))?;
        }
        let mode = if is_program { 0o755 } else { 0o644 };
        let mut file = std::fs::OpenOptions::new();
        let made = file.write(true).create_new(true).mode(mode).open(&path);
        made.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| unwritable(&path, error))?;
    }
    printer.line(&format!("created {}. Next:", directory.display()))?;
    printer.line(&format!("  {name}/test                  runs the checks of docs/modules.md"))?;
    printer.line(&format!(
        "  {name}/module.toml           the block for the agent's configuration; then `vigie reload`"
    ))?;
    Ok(Exit::Ok)
}

fn skeleton(language: Language, name: &str, directory: &Path) -> Skeleton {
    let named = |text: &str| text.replace("@NAME@", name);
    let (command, build, mut files): (Vec<String>, &str, Skeleton) = match language {
        Language::Python => {
            let program = directory.join(format!("{name}.py"));
            let files = vec![
                (format!("{name}.py"), named(include_str!("module_new/module.py")), true),
                ("vigie_module.py".to_owned(), PYTHON_SDK.to_owned(), false),
            ];
            (vec!["/usr/bin/python3".to_owned(), shown(program)], "", files)
        }
        Language::Shell => {
            let program = directory.join(format!("{name}.sh"));
            let files = vec![(format!("{name}.sh"), named(include_str!("module_new/module.sh")), true)];
            (vec!["/bin/sh".to_owned(), shown(program)], "", files)
        }
        Language::Go => {
            let files = vec![
                ("main.go".to_owned(), named(include_str!("module_new/main.go.txt")), false),
                ("go.mod".to_owned(), format!("module {name}\n\ngo 1.18\n"), false),
            ];
            (vec![shown(directory.join(name))], "go build\n", files)
        }
        Language::Rust => {
            let manifest = format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\nserde_json = \"1\"\n\n[workspace]\n"
            );
            let files = vec![
                ("src/main.rs".to_owned(), named(include_str!("module_new/main.rs.txt")), false),
                ("Cargo.toml".to_owned(), manifest, false),
            ];
            (vec![shown(directory.join("target/release").join(name))], "cargo build --release\n", files)
        }
    };
    let quoted: Vec<String> =
        command.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let config = match language {
        Language::Python => {
            format!(" --config '{{\"{name}\": {{\"path\": \"/etc/passwd\", \"limit\": \"1\"}}}}'")
        }
        _ => String::new(),
    };
    files.push((
        "test".to_owned(),
        format!(
            "#!/bin/sh\n# Runs the checks of docs/modules.md on this module.\nset -e\ncd \"$(dirname \"$0\")\"\n{build}\
             exec \"${{VIGIE:-vigie}}\" module test{config} \"$@\" -- {}\n",
            quoted.join(" ")
        ),
        true,
    ));
    let list = serde_json::to_string(&command).expect("texts are plain data");
    files.push((
        "module.toml".to_owned(),
        format!(
            "# Add this to /etc/vigie/vigie.toml, then: vigie check-config && vigie reload\n# The program and its directories \
             must be writable by root alone, or the agent refuses it; its configuration is\n# /etc/vigie/modules.d/{name}.cfg. \
             With user = \"nobody\" it has no rights of root.\n[[module]]\nname = \"{name}\"\ncommand = {list}\n"
        ),
        false,
    ));
    files
}

fn shown(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
