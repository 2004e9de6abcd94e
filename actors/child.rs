//! Starts the processes of modules and ends them, whatever they do.
//!
//! The agent starts every module through `vigie launch`, which makes the process safe from the inside before it
//! becomes the module; so there is no code between fork and exec here. Processes are started on the thread of
//! the arbiter and nowhere else: the death signal of a child is tied to the thread that started it
//! (PR_SET_PDEATHSIG(2const)), and this thread lives as long as the agent. What has to be looked up on disks and in
//! the user database before is done by `Spawner::prepare`, elsewhere.
//!
//! A process is signalled only while it is not reaped: until then its number, which is also its group's and its
//! session's, means nobody else. Where there is no cgroup, its launcher stays above it and ends everything below before
//! it ends itself; should the launcher be killed, its session is killed between its end, which a pidfd tells, and its
//! reaping.

mod spawn_error;

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::process::{Child, Command};
use vigie_protocol::message::{RUN_DIR_VARIABLE, STATE_DIR_VARIABLE};

pub(crate) use self::spawn_error::SpawnError;
use crate::conditions::Reporter;
use crate::containment::{self, Containment, Group, LimitsHit};
use crate::descriptors;
use crate::guard_link::GuardLink;
use crate::life::{EndReason, Incarnation, Limit};
use crate::process_use;
use crate::work_threads::{self, Lane};
use vigie_config::model::{ModuleSection, ModuleSpec};
use vigie_protocol::control::ModuleKind;

/// Room in a module's stdout pipe in bytes, where the kernel grants it (fcntl(2), F_SETPIPE_SZ): the more is
/// written at once, the less waking up it takes.
const PIPE_BYTES: i32 = 1024 * 1024;

/// Longest that looking at a module's program and directories may take; a disk that does not answer within it
/// counts as not answering.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a launcher that stays above its module ends when the host lacks what it takes to start it (EX_TEMPFAIL,
/// sysexits.h).
pub const LAUNCHER_SHORTAGE: i32 = 75;

/// What tells a launcher that stays above its module to kill everything below it.
pub const KILL_ALL: Signal = Signal::SIGUSR1;

/// Starts processes. A trait, so that the actors' decisions are tested without processes.
pub(crate) trait Spawner {
    /// Makes the module's directories and the control group of this life, and looks whether its program may be run.
    /// Asks disks and the user database, on threads of their own, and gives up on those that do not answer.
    fn prepare(
        &self,
        spec: &ModuleSpec,
        incarnation: Incarnation,
    ) -> Pin<Box<dyn Future<Output = Result<Group, SpawnError>>>>;

    /// Starts a persistent module that is prepared, in the group that was made for it.
    ///
    /// # Errors
    /// When the process cannot be started.
    fn spawn(
        &self,
        spec: &ModuleSpec,
        group: Group,
    ) -> Result<(Rc<dyn ChildControl>, ChildPipes), SpawnError>;

    /// Reports there what is wrong with what ends modules.
    fn report_to(&self, _: &Reporter) {}

    /// The directory in which the module creates its query socket.
    fn run_dir(&self, spec: &ModuleSpec) -> PathBuf;
}

