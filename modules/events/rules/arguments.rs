//! What arguments mean, however they are spelled: options, modes, files, and the name of the program that they are for.

use super::facts::name_of;
use crate::record::Run;

/// Programs that are many in one file, and loaders that run another one.
const MANY_IN_ONE: [&[u8]; 4] = [b"busybox", b"toybox", b"coreutils", b"kmod"];
const MANY_IN_ONE_BEGIN: [&[u8]; 3] = [b"xtables-", b"ld-linux", b"ld-musl"];

/// Short options that take a value, for programs whose values would look like further options.
const WITH_VALUE: &[(&[u8], &[u8])] = &[
    (b"curl", b"ACDEFHKPQTUXYbcdehmortuwxyz"),
    (b"ssh", b"BbcDEeFIiJLlmOopQRSWw"),
    (b"strace", b"EIOPSUXabeopsu"),
    (b"date", b"Idfrs"),
    (b"touch", b"drt"),
    (b"install", b"SZgmot"),
    (b"perl", b"CDEFIMdeilmx0"),
    (b"python", b"QWXcm"),
    (b"ruby", b"CEFIKTWeirx0"),
    (b"php", b"BEFRSTcdfgrtz"),
];

/// Options in one argument that are looked at.
const MOST_IN_ONE: usize = 6;

/// Letters that an abbreviated long option has at least, with its hyphens.
const SHORTEST_LONG: usize = 5;

/// The part of a program that is many in one which these arguments ask for.
pub(crate) fn applet<'a>(program: &[u8], mut arguments: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let is_many =
        |name: &[u8]| MANY_IN_ONE.contains(&name) || MANY_IN_ONE_BEGIN.iter().any(|it| name.starts_with(it));
    if !is_many(program) {
        return None;
    }
    let called = name_of(arguments.next()?);
    // A shell of a login is called `-sh`.
    let called = called.strip_prefix(b"-").unwrap_or(called);
    if called != program && !is_many(called) {
        return Some(called);
    }
    arguments.find_map(|argument| match argument.strip_prefix(b"--coreutils-prog=") {
        Some(name) => Some(name),
        None => (!argument.starts_with(b"-")).then(|| name_of(argument)),
    })
}

/// What a tool that downloads does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Download {
    /// Its arguments make a file.
    File,
    Output,
}

/// What a program downloads into, when it is such a tool.
pub(crate) fn download(run: &Run) -> Option<Download> {
    let name = name_of(&run.program.path);
    let name = applet(name, run.arguments.iter()).unwrap_or(name);
    let arguments: Vec<&[u8]> = run.arguments.iter().skip(1).collect();
    let is_file = |value: &[u8]| value != b"-" && value != b"/dev/null";
    let file = match name {
        b"curl" => any_option(name, &arguments, |option, value| match option {
            b"-O" => true,
            b"-o" => value.is_some_and(is_file),
            _ if is_option(b"--output", option) => value.is_some_and(is_file),
            _ => is_option(b"--remote-name-all", option),
        }),
        b"wget" | b"wget2" | b"fetch" => !any_option(name, &arguments, |option, value| {
            let output: &[u8] = if name == b"fetch" { b"-o" } else { b"-O" };
            let is_output = option == output || is_option(b"--output-document", option);
            is_output && value.is_some_and(|value| !is_file(value)) || is_option(b"--spider", option)
        }),
        b"aria2c" => true,
        b"lwp-request" => false,
        _ => return None,
    };
    Some(if file { Download::File } else { Download::Output })
}

/// Whether a program makes files of what it reads from a pipe, whatever its standard output is.
pub(crate) fn keeps_input(run: &Run) -> bool {
    let name = name_of(&run.program.path);
    let name = applet(name, run.arguments.iter()).unwrap_or(name);
    [&b"tee"[..], b"dd", b"tar", b"bsdtar", b"cpio"].contains(&name)
}

