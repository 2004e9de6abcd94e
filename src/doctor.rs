//! `vigie doctor`: looks for what keeps an agent from doing its work on this host, and says what to do.
//!
//! A check is a function from what is there to findings; it has a name, a group and five seconds. Everything below a
//! [`Patient`]'s root is read from there, so that tests plant what a check should find. The doctor runs without an
//! agent: what only an agent knows is then said to be unknown.

mod agent;
mod certificate;
pub(crate) mod configuration;
mod fleet;
mod host;
mod installation;
mod neighbours;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use vigie_config::files::{self, LoadOptions, Places};
use vigie_config::model::LoadedConfig;
use vigie_protocol::control::{AgentStatus, ConfigProblem, SOCKET_NAME};

use crate::client::ClientError;
use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::{Paint, Printer, Tone, safe};
use crate::status;
use crate::table::hanging;

/// Time that each check has; a disk that hangs makes one finding and not a doctor that hangs.
const TIME_FOR_A_CHECK: Duration = Duration::from_secs(5);

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Run only this check or this group of checks (host, installation, configuration, agent, fleet,
    /// neighbours); may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) only: Vec<String>,

    /// The configuration file [default: the file that the running agent has read, or the one that an
    /// agent would read]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// List the checks and what each one examines
    #[arg(long)]
    pub(crate) list: bool,

    /// Print JSON, one finding per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Nothing is wrong, and it is worth knowing.
    Info,
    /// It could not be found out.
    Unknown,
    /// Something does less than it could, or will break.
    Warn,
    /// A promise is broken.
    Fail,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check.
    pub(crate) id: &'static str,
    /// What the check looks at.
    pub(crate) title: &'static str,
    /// How it went.
    pub(crate) status: Verdict,
    /// What is there.
    pub(crate) found: String,
    /// What to do; empty when there is nothing to do.
    pub(crate) remedy: String,
    /// Where to read on.
    pub(crate) docs: &'static str,
}

/// A finding without the check that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    pub(crate) remedy: String,
}

/// All is well.
pub(crate) fn fine(found: impl Into<String>) -> Outcome {
    Outcome { verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
}

/// Something worth knowing.
pub(crate) fn note(found: impl Into<String>) -> Outcome {
    Outcome { verdict: Verdict::Info, found: found.into(), remedy: String::new() }
}

/// Something to do.
pub(crate) fn trouble(verdict: Verdict, found: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    Outcome { verdict, found: found.into(), remedy: remedy.into() }
}

/// It could not be found out.
pub(crate) fn unknown(found: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    trouble(Verdict::Unknown, found, remedy)
}

/// What is examined.
#[derive(Debug)]
pub(crate) struct Patient {
    /// `/`, or the directory that a test has made.
    pub(crate) root: PathBuf,
    /// The configuration as the agent would read it.
    pub(crate) config: Result<LoadedConfig, Vec<ConfigProblem>>,
    /// What the agent says, or why it says nothing.
    pub(crate) status: Result<AgentStatus, NoStatus>,
}

/// Why the agent says nothing.
#[derive(Debug, Clone)]
pub(crate) struct NoStatus {
    pub(crate) why: String,
    /// It may run, and this user may not ask it.
    pub(crate) is_hidden: bool,
}

/// What an ordinary user does to learn more.
pub(crate) const AS_ROOT: &str = "run the doctor as root";

impl Patient {
    /// A path of the host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.below(Path::new(path))
    }

    /// The same for a path from the configuration.
    pub(crate) fn below(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A small file of the host, without the blanks around it.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A finding about what only the agent knows, which says nothing: `then` is what is not known for that reason.
    pub(crate) fn without_agent(&self, then: &str) -> Outcome {
        match &self.status {
            Err(absent) if absent.is_hidden => {
                unknown(format!("this user may not ask an agent; {then}"), AS_ROOT)
            }
            Err(absent) => note(format!("{}; {then}", absent.why)),
            Ok(_) => note(then),
        }
    }

    /// A finding about what is in the configuration, which is invalid or may not be read: `what` is not known.
    pub(crate) fn without_config(&self, what: &str) -> Outcome {
        match self.hidden_file() {
            Some(file) => unknown(format!("{what}: this user may not read {}", file.display()), AS_ROOT),
            None => unknown(format!("{what}: the configuration is invalid"), "correct the configuration"),
        }
    }

    /// The file of the configuration, when this user may not read it.
    pub(crate) fn hidden_file(&self) -> Option<PathBuf> {
        let path = self.config.as_ref().err()?.first()?.file.clone();
        let refused = std::fs::File::open(&path).err()?.kind() == std::io::ErrorKind::PermissionDenied;
        refused.then_some(path)
    }

    /// The agent's process.
    pub(crate) fn agent_pid(&self) -> Option<u32> {
        self.status.as_ref().ok().map(|status| status.pid)
    }
}

/// One check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    /// `GROUP.NAME`.
    pub(crate) id: &'static str,
    /// What it looks at.
    pub(crate) title: &'static str,
    /// Where to read on.
    pub(crate) docs: &'static str,
    /// Looks.
    pub(crate) run: fn(&Patient) -> Vec<Outcome>,
}

