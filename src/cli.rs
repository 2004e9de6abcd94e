//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

use crate::print::ColorWhen;
use crate::query::arguments::{misspelled, with_target};

/// What `--version` says; an installed program also names its commit.
const VERSION: &str = match option_env!("VIGIE_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Heading of the options that every command takes: in a command's help they stand after its own.
const GLOBAL_OPTIONS: &str = "Global options";

/// Fleet security agent: supervised modules that watch this host.
#[derive(Debug, Parser)]
#[command(
    name = "vigie",
    version = VERSION,
    after_help = "\
Examples:
  vigie agent                              run the agent in the foreground
  vigie status                             health of the agent and its modules
  vigie query fswatch                      query a module
  vigie alerts -f                          follow the alerts

Output is a table on a terminal and JSON otherwise. Exit codes: 0 success, 64 usage error,
69 agent or module not reachable, 70 bug, 74 input or output failed, 77 not permitted,
78 invalid configuration."
)]
pub(crate) struct Cli {
    /// Path of the agent's control socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "run_dir", help_heading = GLOBAL_OPTIONS)]
    pub(crate) socket: Option<PathBuf>,

    /// The agent's run directory, which contains its control socket [default: /run/vigie; for users other
    /// than root $XDG_RUNTIME_DIR/vigie]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        value_parser = OsStringValueParser::new().try_map(std::path::absolute),
        help_heading = GLOBAL_OPTIONS
    )]
    pub(crate) run_dir: Option<PathBuf>,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = GLOBAL_OPTIONS)]
    pub(crate) color: ColorWhen,

    /// Print human-readable output even when standard output is not a terminal
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS)]
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
  vigie agent                              use /etc/vigie/vigie.toml, or the defaults if it does not exist
  vigie agent --config ./vigie.toml

SIGHUP reloads the configuration; SIGTERM stops the modules and the agent.
Exit codes: 0 stopped, 75 another agent uses the same directory, 78 invalid configuration.")]
    Agent(crate::agent::AgentArgs),

    /// Check a configuration and the modules' files without starting anything
    #[command(after_help = "\
Examples:
  vigie check-config                       check the file that the agent would read
  vigie check-config ./vigie.toml

Each problem is printed as FILE:LINE: KEY: DESCRIPTION. Exit codes: 0 valid, 78 invalid.")]
    CheckConfig(crate::check_config::CheckConfigArgs),

    /// Show the health of the agent and its modules
    #[command(after_help = "\
Examples:
  vigie status
  vigie status --watch                     refresh every two seconds, even while the agent restarts
  vigie status --json | jq .health

Exit codes: 0 healthy, 1 degraded or failed, 3 no agent is running.")]
    Status(crate::status::StatusArgs),

    /// Monitor the agent, its modules, sinks and alerts full-screen
    #[command(after_help = "\
Examples:
  vigie top
  vigie top --interval 500ms

Keys: q quit, arrows select, Tab next pane, Enter open a module, sink, condition or alert, Esc back;
l, t and c show a module's log, messages and conditions. Only root and the agent's user see the messages
between a module and the agent. Without a terminal the exit code is 64; scripts use `vigie status --json`.")]
    Top(crate::top::TopArgs),

    /// Show the configuration or its schema
    #[command(subcommand)]
    Config(crate::config_view::ConfigCommand),

    /// Collect troubleshooting data in one archive, with sensitive values removed
    #[command(after_help = "\
Examples:
  vigie diagnostics
  vigie diagnostics --include details --include log --out /tmp/vigie.tar.gz

By default the archive contains only numbers, booleans and catalogue names. MANIFEST.json lists its contents and how
many values were hidden. Review the archive before you share it.")]
    Diagnostics(crate::diagnostics::DiagnosticsArgs),

    /// Check this host for problems that affect the agent, and suggest remedies
    #[command(after_help = "\
Examples:
  vigie doctor
  vigie doctor --only fleet --only host.disk
  vigie doctor --json | jq -r 'select(.status == \"fail\").remedy'