/// Programs that run what their first argument names.
const INTERPRETERS: [&[u8]; 18] = [
    b"sh", b"bash", b"dash", b"ash", b"zsh", b"ksh", b"mksh", b"fish", b"tcsh", b"csh", b"python", b"perl",
    b"ruby", b"php", b"lua", b"node", b"nodejs", b"tclsh",
];

/// How many of them are shells.
const SHELLS: usize = 10;

/// Options of them behind which the program itself stands, or its module.
const INLINE: [&[u8]; 7] = [b"-c", b"-e", b"-r", b"-m", b"-E", b"--eval", b"--command"];

/// Whether a program's name is that of an interpreter, with or without a version.
pub(super) fn is_interpreter(name: &[u8]) -> bool {
    let version = name.iter().rposition(|byte| !(byte.is_ascii_digit() || *byte == b'.'));
    version.is_some_and(|last| INTERPRETERS.contains(&&name[..=last]))
}

pub(super) fn is_shell(name: &[u8]) -> bool {
    INTERPRETERS[..SHELLS].contains(&name)
}

/// Where an interpreter takes its program from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program<'a> {
    /// From its arguments.
    Inline,
    File(&'a [u8]),
    /// From standard input.
    Input,
}

/// What an interpreter of this name runs. Options that take a value are not all known: it may be taken for a file.
pub(super) fn interpreted<'a>(name: &[u8], mut arguments: impl Iterator<Item = &'a [u8]>) -> Program<'a> {
    let is_shell = is_shell(name);
    while let Some(argument) = arguments.next() {
        match argument {
            b"-" => return Program::Input,
            b"--" => return arguments.next().map_or(Program::Input, Program::File),
            b"-o" | b"-O" | b"+o" | b"+O" if is_shell => drop(arguments.next()),
            b"--rcfile" | b"--init-file" | b"-W" | b"-X" => drop(arguments.next()),
            b"/dev/stdin" | b"/dev/fd/0" | b"/proc/self/fd/0" => return Program::Input,
            option if INLINE.contains(&option) => return Program::Inline,
            option if option.starts_with(b"--") => {}
            option if option.starts_with(b"-") || option.starts_with(b"+") => {
                let letters = &option[1..];
                // A letter of several, as in `bash -lc` and `perl -ne`.
                let inline: &[u8] = if is_shell { b"c" } else { b"cemr" };
                if letters.iter().take(MOST_IN_ONE).any(|letter| inline.contains(letter)) {
                    return Program::Inline;
                }
                if is_shell && letters.contains(&b's') {
                    return Program::Input;
                }
            }
            file => return Program::File(file),
        }
    }
    Program::Input
}

/// The script that an interpreter was told to run, by its place.
pub(crate) fn script_of(run: &Run) -> Option<Vec<u8>> {
    let name = name_of(&run.program.path);
    let applet = applet(name, run.arguments.iter());
    let name = applet.unwrap_or(name);
    if !is_interpreter(name) {
        return None;
    }
    // `busybox sh x`: the script is behind the applet.
    let is_behind = run.arguments.iter().next().map(name_of).is_some_and(|called| !called.ends_with(name));
    let skipped = 1 + usize::from(applet.is_some() && is_behind);
    match interpreted(name, run.arguments.iter().skip(skipped)) {
        Program::File(path) if run.cwd.starts_with(b"/") => Some(absolute(&run.cwd, path)),
        _ => None,
    }
}