/// All checks in the order in which they are shown.
fn checks() -> impl Iterator<Item = &'static Check> {
    [
        host::CHECKS,
        installation::CHECKS,
        configuration::CHECKS,
        agent::CHECKS,
        fleet::CHECKS,
        neighbours::CHECKS,
    ]
    .into_iter()
    .flatten()
}

/// Carries out `doctor`.
pub(crate) fn run(args: &DoctorArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let wanted = wanted(&args.only)?;
    if args.list {
        for check in wanted {
            printer.line(&format!("{:28} {}", check.id, check.title))?;
        }
        return Ok(Exit::Ok);
    }
    let patient = Arc::new(examine(args.config.clone(), socket));
    let mut worst = Verdict::Ok;
    for check in wanted {
        for finding in findings(check, &patient) {
            worst = worst.max(finding.status);
            if printer.is_json() {
                printer.json(&finding)?;
            } else {
                let text = render(&finding, printer.paint(), printer.width());
                printer.line(&text)?;
            }
        }
    }
    Ok(exit_of(worst))
}

/// All findings, for an archive of diagnostics.
pub(crate) fn all_findings(config: Option<PathBuf>, socket: &Path) -> Vec<Finding> {
    let patient = Arc::new(examine(config, socket));
    checks().flat_map(|check| findings(check, &patient)).collect()
}

fn exit_of(worst: Verdict) -> Exit {
    match worst {
        Verdict::Ok | Verdict::Info => Exit::Ok,
        Verdict::Unknown | Verdict::Warn => Exit::NotWell,
        Verdict::Fail => Exit::NotKnown,
    }
}

fn wanted(only: &[String]) -> Result<Vec<&'static Check>, Failure> {
    let is = |check: &Check, name: &str| check.id == name || check.id.split('.').next() == Some(name);
    if let Some(name) = only.iter().find(|name| !checks().any(|check| is(check, name))) {
        let message = format!("unknown check or group of checks {name:?}");
        return Err(Failure::new(Exit::Usage, message, "`vigie doctor --list` lists them"));
    }
    Ok(checks().filter(|check| only.is_empty() || only.iter().any(|name| is(check, name))).collect())
}

/// The configuration file that the running agent has read.
pub(crate) fn config_in_use(socket: &Path) -> Option<PathBuf> {
    ask(socket).ok()?.config.path
}

fn ask(socket: &Path) -> Result<AgentStatus, NoStatus> {
    let socket = socket.to_owned();
    let status = within_time(move || {
        status::fetch(&socket).map_err(|error| NoStatus {
            why: error.to_string(),
            is_hidden: matches!(error, ClientError::NotPermitted { .. }),
        })
    });
    let late =
        || NoStatus { why: "the agent did not respond within five seconds".to_owned(), is_hidden: false };
    status.unwrap_or_else(|| Err(late()))
}

