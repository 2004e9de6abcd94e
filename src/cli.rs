//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

use crate::print::ColorWhen;
use crate::query::arguments::with_target;

/// What `--version` says; an installed program also names its commit.
const VERSION: &str = match option_env!("VIGIE_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Fleet security agent: supervised modules that watch this host.
#[derive(Debug, Parser)]
#[command(
    name = "vigie",
    version = VERSION,
    after_help = "\
Examples:
  vigie agent                              run the agent in the foreground
  vigie status                             how the agent and its modules are
  vigie query fswatch                      ask a module
  vigie alerts -f                          follow the alerts

Output is a table on a terminal and JSON otherwise. Exit codes: 0 done, 64 wrong usage,
69 agent or module not reachable, 70 bug, 77 not permitted, 78 invalid configuration."
)]
pub(crate) struct Cli {
    /// The agent's socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "run_dir")]
    pub(crate) socket: Option<PathBuf>,

    /// The agent's run directory, which holds its socket [default: /run/vigie, without root $XDG_RUNTIME_DIR/vigie]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,

    /// Print for people even when the output is not a terminal
    #[arg(long, global = true)]
    pub(crate) human: bool,

    /// Runs a persistent module, under the name that MIG gives this option.
    #[arg(short = 'P', value_name = "NAME", hide = true, conflicts_with = "standard")]
    pub(crate) persist: Option<String>,

    /// Runs a standard module, under the name that MIG gives this option.
    #[arg(short = 'm', value_name = "NAME", hide = true)]
    pub(crate) standard: Option<String>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent in the foreground
    #[command(after_help = "\
Examples:
  vigie agent                              with /etc/vigie/vigie.toml, or the defaults
  vigie agent --config ./vigie.toml

SIGHUP reads the configuration again, SIGTERM stops modules and agent.
Exit codes: 0 stopped, 75 another agent runs on the same directory, 78 invalid configuration.")]
    Agent(crate::agent::AgentArgs),

    /// Check a configuration and its modules' files; starts nothing
    #[command(after_help = "\
Examples:
  vigie check-config                       the file that the agent would read
  vigie check-config ./vigie.toml

Each problem is printed as FILE:LINE: KEY: WHAT IS WRONG. Exit codes: 0 valid, 78 invalid.")]
    CheckConfig(crate::check_config::CheckConfigArgs),

    /// Show how the agent and its modules are
    #[command(after_help = "\
Examples:
  vigie status
  vigie status --watch                     again every two seconds, over restarts of the agent
  vigie status --json | jq .health

Exit codes: 0 healthy, 1 degraded or failed, 3 no agent runs.")]
    Status(crate::status::StatusArgs),

    /// Watch the agent, its modules, sinks and alerts on the whole terminal
    #[command(after_help = "\
Examples:
  vigie top
  vigie top --interval 500ms

Keys: q quit, arrows choose, Tab next part, Enter look into a module, sink, condition or alert, Esc back;
l, t and c show a module's log, its messages and its conditions. What a module and the agent say to each
other is shown to root and the agent's user only. Without a terminal the exit code is 64; programs read
`vigie status --json`.")]
    Top(crate::top::TopArgs),

    /// Show the configuration, or what it may be
    #[command(subcommand)]
    Config(crate::config_view::ConfigCommand),

    /// Collect what helps to find a fault in one archive, without what must not be shown
    #[command(after_help = "\
Examples:
  vigie diagnostics
  vigie diagnostics --include details --include log --out /tmp/vigie.tar.gz

By default only numbers, switches and words of catalogues are shown; MANIFEST.json says what is in the archive and
how much is hidden. Read it before you give it away.")]
    Diagnostics(crate::diagnostics::DiagnosticsArgs),

    /// Look for what keeps an agent from doing its work here, and say what to do
    #[command(after_help = "\
Examples:
  vigie doctor
  vigie doctor --only fleet --only host.disk
  vigie doctor --json | jq -r 'select(.status == \"fail\").remedy'

It runs without an agent too. Exit codes: 0 nothing is wrong, 1 something is to be done or not known,
2 a promise is broken.")]
    Doctor(crate::doctor::DoctorArgs),

    /// Print how the agent is as metrics for Prometheus
    #[command(after_help = "\
Examples:
  vigie metrics
  vigie metrics --openmetrics
  vigie metrics --out /var/lib/prometheus/node-exporter/vigie.prom
  curl --unix-socket /run/vigie/metrics.sock http://localhost/metrics

The agent itself can serve them and write the file: [metrics] in its configuration.")]
    Metrics(crate::metrics::MetricsArgs),

