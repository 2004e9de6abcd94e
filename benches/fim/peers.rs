//! The programs that are measured beside ours.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::{LOOK_AGAIN, pause};
use vigie_benchmark::BenchResult;

/// What AIDE compares: all that ours does that AIDE 0.18 names, with one digest.
const AIDE_ATTRIBUTES: &str = "p+ftype+i+l+n+u+g+s+m+c+sha256";

/// Time without a further line after which inotifywait has said all.
const QUIET: Duration = Duration::from_millis(500);

/// Looks for a program in `PATH`.
///
/// # Errors
/// When it is not there; the message names Debian's package.
pub(crate) fn require(program: &str, package: &str) -> BenchResult<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        return Ok(());
    }
    Err(format!("{program} is missing; on Debian: apt-get install {package}").into())
}

/// AIDE with two workers on one tree.
pub(crate) struct Aide {
    directory: PathBuf,
}

impl Aide {
    /// Writes its configuration into `directory`.
    ///
    /// # Errors
    /// When AIDE is not installed.
    pub(crate) fn new(directory: PathBuf, tree: &Path) -> BenchResult<Self> {
        require("aide", "aide")?;
        fs::create_dir_all(&directory)?;
        let text = format!(
            "database_in=file:{directory}/aide.db\ndatabase_out=file:{directory}/aide.db\n\
             gzip_dbout=no\nnum_workers=2\nreport_url=file:{directory}/report\n\
             Compared = {AIDE_ATTRIBUTES}\n{tree} Compared\n",
            directory = directory.display(),
            tree = tree.display(),
        );
        fs::write(directory.join("aide.conf"), text)?;
        Ok(Self { directory })
    }

    /// `aide --init`.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn init(&self) -> BenchResult<Duration> {
        self.run("--init")
    }

    /// `aide --check`, which must find no difference.
    ///
    /// # Errors
    /// When it fails or finds one.
    pub(crate) fn check(&self) -> BenchResult<Duration> {
        self.run("--check")
    }

    fn run(&self, command: &str) -> BenchResult<Duration> {
        let mut aide = Command::new("aide");
        aide.arg(command).arg("--config").arg(self.directory.join("aide.conf"));
        timed(&mut aide)
    }
}

/// `find -printf` with what a quick scan compares.
///
/// # Errors
/// When it fails.
pub(crate) fn find(tree: &Path) -> BenchResult<Duration> {
    timed(Command::new("find").arg(tree).args(["-printf", "%s %T@ %i %m %U %n %p\\n"]))
}

/// Runs a command to its end without reading what it prints; returns how long that took.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn timed(command: &mut Command) -> BenchResult<Duration> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let took = start.elapsed();
    if !status.success() {
        return Err(format!("{} ended with {status}", command.get_program().display()).into());
    }
    Ok(took)
}

/// `inotifywait -m -r`, which writes the path of everything that is created to a file.
pub(crate) struct InotifyWait {
    child: Child,
    output: PathBuf,
    /// Held: a complaint into a closed pipe would end it.
    messages: BufReader<ChildStderr>,
}

impl InotifyWait {
    /// Starts it and waits until it watches.
    ///
    /// # Errors
    /// When it is not installed or ends.
    pub(crate) fn start(tree: &Path, output: PathBuf) -> BenchResult<Self> {
        require("inotifywait", "inotify-tools")?;
        let mut child = Command::new("inotifywait")
            .args(["-m", "-r", "-e", "create,moved_to", "--format", "%w%f"])
            .arg(tree)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(Stdio::piped())
            .spawn()?;
        let messages = BufReader::new(child.stderr.take().ok_or("inotifywait has no standard error")?);
        let mut waiter = Self { child, output, messages };
        let mut line = String::new();
        while waiter.messages.read_line(&mut line)? > 0 {
            if line.contains("established") {
                return Ok(waiter);
            }
            line.clear();
        }
        Err("inotifywait ended before it watched".into())
    }

    /// Waits until it says no more, and returns the paths that it named.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub(crate) fn named(self) -> BenchResult<Vec<String>> {
        let mut length = 0;
        let mut changed = Instant::now();
        while changed.elapsed() < QUIET {
            let now = fs::metadata(&self.output)?.len();
            if now != length {
                (length, changed) = (now, Instant::now());
            }
            pause(LOOK_AGAIN);
        }
        Ok(fs::read_to_string(&self.output)?.lines().map(str::to_owned).collect())
    }
}

impl Drop for InotifyWait {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