/// Asks the agent and reads the configuration, each within its time: without a name the file that the agent has read.
fn examine(config: Option<PathBuf>, socket: &Path) -> Patient {
    let status = ask(socket);
    let config = config.or_else(|| status.as_ref().ok()?.config.path.clone());
    let mut options = LoadOptions::at_start(config);
    // An ordinary user who has no agent of his own is about the host's.
    if socket == Places::system().run_dir.join(SOCKET_NAME) {
        options.places = Places::system();
    }
    let file = options.path().to_owned();
    let config = within_time(move || files::load(&options, BUILTINS));
    let config = config.unwrap_or_else(|| {
        let message = "cannot be read within five seconds; its disk may hang".to_owned();
        Err(vec![ConfigProblem { file, line: None, key: None, message }])
    });
    Patient { root: PathBuf::from("/"), config, status }
}

/// Runs `work` on a thread of its own; nothing when it takes too long.
fn within_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = mpsc::channel();
    // A thread that hangs ends with the process.
    std::thread::spawn(move || done.send(work()));
    waiting.recv_timeout(TIME_FOR_A_CHECK).ok()
}

fn findings(check: &'static Check, patient: &Arc<Patient>) -> Vec<Finding> {
    let (look, patient) = (check.run, patient.clone());
    let outcomes = within_time(move || look(&patient)).unwrap_or_else(|| {
        vec![unknown(
            "the check did not finish within five seconds",
            "find out which file system does not respond: `mount`, `dmesg`, `ps -eo pid,stat,wchan,cmd`",
        )]
    });
    let finding = |Outcome { verdict, found, remedy }| Finding {
        id: check.id,
        title: check.title,
        status: verdict,
        found,
        remedy,
        docs: check.docs,
    };
    outcomes.into_iter().map(finding).collect()
}

