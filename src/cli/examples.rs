//! Every command line that documents and help texts show is one that this program reads.

use std::ffi::OsString;
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

use clap::{CommandFactory as _, error::ErrorKind};

use super::Cli;

/// Between the words of which a sentence offers one.
const OR: &str = "¦";

/// A command line and where it stands.
struct Example {
    place: String,
    line: String,
    /// It stands in a sentence, where arguments may be left out and placeholders stand for them.
    in_prose: bool,
}

/// Documents for people: those of the project, of `docs` and of what is beside the sources.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> =
        ["docs", "examples", "packaging", "deploy", "sdk", "conf"].map(|name| root.join(name)).into();
    left.extend(fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        // The decisions and the changelog tell of other times.
        } else if path.extension().is_some_and(|extension| {
            ["md", "toml", "yaml", "yml"].contains(&extension.to_str().unwrap_or_default())
        }) && !path.to_string_lossy().contains("/decisions/")
            && !path.ends_with("CHANGELOG.md")
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The commands in a document's blocks of code and between its backquotes.
fn of_document(path: &Path) -> Vec<Example> {
    let text = fs::read_to_string(path).unwrap();
    let place = |number: usize| format!("{}:{number}", path.display());
    if path.extension().is_some_and(|extension| extension != "md" && extension != "toml") {
        let command = |line: &str| {
            let (key, value) = line.trim().split_once(": ")?;
            // A list of words, as Kubernetes has them, or a line.
            let words: Result<Vec<String>, _> = serde_json::from_str(value);
            let line = words.map_or_else(|_| value.to_owned(), |words| words.join(" "));
            (key.ends_with("command") || key == "validate").then_some(line)
        };
        let lines = text.lines().zip(1..);
        return lines
            .filter_map(|(line, number)| {
                Some(Example { place: place(number), line: command(line)?, in_prose: false })
            })
            .collect();
    }
    let mut found = Vec::new();
    let mut prose = String::new();
    let mut fenced = false;
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            let mut whole = line.to_owned();
            while whole.ends_with('\\') {
                whole.pop();
                whole = whole.trim_end().to_owned() + " " + lines.next().unwrap().0.trim_start();
            }
            found.push(Example { place: place(number), line: whole, in_prose: false });
        } else {
            prose = prose + line.trim_start_matches(['#', ' ']) + "\n";
        }
    }
    for paragraph in prose.split("\n\n") {
        let quoted = paragraph.split('`').skip(1).step_by(2).map(|quoted| quoted.replace('\n', " "));
        found.extend(quoted.map(|line| Example { place: path.display().to_string(), line, in_prose: true }));
    }
    found
}

/// The commands in the help of a command and of all below it.
fn of_help(command: &clap::Command, found: &mut Vec<Example>) {
    for command in command.get_subcommands() {
        of_help(command, found);
    }
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let help = help.replace("\\\n", "\n").replace("\n      ", " ");
    let place = format!("the help of {}", command.get_name());
    found.extend(help.lines().filter(|line| line.starts_with("  ")).map(|line| Example {
        place: place.clone(),
        line: line.to_owned(),
        in_prose: false,
    }));
    for quoted in help.split('`').skip(1).step_by(2) {
        found.push(Example { place: place.clone(), line: quoted.to_owned(), in_prose: true });
    }
}

/// The commands of a shell's line, each as its words. Two spaces begin what is said about the line, as in help texts.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut chars = line.trim().chars().peekable();
    while let Some(&next) = chars.peek() {
        match next {
            ' ' => {
                chars.next();
                if chars.peek() == Some(&' ') && found.last().is_some_and(|words| !words.is_empty()) {
                    break;
                }
            }
            '#' => break,
            '|' | ';' | '&' | '(' | ')' => {
                chars.next();
                found.push(Vec::new());
            }
            '<' | '>' => {
                chars.next();
                while chars.next_if(|char| *char == '>' || *char == ' ').is_some() {}
                word(&mut chars);
            }
            _ => {
                let word = word(&mut chars);
                // The number of what is redirected, as in `2> log`.
                let redirected = word.parse::<u8>().is_ok() && chars.peek() == Some(&'>');
                if let Some(words) = found.last_mut().filter(|_| !redirected && word != "…") {
                    words.push(word);
                }
            }
        }
    }
    found
}

/// Takes one word, without its quotes.
fn word(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(char) = chars.next_if(|char| !" |;&()<>".contains(*char)) {
        match char {
            '\'' => word.extend(chars.by_ref().take_while(|char| *char != '\'')),
            '"' => word.extend(chars.by_ref().take_while(|char| *char != '"')),
            '\\' => word.extend(chars.next()),
            char => word.push(char),
        }
    }
    word
}