    /// Ask a module
    #[command(after_help = "\
Examples:
  vigie query fswatch
  vigie query examplepersist --param string=hello
  vigie query netstat --connected-ip 10.0.0.0/8 --listening-port 22 --namespaces
  vigie query netstat --json-params '{\"connectedip\": [\"10.0.0.0/8\"]}' --timeout 10s --json
  vigie query -i action.json               every operation of a file

A module of your own takes its parameters with --param and --json-params. An action file holds
{\"name\": TEXT, \"operations\": [{\"module\": NAME, \"parameters\": {…}}, …]}.

Exit codes: 0 the module succeeded, 1 it answered that it did not, or found nothing with
--fail-if-none, 2 nothing was found, but not everything was examined: it is not known, 64 no such
module or a wrong action file, 69 the agent or the module cannot be reached, 77 this user may not
ask the agent. With an action file: 0 every operation succeeded, 1 one did not or could not be
asked, 2 one of them does not know. With --target: 3 some agents have not answered, 4 some failed
or refused.")]
    Query(Box<crate::query::arguments::QueryArgs>),

    /// Build queries step by step, with completion and history
    #[command(after_help = "\
Examples:
  vigie console
  printf 'module netstat\\nset listening-port 22\\nshow\\nrun\\n' | vigie console

Commands: module NAME, set FLAG [VALUE…], unset FLAG, show, run, json on|off, help, quit. Flags and
values are those of `vigie query MODULE`. The history is in $XDG_STATE_HOME/vigie/console_history;
a line that begins with a blank stays out of it. Without a terminal commands are read from standard
input, and the exit code is 1 when one of them failed.")]
    Console,

    /// Show recorded alerts, oldest first
    #[command(after_help = "\
Examples:
  vigie alerts -n 20
  vigie alerts -f                          the newest ten, then new ones, over restarts of the agent
  vigie alerts --since 1h --module fswatch --severity high
  vigie alerts --since 2026-11-23T00:00:00Z --json
  vigie alerts --verify                    prove that nothing was changed or erased

Where alerts are missing, a line says how many and why. Exit codes: 0 all is there, or was deleted to
make room; 1 alerts are missing, or the journal is not as it was written.")]
    Alerts(crate::alerts::AlertsArgs),

    /// Work with modules
    #[command(subcommand)]
    Module(crate::module_commands::ModuleCommand),

    /// Work with sinks: where alerts are sent to
    #[command(subcommand)]
    Sink(crate::sink::SinkCommand),

    /// Work with a fleet: set it up, let hosts in, sign what is asked
    Fleet(Box<crate::fleet::cli::FleetArgs>),

    /// Make the agent read its configuration again
    #[command(after_help = "\
Examples:
  vigie reload --dry-run                   say what would change
  vigie reload

An invalid configuration changes nothing. Every module says whether it took the new one. Exit codes:
0 in force everywhere, 1 a module refused it or did not answer, 78 invalid.")]
    Reload(crate::reload::ReloadArgs),

    /// Make rules of other tools into rules for events and fswatch
    #[command(subcommand)]
    Rules(crate::rules::RulesCommand),

    /// Explain a name from the status, the log or an answer
    #[command(after_help = "\
Examples:
  vigie explain                            list all names
  vigie explain journal-unwritable
  vigie explain 'signalled(9)'")]
    Explain(crate::explain::ExplainArgs),

    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  vigie completions bash > /etc/bash_completion.d/vigie
  vigie completions fish > ~/.config/fish/completions/vigie.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the manual page, or write all pages into a directory
    #[command(after_help = "\
Examples:
  vigie man | man -l -
  vigie man --out /usr/local/share/man/man8")]
    Man {
        /// Write one page for each command into this directory
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },

    /// Makes this process safe for a module and becomes it; the agent starts it.
    #[command(hide = true)]
    Launch(crate::launch::LaunchOptions),

    /// Ends what modules leave behind when the agent dies; the agent starts it.
    #[command(hide = true)]
    Guard(crate::guard::GuardOptions),
}

impl Cli {
    /// Reads the command line, including what the definitions above cannot say.
    pub(crate) fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(with_target(arguments.into_iter().collect()))?;
        let module = cli.persist.is_some() || cli.standard.is_some();
        match &cli.command {
            Some(Command::Query(args)) if args.action.is_none() && args.target.is_none() => {
                Err(Self::command().error(
                    ErrorKind::MissingSubcommand,
                    "name a module (vigie query MODULE) or an action file (vigie query -i FILE); see vigie query --help",
                ))
            }
            Some(_) if module => Err(Self::command()
                .error(ErrorKind::ArgumentConflict, "-P and -m cannot be used together with a command")),
            None if !module => {
                let help = Self::command().render_help();
                Err(Self::command()
                    .error(ErrorKind::MissingSubcommand, format!("a command is missing\n\n{help}")))
            }
            _ => Ok(cli),
        }
    }
}