/// Calls `with` for each option and its value, as far as there may be one: `-x1`, `-x=1`, `-x 1`, `--long=1`, `--long
/// 1`, and each letter of `-abx`. Whether one of these calls said yes.
pub(super) fn any_option(
    program: &[u8],
    arguments: &[&[u8]],
    mut with: impl FnMut(&[u8], Option<&[u8]>) -> bool,
) -> bool {
    let with_value =
        WITH_VALUE.iter().find(|(name, _)| program.starts_with(name)).map_or(&[][..], |(_, letters)| letters);
    for (number, argument) in arguments.iter().enumerate() {
        let next = arguments.get(number + 1).copied();
        if *argument == b"--" {
            break;
        }
        if argument.starts_with(b"--") {
            let found = match argument.iter().position(|byte| *byte == b'=') {
                Some(equals) => with(&argument[..equals], Some(&argument[equals + 1..])),
                None => with(argument, None) || next.is_some_and(|next| with(argument, Some(next))),
            };
            if found {
                return true;
            }
            continue;
        }
        let Some(letters) = argument.strip_prefix(b"-") else { continue };
        for (place, letter) in letters.iter().enumerate().take(MOST_IN_ONE) {
            if !letter.is_ascii_alphanumeric() {
                break;
            }
            let rest = &letters[place + 1..];
            let value = if rest.is_empty() { next } else { Some(rest.strip_prefix(b"=").unwrap_or(rest)) };
            let name = [b'-', *letter];
            if with(&name, None) || value.is_some_and(|value| with(&name, Some(value))) {
                return true;
            }
            if with_value.contains(letter) {
                break;
            }
        }
    }
    false
}

/// Whether an option has this name; long ones can be abbreviated.
pub(super) fn is_option(wanted: &[u8], given: &[u8]) -> bool {
    wanted == given || given.starts_with(b"--") && given.len() >= SHORTEST_LONG && wanted.starts_with(given)
}

/// The bits of 0o6000 that a mode of chmod(1) sets, by number or by letters.
pub(super) fn set_id_bits(mode: &[u8]) -> u32 {
    let octal = |digits: &[u8]| {
        let is_octal = !digits.is_empty() && digits.len() <= 12;
        let bits = digits.iter().try_fold(0u64, |bits, digit| match digit {
            b'0'..=b'7' => Some(bits * 8 + u64::from(digit - b'0')),
            _ => None,
        });
        bits.filter(|bits| is_octal && *bits <= 0o7777).and_then(|bits| u32::try_from(bits).ok())
    };
    if let Some(bits) = octal(mode) {
        return bits & 0o6000;
    }
    let mut all = 0;
    for clause in mode.split(|byte| *byte == b',') {
        let Some(who) = clause.iter().position(|byte| b"+-=".contains(byte)) else { return 0 };
        let (who, mut actions) = clause.split_at(who);
        if !who.iter().all(|byte| b"ugoa".contains(byte)) {
            return 0;
        }
        while let Some((operator, rest)) = actions.split_first() {
            let end = rest.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(rest.len());
            let (what, after) = rest.split_at(end);
            let sets = *operator != b'-';
            match octal(what) {
                Some(bits) if sets => all |= bits & 0o6000,
                Some(_) => {}
                None if !what.iter().all(|byte| b"rwxXstugo".contains(byte)) => return 0,
                None if sets && what.contains(&b's') => {
                    let all_of_them = who.is_empty() || who.contains(&b'a');
                    all |= if all_of_them || who.contains(&b'u') { 0o4000 } else { 0 };
                    all |= if all_of_them || who.contains(&b'g') { 0o2000 } else { 0 };
                }
                None => {}
            }
            actions = after;
        }
    }
    all
}

/// A path without `.`, `..` and empty parts, from this directory on.
pub(crate) fn absolute(directory: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let from = if path.starts_with(b"/") { &[][..] } else { directory };
    for part in from.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut path = Vec::new();
    for part in &parts {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// The entries of a list of libraries, each as an absolute path where it is one.
pub(super) fn libraries<'a>(value: &'a [u8], directory: &'a [u8]) -> impl Iterator<Item = Vec<u8>> + 'a {
    value
        .split(|byte| b": ;\t\n".contains(byte))
        .filter(|entry| !entry.is_empty())
        .map(move |entry| if entry.contains(&b'/') { absolute(directory, entry) } else { entry.to_vec() })
}
