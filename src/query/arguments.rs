//! The arguments of `vigie query`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::suggestion;

use crate::accounts_flags::AccountsFlags;
use crate::durations;
use crate::events_flags::EventsFlags;
use crate::fleet::options::AskOptions;
use crate::inventory_flags::{PackagesFlags, ProcessesFlags};
use crate::persistence_flags::PersistenceFlags;
use crate::progress::ProgressWhen;
use crate::query_flags::{FileFlags, FswatchFlags, NetstatFlags, TimedriftFlags};

/// A command line that is a query and nothing else, as the console makes it.
#[derive(Debug, Parser)]
#[command(name = "vigie")]
pub(crate) struct QueryLine {
    #[command(subcommand)]
    command: OnlyQuery,
}

#[derive(Debug, Subcommand)]
enum OnlyQuery {
    Query(Box<QueryArgs>),
}

impl QueryLine {
    /// Whom the query is for.
    pub(crate) fn target(self) -> Option<QueryTarget> {
        let OnlyQuery::Query(args) = self.command;
        args.target
    }
}

/// `query`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct QueryArgs {
    /// Run all operations of this action file (MIG's format) concurrently
    #[arg(long, short = 'i', value_name = "FILE")]
    pub(crate) action: Option<PathBuf>,

    #[command(flatten, next_help_heading = "With --action")]
    pub(crate) answer: AnswerOptions,

    /// When to show progress on standard error; auto means on a terminal and without --json
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) progress: ProgressWhen,

    #[command(flatten)]
    pub(crate) fleet: AskOptions,

    /// The module
    #[command(subcommand)]
    pub(crate) target: Option<QueryTarget>,
}