fn render(finding: &Finding, paint: Paint, width: Option<u16>) -> String {
    let (tone, mark) = match finding.status {
        Verdict::Ok => (Tone::Good, "ok"),
        Verdict::Info => (Tone::Plain, "note"),
        Verdict::Unknown => (Tone::Doubtful, "unknown"),
        Verdict::Warn => (Tone::Doubtful, "warn"),
        Verdict::Fail => (Tone::Bad, "FAIL"),
    };
    let line = hanging(&format!("{mark:7} {:27} {}", finding.id, safe(&finding.found)), width, 36);
    let mut text = paint.text(tone, mark) + &line[mark.len()..];
    if !finding.remedy.is_empty() {
        let remedy = format!("          {} ({})", safe(&finding.remedy), finding.docs);
        text.push_str(&format!("\n{}", hanging(&remedy, width, 10)));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host below a directory, with what a test plants there.
    pub(crate) struct Planted {
        directory: tempfile::TempDir,
        pub(crate) patient: Patient,
    }

    impl Planted {
        pub(crate) fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("vigie.toml");
            std::fs::write(&file, "# nothing\n").unwrap();
            let config = files::load(&LoadOptions::at_start(Some(file)), BUILTINS);
            let status = serde_json::from_str(vigie_metrics::EXAMPLE_STATUS).unwrap();
            let patient = Patient { root: directory.path().to_owned(), config, status: Ok(status) };
            Self { directory, patient }
        }

        /// Plants a file.
        pub(crate) fn with(self, path: &str, text: &str) -> Self {
            let path = self.directory.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        /// Reads this configuration.
        pub(crate) fn configured(mut self, text: &str) -> Self {
            let file = self.directory.path().join("vigie.toml");
            std::fs::write(&file, text).unwrap();
            self.patient.config = files::load(&LoadOptions::at_start(Some(file)), BUILTINS);
            self
        }

        /// Changes what the agent says.
        pub(crate) fn says(mut self, change: impl FnOnce(&mut AgentStatus)) -> Self {
            change(self.patient.status.as_mut().unwrap());
            self
        }

        /// There is no agent.
        pub(crate) fn without_agent(self) -> Self {
            self.says_nothing("no agent answers", false)
        }

        /// The agent says nothing.
        pub(crate) fn says_nothing(mut self, why: &str, is_hidden: bool) -> Self {
            self.patient.status = Err(NoStatus { why: why.to_owned(), is_hidden });
            self
        }

        /// The worst that a check finds, and all that it says.
        pub(crate) fn examined(&self, id: &str) -> (Verdict, String) {
            let check = checks().find(|check| check.id == id).unwrap();
            let outcomes = (check.run)(&self.patient);
            let worst = outcomes.iter().map(|outcome| outcome.verdict).max().unwrap();
            for outcome in &outcomes {
                let to_do = outcome.verdict >= Verdict::Unknown;
                assert_eq!(to_do, !outcome.remedy.is_empty(), "{id}: {outcome:?}");
            }
            (worst, outcomes.iter().map(|outcome| outcome.found.as_str()).collect::<Vec<_>>().join("\n"))
        }
    }

    #[test]
    fn checks_have_names_in_groups_that_stand_once() {
        let mut seen = std::collections::BTreeSet::new();
        for check in checks() {
            assert!(seen.insert(check.id), "{}", check.id);
            assert_eq!(check.id.split('.').count(), 2, "{}", check.id);
            let file = check.docs.split('#').next().unwrap();
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file}");
            assert!(!check.title.ends_with('.'), "{}", check.title);
        }
        assert!(seen.len() >= 20);
    }

    #[test]
    fn a_check_that_hangs_is_one_finding_that_is_unknown() {
        fn hangs(_: &Patient) -> Vec<Outcome> {
            loop {
                std::thread::park();
            }
        }
        static CHECK: Check = Check { id: "host.hangs", title: "x", docs: "docs/", run: hangs };
        let patient = Arc::new(Planted::new().patient);

        let found = findings(&CHECK, &patient);

        assert_eq!(found.len(), 1);
        assert_eq!(found[0].status, Verdict::Unknown);
    }

    #[test]
    fn a_name_that_no_check_has_is_wrong_usage() {
        assert_eq!(wanted(&["host.disc".to_owned()]).unwrap_err().exit, Exit::Usage);
        assert!(wanted(&["host".to_owned()]).unwrap().len() > 5);
        assert_eq!(wanted(&["host.disk".to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_finding() {
        assert_eq!(exit_of(Verdict::Info) as u8, 0);
        assert_eq!(exit_of(Verdict::Unknown) as u8, 1);
        assert_eq!(exit_of(Verdict::Warn) as u8, 1);
        assert_eq!(exit_of(Verdict::Fail) as u8, 2);
    }

    #[test]
    fn a_remedy_goes_on_below_itself_in_any_language() {
        let found = || "fswatch läuft, ohne dass ein Pfad überwacht wird".to_owned();
        let remedy = "trage Pfade oder ein Profil in /etc/vigie/modules.d/fswatch.cfg ein: größere Übersicht"
            .to_owned();
        let finding = Finding {
            id: "x.y",
            title: "x",
            status: Verdict::Warn,
            found: found(),
            remedy,
            docs: "docs/fswatch.md",
        };

        assert_eq!(
            render(&finding, Paint::new(false), Some(64)),
            "warn    x.y                         fswatch läuft, ohne dass ein\n\
             \x20                                   Pfad überwacht wird\n\
             \x20         trage Pfade oder ein Profil in\n\
             \x20         /etc/vigie/modules.d/fswatch.cfg ein: größere\n\
             \x20         Übersicht (docs/fswatch.md)"
        );
    }

    #[test]
    fn findings_have_the_form_that_their_schema_says() {
        let schema = serde_json::from_str(include_str!("../docs/doctor.schema.json")).unwrap();
        let patient = Arc::new(Planted::new().patient);

        for finding in checks().flat_map(|check| findings(check, &patient)) {
            let value = serde_json::to_value(&finding).unwrap();
            assert_eq!(vigie_schema::problems(&schema, "", &value), [""; 0]);
        }
    }
}