/// A process that can be ended.
pub(crate) trait ChildControl {
    /// Its process id, which is also its process group's and its session's.
    fn pid(&self) -> u32;
    /// Asks it to end, also when it is stopped.
    fn terminate(&self);
    /// Kills it and everything it started.
    fn kill(&self);
    /// Which limit of its control group it ran into since the last question but one.
    fn limit_hit(self: Rc<Self>) -> Pin<Box<dyn Future<Output = Option<Limit>>>>;
    /// Ends what it left behind, after it is reaped.
    fn clean_up(self: Rc<Self>) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// The ends of a process that its owner holds.
pub(crate) struct ChildPipes {
    /// Its stdin.
    pub(crate) stdin: Box<dyn AsyncWrite + Unpin>,
    /// Its stdout.
    pub(crate) stdout: Box<dyn AsyncRead + Unpin>,
    /// Its stderr.
    pub(crate) stderr: Box<dyn AsyncRead + Unpin>,
    /// Ends when the process is reaped.
    pub(crate) exit: Pin<Box<dyn Future<Output = EndReason>>>,
}

/// How the agent starts processes.
#[derive(Debug, Clone)]
pub struct ProcessSpawner {
    /// The `vigie` program; its own image, so that an upgrade of the file does not mix versions.
    pub vigie: PathBuf,
    /// Configuration file of the agent; told to modules of ours.
    pub run_dir: PathBuf,
    /// Where modules keep their state, one directory each.
    pub state_dir: PathBuf,
    /// What holds the processes together.
    pub containment: Containment,
    /// Who ends them when the agent dies.
    pub guard: GuardLink,
}

impl ProcessSpawner {
    /// Starts `vigie launch` for a module in `mode`, with all three pipes.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn start(
        &self,
        section: &ModuleSection,
        mode: ModuleKind,
        group: Group,
    ) -> Result<(Rc<ProcessControl>, Child), SpawnError> {
        let (state_dir, run_dir) = (self.state_dir_of(section), self.run_dir_of(section));

        let mut command = Command::new(&self.vigie);
        command.arg0("vigie").arg("launch").arg("--parent").arg(std::process::id().to_string());
        for directory in group.directories() {
            command.arg("--cgroup").arg(directory);
        }
        if group.is_none() {
            command.arg("--stay");
        }
        if section.new_privileges {
            command.arg("--new-privileges");
        }
        if let Some(user) = &section.user {
            command.arg("--user").arg(user);
        }
        for (flag, value) in [
            ("--memory-bytes", section.limits.memory_bytes),
            ("--open-files", section.limits.open_files),
            ("--nice", section.limits.nice.map(|nice| u64::from(nice.unsigned_abs()))),
        ] {
            if let Some(value) = value {
                command.arg(flag).arg(value.to_string());
            }
        }
        command.arg("--").args(self.module_command(section, mode));
        // A small environment of its own: nothing of the agent's, such as credentials or the service manager's
        // sockets, reaches a module.
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env(RUN_DIR_VARIABLE, &run_dir)
            .env(STATE_DIR_VARIABLE, &state_dir)
            .envs(std::env::var_os("TZ").map(|zone| ("TZ", zone)))
            .envs(&section.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let started = descriptors::with_reserve(|| {
            let child = command.spawn()?;
            let pidfd = child.id().and_then(watch_process);
            Ok((child, pidfd))
        });
        let (child, pidfd) = match started {
            Ok(started) => started,
            Err(error) => {
                // A failure after the fork can leave a living child behind (tokio#6797), and a second copy must not
                // be started beside it.
                drop(work_threads::run(Lane::Kill, move || group.remove()));
                return Err(SpawnError::Start(error));
            }
        };
        let pid = child.id().unwrap_or_default();
        self.guard.add(pid);
        let control = Rc::new(ProcessControl {
            pid,
            pidfd,
            group,
            hit: Cell::default(),
            killed: Cell::new(false),
            reaped: Cell::new(false),
            guard: self.guard.clone(),
        });
        Ok((control, child))
    }

    /// As [`Spawner::prepare`]; `life` tells this life from the module's others.
    pub(crate) fn prepare_section(
        &self,
        section: &ModuleSection,
        life: &str,
    ) -> impl Future<Output = Result<Group, SpawnError>> + 'static {
        let (containment, limits) = (self.containment.clone(), section.limits);
        let group = format!("{}.{life}", section.name);
        let (user, program) =
            (section.user.clone(), section.command.as_ref().and_then(|words| words.first().cloned()));
        let mut directories = vec![self.state_dir_of(section)];
        if user.is_some() {
            directories.push(self.run_dir_of(section));
        }
        let disk = "the disk with the module's program or directories";
        async move {
            let owner = match user {
                Some(user) => {
                    let looking = work_threads::run(Lane::Names, move || lookup_user(&user));
                    Some(answered(looking, "the user database").await??)
                }
                None => None,
            };
            let preparing = work_threads::run(Lane::Modules, move || {
                for directory in &directories {
                    make_directory(directory, owner.as_ref())?;
                }
                program.map_or(Ok(()), |program| check_program(Path::new(&program)))?;
                Ok(containment.group(&group, &limits))
            });
            answered(preparing, disk).await?
        }
    }

    fn module_command(&self, section: &ModuleSection, mode: ModuleKind) -> Vec<OsString> {
        match &section.command {
            Some(command) => command.iter().map(OsString::from).collect(),
            None => {
                let verb = match mode {
                    ModuleKind::Persistent => "persist",
                    ModuleKind::Standard => "run",
                };
                [self.vigie.as_os_str(), "module".as_ref(), verb.as_ref(), section.name.as_str().as_ref()]
                    .map(OsString::from)
                    .to_vec()
            }
        }
    }