/// Whom a query is for.
#[derive(Debug, Subcommand)]
#[command(subcommand_value_name = "MODULE", subcommand_help_heading = "Built-in modules")]
#[expect(clippy::large_enum_variant, reason = "one is made for each command line")]
pub(crate) enum QueryTarget {
    /// List accounts, groups, sudo rules, SSH keys and logins
    #[command(after_help = "\
Examples:
  vigie query accounts
  vigie query accounts --privileged        accounts that are root or can become root
  vigie query accounts --what sudo --user '^ann$'
  vigie query accounts --what keys --what sessions
  vigie query accounts --what failures --newest 20")]
    Accounts {
        #[command(flatten)]
        flags: AccountsFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Search recorded executions, logins and connections
    #[command(after_help = "\
Examples:
  vigie query events                       state: source, losses, history
  vigie query events --ran '/tmp/*' --since 30d
  vigie query events --tree 4711@2026-01-31T12:00:00Z
  vigie query events --alert 42            the processes behind that alert
  vigie query events --by alice --kind exec
  vigie query events --connected 203.0.113.0/24
  vigie query events --rules")]
    Events {
        #[command(flatten)]
        flags: EventsFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// List everything that starts automatically, and its origin
    #[command(after_help = "\
Examples:
  vigie query persistence --local          entries that no package or system tool accounts for
  vigie query persistence --kind cron --kind systemd
  vigie query persistence --attack T1543 --user www-data
  vigie query persistence --local --deep --timeout 10m
  vigie query persistence --local --root /mnt/image")]
    Persistence {
        #[command(flatten)]
        flags: PersistenceFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Show what is watched, what changed and which process changed it
    #[command(after_help = "\
Examples:
  vigie query fswatch                      state
  vigie query fswatch --explain /etc/shadow
  vigie query fswatch --changes /etc --since 2h
  vigie query fswatch --history /usr/bin/sudo
  vigie query fswatch --accept /etc/hosts  approve its changes
  vigie query fswatch --rescan --prove     read every file now")]
    Fswatch {
        #[command(flatten)]
        flags: FswatchFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Search sockets, neighbours and local addresses
    #[command(after_help = "\
Examples:
  vigie query netstat --connected-ip 10.0.0.0/8 --listening-port 22 --namespaces
  vigie query netstat --listening-port 443 --processes")]
    Netstat {
        #[command(flatten)]
        flags: NetstatFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Find packages by name, version and file, and verify their files
    #[command(after_help = "\
Examples:
  vigie query packages --name '^openssl' --version '<3.0.15'
  vigie query packages --file /usr/bin/sudo
  vigie query packages --verify            exit code 1 if a file differs from its package
  vigie query packages --verify --full --name '^(sudo|openssh)'")]
    Packages {
        #[command(flatten)]
        flags: PackagesFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Search processes by attributes, open files and ports
    #[command(after_help = "\
Examples:
  vigie query processes --exe deleted --exe memfd
  vigie query processes --name '^nginx$' --ports --files
  vigie query processes --user www-data --age '<1h' --tree
  vigie query processes --port 4444 --hashes")]
    Processes {
        #[command(flatten)]
        flags: ProcessesFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Compare the clock with the host's time servers
    #[command(after_help = "\
Examples:
  vigie query timedrift
  vigie query timedrift --drift 5s         query all time servers of the host and compare them
  vigie query timedrift --drift 5s --first  trust the first answer, as MIG does")]
    Timedrift {
        #[command(flatten)]
        flags: TimedriftFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Search files by name, size, mode, time, content and digest
    #[command(after_help = "\
Examples:
  vigie query file --path /etc --name '^passwd$' --returnsha256
  vigie query file --path /usr --mode '^u' --matchall      setuid programs
  vigie query file --path /var/www --content 'eval\\(base64' --size '<1m' --matchall")]
    File {
        #[command(flatten)]
        flags: FileFlags,
        #[command(flatten)]
        options: QueryOptions,
    },

    /// Any other module; its name alone is enough, see [`with_target`]
    #[command(hide = true, override_usage = "vigie query [OPTIONS] <MODULE>")]
    Other {
        /// The module
        #[arg(value_name = "MODULE")]
        module: ModuleName,
        #[command(flatten)]
        options: QueryOptions,
    },
}

/// What every query takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct QueryOptions {
    /// A parameter: KEY=TEXT, or KEY:=JSON for other types; a repeated key becomes a list
    #[arg(long = "param", short = 'p', value_name = "KEY=VALUE")]
    pub(crate) parameters: Vec<String>,

    /// All parameters as one JSON object
    #[arg(long, value_name = "JSON", conflicts_with = "parameters")]
    pub(crate) json_params: Option<String>,

    #[command(flatten)]
    pub(crate) answer: AnswerOptions,

    /// When to show the progress of a long search on standard error; auto means on a terminal and without
    /// --json
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) progress: ProgressWhen,

    #[command(flatten)]
    pub(crate) fleet: AskOptions,
}

/// How answers are waited for and printed, of one query or of all in an action file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AnswerOptions {
    /// Longest time to wait for a result, such as 10s; the agent's moduletimeout is the upper bound
    #[arg(long, value_name = "TIME", value_parser = durations::positive)]
    pub(crate) timeout: Option<Duration>,

    /// Exit with code 1 if nothing was found
    #[arg(long)]
    pub(crate) fail_if_none: bool,

    /// Print each result as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Print every table column and do not truncate values
    #[arg(long, conflicts_with = "json")]
    pub(crate) wide: bool,

    /// Print the matches as CSV with all columns
    #[arg(long, conflicts_with_all = ["json", "wide"])]
    pub(crate) csv: bool,
}

/// The modules with flags of their own.
const WITH_FLAGS: [&str; 9] =
    ["accounts", "events", "persistence", "fswatch", "netstat", "packages", "processes", "timedrift", "file"];

/// What is wrong with a command line that has the flags of a built-in module and a name that is almost its own.
pub(crate) fn misspelled(arguments: &[OsString]) -> Option<String> {
    let at = arguments.iter().position(|word| word == "query")?;
    let name = arguments.get(at + 1).filter(|word| *word == "other").and(arguments.get(at + 2))?;
    let name = name.to_str().filter(|name| !name.starts_with('-'))?;
    let closest = suggestion::closest(name, WITH_FLAGS)?;
    Some(format!(
        "{name:?} is not a built-in module; did you mean {closest:?}? External modules take --param and \
         --json-params"
    ))
}

/// Lets `query NAME` mean a module without flags of its own, and options stand before or after either.
pub(crate) fn with_target(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let at = after_options(&arguments, 1);
    if arguments.get(at).is_none_or(|word| word != "query") {
        return arguments;
    }
    let name = after_options(&arguments, at + 1);
    let is_action = |word: &OsString| {
        let word = word.as_encoded_bytes();
        word.starts_with(b"-i") || word == b"--action" || word.starts_with(b"--action=")
    };
    let is_one_of = |word: Option<&OsString>, names: &[&str]| {
        word.is_some_and(|word| names.iter().any(|name| word == name))
    };
    if arguments[at + 1..name].iter().any(is_action) {
        return arguments;
    }
    if is_one_of(arguments.get(name), &WITH_FLAGS) {
        // Its options may stand before it as well.
        arguments[at + 1..=name].rotate_right(1);
    } else if arguments.len() > at + 1
        && !is_one_of(arguments.get(at + 1), &["other", "help", "--help", "-h"])
    {
        arguments.insert(at + 1, "other".into());
    }
    arguments
}

/// Options for all commands and for all queries that have a value.
pub(crate) const WITH_VALUE: [&str; 23] = [
    "--socket",
    "--run-dir",
    "--color",
    "--action",
    "-i",
    "--timeout",
    "--param",
    "-p",
    "--json-params",
    "--progress",
    "--target",
    "-t",
    "--fleet",
    "--wait",
    "--found-in",
    "--limit",
    "--batch",
    "--pause",
    "--show",
    "--every",
    "--expires",
    "--key",
    "--purpose",
];

/// Position of the first word from `at` on that is neither an option nor its value.
fn after_options(arguments: &[OsString], mut at: usize) -> usize {
    while let Some(word) = arguments.get(at).filter(|word| word.as_encoded_bytes().starts_with(b"-")) {
        at += if WITH_VALUE.iter().any(|option| word == option) { 2 } else { 1 };
    }
    at.min(arguments.len())
}
