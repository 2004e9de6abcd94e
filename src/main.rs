//! The `vigie` binary: reads the command line and hands over.

mod accounts_flags;
mod action;
mod agent;
mod alerts;
mod check_config;
mod cli;
mod client;
mod config_view;
mod console;
mod diagnostics;
mod doctor;
mod durations;
mod events_alert;
mod events_flags;
mod exit;
mod explain;
mod fleet;
mod fswatch_view;
mod generate;
mod guard;
mod interrupts;
mod inventory_flags;
mod launch;
mod manual;
mod metrics;
mod module_commands;
mod module_new;
mod module_test;
mod modules;
mod notify;
mod paths;
mod persistence_flags;
mod print;
mod progress;
mod query;
mod query_flags;
mod reload;
mod report;
mod rules;
mod sink;
mod status;
mod table;
mod top;
mod writers;

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::module_commands::ModuleCommand;
use crate::print::Printer;
use crate::sink::SinkCommand;

fn main() -> ExitCode {
    // A signal that comes before the agent handles it waits instead of ending it. The loader of the program runs before
    // this line; only who starts the agent with these signals blocked closes that moment as well.
    if std::env::args_os().any(|word| word == "agent") {
        agent::hold_signals();
    }
    // A process that is small stays small without the tree of all commands.
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    if command == vigie_log::writer::COMMAND {
        return writers::write_log(&arguments.collect::<Vec<_>>());
    }
    if command == vigie_files::remote::COMMAND {
        return writers::write_files(&arguments.collect::<Vec<_>>());
    }
    if command == vigie_actors::sinks::WRITER_COMMAND {
        return writers::write_sink(&arguments.collect::<Vec<_>>());
    }
    if command == vigie_actors::metrics_server::WRITER_COMMAND {
        return writers::write_metrics(&arguments.collect::<Vec<_>>());
    }
    // A module as the agent starts it.
    if command == "module"
        && let [does, name] = &arguments.collect::<Vec<_>>()[..]
        && let Some(name) = name.to_str().filter(|name| !name.starts_with('-'))
    {
        match does.to_str() {
            Some("persist") => return modules::persist(name),
            Some("run") => return modules::run(name),
            _ => {}
        }
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let lives_long = match &cli.command {
        Some(Command::Guard(_) | Command::Launch(_) | Command::Module(ModuleCommand::Persist { .. })) => true,
        _ => cli.persist.is_some(),
    };
    if lives_long {
        // What the tree of commands took.
        vigie_memory::give_back_heap();
        vigie_memory::give_back_code();
    }
    if let Some(name) = &cli.persist {
        return modules::persist(name);
    }
    if let Some(name) = &cli.standard {
        return modules::run(name);
    }
    match &cli.command {
        Some(Command::Agent(args)) => agent::run(args, cli.run_dir.clone()),
        Some(Command::Launch(options)) => launch::run(options),
        Some(Command::Guard(options)) => guard::run(options),
        Some(Command::Module(ModuleCommand::Persist { name })) => modules::persist(name),
        Some(Command::Module(ModuleCommand::Run { name })) => modules::run(name),
        Some(command) => match tool(&cli, command) {
            Ok(exit) => exit.into(),
            Err(failure) => {
                if asks_for_json() {
                    print::failure_json(&failure);
                } else {
                    print::failure(&failure);
                }
                failure.exit.into()
            }
        },
        None => Exit::Usage.into(),
    }
}

/// Carries out one of the operator's commands.
fn tool(cli: &Cli, command: &Command) -> Result<Exit, Failure> {
    let socket = paths::socket(cli.socket.as_deref(), cli.run_dir.as_deref());
    let printer = |json: bool| Printer::stdout(cli.color, json, cli.human);
    match command {
        Command::CheckConfig(args) => {
            // Problems have their own line form for editors; JSON only when asked for.
            let mut printer = Printer::stdout(cli.color, args.json, !args.json);
            check_config::run(args, agent::load_config, &mut printer)
        }
        Command::Status(args) => status::run(args, &socket, &mut printer(args.json)),
        Command::Config(command) => {
            let named = cli.socket.is_some() || cli.run_dir.is_some();
            let (agent, run_dir) = (named.then_some(&*socket), cli.run_dir.as_deref());
            config_view::run(command, agent, run_dir, |json| Printer::stdout(cli.color, json, !json))
        }
        Command::Diagnostics(args) => diagnostics::run(args, &socket, &mut printer(args.json)),
        Command::Doctor(args) => doctor::run(args, &socket, &mut printer(args.json)),
        Command::Metrics(args) => metrics::run(args, &socket, &mut printer(false)),
        Command::Query(args) => query::run(args, &socket, printer),
        Command::Console => {
            let json = printer(false).is_json();
            console::run(&socket, json, |json| Printer::stdout(cli.color, json, !json))
        }
        Command::Alerts(args) => match &args.target {
            Some(target) => fleet::alerts::run(args, target, &mut printer(args.json)),
            None => alerts::run(args, &socket, &mut printer(args.json || args.raw)),
        },
        Command::Module(ModuleCommand::List { json }) => status::list(&socket, &mut printer(*json)),
        Command::Module(ModuleCommand::Restart { name, json }) => {
            module_commands::restart(name, &socket, &mut printer(*json))
        }
        Command::Module(ModuleCommand::Logs { name, follow, json }) => {
            module_commands::logs(name, *follow, &socket, &mut printer(*json))
        }
        Command::Module(ModuleCommand::New(args)) => module_new::run(args, &mut printer(false)),
        Command::Module(ModuleCommand::Test(args)) => module_test::run(args, &mut printer(args.program.json)),
        Command::Module(ModuleCommand::Tap(args)) => {
            module_commands::tap(args, &socket, &mut printer(args.json))
        }
        Command::Module(ModuleCommand::Replay(args)) => {
            module_test::replay::run(args, &mut printer(args.program.json))
        }
        Command::Sink(SinkCommand::List { json }) => sink::list(&socket, &mut printer(*json)),
        Command::Sink(SinkCommand::Test { name, json }) => sink::test(name, &socket, &mut printer(*json)),
        Command::Fleet(args) => fleet::run(args, &mut printer(args.json)),
        Command::Reload(args) => reload::run(args, &socket, &mut printer(args.json)),
        Command::Rules(command) => rules::run(command, &mut printer(false)),
        Command::Top(args) => top::run(args, &socket, &printer(false)),
        Command::Explain(args) => explain::run(args, &mut printer(args.json)),
        Command::Completions { shell } => generate::completions(&Cli::command(), *shell, &mut printer(false)),
        Command::Man { out } => manual::run(Cli::command(), out.as_deref(), &mut printer(false)),
        Command::Agent(_)
        | Command::Launch(_)
        | Command::Guard(_)
        | Command::Module(ModuleCommand::Persist { .. } | ModuleCommand::Run { .. }) => {
            Err(Failure::new(Exit::Internal, "this command is internal", ""))
        }
    }
}

/// Whether a program reads what went wrong: `--json` stands among the options, before the words of somebody else's
/// program.
fn asks_for_json() -> bool {
    std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json")
}

/// Shows help on standard output, and what is wrong with a command line on standard error.
fn usage(error: &clap::Error) -> ExitCode {
    // Whoever closed the output has all it wanted.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok.into(),
        _ => Exit::Usage.into(),
    }
}