/// The arguments of `vigie` in the words of a command, with `sudo` and alike before it.
fn arguments(words: &[String]) -> Option<&[String]> {
    let mut words = words;
    while let [first, rest @ ..] = words {
        match first.as_str() {
            "vigie" | "./vigie" | "/usr/bin/vigie" | "./.run/vigie" => return Some(rest),
            "$" | "#" | "sudo" | "!" | "until" | "while" | "if" | "time" | "exec" => words = rest,
            assignment if assignment.split_once('=').is_some_and(|(name, _)| name == name.to_uppercase()) => {
                words = rest;
            }
            _ => return None,
        }
    }
    None
}

/// Puts something in place of what stands for it in a sentence.
fn filled(words: &[String]) -> Vec<String> {
    let mut filled = Vec::new();
    // `[flags]` may be left out.
    for word in
        words.iter().filter(|word| !(word.starts_with('[') && word.ends_with(']') && !word.contains('-')))
    {
        let word = match word.trim_matches(['[', ']', '…', ',']).split(OR).next().unwrap_or_default() {
            "" => continue,
            "TARGET" => "all",
            "JSON" => "{}",
            "SHELL" => "bash",
            "MODULE" | "NAME" => "name",
            "ID" => "0123456789abcdef0123456789abcdef",
            word => word,
        };
        filled.push(word.to_owned());
    }
    filled
}

/// Reads the arguments, in a sentence also an option whose value is left out.
fn read(words: &[String], in_prose: bool) -> Result<Cli, clap::Error> {
    let read = |more: Option<&str>| {
        let words = words.iter().map(OsString::from).chain(more.map(OsString::from));
        Cli::read([OsString::from("vigie")].into_iter().chain(words))
    };
    read(None).or_else(|error| {
        let open = in_prose && words.last().is_some_and(|word| word.starts_with('-'));
        if open { read(Some("all")).map_err(|_| error) } else { Err(error) }
    })
}

/// What is wrong with an example. `None` also when there is no command of ours in it.
fn fault(example: &Example) -> Option<String> {
    let mut line = example.line.clone();
    if example.in_prose {
        line = line.replace("\\|", "|").replace(" | ", "\n").replace('|', OR).replace('\n', " | ");
    }
    for words in commands(&line) {
        let Some(words) = arguments(&words) else { continue };
        let words = if example.in_prose { filled(words) } else { words.to_vec() };
        // Processes of the agent's own, which have no options for people.
        if words.first().is_some_and(|word| word.starts_with("write-") || word == "launch" || word == "guard")
        {
            continue;
        }
        let Err(error) = read(&words, example.in_prose) else { continue };
        let fits = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
            ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => example.in_prose,
            // What is too long to be written out.
            ErrorKind::ValueValidation => words.iter().any(|word| word.ends_with('…')),
            _ => false,
        };
        if !fits {
            let what = error.to_string();
            return Some(format!(
                "{}: {}: {}",
                example.place,
                example.line.trim(),
                what.lines().next().unwrap_or_default()
            ));
        }
    }
    None
}

fn count(examples: &[Example]) -> usize {
    let ours = |example: &&Example| commands(&example.line).iter().any(|words| arguments(words).is_some());
    examples.iter().filter(ours).count()
}

#[test]
fn every_command_in_documents_is_one_that_the_program_reads() {
    let examples: Vec<Example> = documents().iter().flat_map(|path| of_document(path)).collect();

    let faults: Vec<String> = examples.iter().filter_map(fault).collect();

    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count(&examples) > 200, "only {} commands were found", count(&examples));
}

#[test]
fn every_command_in_help_texts_is_one_that_the_program_reads() {
    let mut examples = Vec::new();
    of_help(&Cli::command(), &mut examples);

    let faults: Vec<String> = examples.iter().filter_map(fault).collect();

    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count(&examples) > 80, "only {} commands were found", count(&examples));
}

#[test]
fn a_wrong_command_is_found_wherever_it_stands() {
    let fault_of = |line: &str, in_prose| {
        fault(&Example { place: "here".to_owned(), line: line.to_owned(), in_prose }).is_some()
    };
    for right in [
        "vigie status",
        "$ sudo vigie alerts -n 5 | grep x  # the newest",
        "vigie query processes --name '^a|b$'   what it says --nothing",
        "cat x && vigie reload --dry-run > log",
    ] {
        assert!(!fault_of(right, false), "{right}");
    }
    for wrong in [
        "vigie statsu",
        "vigie status --wrong",
        "cat x | vigie alerts --wrong",
        "vigie reload && vigie query processes --wrong x",
        "vigie alerts -n many",
    ] {
        assert!(fault_of(wrong, false), "{wrong}");
        assert!(fault_of(wrong, true), "{wrong}");
    }
    assert!(fault_of("vigie fleet send", false) && !fault_of("vigie fleet send", true));
}