    fn state_dir_of(&self, section: &ModuleSection) -> PathBuf {
        self.state_dir.join("modules").join(section.name.as_str())
    }

    /// Modules that run as another user cannot enter the agent's own directory.
    fn run_dir_of(&self, section: &ModuleSection) -> PathBuf {
        if section.user.is_none() {
            return self.run_dir.clone();
        }
        let mut name = self.run_dir.clone().into_os_string();
        name.push("-modules");
        PathBuf::from(name).join(section.name.as_str())
    }
}

/// Waits for a job that asks something that may never answer.
async fn answered<T>(job: work_threads::Job<T>, what: &'static str) -> Result<T, SpawnError> {
    match tokio::time::timeout(PREPARE_TIMEOUT, job).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(_) => Err(SpawnError::NoAnswer { what }),
    }
}

impl Spawner for ProcessSpawner {
    fn prepare(
        &self,
        spec: &ModuleSpec,
        incarnation: Incarnation,
    ) -> Pin<Box<dyn Future<Output = Result<Group, SpawnError>>>> {
        let left = self.containment.left_of(spec.section.name.as_str());
        let preparing = self.prepare_section(&spec.section, &incarnation.0.to_string());
        Box::pin(async move {
            if !left.is_empty() {
                let looking = work_threads::run(Lane::Kill, move || {
                    let still_there = left.iter().find_map(|group| containment::kill_and_look(group));
                    still_there.map_or(Ok(()), |pid| Err(SpawnError::NotGone { pid }))
                });
                answered(looking, "the kernel's control groups").await??;
            }
            preparing.await
        })
    }

    fn spawn(
        &self,
        spec: &ModuleSpec,
        group: Group,
    ) -> Result<(Rc<dyn ChildControl>, ChildPipes), SpawnError> {
        let (control, mut child) = self.start(&spec.section, ModuleKind::Persistent, group)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(SpawnError::Start(std::io::Error::other("the pipes were not created")));
        };
        // Fails beyond the user's share of pipe memory; the default size works as well.
        nix::fcntl::fcntl(&stdout, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).ok();
        let waiting = control.clone();
        let exit = async move {
            let reason = end_reason(waiting.wait(&mut child).await);
            if waiting.group.is_none() && reason == EndReason::Exited(LAUNCHER_SHORTAGE) {
                return EndReason::Shortage("its launcher cannot start a process".to_owned());
            }
            match waiting.clone().limit_hit().await {
                // Only the kernel's own kill is explained by memory.
                Some(Limit::Memory) if reason != EndReason::Signalled(Signal::SIGKILL as i32) => reason,
                Some(limit) if reason != EndReason::Exited(0) => EndReason::Limit(limit),
                _ => reason,
            }
        };
        let pipes = ChildPipes {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            exit: Box::pin(exit),
        };
        Ok((control, pipes))
    }

    fn report_to(&self, reporter: &Reporter) {
        self.guard.report_to(reporter.clone());
    }

    fn run_dir(&self, spec: &ModuleSpec) -> PathBuf {
        self.run_dir_of(&spec.section)
    }
}

fn end_reason(status: std::io::Result<ExitStatus>) -> EndReason {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => EndReason::Exited(code),
            (None, Some(signal)) => EndReason::Signalled(signal),
            (None, None) => EndReason::Exited(-1),
        },
        Err(error) => EndReason::SpawnFailed(error.to_string()),
    }
}

#[expect(clippy::disallowed_methods, reason = "called on Lane::Names")]
fn lookup_user(user: &str) -> Result<nix::unistd::User, SpawnError> {
    nix::unistd::User::from_name(user)
        .ok()
        .flatten()
        .ok_or_else(|| SpawnError::UnknownUser { user: user.to_owned() })
}

/// Makes a directory for a module, entered by nobody but its user; others may pass through the one above it.
#[expect(clippy::disallowed_methods, reason = "called on Lane::Modules")]
fn make_directory(path: &Path, owner: Option<&nix::unistd::User>) -> Result<(), SpawnError> {
    let error = |source| SpawnError::Directory { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| owner.is_some() || !parent.is_dir()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(error)?;
        if owner.is_some() {
            // A service manager makes it for root alone.
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o711)).map_err(error)?;
        }
    }
    // Making a directory that is there already would still wait for a disk that takes nothing (freeze_super).
    if !path.is_dir() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)?;
    }
    let known = path.metadata().map(|found| (found.uid(), found.gid())).map_err(error)?;
    if let Some(owner) = owner.filter(|owner| known != (owner.uid.as_raw(), owner.gid.as_raw())) {
        nix::unistd::chown(path, Some(owner.uid), Some(owner.gid)).map_err(|errno| error(errno.into()))?;
    }
    Ok(())
}

