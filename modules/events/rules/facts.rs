//! What is known of one record when rules are asked about it.

use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;

use vigie_kernel_events::Account;

use super::arguments;
use super::field::{Field, Pattern};
use crate::place;
use crate::record::{Key, Kind, Outcome, Program, Record, Rights, Run, Session, Socket, What};
use crate::table::{Process, Table};

/// A record, and the processes that have to do with it.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    record: &'a Record,
    account: Account,
    table: &'a Table,
    /// The process as the table has it.
    process: Option<&'a Process>,
    /// Namespaces of the first process.
    host: [u32; 4],
    /// Base name of the program, and the part of a program that is many in one: most rules ask for them first.
    name: &'a [u8],
    applet: Option<&'a [u8]>,
}

/// The last part of a path; of something in memory the name that it was given.
pub(crate) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

impl<'a> Facts<'a> {
    pub(crate) fn new(record: &'a Record, account: Account, table: &'a Table, host: [u32; 4]) -> Self {
        let process = table.get(record.who);
        let mut facts = Self { record, account, table, process, host, name: &[], applet: None };
        facts.name = name_of(facts.program_path());
        facts.applet = facts.run().and_then(|run| arguments::applet(facts.name, run.arguments.iter()));
        facts
    }

    /// Whose it is.
    pub(crate) fn account(&self) -> Account {
        self.account
    }

    pub(crate) fn kind(&self) -> Kind {
        self.record.what.kind()
    }