It also works without a running agent. Exit codes: 0 no problem found, 1 warnings or checks without a
result, 2 at least one check failed.")]
    Doctor(crate::doctor::DoctorArgs),

    /// Print the agent's health as Prometheus metrics
    #[command(after_help = "\
Examples:
  vigie metrics
  vigie metrics --openmetrics
  vigie metrics --out /var/lib/prometheus/node-exporter/vigie.prom
  curl --unix-socket /run/vigie/metrics.sock http://localhost/metrics

The agent can also serve the metrics and write the file itself: see [metrics] in its configuration.")]
    Metrics(crate::metrics::MetricsArgs),

    /// Query a module
    #[command(after_help = "\
Examples:
  vigie query fswatch
  vigie query examplepersist --param string=hello
  vigie query netstat --connected-ip 10.0.0.0/8 --listening-port 22 --namespaces
  vigie query netstat --json-params '{\"connectedip\": [\"10.0.0.0/8\"]}' --timeout 10s --json
  vigie query -i action.json               run every operation of a file

External modules take their parameters with --param and --json-params. An action file contains
{\"name\": TEXT, \"operations\": [{\"module\": NAME, \"parameters\": {…}}, …]}.

Exit codes:
  0   success
  1   the module reported a failure, or found nothing with --fail-if-none
  2   nothing was found, but not everything could be examined
  64  usage error, such as an unknown module, a rejected parameter or an invalid action file
  69  the agent or the module cannot be reached
  77  this user may not query the agent
With an action file: 0 every operation succeeded, 1 an operation failed or could not be run, 2 the result of
an operation is incomplete. With --target: 3 some agents have not answered, 4 some failed or refused.")]
    Query(Box<crate::query::arguments::QueryArgs>),

    /// Build queries step by step, with completion and history
    #[command(after_help = "\
Examples:
  vigie console
  printf 'module netstat\\nset listening-port 22\\nshow\\nrun\\n' | vigie console

Commands: module NAME, set FLAG [VALUE…], unset FLAG, show, run, json on|off, help, quit. Flags and
values are those of `vigie query MODULE`. The history is kept in $XDG_STATE_HOME/vigie/console_history;
lines that begin with a space are not recorded. Without a terminal, commands are read from standard
input, and the exit code is 1 if any of them failed.")]
    Console,

    /// Show recorded alerts, oldest first
    #[command(after_help = "\
Examples:
  vigie alerts -n 20
  vigie alerts -f                          the newest ten, then new ones, even while the agent restarts
  vigie alerts --since 1h --module fswatch --severity high
  vigie alerts --since 2026-11-23T00:00:00Z --json
  vigie alerts --verify                    verify that nothing was changed or erased

Gaps are shown with the number of missing alerts and the reason. Exit codes: 0 complete, or trimmed by
retention; 1 alerts are missing, or the journal is damaged or was altered.")]
    Alerts(crate::alerts::AlertsArgs),

    /// List, restart, trace, create and test modules
    #[command(subcommand)]
    Module(crate::module_commands::ModuleCommand),

    /// List and test sinks, the receivers of alerts
    #[command(subcommand)]
    Sink(crate::sink::SinkCommand),

    /// Set up and run a fleet: hosts, policy, signed actions
    Fleet(Box<crate::fleet::cli::FleetArgs>),

    /// Make the agent reload its configuration
    #[command(after_help = "\
Examples:
  vigie reload --dry-run                   show what would change
  vigie reload

An invalid configuration changes nothing. Every module confirms or rejects the new one. Exit codes:
0 in force everywhere, 1 a module rejected it or did not answer, 78 invalid.")]
    Reload(crate::reload::ReloadArgs),

    /// Convert rules of other tools for events and fswatch
    #[command(subcommand)]
    Rules(crate::rules::RulesCommand),

    /// Explain a condition or reason that status, log or a result names
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
        /// Write one page per command to this directory
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
        let arguments = with_target(arguments.into_iter().collect());
        let cli = Self::try_parse_from(&arguments).map_err(|error| match misspelled(&arguments) {
            Some(message) => Self::command().error(ErrorKind::UnknownArgument, message),
            None => error,
        })?;
        let module = cli.persist.is_some() || cli.standard.is_some();
        match &cli.command {
            Some(Command::Query(args)) if args.action.is_none() && args.target.is_none() => {
                Err(Self::command().error(
                    ErrorKind::MissingSubcommand,
                    "give a module (vigie query MODULE) or an action file (vigie query -i FILE); see vigie query --help",
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
    fn help_shows_the_options_of_all_commands_after_a_command_s_own() {
        fn check(command: &clap::Command) {
            let help = command.clone().render_help().to_string();
            let global = format!("\n{GLOBAL_OPTIONS}:\n");
            let (own, rest) = help.split_once(&global).unwrap_or_else(|| panic!("{help}"));
            for option in ["--socket", "--run-dir", "--color", "--human"] {
                let is_listed = |part: &str| {
                    part.lines().any(|line| line.trim_start().split(' ').any(|word| word == option))
                };
                assert!(!is_listed(own) && is_listed(rest), "{}: {option}\n{help}", command.get_name());
            }
            let below = command.get_subcommands().filter(|below| below.get_name() != "help");
            below.filter(|below| !below.is_hide_set()).for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        command
            .get_subcommands()
            .filter(|below| below.get_name() != "help" && !below.is_hide_set())
            .for_each(check);
    }

    #[test]
    fn options_for_all_commands_stand_before_or_after_the_command() {
        for arguments in [["--run-dir", "/x", "status"], ["status", "--run-dir", "/x"]] {
            assert_eq!(read(&arguments).unwrap().run_dir, Some(PathBuf::from("/x")));
        }
        let relative = read(&["status", "--run-dir", "x"]).unwrap().run_dir;
        assert_eq!(relative, Some(std::env::current_dir().unwrap().join("x")));
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
    fn options_of_a_query_may_stand_before_a_module_with_flags_of_its_own() {
        let words = ["--run-dir", "/r", "query", "--json", "--timeout", "5s", "file", "--path", "/etc"];
        let cli = read(&words).unwrap();

        let Some(Command::Query(args)) = cli.command else { panic!("no query") };
        let Some(QueryTarget::File { options, .. }) = args.target else { panic!("not the module file") };
        assert_eq!((options.answer.json, options.answer.timeout), (true, Some(Duration::from_secs(5))));
    }

    #[test]
    fn every_option_with_a_value_that_may_stand_before_a_module_is_known() {
        let cli = Cli::command();
        let query = cli.find_subcommand("query").unwrap();
        let other = query.find_subcommand("other").unwrap();
        let global = cli.get_opts().filter(|option| option.is_global_set());
        let mut there: Vec<String> = global
            .chain(query.get_opts())
            .chain(other.get_opts())
            .filter(|option| option.get_action().takes_values())
            .flat_map(|option| {
                let long = option.get_long().map(|name| format!("--{name}"));
                long.into_iter().chain(option.get_short().map(|name| format!("-{name}")))
            })
            .collect();
        there.sort();
        there.dedup();

        let mut known = crate::query::arguments::WITH_VALUE;
        known.sort_unstable();
        assert_eq!(known.as_slice(), there);
    }

    #[test]
    fn a_misspelled_module_with_flags_is_told_which_one_was_meant() {
        let error = read(&["query", "netsat", "--listening-port", "22"]).unwrap_err().to_string();
        assert!(error.contains("did you mean \"netstat\"?"), "{error}");

        let error = read(&["query", "scanner", "--depth", "3"]).unwrap_err().to_string();
        assert!(error.contains("unexpected argument '--depth'"), "{error}");
        assert!(error.contains("Usage: vigie query [OPTIONS] <MODULE>"), "{error}");
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
