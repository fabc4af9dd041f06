//! `keygen` and `key`, and where every command takes its secret key from.

use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::CliError;
use crate::keys::{KeyError, SecretKey, unhex};

const PASSPHRASE: &str = "BEAVERDAM_PASSPHRASE";
const SEED: &str = "BEAVERDAM_KEY_SEED";

/// The secret key that a command acts with.
#[derive(Args, Clone, Debug)]
pub struct KeyArgs {
    /// Key file, as `beaverdam keygen` writes it. Containers without files can
    /// give the key in BEAVERDAM_KEY_SEED instead: 64 hex digits from which
    /// the whole key follows
    #[arg(long, value_name = "FILE", env = "BEAVERDAM_KEY")]
    key: Option<PathBuf>,
}

impl KeyArgs {
    /// Reads the key, asking for a passphrase only if the file has one.
    pub fn load(&self) -> Result<SecretKey, CliError> {
        let seed = std::env::var(SEED).ok().filter(|s| !s.is_empty()).map(Zeroizing::new);
        match (&self.key, seed) {
            (Some(path), None) => load(path),
            (None, Some(seed)) => match unhex(&seed).map(Zeroizing::new) {
                Some(seed) => Ok(SecretKey::from_seed(*seed)),
                None => Err(CliError::Seed { found: seed.len() }),
            },
            (None, None) => Err(CliError::NoKey),
            (Some(_), Some(_)) => Err(CliError::TwoKeys),
        }
    }
}

fn load(path: &Path) -> Result<SecretKey, CliError> {
    match SecretKey::load(path, None) {
        Err(needed @ KeyError::PassphraseNeeded { .. }) => match passphrase("Passphrase: ")? {
            Some(passphrase) => Ok(SecretKey::load(path, Some(&passphrase))?),
            None => Err(CliError::Passphrase(needed)),
        },
        other => Ok(other?),
    }
}

/// From the environment, or typed unseen at a terminal; `None` if there is neither.
fn passphrase(prompt: &str) -> Result<Option<Zeroizing<String>>, CliError> {
    if let Ok(passphrase) = std::env::var(PASSPHRASE) {
        return Ok(Some(Zeroizing::new(passphrase)));
    }
    let term = console::Term::stderr();
    if !term.is_term() || !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Ok(None);
    }
    let asked = term.write_str(prompt).and_then(|()| term.read_secure_line());
    Ok(Some(Zeroizing::new(asked.map_err(CliError::Terminal)?)))
}

/// Makes a key: a file of mode 0600 that is never overwritten. Whoever loses
/// it loses every result that was sealed to it; nobody can recover it.
#[derive(Args, Debug)]
pub(super) struct Keygen {
    /// Where to write the secret key; an existing file is never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Encrypt the file under a passphrase, from BEAVERDAM_PASSPHRASE or typed
    /// at the terminal
    #[arg(long)]
    passphrase: bool,
}

impl Keygen {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let passphrase = match self.passphrase {
            false => None,
            true => {
                let first = passphrase("New passphrase: ")?.ok_or(CliError::NoPassphrase)?;
                let again = passphrase("The same again: ")?.ok_or(CliError::NoPassphrase)?;
                if *first != *again {
                    return Err(CliError::PassphrasesDiffer);
                }
                Some(first)
            }
        };
        let key = SecretKey::generate()?;
        key.save(&self.out, passphrase.as_ref().map(|p| p.as_str()))?;
        println!("{}", key.public());
        eprintln!(
            "wrote the secret key to {}: keep an offline copy, a lost key cannot be replaced",
            self.out.display()
        );
        Ok(())
    }
}

/// Prints the public key of a key file: what others put into roster files,
/// `--allow-owner` and `--reader`.
#[derive(Args, Debug)]
pub(super) struct Key {
    /// The key file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Key {
    pub(super) fn run(&self) -> Result<(), CliError> {
        println!("{}", load(&self.file)?.public());
        Ok(())
    }
}
