//! The `beaverdam` command line, as functions, so that other programs can
//! start exactly the agent that `beaverdam node` starts.
//!
//! Every flag of a node has an environment variable, because a container must
//! be able to run it. Secrets never stand in arguments: keys are files or come
//! from the environment, passphrases from the environment or a terminal. Bad
//! input is one line on stderr and exit code 2, and nothing is revealed.

mod error;
mod gpu;
mod job;
mod keys;
mod moving;
mod node;
mod plan;
mod progress;
pub mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::CliError;
pub use gpu::BackendArgs;
pub use keys::KeyArgs;
pub use node::{NodeArgs, run_node};
pub use plan::{ComparisonsArg, OpeningsArg, PlanningArgs, RosterArgs, SchemeArg};
pub use progress::Bar;

use crate::entropy::Entropy;

/// Secure multi-party computation on tensors: nodes compute on secret shares,
/// results open only for the owner's key.
#[derive(Parser, Debug)]
#[command(name = "beaverdam", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Keygen(keys::Keygen),
    Key(keys::Key),
    Node(NodeArgs),
    Gpu(gpu::Gpu),
    Plan(plan::Plan),
    Submit(job::Submit),
    Resume(job::Resume),
    Fetch(job::Fetch),
    Verify(job::Verify),
    Cancel(job::Cancel),
    Move(moving::Move),
    Jobs(job::Jobs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    exit(parse::<Cli>(std::env::args_os()).and_then(|cli| match cli {
        Some(Cli { command }) => match command {
            Command::Keygen(args) => args.run(),
            Command::Key(args) => args.run(),
            Command::Node(args) => run_node(&args, Entropy::system(), std::future::pending()),
            Command::Gpu(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Submit(args) => args.run(),
            Command::Resume(args) => args.run(),
            Command::Fetch(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Cancel(args) => args.run(),
            Command::Move(args) => args.run(),
            Command::Jobs(args) => args.run(),
        },
        None => Ok(()),
    }))
}

/// Reads arguments, the first being the program's name; `None` if they asked
/// for help or the version, which is printed here. A fault is one line.
pub fn parse<P: Parser>(
    args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<Option<P>, CliError> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match P::try_parse_from(args) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(e) if e.kind() == DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(CliError::Usage("no command was given; --help tells which there are".to_owned()))
        }
        Err(e) if matches!(e.kind(), DisplayHelp | DisplayVersion) => {
            // A closed pipe is no reason to fail.
            let _ = e.print();
            Ok(None)
        }
        Err(e) => {
            let text = e.render().to_string();
            // Up to the usage, on one line: what was found and what is known.
            let lines = text.lines().take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"));
            let line = lines.map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
            let line = line.trim_start_matches("error: ").replace(" tip:", "; tip:");
            Err(CliError::Usage(format!("{line}; --help tells more")))
        }
    }
}

/// Prints an error on one line. All faults exit with 2.
pub fn exit(result: Result<(), impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("error: {line}");
            ExitCode::from(2)
        }
    }
}