    fn run(&self) -> Option<&'a Run> {
        match &self.record.what {
            What::Exec(run) => Some(run),
            _ => None,
        }
    }

    fn socket(&self) -> Option<&'a Socket> {
        match &self.record.what {
            What::Socket(socket) => Some(socket),
            _ => None,
        }
    }

    fn session(&self) -> Option<&'a Session> {
        match &self.record.what {
            What::Login(session) | What::Logout(session) => Some(session),
            _ => None,
        }
    }

    fn program(&self) -> Option<&'a Program> {
        match &self.record.what {
            What::Exec(run) => Some(&run.program),
            What::Socket(socket) => Some(&socket.program),
            _ => self.process.map(|process| &*process.program),
        }
    }

    fn rights(&self) -> Option<&'a Rights> {
        match &self.record.what {
            What::Exec(run) => Some(&run.rights),
            What::Socket(socket) => Some(&socket.rights),
            _ => self.process.map(|process| &*process.rights),
        }
    }

    pub(crate) fn program_path(&self) -> &'a [u8] {
        self.program().map_or(&[], |program| &program.path)
    }

    pub(crate) fn uid(&self) -> u32 {
        self.rights().map_or(u32::MAX, |rights| rights.uid)
    }

    /// What is counted together: one process. A child that runs no program of its own is counted with its like, or
    /// whoever makes one for each would never be counted.
    pub(crate) fn counted(&self) -> Key {
        match self.process {
            Some(process) => process.key,
            None => {
                let mut hash = std::hash::DefaultHasher::new();
                (self.program_path(), self.uid()).hash(&mut hash);
                Key { pid: 0, start: hash.finish() }
            }
        }
    }

    /// What a connection is counted by: address and port.
    pub(crate) fn target(&self) -> Vec<u8> {
        let mut target = match self.socket() {
            Some(socket) => crate::history::block::address_bytes(socket.remote),
            None => Vec::new(),
        };
        target.extend_from_slice(&self.socket().map_or(0, |socket| socket.remote_port).to_be_bytes());
        target
    }

    pub(crate) fn process(&self) -> Option<&'a Process> {
        self.process
    }

    /// Ancestors of the process, the nearest one first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &'a Process> {
        let maker = self.run().map(|run| run.maker).or(self.process.map(|process| process.maker));
        self.table.ancestors(maker.unwrap_or_default())
    }

    /// Whether the program's file was removed and its place in a directory of the system's programs has another one of
    /// root, as after an upgrade. What is not known is not replaced.
    fn is_replaced(&self) -> bool {
        let (Some(program), Some(rights)) = (self.program(), self.rights()) else { return false };
        program.file.links == 0
            && place::of_system(self.record.who.pid, &program.path, rights, self.host).is_some_and(|now| {
                now.owner == 0 && now.mode & 0o170_111 == 0o100_111 && now.inode != program.file.inode
            })
    }

    fn tracer(&self) -> Option<&'a Process> {
        match &self.record.what {
            What::Ptrace { tracer } => self.table.get(*tracer),
            _ => None,
        }
    }

    fn command(&self) -> Option<Vec<u8>> {
        match self.run() {
            Some(run) => {
                let bytes = run.arguments.bytes();
                Some(bytes.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect())
            }
            None => self.process.map(|process| process.command.to_vec()),
        }
    }

    /// Arguments without what the program is called.
    fn arguments(&self) -> Vec<&'a [u8]> {
        self.run().map(|run| run.arguments.iter().skip(1).collect()).unwrap_or_default()
    }

    /// What an interpreter runs: the first argument that is no option.
    fn script(&self) -> Option<&'a [u8]> {
        let run = self.run()?;
        let (applet, is_option) = (self.applet, |argument: &[u8]| argument.starts_with(b"-"));
        run.arguments.iter().skip(1).find(|it| !is_option(it) && Some(name_of(it)) != applet)
    }

    /// The modes among the arguments, or in the value of an option for one.
    fn sets(&self, bit: u32) -> bool {
        let (name, all) = (self.name, self.arguments());
        let mode = |text: &[u8]| arguments::set_id_bits(text) & bit != 0;
        all.iter().any(|argument| mode(argument))
            || arguments::any_option(name, &all, |option, value| {
                (option == b"-m" || arguments::is_option(b"--mode", option)) && value.is_some_and(mode)
            })
    }

    /// Each argument, and what follows `=` or `@` in it, as an absolute path.
    fn any_file(&self, with: impl Fn(&[u8]) -> bool) -> bool {
        let Some(run) = self.run() else { return false };
        self.arguments().into_iter().any(|argument| {
            let after =
                |mark: u8| argument.iter().rposition(|byte| *byte == mark).map(|at| &argument[at + 1..]);
            let whole = (!argument.starts_with(b"-")).then_some(argument);
            [whole, after(b'='), after(b'@')]
                .into_iter()
                .flatten()
                .any(|path| !path.is_empty() && with(&arguments::absolute(&run.cwd, path)))
        })
    }

    fn number(&self, field: Field) -> Option<i64> {
        let file = || self.program().map(|program| &program.file);
        Some(match field {
            // Whoever accepts is known, but not what has become of its file since it was run.
            Field::ExeLinks if self.kind() == Kind::Accept => return None,
            Field::ExeLinks => i64::from(file()?.links),
            Field::ExeAge => self.record.time / 1_000_000 - file()?.changed,
            Field::ExeOwner => i64::from(file()?.owner),
            Field::ArgumentCount => i64::try_from(self.run()?.arguments.iter().count()).ok()?,
            Field::ParentConnected => {
                let connected = self.ancestors().next()?.connected?;
                (self.record.time - connected) / 1_000_000
            }
            Field::ParentDownloaded => {
                let downloaded = self.ancestors().next()?.downloaded?;
                (self.record.time - downloaded) / 1_000_000
            }
            Field::ParentDownloadedFile => {
                let downloaded = self.ancestors().next()?.downloaded_file?;
                (self.record.time - downloaded) / 1_000_000
            }
            Field::Signal => match self.record.what {
                What::Exit { status, .. } => i64::from(vigie_kernel_events::ExitStatus(status).signal()?),
                _ => return None,
            },
            Field::Uid => i64::from(self.rights()?.uid),
            Field::Euid => i64::from(self.rights()?.euid),
            Field::RemotePort => i64::from(self.socket()?.remote_port),
            Field::LocalPort => i64::from(self.socket()?.local_port),
            Field::NewUid => match self.record.what {
                What::Setuid { uid, .. } => i64::from(uid),
                _ => return None,
            },
            Field::NewEuid => match self.record.what {
                What::Setuid { euid, .. } => i64::from(euid),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Whether one of the patterns fits the field; of a field that has several values, one of these. What is not
    /// known fits nothing. A program that `excuses` by its name must be one that not everybody can make.
    pub(crate) fn any(&self, field: Field, patterns: &[Pattern], excuses: bool) -> bool {
        if let Some(number) = self.number(field) {
            return patterns.iter().any(|pattern| pattern.fits_number(number));
        }
        let counts = |program: &Program, rights: &Rights| !excuses || can_excuse(program, rights);
        // The loader runs whatever file it is given.
        let has_applet = |name: &[u8]| !excuses || !name.starts_with(b"ld-");
        let address = |address: IpAddr| patterns.iter().any(|pattern| pattern.fits_address(address));
        let text = |text: &[u8]| patterns.iter().any(|pattern| pattern.fits_text(text));
        let path = |process: Option<&Process>| process.is_some_and(|process| text(&process.program.path));
        let name = |process: Option<&Process>| {
            process.is_some_and(|process| {
                let name = name_of(&process.program.path);
                let applet = || arguments::applet(name, process.command.split(|byte| *byte == b' '));
                counts(&process.program, &process.rights)
                    && (text(name) || has_applet(name) && applet().is_some_and(text))
            })
        };
        let command = |process: Option<&Process>| process.is_some_and(|process| text(&process.command));
        let standard =
            |number: usize| self.run().is_some_and(|run| text(standard_kind(run.standard[number])));
        let namespace = |number: usize| {
            self.rights().is_some_and(|rights| {
                let own = rights.namespaces[number];
                own != 0 && text(if own == self.host[number] { b"host" } else { b"other" })
            })
        };
        let from = || self.process.into_iter().flat_map(|process| self.table.writers(process));
        let to = || self.process.into_iter().flat_map(|process| self.table.readers(process));
        let truth = |is: bool| text(is.to_string().as_bytes());
        match field {
            Field::ExePath => self.program().is_some_and(|program| text(&program.path)),
            Field::ExeName => self.program().zip(self.rights()).is_some_and(|(program, rights)| {
                counts(program, rights)
                    && (text(self.name) || has_applet(self.name) && self.applet.is_some_and(text))
            }),
            Field::ExeReplaced => text(self.is_replaced().to_string().as_bytes()),
            Field::ExeMode => self.program().is_some_and(|program| {
                let mode = program.file.mode;
                mode & 0o4000 != 0 && text(b"setuid") || mode & 0o2000 != 0 && text(b"setgid")
            }),
            Field::Filename => self.run().is_some_and(|run| {
                text(if run.filename.is_empty() { &run.program.path } else { &run.filename })
            }),
            Field::Cwd => self.run().is_some_and(|run| text(&run.cwd)),
            Field::Called => {
                self.run().is_some_and(|run| text(run.arguments.iter().next().unwrap_or_default()))
            }
            Field::Argument => self.run().is_some_and(|run| run.arguments.iter().skip(1).any(text)),
            Field::Option => {
                let name = self.applet.unwrap_or(self.name);
                arguments::any_option(name, &self.arguments(), |name, value| {
                    patterns.iter().any(|pattern| pattern.fits_option(name, value))
                })
            }
            Field::File => self.any_file(text),
            Field::Part => self
                .arguments()
                .into_iter()
                .any(|argument| text(argument) || argument.split(|byte| b",=:".contains(byte)).any(text)),
            Field::Script => self.script().is_some_and(|script| {
                text(script) || self.run().is_some_and(|run| text(&arguments::absolute(&run.cwd, script)))
            }),
            Field::ReadsProgram => self.run().is_some_and(|run| truth(reads_program(run))),
            Field::RunsOutput => self
                .arguments()
                .into_iter()
                .filter(|argument| argument.contains(&b' '))
                .any(|argument| super::shell_text::outputs_run(argument).into_iter().any(text)),
            Field::ScriptFile => self.run().is_some_and(|run| run.script_file.as_deref().is_some_and(text)),
            Field::NewMode => text(b"setuid") && self.sets(0o4000) || text(b"setgid") && self.sets(0o2000),
            Field::SessionLeader => self
                .run()
                .is_some_and(|run| text((run.session == self.record.who.pid).to_string().as_bytes())),
            Field::Command => self.command().is_some_and(|command| text(&command)),
            Field::Env => self.run().is_some_and(|run| {
                run.environment.iter().any(|(name, value)| {
                    let is = |value: &[u8]| text(&[name, &b"="[..], value].concat());
                    let is_list = name.starts_with(b"LD_");
                    is(value) || is_list && arguments::libraries(value, &run.cwd).any(|entry| is(&entry))
                })
            }),
            Field::Login => match self.rights() {
                Some(Rights { login_uid: Some(uid), .. }) => {
                    patterns.iter().any(|pattern| pattern.fits_number(i64::from(*uid)))
                }
                Some(_) => text(b"unset"),
                None => false,
            },
            Field::Stdin => standard(0),
            Field::Stdout => standard(1),
            Field::Stderr => standard(2),
            Field::ParentPath => path(self.ancestors().next()),
            Field::ParentName => name(self.ancestors().next()),
            Field::ParentCommand => command(self.ancestors().next()),
            Field::GrandparentName => name(self.ancestors().nth(1)),
            Field::AncestorPath => self.ancestors().any(|process| path(Some(process))),
            Field::AncestorName => self.ancestors().any(|process| name(Some(process))),
            Field::FromName => from().any(|process| name(Some(process))),
            Field::FromCommand => from().any(|process| command(Some(process))),
            Field::ToName => to().any(|process| name(Some(process))),
            Field::ToCommand => to().any(|process| command(Some(process))),
            Field::ToReadsProgram => to().any(|process| truth(reads_its_program(process))),
            Field::AncestorCommand => self.ancestors().any(|process| command(Some(process))),
            Field::MountNamespace => namespace(0),
            Field::PidNamespace => namespace(1),
            Field::NetNamespace => namespace(2),
            Field::UserNamespace => namespace(3),
            Field::Secure => self.run().is_some_and(|run| text(run.secure.to_string().as_bytes())),
            Field::ByDescriptor => {
                self.run().is_some_and(|run| text(run.by_descriptor.to_string().as_bytes()))
            }
            Field::Remote => self.socket().is_some_and(|socket| address(socket.remote)),
            Field::Local => self.socket().is_some_and(|socket| address(socket.local)),
            Field::Outcome => {
                self.socket().is_some_and(|socket| text(outcome_name(socket.outcome).as_bytes()))
            }
            Field::TracerName => name(self.tracer()),
            Field::TracerLogin => self.tracer().is_some_and(|tracer| match tracer.rights.login_uid {
                Some(uid) => patterns.iter().any(|pattern| pattern.fits_number(i64::from(uid))),
                None => text(b"unset"),
            }),
            Field::User => self.session().is_some_and(|session| text(&session.user)),
            Field::Host => self.session().is_some_and(|session| text(&session.host)),
            _ => false,
        }
    }
}

/// Whether a program's name says what it is: nobody but root, or a person for himself, has put it there. A user who calls
/// a shell `make` must not be excused.
fn can_excuse(program: &Program, rights: &Rights) -> bool {
    const WRITABLE: [&[u8]; 4] = [b"/tmp/", b"/var/tmp/", b"/dev/", b"/run/user/"];
    // Without `nobody` and the accounts that systemd makes for a service.
    let is_person = |uid: u32| uid >= 1000 && !matches!(uid, 61_184..=65_519 | 65_534);
    program.path.starts_with(b"/")
        && !WRITABLE.iter().any(|directory| program.path.starts_with(directory))
        && (program.file.owner == 0 || program.file.owner == rights.uid && is_person(rights.uid))
}

/// Whether an interpreter takes its program from a pipe: as its input, or as with `bash <(…)`.
fn reads_program(run: &Run) -> bool {
    let name = name_of(&run.program.path);
    let name = arguments::applet(name, run.arguments.iter()).unwrap_or(name);
    let is_input = || {
        arguments::interpreted(name, run.arguments.iter().skip(1)) == arguments::Program::Input
            && standard_kind(run.standard[0]) == b"pipe"
    };
    arguments::is_interpreter(name)
        && (run.script_file.as_ref().is_some_and(|file| file.starts_with(b"pipe:")) || is_input())
}

/// The same of a process, by what is remembered of its command.
fn reads_its_program(process: &Process) -> bool {
    let words = || process.command.split(|byte| *byte == b' ');
    let name = name_of(&process.program.path);
    let name = arguments::applet(name, words()).unwrap_or(name);
    arguments::is_interpreter(name)
        && match arguments::interpreted(name, words().skip(1)) {
            arguments::Program::Input => true,
            arguments::Program::File(path) => path.starts_with(b"/dev/fd/"),
            arguments::Program::Inline => false,
        }
}

/// A word for an outcome.
pub(crate) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Open => "open",
        Outcome::Refused => "refused",
        Outcome::Unanswered => "unanswered",
    }
}

/// A word for what a standard file is.
pub(crate) fn standard_kind((mode, family): (u32, u32)) -> &'static [u8] {
    match (mode & 0o170_000, family) {
        (0, _) => b"closed",
        (0o010_000, _) => b"pipe",
        // Of major number 1 are the null device and its like.
        (0o020_000, 1) => b"file",
        (0o020_000, _) => b"terminal",
        (0o140_000, 2 | 10) => b"internet",
        (0o140_000, _) => b"socket",
        _ => b"file",
    }
}
