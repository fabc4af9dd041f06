//! What goes wrong at the command line: each one line, with what to do.

use crate::backend::BackendError;
use crate::cli::table::TableError;
use crate::job::RosterFileError;
use crate::keys::KeyError;
use crate::node::NodeError;
use crate::owner::{ClientError, OwnerError};
use crate::program::{PlanError, ProgramError, Seen};
use crate::roster::RosterError;
use crate::store::StoreError;

/// Why a command failed. The process prints it on one line and exits with 2.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments.
    #[error("{0}")]
    Usage(String),
    /// A key or its file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A protected key and nobody to ask.
    #[error("{0} in BEAVERDAM_PASSPHRASE, or run this at a terminal")]
    Passphrase(KeyError),
    /// A new passphrase and nobody to ask.
    #[error("--passphrase needs a passphrase: set BEAVERDAM_PASSPHRASE or run this at a terminal")]
    NoPassphrase,
    /// Typed differently.
    #[error("the two passphrases differ: run this again")]
    PassphrasesDiffer,
    /// The terminal failed.
    #[error("cannot ask for a passphrase at this terminal ({0}): set BEAVERDAM_PASSPHRASE")]
    Terminal(std::io::Error),
    /// No key.
    #[error("no key was given: name its file with --key FILE or BEAVERDAM_KEY (`beaverdam keygen` makes one)")]
    NoKey,
    /// Two keys.
    #[error("both a key file and BEAVERDAM_KEY_SEED were given: give one of them")]
    TwoKeys,
    /// A seed in the environment that is none. Its content is not shown.
    #[error("BEAVERDAM_KEY_SEED has {found} characters, expected 64 lowercase hex digits")]
    Seed {
        /// its length
        found: usize,
    },
    /// The backend that was asked for.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// An impossible roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// SPDZ's threshold is not free.
    #[error("SPDZ with {nodes} nodes always stands {expected} corrupt ones, found --threshold {found}: leave it out")]
    SpdzThreshold {
        /// asked for
        found: u8,
        /// nodes
        nodes: u8,
        /// n − 1
        expected: u8,
    },
    /// A program or its inputs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// No plan for this roster.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A CSV.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The owner's part of a job.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A file.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// what was tried
        action: &'static str,
        /// the file
        path: String,
        /// why
        source: std::io::Error,
    },
    /// A file that would be overwritten.
    #[error("{path} exists already and is never overwritten: choose another path with {flag}, or move it away")]
    Exists {
        /// the file
        path: String,
        /// which flag chose it
        flag: &'static str,
    },
    /// A roster file.
    #[error("{path}: {source}")]
    RosterFile {
        /// the file
        path: String,
        /// why
        source: RosterFileError,
    },
    /// A name given twice.
    #[error("{flag} {name} was given twice: give it once")]
    Twice {
        /// which flag
        flag: &'static str,
        /// the name
        name: String,
    },
    /// An input without a file.
    #[error("input {name:?} ({signature}) was not given: add --input {name}=FILE.csv")]
    MissingInput {
        /// its name
        name: String,
        /// type and shape
        signature: String,
    },
    /// A name that the program does not have.
    #[error("the program has no {what} {name:?}, it has: {known}")]
    Unknown {
        /// input or reader
        what: &'static str,
        /// found
        name: String,
        /// what there is
        known: String,
    },
    /// A declared range does not hold on the data. The values stay here.
    #[error(
        "{:?} would reach {} to {} on this data, but the program declares {} to {}: scale the data, or declare a wider range (--no-dry-run submits all the same)",
        seen.name, seen.least, seen.greatest, seen.declared.start(), seen.declared.end()
    )]
    Declared {
        /// what the dry run saw
        seen: Seen,
    },
    /// The dry run cannot be done.
    #[error("no dry run in the clear was possible: {0} (--no-dry-run submits without it)")]
    DryRun(ProgramError),
    /// A ticket of another program.
    #[error("the ticket is for program {found}, expected {expected} ({path}): use the ticket of that program's job")]
    OtherProgram {
        /// digest in the ticket
        found: String,
        /// the program's file
        path: String,
        /// its digest
        expected: String,
    },
    /// The nodes.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The agent.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Its memory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its address.
    #[error("cannot listen on {address}: {source}: choose another address or port with --listen")]
    Listen {
        /// the address
        address: String,
        /// why
        source: std::io::Error,
    },
    /// What to log.
    #[error("--log {found:?} is no filter ({reason}): use error, warn, info or debug")]
    Log {
        /// found
        found: String,
        /// why
        reason: String,
    },
    /// The asynchronous runtime.
    #[error("this machine gives no threads or sockets to work with: {0}")]
    Runtime(std::io::Error),
}

impl CliError {
    /// An error on a file.
    pub(super) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { action, path, source }
    }
}