/// Most interpreters of interpreters that are followed, as execve(2) does.
const MAX_INTERPRETERS: usize = 4;

/// Refuses a program that others could replace: what the agent starts has the agent's rights. Looked at are the
/// program, every directory that its real path leads through, and the interpreter that its first line names, in the
/// same way.
#[expect(clippy::disallowed_methods, reason = "called on Lane::Modules")]
fn check_program(program: &Path) -> Result<(), SpawnError> {
    let mut current = program.to_owned();
    for _ in 0..MAX_INTERPRETERS {
        let no_program = |source| SpawnError::NoProgram { program: program.to_owned(), source };
        let real = current.canonicalize().map_err(no_program)?;
        for path in real.ancestors() {
            let metadata = path.metadata().map_err(no_program)?;
            if let Some(reason) = unsafe_part(path, &metadata) {
                return Err(SpawnError::UnsafeProgram { program: program.to_owned(), reason });
            }
        }
        match interpreter(&real) {
            Some(interpreter) => current = interpreter,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Why others could change what is at `path`.
fn unsafe_part(path: &Path, metadata: &std::fs::Metadata) -> Option<String> {
    let own = nix::unistd::geteuid().as_raw();
    let shown = path.display();
    // In a sticky directory only the owner of a file replaces it.
    let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
    if metadata.uid() != 0 && metadata.uid() != own {
        Some(format!(
            "{path:?} belongs to user {}, neither root nor the agent's; change its owner",
            metadata.uid()
        ))
    } else if metadata.mode() & 0o002 != 0 && !sticky {
        Some(format!("{path:?} is writable by everybody; run: chmod o-w {shown}"))
    } else if metadata.mode() & 0o020 != 0 && metadata.gid() != 0 && !sticky {
        Some(format!("{path:?} is writable by group {}; run: chmod g-w {shown}", metadata.gid()))
    } else {
        None
    }
}

/// The interpreter that a script's first line names.
#[expect(clippy::disallowed_methods, reason = "called on Lane::Modules")]
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut start = [0; 256];
    let read = std::fs::File::open(program).and_then(|mut file| file.read(&mut start)).ok()?;
    let line = start[..read].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(word)))
}

/// A process of ours and what it started.
#[derive(Debug)]
pub(crate) struct ProcessControl {
    pid: u32,
    /// Tells its end before it is reaped; absent where the kernel or the descriptors do not give it.
    pidfd: Option<AsyncFd<OwnedFd>>,
    group: Group,
    /// The limits that it had run into when it was asked last, and the time before.
    hit: Cell<[LimitsHit; 2]>,
    /// It was told to kill what it holds.
    killed: Cell<bool>,
    /// Set in the same poll in which the process is reaped, on the same thread: as long as it is not set, the
    /// process id is ours and cannot mean anybody else.
    reaped: Cell<bool>,
    guard: GuardLink,
}

impl ProcessControl {
    /// Waits for the process to end and reaps it.
    ///
    /// # Errors
    /// When the system cannot say how it ended.
    pub(crate) async fn wait(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        if let Some(pidfd) = &self.pidfd
            && !self.reaped.get()
        {
            // An error of the poll leaves it to the reaping below.
            drop(pidfd.ready(Interest::READABLE).await);
            if self.group.is_none() {
                let pid = self.pid;
                // It is not reaped, so its number still means this session and no other one.
                work_threads::run(Lane::Kill, move || containment::kill_session(pid)).await.ok();
            }
        }
        let status = child.wait().await;
        self.reaped.set(true);
        status
    }

    fn signal(&self, signal: Signal) {
        if !self.reaped.get()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            let group = Pid::from_raw(pid);
            // In its first instant the process has not made its group yet.
            if killpg(group, signal).is_err() {
                self.signal_process(signal);
            }
        }
    }

    /// Signals the process alone, as long as it is not reaped.
    fn signal_process(&self, signal: Signal) {
        match (&self.pidfd, i32::try_from(self.pid)) {
            (Some(pidfd), _) => {
                if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
                    pidfd_send_signal(pidfd.get_ref(), signal).ok();
                }
            }
            (None, Ok(pid)) if !self.reaped.get() => {
                nix::sys::signal::kill(Pid::from_raw(pid), signal).ok();
            }
            _ => {}
        }
    }
}