#[cfg(test)]
mod examples;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::query::arguments::QueryTarget;

    fn read(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read(["vigie"].iter().chain(arguments).map(OsString::from))
    }

    #[test]
    fn no_module_can_have_the_name_of_a_command() {
        for command in Cli::command().get_subcommands() {
            assert!(
                vigie_config::files::RESERVED_NAMES.contains(&command.get_name()),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_for_all_commands_stand_before_or_after_the_command() {
        for arguments in [["--run-dir", "/x", "status"], ["status", "--run-dir", "/x"]] {
            assert_eq!(read(&arguments).unwrap().run_dir, Some(PathBuf::from("/x")));
        }
    }

    #[test]
    fn mig_s_options_run_modules_and_go_with_no_command() {
        assert_eq!(read(&["-P", "fswatch"]).unwrap().persist.as_deref(), Some("fswatch"));
        assert_eq!(read(&["-m", "netstat"]).unwrap().standard.as_deref(), Some("netstat"));
        assert!(read(&["-P", "fswatch", "status"]).is_err());
        assert!(read(&["-P", "fswatch", "-m", "fswatch"]).is_err());
        assert_eq!(read(&["-V"]).unwrap_err().kind(), ErrorKind::DisplayVersion);
        assert_eq!(read(&[]).unwrap_err().kind(), ErrorKind::MissingSubcommand);
    }

    #[test]
    fn a_module_s_name_is_checked_before_anybody_is_asked() {
        assert!(read(&["query", "../fswatch"]).is_err());
        assert!(read(&["query", "fswatch", "--timeout", "0s"]).is_err());
        assert!(read(&["query", "fswatch", "--timeout", "10 parsecs"]).is_err());
    }

    #[test]
    fn an_action_file_stands_in_place_of_a_module() {
        for arguments in [
            &["query", "-i", "a.json"][..],
            &["query", "-ia.json", "--run-dir", "/x"],
            &["query", "--timeout", "5s", "--action", "a.json", "--json"],
            &["--run-dir", "/x", "query", "--json", "--action=a.json"],
        ] {
            let Some(Command::Query(args)) = read(arguments).unwrap().command else { panic!("no query") };
            assert_eq!(args.action, Some(PathBuf::from("a.json")), "{arguments:?}");
            assert!(args.target.is_none());
        }
        for arguments in [
            &["query", "-i"][..],
            &["query", "-i", "a", "fswatch"],
            &["query", "mine", "-i", "a"],
            &["query"],
        ] {
            assert!(read(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn options_of_a_query_may_stand_before_a_module_without_flags_of_its_own() {
        let cli = read(&["query", "--timeout", "5s", "-p", "a=-i", "mine"]).unwrap();

        let Some(Command::Query(args)) = cli.command else { panic!("no query") };
        let Some(QueryTarget::Other { module, options }) = args.target else { panic!("not by name") };
        assert_eq!((module.as_str(), options.answer.timeout), ("mine", Some(Duration::from_secs(5))));
        assert_eq!(options.parameters, ["a=-i"]);
    }

    #[test]
    fn the_form_of_every_json_is_promised_or_said_to_be_none() {
        fn check(path: &str, command: &clap::Command, page: &str) {
            for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
                let path = format!("{path} {}", command.get_name());
                if path == "vigie fleet" {
                    // The page says of all that it does not name that it is for one version.
                    continue;
                }
                let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
                // All modules are asked by one command.
                let row = if path.starts_with("vigie query ") { "vigie query" } else { &path };
                assert!(!has_json || page.contains(&format!("| `{row}` |")), "{path} is not in docs/json.md");
                check(&path, command, page);
            }
        }
        check("vigie", &Cli::command(), include_str!("../docs/json.md"));
    }

    #[test]
    fn every_command_for_people_has_examples() {
        fn check(command: &clap::Command) {
            for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
                let group = command.has_subcommands();
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(group || help.starts_with("Examples:"), "{} has no examples", command.get_name());
                check(command);
            }
        }
        check(&Cli::command());
    }
}