/// A descriptor of a child that is not reaped, which becomes readable when the child ends.
pub(crate) fn watch_process(pid: u32) -> Option<AsyncFd<OwnedFd>> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    #[expect(
        deprecated,
        reason = "sound for an OwnedFd, which stays the same descriptor as long as it lives"
    )]
    AsyncFd::with_interest(pidfd, Interest::READABLE).ok()
}

impl ChildControl for ProcessControl {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    fn kill(&self) {
        if self.group.is_none() && !self.killed.replace(true) {
            // Its launcher ends everything, whatever session that is in, and says so by its own end.
            self.signal_process(Signal::SIGCONT);
            self.signal_process(KILL_ALL);
            return;
        }
        // A launcher that has taken the order waits for what does not end; without it, the next life would not.
        if self.group.is_none() && !process_use::is_pending(self.pid, KILL_ALL) {
            // Whoever stopped it since does not keep it.
            self.signal_process(Signal::SIGCONT);
            return;
        }
        self.signal(Signal::SIGKILL);
        self.group.kill();
    }

    fn limit_hit(self: Rc<Self>) -> Pin<Box<dyn Future<Output = Option<Limit>>>> {
        Box::pin(async move {
            let group = self.group.clone();
            if group.is_none() {
                return None;
            }
            let hit = work_threads::run(Lane::Modules, move || group.limits_hit()).await.ok()?;
            let [newest, before] = self.hit.get();
            self.hit.set([hit, newest]);
            hit.since(before)
        })
    }

    fn clean_up(self: Rc<Self>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            // Without a cgroup it was done before the reaping: now the number may mean somebody else.
            if !self.group.is_none() {
                let group = self.group.clone();
                work_threads::run(Lane::Kill, move || group.remove()).await.ok();
            }
            self.guard.remove(self.pid);
        })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_others_can_replace_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        check_program(&program).unwrap();

        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o757)).unwrap();
        let writable = check_program(&program).unwrap_err().to_string();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let replaceable = check_program(&program).unwrap_err().to_string();

        assert!(writable.contains("is writable by everybody"), "{writable}");
        assert!(replaceable.contains("is writable by everybody"), "{replaceable}");
        assert!(matches!(check_program(Path::new("/nowhere")), Err(SpawnError::NoProgram { .. })));
    }

    #[test]
    fn a_script_is_as_safe_as_its_interpreter_and_every_directory_above_them() {
        let directory = tempfile::tempdir().unwrap();
        let above = directory.path().join("above");
        std::fs::create_dir_all(above.join("bin")).unwrap();
        let (interpreter, script) = (above.join("bin/shell"), directory.path().join("script"));
        std::fs::write(&interpreter, "").unwrap();
        std::fs::write(&script, format!("#! {} -x\n", interpreter.display())).unwrap();
        let allow =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for path in [&interpreter, &script, &above, &above.join("bin")] {
            allow(path, 0o755);
        }
        check_program(&script).unwrap();

        allow(&interpreter, 0o757);
        let by_interpreter = check_program(&script).unwrap_err().to_string();
        allow(&interpreter, 0o755);
        allow(&above, 0o777);
        let by_directory = check_program(&script).unwrap_err().to_string();

        assert!(by_interpreter.contains("bin/shell"), "{by_interpreter}");
        assert!(by_directory.contains("above\" is writable by everybody"), "{by_directory}");
    }

    #[test]
    fn what_a_group_may_write_is_refused_unless_it_is_roots() {
        let directory = tempfile::tempdir().unwrap();
        let metadata = |mode, group| {
            let path = directory.path().join("program");
            std::fs::write(&path, "").unwrap();
            nix::unistd::chown(&path, None, Some(nix::unistd::Gid::from_raw(group))).ok()?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            unsafe_part(&path, &path.metadata().unwrap())
        };
        if !vigie_skipped::is_root() {
            return;
        }

        assert!(metadata(0o775, 50).unwrap().contains("group 50"));
        assert_eq!(metadata(0o755, 50), None);
        assert_eq!(metadata(0o775, 0), None);
    }
}
